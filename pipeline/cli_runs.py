"""The commands of `semmae` that run the pipeline and look after its runs."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def run(
    targets: Annotated[
        list[str] | None, typer.Argument(help="stages that are wanted, with what they need; default all")
    ] = None,
    preset: Annotated[str, typer.Option(help="parameters of a preset instead of params.yaml; the images stay")] = "",
    arm: Annotated[
        list[str] | None, typer.Option(help="an arm to compare, instead of those of params.yaml; several")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="a seed, instead of those of params.yaml; several")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="group.name=value; several")] = None,
    name: Annotated[str, typer.Option(help="make it a DVC experiment of this name")] = "",
    force: Annotated[bool, typer.Option(help="run stages that did not change as well")] = False,
    dry: Annotated[bool, typer.Option(help="only say what would run")] = False,
) -> None:
    """Run the stages that changed, independent ones side by side on the cores or GPUs there are.

    With other parameters than those of params.yaml it works in a git worktree of its own, and its result becomes a DVC
    experiment: this tree stays as it is. Where servers are up (`semmae up`, or PREFECT_API_URL) they show the run.
    """
    from pipeline.experiments import changed, draft, is_as_here
    from pipeline.running import nothing_to_run, run_plainly

    document, origin = changed(preset=preset, arms=arm or (), seeds=seed or (), changes=parse_changes(change or []))
    wanted = {"targets": targets or (), "force": force}
    if is_as_here(document) and not name:
        if nothing_to_run(**wanted, dry=dry) or dry:
            return
    elif dry:
        with draft(document, preset=origin) as folder:
            nothing_to_run(folder, **wanted, dry=True)
        return
    from pipeline.scheduling.services import api_url

    if api_url():
        from pipeline.scheduling.flow import run_under_prefect

        raise SystemExit(run_under_prefect(document, name=name, preset=origin, **wanted))
    outcomes = run_plainly(document, name=name, preset=origin, **wanted)
    raise SystemExit(not all(outcome.is_done for outcome in outcomes))


def parse_changes(words: list[str]) -> dict[str, Any]:
    """`group.name=value` as a mapping; values as YAML 1.2 reads them."""
    from ruamel.yaml import YAML, YAMLError

    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {word}: expected group.name=value")
        try:
            found[key] = YAML(typ="safe", pure=True).load(value)
            json.dumps(found[key])
        except (YAMLError, TypeError):
            raise ValueError(f"--set {word}: {value} is neither number, text, true, false nor a list of them") from None
    return found


@app.command()
def status(
    check: Annotated[bool, typer.Option(help="say nothing of details, and end with 1 if anything would run")] = False,
) -> None:
    """Check everything, then show what would run and why."""
    from jobs.dvc_lock import stage_entries
    from pipeline.cli import check as check_input
    from pipeline.graph import Graph, explain

    check_input()
    graph = Graph()
    affected = graph.affected()
    if not check:
        entries = stage_entries(Path("dvc.lock"))
        for name, changes in graph.changes.items():
            for line in explain(name, changes, entries.get(name), digests=graph.digests):
                print(line)
    print(f"{len(affected)} of {len(graph.stages)} stages would run" if affected else "nothing would run")
    raise SystemExit(check and bool(affected))


@app.command()
def explain(stage: Annotated[str, typer.Argument(help="as DVC names it, for example pretrain@semmae-0")]) -> None:
    """Say why a stage would run, or why it ran the last time: which input changed, from what to what."""
    from pipeline.explaining import lines_about

    print("\n".join(lines_about(stage)))


@app.command()
def gc(
    names: Annotated[
        list[str] | None, typer.Argument(help="experiments to give up as well, interrupted as they are")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="remove without asking")] = False,
) -> None:
    """Remove the worktrees of finished experiments, after showing them; the experiments themselves stay in DVC."""
    from pipeline.experiments import FINISHED, RUNNING, experiments, remove

    found = {experiment.name: experiment for experiment in experiments()}
    for experiment in found.values():
        print(f"{experiment.name}: {experiment.status}, {experiment.folder}")
    for name in names or ():
        if name not in found or found[name].status == RUNNING:
            raise ValueError(
                f"experiment {name}: {'cancel it first' if name in found else 'there is no such worktree'}"
            )
    chosen = [one for one in found.values() if one.status == FINISHED or one.name in (names or ())]
    if not chosen:
        print("nothing to remove: no experiment here is finished; `semmae gc NAME` gives up an interrupted one")
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"remove {len(chosen)} worktrees?")):
        print(f"nothing removed; with --yes: {', '.join(one.name for one in chosen)}")
        return
    for experiment in chosen:
        remove(experiment)
        back = f"; `dvc exp apply {experiment.name}` brings its files back" if experiment.status == FINISHED else ""
        print(f"removed {experiment.folder}{back}")


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="of the Prefect server")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="of the MLflow server")] = 5000,
    host: Annotated[
        str,
        typer.Option(
            help="address that both listen on; neither asks who somebody is, so others than you run code here"
        ),
    ] = "127.0.0.1",
) -> None:
    """Start the Prefect server, a worker and the MLflow server on this machine, and register the pipeline."""
    from pipeline.scheduling.services import up as start

    start(prefect_port=prefect_port, mlflow_port=mlflow_port, host=host)


@app.command()
def down() -> None:
    """End what `semmae up` started, and nothing else."""
    from pipeline.scheduling.services import down as end

    end()


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option(help="mend what was found")] = False,
) -> None:
    """Find what dead processes left: locks, runs shown as running, slots, damaged files; ends with 1 if there is any."""
    from pipeline.doctor.checks import examine

    found = examine(repair=repair)
    for line in found:
        print(line)
    left = examine(repair=False) if repair and found else found
    if repair and found:
        print(f"{len(found)} findings, {len(left)} left" if left else f"{len(found)} findings, all mended")
    else:
        print(f"{len(found)} findings; `semmae doctor --repair` mends them" if found else "all is well")
    raise SystemExit(bool(left))


@app.command()
def register(
    arm: Annotated[str, typer.Argument(help="whose encoder with the best linear probe goes into the registry")],
) -> None:
    """Register an arm's best encoder in MLflow: safetensors for timm, and a program that mlflow.pytorch loads."""
    from pipeline.tracking.registering import register as write

    print(write(arm))
