from pathlib import Path

import pytest

from benchmarks.costs import (
    DEVICES,
    SIZES,
    breaks,
    device_rates,
    forward_operations,
    shown_bytes,
    shown_count,
    shown_seconds,
    stages,
)
from benchmarks.scale_page import document
from config.params import read_yaml
from config.presets import compose
from models.mae import MaskedAutoencoder
from shards.files import read_json

ROOT = Path(__file__).parents[2]
RECORD = read_json(ROOT / "docs/scale.json")


def test_scale_page__is_what_the_record_says():
    assert (ROOT / "docs/scale.md").read_text(encoding="utf-8") == document(RECORD)


def test_scale_record__names_no_place_of_the_machine():
    text = (ROOT / "docs/scale.json").read_text(encoding="utf-8")
    assert "/home" not in text and "/tmp" not in text and "/work" not in text


def test_forward_operations__are_those_of_the_weights_and_of_attention():
    """Two operations a weight and token, and two products of tokens by tokens."""
    shape = {"image_size": 224, "patch_size": 16, "width": 96, "depth": 3, "num_heads": 3}
    decoder = {"decoder_width": 48, "decoder_depth": 1, "decoder_num_heads": 2}
    model = MaskedAutoencoder(**shape, **decoder)
    weights = sum(p.numel() for name, p in model.blocks.named_parameters() if p.ndim == 2)
    assert forward_operations(50, 96, 3) == 2 * 50 * weights + 3 * 2 * 2 * 50 * 50 * 96


def test_device_rates__masking_makes_a_step_cheaper_than_that_of_the_whole_network():
    rate = device_rates()
    assert (
        rate["ViT-B/16 training"]
        < rate["MAE ViT-B/16 pretraining"]
        < rate["ViT-B/16 forward"]
        < rate["ViT-S/16 forward"]
    )


def test_costs__are_of_the_preset_of_the_paper():
    preset = compose("imagenet-vitb16")
    assert (preset["pretrain"]["epochs"], preset["finetune"]["epochs"]) == (800, 100)
    assert (preset["extract"]["part_images"], preset["refine"]["epochs"]) == (100_000, 10)
    assert preset["data"]["shard_mib"] == 512


def test_stages__those_that_spread_are_those_of_the_graph():
    graph = read_yaml(ROOT / "dvc.yaml")["stages"]
    spread = {name for name, stage in graph.items() if stage.get("meta", {}).keys() & {"sharded", "distributed"}}
    assert spread == {stage.name for stage in stages(RECORD["figures"]) if stage.spread}


def test_stages__cost_grows_with_images_and_wall_time_falls_with_devices():
    for stage in stages(RECORD["figures"]):
        for less, more in zip(list(SIZES.values()), list(SIZES.values())[1:], strict=False):
            assert stage.device(less) <= stage.device(more) and stage.written(less) <= stage.written(more)
            for devices in DEVICES:
                assert stage.wall(less, devices) <= stage.wall(more, devices)
        walls = [stage.wall(10**6, devices) for devices in DEVICES]
        assert walls == sorted(walls, reverse=True)
        if stage.spread:
            assert walls[2] == pytest.approx(walls[0] / 64)


def test_breaks__come_in_rising_order_and_each_is_of_this_record():
    found = breaks(RECORD["figures"])
    assert [entry.images for entry in found] == sorted(entry.images for entry in found)
    heavier = {name: 2 * value for name, value in RECORD["figures"].items()}
    by_what = {entry.what: entry.images for entry in breaks(heavier)}
    memory = [entry for entry in found if "in memory" in entry.figure]
    assert memory and all(by_what[entry.what] == pytest.approx(entry.images / 2) for entry in memory)


def test_shown__has_the_unit_that_suits():
    assert [shown_bytes(size) for size in (74, 110_000, 1.1e13)] == ["74 B", "110 kB", "11 TB"]
    assert [shown_seconds(time) for time in (4.5, 600, 3600 * 30, 86400 * 10)] == ["4.5 s", "10 min", "30 h", "10 d"]
    assert [shown_count(count) for count in (12, 520_000, 1.3e6, 2e9)] == ["12", "520 k", "1.3 M", "2 G"]
