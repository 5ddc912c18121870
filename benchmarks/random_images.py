"""Image shards of random pictures, for benchmarks that need images and not what is on them."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from shards.image_shard_writer import ImageShardWriter


def write_random_images(
    folder: Path, count: int, size: int, *, shard_bytes: int = 2**26, test_count: int = 0, classes: str = "a"
) -> None:
    """Write `count` training and `test_count` test images of `size` pixels as image shards, the same ones each time.

    classes: a letter each, which the images have in turn.
    """
    generator = np.random.default_rng(0)
    with ImageShardWriter(folder, classes=list(classes), shard_bytes=shard_bytes) as writer:
        for number in range(count + test_count):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, "png")
            digest = hashlib.sha256(buffer.getvalue()).digest()
            writer.add(
                "train" if number < count else "test",
                image_id=int.from_bytes(digest[:8], "big"),
                label=number % len(classes),
                sha256=digest,
                image=buffer.getvalue(),
                path=f"{number}.png",
            )
