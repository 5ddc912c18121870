"""The console script `semmae`. Commands import what they need, so that each answers in a fraction of a second."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from config.redaction import one_line, redacted
from pipeline.cli_runs import app as runs

# What DVC watches in place of a folder that it cannot hash.
LISTING = Path("data/listing.txt")

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split(".")[0]
)
app.add_typer(runs)


@app.command()
def preset(
    names: Annotated[list[str], typer.Argument(help="quickstart, small, clothing10 table4, ...; `list` names all")],
) -> None:
    """Write params.yaml from a preset, or from one and what others change of it."""
    from config.presets import compose, preset_names, write_params

    if names == ["list"]:
        print("\n".join(preset_names()))
        return
    write_params(compose(*names), preset=" ".join(names))
    print(f"params.yaml: preset {' '.join(names)}; next: dvc repro")


@app.command()
def use(
    folder: Annotated[
        str, typer.Argument(help="your images: <class>/*, train|val|test/<class>/* or Parquet shards; a path or a URL")
    ],
) -> None:
    """Point params.yaml at a folder of your own images, here or in a store (s3://BUCKET/PREFIX)."""
    from config.presets import check, read_document, write_params
    from images.sources.roots import root_of
    from images.sources.source import unhashable_entries, write_listing
    from shards.urls import check_url, is_url

    if is_url(folder):
        check_url(folder, "the folder")
    elif not Path(folder).is_dir():
        raise ValueError(f"{folder}: not a folder; name the folder that holds your images, or a URL")
    else:
        folder = str(Path(folder))
    root = root_of(folder)
    document = read_document()
    data = document["data"]
    data["path"] = data["watch"] = folder
    data["generate"] = []
    data["part_truth"] = ["masks"] if b"masks" in root.subfolders() else []
    odd = [] if is_url(folder) else unhashable_entries(folder)
    if odd or is_url(folder):
        write_listing(root, LISTING)
        data["watch"] = str(LISTING)
        why = f"{len(odd)} entries that DVC cannot hash, for example {odd[0][0]} ({odd[0][1]})" if odd else "a store"
        print(f"{why}: DVC watches {LISTING}; `semmae check` brings that up to date")
    write_params(check(document, "params.yaml"))
    print(f"params.yaml: data.path {folder}; next: dvc repro")


@app.command()
def download(name: Annotated[str, typer.Argument(help="a public data set; `list` names all")]) -> None:
    """Fetch a public data set into data/NAME (needs a network)."""
    from images.downloads import download as fetch
    from images.downloads import names

    if name == "list":
        print("\n".join(names()))
        return
    folder = fetch(name, Path("data") / name)
    print(f"{folder}: ready; next: semmae use {folder}")


@app.command()
def teacher(
    source: Annotated[str, typer.Argument(help="a checkpoint file, or an official one by name; `list` names those")],
    architecture: Annotated[str, typer.Option(help="timm name that the weights of a file fit")] = "",
    image_size: Annotated[int, typer.Option(help="pixels that images are resized to for a file's teacher")] = 224,
) -> None:
    """Make a checkpoint the teacher: params.yaml names it and its sha256, and no other file is accepted afterwards."""
    from config.presets import check, read_document, write_params
    from pipeline.weights import OFFICIAL, fetch, pin

    if source == "list":
        print("\n".join(OFFICIAL))
        return
    if Path(source).is_file():
        path = Path(source)
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
def start(checkpoint: Annotated[Path, typer.Argument(help="a file of MAE, SemMAE, or of `semmae export`")]) -> None:
    """Start pretraining from a checkpoint: params.yaml names it and its sha256. With pretrain.epochs 0 it is only evaluated."""
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
    """Check parameters and data folder before any work."""
    from config.params import load_params, load_runtime
    from images.sources.roots import root_of
    from images.sources.source import unhashable_entries, write_listing

    params, _ = load_params(), load_runtime()
    data = params.data
    if not data.generate:
        root = root_of(data.path)
        if data.watch == str(LISTING):
            write_listing(root, LISTING)
        odd = next(iter(unhashable_entries(data.path)), None) if data.watch == data.path else None
        if odd is not None:
            raise ValueError(
                f"data.watch: DVC cannot hash {odd[0]} ({odd[1]}); run `semmae use {data.path}`, which makes a listing"
            )
    arms, seeds = ", ".join(params.arms.names), ", ".join(map(str, params.seeds))
    print(f"params.yaml: valid; data {data.path}; arms {arms}; seeds {seeds}")


@app.command()
def summary() -> None:
    """Print the comparison table and where everything lies."""
    from pipeline.tracking.client import tracking_uri
    from reports.table import print_summary

    print_summary(Path(), tracking_uri())


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="commit, branch, tag or DVC experiment; `workspace` is what lies here")],
    after: Annotated[str, typer.Argument(help="another one")] = "workspace",
) -> None:
    """Show what two commits or experiments differ in: parameters, data, code and results."""
    from pipeline.revisions import print_changes

    print_changes(before, after)


@app.command()
def show(
    images: Annotated[list[Path], typer.Argument(help="image files")],
    out: Annotated[Path, typer.Option(help="folder of the pictures")] = Path("parts_of"),
) -> None:
    """Draw the learned parts of any images; a file that cannot be read is named, and the others are drawn."""
    from config.params import load_params
    from reports.show import show as draw
    from training.compute import set_up

    params = load_params()
    device = set_up(**params.compute.model_dump()).device
    is_whole = True
    for shown in draw(images, out, max_pixels=params.data.max_pixels, device=device):
        if shown.picture is not None:
            print(shown.picture)
        else:
            is_whole = False
            print(f"error: {one_line(shown.source)}: {one_line(shown.problem)}", file=sys.stderr)
    raise SystemExit(not is_whole)


@app.command()
def export(
    job: Annotated[str, typer.Argument(help="ARM-SEED, for example semmae-0")],
    layout: Annotated[
        str, typer.Option("--format", help="timm, hf (transformers' ViTMAE) or mae (its published code)")
    ],
    out: Annotated[Path | None, typer.Option(help="new folder; default exported/ARM-SEED-FORMAT")] = None,
    finetuned: Annotated[bool, typer.Option(help="the fine-tuned classifier; timm alone")] = False,
) -> None:
    """Write a run's weights as another package reads them, with a model card."""
    from config.params import load_params
    from pipeline.exporting import export as write

    target = out or Path("exported") / f"{job}-{'classifier' if finetuned else layout}"
    write(job, layout, target, load_params(), finetuned=finetuned)
    print(f"{target}: weights, configuration and card")


@app.command()
def track() -> None:
    """Replay into MLflow what DVC has recorded and MLflow does not know yet."""
    from pipeline.tracking.client import tracking_uri
    from pipeline.tracking.replay import replay

    print(f"{len(replay().runs)} stages recorded in {redacted(tracking_uri())}")


def main() -> None:
    """Run a command; a mistake to mend is one line and exit 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None
