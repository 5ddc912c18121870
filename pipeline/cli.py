"""The command `semmae`. Each subcommand imports only what it needs, to answer in a fraction of a second."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from config.redaction import one_line
from pipeline import completions, entering
from pipeline.cli_runs import app as runs

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(runs)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"semmae {version('semmae')}")
        raise typer.Exit


@app.callback()
def semmae(
    is_asked: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version, and exit")
    ] = False,
) -> None:
    """Train SemMAE and MAE on your images, and compare them."""
    if "--help" not in sys.argv:
        entering.check_entered()


@app.command()
def preset(
    names: Annotated[
        list[str],
        typer.Argument(
            help="for example quickstart, small, or clothing10 table4; `list` prints all",
            autocompletion=completions.presets,
        ),
    ],
) -> None:
    """Write params.yaml from a preset; further presets are applied on top of it."""
    from config.presets import compose, preset_names, write_params

    if names == ["list"]:
        print("\n".join(preset_names()))
        return
    write_params(compose(*names), preset=" ".join(names))
    print(f"params.yaml: preset {' '.join(names)}; next: dvc repro")


@app.command()
def use(
    folder: Annotated[str, typer.Argument(help="folder or URL of your images, in any usual layout")],
) -> None:
    """Use your own images: print what a folder or a store (s3://BUCKET/PREFIX) holds, and set data in params.yaml to it."""
    from config.groups import LISTING
    from config.presets import check, read_document, validated, write_params
    from images.sources.tree import root_of, unhashable_entries, write_listing
    from images.sources.understanding import understand
    from pipeline.waiting import patience
    from shards.urls import check_url, is_url

    if is_url(folder):
        check_url(folder, "the folder")
    elif not Path(folder := str(entering.path(folder))).is_dir():
        raise ValueError(f"{folder}: not a folder; name the folder that holds your images, or a URL")
    document = read_document()
    data = document["data"]
    with patience(f"{folder}: listing"):
        odd = [] if is_url(folder) else unhashable_entries(folder)
        is_listed = bool(odd) or is_url(folder)
        # Whether there are masks is known below; an arm that needs them is refused only then.
        data.update(path=folder, watch=LISTING if is_listed else folder, generate=[], labels=[], attributes=[])
        data.update(part_truth=["masks"])
        understood = understand(validated(document, "params.yaml").data, labels=None)
    data.update(labels=["class"] * understood.has_labels, part_truth=["masks"] * understood.has_masks)
    print("\n".join(understood.lines))
    if is_listed:
        write_listing(root_of(folder), LISTING)
        why = f"{len(odd)} entries that DVC cannot hash, for example {odd[0][0]} ({odd[0][1]})" if odd else "a store"
        print(f"{why}: DVC watches {LISTING}; `semmae check` and `semmae run` renew it, `dvc repro` alone does not")
    write_params(check(document, "params.yaml"))
    values = ", ".join(f"{key} [{', '.join(data[key])}]" for key in ("labels", "part_truth"))
    print(f"params.yaml: data.path {folder}, {values}; next: dvc repro")


@app.command()
def download(name: Annotated[str, typer.Argument(help="a public data set; `list` prints all")]) -> None:
    """Download a public data set into data/NAME."""
    from images.downloads import download as fetch
    from images.downloads import names

    if name == "list":
        print("\n".join(names()))
        return
    folder = fetch(name, Path("data") / name)
    print(f"{folder}: ready; next: semmae use {folder}")


@app.command()
def teacher(
    source: Annotated[
        str, typer.Argument(help="a checkpoint file, or the name of an official one; `list` prints those")
    ],
    architecture: Annotated[str, typer.Option(help="timm model of the file's weights")] = "",
    image_size: Annotated[int, typer.Option(help="input size of the file's model, in pixels")] = 224,
) -> None:
    """Use a checkpoint as the teacher: writes its path and sha256 to params.yaml; later runs refuse any other file."""
    from config.presets import check, read_document, write_params
    from pipeline.weights import OFFICIAL, fetch, pin

    if source == "list":
        print("\n".join(OFFICIAL))
        return
    path = entering.path(source)
    if path.is_file():
        if not architecture:
            raise ValueError(f"{source}: name its timm model, for example --architecture vit_small_patch16_224")
    else:
        path = fetch(source)
        architecture, image_size = OFFICIAL[source].architecture, OFFICIAL[source].image_size
    document = read_document()
    digest = pin(document, path, architecture=architecture, image_size=image_size)
    write_params(check(document, "params.yaml"))
    print(f"params.yaml: teacher {path}, {architecture} at {image_size} pixels, sha256 {digest}; next: dvc repro")


@app.command()
def start(
    checkpoint: Annotated[
        Path, typer.Argument(help="file of MAE or SemMAE, or from `semmae export`", parser=entering.path)
    ],
) -> None:
    """Start pretraining from a checkpoint: writes its path and sha256 to params.yaml. pretrain.epochs 0 only evaluates it."""
    from config.presets import check, read_document, write_params
    from shards.files import sha256_of

    if not checkpoint.is_file():
        raise ValueError(f"{checkpoint}: no such checkpoint file")
    document = read_document()
    document["pretrain"].update(start=str(checkpoint), start_sha256=sha256_of(checkpoint))
    write_params(check(document, "params.yaml"))
    print(f"params.yaml: pretraining starts from {checkpoint}; next: dvc repro")


@app.command()
def check() -> None:
    """Check the parameters, and print what the images are taken for."""
    from pipeline.checking import check_images, check_input
    from pipeline.waiting import patience

    with patience("listing"):
        lines = [check_input(), *check_images()]
    print("\n".join(lines))


@app.command()
def summary() -> None:
    """Print the comparison table and the paths of all results."""
    from pipeline.scheduling.services import results_page
    from pipeline.tracking.client import tracking_uri
    from reports.table import print_summary

    print_summary(Path(), results_page() or tracking_uri())


@app.command()
def compare(
    before: Annotated[
        str, typer.Argument(help="commit, branch, tag, DVC experiment, or `workspace` for the current files")
    ],
    after: Annotated[str, typer.Argument(help="the same, for the other side")] = "workspace",
) -> None:
    """Show the differences between two commits or experiments: parameters, data, code and results."""
    from pipeline.revisions import print_changes

    print_changes(before, after)


@app.command()
def plots(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(help="commits or experiments to compare; default: only the current files"),
    ] = None,
) -> None:
    """Draw curves and accuracies in a page that needs no network; from then on `dvc plots` draws such pages too."""
    from pipeline.plots import prepare

    prepare()
    words = ["diff", *revisions] if revisions else ["show"]
    raise SystemExit(subprocess.run([sys.executable, "-m", "dvc", "plots", *words], check=False).returncode)


@app.command()
def show(
    images: Annotated[list[Path], typer.Argument(help="image files", parser=entering.path)],
    out: Annotated[Path, typer.Option(help="folder for the pictures", parser=entering.path)] = Path("parts_of"),
) -> None:
    """Draw the learned parts of any images; files that cannot be read are reported and skipped."""
    from config.params import load_params
    from reports.show import show as draw
    from training.compute import set_up

    params = load_params()
    device = set_up(**params.compute.model_dump()).device
    all_drawn = True
    for shown in draw(images, out, max_pixels=params.data.max_pixels, device=device):
        if shown.picture is not None:
            print(shown.picture)
        else:
            all_drawn = False
            print(f"error: {one_line(shown.source)}: {one_line(shown.problem)}", file=sys.stderr)
    raise SystemExit(not all_drawn)


@app.command()
def export(
    job: Annotated[str, typer.Argument(help="ARM-SEED, for example semmae-0", autocompletion=completions.jobs)],
    layout: Annotated[
        str, typer.Option("--format", help="timm, hf (transformers' ViTMAE) or mae (the published code)")
    ],
    out: Annotated[
        Path | None, typer.Option(help="new folder; default: exported/ARM-SEED-FORMAT", parser=entering.path)
    ] = None,
    finetuned: Annotated[bool, typer.Option(help="export the fine-tuned classifier (timm only)")] = False,
) -> None:
    """Export a run's weights for timm, transformers or MAE's code, with a model card."""
    from config.params import load_params
    from pipeline.exporting import export as write

    target = out or Path("exported") / f"{job}-{'classifier' if finetuned else layout}"
    write(job, layout, target, load_params(), finetuned=finetuned)
    print(f"{target}: weights, configuration and card")


@app.command()
def track() -> None:
    """Add to MLflow the runs that DVC has recorded and MLflow does not have yet."""
    from pipeline.tracking.__main__ import main as replay

    replay()


def main() -> None:
    """Run a command; an error that the user can fix is one line and exit code 1."""
    try:
        entering.enter()
        app()
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None
