"""The runs that a replay writes into MLflow: one for the pipeline, and below it one for each stage."""

import contextlib
import os
import socket
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs import live
from jobs.notes import read_note, write_note
from jobs.supervision import identity, is_alive
from pipeline.tracking.client import FINISHED, RUNNING, client, experiment_id, runs_of
from pipeline.tracking.executions import Record
from pipeline.tracking.keys import State
from pipeline.tracking.stage_runs import Content, content_of, lacking, log_points, training_points, write_content
from pipeline.tracking.tags import (
    KEY_TAG,
    LIVE_TAG,
    NAME_TAG,
    PARENT_TAG,
    PIPELINE_TAG,
    WRITER_TAG,
    Tagged,
    origin_here,
    tags_of,
)


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
                runs = {stage.data.tags.get(NAME_TAG, stage.info.run_name): stage.info.run_id for stage in stages}
                return Replayed(self.experiment, run.info.run_id, runs)
        return None

    def write(
        self,
        status: str,
        state: State,
        stages: Collection[str],
        done: Mapping[str, Record],
        broken: Mapping[str, Record],
    ) -> Replayed:
        """Write a run of the pipeline over runs of these `stages` of the state and of the `broken` executions.

        done: the records of the stages that were executed. A run that is not FINISHED has no state, so `find` skips it.
        After an error nothing of it is left, if the server still answers.
        """
        # pandas, which a replay that has nothing to write does not need.
        from pipeline.tracking.headline import write_headline

        self.delete_half_written()
        computed_by, origin = self._computed_by(), origin_here()
        started = min((record["started"] for record in (*done.values(), *broken.values())), default=time.time())
        top = Tagged(origin, state=state.key if status == FINISHED else "")
        pipeline, runs = self.start(top, started), {}
        try:
            for name in stages:
                entry, key, record = state.entries[name], state.keys[name], done.get(name)
                link = "" if record else computed_by.get(key, "")
                run = Tagged(origin, name, entry, record, key, parent=pipeline, computed_by=link)
                runs[name] = self._write(run, content_of(entry, record), FINISHED)
            for name, record in broken.items():
                run = Tagged(origin, name, record=record, parent=pipeline)
                runs[name] = self._write(run, Content(), record["status"])
            write_headline(self.client, self.experiment, pipeline, stages)
            self.client.set_terminated(pipeline, status, milliseconds(time.time()))
        except Exception:
            with contextlib.suppress(Exception):
                self._delete(pipeline)
            raise
        return Replayed(self.experiment, pipeline, runs)

    def half_written(self) -> list[Any]:
        """The runs of replays of this machine that were killed on the way."""
        return [run for run in self._abandoned() if LIVE_TAG not in run.data.tags]

    def lost_trainings(self) -> list[Any]:
        """The runs of trainings of this machine that say RUNNING although neither the training nor a follower is there."""
        return [] if live.is_followed() else [run for run in self._abandoned() if LIVE_TAG in run.data.tags]

    def _abandoned(self) -> list[Any]:
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
            self._delete(run.info.run_id)

    def _delete(self, pipeline: str) -> None:
        """Delete a run with all below it but those that a follower began: the next replay completes them."""
        for stage in self._search(f"tags.`{PARENT_TAG}` = '{pipeline}'"):
            if LIVE_TAG not in stage.data.tags:
                self.client.delete_run(stage.info.run_id)
        self.client.delete_run(pipeline)

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

    def start(self, run: Tagged, started: float) -> str:
        """Create a run that says RUNNING; returns its id."""
        moment = milliseconds(started)
        created = self.client.create_run(self.experiment, moment, tags=tags_of(run), run_name=run.title)
        return created.info.run_id

    def _write(self, run: Tagged, content: Content, status: str) -> str:
        started = run.record["started"] if run.record else time.time()
        ended = started + run.record["seconds"] if run.record else started
        path = _line_file(run.record)
        run_id = self.training_run(path) if path else ""
        if run_id:
            self.retag(run_id, tags_of(run))
        else:
            run_id = self.start(run, started)
        if path:
            note_run(path, run_id)
            rows = [(milliseconds(moment), row) for moment, row in live.rows_of(path)]
            timed = [(point, moment) for moment, row in rows for point in training_points(row)]
            log_points(self.client, run_id, lacking(self.client, run_id, timed))
            known = {point for point, _ in timed}
            content = replace(content, points=[point for point in content.points if point not in known])
        write_content(self.client, run_id, content)
        self.client.set_terminated(run_id, status, milliseconds(ended))
        return run_id

    def training_run(self, path: Path) -> str:
        """The run of the training with this line file; empty where there is none, or none that is not deleted."""
        from mlflow.exceptions import MlflowException

        run_id = read_note(path.with_suffix(".json")).get("run", "")
        try:
            return run_id if run_id and self.client.get_run(run_id).info.lifecycle_stage == "active" else ""
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""

    def retag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def close(self, record: Record) -> None:
        """Let go of the line file of an execution that succeeded; its run is FINISHED."""
        if path := _line_file(record):
            if (run_id := self.training_run(path)) and self.client.get_run(run_id).info.status == RUNNING:
                self.client.set_terminated(run_id, FINISHED, milliseconds(record["started"] + record["seconds"]))
            live.forget(path)


def _line_file(record: Record | None) -> Path | None:
    """Where a training wrote its rows while it ran, if it did."""
    path = live.line_file(record["live"]) if record and "live" in record else None
    return path if path and path.is_file() else None


def note_run(path: Path, run_id: str, **told: Any) -> None:
    """Note the run of a line file, and what of the file it has."""
    write_note(path.with_suffix(".json"), {"run": run_id, **told})


def milliseconds(seconds: float) -> int:
    """A time as MLflow has it."""
    return int(1000 * seconds)


def half_written_runs(delete: bool) -> list[str]:
    """Names and ids of the runs that say RUNNING although their replay was killed."""
    with client() as mlflow_client:
        writer = Writer(mlflow_client)
        dead = writer.half_written()
        if delete:
            writer.delete_half_written()
        return [f"{run.info.run_name} ({run.info.run_id})" for run in dead]
