import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.contrasts import contrast

VALUES = {"a": [0.50, 0.55, 0.52], "b": [0.40, 0.41, 0.45], "c": [0.1, 0.1, 0.1]}
ROWS = pd.DataFrame(
    [
        {"arm": arm, "protocol": "linear_accuracy", **{f"seed_{n}": v for n, v in enumerate(values)}}
        for arm, values in VALUES.items()
    ]
)


def test_contrast__is_a_paired_t_interval_in_points():
    apart = 100 * (np.array(VALUES["a"]) - VALUES["b"])
    found = contrast(ROWS, "a", "b").loc["linear_accuracy"]
    interval = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
    assert found[["mean", "low", "high"]].tolist() == pytest.approx([apart.mean(), interval.low, interval.high])
    assert found["sd"] == pytest.approx(np.std(apart, ddof=1))
    # A true difference of that size is found so often, but for the t approximation.
    draw = np.random.default_rng(0).normal(found["detectable"], found["sd"], (4000, 3))
    assert (stats.ttest_1samp(draw, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.12)


def test_contrast__an_unknown_arm_is_named():
    with pytest.raises(ValueError, match="x: no such arm; there are a, b, c"):
        contrast(ROWS, "a", "x")
