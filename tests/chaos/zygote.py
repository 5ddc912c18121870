"""Runs stages, each in a fork of a process that has imported them all: a case costs what the stage does, and no start.

Requests come as lines of JSON on stdin, and answers go to stdout. The process itself computes nothing, so that its forks
find every library as after an import.
"""

import importlib
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from jobs.stage import run
from shards.files import written
from tests.chaos.points import Points, limit

STAGES = ("cache_masks", "compare", "evaluate_parts", "extract_attention", "finetune", "prepare_data", "pretrain", "probe",
          "refine_parts", "select_masks", "train_teacher")  # fmt: skip
# Of a case, by the clock of the wall: what takes longer hangs, as a walk's watchdog would say.
SECONDS, SECONDS_WITHOUT_MEMORY = 300, 45


def main():
    for name in sys.argv[1:] or (*(f"stages.{name}" for name in STAGES), "tests.chaos.artefacts"):
        importlib.import_module(name)
    # The answers have stdout for themselves; forks have it redirected.
    answers = os.fdopen(os.dup(1), "w")
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), file=answers, flush=True)


def forked(request):
    """Exit code (minus a signal), write points, seconds, and what was printed."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as told:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            signal.alarm(SECONDS_WITHOUT_MEMORY if request.get("fault") == "memory" else SECONDS)
            code = 1
            try:
                code = ended(request, told)
            finally:
                # Whatever went wrong, also with the output: a fork must not go on as its parent.
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        output.seek(0)
        told.seek(0)
        text = output.read()
        return {
            "code": os.waitstatus_to_exitcode(status),
            "points": int(told.read() or 0),
            "seconds": time.monotonic() - started,
            "output": text,
        }


def watched(request):
    """The points of a case, in its folder, and the limits it runs under."""
    os.chdir(request["folder"])
    written.clear()
    fault = request.get("fault", "")
    if fault in ("kill at size", "full at size"):
        limit(request["at"], deadly=fault == "kill at size")
        fault = ""
    if fault == "memory":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + request["at"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if fault == "clock":
        jump(request["at"])
    return Points(request["folder"], fault, request.get("at", 0))


def jump(seconds):
    """Every second look at the time of day is `seconds` later than the one before, or earlier."""
    true, looks = time.time, []

    def jumped():
        looks.append(None)
        return true() + seconds * (len(looks) % 2)

    time.time = jumped


def ended(request, told):
    """Run the stage, or call a function of the tests; the exit code. The number of write points goes to `told`."""
    points = watched(request)
    module, _, function = request["run"].partition(":")
    sys.argv = [f"{module.rpartition('.')[2]}.py", *request.get("arguments", [])]
    code = 0
    try:
        if function:
            getattr(importlib.import_module(module), function)(*request.get("arguments", []))
        else:
            run(importlib.import_module(module).main)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        code = 1
        traceback.print_exc()
    os.write(told.fileno(), str(points.count).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def error_lines(answer):
    """What a stage said was wrong; a traceback counts as many lines."""
    return [line for line in answer["output"].splitlines() if re.match(r"error: |Traceback|\w*Error", line)]


if __name__ == "__main__":
    main()
