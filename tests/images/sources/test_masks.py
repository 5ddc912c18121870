import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from images.sources.items import Rejection
from images.sources.masks import (
    check_masks,
    check_splits,
    check_values,
    describe_masks,
    describe_values,
    is_of_mask,
    labels_of,
)
from images.sources.preparation import open_source

VALUES = st.sets(st.integers(0, 255), min_size=1)
MAPPINGS = st.dictionaries(st.integers(0, 255), st.sampled_from(["background", "ignored"]) | st.integers(0, 254))
TRIMAP = {2: "background", 3: "ignored"}


def pixels_of(*values):
    return np.bincount(values, minlength=256)


@given(VALUES, MAPPINGS)
def test_labels_of__is_the_mapping_and_else_the_value_itself(values, mapping):
    found = labels_of(values, mapping)
    assert found.keys() == values
    for value, label in found.items():
        expected = {"background": 0, "ignored": 255}.get(mapping.get(value), mapping.get(value, value))
        assert label == (1 if not mapping and values == {0, 255} and value == 255 else expected)


@pytest.mark.parametrize(
    ("values", "mapping", "labels"),
    [
        ({0, 255}, {}, {0: 0, 255: 1}),
        ({0, 1, 255}, {}, {0: 0, 1: 1, 255: 255}),
        ({0, 255}, {255: "ignored"}, {0: 0, 255: 255}),
        ({255}, {}, {255: 255}),
        ({1, 2, 3}, TRIMAP, {1: 1, 2: 0, 3: 255}),
    ],
)
def test_labels_of__objects_void_values_and_trimaps(values, mapping, labels):
    assert labels_of(values, mapping) == labels


@pytest.mark.parametrize(
    ("values", "mapping", "parts", "line"),
    [
        ((0, 0, 0, 255), {}, True, "values 0 (75 %), 255 (25 %): 0 background, 255 the object (data.mask_values: {255: 1})"),
        ((0, 1), {}, False, "values 0 (50 %), 1 (50 %): 0 background, 1 the object (data.mask_values: {})"),
        (range(19), {}, True, "values 0-18: 0 background, 1-18 a part each (data.mask_values: {})"),
        (range(12), {11: "ignored"}, False, "values 0-11: 0-10 a class each, 11 ignored (data.mask_values: {11: ignored})"),
        (range(5), {3: 4}, True, "0 background, 1-2 a part each, 3-4 label 4 (data.mask_values: {3: 4})"),
        ((1, 2, 3), TRIMAP, True, "2 background, 1 the object, 3 ignored (data.mask_values: {2: background, 3: ignored})"),
    ],
)  # fmt: skip
def test_describe_values__says_what_each_value_is(values, mapping, parts, line):
    (found,) = describe_values(pixels_of(*values), mapping, parts=parts)
    assert found.endswith(line)


def test_describe_values__warns_of_names_that_nothing_has_and_of_grey_pictures():
    found = describe_values(pixels_of(0, 1), {7: "ignored"}, parts=True)
    assert found[1] == "data.mask_values names 7, which no mask holds"
    assert "256 values are many" in describe_values(np.ones(256, int), {}, parts=True)[1]


@pytest.mark.parametrize(
    ("values", "parts", "refusal"),
    [
        ((1, 2, 2, 3), True, r"1 \(25 %\), 2 \(50 %\), 3 \(25 %\), and none .* background; .* {2: background, 3: ignored}"),
        ((4, 7, 7), True, "the background; .* {7: background}"),
        ((1, 255), True, "the background"),
        ((0, 0), True, "none of them is a part; .* {255: 1}"),
        ((3, 255), False, "none of them is a second class"),
        ((0, 1), True, None),
        ((1, 2, 3), False, None),
    ],
)  # fmt: skip
def test_check_values__refuses_parts_without_background_and_one_class_alone(values, parts, refusal):
    pixels = pixels_of(*values)
    labels = labels_of(set(values), {})
    if refusal is None:
        check_values(pixels, labels, parts=parts)
        return
    with pytest.raises(ValueError, match=refusal) as error:
        check_values(pixels, labels, parts=parts)
    assert "\n" not in str(error.value)
    assert ("data.part_truth" in str(error.value)) == parts


def test_check_splits__test_needs_a_part_and_both_need_a_class():
    labels = {0: 0, 1: 1, 9: 255}
    some, none, void = pixels_of(0, 1), pixels_of(0), pixels_of(9)
    check_splits({"train": void, "test": some}, labels, parts=True)
    check_splits({"train": none, "test": none}, labels, parts=False)
    with pytest.raises(ValueError, match="no mask of test has a part; put a PNG"):
        check_splits({"train": some, "test": none}, labels, parts=True)
    with pytest.raises(ValueError, match="no mask of train has a class; put a PNG"):
        check_splits({"train": void, "test": some}, labels, parts=False)


def test_check_masks__names_the_most_frequent_reason_and_a_file_of_it():
    rows = [
        Rejection("a.jpg", "train", "a", "truncated", "at byte 3"),
        Rejection("masks/1.png", "train", "", "mask size", "5 x 5"),
        *(Rejection(f"masks/{number}.png", "test", "", "mask colours", "mode RGB") for number in (7, 8)),
    ]
    assert [is_of_mask(row.reason) for row in rows] == [False, True, True, True]
    check_masks(rows, 3, max_rejected_share=0.5, listing="rejected.parquet")
    with pytest.raises(
        ValueError, match=r"3 of 5 masks are refused, 2 of them as 'mask colours', .* masks/7.png \(mode RGB\)"
    ):
        check_masks(rows, 2, max_rejected_share=0.5, listing="rejected.parquet")


def put(root, name, array):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def described(root, **options):
    source = open_source(root, image_column="image", label_column="label")
    return describe_masks(source, **{"mask_values": {}, "max_pixels": 10_000, **options})


def test_describe_masks__reads_what_there_is_and_says_what_to_do(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(6):
        put(tmp_path, f"images/cat/{number}.png", draw.integers(0, 255, (8, 8, 3)).astype(np.uint8))
    assert described(tmp_path) == []
    for number in range(4):
        put(tmp_path, f"masks/cat/{number}.png", draw.choice([1, 2, 3], (8, 8)).astype(np.uint8))
    put(tmp_path, "masks/cat/4.png", draw.integers(0, 255, (8, 8, 3)).astype(np.uint8))
    values, refused, advice = described(tmp_path)
    assert values.startswith("5 masks read: values 1 (") and "1-3 a part each" in values
    assert "5 masks read: 1 are refused, for example mask colours: mode RGB" in refused
    assert "data.mask_values: {2: background, 3: ignored}" in advice
    assert len(described(tmp_path, mask_values=TRIMAP)) == 2
