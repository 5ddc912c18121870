import inspect

import numpy as np
import pytest
from PIL import Image

from images import downloads
from images.downloads import SETS, download, names


class Pictures:
    """A data set of arrays without class names."""

    def __init__(self, root, download, **arguments):
        assert download
        self.count = 3 if arguments["train"] else 2

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Image.fromarray(np.full((2, 2, 3), index, np.uint8)), index % 2


class Files:
    """A data set of files whose class names hold a slash."""

    classes = ("F/A-18", "C-130")

    def __init__(self, root, download, loader, split):
        self.loader, self.folder = loader, root
        for number in range(2):
            (root / f"{split}{number}.jpg").write_bytes(b"jpeg %d" % number)
        self.split = split

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.loader(str(self.folder / f"{self.split}{index}.jpg")), index


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(downloads, "_open", lambda public, root, arguments: fake_open(public, root, arguments))


def fake_open(public, root, arguments):
    if public.paths == "loader":
        from pathlib import Path

        return Files(root, download=True, loader=Path, **arguments)
    return Pictures(root, download=True, **arguments)


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_download__arrays_become_png_files(tmp_path, fakes):
    folder = download("cifar10", tmp_path / "cifar10")
    assert tree(folder) == [
        "test/000/000000.png", "test/001/000001.png",
        "train/000/000000.png", "train/000/000002.png", "train/001/000001.png",
    ]  # fmt: skip
    assert Image.open(folder / "train/000/000002.png").getpixel((0, 0)) == (2, 2, 2)


def test_download__files_keep_their_bytes(tmp_path, fakes):
    folder = download("aircraft", tmp_path / "aircraft")
    assert tree(folder)[:2] == ["test/C-130/test1.jpg", "test/F_A-18/test0.jpg"]
    assert (folder / "val/C-130/val1.jpg").read_bytes() == b"jpeg 1"
    assert [path.name for path in tmp_path.iterdir()] == ["aircraft"]


def test_download__faults_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown; did you mean cifar10.; there are aircraft"):
        download("cfar", tmp_path / "x")

    def offline(public, root, arguments):
        raise OSError("<urlopen error\n no network>")

    monkeypatch.setattr(downloads, "_open", offline)
    with pytest.raises(ValueError, match="download dtd: <urlopen error no network>"):
        download("dtd", tmp_path / "dtd")
    assert not (tmp_path / "dtd").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        download("dtd", tmp_path / "there")


def test_sets__torchvision_has_each_with_these_arguments():
    from torchvision import datasets

    assert names() == sorted(SETS)
    for name, public in SETS.items():
        dataset = getattr(datasets, public.dataset)
        for arguments in public.splits.values():
            inspect.signature(dataset).bind("root", download=True, **arguments)
        assert ("loader" in inspect.signature(dataset).parameters) or public.paths != "loader", name
        if public.paths.startswith("_"):
            source = inspect.getsource(dataset)
            assert f"self.{public.paths} =" in source
            assert "self._labels" in source, name
