from types import SimpleNamespace

import pytest

from images.sources.class_coverage import check_coverage, count, coverage_lines, some
from images.sources.items import Item

ANT, BEE = {("train", "ant"): 2, ("test", "ant"): 1}, {("train", "bee"): 2, ("test", "bee"): 0}


def test_count__images_without_a_label_stand_under_an_empty_name():
    items = [Item(b"1", 1, "train", 0), Item(b"2", 2, "train", 0), Item(b"3", 3, "test", 1), Item(b"4", 4, "test", -1)]
    found = count(SimpleNamespace(classes=["ant", "bee"], items=items))
    assert found == {("train", "ant"): 2, ("test", "bee"): 1, ("test", ""): 1}


def test_coverage_lines__name_the_classes_that_miss_a_split():
    assert coverage_lines(ANT, ["ant"]) == []
    assert coverage_lines({**ANT, **BEE}, ["ant", "bee"]) == ["1 of 2 classes have no test images: bee"]
    assert coverage_lines(ANT, ["ant", "bee"]) == [
        "1 of 2 classes have no training images: bee",
        "1 of 2 classes have no test images: bee",
    ]
    # Images without a label cover no class.
    assert coverage_lines({("train", ""): 5, ("test", ""): 5}, []) == []


def test_check_coverage__one_class_with_both_is_enough_and_none_is_refused():
    check_coverage("mine", {**ANT, **BEE}, ["ant", "bee"])
    check_coverage("mine", {("train", ""): 5}, [])
    apart = {("train", "ant"): 5, ("test", "bee"): 5, ("train", ""): 1, ("test", ""): 1}
    for counts, classes in ((BEE, ["bee"]), (apart, ["ant", "bee"]), ({}, ["ant"])):
        with pytest.raises(ValueError, match=rf"^mine: none of {len(classes)} classes has both.*data\.labels: \[\]"):
            check_coverage("mine", counts, classes)


def test_some__is_a_few_names_and_the_number_of_the_others():
    assert some(["a", "日本", "c\n"]) == "a, 日本, 'c\\n'"
    assert some(list("abcde")) == "a, b, c and 2 more"
