import numpy as np
import pytest
import torch

from config.params import load_params
from evaluation.attributes import NO_VALUE, attribute_metrics, read_attributes
from images.sources.attributes import write_attributes

TABLE = {"wings": {5: "two", 1: "none", 9: "two"}, "mark": {1: "plain", 7: "spots"}}


def test_read_attributes__numbers_the_values_of_the_ids_asked_for(tmp_path):
    write_attributes(str(tmp_path / "a.parquet"), TABLE, [9, 1, 5, 2])
    ids = np.array([9, 2, 1, 8, 5, 7], dtype=np.uint64)
    found = read_attributes(tmp_path / "a.parquet", ["mark", "wings"], ids)
    assert found["wings"].tolist() == [1, NO_VALUE, 0, NO_VALUE, 1, NO_VALUE]
    assert found["mark"].tolist() == [NO_VALUE, NO_VALUE, 0, NO_VALUE, NO_VALUE, NO_VALUE], "7 was not kept"


def test_read_attributes__a_table_of_none(tmp_path):
    write_attributes(str(tmp_path / "a.parquet"), {}, [1, 2])
    assert read_attributes(tmp_path / "a.parquet", [], np.array([1, 2], dtype=np.uint64)) == {}
    write_attributes(str(tmp_path / "a.parquet"), {"mark": {}}, [1, 2])
    assert read_attributes(tmp_path / "a.parquet", ["mark"], np.array([1], dtype=np.uint64))["mark"].tolist() == [
        NO_VALUE
    ]


def flipped(place):
    """The bytes of a table with a bit of its values flipped."""

    def flip(data):
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        return bytes(spoilt)

    return flip


@pytest.mark.parametrize(
    "spoil", [None, lambda data: b"", lambda data: b"not a table", *map(flipped, range(60, 120, 7))]
)
def test_read_attributes__a_damaged_table_is_named(tmp_path, spoil):
    path = tmp_path / "a.parquet"
    if spoil:
        draw = np.random.default_rng(0)
        names = {"mark": {number: "ab"[value] for number, value in enumerate(draw.integers(0, 2, 2000))}}
        write_attributes(str(path), names, range(2000))
        path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.parquet: missing or damaged \("):
        read_attributes(tmp_path / "a.parquet", ["mark"], np.array([1], dtype=np.uint64))


def test_attribute_metrics__are_of_the_images_that_have_a_value_and_their_mean():
    draw = np.random.default_rng(0)
    values, inputs = {}, {}
    for split, count in (("train", 300), ("val", 60), ("test", 100)):
        shown, hidden = draw.integers(0, 3, count), np.where(draw.random(count) < 0.8, 0, 1)
        features = np.eye(3)[shown] + 0.1 * draw.normal(size=(count, 3))
        lost = draw.random(count) < 0.3
        features[lost] = draw.normal(size=(lost.sum(), 3)) * 5
        inputs[split] = features.astype(np.float32)
        values[split] = {"shown": np.where(lost, NO_VALUE, shown), "hidden": hidden}
    group = load_params().probe.model_copy(update={"penalties": [0.1, 1.0]})
    fits = []
    found = attribute_metrics(inputs, values, group, device=torch.device("cpu"), advance=fits.append)
    assert found["attribute_shown_accuracy"] == 1
    assert found["attribute_hidden_floor"] == np.mean(values["test"]["hidden"] == 0)
    assert found["attribute_hidden_accuracy"] == pytest.approx(found["attribute_hidden_floor"], abs=0.05)
    known = (values["test"]["shown"] != NO_VALUE).sum()
    assert found["attributes_images"] == found["attribute_shown_images"] == known < found["attribute_hidden_images"]
    for kind in ("accuracy", "floor"):
        both = [found[f"attribute_{name}_{kind}"] for name in ("shown", "hidden")]
        assert found[f"attributes_{kind}"] == pytest.approx(np.mean(both))
    assert sum(fits) == 4
