import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from config.params import load_params
from evaluation.monitoring import Monitor, chosen
from evaluation.rankme import rankme
from shards.image_shards import ImageShards
from tests.conftest import run_stage
from training.compute import set_up
from training.encoders import load_encoder


def test_rankme__is_the_number_of_directions_that_the_features_fill_alike():
    draw = torch.Generator().manual_seed(0)
    for count in (1, 3, 8):
        directions = torch.linalg.qr(torch.randn(16, 16, generator=draw))[0][:count]
        places = torch.linalg.qr(torch.randn(40, 40, generator=draw))[0][:, :count]
        assert rankme(7 * places @ directions) == pytest.approx(count, rel=1e-3)
    assert rankme(torch.randn(40, 1, generator=draw) @ torch.randn(1, 16, generator=draw)) == pytest.approx(1, rel=1e-3)


def group(**values):
    return SimpleNamespace(images=4, classes=2, **values)


def test_chosen__takes_the_first_images_of_the_first_classes_and_any_where_none_has_a_label():
    labels = np.array([2, -1, 1, 0, 3, 0, 1, 1])
    assert chosen(labels, group()).tolist() == [2, 3, 5, 6]
    assert chosen(np.full(9, -1), group()).tolist() == [0, 1, 2, 3]


@pytest.fixture
def monitor(world):
    with contextlib.chdir(world):
        params = load_params()
        encoder, shards = load_encoder("pretrained/mae-0"), ImageShards("data/shards", "train")
        return Monitor(encoder, shards, params.monitor, ratio=0.75, compute=set_up(**params.compute.model_dump()))


def test_measure__is_the_same_each_time_and_draws_nothing(monitor):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again = monitor.measure(), monitor.measure()
    assert first == again and set(first) == {"rankme", "knn_accuracy"}
    assert 1 <= first["rankme"] <= 16 and 0 <= first["knn_accuracy"] <= 1
    assert torch.equal(before, torch.get_rng_state())


def test_measure__tells_classes_apart_where_there_are_labels_and_ranks_what_is_finite(monitor, monkeypatch):
    def measured(found):
        batches = iter(found.split(16))
        monkeypatch.setattr("evaluation.monitoring.features", lambda *_: next(batches))
        return monitor.measure()

    labels = monitor.labels
    has_fellow = torch.bincount(labels)[labels] > 1
    perfect = torch.nn.functional.one_hot(labels, monitor.num_classes).float()
    assert measured(perfect)["knn_accuracy"] == pytest.approx(float(has_fellow.float().mean()))
    assert measured(torch.full_like(perfect, torch.nan)) == {}
    monitor.labels = torch.full_like(labels, -1)
    assert set(measured(perfect)) == {"rankme"}


def test_pretrain__a_monitor_changes_no_bit_and_adds_what_it_measured_to_the_rows_of_its_steps(copied_world):
    def outs():
        weights = (copied_world / "pretrained/semmae-0/model.safetensors").read_bytes()
        return weights, json.loads((copied_world / "history/pretrain/semmae-0.json").read_text())

    weights, rows = outs()
    measured = {row["step"] for row in rows if "rankme" in row}
    assert measured == {row["step"] for row in rows if "knn_accuracy" in row} == set(range(8, rows[-1]["step"] + 1, 8))
    parameters = (copied_world / "params.yaml").read_text()
    (copied_world / "params.yaml").write_text(parameters.replace("every: 8", "every: 0"))
    run_stage(copied_world, "stages.pretrain", ["semmae", "0"])
    other_weights, others = outs()
    assert other_weights == weights
    drop = {"rankme", "knn_accuracy"}
    assert others == [{name: value for name, value in row.items() if name not in drop} for row in rows]
