"""What a pretrained arm predicts for hidden patches, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from images.augmentation import crop_images, normalise, to_bytes, whole_images
from images.decoding import decode_square
from models.mae import MaskedAutoencoder
from training.encoders import load_weights


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
    """Visible patches as they are and predictions elsewhere: n images (h, w, 3) uint8.

    images: (n, 3, h, w) normalised; mask: (n, L) bool, True is hidden. With `norm_pix_loss` the predictions take mean
    and variance of the true patch, so a picture shows structure, not brightness.
    """
    return to_pixels(model.reconstruct(images, mask))


def to_pixels(images: torch.Tensor) -> list[np.ndarray]:
    """Normalised images (n, 3, h, w) as n arrays (h, w, 3) uint8."""
    return list(to_bytes(images.cpu()).permute(0, 2, 3, 1).numpy())
