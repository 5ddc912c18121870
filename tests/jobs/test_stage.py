import json
import os
import subprocess
import sys

from jobs.record import peak_mib
from tests.conftest import ROOT

STAGE = "from jobs.record import note; from jobs.stage import run; run(lambda: note(device='{}'))"


def execute(folder, device, **variables):
    """Run a stage called `work` that notes its device."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_STAGE": "work", **variables}
    subprocess.run([sys.executable, "-c", STAGE.format(device)], cwd=folder, env=environment, check=True)


def kept(folder, kind):
    path = folder / ".semmae" / kind / "work.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_run__of_torchruns_processes_the_first_alone_leaves_facts_and_the_stage_writes_the_record(tmp_path):
    for rank in ("0", "1"):
        execute(tmp_path, f"of {rank}", TORCHELASTIC_RUN_ID="none", RANK=rank)
    assert kept(tmp_path, "first")["device"] == "of 0"
    assert kept(tmp_path, "records") is None


def test_run__facts_of_an_earlier_execution_are_forgotten(tmp_path):
    (tmp_path / ".semmae" / "first").mkdir(parents=True)
    (tmp_path / ".semmae" / "first" / "work.json").write_text('{"images": 7}')
    execute(tmp_path, "its own")
    assert kept(tmp_path, "records")["device"] == "its own"
    assert "images" not in kept(tmp_path, "records")


def test_peak_mib__is_of_this_process_alone():
    """A child forked by a large process starts small: getrusage would report the parent's peak."""
    block = bytearray(200 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    grown = peak_mib()
    code = "from jobs.record import peak_mib; print(peak_mib())"
    small = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown > 200
    assert small < 150
    assert len(block) == 200 * 2**20


def test_peak_mib__grows_with_what_is_held():
    before = peak_mib()
    block = bytearray(int((before + 300) * 2**20))
    block[::4096] = b"x" * len(block[::4096])
    assert peak_mib() > before + 250
    assert block
