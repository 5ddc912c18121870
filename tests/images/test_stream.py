import hashlib
import io
import threading

import numpy as np
import pytest
from PIL import Image

from images.decoding import decode, decode_at_least
from images.sources.items import id_of
from images.stream import ReadAhead, TrainingImages, map_ahead
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards


@pytest.fixture
def shards(tmp_path):
    """Two hundred JPEG and PNG files of many sizes, some turned, in several row groups."""
    draw, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6
    with ImageShardWriter(tmp_path / "s", classes=["a"], has_masks=False, shard_bytes=20_000) as writer:
        for number in range(200):
            height, width = draw.integers(6, 70, 2)
            buffer = io.BytesIO()
            # Smooth, since a JPEG made smaller while it is decoded differs from one made smaller afterwards in details.
            image = Image.fromarray(draw.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((width, height))
            image.save(buffer, ("PNG", "JPEG")[number % 2], exif=exif if number % 3 == 0 else Image.Exif())
            data, path = buffer.getvalue(), f"{number}"
            digest = hashlib.sha256(data).digest()
            writer.add("train", image_id=id_of(path.encode()), label=0, sha256=digest, image=data, path=path)
    return ImageShards(tmp_path / "s", "train")


def training_images(shards, ram_gib=1.0, window=50):
    return TrainingImages(shards, 16, window=window, ram_gib=ram_gib)


def test_decode_at_least__is_a_whole_fraction_of_the_upright_picture(shards):
    for row in range(len(shards)):
        data = shards.bytes(row)
        whole = decode(data, max_pixels=10**6)
        found = decode_at_least(data, 16)
        height, width = found.size
        assert found.pixels.shape == (height, width, 3)
        factor = max(1, round(whole.width / width))
        assert (-(-whole.height // factor), -(-whole.width // factor)) == (height, width)
        assert min(height, width) >= min(16, *whole.size)
        assert min(height, width) < 32
        assert found.aspect == whole.width / whole.height
        reduced = np.asarray(whole.reduce(factor)).astype(float)
        assert np.abs(found.pixels - reduced).mean() < (1 if factor == 1 else 12), (row, factor)


def test_batch__the_same_pixels_kept_or_streamed(shards):
    kept, streamed = training_images(shards), training_images(ImageShards(shards.folder, "train"), ram_gib=1e-6)
    for epoch in range(2):
        rows = kept.order(0).rows(epoch * 200, 200)
        one, other = kept.batch(rows), streamed.batch(rows)
        assert all(np.array_equal(a, b) for a, b in zip(one.pixels, other.pixels, strict=True))
        assert np.array_equal(one.sizes, other.sizes) and np.array_equal(one.aspect, other.aspect)
    assert len(kept._kept) == 200 and len(streamed._kept) < 3


def test_order__each_row_group_is_read_once_an_epoch(shards, monkeypatch):
    shards.held_groups = 0
    images, read = training_images(shards, ram_gib=0), []
    inner = shards._read
    monkeypatch.setattr(shards, "_read", lambda group: read.append(group) or inner(group))
    order = images.order(0)
    for start in range(0, 200, 10):
        images.batch(order.rows(start, 10))
    assert len(shards.group_sizes) > 5
    assert len(read) == len(set(read)) == len(shards.group_sizes)
    assert len(shards._held) <= order.groups_held


def test_read_ahead__gives_what_the_function_gives_in_order_ahead_of_the_asking():
    begun, may_go_on = [], threading.Event()

    def make(step):
        begun.append(step)
        if step == 3:
            may_go_on.set()
        return step * step

    ahead = ReadAhead(make, steps=10, workers=2, prefetch=3)
    assert ahead(0) == 0
    assert may_go_on.wait(10), "step 3 is made before it is asked for"
    assert [ahead(step) for step in range(1, 10)] == [step * step for step in range(1, 10)]
    assert sorted(begun) == list(range(10)), "and each once"


def test_read_ahead__may_start_anywhere_and_raises_where_the_error_is():
    def make(step):
        if step == 6:
            raise ValueError("no such image")
        return step

    for workers in (0, 2):
        ahead = ReadAhead(make, steps=10, workers=workers, prefetch=3)
        assert [ahead(4), ahead(5)] == [4, 5]
        with pytest.raises(ValueError, match="no such image"):
            ahead(6)
        assert ahead(7) == 7


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_map_ahead__gives_what_the_function_gives_in_order_and_takes_no_more_than_it_holds(workers):
    taken, given = [], []

    def items():
        for number in range(20):
            taken.append(number)
            assert len(taken) - len(given) <= (5 if workers else 1)
            yield number

    for square in map_ahead(lambda number: number * number, items(), workers=workers, prefetch=4):
        given.append(square)
    assert given == [number * number for number in range(20)]
    assert list(map_ahead(str, [], workers=workers, prefetch=4)) == []


def test_map_ahead__makes_the_next_while_one_is_used():
    made = threading.Event()

    def make(number):
        if number == 2:
            made.set()
        return number

    ahead = map_ahead(make, range(3), workers=1, prefetch=2)
    assert next(ahead) == 0
    assert made.wait(10)
    assert list(ahead) == [1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_map_ahead__raises_where_the_error_is_and_leaves_no_thread(workers):
    def make(number):
        if number == 2:
            raise ValueError("no such image")
        return number

    before = threading.active_count()
    ahead = map_ahead(make, range(9), workers=workers, prefetch=3)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ValueError, match="no such image"):
        next(ahead)
    begun = map_ahead(make, range(9), workers=workers, prefetch=1)
    next(begun)
    begun.close()
    assert threading.active_count() == before
