"""The runs that a replay writes into MLflow: one for the pipeline, and below it one for each stage."""

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.params import read_yaml
from jobs.supervision import identity, is_alive
from pipeline.tracking.client import FINISHED, client, experiment_id, runs_of
from pipeline.tracking.executions import Record
from pipeline.tracking.keys import EXPERIMENT_VARIABLE, State
from pipeline.tracking.stage_runs import Content, content_of, params_of, write_content
from pipeline.tracking.tags import KEY_TAG, PARENT_TAG, PIPELINE_TAG, WRITER_TAG, Tagged, origin_here, tags_of


@dataclass(frozen=True)
class Replayed:
    """Ids of the runs that a replay wrote: the run of the pipeline, and below it those of stages, by name."""

    experiment: str = ""
    pipeline: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)


class Writer:
    """Our experiment in MLflow, and the runs that this process writes into it."""

    def __init__(self, mlflow_client: Any) -> None:
        self.client = mlflow_client
        self.experiment = experiment_id(mlflow_client)

    def find(self, state: str) -> Replayed | None:
        """The finished run of the pipeline in a state, by its key, and those of its stages."""
        for run in self._search(f"tags.`{PIPELINE_TAG}` = '{state}'"):
            if run.info.status == FINISHED:
                stages = self._search(f"tags.`{PARENT_TAG}` = '{run.info.run_id}'")
                runs = {stage.info.run_name: stage.info.run_id for stage in stages}
                return Replayed(self.experiment, run.info.run_id, runs)
        return None

    def write(
        self,
        status: str,
        state: State,
        stages: Iterable[str],
        done: Mapping[str, Record],
        broken: Mapping[str, Record],
    ) -> Replayed:
        """Write a run of the pipeline over runs of these `stages` of the state and of the `broken` executions.

        done: the records of the stages that were executed. A run that is not FINISHED has no state, so `find` skips it.
        """
        self.delete_half_written()
        computed_by, origin = self._computed_by(), origin_here()
        started = min((record["started"] for record in (*done.values(), *broken.values())), default=time.time())
        top = Tagged(origin, state=state.key if status == FINISHED else "")
        pipeline, runs = self._start(top, started, os.environ.get(EXPERIMENT_VARIABLE)), {}
        for name in stages:
            entry, key, record = state.entries[name], state.keys[name], done.get(name)
            link = "" if record else computed_by.get(key, "")
            run = Tagged(origin, name, entry, record, key, parent=pipeline, computed_by=link)
            runs[name] = self._write(run, content_of(entry, record), FINISHED)
        for name, record in broken.items():
            runs[name] = self._write(Tagged(origin, name, record=record, parent=pipeline), Content(), record["status"])
        if Path("params.yaml").is_file():
            write_content(self.client, pipeline, Content(params_of(read_yaml("params.yaml"))))
        self.client.set_terminated(pipeline, status, _milliseconds(time.time()))
        return Replayed(self.experiment, pipeline, runs)

    def half_written(self) -> list[Any]:
        """The runs of replays of this machine that were killed on the way."""
        dead = []
        for run in self._search("attributes.status = 'RUNNING'"):
            host, _, writer = run.data.tags.get(WRITER_TAG, "").partition("/")
            # One replay at a time: a run that this very process left open is of an earlier replay, which lost its server.
            if host == socket.gethostname() and (writer == identity(os.getpid()) or not is_alive(writer)):
                dead.append(run)
        return dead

    def delete_half_written(self) -> None:
        """Delete them, with all runs below them. The next replay writes them whole."""
        for run in self.half_written():
            for stage in self._search(f"tags.`{PARENT_TAG}` = '{run.info.run_id}'"):
                self.client.delete_run(stage.info.run_id)
            self.client.delete_run(run.info.run_id)

    def _computed_by(self) -> dict[str, str]:
        """Key -> the run that computed this result, or else the first run that has it."""
        runs: dict[str, str] = {}
        for run in self._search(f"tags.`{KEY_TAG}` != ''"):
            key = run.data.tags[KEY_TAG]
            if run.info.status == FINISHED and (run.data.tags.get("cache_hit") == "false" or key not in runs):
                runs[key] = run.info.run_id
        return runs

    def _search(self, condition: str) -> Iterator[Any]:
        return runs_of(self.client, [self.experiment], condition)

    def _start(self, run: Tagged, started: float, name: str | None = None) -> str:
        moment = _milliseconds(started)
        created = self.client.create_run(self.experiment, moment, tags=tags_of(run), run_name=name or run.name)
        return created.info.run_id

    def _write(self, run: Tagged, content: Content, status: str) -> str:
        started = run.record["started"] if run.record else time.time()
        ended = started + run.record["seconds"] if run.record else started
        run_id = self._start(run, started)
        write_content(self.client, run_id, content)
        self.client.set_terminated(run_id, status, _milliseconds(ended))
        return run_id


def _milliseconds(seconds: float) -> int:
    return int(1000 * seconds)


def half_written_runs(delete: bool) -> list[str]:
    """Names and ids of the runs that say RUNNING although their replay was killed."""
    with client() as mlflow_client:
        writer = Writer(mlflow_client)
        dead = writer.half_written()
        if delete:
            writer.delete_half_written()
        return [f"{run.info.run_name} ({run.info.run_id})" for run in dead]
