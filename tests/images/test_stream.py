import hashlib
import io
import threading

import numpy as np
import pytest
from PIL import Image

from images.decoding import decode_at_least, squeezed
from images.sources.items import id_of
from images.stream import ReadAhead, ShuffledOrder, TrainingImages, map_ahead
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards
from tests.conftest import wait_until


@pytest.fixture
def shards(tmp_path):
    """Two hundred JPEG and PNG files of many sizes, some turned, in several row groups."""
    draw, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6
    with ImageShardWriter(tmp_path / "s", classes=["a"], shard_bytes=20_000) as writer:
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
        whole = Image.fromarray(decode_at_least(data, 10**6).pixels)
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


@pytest.mark.parametrize("workers", [0, 3])
def test_hold_all__decodes_every_image_as_a_square_once_and_keeps_it(shards, monkeypatch, workers):
    images = TrainingImages(shards, 8, ram_gib=1.0, workers=workers, decode=squeezed)
    images.hold_all()
    expected = [squeezed(shards.bytes(row), 8) for row in range(200)]
    monkeypatch.setattr(shards, "bytes", None)
    batch = images.batch(np.arange(200))
    assert np.array_equal(np.stack(batch.pixels), np.stack([image.pixels for image in expected]))
    assert batch.aspect.tolist() == [np.float32(image.aspect) for image in expected]


def test_hold_all__too_large_a_set_is_refused_with_the_number(shards):
    with pytest.raises(ValueError, match=r"200 images of 1000 x 1000 pixels need 0\.56 GiB.*ram_gib.*0\.1"):
        TrainingImages(shards, 1000, ram_gib=0.1).hold_all()


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
    wait_until(lambda: threading.active_count() == before)


def test_map_ahead__an_end_before_the_last_waits_for_no_thread():
    """The garbage collector may end it, in a thread that holds what another thread waits for."""
    before, goes_on = threading.active_count(), threading.Event()
    begun = map_ahead(lambda number: number == 0 or goes_on.wait(), range(9), workers=1, prefetch=1)
    assert next(begun)
    begun.close()
    assert threading.active_count() == before + 1
    goes_on.set()
    wait_until(lambda: threading.active_count() == before)


def order(group_sizes=(5, 3, 7, 1, 9, 4), window=10, key=(0, "order"), seed=0):
    sizes = np.array(group_sizes)
    storage = np.random.default_rng(seed).permutation(sizes.sum())
    return ShuffledOrder(storage, sizes, window=window, key=key)


@pytest.mark.parametrize("window", [1, 4, 10, 29, 1000])
def test_rows__every_image_once_an_epoch(window):
    found = order(window=window)
    for epoch in range(3):
        assert sorted(found.rows(29 * epoch, 29)) == list(range(29))
    assert not np.array_equal(found.rows(0, 29), found.rows(29, 29))


def test_rows__any_position_is_found_from_its_number_alone():
    whole = order().rows(0, 200)
    for first, count in ((0, 1), (7, 40), (28, 2), (29, 1), (150, 50), (3, 100)):
        assert np.array_equal(order().rows(first, count), whole[first : first + count])


def test_rows__a_window_that_holds_everything_does_not_depend_on_the_files():
    one, other = order(window=29), order((29,), window=1000, seed=5)
    assert np.array_equal(one.rows(0, 100), other.rows(0, 100))
    assert not np.array_equal(one.rows(0, 29), order(window=29, key=(1, "order")).rows(0, 29))


def test_rows__a_window_holds_whole_groups_and_two_windows_are_all_a_reader_keeps():
    sizes = np.full(100, 8)
    found = ShuffledOrder(np.arange(800), sizes, window=50, key=(0,))
    held, misses = [], 0
    for position in range(800):
        group = int(found.rows(position, 1)[0]) // 8
        misses += group not in held
        held = [group, *(other for other in held if other != group)][: found.groups_held]
    assert misses == 100, "no group is read twice"
    first = {int(row) // 8 for row in found.rows(0, 56)}
    assert len(first) == 7, "56 images are seven whole groups"
    assert found.groups_held < 20


def test_rows__within_a_window_every_order_is_possible():
    seen = {tuple(ShuffledOrder(np.arange(3), np.array([3]), window=3, key=(seed,)).rows(0, 3)) for seed in range(100)}
    assert len(seen) == 6


def test_order__of_nothing_is_refused():
    with pytest.raises(ValueError, match="no images to train on"):
        ShuffledOrder(np.empty(0, np.int64), np.empty(0, np.int64), window=3, key=(0,))
