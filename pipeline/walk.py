"""The walk over DVC's graph: independent stages side by side on the slots that there are.

DVC runs one stage after the other. Here every stage is one `dvc repro --single-item` as soon as what it reads is there.
A walk ends with a plain `dvc repro`, which must find nothing to do: DVC itself says whether the walk was right.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from config.params import load_params, load_runtime, read_yaml
from jobs.dvc_lock import digests_of, stage_entries
from jobs.state import STATE_FOLDER
from pipeline.execution import CANCELLED, SKIPPED, UNCHANGED, Outcome, execute
from pipeline.graph import Graph, value_of
from pipeline.slots import CPU, Needs, needs_of
from pipeline.tracking.keys import key_of
from shards.files import md5_of

Report = Callable[[str, str], None]
# DVC writes dvc.lock in less.
WRITE_SECONDS = 5.0


class Walk:
    """The stages of the repository at `root` that `targets` need, and how each is run.

    stages: those that may have to run, upstream first; nothing else is looked at again. force: all of them, whether
    changed or not. Raises ValueError for bad parameters, unknown targets, or a damaged dvc.lock.
    """

    def __init__(self, root: Path, *, targets: Sequence[str] = (), force: bool = False, label: str = "") -> None:
        self.root, self.targets, self.force = root, tuple(targets), force
        self.params, self.runtime = load_params(root / "params.yaml"), load_runtime(root / "runtime.yaml")
        self.graph = Graph(root, targets)
        self.stages = list(self.graph.stages) if force else self.graph.affected()
        self.cancelled = threading.Event()
        self.finished: dict[str, Outcome] = {}
        self.logs = root / STATE_FOLDER / "logs" / (label or time.strftime("%Y%m%d-%H%M%S"))

    def upstream(self, stage: str) -> list[str]:
        """The stages of this walk that must be done before `stage`."""
        return [name for name in self.graph.stages[stage].upstream if name in self.stages]

    def needs(self, stage: str) -> Needs:
        """What `stage` occupies of this machine: processes on other nodes do not count, nor those of a job of SLURM."""
        compute, found = self.params.compute, self.graph.stages[stage]
        if found.meta.get("distributed") and self.runtime.launcher == "slurm":
            return Needs(CPU, 1)
        processes = 1
        if found.meta.get("distributed"):
            processes = max(1, compute.world_size // self.runtime.nodes)
        elif found.meta.get("sharded") and not (self.runtime.engine == "ray" and self.runtime.ray_address):
            processes = self.runtime.shard_workers
        return needs_of(found.device, threads=compute.threads, processes=processes, allowed=compute.device)

    def digests(self) -> dict[str, str]:
        """Twelve digits over the outs of each stage as dvc.lock has them at this moment, of those that have any."""
        outs = {stage: digests_of(entry) for stage, entry in stage_entries(self.root / "dvc.lock").items()}
        return {stage: key_of(stage, found)[:12] for stage, found in outs.items() if found}

    def job(self, stage: str) -> str:
        """A name for what `stage` computes, when those upstream are done: the same in every tree where that is the same."""
        found = self.graph.stages[stage]
        code = [self.root / path for path in found.deps if path.endswith(".py")]
        entries = self._entries()
        inputs = {
            "command": found.command,
            "code": [md5_of(path) for path in code if path.is_file()],
            "params": [self._values(path, keys) for path, keys in found.params.items()],
            "upstream": [digests_of(entries.get(name, {})) for name in found.upstream],
        }
        return key_of(stage, inputs)

    def _entries(self) -> Mapping[str, Mapping[str, Any]]:
        """The stages of dvc.lock, also at a moment in which a DVC writes it: it does so in place."""
        deadline = time.monotonic() + WRITE_SECONDS
        while True:
            try:
                return stage_entries(self.root / "dvc.lock")
            except ValueError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _values(self, path: str, keys: Sequence[str]) -> Any:
        values = read_yaml(self.root / path)
        return {key: value_of(values, key) for key in keys} if keys else values

    def run(self, stage: str, on_line: Callable[[str], None]) -> Outcome:
        """Run one stage; the caller sees to the order. The outcome is kept in `finished`."""
        self.finished[stage] = execute(
            stage,
            root=self.root,
            needs=self.needs(stage),
            job=self.job(stage),
            log=self.logs / f"{stage}.log",
            on_line=on_line,
            cancelled=self.cancelled,
            patience=self.runtime.watchdog_seconds,
            force=self.force,
        )
        return self.finished[stage]

    def run_all(self, report: Report) -> list[Outcome]:
        """Run every stage from threads of this process; one that fails keeps those downstream of it from running.

        report: (stage, line). An interrupt cancels what runs, waits for it, and is raised again.
        """
        outcomes: dict[str, Future[Outcome]] = {}

        def run(stage: str, before: list[Future[Outcome]]) -> Outcome:
            if not all(future.result().is_done for future in before):
                return Outcome(stage, CANCELLED if self.cancelled.is_set() else SKIPPED)
            return self.run(stage, lambda line: report(stage, line))

        # A thread a stage: those that wait cost nothing, and the slots decide how many run.
        with ThreadPoolExecutor(max(1, len(self.stages))) as pool:
            for stage in self.stages:
                outcomes[stage] = pool.submit(run, stage, [outcomes[name] for name in self.upstream(stage)])
            try:
                return [future.result() for future in outcomes.values()]
            except BaseException:
                self.cancelled.set()
                raise

    def verify(self) -> None:
        """ValueError when a plain `dvc repro` would do anything; it is only asked, for a wrong answer may cost hours."""
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--dry", *self.targets]
        answer = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        # It says so as well of what it would restore.
        left = [line.split("'")[1] for line in answer.stdout.splitlines() if line.startswith("Running stage '")]
        if answer.returncode or left:
            told = f"it would run {', '.join(left)}" if left else " ".join(answer.stderr.split())
            raise ValueError(f"walk: `dvc repro` does not find everything done: {told}; run `semmae run` again")


def unchanged(graph: Graph, walked: Iterable[str]) -> list[Outcome]:
    """The stages that a walk did not have to touch."""
    seen = set(walked)
    return [Outcome(name, UNCHANGED) for name in graph.stages if name not in seen]
