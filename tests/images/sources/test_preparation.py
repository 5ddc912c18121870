import hashlib
import io
import threading
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from images.decoding import Refused
from images.sources.items import Encoded, Item, Rejection, id_of
from images.sources.preparation import Outcome, _check_ids, check_outcome, fill_shards, open_source, write_rejected
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards, MaskShardWriter
from tests.images.sources.test_folder import draw
from tests.images.sources.test_parquet import rows, write


def png(seed, size=8):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


class Memory:
    """A source in memory: path -> (split, class, bytes or a reason)."""

    has_masks = False

    def __init__(self, files, read_in_order=False):
        self.files, self.read_in_order = files, read_in_order
        self.classes = sorted({class_name for _, class_name, _ in files.values()})
        self.rejected = []
        self.items = [
            Item(path.encode(), id_of(path.encode()), split, self.classes.index(class_name))
            for path, (split, class_name, _) in files.items()
        ]
        self.threads = set()

    def read(self, item):
        self.threads.add(threading.get_ident())
        data = self.files[item.path.decode()][2]
        if isinstance(data, str):
            raise Refused(data, "as told")
        return Encoded(data)


def prepare(folder, source, *, previous=(), shard_bytes=2000, workers=2):
    with (
        ImageShardWriter(folder, classes=source.classes, shard_bytes=shard_bytes) as images,
        MaskShardWriter(f"{folder}-masks", shard_bytes=shard_bytes) as masks,
    ):
        outcome = fill_shards(images, masks, source, previous=previous, max_pixels=10_000, workers=workers)
        masks.labels = {value: value for value in masks.values}
        return outcome


def numbered(numbers, split="train"):
    return {f"a/{number:04d}.png": (split, "a", png(number)) for number in numbers}


def paths_of(folder, split):
    files = sorted(folder.glob(f"{split}-*.parquet"))
    return [image["path"] for file in files for image in pq.read_table(file)["image"].to_pylist()]


@pytest.mark.parametrize("read_in_order", [False, True])
def test_fill_shards__keeps_and_rejects_every_item_once(tmp_path, read_in_order):
    files = {**numbered(range(40)), "a/x.png": ("train", "a", b"text"), "a/y.png": ("train", "a", "unreadable")}
    source = Memory(files, read_in_order)
    outcome = prepare(tmp_path / "out", source)
    assert {row.path: row.reason for row in outcome.rejected} == {"a/x.png": "not an image", "a/y.png": "unreadable"}
    assert paths_of(tmp_path / "out", "train") == sorted(numbered(range(40)))
    assert (source.threads == {threading.get_ident()}) == read_in_order
    metrics = outcome.metrics()
    assert metrics["rejected/not_an_image"] == metrics["rejected/unreadable"] == 1
    assert metrics["seen"] == metrics["images"] + metrics["rejected"] == 42


def test_fill_shards__number_of_workers_changes_no_byte(tmp_path):
    for workers in (0, 1, 3):
        prepare(tmp_path / str(workers), Memory(numbered(range(60))), workers=workers)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / str(w)).iterdir()} for w in (0, 1, 3)]
    assert contents[0] == contents[1] == contents[2]


def test_fill_shards__duplicates_stay_first_within_and_in_test_across_splits(tmp_path):
    one, two = png(1), png(2)
    files = {
        "a/1.png": ("train", "a", one), "b/2.png": ("val", "b", one), "a/3.png": ("test", "a", one),
        "a/4.png": ("train", "a", two), "b/5.png": ("train", "b", two), "a/6.png": ("train", "a", png(3)),
        "a/7.png": ("val", "a", png(4)),
    }  # fmt: skip
    outcome = prepare(tmp_path / "out", Memory(files))
    assert {row.path: (row.reason, row.detail) for row in outcome.rejected} == {
        "a/1.png": ("duplicate across splits", "same bytes as a/3.png in test"),
        "b/2.png": ("duplicate across splits", "same bytes as a/3.png in test, there of class a"),
        "b/5.png": ("duplicate", "same bytes as a/4.png, there of class a"),
    }
    assert paths_of(tmp_path / "out", "test") == ["a/3.png"]


def test_fill_shards__added_images_leave_full_shards_as_they_are(tmp_path):
    before = prepare(tmp_path / "before", Memory(numbered(range(0, 60, 2))))
    # The new ones sort between the old ones.
    files = numbered(range(60))
    prepare(tmp_path / "after", Memory(files), previous=before.order)
    full = sorted((tmp_path / "before").glob("train-*.parquet"))[:-1]
    assert len(full) > 2
    for path in full:
        assert path.read_bytes() == (tmp_path / "after" / path.name).read_bytes()
    prepare(tmp_path / "fresh", Memory(files))
    after, fresh = (ImageShards(tmp_path / name, "train") for name in ("after", "fresh"))
    assert after.manifest["data_digest"] == fresh.manifest["data_digest"]
    assert np.array_equal(after.ids, fresh.ids)
    assert sorted(paths_of(tmp_path / "after", "train")) == sorted(paths_of(tmp_path / "fresh", "train"))


def test_fill_shards__a_removed_image_is_forgotten(tmp_path):
    before = prepare(tmp_path / "before", Memory(numbered(range(10))))
    outcome = prepare(tmp_path / "after", Memory(numbered(range(3, 10))), previous=before.order)
    assert outcome.order == before.order[3:]


def test_fill_shards__memory_does_not_grow_with_the_images(tmp_path):
    class Large(Memory):
        def read(self, item):
            return Encoded(png(int(item.path), 100))

    peaks = []
    # Shards, and with them row groups, are the largest from the second size on.
    for count in (2, 100, 300):
        source = Large({str(number): ("train", "a", b"") for number in range(count)})
        tracemalloc.start()
        prepare(tmp_path / str(count), source, shard_bytes=2**19, workers=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] * 1.2


def outcome_of(kept, rejected):
    rows = [Rejection(f"{place}", "train", *row, "") for place, row in enumerate(rejected)]
    outcome = Outcome(["a", "b"], rows)
    for place, key in enumerate(kept):
        outcome.kept[key] += 1
        outcome.order.append(place)
    return outcome


FULL = [("train", "a"), ("val", "a"), ("test", "a"), ("train", "b")]


def test_check_outcome__stops_past_the_allowed_share_with_one_line():
    outcome = outcome_of(FULL, [("a", "truncated")])
    check_outcome(outcome, max_rejected_share=0.2, listing="r")
    with pytest.raises(ValueError, match=r"^1 of 5 files are refused \(1 truncated\).*max_rejected_share.*r lists"):
        check_outcome(outcome, max_rejected_share=0.19, listing="r")


def test_check_outcome__litter_is_never_counted():
    check_outcome(outcome_of(FULL, [("a", "litter"), ("", "litter")] * 20), max_rejected_share=0.0, listing="r")
    lost = outcome_of([key for key in FULL if key[1] == "a"], [("b", "litter")])
    check_outcome(lost, max_rejected_share=0.0, listing="r")


def test_check_outcome__refused_masks_are_no_refused_files():
    check_outcome(outcome_of(FULL, [("a", "mask size"), ("b", "damaged mask")]), max_rejected_share=0.0, listing="r")
    lost = outcome_of([key for key in FULL if key[1] == "a"], [("b", "mask size")])
    check_outcome(lost, max_rejected_share=1.0, listing="r")
    # Nor do they dilute the share of those.
    outcome = outcome_of(FULL, [("a", "truncated"), *[("a", "mask size")] * 20])
    with pytest.raises(ValueError, match=r"^1 of 5 files are refused \(1 truncated\)"):
        check_outcome(outcome, max_rejected_share=0.19, listing="r")


def test_check_outcome__stops_when_a_class_empties():
    lost = outcome_of([key for key in FULL if key[1] == "a"], [("b", "truncated"), ("b", "duplicate")])
    with pytest.raises(ValueError, match=r"class b: no image is left \(1 truncated, 1 duplicate\)"):
        check_outcome(lost, max_rejected_share=1.0, listing="r")
    never = outcome_of([key for key in FULL if key[1] == "a"], [("b", "empty folder"), ("b", "not an image")])
    check_outcome(never, max_rejected_share=1.0, listing="r")


def test_check_outcome__a_refused_file_below_a_folder_that_is_no_class_empties_none():
    outcome = outcome_of([(split, "") for split in ("train", "val", "test")], [("cat", "broken link")])
    outcome.classes = []
    check_outcome(outcome, max_rejected_share=0.5, listing="r")


def test_check_outcome__stops_when_a_split_empties():
    with pytest.raises(ValueError, match="no image is left in val"):
        check_outcome(outcome_of([key for key in FULL if key[0] != "val"], []), max_rejected_share=1.0, listing="r")


def test_write_rejected__is_a_table_with_the_reasons(tmp_path):
    rows = [Rejection("p", "train", "c", "truncated", "3 bytes")]
    write_rejected(tmp_path / "rejected.parquet", rows)
    expected = {"path": "p", "split": "train", "class": "c", "reason": "truncated", "detail": "3 bytes"}
    assert pq.read_table(tmp_path / "rejected.parquet").to_pylist() == [expected]
    write_rejected(tmp_path / "none.parquet", [])
    assert pq.read_table(tmp_path / "none.parquet").column_names == list(expected)


def test_outcome__sha256_in_the_shards_is_that_of_the_source_bytes(tmp_path):
    prepare(tmp_path / "out", Memory(numbered(range(5))))
    for row in pq.read_table(tmp_path / "out" / "train-00000.parquet").to_pylist():
        assert row["sha256"] == hashlib.sha256(row["image"]["bytes"]).digest()
        assert row["id"] == id_of(row["image"]["path"].encode())


COLUMNS = {"image_column": "image", "label_column": "label"}


def test_open_source__no_folder_or_no_image_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"data\.path: no folder"):
        open_source(tmp_path / "none", **COLUMNS)
    (tmp_path / "a").mkdir()
    (tmp_path / ".hidden").write_text("hello")
    with pytest.raises(ValueError, match=r"data\.path: no image below .*, which is empty; put"):
        open_source(tmp_path, **COLUMNS)
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheix")
    (tmp_path / "c.heic").write_bytes(b"\xff\x0a")
    monkeypatch.setattr("images.decoding.FORMATS", ("PNG",))
    monkeypatch.setattr("images.decoding._CONTAINERS", ())
    with pytest.raises(
        ValueError, match=r"2 of 3 entries are refused as unsupported format \(b\.heic: HEIC; .*\); put"
    ):
        open_source(tmp_path, **COLUMNS)


def test_open_source__a_stray_table_among_image_files_is_no_source(tmp_path):
    draw(tmp_path, "cat/1.png")
    write(tmp_path / "table.parquet", rows(1), image="other")
    source = open_source(tmp_path, **COLUMNS)
    assert [item.path for item in source.items] == [b"cat/1.png"]
    assert [(row.path, row.reason) for row in source.rejected] == [("table.parquet", "not an image")]


def test_open_source__a_picture_beside_shards_is_no_source(tmp_path):
    draw(tmp_path, "assets/example.png")
    write(tmp_path / "data/train-0.parquet", rows(2), [0, 1])
    source = open_source(tmp_path, **COLUMNS)
    assert len(source.items) == 2
    assert [row.path for row in source.rejected] == ["assets/example.png"]


def test_check_ids__two_paths_of_one_id_are_refused():
    class Two:
        items = (Item(b"a", 7, "", 0), Item(b"b", 7, "", 0))

    with pytest.raises(ValueError, match="a and b have the same id 7"):
        _check_ids(Two())


def with_masks(masks):
    """A source of as many images, each with one of `masks`: bytes, a reason, or None."""
    source = Memory(numbered(range(len(masks))))
    by_path = dict(zip(source.files, masks, strict=True))

    def read(item):
        path = item.path.decode()
        mask = by_path[path]
        refused = Refused(mask, "as told") if isinstance(mask, str) else mask
        return Encoded(source.files[path][2], refused, f"masks/{path}")

    source.read = read
    return source


def mask_png(*values, size=8):
    buffer = io.BytesIO()
    Image.fromarray(np.resize(np.array(values, np.uint8), (size, size))).save(buffer, "PNG")
    return buffer.getvalue()


def test_fill_shards__a_refused_mask_is_listed_and_its_image_kept(tmp_path):
    masks = [mask_png(0, 1), b"text", mask_png(0, size=5), "damaged mask", None]
    outcome = prepare(tmp_path / "out", with_masks(masks))
    assert (outcome.images, outcome.masks, len(ImageShards(tmp_path / "out", "train"))) == (5, 1, 5)
    assert [(row.path, row.split, row.class_name, row.reason) for row in outcome.rejected] == [
        ("masks/a/0001.png", "train", "", "damaged mask"),
        ("masks/a/0002.png", "train", "", "mask size"),
        ("masks/a/0003.png", "train", "", "damaged mask"),
    ]
    found = MaskShards(tmp_path / "out-masks", "train")
    assert found.ids.tolist() == [id_of(b"a/0000.png")]
    assert found.bytes(id_of(b"a/0000.png")) == masks[0]
