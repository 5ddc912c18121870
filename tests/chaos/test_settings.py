"""params.yaml and runtime.yaml with damage: refused and named, a value that DVC shows as changed, or one that changes no bit."""

import contextlib
import json
import re
from pathlib import Path

import pytest

from config.params import load_params, load_runtime, read_yaml
from config.presets import flatten
from jobs.dvc_lock import stage_entries
from jobs.fingerprint import digest_of
from pipeline.graph import value_of
from tests.chaos.artefacts import KINDS, places_of, spoil
from tests.chaos.conftest import SILENT, chosen, copy_of
from tests.chaos.zygote import error_lines

pytestmark = pytest.mark.family

LOADERS = {"params.yaml": load_params, "runtime.yaml": load_runtime}
PLACES = 100
REFUSED, UNHARMED = "refused, named", "read as it was"
ANOTHER = "another value: the stages that it concerns run again and record it"
ANY_VALUE = "another value: the same bits, or refused, named"
STAGE, OUT = ("pretrain", "mae", "0"), "pretrained/mae-0"


def damage_all(name, kind, count):
    """Damage a file in `count` ways (0: all), look what the product makes of it; prints outcomes and valid other contents."""
    path, load = Path(name), LOADERS[name]
    data, whole, document = path.read_bytes(), load(name), read_yaml(name)
    outcomes, others = {REFUSED: 0, UNHARMED: 0}, []
    for where in places_of(kind, len(data), int(count), f"{name} {kind}"):
        path.write_bytes(data)
        spoil(path, kind, where)
        try:
            found = load(name)
        except ValueError as error:
            assert str(error).startswith(f"{name}: ") and "\n" not in str(error), error
            outcomes[REFUSED] += 1
            continue
        if found == whole:
            outcomes[UNHARMED] += 1
        else:
            others.append([where, is_seen(document)])
    print(json.dumps([outcomes, others]))


def is_seen(whole):
    """Whether what params.yaml has now, and not in `whole`, differs from what dvc.lock records of the stages that read it.

    A value that no stage reads which ran here differs from nothing; dvc.yaml must name a stage that would.
    """
    values = read_yaml("params.yaml")
    recorded = [entry.get("params", {}).get("params.yaml", {}) for entry in stage_entries(Path("dvc.lock")).values()]
    if any(value_of(values, key) != value for kept in recorded for key, value in kept.items()):
        return True
    before, now = dict(flatten(whole)), dict(flatten(values))
    read = {key for stage in read_yaml("dvc.yaml")["stages"].values() for key in stage.get("params", [])}
    # Of lists of a matrix, and of folders that a stage depends on.
    read |= set(re.findall(r"\$\{([\w.]+)\}", Path("dvc.yaml").read_text()))
    changed = [leaf for leaf in {*before, *now} if before.get(leaf) != now.get(leaf)]
    return bool(changed) and all(any(f"{leaf}.".startswith(f"{key}.") for key in read) for leaf in changed)


def outcomes_of(zygote, folder, name, kind, tries):
    answer = zygote(folder, "tests.chaos.test_settings:damage_all", name, kind, tries * PLACES)
    assert answer["code"] == 0, answer["output"]
    return json.loads(answer["output"].splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_parameters__that_are_damaged_are_refused_or_another_experiment(zygote, place, tries, tell, kind):
    """A value that is another and possible is what a user writes who wants another experiment: it may not pass for the old."""
    outcomes, others = outcomes_of(zygote, place, "params.yaml", kind, tries)
    assert sum(outcomes.values()) + len(others) > 0
    for outcome, count in outcomes.items():
        if count:
            tell(KINDS[kind], "params.yaml", outcome, count)
    for where, is_another in others:
        tell(KINDS[kind], "params.yaml", ANOTHER if is_another else f"{SILENT} at {where}")


@pytest.mark.parametrize("kind", KINDS)
def test_runtime__that_is_damaged_is_refused_or_changes_no_bit(zygote, recorded, tmp_path, tries, tell, kind):
    folder = copy_of(recorded, tmp_path / "looked")
    outcomes, others = outcomes_of(zygote, folder, "runtime.yaml", kind, tries)
    for outcome, count in outcomes.items():
        if count:
            tell(KINDS[kind], "runtime.yaml", outcome, count)
    # A value is tried by a whole stage: of many, those that chance takes.
    for number in chosen(len(others), 2 * tries, f"runtime {kind}") if others else []:
        where, _ = others[number - 1]
        tell(KINDS[kind], "runtime.yaml", outcome_of_stage(zygote, recorded, tmp_path / str(where), kind, where))


def outcome_of_stage(zygote, recorded, target, kind, where):
    folder = copy_of(recorded, target)
    spoil(folder / "runtime.yaml", kind, where)
    with contextlib.chdir(folder):
        whole = digest_of(OUT)
    answer = zygote(folder, f"stages.{STAGE[0]}", *STAGE[1:])
    lines = error_lines(answer)
    if answer["code"] == 1 and len(lines) == 1 and lines[0].startswith("error: "):
        return ANY_VALUE
    assert answer["code"] == 0, answer["output"]
    return ANY_VALUE if digest_of(folder / OUT) == whole else SILENT


def test_is_seen__tells_a_value_that_dvc_recorded_from_another(place, monkeypatch):
    """The oracle itself."""
    monkeypatch.chdir(place)
    document = read_yaml("params.yaml")
    assert not is_seen(document)
    text = Path("params.yaml").read_text()
    assert "\nseeds: [0, 1]" in text
    Path("params.yaml").unlink()
    Path("params.yaml").write_text(text.replace("\nseeds: [0, 1]", "\nseeds: [0, 2]"))
    assert is_seen(document)
