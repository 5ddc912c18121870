import copy
import json

import pytest
from ruamel.yaml import YAML

from config.params import load_params, load_runtime
from config.presets import compose, preset_names, read_document, write_params


def load_changed(tmp_path, changes):
    document = copy.deepcopy(compose("quickstart"))
    for key, value in changes.items():
        node = document
        *path, last = key.split(".")
        for part in path:
            node = node[part]
        node[last] = value
    path = tmp_path / "params.yaml"
    write_params(document, path)
    return load_params(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.mask_rate": 0.75}, "pretrain.mask_rate: unknown key"),
        ({"pretrain.mask_ratio": 7}, "pretrain.mask_ratio: got 7"),
        ({"pretrain.epochs": "ten"}, "pretrain.epochs: got 'ten'"),
        ({"seeds": [0, 0]}, "holds a value twice"),
        ({"data.path": "mine"}, "data: watch: got 'data/creatures', expected 'mine' as in path, or data/listing.txt"),
        ({"data.watch": "mine"}, "data: watch: got 'mine', expected 'data/creatures' as in path, or data/listing.txt"),
        ({"arms.names": ["mae", "nonesuch"]}, "arm nonesuch is not defined"),
        ({"arms.mae.parts": "learned"}, "arms.mae: mask random with parts learned"),
        ({"arms.block.image": "another"}, "arms.block: image another with mask block"),
        ({"arms.mae.keep_hint": True}, "arms.mae: keep_hint with mask random"),
        ({"arms.mae.alpha_max": 0.5}, "arms.mae: alpha_max 0.5 with mask random"),
        (
            {"arms.names": ["mae", "oracle"], "data.part_truth": []},
            "arm oracle has parts truth, but data.part_truth is []: this data has no masks to follow",
        ),
        (
            {"arms.mae.mask": "blocks"},
            "arms.mae.mask: got 'blocks'; expected one of random, block, parts, attmask_high",
        ),
        ({"refine.perceptual": "vgg16"}, "refine.perceptual: got 'vgg16'; Input should be 'none' or 'teacher'"),
        ({"compare.baseline": "block"}, "compare.baseline block is not one of arms.names"),
        ({"pretrain.image_size": 64}, "image_size 64 must be divisible by patch_size 5"),
        ({"refine.initialisation": "heads", "refine.parts": 5}, "refine.parts 5 with initialisation heads"),
        ({"teacher.source": "weights.pth"}, "give its sha256"),
        ({"compute.world_size": 0}, "compute.world_size: got 0"),
        ({"compute.world_size": 65}, "compute.world_size 65 is more than pretrain.batch_size"),
        ({"compute.world_size": 3, "finetune.batch_size": 2}, "compute.world_size 3 is more than finetune.batch_size"),
        (
            {"compute.world_size": 3, "finetune.batch_size": 4, "finetune.cutmix": 1.0},
            "compute.world_size 3 is more than finetune.batch_size, counted in pairs for mixup and cutmix",
        ),
        ({"finetune.batch_size": 7, "finetune.mixup": 0.8}, "batch_size 7 must be even for mixup and cutmix"),
    ],
)
def test_load_params__a_fault_is_one_line_with_its_key(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        load_changed(tmp_path, changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_load_params__a_missing_key_has_no_default(tmp_path):
    document = compose("quickstart")
    del document["pretrain"]["epochs"]
    write_params(document, tmp_path / "params.yaml")
    with pytest.raises(ValueError, match=r"pretrain\.epochs: missing"):
        load_params(tmp_path / "params.yaml")


def test_load_params__reads_yaml_1_2_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1e-4\n")
    assert YAML(typ="safe", pure=True).load((tmp_path / "a.yaml").read_text()) == {"a": 1e-4}
    assert isinstance(load_params().teacher.lr, float)


def test_load_params__groups_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_params().pretrain.epochs = 3


def test_load_params__a_file_that_is_not_yaml_is_named(tmp_path):
    (tmp_path / "params.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match=r"params.yaml: not YAML"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("name", preset_names())
def test_compose__every_preset_is_valid(tmp_path, name):
    write_params(compose(name), tmp_path / "params.yaml")
    assert load_params(tmp_path / "params.yaml").compare.baseline == "mae"


def test_compose__an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match=r"preset nonesuch: unknown; there are .*quickstart"):
        compose("nonesuch")


def test_compose__vitb8_extends_vitb16():
    fine, coarse = compose("imagenet-vitb8"), compose("imagenet-vitb16")
    assert fine["pretrain"]["patch_size"] == 8
    fine["pretrain"]["patch_size"] = 16
    # Four times as many tokens an image.
    fine["probe"]["token_images"] *= 4
    assert fine == coarse


def test_load_runtime__the_file_is_valid():
    assert load_runtime().workers >= 0


@pytest.mark.parametrize("rendezvous", ["", "head", ":29400", "head:", "head:x", "head:0", "head:65536"])
def test_load_runtime__nodes_need_a_place_to_meet(tmp_path, rendezvous):
    document = {**read_document("runtime.yaml"), "nodes": 2, "rendezvous": rendezvous}
    path = tmp_path / "runtime.yaml"
    path.write_text(json.dumps(document))
    with pytest.raises(
        ValueError, match=rf"rendezvous: got '{rendezvous}', expected HOST:PORT, at which the 2 nodes meet"
    ):
        load_runtime(path)
    path.write_text(json.dumps({**document, "launcher": "slurm"}))
    assert load_runtime(path).nodes == 2, "SLURM names the nodes itself"
    path.write_text(json.dumps({**document, "rendezvous": "head:29400"}))
    assert load_runtime(path).rendezvous == "head:29400"
    path.write_text(json.dumps({**document, "rendezvous": "head:29400", "join_seconds": 1800}))
    with pytest.raises(ValueError, match=r"join_seconds: got 1800, expected less than watchdog_seconds 1800"):
        load_runtime(path)


def test_load_runtime__an_unknown_launcher_or_option_is_named(tmp_path):
    document = json.loads(json.dumps(read_document("runtime.yaml")))
    path = tmp_path / "runtime.yaml"
    path.write_text(json.dumps({**document, "launcher": "kubernetes"}))
    with pytest.raises(ValueError, match=r"launcher: got 'kubernetes'; Input should be 'local' or 'slurm'"):
        load_runtime(path)
    document["slurm"]["account"] = "vision"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"slurm.account: unknown key"):
        load_runtime(path)
