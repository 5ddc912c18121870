import random

import pytest

from images.sources.classes import class_named, in_order


@pytest.mark.parametrize("text", ["", "  ", "nan", "NaN", "NULL", "null", "NA", "n/a", "<NA>", "-1", "-1.0", " -2 "])
def test_class_named__what_names_none_is_empty(text):
    assert class_named(text) == ""


@pytest.mark.parametrize(
    ("text", "name"), [(" ant ", "ant"), ("0", "0"), ("none", "none"), ("-dash", "-dash"), ("-", "-")]
)
def test_class_named__all_else_is_a_class(text, name):
    assert class_named(text) == name


def test_in_order__numbers_by_value_then_text():
    order = ["-3", "0", "1.5", "2", "02", "10", "100", "2 ants", "Ant", "ant", "1e3", "inf", "²"]
    order = [*sorted(order[:7], key=lambda name: (float(name), name)), *sorted(order[7:])]
    for seed in range(20):
        assert in_order(random.Random(seed).sample(order, len(order))) == order
