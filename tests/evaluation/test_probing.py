import re

import numpy as np
import pytest
import torch

from config.params import load_params, load_runtime
from evaluation.predictions import NO_PREDICTION, Predictions
from evaluation.probing import Features, metrics_of, occluded, occlusions, probe


def parts_of(count=200, length=16, num_parts=4):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, num_parts + 1, (count, length), generator=draw)


def test_occlusions__take_one_whole_part_and_as_many_patches_anywhere():
    parts = parts_of()
    part, anywhere = occlusions(parts, num_parts=4, draw=torch.Generator().manual_seed(1))
    assert torch.equal(part.sum(dim=1), anywhere.sum(dim=1))
    for labels, gone in zip(parts, part, strict=True):
        (away,) = labels[gone].unique().tolist()
        assert away < 4, "never the background"
        assert torch.equal(gone, labels == away), "all of it"
    assert 0.1 < float((part & anywhere).sum() / part.sum()) < 0.4, "the random ones follow no part"


def test_occlusions__every_part_has_its_turn_whatever_its_size():
    parts = torch.tensor([[0] * 12 + [1] * 3 + [2]]).expand(3000, 16)
    gone, _ = occlusions(parts, num_parts=3, draw=torch.Generator().manual_seed(1))
    sizes = gone.sum(dim=1)
    for size in (12, 3, 1):
        assert float((sizes == size).float().mean()) == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("labels", [[4] * 16, [2] * 16])
def test_occlusions__an_image_without_a_part_to_spare_stays_whole(labels):
    part, anywhere = occlusions(torch.tensor([labels]), num_parts=4, draw=torch.Generator())
    assert not part.any()
    assert not anywhere.any()


def test_occluded__asks_with_exactly_the_visible_patches_of_each_image():
    """Features that name the visible patches, a probe that counts them."""
    gone, _ = occlusions(parts_of(50), num_parts=4, draw=torch.Generator().manual_seed(2))
    gone[7] = False
    pixels = torch.arange(50.0).view(50, 1, 1, 1)

    def features(images, visible):
        rows = images.flatten().long()
        assert torch.equal(torch.zeros(len(rows), 16, dtype=torch.bool).scatter(1, visible, True), ~gone[rows])
        return torch.full((len(rows), 1), float(visible.shape[1]))

    said = occluded(lambda found: found[:, 0].astype(int), gone, features, pixels)
    assert said[7] == NO_PREDICTION
    expected = (~gone).sum(dim=1).numpy()
    assert np.array_equal(np.delete(said, 7), np.delete(expected, 7))


def test_metrics_of__counts_only_the_images_that_were_asked_about():
    labels = np.array([0, 1, 1, 0])
    said = {
        "linear_accuracy": np.array([0, 1, 0, 0]),
        "occluded_part_accuracy": np.array([NO_PREDICTION, 1, 0, NO_PREDICTION]),
    }
    metrics = metrics_of(Predictions(np.arange(4, dtype=np.uint64), labels, said))
    assert metrics == {
        "test_images": 4, "linear_accuracy": 0.75, "occluded_part_accuracy": 0.5, "linear_class_accuracy": 0.75,
    }  # fmt: skip


def test_probe__shows_its_progress_from_each_query_and_each_pass_of_a_fit(capsys):
    draw = np.random.default_rng(0)
    counts = {"train": 60, "val": 20, "test": 30}
    labels = {split: np.arange(count) % 3 for split, count in counts.items()}
    inputs = {
        split: draw.normal(size=(count, 4)).astype(np.float32) + labels[split][:, None]
        for split, count in counts.items()
    }
    group = load_params().probe.model_copy(update={"penalties": [0.1, 1.0], "low_shot": [0.5], "neighbours": [3, 5]})
    runtime = load_runtime().model_copy(update={"log_seconds": 1e-9})
    frozen = Features(inputs, labels, np.arange(30, dtype=np.uint64), 3)
    predictions, _ = probe(frozen, group, seed=0, device=torch.device("cpu"), runtime=runtime, label="probe")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("probe: kNN: 60 queries") for line in lines)
    assert any(line.startswith("probe: linear probes: 4 fits") for line in lines)
    seen = [int(match[1]) for line in lines if (match := re.match(r"probe: linear probes: (\d)/4 fits, ", line))]
    assert seen == sorted(seen) and set(seen) >= {0, 1, 2, 3}
    assert len(seen) > 8, "also in the midst of a fit"
    assert (predictions.classes["linear_accuracy"] == labels["test"]).mean() > 0.5
