import os
import signal
from types import SimpleNamespace

import pytest
import torch

from config.params import load_params
from jobs import scratch
from jobs.cluster.distributed import Processes
from jobs.scratch import Scratch
from jobs.stage import Terminated
from tests.conftest import ROOT
from training import loop
from training.loop import NonFiniteLoss, fitted, train, update
from training.optimiser import AdamW
from training.randomness import generator


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "state_folder", lambda: tmp_path / "state")
    return tmp_path / "state"


def runtime(checkpoint_seconds=1000.0):
    """How often the loop saves and logs."""
    return SimpleNamespace(checkpoint_seconds=checkpoint_seconds, log_seconds=1000.0, live=False)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the loop handles it."""


class Job:
    """A small regression with dropout, whose steps depend on nothing but number and state."""

    label, seed, steps, batch_size = "job", 0, 40, 16

    def __init__(self, kill_at=None, nan_at=(), terminate_at=None):
        torch.manual_seed(99)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.optimizer = AdamW([{"params": self.model.parameters(), "weight_decay": 0.01}], lr=0.01)
        self.state = {"model": self.model, "optimizer": self.optimizer}
        self.kill_at, self.nan_at, self.terminate_at = kill_at, nan_at, terminate_at
        self.seen = []

    def step(self, number):
        if number == self.kill_at:
            raise Killed
        if number == self.terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.seen.append(number)
        x = torch.randn(16, 4, generator=generator(0, "data", number))
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        if number in self.nan_at:
            loss = loss * float("nan")
        total, norm = update([loss], self.optimizer, clip=1.0, scaler=torch.amp.GradScaler("cpu", enabled=False))
        return {"loss": total, "gradient_norm": norm}

    def run(self, fingerprint="a", checkpoint_seconds=0.0, monitor=None):
        with Scratch("job", fingerprint) as place:
            history = train(self, scratch=place, runtime=runtime(checkpoint_seconds), monitor=monitor)
        return history, {name: value.clone() for name, value in self.model.state_dict().items()}


@pytest.mark.parametrize(
    ("images", "unit", "expected"),
    [(65, 1, 64), (64, 2, 64), (63, 1, 63), (63, 2, 62), (1, 1, 1), (1, 2, 2)],
)
def test_fitted__a_batch_is_at_most_all_images_in_whole_units(images, unit, expected, capsys):
    recipe = load_params(ROOT / "params.yaml").pretrain.model_copy(update={"batch_size": 64})
    assert fitted(recipe, images, label="job", unit=unit) == recipe.model_copy(update={"batch_size": expected})
    line = f"job: batch_size 64 is more than the {images} training images: a step takes {expected}\n"
    assert capsys.readouterr().out == ("" if expected == 64 else line)


def test_fitted__a_process_without_an_image_is_refused():
    recipe, processes = load_params(ROOT / "params.yaml").pretrain, Processes(0, 3)
    assert fitted(recipe, 3, label="job", processes=processes).batch_size == 3
    with pytest.raises(ValueError, match="job: compute.world_size 3 is too many for 2 training images; lower it"):
        fitted(recipe, 2, label="job", processes=processes)


@pytest.mark.parametrize("kill_at", [0, 1, 7, 39])
def test_train__a_killed_run_resumes_to_the_unbroken_result(kill_at, monkeypatch):
    monkeypatch.setattr(loop, "HISTORY_POINTS", 13)
    history, weights = Job().run()
    killed = Job(kill_at=kill_at)
    with pytest.raises(Killed):
        killed.run()
    again = Job()
    history_again, weights_again = again.run()
    assert again.seen == list(range(kill_at, 40))
    assert history_again == history
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


class Watch:
    """Measures the largest weight every 9 steps."""

    every = 9

    def __init__(self, job):
        self.job = job

    def measure(self):
        return {"largest": max(float(weight.detach().abs().max()) for weight in self.job.model.parameters())}


@pytest.mark.parametrize("kill_at", [9, 20])
def test_train__a_monitor_ends_its_interval_and_a_resumed_run_has_measured_the_same(kill_at, monkeypatch):
    monkeypatch.setattr(loop, "HISTORY_POINTS", 10)
    whole, killed, again = Job(), Job(kill_at=kill_at), Job()
    history, _ = whole.run(monitor=Watch(whole))
    assert [row["step"] for row in history] == sorted({*range(4, 41, 4), 9, 18, 27, 36})
    assert {row["step"] for row in history if "largest" in row} == {9, 18, 27, 36}
    with pytest.raises(Killed):
        killed.run(monitor=Watch(killed))
    assert again.run(monitor=Watch(again))[0] == history


def test_train__checkpoints_at_intervals_lose_the_steps_since(monkeypatch):
    with pytest.raises(Killed):
        Job(kill_at=20).run(checkpoint_seconds=1000)
    again = Job()
    again.run()
    assert again.seen[0] == 0


@pytest.mark.parametrize(
    ("asked", "takes", "saves"), [(1.0, 0.001, 40), (4.5, 0.001, 8), (1.0, 0.2, 4), (0.5, 9.0, 4), (0.0, 0.2, 40)]
)
def test_train__checkpoints_take_a_small_share_of_the_time(asked, takes, saves, monkeypatch):
    clock, saved = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    job = Job()
    step = job.step

    def save(self, state):
        clock.now += takes
        saved.append(state["step"])

    def slow(number):
        clock.now += 1.0
        return step(number)

    monkeypatch.setattr(Scratch, "save", save)
    job.step = slow
    job.run(checkpoint_seconds=asked)
    assert saved[-1] == 40
    assert len(saved) - 1 == saves


def test_train__sigterm_saves_and_ends_with_143():
    _, weights = Job().run()
    with pytest.raises(Terminated) as ended:
        Job(terminate_at=5).run(checkpoint_seconds=1000)
    assert ended.value.code == 143
    again = Job()
    _, weights_again = again.run()
    assert again.seen == list(range(6, 40))
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_train__another_fingerprint_starts_anew():
    with pytest.raises(Killed):
        Job(kill_at=9).run(fingerprint="a")
    other = Job()
    other.run(fingerprint="b")
    assert other.seen[0] == 0


def test_train__a_finished_loop_whose_outs_were_not_written_runs_no_step(state):
    history, _ = Job().run()
    with pytest.raises(Killed), Scratch("job", "a") as place:
        train(Job(), scratch=place, runtime=runtime())
        raise Killed
    again = Job()
    assert again.run()[0] == history
    assert again.seen == []
    assert not (state / "scratch" / "job").exists()


def test_train__a_non_finite_step_changes_no_weight_and_is_counted(monkeypatch):
    monkeypatch.setattr(loop, "HISTORY_POINTS", 4)
    with_nan = Job(nan_at=(2,))
    before = {}
    step = with_nan.step

    def watched(number):
        if number == 2:
            before.update({name: value.clone() for name, value in with_nan.model.state_dict().items()})
        result = step(number)
        if number == 2:
            assert all(torch.equal(before[name], value) for name, value in with_nan.model.state_dict().items())
        return result

    with_nan.step = watched
    history, _ = with_nan.run()
    assert before
    assert history[0]["skipped"] == pytest.approx(0.1)
    assert all(row["skipped"] == 0 for row in history[1:])


def test_train__stops_when_the_loss_stays_non_finite_and_names_the_step():
    job = Job(nan_at=range(5, 100))
    with pytest.raises(NonFiniteLoss, match="10 steps in a row, up to step 14"):
        job.run()


def test_train__metrics_that_stay_on_the_device_are_read_in_time_and_survive_an_end(monkeypatch):
    monkeypatch.setattr(loop, "HISTORY_POINTS", 1)
    monkeypatch.setattr(loop, "UNREAD", 7)
    job = Job(nan_at=range(5, 100))
    with pytest.raises(NonFiniteLoss, match="10 steps in a row, up to step 14"):
        job.run(checkpoint_seconds=1000)
    assert job.seen == list(range(21))
    history, _ = Job().run(fingerprint="b", checkpoint_seconds=1000)
    with pytest.raises(Terminated):
        Job(terminate_at=10).run(fingerprint="c", checkpoint_seconds=1000)
    assert Job().run(fingerprint="c", checkpoint_seconds=1000)[0] == history


def test_train__history_is_the_mean_of_its_interval(monkeypatch):
    monkeypatch.setattr(loop, "HISTORY_POINTS", 3)
    task = Job()
    task.steps, task.step = 10, lambda number: {"loss": float(number)}
    with Scratch("job", "a") as place:
        history = train(task, scratch=place, runtime=runtime())
    assert [(row["step"], row["loss"]) for row in history] == [(3, 1), (6, 4), (9, 7), (10, 9)]


def gradients(losses, **changes):
    """Weights after one update by losses(model, x), with plain steps so that nothing hides the gradient."""
    model = torch.nn.Linear(4, 1)
    torch.nn.init.constant_(model.weight, 0.3)
    torch.nn.init.zeros_(model.bias)
    optimizer = AdamW([{"params": model.parameters(), "weight_decay": 0.0}], lr=0.01)
    scaler = changes.pop("scaler", torch.amp.GradScaler("cpu", enabled=False))
    x = torch.randn(7, 4, generator=generator(0, "x"))
    total, norm = update(losses(model, x), optimizer, clip=1e9, scaler=scaler)
    return total, norm, model


def test_update__micro_batches_add_up_to_the_batch():
    whole = gradients(lambda model, x: [model(x).square().mean()])
    parts = gradients(lambda model, x: (model(some).square().sum() / 7 for some in x.split(3)))
    for one, other in zip(whole[:2], parts[:2], strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole[2].weight.grad, parts[2].weight.grad)


def test_update__scaling_changes_neither_norm_nor_weights():
    plain = gradients(lambda model, x: [model(x).square().mean()])
    scaled = gradients(
        lambda model, x: [model(x).square().mean()], scaler=torch.amp.GradScaler("cpu", init_scale=1024.0)
    )
    assert plain[1] == scaled[1]
    assert torch.equal(plain[2].weight, scaled[2].weight)


def test_update__an_overflow_of_the_scaled_gradient_leaves_the_weights_and_lowers_the_scale():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    total, norm, model = gradients(lambda model, x: [(100 * model(x)).square().mean()], scaler=scaler)
    assert torch.isfinite(total) and not torch.isfinite(norm)
    assert bool((model.weight == 0.3).all())
    assert scaler.get_scale() == 2.0**126
    again = torch.amp.GradScaler("cpu")
    again.load_state_dict(scaler.state_dict())
    assert again.get_scale() == 2.0**126


def test_update__one_non_finite_micro_batch_spoils_the_step():
    total, norm, model = gradients(lambda model, x: [model(x).mean(), model(x).mean() * float("nan")])
    assert not torch.isfinite(total) and not torch.isfinite(norm)
    assert bool((model.weight == 0.3).all())
