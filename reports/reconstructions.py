"""The predictions of pretrained arms for hidden patches, as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from images.augmentation import crop_images, crop_labels, normalise, to_bytes, whole_images
from images.decoding import decode_square
from models.mae import MaskedAutoencoder
from parts.masking import random_mask, semantic_mask
from reports.gallery import PartMaps, Strip, reconstruction_strips
from reports.samples import Samples
from training.encoders import load_weights
from training.randomness import generator


def load_autoencoder(folder: Path) -> MaskedAutoencoder:
    """The masked autoencoder of a pretrained arm, decoder included, in eval mode."""
    state, config = load_weights(folder)
    model = MaskedAutoencoder(**config)
    model.load_state_dict(state)
    return model.eval()


def inputs_of(model: MaskedAutoencoder, encoded: Sequence[bytes]) -> torch.Tensor:
    """Whole images at the model's size, normalised: (n, 3, h, w)."""
    side = max(model.image_size)
    pixels = [decode_square(data, side) for data in encoded]
    return normalise(crop_images(pixels, *whole_images(len(encoded)), model.image_size))


@torch.no_grad()
def reconstruct(model: MaskedAutoencoder, images: torch.Tensor, mask: torch.Tensor) -> list[np.ndarray]:
    """Predictions for hidden patches, the visible ones unchanged: n images (h, w, 3) uint8.

    images: (n, 3, h, w) normalised; mask: (n, L) bool, True is hidden. With `norm_pix_loss` the predictions take mean
    and variance of the true patch, so a picture shows structure, not brightness.
    """
    return list(to_bytes(model.reconstruct(images, mask).cpu()).permute(0, 2, 3, 1).numpy())


def reconstructions(
    samples: Samples,
    models: Mapping[str, MaskedAutoencoder],
    parts: PartMaps,
    *,
    ratio: float,
    device: torch.device,
) -> dict[str, list[Strip]]:
    """Every arm's predictions under the same masks: random ones, and ones that hide whole learned parts."""
    count, grid = len(samples.ids), next(iter(models.values())).grid
    labels = crop_labels(torch.from_numpy(parts.labels), *whole_images(count), grid).flatten(1)
    masks = {
        "reconstructions": random_mask(count, grid[0] * grid[1], ratio=ratio, generator=generator("report", "random")),
        "reconstructions_parts": semantic_mask(
            labels,
            ratio=ratio,
            alpha=1.0,
            num_parts=parts.num_parts,
            background="part",
            generator=generator("report", "parts"),
        ),
    }
    return {
        name: reconstruction_strips(
            samples,
            mask.unflatten(1, grid).numpy(),
            {
                arm: reconstruct(model, inputs_of(model, samples.encoded).to(device), mask.to(device))
                for arm, model in models.items()
            },
        )
        for name, mask in masks.items()
    }
