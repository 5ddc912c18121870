import pytest
from PIL import Image

from images.decoding import Refused
from images.sources.items import id_of
from images.sources.preparation import open_source

NUMBER = iter(range(10**6))


def draw(root, *paths):
    """Write a different small PNG at every path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        number = next(NUMBER)
        Image.new("RGB", (4, 4), (number % 256, number // 256, 0)).save(root / path, "PNG")


def source_of(root):
    return open_source(root, image_column="image", label_column="label")


def found(source):
    """Path -> split and class, which is empty for an image without a label."""
    names = [*source.classes, ""]
    return {item.path.decode(): (item.split, names[item.label]) for item in source.items}


def reasons(source):
    return {row.path: row.reason for row in source.rejected}


def write_table(root, path, *rows):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("".join(f"{row}\n" for row in rows))


def test_source__splits_and_classes(tmp_path):
    draw(tmp_path, "Train/10/1.png", "Train/9/deep/er/2.png", "valid/10/3.png", "TESTING/9/4.png")
    source = source_of(tmp_path)
    assert source.classes == ["9", "10"]
    assert found(source) == {
        "Train/10/1.png": ("train", "10"), "Train/9/deep/er/2.png": ("train", "9"), "valid/10/3.png": ("val", "10"),
        "TESTING/9/4.png": ("test", "9"),
    }  # fmt: skip
    assert source.notes == ["layout: TESTING/ (test), Train/ (train), valid/ (val) with class folders"]


def test_source__one_folder_of_images_is_no_class_and_nothing_beside_it_is_lost(tmp_path):
    draw(tmp_path, "cat/1.png", "2.png", "3.png")
    assert set(found(source_of(tmp_path)).values()) == {("", "")}
    # As far as names tell there are two.
    draw(tmp_path / "two", "cat/1.png")
    (tmp_path / "two" / "dog").mkdir()
    (tmp_path / "two" / "dog" / "1.jpg").write_text("no image")
    source = source_of(tmp_path / "two")
    assert (source.classes, found(source)) == ([], {"cat/1.png": ("", "")})
    assert source.notes[-1] == "no classes: cat would be the only one"


def test_source__what_stands_outside_is_rejected_with_the_reason(tmp_path):
    draw(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/loose.png", "extra/cat/2.png", "top.png")
    (tmp_path / "README").write_text("hello")
    (tmp_path / "train" / "cat" / "1.txt").write_text("hello")
    source = source_of(tmp_path)
    outside = dict.fromkeys(["train/loose.png", "extra/cat/2.png", "top.png"], "outside of the layout")
    assert reasons(source) == {**outside, "README": "not an image", "train/cat/1.txt": "not an image"}
    assert "extra/ is not used: it lies beside splits and is none" in source.notes


LITTER = ["a/.DS_Store", "a/._1.png", "b/Thumbs.db", "b/DESKTOP.INI", ".hidden/c/1.png", "__MACOSX/a/._1.png",
          "a/.ipynb_checkpoints/1.png", "c/.keep", "@eaDir/1.png/SYNO.jpg"]  # fmt: skip


@pytest.mark.parametrize("folders", ["a b", "train/a train/b test/a test/b", ""])
def test_source__litter_is_listed_and_changes_nothing_else(tmp_path, folders):
    images = [f"{folder}/{number}.png".lstrip("/") for folder in folders.split() or [""] for number in "12"]
    draw(tmp_path, *images)
    clean = source_of(tmp_path)
    first = folders.split()[0] if folders else ""
    litter = [f"{first}/{path}".lstrip("/") for path in LITTER] + LITTER
    draw(tmp_path, *litter)
    source = source_of(tmp_path)
    assert (found(source), source.classes, source.notes) == (found(clean), clean.classes, clean.notes)
    assert reasons(source) == dict.fromkeys(litter, "litter")


def test_source__masks_stand_beside_images(tmp_path):
    draw(tmp_path, "images/train/cat/1.jpg", "images/train/dog/2.png", "masks/train/cat/1.png", "masks/train/cat/9.png")
    draw(tmp_path, "masks/train/dog/2.jpg")
    (tmp_path / "classes.txt").write_text("background\n")
    source = source_of(tmp_path)
    first, second = source.items
    assert source.has_masks
    assert source.read(first).mask == (tmp_path / "masks/train/cat/1.png").read_bytes()
    assert source.read(first).mask_path == "masks/train/cat/1.png"
    assert source.read(second).mask is None
    assert {(row.path, row.reason, row.detail) for row in source.rejected if row.path.startswith("masks")} == {
        ("masks/train/cat/9.png", "mask without an image", "no image has this name"),
        ("masks/train/dog/2.jpg", "mask without an image", "a mask is a PNG file"),
    }
    assert reasons(source)["classes.txt"] == "not an image"


@pytest.mark.parametrize("splits", ["images/{}/1.png masks/{}/1_mask.png", "{}/imgs/1.png {}/masks/1_mask.png"])
def test_source__masks_with_an_ending_and_in_each_split(tmp_path, splits):
    for split in ("train", "test"):
        draw(tmp_path, *splits.format(split, split).split())
    source = source_of(tmp_path)
    assert {item.path.decode(): item.place.decode() for item in source.items} == {
        image.format(split): mask.format(split) for image, mask in [splits.split()] for split in ("train", "test")
    }
    assert "masks are called like their images with _mask behind the name" in source.notes
    assert source.rejected == []


@pytest.mark.parametrize("mask", ["masks/train/0001.png", "masks/1_foo.png", "masks/train/1.jpg", "masks/note.txt"])
def test_source__masks_of_no_image_are_an_error_that_says_how_they_are_called(tmp_path, mask):
    draw(tmp_path, "images/train/1.jpg", "images/test/2.jpg", mask)
    if mask.endswith(".txt"):
        (tmp_path / mask).write_text("hello")
    with pytest.raises(
        ValueError, match=r"masks/.* is called like an image; the mask of images/test/2\.jpg is masks/test/2\.png$"
    ) as caught:
        source_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_source__a_table_labels_images_without_class_folders(tmp_path):
    draw(tmp_path, *(f"images/{number}.png" for number in range(6)))
    write_table(tmp_path, "labels.csv", "id,breed", "0,10", "1,9", "2,10", "3,", "7,9")
    write_table(tmp_path, "sample_submission.csv", "id,breed", "0,9")
    source = source_of(tmp_path)
    assert source.classes == ["9", "10"]
    labels = {path: name for path, (_, name) in found(source).items() if name}
    assert labels == {"images/0.png": "10", "images/1.png": "9", "images/2.png": "10"}
    assert reasons(source) == {"sample_submission.csv": "not an image"}
    assert source.notes[2:] == [
        "table labels.csv: file names in 'id', classes in 'breed', 4 images, 2 classes, "
        "1 of them without a class, 1 rows that name no image",
        "table sample_submission.csv is not used: a submission holds no true labels",
        "3 of 6 images have no label",
    ]


@pytest.mark.parametrize("place", ["labels.csv", "test data/labels.csv", "test data/train/labels.csv"])
def test_source__tables_lie_beside_the_images_or_above_them(tmp_path, place):
    # The folder around is no split, whatever words are in its name.
    draw(tmp_path, "test data/train/1.png", "test data/train/2.png")
    write_table(tmp_path, place, "file,label", "1.png,a", "2.png,b")
    assert found(source_of(tmp_path)) == {
        "test data/train/1.png": ("train", "a"), "test data/train/2.png": ("train", "b")
    }  # fmt: skip


def test_source__one_class_in_a_table_is_none(tmp_path):
    draw(tmp_path, "1.png", "2.png")
    write_table(tmp_path, "labels.csv", "file,label", "1,a", "2,a")
    source = source_of(tmp_path)
    assert (source.classes, source.notes[-1]) == ([], "no classes: a would be the only one")


def test_source__a_table_beside_class_folders_is_said_and_not_used(tmp_path):
    draw(tmp_path, "a/1.png", "b/2.png")
    write_table(tmp_path, "labels.csv", "file,label", "1,x", "2,y")
    source = source_of(tmp_path)
    assert source.classes == ["a", "b"]
    assert source.notes[-1] == "table labels.csv is not used: class folders give the labels"
    assert reasons(source) == {"labels.csv": "not an image"}


def test_source__a_split_folder_without_a_label_beside_labelled_ones_is_an_error(tmp_path):
    draw(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    write_table(tmp_path, "train.csv", "id,label", "1,a", "2,b")
    with pytest.raises(
        ValueError, match=r"no image of .*/test/ has a label, but train\.csv labels others; .* or move it"
    ):
        source_of(tmp_path)


def test_classes__a_folder_without_images_is_none(tmp_path):
    draw(tmp_path, "cat/1.png", "dog/no_suffix")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    (tmp_path / "notes" / "b").write_bytes(b"")
    (tmp_path / "bird").mkdir()
    source = source_of(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert reasons(source) == {"notes/a.txt": "not an image", "notes/b": "empty", "bird": "empty folder"}
    assert [row.class_name for row in source.rejected if row.path == "bird"] == ["bird"]


def test_read__gives_the_bytes_of_the_file_or_the_reason(tmp_path, monkeypatch):
    draw(tmp_path, "cat/1.png", "cat/2.png")
    (tmp_path / "cat" / "3.jpg").write_text("no image")
    source = source_of(tmp_path)
    good, closed, text = source.items
    assert source.read(good) == ((tmp_path / "cat/1.png").read_bytes(), None, None)
    assert good.id == id_of(b"cat/1.png")
    with pytest.raises(Refused) as caught:
        source.read(text)
    assert caught.value.reason == "not an image"

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("images.sources.tree.open", refuse, raising=False)
    with pytest.raises(Refused) as caught:
        source.read(closed)
    assert (caught.value.reason, caught.value.detail) == ("unreadable", "Permission denied")
