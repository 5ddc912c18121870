"""Whole stages: killed, out of space or memory, terminated or with a jumping clock anywhere, then run again to the same bits."""

import json
import random
import shutil
import signal
import subprocess

import pytest

from jobs.fingerprint import digest_of
from tests.chaos.artefacts import KINDS, harm
from tests.chaos.conftest import SILENT, chosen, copy_of
from tests.chaos.zygote import error_lines

pytestmark = pytest.mark.family

# Stage and arguments -> what it makes.
STAGES = {
    ("prepare_data",): [
        "data/shards",
        "data/masks",
        "data/attributes.parquet",
        "data/rejected.parquet",
        "metrics/prepare_data.json",
    ],
    ("train_teacher",): ["teacher", "history/train_teacher.json", "metrics/train_teacher.json"],
    ("extract_attention",): ["attention", "masks/raw"],
    ("refine_parts",): ["part_learner", "history/refine_parts.json", "metrics/refine_parts.json"],
    ("cache_masks",): ["masks/learned", "metrics/cache_masks.json"],
    ("select_masks", "semmae"): ["arms/semmae"],
    ("pretrain", "semmae", "0"): ["pretrained/semmae-0", "history/pretrain/semmae-0.json", "metrics/pretrain/semmae-0.json"],
    ("probe", "mae", "0"): ["metrics/predictions/probe/mae-0.parquet", "metrics/probe/mae-0.json"],
    ("finetune", "mae", "1"): ["finetuned/mae-1", "history/finetune/mae-1.json", "metrics/finetune/mae-1.json"],
    ("evaluate_parts",): ["metrics/evaluate_parts.json"],
    ("compare",): ["report/report.html", "report/comparison.csv", "report/figures", "report/metrics.json"],
}  # fmt: skip
TRAINING = ("train_teacher", "refine_parts", "pretrain", "finetune")


class Case:
    """A copy of the world in which a stage runs, and what its outs are in the unbroken world."""

    def __init__(self, zygote, recorded, target, words):
        self.zygote, self.words, self.outs = zygote, words, STAGES[words]
        self.whole = {out: digest_of(recorded / out) for out in self.outs}
        self.folder = copy_of(recorded, target)
        for out in self.outs:
            path = self.folder / out
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        # Notes and kept shards are of the run that made the world.
        shutil.rmtree(self.folder / ".semmae", ignore_errors=True)

    @property
    def name(self):
        return "-".join(self.words)

    def run(self, fault="", at=0):
        return self.zygote(self.folder, f"stages.{self.words[0]}", *self.words[1:], fault=fault, at=at)

    def save_always(self):
        runtime = self.folder / "runtime.yaml"
        runtime.write_text(runtime.read_text().replace("checkpoint_seconds: 30", "checkpoint_seconds: 0"))

    def is_whole(self):
        """Whether each out is absent, or what it was: never a part, and never something else."""
        return all(
            not (self.folder / out).exists() or digest_of(self.folder / out) == self.whole[out] for out in self.outs
        )

    def ends(self):
        """What a run without a fault says, and whether the outs are those of the unbroken world."""
        answer = self.run()
        assert answer["code"] == 0, answer["output"]
        return answer["output"], {out: digest_of(self.folder / out) for out in self.outs} == self.whole


@pytest.fixture
def case(zygote, recorded, tmp_path):
    return lambda words, name="0": Case(zygote, recorded, tmp_path / str(name), words)


@pytest.fixture(scope="module")
def points(zygote, recorded, tmp_path_factory):
    """Stage -> how many write points it has, counted once."""
    found = {}

    def count(words):
        if words not in found:
            whole = Case(zygote, recorded, tmp_path_factory.mktemp("points") / "world", words)
            whole.save_always()
            answer = whole.run()
            assert answer["code"] == 0, answer["output"]
            found[words] = answer["points"]
        return found[words]

    return count


def pytest_generate_tests(metafunc):
    if "any_stage" in metafunc.fixturenames:
        # The report's pictures take half a minute: `make chaos` alone draws them.
        few = [words for words in STAGES if words != ("compare",)]
        metafunc.parametrize(
            "any_stage", few if metafunc.config.getoption("--chaos") == 1 else list(STAGES), ids="-".join
        )


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "full"])
def test_stage__that_is_killed_or_without_space_ends_in_the_same_bits(case, points, tries, tell, fault, any_stage):
    words = any_stage
    label = {"kill": "kill -9 in the stage", "full": "disk full in the stage"}[fault]
    for at in chosen(points(words), tries, f"{words} {fault}"):
        one = case(words, at)
        one.save_always()
        ended = one.run(fault, at)
        if fault == "kill":
            assert ended["code"] == -9, ended["output"]
        else:
            lines = error_lines(ended)
            assert ended["code"] == 0 or (ended["code"] == 1 and len(lines) == 1), ended["output"]
            assert not lines or ("No space left on device" in lines[0] and one.words[0] in lines[0]), lines
        assert one.is_whole()
        said, is_same = one.ends()
        resumed = "resumes at step" in said
        tell(
            label,
            f"outs of {one.name}",
            ("resumed bit-identically" if resumed else "recomputed") if is_same else SILENT,
        )
        shutil.rmtree(one.folder)


@pytest.mark.parametrize("words", [words for words in STAGES if words[0] in TRAINING], ids="-".join)
def test_sigterm__twenty_times_while_a_checkpoint_is_written_leaves_it_whole(case, points, tries, tell, words):
    for at in chosen(points(words) // 2, tries, f"{words} term"):
        one = case(words, at)
        one.save_always()
        ended = one.run("term", at)
        assert ended["code"] == 143, ended["output"]
        assert "Traceback" not in ended["output"], ended["output"]
        saved = list((one.folder / ".semmae/scratch").glob("*/*/checkpoint.pt"))
        said, is_same = one.ends()
        assert bool(saved) == ("resumes at step" in said) and "damaged" not in said
        tell("20 SIGTERMs in a save", f"checkpoint of {one.name}", "resumed bit-identically" if is_same else SILENT)
        shutil.rmtree(one.folder)


def save_some(one, at):
    """Run a training until it is killed in its `at`-th write, and return the files of its resume state."""
    one.save_always()
    assert one.run("kill", at)["code"] == -9
    (folder,) = (one.folder / ".semmae/scratch").glob("*/*/")
    return folder / "checkpoint.pt", folder / "previous.pt"


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint__that_is_damaged_gives_way_to_the_one_before(case, points, tries, tell, kind):
    words = ("pretrain", "semmae", "0")
    for number in range(tries or 20):
        one, draw = case(words, number), random.Random(f"{kind} {number}")
        saved, previous = save_some(one, points(words) // 2)
        step = step_of(saved)
        harm(saved, kind, draw)
        before = step_of(previous)
        said, is_same = one.ends()
        assert kind == "deleted" or f"{saved.name}: damaged" in said, said
        assert before <= step and f"resumes at step {before} of" in said, said
        told = "named, resumed bit-identically from the one before"
        tell(KINDS[kind], "training checkpoint", told if is_same else SILENT)
        shutil.rmtree(one.folder)


def step_of(path):
    import io

    import torch

    from shards.seals import read_sealed_bytes

    return torch.load(io.BytesIO(read_sealed_bytes(path)), weights_only=True)["step"]


def test_checkpoint__when_both_are_damaged_training_begins_anew(case, points, tell):
    one = case(("pretrain", "semmae", "0"))
    for path in save_some(one, points(one.words) // 2):
        path.unlink(missing_ok=True)
        path.write_bytes(b"half")
    said, is_same = one.ends()
    assert said.count("damaged") == 2 and "resumes at step" not in said
    tell("truncated", "both training checkpoints", "named, recomputed" if is_same else SILENT)


MARGINS = (0, 2**22, 2**24, 2**26, 2**27)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("prepare_data",), ("pretrain", "semmae", "0"), ("probe", "mae", "0")], ids="-".join)
def test_memory__that_runs_out_is_one_line_and_nothing_is_lost(case, tries, tell, words):
    """Another outcome than a failure, a picture that is left out for example, would be worse than the failure."""
    failed = 0
    for margin in MARGINS:
        one = case(words, margin)
        one.save_always()
        ended = one.run("memory", margin)
        hung = ended["code"] == -signal.SIGALRM
        # A library that gets no thread may end the process from C++, where no code of ours has a say.
        aborted = ended["code"] == -signal.SIGABRT and "std::system_error" in ended["output"]
        if ended["code"] and not hung and not aborted:
            lines = error_lines(ended)
            assert ended["code"] == 1 and len(lines) == 1 and "out of memory" in lines[0], ended["output"]
        failed += bool(ended["code"])
        assert one.is_whole()
        _, is_same = one.ends()
        # CPython waits for ever for a thread that had no memory to begin: then the watchdog ends the stage.
        told = (
            "hangs, for the watchdog to end; recomputed"
            if hung
            else "aborted by a library, recomputed"
            if aborted
            else "named, recomputed"
            if failed
            else "the same bits"
        )
        tell("out of memory", f"outs of {one.name}", told if is_same else SILENT)
        shutil.rmtree(one.folder)
    assert failed


@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_clock__that_jumps_by_a_day_changes_no_bit_and_no_duration(case, tell, seconds):
    one = case(("pretrain", "semmae", "0"))
    ended = one.run("clock", seconds)
    assert ended["code"] == 0, ended["output"]
    same = {out: digest_of(one.folder / out) for out in one.outs} == one.whole
    record = json.loads((one.folder / ".semmae/records/pretrain.json").read_text())
    assert 0 < record["seconds"] < 100
    tell(f"clock jumps by {seconds // 86400:+d} day", f"outs of {one.name}", "the same bits" if same else SILENT)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a tmpfs of a size at a folder, or change its size; where this user may not mount, the test is left out."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size, option="size"):
        command = ["mount", "-t", "tmpfs", "-o", f"{option}={size}", "none", str(folder)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            pytest.skip(f"no mount here: a disk that is really full was not tried ({answer.stderr.strip()})")
        return folder

    yield sized
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize("words", [("pretrain", "semmae", "0"), ("cache_masks",)], ids="-".join)
def test_disk__that_is_really_full_ends_the_stage_in_one_line(zygote, recorded, small_disk, tell, words):
    folder = small_disk(2**28)
    one = Case(zygote, recorded, folder / "world", words)
    one.save_always()
    taken = shutil.disk_usage(folder).used
    small_disk(taken + 2**14, "remount,size")
    ended = one.run()
    lines = error_lines(ended)
    assert ended["code"] == 1 and len(lines) == 1 and "No space left on device" in lines[0], ended["output"]
    assert one.is_whole()
    small_disk(2**28, "remount,size")
    _, is_same = one.ends()
    tell("a tmpfs that is full", f"outs of {one.name}", "named, recomputed" if is_same else SILENT)
