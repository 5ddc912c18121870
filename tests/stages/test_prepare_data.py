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
from shards.mask_shards import MaskShards
from shards.row_index import SPLITS
from tests.conftest import ROOT, run_stage
from tests.shards.paths import paths_of


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
    b".DS_Store": (b"\0\0\0\1Bud1", "litter"),
    b"Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "litter"),
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
        "train/cat/pipe.png": "not a file", "LICENSE": "not an image", "train/cat/.cache/x.png": "litter",
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
    train = set(paths_of(kept["train"]))
    expected = {"caf%E9%20%FF.png" if name.startswith(b"caf") else name.decode() for name in GOOD}
    assert {path for path in train if path.startswith("train/cat/")} == {f"train/cat/{name}" for name in expected}
    assert id_of(b"train/cat/caf\xe9 \xff.png") in kept["train"].ids
    assert kept["train"].classes == ["cat", "dog"]
    assert all(decode_square(kept["train"].bytes(row), 16).shape == (16, 16, 3) for row in range(len(train)))

    metrics = read_json(folder / "metrics/prepare_data.json")
    assert metrics["seen"] == len(seen)
    assert metrics["images"] == sum(map(len, kept.values()))
    refused = len(reasons) - list(reasons.values()).count("litter")
    assert metrics["rejected_share"] == refused / (metrics["images"] + refused)
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
        found |= dict.fromkeys(paths_of(ImageShards(folder / "data/shards", split)), split)
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
    write(folder, max_rejected_share=0.5, labels=[])
    run_stage(folder, "stages.prepare_data")
    assert {path: row["reason"] for path, row in rejected(folder).items()} == {
        "masks/train/cat/3.png": "mask size", "masks/train/cat/4.png": "damaged mask"
    }  # fmt: skip
    metrics = read_json(folder / "metrics/prepare_data.json")
    assert (metrics["images"], metrics["masks"]) == (24, 21)
    masks = [MaskShards(folder / "data/masks", split) for split in SPLITS]
    assert sum(map(len, masks)) == 21 and {shards.num_labels for shards in masks} == {5}


def with_masks(folder, values, count=20, **changes):
    """Images of one class, each with a mask of all `values`, and parameters that measure parts."""
    for number in range(count):
        put(folder / "images", b"images/cat/%d.png" % number, encoded(noise(number)))
        mask = Image.fromarray(np.resize(np.array(values, np.uint8), (8, 12)))
        put(folder / "images", b"masks/cat/%d.png" % number, encoded(mask))
    write(folder, **{"part_truth": ["masks"], "labels": [], **changes})


def digests(folder, out):
    return {path.name: path.read_bytes() for path in (folder / "data" / out).iterdir()}


def test_prepare_data__corrected_masks_and_other_meanings_leave_the_image_shards(folder):
    with_masks(folder, (0, 1, 2))
    run_stage(folder, "stages.prepare_data")
    shards, masks = digests(folder, "shards"), digests(folder, "masks")
    put(folder / "images", b"masks/cat/3.png", encoded(Image.new("L", (12, 8), 2)))
    run_stage(folder, "stages.prepare_data")
    assert digests(folder, "shards") == shards
    corrected = digests(folder, "masks")
    assert corrected != masks
    write(folder, part_truth=["masks"], labels=[], mask_values={2: "ignored"})
    run_stage(folder, "stages.prepare_data")
    assert digests(folder, "shards") == shards
    meant = digests(folder, "masks")
    assert {name for name in meant if meant[name] != corrected[name]} == {"manifest.json", "index.arrow"}


def test_prepare_data__trimaps_run_with_their_meaning_or_where_no_part_is_measured(folder):
    with_masks(folder, (1, 2, 3), mask_values={2: "background", 3: "ignored"})
    run_stage(folder, "stages.prepare_data")
    assert MaskShards(folder / "data/masks", "train").labels[[1, 2, 3]].tolist() == [1, 0, 255]
    write(folder, part_truth=[], labels=[])
    run_stage(folder, "stages.prepare_data")


def test_prepare_data__colour_masks_stop_it_and_say_what_is_wanted(folder):
    with_masks(folder, (0, 1), max_rejected_share=0.22)
    for number in range(5):
        put(folder / "images", b"masks/cat/%d.png" % number, encoded(noise(number)))
    with pytest.raises(
        ValueError, match="5 of 20 masks are refused, 5 of them as 'mask colours', .*greyscale or palette PNG"
    ):
        run_stage(folder, "stages.prepare_data")


def test_prepare_data__part_truth_without_masks_stops_it(folder):
    flat(folder, range(40))
    write(folder, part_truth=["masks"])
    with pytest.raises(ValueError, match="no mask of test has a part; put a PNG of label ids"):
        run_stage(folder, "stages.prepare_data")


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
