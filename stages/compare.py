"""All metrics -> one table, charts and a report."""

from pathlib import Path

from config.params import load_params
from evaluation.protocols import sources
from jobs.metrics import write_metrics
from jobs.recorded import check_recorded
from jobs.stage import run
from reports.comparison import compare, flat_metrics, sentences, to_csv
from reports.material import Material, gather, sheets
from reports.page import render
from reports.results import curves_csv, read_results
from shards.files import whole_file, whole_folder, write_text
from training.compute import set_up

FOLDER = Path("report")


def main() -> None:
    """`python -m stages.compare`."""
    params = load_params()
    compute = set_up(**params.compute.model_dump())
    names, group = params.arms.names, params.compare
    check_recorded("metrics", "history")
    results = read_results(
        Path(),
        arms=names,
        seeds=params.seeds,
        part_truth=bool(params.data.part_truth),
        sources=list(sources(params)),
    )
    rows = compare(results, baseline=group.baseline, confidence=group.confidence, resamples=group.resamples)
    material = gather(
        results,
        rows,
        baseline=group.baseline,
        arms={name: params.arms.definitions[name] for name in names},
        ratio=params.pretrain.mask_ratio,
        hint_share=params.pretrain.hint_share,
        pictures=group.pictures,
        mask_images=group.mask_images,
        device=compute.device,
    )
    write_text(FOLDER / "comparison.csv", to_csv(rows))
    write_text(FOLDER / "curves.csv", curves_csv(results))
    write_metrics(FOLDER / "metrics.json", {**flat_metrics(rows), **other_metrics(material)})
    with whole_folder(FOLDER / "figures") as folder:
        for name, picture in sheets(material).items():
            with whole_file(folder / f"{name}.png") as file:
                file.write(picture)
    write_text(FOLDER / "report.html", render(material))
    print(" ".join(sentences(rows)))


def other_metrics(material: Material) -> dict[str, float]:
    """Hidden ratios by arm and progress, validation losses, the test set, part quality, and the teacher's metrics."""
    spreads = {
        f"{arm}/hidden_ratio_std/{progress:g}": value
        for arm, values in material.masks.spreads.items()
        for progress, value in values.items()
    }
    losses = {
        f"{arm}/val_loss/{name}": value
        for name, values in material.results.val_losses.items()
        for arm, value in values.dropna().items()
    }
    test: dict[str, float] = {"test/classes": len(material.test.classes)}
    if material.test.classes:
        test |= {"test/largest_class": material.test.largest_class, "test/chance": material.test.chance}
    parts = {f"parts/{name}": value for name, value in material.results.parts.items()}
    teacher = {f"teacher/{name}": value for name, value in material.results.teacher.items()}
    return {**spreads, **losses, **test, **parts, **teacher}


if __name__ == "__main__":
    run(main)
