import pytest
from PIL import Image

from images.decoding import Refused
from images.sources.folder import FolderSource
from images.sources.items import id_of
from images.sources.tree import FolderRoot, walk

NUMBER = iter(range(10**6))


def draw(root, *paths):
    """Write a different small PNG at every path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        number = next(NUMBER)
        Image.new("RGB", (4, 4), (number % 256, number // 256, 0)).save(root / path, "PNG")


def source_of(root):
    return FolderSource(FolderRoot(root), sorted(walk(root), key=lambda entry: entry.path))


def found(source):
    return {item.path.decode(): (item.split, source.classes[item.label]) for item in source.items}


def reasons(source):
    return {row.path: row.reason for row in source.rejected}


def test_layout__splits_and_classes(tmp_path):
    draw(tmp_path, "train/cat/1.png", "train/dog/deep/er/2.png", "validation/cat/3.png", "test/dog/4.png")
    assert found(source_of(tmp_path)) == {
        "train/cat/1.png": ("train", "cat"),
        "train/dog/deep/er/2.png": ("train", "dog"),
        "validation/cat/3.png": ("val", "cat"),
        "test/dog/4.png": ("test", "dog"),
    }


def test_layout__classes_alone(tmp_path):
    draw(tmp_path, "cat/1.png", "dog/2.png", "a b/3.png")
    source = source_of(tmp_path)
    assert source.classes == ["a b", "cat", "dog"]
    assert found(source)["cat/1.png"] == ("", "cat")


def test_layout__a_class_may_be_called_train(tmp_path):
    draw(tmp_path, "train/1.png", "plane/2.png")
    assert found(source_of(tmp_path)) == {"train/1.png": ("", "train"), "plane/2.png": ("", "plane")}


@pytest.mark.parametrize("prefix", ["", "images/"])
def test_layout__no_class_folders_is_one_class(tmp_path, prefix):
    draw(tmp_path, f"{prefix}train/1.png", f"{prefix}test/2.png")
    source = source_of(tmp_path)
    assert source.classes == ["all"]
    assert found(source)[f"{prefix}test/2.png"] == ("test", "all")
    draw(tmp_path / "loose", "1.png", "2.png")
    assert found(source_of(tmp_path / "loose"))["1.png"] == ("", "all")


def test_layout__masks_stand_beside_images(tmp_path):
    draw(tmp_path, "images/train/cat/1.jpg", "images/train/cat/2.png", "masks/train/cat/1.png", "masks/train/cat/9.png")
    (tmp_path / "classes.txt").write_text("background\n")
    source = source_of(tmp_path)
    first, second = source.items
    assert source.has_masks
    assert source.read(first).mask == (tmp_path / "masks/train/cat/1.png").read_bytes()
    assert source.read(first).mask_path == "masks/train/cat/1.png"
    assert source.read(second).mask is None
    assert reasons(source) == {"masks/train/cat/9.png": "mask without an image", "classes.txt": "not an image"}


def test_layout__what_stands_outside_is_rejected_with_the_reason(tmp_path):
    draw(tmp_path, "train/cat/1.png", "train/loose.png", "extra/cat/2.png", "train/.cache/3.png", "top.png")
    (tmp_path / "README").write_text("hello")
    assert reasons(source_of(tmp_path)) == {
        "train/loose.png": "outside of the layout",
        "extra/cat/2.png": "outside of the layout",
        "train/.cache/3.png": "hidden folder",
        "top.png": "outside of the layout",
        "README": "not an image",
    }


def test_layout__val_or_test_without_train_is_refused(tmp_path):
    draw(tmp_path, "val/cat/1.png", "test/cat/1.png")
    with pytest.raises(ValueError, match="no folder train"):
        source_of(tmp_path)


def test_classes__a_folder_without_images_is_none(tmp_path):
    draw(tmp_path, "cat/1.png", "dog/no_suffix")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("hello")
    (tmp_path / "notes" / "b").write_bytes(b"")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._1.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "bird").mkdir()
    source = source_of(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert reasons(source) == {
        "notes/a.txt": "not an image",
        "notes/b": "empty",
        "__MACOSX/._1.png": "not an image",
        "bird": "empty folder",
    }
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
