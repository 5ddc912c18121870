import subprocess
import sys

from pipeline.stage import peak_mib


def test_peak_mib__is_of_this_process_alone():
    """A child forked by a large process starts small: getrusage would report the parent's peak."""
    block = bytearray(200 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    grown = peak_mib()
    code = "from pipeline.stage import peak_mib; print(peak_mib())"
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
