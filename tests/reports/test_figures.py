import numpy as np
import pandas as pd
import pytest

from reports import figures
from reports.comparison import compare
from tests.reports.conftest import results_of

COLOURS = {"semmae": "#5b6cf0", "mae": "#8b93a1"}


def rows_of(seeds):
    scores = {"semmae": [0.5 + 0.01 * seed for seed in seeds], "mae": [0.4 + 0.01 * seed for seed in seeds]}
    return compare(results_of(scores, protocols=["knn_accuracy"]), baseline="mae", confidence=0.95, resamples=50)


def history():
    steps = [{"step": step, "loss": 1 / step} for step in range(1, 20)]
    broken = [*steps[:5], {"step": 6, "skipped": 1.0}, *steps[6:]]
    runs = {("semmae", 0): steps, ("semmae", 1): broken, ("mae", 0): steps, ("mae", 1): steps}
    return pd.DataFrame([{"arm": arm, "seed": seed, **row} for (arm, seed), rows in runs.items() for row in rows])


CHARTS = {
    "accuracies": lambda: figures.accuracies(rows_of((0, 1)), COLOURS),
    "accuracies of one seed": lambda: figures.accuracies(rows_of((0,)), COLOURS),
    "differences": lambda: figures.differences(rows_of((0, 1)), COLOURS),
    "differences of one seed": lambda: figures.differences(rows_of((0,)), COLOURS),
    "curves": lambda: figures.curves(history(), COLOURS, label="loss"),
    "losses": lambda: figures.losses([{"step": n, "a_loss": 1 / n, "b_loss": n - 1.0} for n in range(1, 9)]),
    "losses far apart": lambda: figures.losses([{"step": n, "a_loss": 10.0**-n} for n in range(1, 9)]),
    "over training": lambda: figures.over_training(
        pd.DataFrame({"semmae": [0.1, 0.4], "mae": [0.2, 0.2]}, index=(0, 1)), COLOURS, label="share", top=1.0
    ),
    "part quality": lambda: figures.part_quality(
        pd.DataFrame({"nmi_foreground": {"learned": 0.3, "xy": 0.2}, "per": {"learned": 0.4}}),
        {"nmi_foreground": "set", "per": "image"},
        lead="learned",
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts__are_the_same_pixels_each_time_and_differ_by_scheme(name):
    first, again = CHARTS[name](), CHARTS[name]()
    assert np.array_equal(first.light, again.light) and np.array_equal(first.dark, again.dark)
    assert first.light.shape == first.dark.shape and first.light.shape[2] == 3
    assert first.light.mean() > 200 and first.dark.mean() < 60


def test_arm_colours__keep_the_baseline_grey_wherever_it_stands():
    first = figures.arm_colours(["mae", "a", "b"], "mae")
    assert first == {name: figures.arm_colours(["a", "b", "mae"], "mae")[name] for name in first}
    assert len(set(first.values())) == 3
