"""What determines a result is in its key, and nothing else: which stages a changed module reruns, asked of DVC itself."""

import contextlib

import pytest
from dvc.repo import Repo

from config.params import read_yaml
from jobs.code import RESULT_ROOMS, code_digests
from jobs.fingerprint import fingerprint
from tests.conftest import ROOT, module_of, recorded_copy, run_stage

STAGES = {name: module_of(stage["cmd"]) for name, stage in read_yaml(ROOT / "dvc.yaml")["stages"].items()}
# Rooms that carry results and determine none.
INFRASTRUCTURE = ("shards", "config", "jobs", "pipeline")
# Module -> the stages whose result it determines. Whoever adds an import sees here which results it makes older.
TABLE = """
evaluation/accuracy.py: pretrain probe finetune linear_mae transfer compare
evaluation/attentive.py: probe transfer
evaluation/attributes.py: probe
evaluation/confusion.py: probe segment
evaluation/dense.py: probe
evaluation/finetuning.py: finetune transfer
evaluation/knn.py: train_teacher pretrain probe transfer
evaluation/linear.py: probe transfer
evaluation/linear_mae.py: linear_mae
evaluation/monitoring.py: pretrain
evaluation/predictions.py: probe finetune linear_mae transfer compare
evaluation/probing.py: probe transfer
evaluation/protocols.py: compare
evaluation/rankme.py: pretrain probe
evaluation/segmenting.py: segment
evaluation/supervised.py: finetune linear_mae transfer segment
evaluation/teacher_quality.py: train_teacher
images/augmentation.py: train_teacher extract_attention refine_parts cache_masks pretrain probe finetune linear_mae
    transfer segment evaluate_parts compare
images/creatures/anatomy.py: generate_creatures
images/creatures/canvas.py: generate_creatures
images/creatures/drawing.py: generate_creatures
images/creatures/scenery.py: generate_creatures
images/creatures/shapes.py: generate_creatures
images/creatures/textures.py: generate_creatures
images/dataset.py: train_teacher select_masks pretrain probe finetune linear_mae transfer segment evaluate_parts
    compare
images/decoding.py: prepare_data train_teacher extract_attention refine_parts cache_masks select_masks pretrain probe
    finetune linear_mae prepare_transfer transfer prepare_segment segment evaluate_parts compare
images/downloads.py: -
images/sources/arrow.py: prepare_data prepare_transfer prepare_segment
images/sources/attributes.py: prepare_data prepare_transfer prepare_segment
images/sources/class_coverage.py: prepare_data prepare_transfer prepare_segment
images/sources/classes.py: prepare_data prepare_transfer prepare_segment
images/sources/columns.py: prepare_data prepare_transfer prepare_segment
images/sources/container_source.py: prepare_data prepare_transfer prepare_segment
images/sources/containers.py: prepare_data prepare_transfer prepare_segment
images/sources/folder.py: prepare_data prepare_transfer prepare_segment
images/sources/folder_tree.py: prepare_data prepare_transfer prepare_segment
images/sources/items.py: prepare_data prepare_transfer prepare_segment
images/sources/kinds.py: prepare_data prepare_transfer prepare_segment
images/sources/label_tables.py: prepare_data prepare_transfer prepare_segment
images/sources/layout.py: prepare_data prepare_transfer prepare_segment
images/sources/mask_names.py: prepare_data prepare_transfer prepare_segment
images/sources/masks.py: prepare_data prepare_transfer prepare_segment
images/sources/parquet.py: prepare_data prepare_transfer prepare_segment
images/sources/path_index.py: prepare_data prepare_transfer prepare_segment
images/sources/preparation.py: prepare_data prepare_transfer prepare_segment
images/sources/splits.py: prepare_data prepare_transfer prepare_segment
images/sources/tables.py: prepare_data prepare_transfer prepare_segment
images/sources/tree.py: prepare_data prepare_transfer prepare_segment
images/sources/understanding.py: -
images/sources/webdataset.py: prepare_data prepare_transfer prepare_segment
images/stream.py: prepare_data train_teacher extract_attention refine_parts cache_masks select_masks pretrain probe
    finetune linear_mae prepare_transfer transfer prepare_segment segment evaluate_parts compare
models/checkpoints.py: train_teacher extract_attention refine_parts cache_masks pretrain evaluate_parts compare
models/classifier.py: finetune transfer segment
models/ibot.py: train_teacher
models/layouts.py: -
models/mae.py: pretrain compare
models/part_decoder.py: refine_parts compare
models/part_learner.py: refine_parts cache_masks compare
models/part_losses.py: refine_parts compare
models/segmenter.py: segment
models/start.py: pretrain
models/teachers.py: train_teacher extract_attention refine_parts cache_masks evaluate_parts compare
models/vit.py: train_teacher extract_attention refine_parts cache_masks pretrain probe finetune linear_mae transfer
    segment evaluate_parts compare
parts/attention.py: extract_attention cache_masks evaluate_parts compare
parts/baselines.py: evaluate_parts
parts/clustering.py: refine_parts
parts/foreground.py: refine_parts cache_masks select_masks probe evaluate_parts compare
parts/labelling.py: refine_parts cache_masks select_masks probe evaluate_parts compare
parts/masking.py: train_teacher pretrain compare
parts/quality.py: refine_parts evaluate_parts
parts/schedules.py: pretrain compare
reports/comparison.py: compare
reports/dissection.py: compare
reports/figures.py: compare
reports/gallery.py: compare
reports/layout.py: compare
reports/lettering.py: compare
reports/map_tiles.py: compare
reports/mask_statistics.py: compare
reports/material.py: compare
reports/page.py: compare
reports/part_summary.py: compare
reports/pictures.py: compare
reports/portrait.py: compare
reports/reconstructions.py: compare
reports/results.py: compare
reports/samples.py: compare
reports/show.py: -
reports/statistics.py: compare
reports/table.py: -
stages/cache_masks.py: cache_masks
stages/compare.py: compare
stages/digest_code.py: digest_code
stages/evaluate_parts.py: evaluate_parts
stages/extract_attention.py: extract_attention
stages/finetune.py: finetune
stages/generate_creatures.py: generate_creatures
stages/linear_mae.py: linear_mae
stages/prepare_data.py: prepare_data prepare_transfer prepare_segment
stages/pretrain.py: pretrain
stages/probe.py: probe
stages/refine_parts.py: refine_parts
stages/segment.py: segment
stages/select_masks.py: select_masks
stages/train_teacher.py: train_teacher
stages/transfer.py: transfer
training/compute.py: train_teacher extract_attention refine_parts cache_masks pretrain probe finetune linear_mae
    transfer segment evaluate_parts compare
training/distilling.py: train_teacher
training/encoders.py: train_teacher extract_attention refine_parts cache_masks pretrain probe finetune linear_mae
    transfer segment evaluate_parts compare
training/extraction.py: extract_attention
training/loop.py: train_teacher refine_parts pretrain finetune linear_mae transfer segment
training/masks.py: pretrain compare
training/optimiser.py: train_teacher refine_parts pretrain finetune linear_mae transfer segment
training/part_labels.py: cache_masks compare
training/pretraining.py: pretrain
training/randomness.py: train_teacher refine_parts pretrain probe finetune linear_mae transfer segment compare
training/refining.py: refine_parts
training/snapshots.py: pretrain compare
training/teacher.py: train_teacher extract_attention refine_parts cache_masks evaluate_parts compare
"""


def table():
    rows = dict(line.split(": ") for line in TABLE.strip().replace("\n    ", " ").splitlines())
    return {path: set(stages.replace("-", "").split()) for path, stages in rows.items()}


def files_of(rooms, root=ROOT):
    return sorted(path.relative_to(root).as_posix() for room in rooms for path in (root / room).rglob("[!_]*.py"))


def determined():
    """Module -> stages, from the imports."""
    found = {path: set() for path in files_of(RESULT_ROOMS)}
    for stage, module in STAGES.items():
        for path in code_digests(module, ROOT):
            found[path].add(stage)
    return found


def test_table__holds_every_module_and_the_stages_that_it_determines():
    assert table() == determined()


def test_dvc_yaml__every_stage_depends_on_the_digests_of_its_code_and_on_no_other_code():
    for name, stage in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        code = [dep for dep in stage["deps"] if dep.endswith(".py") or dep.startswith("code/")]
        module = STAGES[name].removeprefix("stages.")
        assert code == ([] if name in ("digest_code", "track_runs") else [f"code/{module}.json"]), name
    assert read_yaml(ROOT / "dvc.yaml")["stages"]["digest_code"]["deps"] == sorted(RESULT_ROOMS)


@pytest.fixture(scope="module")
def recorded(world, tmp_path_factory):
    """A copy of the world whose outs DVC has committed."""
    return recorded_copy(world, tmp_path_factory.mktemp("keys") / "world")


def rerun_after(world, changes):
    """Names of dvc.yaml's stages that run again when files changed (path -> new text); the files are put back."""
    originals = {path: (world / path).read_text() for path in changes}
    try:
        for path, text in changes.items():
            (world / path).write_text(text)
        with contextlib.chdir(world), Repo() as repo:
            before = {name.partition("@")[0] for name in repo.status()}
        run_stage(world, "stages.digest_code")
        with contextlib.chdir(world), Repo() as repo:
            after = {name.partition("@")[0] for name in repo.status()}
        return before, after - {"digest_code", "track_runs"}
    finally:
        for path, text in originals.items():
            (world / path).write_text(text)
        run_stage(world, "stages.digest_code")


@pytest.mark.parametrize("path", ["models/mae.py", "evaluation/knn.py"])
def test_a_changed_module__reruns_the_stages_of_the_table(recorded, path):
    _, rerun = rerun_after(recorded, {path: (ROOT / path).read_text() + "\nCHANGED = True\n"})
    # Of the stages that this world has: its sets for transfer and segmentation are empty.
    present = {name.partition("@")[0] for name in read_yaml(recorded / "dvc.lock")["stages"]}
    assert rerun == table()[path] & present


def test_a_changed_comment_or_docstring__reruns_no_stage_but_the_digests(recorded):
    changes = {
        path: text.replace('"""', '"""Changed. ', 1) + "\n# Changed.\n"
        for path in files_of(RESULT_ROOMS)
        if (text := (ROOT / path).read_text())
    }
    assert rerun_after(recorded, changes) == ({"digest_code"}, set())


def test_changed_infrastructure__reruns_nothing_and_keeps_the_name_of_the_checkpoint(recorded):
    def name():
        with contextlib.chdir(recorded):
            from config.params import load_params

            params = load_params()
            return fingerprint("stages.pretrain", params={}, compute=params.compute, inputs=["data/shards"])

    before = name()
    infrastructure = files_of(INFRASTRUCTURE)
    changes = {path: (ROOT / path).read_text() + "\nCHANGED = True\n" for path in infrastructure}
    try:
        for path, text in changes.items():
            (recorded / path).write_text(text)
        with contextlib.chdir(recorded), Repo() as repo:
            assert [stage for stage in repo.status() if stage != "track_runs"] == []
        assert name() == before
        (recorded / "models/mae.py").write_text((ROOT / "models/mae.py").read_text() + "\nCHANGED = True\n")
        assert name() != before
    finally:
        for path in (*changes, "models/mae.py"):
            (recorded / path).write_text((ROOT / path).read_text())
