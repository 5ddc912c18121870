"""What dead processes left behind, found and mended: the command `semmae doctor`.

A held file lock or a living process is somebody at work, and nothing of theirs is touched. What says `running`, or lies
half-written, without either of them is a leftover. Each check looks for one kind; it yields a line for each finding, and
mends it where `repair` is set.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil

from config.params import read_yaml
from config.redaction import one_line, redacted
from jobs.dvc_lock import stage_entries
from jobs.notes import damaged_notes, read_note, write_note
from jobs.state import STATE_FOLDER, main_worktree, state_folder
from jobs.supervision import GRACE_SECONDS, SUPERVISOR, end_tree, is_alive
from pipeline.doctor import dvc_locks
from pipeline.doctor.processes import with_variable
from pipeline.doctor.temporaries import abandoned_temporaries
from pipeline.experiments import FINISHED, damaged_experiments, experiments, hold, worktrees
from pipeline.graph import Graph
from pipeline.running import at
from pipeline.scheduling import flow_runs
from pipeline.scheduling.services import api_url, state
from pipeline.tracking import replay as tracking
from pipeline.tracking import run_damage
from shards.files import whole_file
from shards.locks import lock

# Resume state is what a killed job goes on from: only after these many days is it nobody's.
SCRATCH_DAYS = 7.0
# What outlives its supervisor ends itself within the grace, and a second for its next look.
ENDING_SECONDS = GRACE_SECONDS + 5

# What MLflow, or SQLite, says of a database that is as it was: of another version, or that cannot be had at this moment.
NO_DAMAGE = (
    "out-of-date database schema",
    "database is locked",
    "unable to open",
    "readonly",
    "disk I/O error",
    "disk is full",
)


def examine(*, repair: bool) -> list[str]:
    """A line for every finding: where, what, and what repair does, or did.

    A check that fails is a line as well, and keeps no other from running.
    """
    lines: list[str] = []
    of_trees = [partial(check, tree) for tree in trees() for check in OF_A_TREE]
    for check in (*OF_THE_DATABASE, *of_trees, *OF_THE_MACHINE):
        try:
            lines.extend(check(repair=repair))
        except Exception as error:
            name = getattr(check, "func", check).__name__.replace("_", " ")
            lines.append(f"{name}: could not be examined: {' '.join(str(error).split())[:300] or type(error).__name__}")
    return lines


def trees() -> dict[Path, str]:
    """Where pipelines run: the main worktree, the one we are in, and those of experiments; each with its experiment's name."""
    found = {main_worktree().resolve(): "", Path.cwd(): ""}
    found |= {folder.resolve(): folder.name for folder in worktrees()}
    return {tree: name for tree, name in found.items() if (tree / ".dvc").is_dir()}


def damaged_state(tree: Path, *, repair: bool) -> Iterator[str]:
    """Notes of one process for the next that are not what was written. Without them MLflow knows less, and no result changes."""
    for path in damaged_notes(tree):
        if repair:
            path.unlink(missing_ok=True)
        yield f"{path}: damaged, or of another version; {'removed' if repair else 'repair removes it'}"


def damaged_experiment_notes(*, repair: bool) -> Iterator[str]:
    """The same for what is noted of an experiment."""
    for path in damaged_experiments(repair=repair):
        yield f"{path}: damaged, or of another version; {'written again' if repair else 'repair writes it again'}"


def dead_dvc_locks(tree: Path, *, repair: bool) -> Iterator[str]:
    """Locks of DVCs that are gone. The file of a lock that is a flock means nothing, and is no finding."""
    done = "removed" if repair else "repair removes it"
    for path in dvc_locks.dead_links(tree):
        if repair:
            path.unlink(missing_ok=True)
        yield f"{path}: a lock whose DVC is gone; {done}"
    for told in dvc_locks.dead_entries(tree, remove=repair):
        yield f"{tree / '.dvc' / 'tmp' / 'rwlock'}: {told}; {done}"


def damaged_dvc_lock(tree: Path, *, repair: bool) -> Iterator[str]:
    """A dvc.lock that cannot be read: DVC writes it in place. It is moved aside, and what git has of it put back."""
    path = tree / "dvc.lock"
    if not _fault(path) or dvc_locks.is_at_work(tree):
        return
    with dvc_locks.holding(tree) as is_ours:
        # Looked at again under the lock: the first look may have met somebody who was writing.
        fault = _fault(path)
        if not is_ours or not fault:
            return
        done = f"repair moves it into {STATE_FOLDER}"
        if repair:
            aside = tree / STATE_FOLDER / f"dvc.lock.{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
            done = f"moved to {aside}"
            committed = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=tree, capture_output=True, check=False)
            if committed.returncode == 0:
                with whole_file(path) as file:
                    file.write(committed.stdout)
                done += ", the committed one put back"
        yield f"{path}: damaged ({fault}); {done}; `dvc repro` there then restores all stages from the run cache"


def _fault(path: Path) -> str:
    """What is wrong with a dvc.lock, as DVC would see it; empty for a sound or an absent one."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if not path.is_file():
        return ""
    try:
        document = read_yaml(path)
        # One without stages is whole for DVC, and never what it writes.
        COMPILED_LOCKFILE_SCHEMA({"stages": None, **document} if isinstance(document, dict) else document)
    except (ValueError, Invalid) as error:
        return " ".join(str(error).removeprefix(f"{path}: ").split())[:120]
    return ""


def unreplayed_records(tree: Path, *, repair: bool) -> Iterator[str]:
    """Executions that no replay has told MLflow of. A state that is not complete is replayed as a killed walk.

    Those that DVC never recorded have no result to tell of; the next execution takes their place.
    """
    untold = [] if not _records(tree) or _fault(tree / "dvc.lock") else _untold(tree)
    if not untold or dvc_locks.is_at_work(tree):
        return
    told = f"{tree}: executions that MLflow does not know: {', '.join(untold)}"
    if not repair:
        yield f"{told}; repair replays them"
        return
    with hold(tree), at(tree, trees()[tree]):
        tracking.replay(status=tracking.KILLED if Graph(tree).affected() else tracking.FINISHED)
    yield f"{told}; {'not replayed: `semmae track` there does it later' if _untold(tree) else 'replayed'}"


def _untold(tree: Path) -> list[str]:
    """The records of a tree that a replay takes up."""
    entries = {name: entry for name, entry in stage_entries(tree / "dvc.lock").items() if name != tracking.REPLAY_STAGE}
    records = {path.stem: read_note(path) for path in _records(tree)}
    with contextlib.chdir(tree):
        known = tracking.recorded(records, entries)
    return [name for name, record in records.items() if name in known or record["status"] != tracking.FINISHED]


def _records(tree: Path) -> list[Path]:
    return sorted((tree / STATE_FOLDER / "records").glob("*.json"))


def half_written_files(tree: Path, *, repair: bool) -> Iterator[str]:
    """Files and folders that a process which is gone was writing, beside the outs and in the state folder."""
    for path in abandoned_temporaries(tree):
        if repair:
            _remove(path)
        yield f"{path}: half-written by a process that is gone; {'removed' if repair else 'repair removes it'}"


def damaged_database(*, repair: bool) -> Iterator[str]:
    """A local tracking database that SQLite finds fault with.

    Indices are made again from their tables, whose runs `damaged_runs` then looks at. Anything else is moved aside; a
    replay writes what lies here into a new one.
    """
    path = tracking.database()
    if path is None or not (fault := tracking.fault_of(path, whole=True)):
        return
    indices = run_damage.stale_indices(path)
    if not indices or (repair and not run_damage.rebuild_indices(path)):
        yield _moved_aside(path, fault, repair=repair)
        return
    done = "made again from their tables" if repair else "repair makes them again from their tables"
    yield f"{path}: damaged ({fault}): indices {', '.join(indices)}; {done}"


def _moved_aside(path: Path, fault: str, *, repair: bool) -> str:
    """Move a database out of the way, with what SQLite keeps beside it, or only say so."""
    done = f"repair moves it into {STATE_FOLDER}"
    if repair:
        aside = state_folder() / f"{path.name}.{time.time_ns()}"
        for file in sorted(path.parent.glob(f"{path.name}*")):
            shutil.move(file, aside.with_name(file.name.replace(path.name, aside.name)))
        done = f"moved to {aside}"
    return f"{path}: damaged ({fault}); {done}; `semmae track` then records what lies here in a new one"


def damaged_texts(*, repair: bool) -> Iterator[str]:
    """Texts of a local tracking database that are none: MLflow shows no run at all where it meets one."""
    path = _sound_database()
    broken = run_damage.broken_texts(path, mend=repair) if path else {}
    if broken:
        told = ", ".join(f"{column} ({count})" for column, count in broken.items())
        done = "replaced by what can be read" if repair else "repair replaces them by what can be read"
        yield f"{path}: texts that keep MLflow from reading it: {told}; {done}"


def damaged_runs(*, repair: bool) -> Iterator[str]:
    """MLflow runs of a local database that are not what was written. Where MLflow cannot read it, it is moved aside."""
    path = _sound_database()
    if path is None:
        return
    try:
        damaged = run_damage.damaged_runs(path, remove=repair)
    except Exception as error:
        told = one_line(error)
        # Of another version of MLflow, it is whole: what to do is for people to say.
        if not any(words in told for words in NO_DAMAGE):
            yield _moved_aside(path, f"MLflow cannot read it: {told[:120]}", repair=repair)
            return
        raise ValueError(
            f"{path}: {told[:250]}; where that does not help, move it away and run `semmae track`"
        ) from error
    # Every tree's dvc.lock is read for it.
    places = _places({run.run_id: run.state for run in damaged}, forget=repair) if damaged else {}
    for run in damaged:
        again = places.get(run.run_id) or (f"where commit {run.commit[:10]} is checked out" if run.state else "")
        after = f"`semmae track` {again} writes them again" if again else "a walk that did not end is not written again"
        done = f"{'removed with all of its state' if repair else 'repair removes all of its state'}; {after}"
        yield f"{path}: runs that are not what was written: {', '.join(run.names)} of pipeline {run.run_id}; {done}"


def _places(states: Mapping[str, str], *, forget: bool) -> dict[str, str]:
    """Id of a run of the pipeline -> where the state that it recorded lies, for those that a tree has."""
    found = {}
    for tree, name in trees().items():
        with at(tree, name):
            present = "" if _fault(tree / "dvc.lock") else tracking.state_of()
            noted = dict([tracking.last_written()])
            found |= {
                run: f"in {tree}" for run, state in states.items() if present and present in (state, noted.get(run))
            }
            if forget:
                tracking.forget(states)
    return found


def _sound_database() -> Path | None:
    path = tracking.database()
    return None if path is None or tracking.fault_of(path) else path


def half_written_runs(*, repair: bool) -> Iterator[str]:
    """MLflow runs that say RUNNING and whose writer is gone."""
    uri = tracking.tracking_uri()
    if uri.startswith("sqlite:///") and _sound_database() is None:
        return
    done = "removed, the next replay writes it whole" if repair else "repair removes it"
    for name in tracking.repair(only_look=not repair):
        yield f"{redacted(uri)}: run {name} says RUNNING and its writer is gone; {done}"


def old_scratch(*, repair: bool) -> Iterator[str]:
    """Resume state that no job goes on from any more.

    What a killed job saved is precious, and whether its fingerprint still is that of a job cannot be told without hashing
    all data. So only a folder that no process holds and nothing was written to for `SCRATCH_DAYS` counts, and none while
    there is an unfinished experiment that began before its last checkpoint.
    """
    unfinished = [experiment.started for experiment in experiments() if experiment.status != FINISHED]
    for folder in sorted((state_folder() / "scratch").glob("*/*/")):
        # Of the folder, which every checkpoint that takes its place renews.
        written = folder.stat().st_mtime
        days = (time.time() - written) / 86400
        if days < SCRATCH_DAYS or any(started <= written for started in unfinished):
            continue
        try:
            held = lock(folder, folder.parent.name)
        except ValueError:
            continue
        with held:
            if repair:
                _remove(folder)
                with contextlib.suppress(OSError):  # other jobs' folders stand beside it
                    folder.parent.rmdir()
        yield f"{folder}: resume state that nobody used for {days:.0f} days; {'removed' if repair else 'repair removes it'}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def dead_services(*, repair: bool) -> Iterator[str]:
    """Servers that `semmae up` noted and that are gone."""
    path, found = state_folder() / "services" / "services.json", state()
    dead = [name for name, noted in found.items() if not is_alive(noted["process"])]
    if repair and dead:
        write_note(path, {name: noted for name, noted in found.items() if name not in dead})
    for name in dead:
        done = "forgotten, `semmae down` and `semmae up` start it again" if repair else "repair forgets it"
        yield f"{path}: {name} is gone ({found[name]['process']}); {done}"


def abandoned_stages(*, repair: bool) -> Iterator[str]:
    """Stages of our trees that still run although the walk that answers for them is gone: they should have ended themselves."""
    found: dict[int, tuple[psutil.Process, str]] = {}
    for process, supervisor in with_variable(SUPERVISOR):
        with contextlib.suppress(psutil.Error):
            is_ours = process.pid != os.getpid() and any(Path(process.cwd()).is_relative_to(tree) for tree in trees())
            if is_ours and not is_alive(supervisor) and time.time() - process.create_time() > ENDING_SECONDS:
                found[process.pid] = process, " ".join(" ".join(process.cmdline()).split())[:100]
    for pid, (process, command) in found.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.ppid() in found:
                continue
            if repair:
                end_tree(pid)
            yield f"process {pid} ({command}): its walk is gone; {'ended' if repair else 'repair ends it'}"


def dead_flow_runs(*, repair: bool) -> Iterator[str]:
    """Flow runs of this machine that Prefect shows as under way and whose process is gone; asked where a server is known."""
    if not api_url():
        return
    with flow_runs.client() as found:
        for run in flow_runs.dead_runs(found, trees()):
            done = f"set to {flow_runs.end(found, run)}" if repair else "repair ends it"
            yield f"{api_url()}: flow run {run.name} ({run.id}) says {run.state.name} and its process is gone; {done}"


def leaked_slots(*, repair: bool) -> Iterator[str]:
    """Slots of this machine's Prefect limits that are taken while no stage is at work on it."""
    if not api_url():
        return
    with flow_runs.client() as found:
        for limit, slots in flow_runs.leaked_slots(found, trees()).items():
            if repair:
                flow_runs.free(found, limit)
            yield f"{api_url()}: {slots} slots of {limit} taken by nobody; {'freed' if repair else 'repair frees them'}"


# What keeps MLflow from writing comes before the replays of a tree. What MLflow cannot read it keeps open, so that nothing in
# this process can write a new one: that comes after.
OF_THE_DATABASE = (damaged_database, damaged_texts)
OF_A_TREE = (damaged_state, dead_dvc_locks, damaged_dvc_lock, unreplayed_records, half_written_files)
OF_THE_MACHINE = (
    damaged_experiment_notes, damaged_runs, half_written_runs, old_scratch, dead_services, abandoned_stages,
    dead_flow_runs, leaked_slots,
)  # fmt: skip
