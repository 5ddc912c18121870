import io

import numpy as np
import pytest
from PIL import Image

from reports import figures
from reports.comparison import compare
from reports.results import Results

COLOURS = {"semmae": "#5b6cf0", "mae": "#8b93a1"}


def rows_of(seeds):
    scores = {"semmae": 0.5, "mae": 0.4}
    measured = {
        (arm, seed): {"test_images": 9, "knn_accuracy": score + 0.01 * seed} for arm, score in scores.items()
        for seed in seeds
    }  # fmt: skip
    results = Results(tuple(scores), tuple(seeds), measured, {}, {}, {}, {}, {}, {}, {}, 9)
    return compare(results, baseline="mae", confidence=0.95, resamples=50)


def histories(seeds=2):
    run = [{"step": step, "loss": 1 / step, "skipped": 0.0} for step in range(1, 20)]
    broken = [*run[:5], {"step": 6, "skipped": 1.0}, *run[6:]]
    return {"semmae": [run, broken][:seeds], "mae": [run] * seeds}


CHARTS = {
    "accuracies": lambda: figures.accuracies(rows_of((0, 1)), COLOURS),
    "accuracies of one seed": lambda: figures.accuracies(rows_of((0,)), COLOURS),
    "differences": lambda: figures.differences(rows_of((0, 1)), COLOURS),
    "differences of one seed": lambda: figures.differences(rows_of((0,)), COLOURS),
    "curves": lambda: figures.curves(histories(), COLOURS, label="loss"),
    "losses": lambda: figures.losses([{"step": n, "a_loss": 1 / n, "b_loss": n - 1.0} for n in range(1, 9)]),
    "losses far apart": lambda: figures.losses([{"step": n, "a_loss": 10.0**-n} for n in range(1, 9)]),
    "spreads": lambda: figures.spreads({"semmae": [0.1, 0.4], "mae": [0.2, 0.2]}, (0, 1), COLOURS),
    "part quality": lambda: figures.part_quality(
        {"learned": {"nmi_foreground": 0.3, "per": 0.4}, "xy": {"nmi_foreground": 0.2}},
        {"nmi_foreground": "set", "per": "image"},
        lead="learned",
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts__are_the_same_bytes_each_time_and_differ_by_scheme(name):
    first, again = CHARTS[name](), CHARTS[name]()
    assert first == again
    light, dark = (Image.open(io.BytesIO(picture)) for picture in (first.light, first.dark))
    assert light.size == dark.size
    assert np.asarray(light.convert("L")).mean() > 200
    assert np.asarray(dark.convert("L")).mean() < 60
    assert set(light.info) <= {"dpi"}


def test_arm_colours__keep_the_baseline_grey_wherever_it_stands():
    first = figures.arm_colours(["mae", "a", "b"], "mae")
    assert first == {name: figures.arm_colours(["a", "b", "mae"], "mae")[name] for name in first}
    assert len(set(first.values())) == 3


def test_sheet__shows_every_strip_below_its_heads():
    red = np.full((10, 40, 4), (255, 0, 0, 255), np.uint8)
    picture = Image.open(io.BytesIO(figures.sheet([("first", red), ("second", red)], heads=["a", "b"])))
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    is_red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    rows = np.flatnonzero(is_red.any(axis=1))
    assert np.sum(np.diff(rows) > 1) == 1
    assert rows[0] > 0.02 * len(pixels)


def test_sheet__a_legend_colours_the_strips_it_names_or_stands_below():
    grey = np.full((10, 40, 4), 128, np.uint8)
    plain, named, below = (
        Image.open(io.BytesIO(figures.sheet([(name, grey)], legend=legend)))
        for name, legend in (("parts", {}), ("part 0", {"part 0": (255, 0, 0)}), ("parts", {"part 0": (255, 0, 0)}))
    )

    def has_red(picture):
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        return bool(((pixels[..., 0] > 200) & (pixels[..., 1] < 80)).any())

    assert (has_red(plain), has_red(named), has_red(below)) == (False, True, True)
    assert plain.size == named.size and below.height > plain.height
