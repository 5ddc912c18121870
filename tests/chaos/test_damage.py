"""What was truncated, emptied, deleted or had a bit flipped is noticed by whoever reads it next, and never used."""

import json
import shutil

import pytest

from jobs.fingerprint import digest_of
from tests.chaos.artefacts import ARTEFACTS, KINDS, damage, places_of, spoil
from tests.chaos.conftest import SILENT, copy_of
from tests.chaos.zygote import error_lines

pytestmark = pytest.mark.family

WORDS = {"refused": "refused, named", "recomputed": "made again", "absent": "made again", "unharmed": "read as it was"}
SEALED = [name for name, artefact in ARTEFACTS.items() if artefact.is_sealed]
# Places in each file that a run of a few minutes tries; --chaos multiplies them.
PLACES = 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SEALED)
def test_damage__is_noticed_wherever_it_is(zygote, tmp_path, tries, tell, name, kind):
    assert zygote(tmp_path, "tests.chaos.artefacts:write", name, "old")["code"] == 0
    answer = zygote(tmp_path, "tests.chaos.test_damage:damage_all", name, kind, tries * PLACES)
    assert answer["code"] == 0, answer["output"]
    told = json.loads(answer["output"].splitlines()[-1])
    for outcome, words in WORDS.items():
        if told.get(outcome):
            tell(KINDS[kind], name, words, told[outcome])
    assert not told["unnamed"], told["unnamed"][:5]
    if told["silent"]:
        tell(KINDS[kind], name, SILENT, len(told["silent"]))
    assert told["cases"] > 0


def damage_all(name, kind, count):
    damage(name, kind, int(count))


# File -> the stage that reads it next, with its arguments and what it makes.
READERS = {
    "data/shards/train-00000.parquet": ("extract_attention", [], ["attention", "masks/raw"]),
    "data/shards/manifest.json": ("extract_attention", [], ["attention", "masks/raw"]),
    "data/masks/test-00000.parquet": ("evaluate_parts", [], ["metrics/evaluate_parts.json"]),
    "data/masks/manifest.json": ("evaluate_parts", [], ["metrics/evaluate_parts.json"]),
    "teacher/model.safetensors": ("extract_attention", [], ["attention", "masks/raw"]),
    "teacher/config.json": ("extract_attention", [], ["attention", "masks/raw"]),
    "attention/all/shard-00000.parquet": ("refine_parts", [], ["part_learner", "history/refine_parts.json"]),
    "attention/tokens/manifest.json": ("refine_parts", [], ["part_learner", "history/refine_parts.json"]),
    "part_learner/model.safetensors": ("cache_masks", [], ["masks/learned", "metrics/cache_masks.json"]),
    "part_learner/config.json": ("cache_masks", [], ["masks/learned", "metrics/cache_masks.json"]),
    "masks/learned/shard-00000.parquet": ("select_masks", ["semmae"], ["arms/semmae"]),
    "masks/learned/manifest.json": ("select_masks", ["semmae"], ["arms/semmae"]),
    "arms/semmae/shard-00000.parquet": ("pretrain", ["semmae", "0"], ["pretrained/semmae-0"]),
    "arms/mae/manifest.json": ("pretrain", ["mae", "0"], ["pretrained/mae-0"]),
    "pretrained/mae-0/model.safetensors": (
        "probe",
        ["mae", "0"],
        ["metrics/predictions/probe/mae-0.parquet", "metrics/probe/mae-0.json"],
    ),
    "pretrained/mae-0/config.json": (
        "finetune",
        ["mae", "0"],
        ["finetuned/mae-0", "metrics/predictions/finetune/mae-0.parquet"],
    ),
    "pretrained/mae-0/snapshots.safetensors": ("compare", [], ["report"]),
    "part_learner/decoder/model.safetensors": ("compare", [], ["report"]),
    "metrics/probe/mae-0.json": ("compare", [], ["report"]),
    "history/pretrain/mae-0.json": ("compare", [], ["report"]),
    "metrics/predictions/finetune/mae-0.parquet": ("compare", [], ["report"]),
}


def pytest_generate_tests(metafunc):
    if "reader" in metafunc.fixturenames:
        every = [(file, kind) for file in READERS for kind in KINDS]
        # One kind of damage a file, all kinds over all files; `make chaos` tries each on each.
        few = [(file, list(KINDS)[number % len(KINDS)]) for number, file in enumerate(READERS)]
        metafunc.parametrize("reader", few if metafunc.config.getoption("--chaos") == 1 else every, ids="-".join)


def test_damage__is_one_line_of_the_stage_that_reads_it(zygote, recorded, tmp_path, tell, reader):
    file, kind = reader
    stage, arguments, outs = READERS[file]
    whole = {out: digest_of(recorded / out) for out in outs}
    for where in sorted({*places_of(kind, (recorded / file).stat().st_size, 2, file)}):
        folder = copy_of(recorded, tmp_path / str(where))
        # What was made of the sound file would be used instead of it.
        shutil.rmtree(folder / ".semmae", ignore_errors=True)
        spoil(folder / file, kind, where)
        answer = zygote(folder, f"stages.{stage}", *arguments)
        if answer["code"] == 0:
            found = {out: digest_of(folder / out) for out in outs}
            tell(KINDS[kind], file, "read as it was" if found == whole else SILENT)
            continue
        lines = error_lines(answer)
        assert answer["code"] == 1 and len(lines) == 1 and lines[0].startswith(f"error: {stage}: "), answer["output"]
        assert any(str(place) in lines[0] for place in (file, file.rpartition("/")[0])), lines
        tell(KINDS[kind], file, "refused, named")
