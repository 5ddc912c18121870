import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from images.dataset import WholeImages, decoded_masks, labelled_rows
from images.decoding import decode_square
from images.sources.items import id_of
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards, MaskShardWriter
from tests.shards.paths import paths_of


def encoded(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


LABELS = {1: 255, 2: 0, 3: 7}


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    with (
        ImageShardWriter(tmp_path / "s", classes=["a", "b"], shard_bytes=20_000) as writer,
        MaskShardWriter(tmp_path / "m", shard_bytes=5_000) as masks,
    ):
        masks.labels = LABELS
        for number in range(150):
            height, width = int(rng.integers(5, 15)), int(rng.integers(5, 15))
            image = encoded(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), exif=exif if number % 2 else None)
            path = f"{number}.png"
            image_id = id_of(path.encode())
            digest = hashlib.sha256(image).digest()
            writer.add("train", image_id=image_id, label=number % 2, sha256=digest, image=image, path=path)
            if number % 3:
                values = rng.integers(0, 3 if number % 5 else 1, (height, width), dtype=np.uint8) + np.uint8(1)
                counts = np.bincount(values.ravel(), minlength=256)
                masks.add("train", image_id=image_id, mask=encoded(values), path=path, pixels=counts)
    return ImageShards(tmp_path / "s", "train")


def squares_of(shards):
    """All images by row, (N, 3, 6, 6) uint8."""
    return np.stack([decode_square(shards.bytes(row), 6) for row in range(len(shards))]).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_gather__puts_what_batches_give_together_by_row(shards, workers):
    images, seen = WholeImages(shards, 6, workers=workers), []
    found = images.gather(lambda pixels: pixels.float().mean(dim=(2, 3)), 16, seen.append)
    assert found.shape == (150, 3) and sum(seen) == 150
    assert np.allclose(found.numpy(), squares_of(shards).mean(axis=(2, 3)), atol=1e-3)
    assert np.array_equal(images.labels, shards.labels)


def test_gather__of_some_takes_the_first_rows(shards):
    images = WholeImages(shards, 6, workers=0, most=20)
    assert len(images) == 20
    assert np.array_equal(images.gather(lambda pixels: pixels, 7).numpy(), squares_of(shards)[:20])


def test_gather__a_split_without_images_is_named(shards):
    with pytest.raises(ValueError, match=rf"{shards.folder}: split {shards.split} has no image"):
        WholeImages(shards, 6, workers=0, most=0).gather(lambda pixels: pixels, 7)


def test_batches__the_parts_of_all_are_the_batches_of_one(shards):
    images = WholeImages(shards, 6, workers=0)
    whole = list(images.batches(16))
    assert len(whole) == 10
    parts = [*images.batches(16, lambda count: slice(0, 4)), *images.batches(16, lambda count: slice(4, count))]
    for (rows, pixels), (theirs, same) in zip(whole, parts, strict=True):
        assert np.array_equal(rows, theirs) and np.array_equal(pixels, same)


def test_decoded_masks__turn_with_their_images_and_hold_labels(shards):
    masks = MaskShards(shards.folder.parent / "m", "train")
    rows = labelled_rows(shards, masks)
    numbers = [int(path.removesuffix(".png")) for path in paths_of(shards)]
    # Every third image has no mask, and of every fifth the only value is ignored.
    assert [numbers[row] for row in rows] == [number for number in numbers if number % 3 and number % 5]
    for labels, row in zip(decoded_masks(masks, shards, rows, 5), rows, strict=True):
        image = Image.open(io.BytesIO(masks.bytes(int(shards.ids[row])))).resize((5, 5), Image.Resampling.NEAREST)
        values = np.asarray(image.transpose(Image.Transpose.ROTATE_270) if numbers[row] % 2 else image)
        assert np.array_equal(labels, np.vectorize(LABELS.get)(values))
