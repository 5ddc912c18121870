"""The commands of `semmae` that run the pipeline and manage its runs."""

import json
import sys
from typing import Annotated, Any

import typer

from pipeline import completions

app = typer.Typer()


@app.command()
def run(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="stages to run, with everything they need; default: all", autocompletion=completions.stages
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="take the parameters from a preset; your images stay", autocompletion=completions.presets),
    ] = "",
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="arm to compare, instead of those in params.yaml; repeatable", autocompletion=completions.arms
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="seed, instead of those in params.yaml; repeatable")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="change a parameter: group.name=value; repeatable", autocompletion=completions.changes
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="save the run as a DVC experiment of this name")] = "",
    force: Annotated[bool, typer.Option(help="also run stages that did not change")] = False,
    dry: Annotated[bool, typer.Option(help="only list the stages that would run")] = False,
) -> None:
    """Run the stages that changed, independent ones side by side on this machine's cores or GPUs.

    Parameters other than those of params.yaml make a DVC experiment in a git worktree of its own; this tree stays as it is.
    Prefect shows the run if its server is up (`semmae up`, or PREFECT_API_URL).
    """
    from config.params import load_params
    from pipeline.checking import check_repository, renew_listing
    from pipeline.experiments import draft
    from pipeline.parameters import added_arms, changed, is_as_here, parse_changes
    from pipeline.running import nothing_to_run, run_plainly

    check_repository()
    document, origin = changed(preset=preset, arms=arm or (), seeds=seed or (), changes=parse_changes(change or []))
    if added := added_arms(document, arm or ()):
        print(added)
    renew_listing(load_params().data)
    what: dict[str, Any] = {"targets": targets or (), "force": force}
    if is_as_here(document) and not name:
        if nothing_to_run(**what, dry=dry) or dry:
            return
    elif dry:
        with draft(document, preset=origin) as folder:
            nothing_to_run(folder, **what, dry=True)
        return
    from pipeline.scheduling.services import api_url

    if api_url():
        from pipeline.scheduling.launch import run_under_prefect

        raise SystemExit(run_under_prefect(document, name=name, preset=origin, **what))
    outcomes = run_plainly(document, name=name, preset=origin, **what)
    raise SystemExit(not all(outcome.is_done for outcome in outcomes))


@app.command()
def status(
    check: Annotated[bool, typer.Option(help="print only the count, and exit with 1 if anything would run")] = False,
) -> None:
    """Check parameters and images, then show which stages would run and why."""
    from pipeline.checking import check_input
    from pipeline.graph import Graph

    print(check_input())
    graph = Graph()
    for name in graph.changes if not check else ():
        print("\n".join(graph.explain(name)))
    changed, more = len(graph.changes), len(graph.affected()) - len(graph.changes)
    rest = f", {more} more if their inputs change" if more else ""
    print(f"{changed} of {len(graph.stages)} stages would run{rest}" if changed else "nothing would run")
    raise SystemExit(check and bool(changed))


@app.command()
def explain(
    stage: Annotated[
        str, typer.Argument(help="name in DVC, for example pretrain@semmae-0", autocompletion=completions.stages)
    ],
) -> None:
    """Show why a stage would run, or why it ran the last time: which inputs changed, from what to what."""
    from pipeline.explaining import lines_about

    print("\n".join(lines_about(stage)))


@app.command()
def runs() -> None:
    """List this tree, its commits and their experiments: arms, seeds, changed parameters, and the leading accuracies."""
    from pipeline.runs import print_runs

    print_runs()


@app.command()
def gc(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="also delete these interrupted experiments", autocompletion=completions.experiments),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="delete without asking")] = False,
) -> None:
    """List the experiments and delete the worktrees of finished ones; the experiments themselves stay in DVC."""
    from config.names import did_you_mean
    from pipeline.experiments import FINISHED, RUNNING, experiments, remove

    by_name = {experiment.name: experiment for experiment in experiments()}
    for experiment in by_name.values():
        print(f"{experiment.name}: {experiment.status}, {experiment.folder}")
    for name in names or ():
        if name not in by_name:
            raise ValueError(f"experiment {name}: there is no such worktree{did_you_mean(name, by_name)}")
        if by_name[name].status == RUNNING:
            raise ValueError(f"experiment {name}: is running; cancel it first")
    chosen = [one for one in by_name.values() if one.status == FINISHED or one.name in (names or ())]
    if not chosen:
        print("nothing to delete: no experiment here is finished; `semmae gc NAME` deletes an interrupted one")
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"delete {len(chosen)} worktrees?")):
        print(f"nothing deleted; with --yes: {', '.join(one.name for one in chosen)}")
        return
    for experiment in chosen:
        remove(experiment)
        how = f"; `dvc exp apply {experiment.name}` restores its files" if experiment.status == FINISHED else ""
        print(f"deleted {experiment.folder}{how}")


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="port of the Prefect server")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="port of the MLflow server")] = 5000,
    host: Annotated[
        str,
        typer.Option(
            help="address that both listen on; no authentication: whoever reaches the port can run code as you"
        ),
    ] = "127.0.0.1",
) -> None:
    """Start Prefect, a worker and MLflow on this machine, and register the pipeline with the arms of params.yaml."""
    from pipeline.scheduling.services import up as start

    start(prefect_port=prefect_port, mlflow_port=mlflow_port, host=host)


@app.command()
def down() -> None:
    """Stop the servers that `semmae up` started, and nothing else."""
    from pipeline.scheduling.services import down as end

    end()


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option(help="repair the findings")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="a line for every finding, instead of one a kind")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, for scripts")] = False,
) -> None:
    """Show this machine, and what dead processes left: locks, runs shown as running, damaged files; 1 if anything is left."""
    from pipeline.doctor.checks import examine
    from pipeline.doctor.environment import environment
    from pipeline.doctor.findings import as_document, lines_of

    facts, findings = environment(), examine(repair=repair)
    left = examine(repair=False) if repair and findings else findings
    if as_json:
        print(json.dumps(as_document(facts, findings, left), indent=2))
    else:
        print("\n".join(lines_of(facts, findings, left, verbose=verbose)))
    raise SystemExit(bool(left))


@app.command()
def register(
    arm: Annotated[
        str,
        typer.Argument(
            help="arm whose encoder with the best linear probe is registered", autocompletion=completions.arms
        ),
    ],
) -> None:
    """Register an arm's best encoder in MLflow: safetensors for timm, and a program for mlflow.pytorch."""
    from pipeline.tracking.registering import register as write

    print(write(arm))
