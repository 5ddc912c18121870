import hashlib
import os
import shutil
import subprocess

import pytest
from PIL import Image

from config.params import load_params
from pipeline.weights import OFFICIAL, Official
from tests.conftest import ROOT, call


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with presets and parameters, and one of a user's own images."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copyfile("presets/quickstart.yaml", "params.yaml")
    shutil.copyfile(ROOT / "runtime.yaml", "runtime.yaml")
    for name in ("cats", "dogs"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for image in "abc":
            Image.new("RGB", (8, 8)).save(tmp_path / "mine" / name / f"{image}.png")
    subprocess.run(["git", "init", "-q"], check=True)
    return tmp_path


def test_preset__writes_params(project, monkeypatch, capsys):
    assert call(monkeypatch, "preset", "clothing10") == 0
    assert load_params().data.path == "data/clothing10"
    assert "next: dvc repro" in capsys.readouterr().out


def test_preset__a_second_one_is_laid_over_the_first(project, monkeypatch, capsys):
    assert call(monkeypatch, "preset", "clothing10", "table4") == 0
    params = load_params()
    assert params.data.path == "data/clothing10" and params.teacher.epochs == 24
    assert params.seeds == [0, 1, 2, 3, 4] and params.pretrain.epochs == 40


def test_preset__an_unknown_one_is_one_line_and_exit_1(project, monkeypatch, capsys):
    before = (project / "params.yaml").read_bytes()
    assert call(monkeypatch, "preset", "nonesuch") == 1
    assert capsys.readouterr().err.startswith("error: preset nonesuch: unknown; there are")
    assert (project / "params.yaml").read_bytes() == before


def test_use__points_at_a_folder_and_keeps_the_rest(project, monkeypatch):
    assert call(monkeypatch, "use", "mine") == 0
    data = load_params().data
    assert (data.path, data.watch, data.generate, data.labels, data.part_truth) == ("mine", "mine", [], ["class"], [])
    assert "# Every number" in (project / "params.yaml").read_text()
    assert call(monkeypatch, "check") == 0


def test_use__an_empty_folder_is_one_line_and_nothing_is_written(project, monkeypatch, capsys):
    before = (project / "params.yaml").read_bytes()
    (project / "none").mkdir()
    assert call(monkeypatch, "use", "none") == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: data.path: no image below none, which is empty")
    assert (project / "params.yaml").read_bytes() == before and not (project / "data").exists()


def test_use__images_without_labels_switch_the_labels_off_and_labelled_ones_on(project, monkeypatch, capsys):
    assert call(monkeypatch, "use", "mine/cats") == 0
    assert load_params().data.labels == []
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no labels" in line]
    assert line == (
        "  no labels: parts, masks, encoders and reconstructions, no accuracy; to judge the encoders put a labelled set into "
        "data/transfer/NAME and name it in transfer.sets"
    )
    assert call(monkeypatch, "use", "mine") == 0
    assert load_params().data.labels == ["class"]


def test_check__a_path_changed_by_hand_is_refused_until_use_has_seen_it(project, monkeypatch, capsys):
    assert call(monkeypatch, "use", "mine") == 0
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("  path: mine\n", "  path: mine/cats\n"))
    assert call(monkeypatch, "check") == 1
    assert "data: watch: got 'mine', expected 'mine/cats' as in path, or data/listing.txt" in capsys.readouterr().err
    # The same with a listing, which names what it lists.
    os.symlink("nowhere", project / "mine" / "cats" / "broken")
    assert call(monkeypatch, "use", "mine") == 0
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("  path: mine\n", "  path: mine/cats\n"))
    capsys.readouterr()
    assert call(monkeypatch, "check") == 1
    assert capsys.readouterr().err == (
        "error: data/listing.txt: got listing of mine, expected the listing of mine/cats; run `semmae use mine/cats`\n"
    )
    assert call(monkeypatch, "use", "mine/cats") == call(monkeypatch, "check") == 0


def test_use__a_folder_that_dvc_cannot_hash_gets_a_listing(project, monkeypatch, capsys):
    os.symlink("nowhere", project / "mine" / "cats" / "broken")
    assert call(monkeypatch, "use", "mine") == 0
    assert load_params().data.watch == "data/listing.txt"
    assert "cannot hash" in capsys.readouterr().out
    assert "cats/broken" in (project / "data" / "listing.txt").read_text()
    assert call(monkeypatch, "check") == 0


def test_check__a_folder_that_dvc_cannot_hash_is_refused_before_dvc_sees_it(project, monkeypatch, capsys):
    assert call(monkeypatch, "use", "mine") == 0
    os.symlink("nowhere", project / "mine" / "cats" / "broken")
    assert call(monkeypatch, "check") == 1
    assert "run `semmae use mine`" in capsys.readouterr().err


def test_check__a_missing_folder_is_named(project, monkeypatch, capsys):
    assert call(monkeypatch, "preset", "clothing10") == 0
    assert call(monkeypatch, "check") == 1
    assert "data.path: no folder data/clothing10" in capsys.readouterr().err


def test_show__a_broken_file_is_one_line_and_the_rest_is_drawn(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(world)
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "mine.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    files = [str(tmp_path / name) for name in ("broken.png", "mine.png")]
    assert call(monkeypatch, "show", *files, "--out", str(tmp_path / "out")) == 1
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and told.err.startswith(f"error: {tmp_path / 'broken.png'}: truncated")
    assert told.out.split() == [str(tmp_path / "out" / "mine-parts.png")]
    assert call(monkeypatch, "show", files[1], "--out", str(tmp_path / "out")) == 0


def test_show__before_anything_is_learned_is_one_line(project, monkeypatch, capsys):
    assert call(monkeypatch, "show", "mine/cats/a.png") == 1
    assert "run `dvc repro refine_parts`" in capsys.readouterr().err
    assert not (project / "parts_of").exists()


def test_teacher__pins_the_file_in_the_parameters(project, monkeypatch, capsys):
    (project / "published.pth").write_bytes(b"weights")
    address = (project / "published.pth").as_uri()
    monkeypatch.setitem(OFFICIAL, "tiny", Official(address, "vit_small_patch16_224", 224))
    assert call(monkeypatch, "teacher", "tiny") == 0
    digest = hashlib.sha256(b"weights").hexdigest()
    assert f"teacher weights/tiny.pth, vit_small_patch16_224 at 224 pixels, sha256 {digest}" in capsys.readouterr().out
    group = load_params().teacher
    assert (group.source, group.sha256, group.image_size) == ("weights/tiny.pth", digest, 224)

    options = ("--architecture", "vit_small_patch14_dinov2", "--image-size", "448")
    assert call(monkeypatch, "teacher", "published.pth", *options) == 0
    group = load_params().teacher
    assert (group.source, group.architecture, group.image_size) == ("published.pth", options[1], 448)


def test_teacher__a_file_without_its_architecture_is_refused(project, monkeypatch, capsys):
    (project / "published.pth").write_bytes(b"weights")
    assert call(monkeypatch, "teacher", "published.pth") == 1
    assert capsys.readouterr().err.startswith("error: published.pth: name its timm model")


def test_use__a_store_is_watched_by_a_listing_that_check_renews(project, monkeypatch, capsys, bucket):
    bucket.put_folder(project / "mine", "photos/images")
    bucket.put("photos/masks/cats/a.png", b"mask")
    assert call(monkeypatch, "use", f"{bucket.url}/photos") == 0
    data = load_params().data
    assert (data.path, data.watch, data.part_truth) == (f"{bucket.url}/photos", "data/listing.txt", ["masks"])
    listing = project / "data/listing.txt"
    first = listing.read_text()
    images = [f"images/{name}/{image}.png" for name in ("cats", "dogs") for image in "abc"]
    assert [line.split("\t")[0] for line in first.splitlines()] == [
        f"listing of {bucket.url}/photos", *images, "masks/cats/a.png"
    ]  # fmt: skip
    assert "`semmae run` renew it, `dvc repro` alone does not" in capsys.readouterr().out
    bucket.put("photos/images/dogs/d.png", b"more")
    assert call(monkeypatch, "check") == 0
    assert "images/dogs/d.png" in listing.read_text()


def test_use__a_url_with_a_password_is_refused_and_nothing_is_written(project, monkeypatch, capsys):
    before = (project / "params.yaml").read_bytes()
    assert call(monkeypatch, "use", "s3://key:secret@bucket/photos") == 1
    told = capsys.readouterr()
    assert told.err.startswith("error: the folder: the URL holds a user or a password") and "secret" not in told.err
    assert (project / "params.yaml").read_bytes() == before
