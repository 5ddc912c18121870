import numpy as np
import torch

from images.augmentation import to_bytes
from parts.masking import random_mask
from reports.reconstructions import inputs_of, load_autoencoder, reconstruct
from reports.samples import choose
from shards.image_shards import ImageShards
from shards.mask_shards import MaskShards


def test_reconstruct__leaves_visible_patches_as_they_are(outs):
    model = load_autoencoder(outs / "pretrained/semmae-0")
    samples = choose(ImageShards(outs / "data/shards", "test"), MaskShards(outs / "data/masks", "test"), 3)
    images = inputs_of(model, samples.encoded)
    assert images.shape == (3, 3, *model.image_size)
    mask = random_mask(3, 64, ratio=0.75, generator=torch.Generator().manual_seed(0))
    hidden = np.kron(mask.unflatten(1, model.grid).numpy(), np.ones((1, 4, 4))).astype(bool)
    targets = to_bytes(images).permute(0, 2, 3, 1).numpy()
    for target, found, covered in zip(targets, reconstruct(model, images, mask), hidden, strict=True):
        assert (found[~covered] == target[~covered]).all()
        assert (found[covered] != target[covered]).any()
