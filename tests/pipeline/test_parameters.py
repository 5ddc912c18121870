import re
import shutil

import pytest

from config.groups import LISTING
from config.presets import compose, write_params
from pipeline.parameters import added_arms, changed, is_as_here, parse_changes, tags
from tests.conftest import ROOT


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with presets, and the quickstart's parameters for images of the user's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    document = compose("quickstart")
    document["data"].update(path="mine", watch="mine", generate=[], part_truth=[])
    write_params(document, preset="quickstart")


def test_parse_changes__reads_values_as_params_yaml_does():
    words = ["a.b=1e-4", "c.d=[0, 1]", "e.f=yes", "g.h=true", 'i.j=""', "k.l=x=y", "m.n="]
    assert parse_changes(words) == {
        "a.b": 1e-4, "c.d": [0, 1], "e.f": "yes", "g.h": True, "i.j": "", "k.l": "x=y", "m.n": None,
    }  # fmt: skip


def test_changed__lays_changes_over_parameters_or_a_preset(tree):
    document, origin = changed(arms=["mae"], seeds=[5], changes={"pretrain.mask_ratio": 0.5, "data.val_share": 0.2})
    assert (document["arms"]["names"], document["seeds"], document["pretrain"]["mask_ratio"]) == (["mae"], [5], 0.5)
    assert (document["data"]["val_share"], document["data"]["path"], origin) == (0.2, "mine", "quickstart")
    document, origin = changed(preset="clothing10 table4")
    assert (document["data"]["path"], document["seeds"], origin) == ("mine", [0, 1, 2, 3, 4], "clothing10 table4")
    assert not is_as_here(document) and is_as_here(changed()[0]) and is_as_here(changed(changes={"seeds": [0, 1]})[0])


def test_changed__other_images_are_watched_unless_something_else_is_named(tree):
    for changes, watch in (({}, "other"), ({"data.watch": LISTING}, LISTING)):
        document, _ = changed(changes={"data.path": "other", **changes})
        assert (document["data"]["path"], document["data"]["watch"]) == ("other", watch)


def test_changed__the_baseline_is_added_to_arms_without_it_and_a_line_says_so(tree):
    for changes, baseline in (({}, "mae"), ({"compare.baseline": "block"}, "block")):
        document, _ = changed(arms=["semmae"], changes=changes)
        assert document["arms"]["names"] == ["semmae", baseline]
        assert added_arms(document, ["semmae"]).startswith(f"arm {baseline} added: ")
    assert added_arms(changed(arms=["mae", "block"])[0], ["mae", "block"]) == added_arms(changed()[0], []) == ""


def test_tags__name_preset_arms_seeds_and_what_differs(tree):
    document, origin = changed(arms=["mae"], seeds=[5], changes={"pretrain.epochs": 9, "data.val_share": 0.2})
    assert tags(document, origin) == ["preset quickstart", "arm mae", "seed 5", "pretrain.epochs=9"]
    assert tags(document, "gone") == ["preset gone", "arm mae", "seed 5", "pretrain.epochs=9"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pretrain.nonesuch": 1}, "parameters: pretrain.nonesuch: no such parameter; params.yaml names them all"),
        ({"pretrain.epoch": 1}, "pretrain.epoch: no such parameter; did you mean epochs?; params.yaml"),
        ({"pretrian.epochs": 1}, "pretrian.epochs: no such parameter; did you mean pretrain.epochs?; params.yaml"),
        ({"seeds.0": 1}, "seeds.0: no such parameter"),
        ({"pretrain.mask_ratio.x": 1}, "pretrain.mask_ratio.x: no such parameter"),
        ({"pretrain.mask_ratio": 7}, "parameters: pretrain.mask_ratio: got 7"),
        ({"pretrain": 7}, "parameters: pretrain"),
        ({"arms.names": ["nobody", "mae"]}, "nobody"),
    ],
)
def test_changed__an_unknown_key_or_an_impossible_value_is_one_line(tree, changes, told):
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        changed(changes=changes)
    assert len(str(error.value).splitlines()) == 1
