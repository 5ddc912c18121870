import io
import os
import shutil
import struct
import zlib
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from config.presets import compose, write_params
from images.decoding import decode_square
from images.sources.items import id_of
from shards.files import read_json
from shards.image_shards import ImageShards
from shards.row_index import SPLITS
from tests.conftest import ROOT, run_stage


def noise(seed, width=12, height=8, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def bomb():
    """A PNG of a few bytes whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 60_000, 1, 0, 0, 0, 0)
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[12:29] = header
    data[29:33] = struct.pack(">I", zlib.crc32(header))
    return bytes(data)


def turned(seed):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(seed), "JPEG", exif=exif)


# What can be decoded, and what cannot with its reason. Each stands in train/cat unless the path says otherwise.
GOOD = {
    b"cmyk.jpg": encoded(noise(1, mode="CMYK"), "JPEG"),
    b"sixteen_bit.png": encoded(Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600)),
    b"palette.png": encoded(noise(2, mode="P")),
    b"palette.gif": encoded(noise(3), "GIF"),
    b"alpha.png": encoded(noise(4, mode="RGBA")),
    b"grey.jpg": encoded(noise(5, mode="L"), "JPEG"),
    b"turned.jpg": turned(6),
    b"one_pixel.png": encoded(noise(7, 1, 1)),
    b"wide.png": encoded(noise(8, 3000, 1)),
    b"caf\xe9 \xff.png": encoded(noise(9)),
    "schön 猫.png".encode(): encoded(noise(10)),
    b"new\nline.png": encoded(noise(11)),
    b"no_suffix": encoded(noise(12)),
    b"wrong_suffix.png": encoded(noise(13), "JPEG"),
    b"phone.jpg": encoded(noise(14), "MPO", save_all=True, append_images=[noise(15)]),
    b"deep/er/nested.webp": encoded(noise(16), "WEBP"),
}
BAD = {
    b"truncated.jpg": (encoded(noise(20, 99, 99), "JPEG")[:-900], "truncated"),
    b"truncated.png": (encoded(noise(21))[:-60], "truncated"),
    b"empty.jpg": (b"", "empty"),
    b"text.jpg": (b"this is no image", "not an image"),
    b".DS_Store": (b"\0\0\0\1Bud1", "not an image"),
    b"Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "not an image"),
    b"notes.txt": (b"hello", "not an image"),
    b"film.mp4": (b"\0\0\0 ftypisom" + bytes(600), "not an image"),
    b"animated.gif": (encoded(noise(22), "GIF", save_all=True, append_images=[noise(23)]), "animated"),
    b"bomb.png": (bomb(), "too large"),
    b"float.tiff": (encoded(Image.new("F", (4, 4)), "TIFF"), "unsupported pixels"),
    b"zz_duplicate.png": (GOOD[b"palette.png"], "duplicate"),
    b"unreadable.png": (encoded(noise(24)), "unreadable"),
}


def put(root, path, data):
    full = os.path.join(os.fsencode(root), path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(data)


@pytest.fixture
def folder(tmp_path):
    """A working folder with parameters whose data lies in `images`."""
    shutil.copyfile(ROOT / "runtime.yaml", tmp_path / "runtime.yaml")
    write(tmp_path)
    return tmp_path


def write(folder, **changes):
    before = os.getcwd()
    os.chdir(ROOT)
    document = compose("quickstart")
    os.chdir(before)
    document["data"].update({"path": "images", "watch": "images", "generate": [], "part_truth": [], **changes})
    write_params(document, folder / "params.yaml")


def rejected(folder):
    return {row["path"]: row for row in pq.read_table(folder / "data/rejected.parquet").to_pylist()}


@pytest.fixture
def bad_inputs(folder):
    """A folder with every kind of bad input, and the reasons expected by path."""
    root, reasons = folder / "images", {}
    for name, data in GOOD.items():
        put(root, b"train/cat/" + name, data)
    for name, (data, reason) in BAD.items():
        put(root, b"train/cat/" + name, data)
        reasons[f"train/cat/{name.decode()}"] = reason
    for split in (b"train", b"val", b"test"):
        for number in range(4):
            put(root, split + b"/dog/%d.png" % number, encoded(noise(100 * len(split) + number + (split == b"val"))))
    # An image in two splits.
    put(root, b"train/dog/leak.png", encoded(noise(50)))
    put(root, b"test/dog/same.png", encoded(noise(50)))
    reasons["train/dog/leak.png"] = "duplicate across splits"
    os.makedirs(root / "train" / "no_images")
    reasons["train/no_images"] = "empty folder"
    (root / "train" / "cat" / "broken.png").symlink_to("nowhere.png")
    (root / "train" / "cat" / "self.png").symlink_to("self.png")
    (root / "train" / "cat" / "up").symlink_to(root, target_is_directory=True)
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    put(root, b"LICENSE", b"text")
    put(root, b"train/cat/.cache/x.png", encoded(noise(60)))
    put(root, b"other/x.png", encoded(noise(61)))
    reasons |= {
        "train/cat/broken.png": "broken link", "train/cat/self.png": "link loop", "train/cat/up": "link loop",
        "train/cat/pipe.png": "not a file", "LICENSE": "not an image", "train/cat/.cache/x.png": "hidden folder",
        "other/x.png": "outside of the layout",
    }  # fmt: skip
    return folder, reasons


def refuse_opening(monkeypatch, name):
    """Root may read any file: make opening `name` fail as it does for others."""

    def opener(path, mode):
        if path.endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return open(path, mode)

    monkeypatch.setattr("images.sources.tree.open", opener, raising=False)


def test_prepare_data__every_bad_input_is_accounted_for(bad_inputs, monkeypatch):
    folder, reasons = bad_inputs
    os.chmod(folder / "images/train/cat/unreadable.png", 0)
    if os.geteuid() == 0:
        refuse_opening(monkeypatch, b"unreadable.png")
    write(folder, max_rejected_share=0.6)
    run_stage(folder, "stages.prepare_data")

    assert {path: row["reason"] for path, row in rejected(folder).items()} == reasons
    assert all(row["detail"] for row in rejected(folder).values())
    kept = {split: ImageShards(folder / "data/shards", split) for split in SPLITS}
    files = {
        os.path.relpath(os.path.join(where, name), os.fsencode(folder / "images"))
        for where, _, names in os.walk(os.fsencode(folder / "images"))
        for name in names
    }
    # Links to folders and empty folders stand for what they should hold.
    seen = files | {b"train/no_images", b"train/cat/up"}
    assert sum(map(len, kept.values())) + len(reasons) == len(seen)
    train = {kept["train"].path(row) for row in range(len(kept["train"]))}
    expected = {"caf%E9%20%FF.png" if name.startswith(b"caf") else name.decode() for name in GOOD}
    assert {path for path in train if path.startswith("train/cat/")} == {f"train/cat/{name}" for name in expected}
    assert id_of(b"train/cat/caf\xe9 \xff.png") in kept["train"].ids
    assert kept["train"].classes == ["cat", "dog"]
    assert all(decode_square(kept["train"].bytes(row), 16).shape == (16, 16, 3) for row in range(len(train)))

    metrics = read_json(folder / "metrics/prepare_data.json")
    assert metrics["seen"] == len(seen)
    assert metrics["images"] == sum(map(len, kept.values()))
    counted = {name.removeprefix("rejected/"): n for name, n in metrics.items() if name.startswith("rejected/")}
    assert counted == {reason.replace(" ", "_"): n for reason, n in Counter(reasons.values()).items()}


def test_prepare_data__stops_past_the_share_and_leaves_the_list(bad_inputs):
    folder, _ = bad_inputs
    write(folder, max_rejected_share=0.1)
    with pytest.raises(ValueError, match=r"files are refused \(.*data/rejected\.parquet lists them"):
        run_stage(folder, "stages.prepare_data")
    assert len(rejected(folder)) > 10
    assert not (folder / "data/shards").exists()
    assert not (folder / "metrics").exists()


def flat(folder, numbers):
    for number in numbers:
        put(folder / "images", b"%s/%04d.png" % (b"cat" if number % 2 else b"dog", number), encoded(noise(number)))


def paths_by_split(folder):
    found = {}
    for split in SPLITS:
        shards = ImageShards(folder / "data/shards", split)
        found |= {shards.path(row): split for row in range(len(shards))}
    return found


def test_prepare_data__added_images_move_none_and_leave_full_shards(folder):
    write(folder, shard_mib=0.005)
    flat(folder, range(0, 200, 2))
    flat(folder, [1])
    run_stage(folder, "stages.prepare_data")
    before = {path.name: path.read_bytes() for path in (folder / "data/shards").glob("*.parquet")}
    splits = paths_by_split(folder)
    assert set(splits.values()) == set(SPLITS)
    flat(folder, range(200))
    shutil.rmtree(folder / "data/shards")
    run_stage(folder, "stages.prepare_data")
    assert splits.items() <= paths_by_split(folder).items()
    full = [name for name in before if name != max(n for n in before if n.split("-")[0] == name.split("-")[0])]
    assert len(full) > 4
    for name in full:
        assert (folder / "data/shards" / name).read_bytes() == before[name], name


def test_prepare_data__a_damaged_order_is_as_none(folder):
    flat(folder, range(40))
    run_stage(folder, "stages.prepare_data")
    first = read_json(folder / "data/shards/manifest.json")
    (order,) = (folder / ".semmae/order").iterdir()
    order.write_bytes(order.read_bytes()[:-3])
    run_stage(folder, "stages.prepare_data")
    assert read_json(folder / "data/shards/manifest.json") == first


def test_prepare_data__masks_come_along_and_bad_ones_are_rejected(folder):
    for split in (b"train", b"test"):
        for number in range(12):
            place = split + b"/cat/%d" % number
            put(folder / "images", b"images/" + place + b".jpg", encoded(noise(number + len(split) * 50), "JPEG"))
            label = Image.fromarray(np.full((8, 12), number % 5, np.uint8))
            put(folder / "images", b"masks/" + place + b".png", encoded(label))
    put(folder / "images", b"masks/train/cat/3.png", encoded(Image.new("L", (5, 5))))
    put(folder / "images", b"masks/train/cat/4.png", b"text")
    os.remove(folder / "images/masks/train/cat/5.png")
    write(folder, max_rejected_share=0.5)
    run_stage(folder, "stages.prepare_data")
    assert {path: row["reason"] for path, row in rejected(folder).items()} == {
        "images/train/cat/3.jpg": "mask size", "images/train/cat/4.jpg": "damaged mask"
    }  # fmt: skip
    manifest = read_json(folder / "data/shards/manifest.json")
    assert (manifest["has_masks"], manifest["num_part_labels"]) == (True, 5)
    assert read_json(folder / "metrics/prepare_data.json")["masks"] == 21


def test_prepare_data__its_own_shards_are_a_source_with_the_same_ids(folder):
    flat(folder, range(40))
    put(folder / "images", b"cat/caf\xe9.png", encoded(noise(900)))
    run_stage(folder, "stages.prepare_data")
    first = read_json(folder / "data/shards/manifest.json")
    shutil.rmtree(folder / "images")
    shutil.copytree(folder / "data/shards", folder / "images")
    run_stage(folder, "stages.prepare_data")
    second = read_json(folder / "data/shards/manifest.json")
    assert (second["data_digest"], second["classes"]) == (first["data_digest"], first["classes"])
    assert set(rejected(folder)) == {"index.arrow", "manifest.json"}
