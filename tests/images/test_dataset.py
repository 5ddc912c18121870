import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from images.dataset import WholeImages, decoded_masks
from images.decoding import decode_square
from images.sources.items import id_of
from shards.image_shard_writer import ImageShardWriter
from shards.image_shards import ImageShards


def encoded(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    with ImageShardWriter(tmp_path / "s", classes=["a", "b"], has_masks=True, shard_bytes=20_000) as writer:
        for number in range(150):
            height, width = int(rng.integers(5, 15)), int(rng.integers(5, 15))
            image = encoded(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), exif=exif if number % 2 else None)
            mask = encoded(rng.integers(0, 4, (height, width), dtype=np.uint8)) if number % 3 else None
            path = f"{number}.png"
            writer.add(
                "train", image_id=id_of(path.encode()), label=number % 2, sha256=hashlib.sha256(image).digest(),
                image=image, path=path, mask=mask, mask_path=path, max_part_label=3,
            )  # fmt: skip
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


def test_decoded_masks__turn_with_their_images(shards):
    rows = np.array([row for row in range(len(shards)) if shards.mask_bytes(row) is not None])[:20]
    masks = decoded_masks(shards, rows, 5)
    for mask, row in zip(masks, rows, strict=True):
        image = Image.open(io.BytesIO(shards.mask_bytes(row))).resize((5, 5), Image.Resampling.NEAREST)
        turned = int(shards.path(row).removesuffix(".png")) % 2
        assert np.array_equal(mask, np.asarray(image.transpose(Image.Transpose.ROTATE_270) if turned else image))
    missing = next(row for row in range(len(shards)) if shards.mask_bytes(row) is None)
    with pytest.raises(ValueError, match="has no mask"):
        decoded_masks(shards, np.array([missing]), 5)
