"""The report's section of scores: every arm by every protocol, and how sure the differences are."""

from collections.abc import Callable, Sequence
from html import escape

from reports.comparison import Row, headline, percent, points
from reports.material import Material
from reports.page import Cell, Section, arm_cell, chart, details, group, paragraph, table
from reports.results import HEADLINE, label_of, words
from reports.statistics import ENOUGH_SEEDS, HIGHER, LOWER

LONG_CAPTION = (
    "Accuracies in %, differences and their intervals in points: Student-t over seeds, and bootstrap over test images with "
    "the networks as they are."
)


def scores(material: Material) -> Section:
    """Table, charts, and what the words mean."""
    told = headline(material.rows)
    protocols = list(dict.fromkeys(row.protocol for row in told))
    body = []
    for arm in material.results.arms:
        mine = {row.protocol: row for row in told if row.arm == arm}
        body.append([arm_cell(arm, material.colours[arm]), *(_score_cell(mine[name]) for name in protocols)])
    seeds, images = len(material.results.seeds), material.results.test_images
    caption = (
        f"Accuracy on {images:,} test images, %: mean ± standard error over {seeds} seed{'s' * (seeds > 1)}. Below it "
        f"the difference to {words(material.baseline)} in points, paired by seed. Always naming the largest class "
        f"gives {100 * material.chance:.1f} %."
    )
    html = table(["arm", *(label_of(name) for name in protocols)], body, caption=caption, style="stack")
    pieces = [
        chart(
            material.charts["accuracies"],
            alt=_told(told, lambda row: percent(row.mean, row.se)),
            caption="Every seed (small), the mean (large) and its standard error (bar).",
        )
    ]
    if material.others:
        apart = [row for row in told if not row.is_baseline]
        pieces.append(
            chart(
                material.charts["differences"],
                alt=_told(apart, lambda row: f"{points(row.difference)} points, {row.verdict}"),
                caption=f"Paired differences: standard error (thick) and {100 * told[0].confidence:g} % Student-t "
                "interval (thin; an arrow where it leaves the chart). What crosses 0 is not shown to differ.",
            )
        )
    html += group(pieces, style="charts")
    html += _further_table(material)
    html += _confusions(material)
    html += _per_class(material)
    html += details("All protocols, intervals and seeds", _long_table(material))
    html += details("How to read the verdicts", paragraph(_reading(told[0])))
    return Section("comparison", "Accuracy by arm", "Accuracy", html)


def _further_table(material: Material) -> str:
    """The protocols beside the headline, a row each: robustness, few labels, other data sets."""
    further = [row for row in material.rows if row.protocol not in HEADLINE]
    protocols = list(dict.fromkeys(row.protocol for row in further))
    if not protocols:
        return ""
    found = {(row.arm, row.protocol): row for row in further}
    arms = material.results.arms
    body = [
        [Cell(escape(label_of(name)), label_of(name)), *(_score_cell(found[arm, name]) for arm in arms)]
        for name in protocols
    ]
    caption = (
        "Further protocols, in %: other ways to look at the same features, few labels, images with patches away, and "
        "other data sets."
    )
    return table(["protocol", *(words(arm) for arm in arms)], body, caption=caption, style="stack")


def _confusions(material: Material) -> str:
    """Confusion matrices of the fine-tuned classifiers, where there are few classes."""
    pieces = []
    for name, found in material.charts.items():
        arm = words(name.removeprefix("confusion_"))
        if name.startswith("confusion_"):
            told = (
                f"{arm}, fine-tuned: true classes (rows) and what they are called (columns), % of the row, all seeds."
            )
            pieces.append(chart(found, alt=f"Confusion matrix. {told}", caption=told))
    return group(pieces, style="charts") if pieces else ""


def _per_class(material: Material) -> str:
    """IoU by class of each segmentation and head, behind a fold."""
    results, html = material.results, ""
    for name in results.names:
        by_arm = {arm: results.by_class(arm, name.removesuffix("_miou")) for arm in results.arms}
        if not name.endswith("_miou") or not all(by_arm.values()):
            continue
        labels = sorted({label for found in by_arm.values() for label in found}, key=int)
        body = [
            [
                Cell(label, int(label)),
                *(Cell(percent(found.get(label)), found.get(label, "")) for found in by_arm.values()),
            ]
            for label in labels
        ]
        caption = f"IoU by class, %, mean over seeds: {label_of(name)}. A class is its value in the masks."
        told = table(["class", *map(words, by_arm)], body, caption=caption, style="dense")
        html += details(f"{label_of(name)} by class", told)
    return html


def _reading(row: Row) -> str:
    return (
        "Arms of one seed start from the same weights and see the same images in the same crops, so differences are "
        f"taken seed by seed. From {ENOUGH_SEEDS} seeds on an arm is called higher or lower when the "
        f"{100 * row.confidence:g} % interval of its difference excludes 0. With fewer seeds the most that is said is "
        "a direction, when all seeds agree in sign. “No difference shown” does not mean that there is none. Choices "
        "such as the probe's penalty are made on the validation images; the test images are used once. The intervals "
        "are not corrected for the number of comparisons."
    )


def _long_table(material: Material) -> str:
    seeds = [f"seed {seed}" for seed in material.results.seeds]
    body = [
        [
            arm_cell(row.arm, material.colours[row.arm]),
            Cell(escape(label_of(row.protocol)), style="text"),
            Cell(percent(row.mean, row.se), row.mean),
            Cell(points(row.difference), "" if row.difference is None else row.difference, _tone(row)),
            Cell(
                _interval(row.difference_low, row.difference_high),
                "" if row.difference_low is None else row.difference_low,
            ),
            Cell(_interval(row.images_low, row.images_high), "" if row.images_low is None else row.images_low),
            Cell(escape(row.verdict), style=f"text {_tone(row)}".strip()),
            *(Cell(percent(value), value) for value in row.values),
        ]
        for row in material.rows
    ]
    columns = ["arm", "protocol", "mean ± se", "difference", "over seeds", "over images", "verdict", *seeds]
    return table(
        columns,
        body,
        caption=LONG_CAPTION,
        style="dense",
    )


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{points(low)} to {points(high)}"


def _score_cell(row: Row) -> Cell:
    below = "baseline" if row.is_baseline else f"{points(row.difference)} · {row.verdict}"
    value = f'<span class="value">{percent(row.mean, row.se)}</span>'
    return Cell(f'{value}<small class="{_tone(row)}">{escape(below)}</small>', row.mean)


def _tone(row: Row) -> str:
    """A colour for a verdict; a mere direction gets none."""
    return {HIGHER: "up", LOWER: "down"}.get(row.verdict, "")


def _told(rows: Sequence[Row], tell: Callable[[Row], str]) -> str:
    return "; ".join(f"{words(row.arm)}, {label_of(row.protocol)}: {tell(row)}" for row in rows)
