import numpy as np
import pytest

from shards.arrays import ArrayShards, ArrayShardWriter
from shards.folders import bind_folders, is_intact, join_shards
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards, list_shards
from shards.mask_cache import MaskCache
from shards.mask_shards import MaskShards, MaskShardWriter
from shards.seals import check_files, read_sealed, write_manifest, write_sealed


def write_arrays(folder):
    with ArrayShardWriter(folder, columns={"labels": ("|u1", (1,))}, header={}, shard_rows=2) as writer:
        writer.add(np.arange(3, dtype=np.uint64), labels=np.zeros((3, 1), np.uint8))


def write_images(folder):
    with ImageShardWriter(folder, classes=["a"], shard_bytes=100) as writer:
        writer.add("train", image_id=1, label=0, sha256=b"\0" * 32, image=b"x", path="p")


def write_true_masks(folder):
    with MaskShardWriter(folder, shard_bytes=100) as writer:
        writer.add("train", image_id=1, mask=b"x", path="p", pixels=np.bincount([3], minlength=256))
        writer.labels = {3: 0}


def write_weights(folder):
    folder.mkdir()
    (folder / "weights").write_bytes(b"x")
    write_manifest(folder)


READERS = {
    "arrays": (write_arrays, ArrayShards),
    "masks": (write_arrays, MaskCache),
    "joined arrays": (write_arrays, lambda folder: join_shards([folder], folder.parent / "joined")),
    "images": (write_images, lambda folder: ImageShards(folder, "train")),
    "masks of the data": (write_true_masks, lambda folder: MaskShards(folder, "train")),
    "streamed images": (write_images, list_shards),
    "weights": (write_weights, lambda folder: check_files(folder, "weights")),
}


def rewrite(folder, version):
    write_sealed(folder / "manifest.json", {**read_sealed(folder / "manifest.json"), "version": version})


@pytest.mark.parametrize("name", READERS)
def test_reader__refuses_another_version_in_one_line(tmp_path, name):
    write, read = READERS[name]
    write(tmp_path / "out")
    read(tmp_path / "out")
    rewrite(tmp_path / "out", 99)
    with pytest.raises(
        ValueError, match=r"out: format version 99, expected \d; delete .*out and run `dvc repro`"
    ) as error:
        read(tmp_path / "out")
    assert "\n" not in str(error.value)


def test_is_intact__is_false_for_another_version(tmp_path):
    write_arrays(tmp_path / "out/inner")
    bind_folders(tmp_path / "out", ("inner",))
    for folder in (tmp_path / "out", tmp_path / "out/inner"):
        assert is_intact(folder)
        rewrite(folder, 99)
        assert not is_intact(folder)
        rewrite(folder, 2)
