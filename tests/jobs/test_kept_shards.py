import numpy as np
import pytest

from jobs.kept_shards import KeptShards
from shards.arrays import ArrayShardWriter


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(folder, value=0):
    with ArrayShardWriter(folder, columns={"a": ("<f4", ())}, header={}, shard_rows=10) as writer:
        writer.add(np.arange(3, dtype=np.uint64), a=np.full(3, value))


def keep(fingerprint, *keys):
    with KeptShards("job", fingerprint) as kept:
        for key in keys:
            write(kept.place(key))


def jobs(tmp_path):
    return {path.name for path in (tmp_path / ".semmae/shards/job").iterdir()}


def test_kept__a_run_that_ends_well_leaves_what_it_used(tmp_path):
    keep("one", "a", "b")
    with KeptShards("job", "one") as kept:
        assert kept.has("a")
        assert not kept.has("c")
        write(kept.place("c"))
    with KeptShards("job", "one") as kept:
        assert [kept.has(key) for key in "abc"] == [True, False, True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_kept__a_run_that_fails_leaves_everything(tmp_path, error):
    keep("one", "a", "b")
    with pytest.raises(error), KeptShards("job", "two") as kept:
        write(kept.place("c"))
        raise error
    with pytest.raises(error), KeptShards("job", "one") as kept:
        assert kept.has("a")
        raise error
    with KeptShards("job", "one") as kept:
        assert kept.has("a")
        assert kept.has("b")
    assert jobs(tmp_path) == {"one"}


def test_kept__a_job_that_another_process_runs_is_left_alone(tmp_path):
    running = KeptShards("job", "running")
    write(running.place("a"))
    keep("stopped", "a")
    keep("one", "a")
    assert jobs(tmp_path) == {"running", "one"}
    assert running.has("a")
    with pytest.raises(ValueError, match="job: another process runs this very job"):
        KeptShards("job", "running")
    with running:
        pass
    assert jobs(tmp_path) == {"running"}
