import pytest

from images.sources.folder_tree import FolderTree
from images.sources.layout import layout_of
from images.sources.tree import Entry


def layout(*paths):
    """The layout of files at paths; a path that ends in / is an empty folder. What ends in .bin is an image as well."""
    entries = [
        Entry(path.rstrip("/").encode(), 0, "0", "empty folder" if path.endswith("/") else "")
        for path in sorted("".join(paths).split() if len(paths) == 1 else paths)
    ]
    return layout_of("root", FolderTree(entries, lambda path: path.endswith(b".bin")))


def groups(found):
    return {group.folder.decode(): group.split for group in found.groups}


@pytest.mark.parametrize(
    ("paths", "expected", "has_classes"),
    [
        ("cat/1.jpg dog/deep/er/2.jpg", {"": ""}, True),
        ("cat/1.jpg dog/2.bin", {"": ""}, True),
        ("train/cat/1.jpg train/dog/2.jpg validation/cat/3.jpg test/dog/4.jpg",
         {"train": "train", "validation": "val", "test": "test"}, True),
        ("Training/cat/1.jpg Training/dog/1.jpg TEST/cat/1.jpg", {"Training": "train", "TEST": "test"}, True),
        ("train/a/1.jpg train/b/1.jpg val/a/1.jpg valid/b/1.jpg", {"train": "train", "val": "val", "valid": "val"}, True),
        ("seg_train/seg_train/a/1.jpg seg_train/seg_train/b/1.jpg seg_test/seg_test/a/1.jpg seg_pred/seg_pred/1.jpg",
         {"seg_train/seg_train": "train", "seg_test/seg_test": "test"}, True),
        ("train/train/a/1.jpg train/train/b/1.jpg test/a/1.jpg", {"train/train": "train", "test": "test"}, True),
        ("train/x/a/1.jpg train/x/b/1.jpg test/y/a/1.jpg", {"train/x": "train", "test/y": "test"}, True),
        # Nothing but images.
        ("1.jpg 2.jpg labels.csv", {"": ""}, False),
        ("1.jpg old/2.jpg", {"": ""}, False),
        ("train/1.jpg test/2.jpg", {"train": "train", "test": "test"}, False),
        ("train/images/1.jpg train/labels/1.txt valid/images/1.jpg", {"train/images": "train", "valid/images": "val"}, False),
        ("images/train/1.jpg images/val/2.jpg labels/train/1.txt", {"images/train": "train", "images/val": "val"}, False),
        # One folder alone is no class.
        ("cat/1.jpg notes/1.txt", {"cat": ""}, False),
        ("train/cat/1.jpg test/cat/1.jpg", {"train/cat": "train", "test/cat": "test"}, False),
        ("train/cat/1.jpg", {"train/cat": "train"}, False),
        # A folder around.
        ("nested/PetImages/cat/1.jpg nested/PetImages/dog/1.jpg nested/readme.txt", {"nested/PetImages": ""}, True),
        ("a/b/train/cat/1.jpg a/b/train/dog/1.jpg a/b/val/dog/1.jpg", {"a/b/train": "train", "a/b/val": "val"}, True),
        ("a/b/c/1.jpg", {"a/b/c": ""}, False),
        ("images/1.jpg labels.csv", {"images": ""}, False),
        # A class may be called as a split is.
        ("train/1.jpg plane/2.jpg", {"": ""}, True),
        ("Train/1.jpg bus/2.jpg", {"": ""}, True),
        ("test/1.jpg plane/2.jpg car/3.jpg", {"": ""}, True),
        ("", {"": ""}, False),
    ],
)  # fmt: skip
def test_layout__is_understood(paths, expected, has_classes):
    found = layout(paths)
    assert (groups(found), found.has_classes) == (expected, has_classes)


@pytest.mark.parametrize(
    ("paths", "expected", "twins"),
    [
        ("images/cat/1.jpg images/dog/1.jpg masks/cat/1.png", {"images": ""}, [("images", "masks")]),
        ("images/1.jpg masks/1.png extra/1.jpg", {"images": ""}, [("images", "masks")]),
        ("data/imgs/1.jpg data/Masks/1.png", {"data/imgs": ""}, [("data/imgs", "data/Masks")]),
        ("JPEGImages/1.jpg SegmentationClass/1.png ImageSets/1.txt", {"JPEGImages": ""}, [("JPEGImages", "SegmentationClass")]),
        ("images/1.jpg annotations/trimaps/1.png annotations/xmls/1.xml", {"images": ""}, [("images", "annotations/trimaps")]),
        ("images/train/a/1.jpg images/train/b/1.jpg images/test/a/1.jpg masks/train/a/1.png",
         {"images/train": "train", "images/test": "test"}, [("images", "masks")]),
        ("train/images/1.jpg train/masks/1.png val/images/1.jpg val/masks/1.png", {"train/images": "train", "val/images": "val"},
         [("train/images", "train/masks"), ("val/images", "val/masks")]),
        ("photos/1.jpg masks/1.png", {"": ""}, []),
    ],
)  # fmt: skip
def test_layout__masks_stand_beside_images(paths, expected, twins):
    found = layout(paths)
    assert groups(found) == expected
    assert [(pair.images.decode(), pair.masks.decode()) for pair in found.twins] == twins


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ("train/a/1.jpg train/b/1.jpg val/1.jpg val/2.jpg", r"root/val/ has .* no class folders, but train/ has a, b; .* move"),
        ("train/1.jpg val/a/1.jpg val/b/2.jpg", r"root/train/ has .* no class folders, but val/ has a, b; .* take them out"),
        ("x/Train/a/1.jpg x/Train/b/1.jpg x/Test/Test/2.jpg", r"root/x/Test/Test/ has .* no class folders"),
        ("val/a/1.jpg test/a/1.jpg", r"root has test/, val/ and no folder train/"),
        ("train/ val/a/1.jpg val/b/1.jpg", r"root has val/ and no folder train/ with images"),
        ("ant/1.jpg bee/1.jpg test/ant/1.jpg test/bee/1.jpg", r"root has test/ with class folders beside the same"),
    ],
)  # fmt: skip
def test_layout__folders_that_contradict_each_other_are_named(paths, words):
    with pytest.raises(ValueError, match=words) as caught:
        layout(paths)
    assert str(caught.value).startswith("data.path: ") and "\n" not in str(caught.value)


def test_lines__say_what_was_understood():
    found = layout("x/train/a/1.jpg x/train/b/1.jpg x/val/a/1.jpg x/validation/b/1.jpg x/extra/1.jpg x/test/")
    assert found.lines() == [
        "layout: x/train/ (train), x/val/ (val), x/validation/ (val) with class folders",
        "all images lie in x/",
        "x/extra/ is not used: it lies beside splits and is none",
        "x/test/ holds no image, so it gives none to test",
    ]
    assert layout("imgs/1.jpg masks/1.png").lines() == [
        "layout: images without class folders",
        "masks of imgs/ lie in masks/",
    ]


def test_place__names_group_and_class():
    found = layout("train/cat/1.jpg train/dog/2.jpg test/dog/4.jpg")
    for path, expected in {
        b"train/cat/1.jpg": ("train", "cat"), b"test/dog/a/b/4.jpg": ("test", "dog"), b"test/bird/": ("test", "bird"),
        b"train/1.jpg": None, b"trainer/cat/1.jpg": None, b"1.jpg": None, b"train/": None, b"test/\xff/1.jpg": ("test", "%FF"),
    }.items():  # fmt: skip
        assert found.place(path) == expected, path


def test_table_folders__are_beside_and_above_the_images():
    found = layout("a/train/images/1.jpg a/val/images/1.jpg a/labels/labels.csv")
    assert found.table_folders() == {b"", b"a", b"a/train", b"a/train/images", b"a/val", b"a/val/images"}


@pytest.mark.parametrize("depth", [1, 3000])
def test_tree__folders_of_any_depth_and_keys_of_any_form(depth):
    deep = "/".join(["d"] * depth)
    found = layout(f"{deep}/a/1.jpg", f"{deep}/b/1.jpg", f"{deep}//c//2.jpg")
    assert (groups(found), found.has_classes) == ({deep: ""}, True)
