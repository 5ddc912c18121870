"""The report as one self-contained HTML page: pictures are data URIs, and the page loads nothing."""

from base64 import b64encode
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.protocols import HEADLINE, label_of
from reports.comparison import headline, percent, points, sentences, tone, values_of
from reports.gallery import SNAPSHOT_HEADS
from reports.material import Material
from reports.part_summary import PART_MEASURES
from reports.pictures import png
from reports.results import words
from reports.statistics import ENOUGH_SEEDS

HERE = Path(__file__).parent


def render(material: Material) -> str:
    """The page as HTML."""
    rows, results, arms = material.rows, material.results, material.arms
    trained = [arm for arm in material.others if arms[arm].mask != "none"]
    names = rows["protocol"].unique()
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
            baseline=material.baseline,
            trained=trained,
            untrained=[arm for arm in material.others if arm not in trained],
            definitions={arm: definition.model_dump() for arm, definition in arms.items()},
            verdict=[*sentences(rows), *_warnings(material)],
            rows=list(rows.itertuples()),
            leading=list(headline(rows).itertuples()),
            values=values_of(rows),
            seed_heads=[f"seed {seed}" for seed in results.seeds],
            further=[name for name in names if name not in HEADLINE],
            class_iou={
                f"{name}_miou": table.astype({"label": int}).pivot_table("value", "label", "arm")[results.arms]
                for name, table in results.class_iou.groupby("segmentation")
            },
            confusions={
                name.removeprefix("confusion_"): picture
                for name, picture in material.charts.items()
                if name.startswith("confusion_")
            },
            part_measures=[name for name in PART_MEASURES if name in material.parts.measures],
            snapshot_heads=SNAPSHOT_HEADS,
            enough_seeds=ENOUGH_SEEDS,
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
        "png": png,
        "points": points,
        "size": _size,
        "sort_value": lambda value: "" if pd.isna(value) else value,
        "uri": lambda picture: f"data:image/png;base64,{b64encode(picture).decode('ascii')}",
        "words": words,
    }
    result.globals |= {"interval": _interval, "part_measure": _part_measure, "percent": percent, "tone": tone}
    return result


def _size(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG; they stand at fixed places of its first chunk."""
    width, height = (int.from_bytes(picture[start : start + 4], "big") for start in (16, 20))
    return width, height


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{points(low)} to {points(high)}"


def _part_measure(name: str, value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.0f}" if name == "dead_parts" else f"{value:.3f}"


def _warnings(material: Material) -> list[str]:
    """What the data does not allow to measure."""
    test = material.test
    if len(test.classes) == 1:
        return ["The images are of one class: every classifier is right, and the accuracies say nothing."]
    if test.untested:
        return [f"No test image is of class {', '.join(test.untested)}: nothing is measured on it."]
    return []
