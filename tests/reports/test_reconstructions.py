import numpy as np
import torch

from images.augmentation import normalise
from parts.masking import random_mask
from reports.reconstructions import inputs_of, load_autoencoder, reconstruct, to_pixels
from reports.samples import choose
from shards.image_shards import ImageShards


def test_to_pixels__undoes_normalise():
    pixels = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    restored = to_pixels(normalise(pixels.float() / 255))
    assert (np.stack(restored) == pixels.permute(0, 2, 3, 1).numpy()).all()


def test_reconstruct__leaves_visible_patches_as_they_are(outs):
    model = load_autoencoder(outs / "pretrained/semmae-0")
    samples = choose(ImageShards(outs / "data/shards", "test"), 3)
    images = inputs_of(model, samples.encoded)
    assert images.shape == (3, 3, *model.image_size)
    mask = random_mask(3, 64, ratio=0.75, generator=torch.Generator().manual_seed(0))
    hidden = np.kron(mask.unflatten(1, model.grid).numpy(), np.ones((1, 4, 4))).astype(bool)
    for target, found, covered in zip(to_pixels(images), reconstruct(model, images, mask), hidden, strict=True):
        assert (found[~covered] == target[~covered]).all()
        assert (found[covered] != target[covered]).any()
