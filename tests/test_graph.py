"""Which stages run again when something changes: asked of DVC itself, in a world whose outs are all recorded."""

import contextlib

import pytest
from dvc.repo import Repo

from config.params import load_params
from config.presets import compose, flatten, preset_names, read_document, write_params
from tests.conftest import ROOT, expand, make_world, module_of, recorded_copy

ARMS, SEEDS = ("semmae", "mae", "raw_attention"), (0, 1)
JOBS = [f"{arm}-{seed}" for arm in ARMS for seed in SEEDS]
PRETRAIN = [f"pretrain@{job}" for job in JOBS]
PROBE, FINETUNE = [f"probe@{job}" for job in JOBS], [f"finetune@class-{job}" for job in JOBS]
TORCH = ["train_teacher", "extract_attention", "refine_parts", "cache_masks", "evaluate_parts@masks"]

# Parameter -> a new value, and the stages that run again for its own sake. What stands downstream of them runs when
# their outs change, which is DVC's part.
TABLE = {
    "creatures.seed": (5, ["generate_creatures@creatures"]),
    "data.val_share": (0.2, ["prepare_data"]),
    "data.mask_values": ({7: "ignored"}, ["prepare_data"]),
    "data.max_pixels": (10_000, ["prepare_data"]),
    "data.labels": ([], ["prepare_data", *PROBE]),
    "data.attributes": (["mark"], ["prepare_data", *PROBE]),
    "data.store": ("s3://bucket/prefix", ["prepare_data", "extract_attention"]),
    "teacher.lr": (0.01, ["train_teacher"]),
    "extract.token_layer": (0, ["extract_attention"]),
    "extract.part_images": (5, ["extract_attention", "refine_parts"]),
    "refine.diversity_weight": (0.7, ["refine_parts"]),
    "extract.batch_size": (7, ["extract_attention", "cache_masks"]),
    "extract.token_gib": (0.5, ["extract_attention"]),
    "arms.semmae.gamma": (3.0, ["select_masks@semmae", "pretrain@semmae-0", "pretrain@semmae-1"]),
    "arms.block.gamma": (3.0, []),
    "pretrain.epochs": (7, PRETRAIN),
    "pretrain.mask_ratio": (0.5, PRETRAIN),
    "pretrain.start_sha256": ("0" * 64, PRETRAIN),
    "pretrain.shuffle_images": (40, [*PRETRAIN, *FINETUNE]),
    "pretrain.decode_size": (40, [*PRETRAIN, *FINETUNE]),
    "monitor.every": (0, PRETRAIN),
    "probe.neighbours": ([3], PROBE),
    "probe.low_shot": ([0.5], PROBE),
    "finetune.epochs": (7, FINETUNE),
    "finetune.ema": (0.9, FINETUNE),
    "linear_mae.epochs": (3, []),
    "quality.seed": (3, ["evaluate_parts@masks"]),
    "compare.confidence": (0.9, []),
    "compute.threads": (2, [*TORCH, *PRETRAIN, *PROBE, *FINETUNE]),
    "compute.world_size": (2, [*PRETRAIN, *FINETUNE]),
    "compute.micro_batch": (4, PRETRAIN),
}


@pytest.fixture(scope="module")
def recorded(world, tmp_path_factory):
    """A copy of the world whose outs DVC has committed."""
    return recorded_copy(world, tmp_path_factory.mktemp("graph") / "world")


def changed_stages(folder):
    with contextlib.chdir(folder), Repo() as repo:
        return {name for name in repo.status() if not name.startswith("track_runs")}


def test_graph__nothing_changed_runs_nothing(recorded):
    assert changed_stages(recorded) == set()


@pytest.mark.parametrize("key", TABLE)
def test_graph__a_parameter_reruns_exactly_the_stages_that_depend_on_it(recorded, key):
    value, expected = TABLE[key]
    original = (recorded / "params.yaml").read_text()
    document = read_document(recorded / "params.yaml")
    *path, last = key.split(".")
    group = document
    for part in path:
        group = group[part]
    assert group[last] != value
    group[last] = value
    try:
        write_params(document, recorded / "params.yaml")
        # Its page lists the parameters that differ from the preset.
        assert changed_stages(recorded) == {*expected, "compare"}
    finally:
        (recorded / "params.yaml").write_text(original)


def test_graph__corrected_masks_rerun_what_reads_masks_alone(recorded):
    manifest = recorded / "data/masks/manifest.json"
    original = manifest.read_text()
    try:
        manifest.unlink()  # Of DVC's cache it may be a hard link.
        manifest.write_text(original + " ")
        select = {f"select_masks@{arm}" for arm in ("semmae", "mae", "raw_attention")}
        assert changed_stages(recorded) == {"prepare_data", *select, *PROBE, "evaluate_parts@masks", "compare"}
    finally:
        manifest.unlink()
        manifest.write_text(original)


@pytest.fixture(scope="module")
def empty_world(tmp_path_factory):
    """A world without any out."""
    return make_world(tmp_path_factory.mktemp("presets"))


def names_of_presets():
    with contextlib.chdir(ROOT):
        return preset_names()


@pytest.mark.parametrize("name", names_of_presets())
def test_graph__every_preset_is_valid_and_makes_the_whole_graph(empty_world, name):
    """`dvc repro --dry` stops at the first dep that is not there yet, so the graph itself is asked."""
    with contextlib.chdir(empty_world):
        write_params(compose(name), empty_world / "params.yaml")
        params = load_params()
        with Repo() as repo:
            planned = {stage.addressing: stage.cmd for stage in repo.index.stages}
    jobs = {label: module for label, module, _ in expand(params=params)}
    assert {name: module_of(command) for name, command in planned.items()} == jobs
    # What stands in params.yaml is no word of a shell.
    assert {tuple(command.split()[4:]) for command in planned.values()} <= {(), ("transfer",), ("segment",)}
    assert len(planned) <= 31 or name != "quickstart"


def test_graph__every_parameter_reaches_a_stage(recorded):
    """No parameter is dead: each leaf of params.yaml is tracked by a stage, or steers the graph itself."""
    from config.params import read_yaml

    steering = {"data.watch", "data.generate", "data.part_truth"}
    # As written, so that stages whose lists are empty here count too.
    stages = read_yaml(ROOT / "dvc.yaml")["stages"].values()
    tracked = {name for stage in stages for name in stage.get("params", [])}
    for key, _ in flatten(read_yaml(recorded / "params.yaml")):
        prefixes = {".".join(key.split(".")[:n]) for n in range(1, key.count(".") + 2)}
        assert prefixes & tracked or key in steering, key
