"""The one training loop: it is only order. What a step computes belongs to its task."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

import torch

from config.evaluation_groups import FinetuneParams, LinearMaeParams, SegmentParams
from config.groups import PretrainParams, RefineParams, TeacherParams
from config.params import Runtime
from jobs import live
from jobs.cluster.distributed import ALONE, Processes
from jobs.progress import Meter
from jobs.scratch import Scratch
from jobs.stage import Terminated, Termination
from training.optimiser import AdamW
from training.randomness import seed_of

HISTORY_POINTS = 200
MAX_SKIPPED = 10
# Steps whose metrics stay on the device before the host reads them, and so waits for it.
UNREAD = 50
# Of the time since the last one: a checkpoint of a large model on a slow disk comes less often than asked for.
CHECKPOINT_SHARE = 0.02
# Times `checkpoint_seconds`: a disk that was stuck once does not end the saving.
LONGEST_PAUSE = 20
Recipe = TypeVar("Recipe", TeacherParams, RefineParams, PretrainParams, FinetuneParams, LinearMaeParams, SegmentParams)


class Stateful(Protocol):
    """A model, an optimiser, or anything else whose state a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Task(Protocol):
    """One training, as the loop sees it. A task holds networks, optimiser and data, and makes the steps.

    label: names it in messages. seed: with the label, of the global generator. state: all that its steps change.
    """

    label: str
    seed: int
    steps: int
    batch_size: int

    @property
    def state(self) -> Mapping[str, Stateful]: ...

    def step(self, number: int) -> Mapping[str, float | torch.Tensor]:
        """Draw batch `number`, compute the loss, update the weights; returns metrics, `loss` among them.

        It must depend on nothing but its number and `state`: then a run that was killed anywhere and resumed is the
        unbroken run, bit for bit. A step whose loss or gradient is not finite must not update the weights, see `update`.
        """
        ...


class Monitor(Protocol):
    """Looks at a training every so many steps, and changes no bit of it."""

    every: int

    def measure(self) -> Mapping[str, float]:
        """Metrics of this moment."""
        ...


class NonFiniteLoss(ValueError):
    """The loss was not finite for too many steps in a row."""


def fitted(recipe: Recipe, images: int, *, label: str, unit: int = 1, processes: Processes = ALONE) -> Recipe:
    """The recipe with a batch of no more than all training images, so that no step takes one twice; a change is one line.

    Learning rates that scale with the batch follow, and steps: an epoch is at least one.
    unit: images that a step takes together, 2 where it mixes pairs. Raises ValueError where a process would have no image.
    """
    size = min(recipe.batch_size, max(1, images // unit) * unit)
    if size == recipe.batch_size:
        return recipe
    if processes.world_size > size // unit:
        raise ValueError(
            f"{label}: compute.world_size {processes.world_size} is too many for {images} training images; lower it"
        )
    print(
        f"{label}: batch_size {recipe.batch_size} is more than the {images} training images: a step takes {size}",
        flush=True,
    )
    return recipe.model_copy(update={"batch_size": size})


def train(task: Task, *, scratch: Scratch, runtime: Runtime, monitor: Monitor | None = None) -> list[dict[str, float]]:
    """Run all steps of a task and return its history: metrics averaged over logging intervals, one row each.

    An interval also ends where the monitor looks, and its row then has what that measured.

    An earlier try is resumed from `scratch`, which is saved every `runtime.checkpoint_seconds`, and so seldom that it takes
    `CHECKPOINT_SHARE` of the time, but at most `LONGEST_PAUSE` times as seldom. The global generator, which dropout uses, is
    seeded anew at each step. Of several processes each runs this loop, with the same metrics: all of them measure, since the
    others would wait for the one that does.
    Raises `NonFiniteLoss` after `MAX_SKIPPED` steps in a row without a finite loss, at the latest `UNREAD` steps later, and
    `Terminated` after SIGTERM, once the checkpoint is written.
    """
    label, steps, processes = task.label, task.steps, scratch.processes
    history: list[dict[str, float]] = []
    pending: list[dict[str, float]] = []
    unread: list[dict[str, torch.Tensor]] = []
    start = lost = 0
    saved = scratch.load()
    if saved is not None:
        for name, part in task.state.items():
            part.load_state_dict(saved["state"][name])
        start, lost, history, pending = saved["step"], saved["lost"], saved["history"], saved["pending"]
        before = saved["processes"]
        changed = (
            "" if before == processes.world_size else f"; processes until then {before}, now {processes.world_size}"
        )
        print(f"{label}: resumes at step {start} of {steps}{changed}", flush=True)

    def read(done: int) -> None:
        """Take what the last steps up to `done` computed, which the device may still be at."""
        nonlocal lost
        for number, metrics in enumerate(unread, start=done - len(unread)):
            pending.append({name: float(value) for name, value in metrics.items()})
            lost = 0 if _is_finite(pending[-1]) else lost + 1
            if lost == MAX_SKIPPED:
                raise NonFiniteLoss(
                    f"{label}: loss or gradient was not finite for {lost} steps in a row, up to step {number}; "
                    "lower the learning rate or use precision fp32"
                )
        unread.clear()

    def save(done: int) -> None:
        read(done)
        parts = {name: part.state_dict() for name, part in task.state.items()}
        progress = {"step": done, "lost": lost, "history": history, "pending": pending}
        scratch.save({**progress, "state": parts, "processes": processes.world_size})

    lines = live.follow(scratch, runtime, label)
    if lines:
        lines.extend(history)
    every = max(1, steps // HISTORY_POINTS)
    batch_size = task.batch_size
    meter = Meter(steps * batch_size, label=label, done=start * batch_size, seconds=runtime.log_seconds)
    saved_at, pause = time.monotonic(), (asked := runtime.checkpoint_seconds)
    with meter, Termination() as termination:
        for number in range(start, steps):
            torch.manual_seed(seed_of(task.seed, label, number))
            metrics = task.step(number)
            unread.append({name: torch.as_tensor(value).detach() for name, value in metrics.items()})
            done = number + 1
            if len(unread) == UNREAD:
                read(done)
            is_watched = monitor is not None and done % monitor.every == 0
            if is_watched or done % every == 0 or done == steps:
                read(done)
                measured = monitor.measure() if monitor is not None and is_watched else {}
                history.append({"step": done, **_average(pending), **measured})
                pending = []
                if lines:
                    lines.extend(history)
            meter.advance(batch_size, f"loss {history[-1].get('loss', math.nan):.4f}" if history else "")
            if processes.any(termination.requested):
                save(done)
                raise Terminated
            if time.monotonic() - saved_at >= pause:
                # The device's steps are no part of what a checkpoint takes.
                read(done)
                started = time.monotonic()
                save(done)
                saved_at = time.monotonic()
                slow = (saved_at - started) / CHECKPOINT_SHARE
                pause = min(max(asked, slow), LONGEST_PAUSE * asked)
    if start < steps:
        save(steps)
    return history


def update(
    losses: Iterable[torch.Tensor],
    optimizer: AdamW | torch.optim.Optimizer,
    *,
    clip: float,
    scaler: torch.amp.GradScaler,
    processes: Processes = ALONE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Backward, clip, step; returns loss and gradient norm. One that is not finite leaves the weights alone.

    losses: scalars that add up to the loss of the whole batch, over the micro-batches of this process and over all
    processes; each is made when the last one's graph is gone. fp16's scaler finds its scale by steps that overflow: those
    count as not finite like any other, and stop the training only when they last. With `AdamW` it is the device that decides
    about the step: the host does not wait for it.
    """
    optimizer.zero_grad()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    total = torch.zeros((), device=weights[0].device)
    for loss in losses:
        total = total + loss.detach()
        scaler.scale(loss).backward()
    # Loss and norm are those of the whole batch, so that all processes take the same decision.
    total = processes.sum(total)
    processes.sum_gradients(weights)
    scaler.unscale_(optimizer)  # type: ignore[arg-type]  # It reads only `param_groups`.
    norm = torch.nn.utils.clip_grad_norm_(weights, clip)
    norm = torch.where(torch.isfinite(total), norm, math.nan)
    if isinstance(optimizer, AdamW):
        optimizer.step(torch.isfinite(norm))
    elif torch.isfinite(norm):
        optimizer.step()
    scaler.update()
    return total, norm


def _average(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over the steps whose metrics are all finite, and the share of the others as `skipped`."""
    kept = [row for row in rows if _is_finite(row)]
    means = {name: math.fsum(row[name] for row in kept) / len(kept) for name in (kept[0] if kept else {})}
    return {**means, "skipped": 1 - len(kept) / len(rows)}


def _is_finite(row: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in row.values())
