import json
import os
import signal
import subprocess
import sys

import pytest

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


# Waits, and takes a second to save, in which it hears of a second Ctrl-C.
WAITS = """
import os, signal, time
from jobs.stage import run

def main():
    try:
        print("begins", flush=True)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("saved", flush=True)

run(main)
"""


def begin(folder, words, **options):
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}", "DVC_STAGE": "work"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, **pipes, **options)
    assert process.stdout.readline() == "begins\n"
    return process


def test_run__ctrl_c_lets_it_save_with_one_line_and_130_and_a_second_one_is_ignored(tmp_path):
    process = begin(tmp_path, ["-c", WAITS])
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (
        "saved\n",
        "work: interrupted; run it again to go on from what is saved\n",
    )
    assert process.returncode == 130
    assert kept(tmp_path, "records")["status"] == "KILLED"


def test_run__in_the_background_of_a_shell_ctrl_c_is_not_meant_for_it(tmp_path):
    process = begin(tmp_path, ["-c", WAITS], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    process.send_signal(signal.SIGINT)
    process.terminate()
    assert process.communicate(timeout=30) == ("saved\n", "")
    assert process.returncode == 143


@pytest.mark.parametrize("is_ignored", [False, True])
def test_stages__ctrl_c_while_python_loads_one_ends_it_without_a_traceback(tmp_path, is_ignored):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").write_text((ROOT / "stages" / "__init__.py").read_text())
    (tmp_path / "stages" / "work.py").write_text("import time; print('begins', flush=True); time.sleep(0.5)")
    handler = signal.SIG_IGN if is_ignored else signal.SIG_DFL
    process = begin(tmp_path, ["-m", "stages.work"], preexec_fn=lambda: signal.signal(signal.SIGINT, handler))
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == (0 if is_ignored else -signal.SIGINT)
