"""The report as one self-contained HTML page: pictures are data URIs, and the page loads nothing."""

from base64 import b64encode
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.protocols import SEGMENTED, find, label_of
from reports import comparison
from reports.gallery import SNAPSHOT_HEADS
from reports.lettering import class_names
from reports.material import Material
from reports.part_summary import LEADING_MEASURES, PART_MEASURES
from reports.pictures import exact_webp, webp
from reports.results import words
from reports.statistics import ENOUGH_SEEDS, TOO_FEW_IMAGES

HERE = Path(__file__).parent
# Classes that a warning names.
MOST_NAMES = 8


def render(material: Material) -> str:
    """The page as HTML."""
    rows, results, arms = material.rows, material.results, material.arms
    trained = [arm for arm in material.others if arms[arm].mask != "none"]
    leading = comparison.headline(rows)
    further = [name for name in rows["protocol"].unique() if name not in set(leading["protocol"])]
    segmented = [name for name in further if find(name)[0].stages == SEGMENTED]
    style, script = (Markup((HERE / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            vars(material),
            style=style,
            script=script,
            arms=results.arms,
            seeds=results.seeds,
            trained=trained,
            untrained=[arm for arm in material.others if arm not in trained],
            definitions={arm: definition.model_dump() for arm, definition in arms.items()},
            verdict=[*comparison.sentences(rows), *_warnings(material)],
            rows=list(rows.itertuples()),
            leading=list(leading.itertuples()),
            measured=comparison.measured(leading),
            test_sets="" if leading.empty else comparison.test_sets(leading),
            has_labels=comparison.has_labels(rows),
            no_accuracy=f"{comparison.NO_ACCURACY} {comparison.WHERE_TO_JUDGE}",
            validation=comparison.VALIDATION,
            values=comparison.values_of(rows),
            seed_heads=[f"seed {seed}" for seed in results.seeds],
            further=[name for name in further if name not in segmented],
            segmented=segmented,
            class_iou={
                f"{name}_miou": table.astype({"label": int}).pivot_table("value", "label", "arm")[results.arms]
                for name, table in results.class_iou.groupby("segmentation")
            },
            confusions={
                name.removeprefix("confusion_"): picture
                for name, picture in material.charts.items()
                if name.startswith("confusion_")
            },
            numbered={
                drawn: name
                for drawn, name in zip(class_names(material.test.classes), material.test.classes, strict=True)
                if drawn.startswith("class #")
            },
            csv=_uri(comparison.to_csv(rows).encode(), "text/csv"),
            leading_measures=LEADING_MEASURES,
            snapshot_heads=SNAPSHOT_HEADS,
            enough_seeds=ENOUGH_SEEDS,
            too_few_images=TOO_FEW_IMAGES,
        )
    )


def environment() -> Environment:
    """jinja2 with the project's filters; text is escaped, and a per cent sign stays with its number."""
    result = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value.replace(" %", "\u00a0%") if type(value) is str else value,
    )
    result.filters |= {
        "count": lambda number: f"{int(number):,}",
        "label": label_of,
        "measure": PART_MEASURES.get,
        "points": comparison.points,
        "sort_value": lambda value: "" if pd.isna(value) else value,
        "chart": lambda pixels: _uri(exact_webp(pixels)),
        "photograph": lambda pixels: _uri(webp(pixels)),
        "words": words,
    }
    result.globals |= {
        "interval": _interval, "loss": comparison.loss, "part_measure": _part_measure, "percent": comparison.percent,
        "rank": _rank, "tone": comparison.tone,
    }  # fmt: skip
    return result


def _uri(content: bytes, kind: str = "image/webp") -> str:
    return f"data:{kind};base64,{b64encode(content).decode('ascii')}"


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{comparison.points(low)} to {comparison.points(high)}"


def _rank(mean: float, se: float) -> str:
    return f"{mean:.1f}" + (f" ± {se:.1f}" if pd.notna(se) else "")


def _part_measure(name: str, value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.0f}" if name == "dead_parts" else f"{value:.3f}"


def _warnings(material: Material) -> list[str]:
    """What the data does not allow to measure."""
    test, unlabelled, lines = material.test, material.results.data["unlabelled_images"], []
    if not test.classes:
        by_others = comparison.headline(material.rows)["protocol"].str.contains("/").any()
        return ["The images have no class labels: other data sets judge the encoders."] if by_others else []
    if test.untested:
        names, more = ", ".join(test.untested[:MOST_NAMES]), len(test.untested) - MOST_NAMES
        lines.append(
            f"No test image is of class {names}{f' and {more} more' if more > 0 else ''}: nothing is measured on it."
        )
    if unlabelled:
        lines.append(f"{unlabelled:,} images have no label: encoders learn from them, and no accuracy counts them.")
    return lines
