"""The walk over DVC's graph: independent stages run side by side, as many as there are slots.

DVC runs one stage after the other. A walk starts each stage, like `dvc repro --single-item`, once its inputs are there.
At the end DVC must find nothing left to do: it checks the walk.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from config.params import load_params, load_runtime, read_yaml
from jobs.dvc_lock import digests_of, is_code, stage_entries
from jobs.state import STATE_FOLDER
from pipeline.execution import CANCELLED, SKIPPED, UNCHANGED, Outcome, execute
from pipeline.graph import Graph, value_of
from pipeline.observing import Observer, Observers
from pipeline.slots import CPU, Needs, needs_of
from pipeline.tracking.keys import key_of
from shards.files import md5_of

# Longer than DVC takes to write dvc.lock.
WRITE_SECONDS = 5.0


class Walk:
    """The stages of the repository at `root` that `targets` need, and how to run each.

    stages: those that may have to run, upstream first. force: run all of them, changed or not. Raises ValueError for bad
    parameters, unknown targets, or a damaged dvc.lock.
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
        """The stages of this walk that must end before `stage` starts."""
        return [name for name in self.graph.stages[stage].upstream if name in self.stages]

    def needs(self, stage: str) -> Needs:
        """The cores or GPUs of this machine that `stage` occupies; processes on other nodes and in SLURM jobs do not count."""
        compute, node = self.params.compute, self.graph.stages[stage]
        if node.meta.get("distributed") and self.runtime.launcher == "slurm":
            return Needs(CPU, 1)
        processes = 1
        if node.meta.get("distributed"):
            processes = max(1, compute.world_size // self.runtime.nodes)
        elif node.meta.get("sharded") and not (self.runtime.engine == "ray" and self.runtime.ray_address):
            processes = self.runtime.shard_workers
        return needs_of(node.device, threads=compute.threads, processes=processes, allowed=compute.device)

    def digests(self) -> dict[str, str]:
        """Stage -> twelve digits over its outs, as dvc.lock has them now; stages without outs are left out."""
        outs = {stage: digests_of(entry) for stage, entry in stage_entries(self.root / "dvc.lock").items()}
        return {stage: key_of(stage, digests)[:12] for stage, digests in outs.items() if digests}

    def job(self, stage: str) -> str:
        """A name for the result of `stage`, once its upstream stages are done: trees that compute the same have the same name."""
        node, entries = self.graph.stages[stage], self._entries()
        code = [self.root / path for path in node.deps if is_code(path)]
        # The code of each stage is an out of one stage: of those only its own counts.
        upstream = [
            {path: md5 for path, md5 in digests_of(entries.get(name, {})).items() if not is_code(path)}
            for name in node.upstream
        ]
        inputs = {
            "command": node.command,
            "code": [md5_of(path) for path in code if path.is_file()],
            "params": [self._values(path, keys) for path, keys in node.params.items()],
            "upstream": upstream,
        }
        return key_of(stage, inputs)

    def _entries(self) -> Mapping[str, Mapping[str, Any]]:
        """The stages of dvc.lock; waits while DVC writes the file, which it does in place."""
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

    def run(self, observers: Sequence[Observer] = ()) -> list[Outcome]:
        """Run every stage, each in a thread; stages downstream of a failed one are skipped. Keeps outcomes in `finished`.

        An interrupt cancels the running stages, waits for them, and is raised again.
        """
        outcomes: dict[str, Future[Outcome]] = {}
        watching = Observers(observers)

        def run(stage: str, before: list[Future[Outcome]]) -> Outcome:
            if all(future.result().is_done for future in before):
                outcome = self._run(stage, watching)
            else:
                outcome = Outcome(stage, CANCELLED if self.cancelled.is_set() else SKIPPED)
            self.finished[stage] = outcome
            watching.tell(lambda observer: observer.ended(outcome))
            return outcome

        # One thread a stage: waiting costs nothing, and the slots decide how many run.
        with ThreadPoolExecutor(max(1, len(self.stages))) as pool:
            for stage in self.stages:
                outcomes[stage] = pool.submit(run, stage, [outcomes[name] for name in self.upstream(stage)])
            try:
                return [future.result() for future in outcomes.values()]
            except BaseException:
                self.cancelled.set()
                raise

    def _run(self, stage: str, watching: Observers) -> Outcome:
        watching.tell(lambda observer: observer.waiting(stage))
        return execute(
            stage,
            root=self.root,
            needs=self.needs(stage),
            job=self.job(stage),
            log=self.logs / f"{stage}.log",
            on_start=lambda device: watching.tell(lambda observer: observer.started(stage, device)),
            on_line=lambda text: watching.tell(lambda observer: observer.line(stage, text)),
            cancelled=self.cancelled,
            patience=self.runtime.watchdog_seconds,
            force=self.force,
        )

    def verify(self) -> None:
        """Ask DVC, without running anything, whether everything is done; ValueError if it would run or restore a stage."""
        if left := Graph(self.root, self.targets, wait=True).affected():
            raise ValueError(
                f"walk: DVC does not find everything done: it would run {', '.join(left)}; run `semmae run` again"
            )


def unchanged(graph: Graph, walked: Iterable[str]) -> list[Outcome]:
    """The stages that a walk did not have to run."""
    seen = set(walked)
    return [Outcome(name, UNCHANGED) for name in graph.stages if name not in seen]
