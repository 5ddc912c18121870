import re

import numpy as np
import torch

from config.params import load_params, load_runtime
from evaluation.predictions import NO_PREDICTION, Predictions, metrics_of
from evaluation.probing import Features, probe


def test_metrics_of__counts_only_the_images_that_were_asked_about():
    labels = np.array([0, 1, 1, 0])
    said = {
        "linear_accuracy": np.array([0, 1, 0, 0]),
        "attentive_accuracy": np.array([NO_PREDICTION, 1, 0, NO_PREDICTION]),
    }
    metrics = metrics_of(Predictions(np.arange(4, dtype=np.uint64), labels, said))
    assert metrics == {
        "test_images": 4, "linear_accuracy": 0.75, "attentive_accuracy": 0.5, "linear_class_accuracy": 0.75,
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
    draw_tokens = torch.Generator().manual_seed(0)
    tokens = {
        split: torch.from_numpy(inputs[split])[:count, None] + 0.1 * torch.randn(count, 5, 4, generator=draw_tokens)
        for split, count in (("train", 50), ("val", 20), ("test", 20))
    }
    ids = {split: np.arange(count, dtype=np.uint64) for split, count in counts.items()}
    frozen = Features(inputs, labels, ids, 3, heads=2, tokens=tokens)
    predictions, _ = probe(frozen, group, seed=0, device=torch.device("cpu"), runtime=runtime, label="probe")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("probe: kNN: 60 queries") for line in lines)
    assert any(line.startswith("probe: linear probes: 4 fits") for line in lines)
    seen = [int(match[1]) for line in lines if (match := re.match(r"probe: linear probes: (\d)/4 fits, ", line))]
    assert seen == sorted(seen) and set(seen) >= {0, 1, 2, 3}
    assert len(seen) > 8, "also in the midst of a fit"
    assert (predictions.classes["linear_accuracy"] == labels["test"]).mean() > 0.5
    attentive = predictions.classes["attentive_accuracy"]
    assert (attentive[20:] == NO_PREDICTION).all(), "their tokens were not kept"
    assert (attentive[:20] == labels["test"][:20]).mean() > 0.5
