from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reports.show import SHEET, choose_targets, show

OPTIONS = {"max_pixels": 10_000, "device": torch.device("cpu")}


@pytest.fixture
def pictures(tmp_path):
    """Images of the user's: upright, a panorama, one with transparency; then two files that are none."""
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 40, 3)), ("b.jpg", (20, 80, 3)), ("c.webp", (30, 20, 4))):
        Image.fromarray(rng.integers(0, 255, size).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    return tmp_path


def test_show__two_images_make_two_pictures_and_a_sheet(outs, pictures, tmp_path):
    paths = [pictures / "a.png", pictures / "b.jpg"]
    shown = list(show(paths, tmp_path / "out", root=outs, **OPTIONS))
    assert [found.source for found in shown] == [*paths, None]
    names = {"a-parts.png", "b-parts.png", f"{SHEET}.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names == {found.picture.name for found in shown}
    for found in shown:
        Image.open(found.picture).verify()


def test_show__a_picture_is_the_same_alone_and_in_company(outs, pictures, tmp_path):
    """No image changes another's picture: batches are for speed alone."""
    list(show([pictures / "a.png"], tmp_path / "alone", root=outs, **OPTIONS))
    list(show([pictures / name for name in ("c.webp", "a.png")], tmp_path / "both", root=outs, **OPTIONS))
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"a-parts.png"}
    alone, both = (np.asarray(Image.open(tmp_path / name / "a-parts.png")).astype(int) for name in ("alone", "both"))
    assert np.abs(alone - both).max() <= 2


def test_show__bad_files_are_told_with_the_reason_and_the_others_drawn(outs, pictures, tmp_path):
    names = ("text.png", "cut.png", "absent.png", "", "c.webp")
    shown = list(show([pictures / name for name in names], tmp_path / "out", root=outs, **OPTIONS))
    problems = {found.source.name: found.problem for found in shown if found.picture is None}
    assert problems["text.png"].startswith("not an image")
    assert problems["cut.png"].startswith("truncated")
    assert "No such file" in problems["absent.png"] and "directory" in problems[pictures.name]
    assert all("\n" not in problem for problem in problems.values())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c-parts.png"]


def test_show__a_file_larger_than_allowed_is_refused_as_in_the_pipeline(outs, pictures, tmp_path):
    found = next(show([pictures / "a.png"], tmp_path / "out", root=outs, **{**OPTIONS, "max_pixels": 100}))
    assert found.problem.startswith("too large")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["teacher", "part_learner"])
def test_show__before_anything_is_learned_it_says_what_to_run(outs, tmp_path, missing):
    other = {"teacher": "part_learner", "part_learner": "teacher"}[missing]
    (tmp_path / other).symlink_to(outs / other)
    with pytest.raises(ValueError, match=f"{missing}: not there yet.*dvc repro refine_parts"):
        next(show([tmp_path / "a.png"], tmp_path / "out", root=tmp_path, **OPTIONS))


def test_choose_targets__are_all_different_and_never_a_given_file(tmp_path):
    paths = [tmp_path / name for name in ("x.png", "x.jpg", "sub/x.png", "x-parts.png", "ü" * 200 + ".png")]
    targets = choose_targets(paths, tmp_path)
    assert len(set(targets)) == len(paths)
    assert not set(targets) & set(paths)
    assert all(len(target.name.encode()) < 200 for target in targets)
    assert choose_targets([Path("a.png")], Path("out")) == [Path("out/a-parts.png")]
