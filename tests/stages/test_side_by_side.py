"""The streaming stages with several workers: the bytes of one process, also when a worker is lost half way."""

import importlib.util
import shutil
import signal

import psutil
import pytest

import jobs.cluster.spreading
from jobs.progress import Meter
from tests.conftest import run_stage
from tests.stages.streaming import flip, names, write_job, write_no_attention, write_runtime

HAS_RAY = importlib.util.find_spec("ray") is not None
NEEDS_RAY = pytest.mark.skipif(
    not HAS_RAY, reason="ray is not installed: what runs on it was not tested; pip install '.[ray]'"
)
RAY = pytest.param("ray", marks=NEEDS_RAY)


def outs(job):
    """Bytes of every file that the stages promise."""
    files = [path for out in ("attention", "masks", "metrics") for path in (job / out).rglob("*") if path.is_file()]
    return {path.relative_to(job).as_posix(): path.read_bytes() for path in files}


def anew(job, stage):
    """The outs of a run that finds nothing of an earlier one."""
    for name in (".semmae", "attention", "masks", "metrics"):
        shutil.rmtree(job / name, ignore_errors=True)
    write_no_attention(job)
    run_stage(job, f"stages.{stage}")
    return outs(job)


def workers():
    """The processes that make shards for this one; Ray names its own so."""
    every = psutil.Process().children(recursive=True)
    # What an earlier test did not wait for has no command line.
    below = [process for process in every if process.status() != psutil.STATUS_ZOMBIE]
    return [
        process for process in below if "ray::Actor" in process.name() or "spawn_main" in " ".join(process.cmdline())
    ]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", RAY])
@pytest.mark.parametrize("stage", ["extract_attention", "cache_masks"])
def test_two_workers__give_the_bytes_of_one_process_also_when_one_is_lost(tmp_path, monkeypatch, capfd, stage, engine):
    job = write_job(tmp_path, stage)
    alone = anew(job, stage)
    assert len(alone) > len(names(job)) > 6
    write_runtime(job, engine=engine, shard_workers=2)
    if (stage, engine) == ("extract_attention", "ray"):
        assert anew(job, stage) == alone
    killed = []

    class Killing(Meter):
        """Kills a worker when the first shard is finished."""

        def advance(self, images, note=""):
            super().advance(images, note)
            if not killed and list(job.glob(f".semmae/shards/{stage}/*/*/manifest.json")):
                killed.append(workers()[0])
                killed[0].send_signal(signal.SIGKILL)

    monkeypatch.setattr(jobs.cluster.spreading, "Meter", Killing)
    assert anew(job, stage) == alone
    assert f"{stage}: a worker was lost" in capfd.readouterr().out


def test_a_damaged_image_shard__ends_the_run_with_the_line_of_one_process(tmp_path):
    job = write_job(tmp_path, "extract_attention")
    damaged = job / "data/shards" / names(job)[-1]
    flip(damaged)
    with pytest.raises(ValueError) as alone:
        run_stage(job, "stages.extract_attention")
    write_runtime(job, shard_workers=2)
    with pytest.raises(ValueError) as among_two:
        run_stage(job, "stages.extract_attention")
    assert str(among_two.value) == str(alone.value)
    assert damaged.name in str(alone.value)
    assert not workers(), "all of them are ended"
