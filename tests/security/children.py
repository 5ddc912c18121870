"""Work in a child process, with the memory and the time that it took: a bomb must not go off in the process of the tests."""

import json
import os
import subprocess
import sys
from typing import NamedTuple

from tests.conftest import ROOT

# Each call in a fork of its own, whose memory starts at what the imports took.
PRELUDE = """
import json, os, sys, time
from jobs.record import peak_mib

def measured(name, call):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before, began = peak_mib(), time.monotonic()
        try:
            said = str(call())
        except ValueError as error:
            said = f"refused: {error}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        told = [name, said[:500], peak_mib() - before, time.monotonic() - began]
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    print(told.decode() or json.dumps([name, f"ended with {status}", 0, 0]), flush=True)
"""


class Outcome(NamedTuple):
    """What a call said or was refused with, the most memory that it took, and how long it took."""

    said: str
    mib: float
    seconds: float


def run(source, *arguments, timeout=120):
    """Name -> outcome of every `measured(name, call)` in the Python `source`."""
    answer = subprocess.run(
        [sys.executable, "-c", PRELUDE + source, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        timeout=timeout, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return {name: Outcome(*rest) for name, *rest in map(json.loads, answer.stdout.splitlines())}
