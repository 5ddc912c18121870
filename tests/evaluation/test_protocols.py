import subprocess
import sys

import pytest

from config.params import load_params
from config.presets import compose, write_params
from evaluation.protocols import PROTOCOLS, STAGES, find, label_of, sources


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("finetune_accuracy", "fine-tuning"), ("knn_accuracy_k5", "kNN, k = 5"), ("tiny/upernet_miou", "tiny: UPerNet mIoU"),
        ("low_shot_0.5_accuracy", "linear probe, 0.5 % of the labels"), ("attribute_left-wing_accuracy", "attribute left-wing"),
        ("attributes_accuracy", "attributes, mean"),
    ],
)  # fmt: skip
def test_label_of__a_metric(name, label):
    assert label_of(name) == label


@pytest.mark.parametrize("name", ["guesses", "knn_accuracy_k", "finetune_accuracy_k5", ""])
def test_find__an_unknown_metric_is_refused(name):
    with pytest.raises(ValueError, match=r"no such protocol; add an entry to evaluation/protocols\.py"):
        find(name)


def test_protocols__are_found_by_their_own_key_and_measured_by_known_stages():
    for key, protocol in PROTOCOLS.items():
        found, _ = find(key.replace("*", "1"))
        assert (found.label, found.floor) == (protocol.label, protocol.floor.replace("*", "1"))
        assert protocol.stages and set(protocol.stages) <= set(STAGES)


@pytest.mark.parametrize("labels", [["class"], []])
def test_sources__are_the_folders_that_params_yaml_asks_for(tmp_path, labels):
    document = compose("quickstart")
    document["data"]["labels"] = labels
    document["linear_mae"]["optimizers"], document["segment"]["sets"] = ["lars"], ["tiny", "other"]
    write_params(document, tmp_path / "params.yaml")
    found = [
        (source.folder, source.prefix, source.has_predictions)
        for source in sources(load_params(tmp_path / "params.yaml"))
    ]
    on_labels = [("finetune", "", True), ("linear_mae/lars", "", True)]
    assert found == [
        ("probe", "", True),
        *on_labels * len(labels),
        ("segment/tiny", "tiny/", False),
        ("segment/other", "other/", False),
    ]


def test_protocols__import_no_implementation():
    code = "import sys, evaluation.protocols; print(*sorted(name for name in sys.modules if name.startswith('evaluation')))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.split() == ["evaluation", "evaluation.protocols"]
