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
    with ImageShardWriter(folder, classes=source.classes, has_masks=False, shard_bytes=shard_bytes) as writer:
        return fill_shards(writer, source, previous=previous, max_pixels=10_000, workers=workers)


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
    assert outcome.seen == len(files)
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
    digests = {ImageShards(tmp_path / name, "train").manifest["data_digest"] for name in ("after", "fresh")}
    assert len(digests) == 1


def test_fill_shards__the_order_of_preparation_changes_no_row_number(tmp_path):
    before = prepare(tmp_path / "before", Memory(numbered(range(0, 60, 2))))
    prepare(tmp_path / "after", Memory(numbered(range(60))), previous=before.order)
    prepare(tmp_path / "fresh", Memory(numbered(range(60))))
    after, fresh = (ImageShards(tmp_path / name, "train") for name in ("after", "fresh"))
    assert np.array_equal(after.ids, fresh.ids)
    assert [after.path(row) for row in range(60)] == [fresh.path(row) for row in range(60)]


def test_fill_shards__a_removed_image_is_forgotten(tmp_path):
    before = prepare(tmp_path / "before", Memory(numbered(range(10))))
    outcome = prepare(tmp_path / "after", Memory(numbered(range(3, 10))), previous=before.order)
    assert outcome.order == before.order[3:]


def test_fill_shards__memory_does_not_grow_with_the_images(tmp_path):
    class Large(Memory):
        def read(self, item):
            return Encoded(png(int(item.path), 100))

    peaks = []
    for count in (2, 25, 100):
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


def test_check_outcome__stops_when_a_class_empties():
    lost = outcome_of([key for key in FULL if key[1] == "a"], [("b", "truncated"), ("b", "duplicate")])
    with pytest.raises(ValueError, match=r"class b: no image is left \(1 truncated, 1 duplicate\)"):
        check_outcome(lost, max_rejected_share=1.0, listing="r")
    never = outcome_of([key for key in FULL if key[1] == "a"], [("b", "empty folder"), ("b", "not an image")])
    check_outcome(never, max_rejected_share=1.0, listing="r")


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


def test_open_source__no_folder_or_no_image_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path: no folder"):
        open_source(tmp_path / "none", **COLUMNS)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="no image among the 1 entries"):
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
