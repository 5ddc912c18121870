"""Charts, each in a light and a dark version; the same input gives the same pixels.

Charts are as wide as a phone, with type to match, and are placed side by side if there is room.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from evaluation.protocols import label_of
from reports.comparison import values_of
from reports.lettering import FONT, class_names
from reports.results import words

WIDTH, HEIGHT, DPI = 4.8, 3.3, 200
LIGHT = {"ink": "#1d2430", "soft": "#6b7280", "line": "#d9dde4", "paper": "#ffffff"}
DARK = {"ink": "#e7eaf0", "soft": "#9aa3b2", "line": "#343b48", "paper": "#191e27"}
# Losses whose largest is more than this many times the smallest are drawn on a logarithmic axis.
LINEAR_RANGE = 20
# Classes up to which the cells of a confusion matrix bear their number.
FEW_CLASSES = 12
# The baseline is grey; the first other arm is the one the eye should find.
BASELINE_COLOUR = "#8b93a1"
ARM_COLOURS = ("#5b6cf0", "#e8842c", "#18a57b", "#d64b8a", "#a06be0", "#c2a20b", "#2aa5d8")


@dataclass(frozen=True)
class Chart:
    """The pixels (h, w, 3) uint8 of one chart, for light and for dark surroundings."""

    light: np.ndarray
    dark: np.ndarray


def chart(draw: Callable[[Axes, Mapping[str, str]], None], *, height: float = HEIGHT) -> Chart:
    """Draw once for each scheme; `draw` takes axes and the scheme's colours by role."""
    return Chart(_render(draw, LIGHT, height), _render(draw, DARK, height))


def _render(draw: Callable[[Axes, Mapping[str, str]], None], ink: Mapping[str, str], height: float) -> np.ndarray:
    style: dict[Any, Any] = {
        "font.family": FONT, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": ink["line"], "axes.labelcolor": ink["soft"], "xtick.color": ink["soft"],
        "ytick.color": ink["soft"], "text.color": ink["ink"], "axes.facecolor": ink["paper"],
        "figure.facecolor": ink["paper"], "grid.color": ink["line"], "grid.linewidth": 0.6, "axes.axisbelow": True,
        "legend.frameon": False, "legend.fontsize": 8.5, "xtick.major.size": 0, "ytick.major.size": 0,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        draw(figure.add_subplot(), ink)
        return pixels_of(figure)


def pixels_of(figure: Figure) -> np.ndarray:
    """The figure, drawn: (h, w, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def arm_colours(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for every arm, the same in all charts and tables."""
    others = [arm for arm in arms if arm != baseline]
    colours = {arm: ARM_COLOURS[place % len(ARM_COLOURS)] for place, arm in enumerate(others)}
    return {arm: colours.get(arm, BASELINE_COLOUR) for arm in arms}


def accuracies(rows: pd.DataFrame, colours: Mapping[str, str]) -> Chart:
    """Accuracy by protocol and arm: a small dot a seed, a large one the mean, a bar its standard error."""
    values = 100 * values_of(rows)

    def draw(axes: Axes, ink: Mapping[str, str]) -> None:
        row: Any
        for row, height in zip(rows.itertuples(), _heights(rows), strict=True):
            seeds, colour = values.loc[row.Index], colours[row.arm]
            axes.scatter(seeds, [height] * len(seeds), s=13, color=colour, alpha=0.45, linewidths=0)
            spread = 100 * row.se if pd.notna(row.se) else None
            axes.errorbar(100 * row.mean, height, xerr=spread, fmt="o", ms=6, color=colour, lw=2.2)
        _by_protocol(axes, rows, colours)
        axes.set_xlabel("on test images, %")

    return chart(draw, height=_height_of(rows))


def differences(rows: pd.DataFrame, colours: Mapping[str, str]) -> Chart:
    """Paired differences to the baseline with their intervals; an arrow where an interval leaves the chart.

    With two seeds a Student-t interval is an order of magnitude wider than the differences: the chart keeps the
    differences legible, the table has the numbers.
    """
    rows = rows[rows["arm"] != rows["baseline"]]
    each, errors = 100 * rows["difference"], 100 * rows["difference_se"].fillna(0)
    reach = max(1.0, 1.6 * (each.abs() + errors).max())

    def draw(axes: Axes, ink: Mapping[str, str]) -> None:
        axes.axvline(0, color=ink["soft"], lw=1.1)
        row: Any
        for row, height, value, error in zip(rows.itertuples(), _heights(rows), each, errors, strict=True):
            colour = colours[row.arm]
            if pd.notna(row.difference_low):
                low, high = 100 * row.difference_low, 100 * row.difference_high
                axes.plot([max(low, -reach), min(high, reach)], [height] * 2, color=colour, lw=1, alpha=0.8)
                for end, marker in ((low, "<"), (high, ">")):
                    if abs(end) > reach:
                        axes.plot(np.sign(end) * reach, height, marker=marker, ms=4, color=colour, alpha=0.8)
            axes.errorbar(value, height, xerr=error or None, fmt="o", ms=6, color=colour, lw=2.6)
        axes.set_xlim(-1.06 * reach, 1.06 * reach)
        _by_protocol(axes, rows, colours)
        axes.set_xlabel(f"difference to {rows['baseline'].iloc[0]}, points")

    return chart(draw, height=_height_of(rows))


def curves(history: pd.DataFrame, colours: Mapping[str, str], *, label: str, metric: str = "loss") -> Chart:
    """A metric over steps: a thin line a seed, a thick one their mean where all seeds have logged.

    history: columns arm, seed, step and the metric, NaN where it was not measured, or the step was skipped.
    """
    history = history.dropna(subset=[metric])
    arms = list(history["arm"].unique())

    def draw(axes: Axes, ink: Mapping[str, str]) -> None:
        for arm in arms:
            lines = history[history["arm"] == arm].pivot(index="step", columns="seed", values=metric)
            for seed in lines:
                axes.plot(lines[seed].dropna(), color=colours[arm], lw=0.7, alpha=0.35)
            axes.plot(lines.dropna().mean(axis=1), color=colours[arm], lw=1.8)
        if metric == "loss":
            # The first steps would flatten all that follows.
            axes.set_ylim(top=1.02 * float(history["loss"].quantile(0.98)))
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        _legend(axes, arms, colours)

    return chart(draw)


def losses(history: Sequence[Mapping[str, float]]) -> Chart:
    """Every part of one training's loss over steps; on a logarithmic axis if they differ by orders of magnitude.

    history: rows of a training loop; its `*_loss` columns are drawn, but for values that are not positive.
    """
    names = sorted({name for row in history for name in row if name.endswith("_loss")})
    seen = [row[name] for row in history for name in names if row.get(name, 0) > 0]
    is_wide = bool(seen) and max(seen) > LINEAR_RANGE * min(seen)

    def draw(axes: Axes, ink: Mapping[str, str]) -> None:
        for name, colour in zip(names, cycle(ARM_COLOURS), strict=False):
            line = [(row["step"], row[name]) for row in history if row.get(name, 0) > 0]
            if line:
                label = words(name).removesuffix(" loss")
                axes.plot(*zip(*line, strict=True), color=colour, lw=1.6, label=label)
        if is_wide:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, handlelength=1.2, columnspacing=1.2)

    return chart(draw, height=HEIGHT + 0.2 * (len(names) > 3))


def over_training(by_arm: pd.DataFrame, colours: Mapping[str, str], *, label: str, top: float) -> Chart:
    """What masks hide, over training: a row a moment, a column an arm. top: least upper end of the axis."""

    def draw(axes: Axes, ink: Mapping[str, str]) -> None:
        for arm, values in by_arm.items():
            axes.plot(100 * values.index, values, "o-", color=colours[str(arm)], lw=1.8, ms=3.5)
        axes.set_ylim(0, max(top, 1.1 * float(by_arm.to_numpy().max())))
        axes.grid(axis="y")
        axes.set_xlabel("share of training done, %")
        axes.set_ylabel(label)
        _legend(axes, [str(arm) for arm in by_arm], colours)

    return chart(draw)


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Chart:
    """How often each true class (row) is predicted as each class (column), in % of the row. counts: (C, C)."""
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    names = class_names(classes)

    def draw(axes: Axes, ink: Mapping[str, str]) -> None:
        shades = LinearSegmentedColormap.from_list("shades", [ink["paper"], ARM_COLOURS[0]])
        axes.imshow(shares, cmap=shades, vmin=0, vmax=100)
        places = range(len(classes))
        # A name may hold dollars, which would start a formula.
        axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(places, names, parse_math=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if len(classes) <= FEW_CLASSES:
            for row, column in np.argwhere(shares >= 0.5):
                strong = shares[row, column] > 60
                axes.text(
                    column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=7.5,
                    color="#ffffff" if strong else ink["ink"],
                )  # fmt: skip

    return chart(draw, height=WIDTH)


def part_quality(values: pd.DataFrame, measures: Mapping[str, str], *, lead: str) -> Chart:
    """Part measures by method, side by side. values: a row a method, a column a measure; measures: name -> label."""
    methods = list(values.index)

    def draw(axes: Axes, ink: Mapping[str, str]) -> None:
        width = 0.8 / len(measures)
        shades = (1.0, 0.45)
        for place, (measure, label) in enumerate(measures.items()):
            for row, (method, number) in enumerate(values[measure].fillna(0).items()):
                height = len(methods) - 1 - row + (0.5 * (len(measures) - 1) - place) * width
                colour = ARM_COLOURS[0] if method == lead else BASELINE_COLOUR
                axes.barh(
                    height, number, height=0.86 * width, color=colour, alpha=shades[place % 2],
                    label=label if method == lead else None,
                )  # fmt: skip
                axes.text(number + 0.004, height, f"{number:.2f}", va="center", fontsize=7.5, color=ink["soft"])
        axes.set_yticks(range(len(methods)), [words(method) for method in reversed(methods)], color=ink["ink"])
        axes.grid(axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=len(measures))

    return chart(draw, height=0.8 + 0.42 * len(methods))


def _heights(rows: pd.DataFrame) -> pd.Series:
    """The place of every row above the x axis: protocols from top to bottom, and the arms of each close together."""
    protocols, arms = (pd.factorize(rows[name]) for name in ("protocol", "arm"))
    count = len(arms[1])
    return pd.Series(len(protocols[1]) - 1 - protocols[0] + ((count - 1) / 2 - arms[0]) * 0.72 / max(3, count))


def _by_protocol(axes: Axes, rows: pd.DataFrame, colours: Mapping[str, str]) -> None:
    protocols = rows["protocol"].unique()
    axes.set_yticks(range(len(protocols)), [label_of(name) for name in reversed(protocols)])
    axes.set_ylim(-0.6, len(protocols) - 0.4)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    _legend(axes, list(rows["arm"].unique()), colours)


def _height_of(rows: pd.DataFrame) -> float:
    return 1.0 + rows["protocol"].nunique() * max(0.6, 0.22 * rows["arm"].nunique())


def _legend(axes: Axes, arms: Sequence[str], colours: Mapping[str, str]) -> None:
    handles = [axes.plot([], [], "o", ms=6, color=colours[arm])[0] for arm in arms]
    axes.legend(
        handles, [arm.replace("_", " ") for arm in arms], loc="lower center", bbox_to_anchor=(0.45, 1.0),
        ncols=min(3, len(arms)), handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip
