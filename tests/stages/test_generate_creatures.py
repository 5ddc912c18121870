import csv
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from config.presets import compose, write_params
from images.creatures.anatomy import ATTRIBUTES, PARTS, SPECIES
from images.creatures.drawing import draw
from stages import generate_creatures

SCENE = {"seed": 1, "max_clutter": 4, "occlusion": 0.5}


def generate(folder, train=20, test=10, **changes):
    generate_creatures.generate(folder, **{**SCENE, "train": train, "test": test, "image_size": 32, **changes})
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("world") / "creatures"
    generate(target)
    return target


def test_generate__every_image_has_its_mask_and_its_row(folder):
    images = {path.relative_to(folder / "images") for path in (folder / "images").rglob("*.png")}
    masks = {path.relative_to(folder / "masks") for path in (folder / "masks").rglob("*.png")}
    assert images == masks
    assert Counter(path.parts[0] for path in images) == {"train": 20, "test": 10}
    with open(folder / "attributes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {f"images/{path.as_posix()}" for path in images}
    assert all(row["path"].split("/")[2] == row["species"] for row in rows)
    assert all(row["subspecies"] == f"{row['mark']}_{row['species']}" for row in rows)
    for row in rows:
        (species,) = (one for one in SPECIES if one.name == row["species"])
        assert {name: row[name] for name in ATTRIBUTES} == {name: str(getattr(species, name)) for name in ATTRIBUTES}
    assert (folder / "classes.txt").read_text().split("\n") == [*PARTS, ""]


def test_generate__files_hold_the_drawn_pixels(folder):
    drawn = draw(split="test", index=7, size=32, **SCENE)
    name = f"test/{drawn.species}/00007.png"
    with Image.open(folder / "images" / name) as image, Image.open(folder / "masks" / name) as mask:
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), drawn.image)
        assert mask.mode == "L" and np.array_equal(np.asarray(mask), drawn.labels)


def test_generate__more_images_move_none(folder, tmp_path):
    more = generate(tmp_path / "more", train=23, test=12)
    for path in folder.rglob("*.png"):
        assert more[path.relative_to(folder).as_posix()] == path.read_bytes()


def test_generate__an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(**key):
        if key["index"] == 5:
            raise KeyboardInterrupt
        return draw(**key)

    monkeypatch.setattr(generate_creatures, "draw", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "creatures")
    assert os.listdir(tmp_path) == []


def test_main__draws_what_the_parameters_say(folder, tmp_path, monkeypatch):
    document = compose("quickstart")
    document["creatures"].update({**SCENE, "train": 20, "test": 10, "image_size": 32})
    write_params(document, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    generate_creatures.main()
    for path in folder.rglob("*"):
        if path.is_file():
            assert (tmp_path / generate_creatures.FOLDER / path.relative_to(folder)).read_bytes() == path.read_bytes()
