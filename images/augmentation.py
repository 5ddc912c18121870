"""Random views of images, drawn once as numbers and applied alike to pixels and to part maps.

B images. A box is (top, left, height, width) in shares of the WHOLE image, each in [0, 1], so it means the same for
an image stored at any size and for a part map on any grid. A view is the box, and then a mirrored left and right
where the flip is True. Pixels are RGB; float pixels are in [0, 1]. Randomness comes from the generator alone, and
tensors that no argument places live on its device.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's conversion to grey
CROP_ATTEMPTS = 10


def random_crops(
    batch: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    aspect: Tensor,
    generator: torch.Generator,
    rows: slice | Tensor = slice(None),
) -> Tensor:
    """Random boxes (n, 4) float32 of n `rows` of a batch by the law of torchvision's RandomResizedCrop.

    batch, rows: boxes are drawn for a batch of so many images, and those of `rows` are returned, by default all. So a
    process that has a part of the batch gets the same boxes as one that has all of it.

    scale: range of the crop's share of the image area, uniform.
    ratio: range of the crop's width / height in the pixels of the original, log-uniform.
    aspect: (n,) width / height of each original, which a stored square does not show.
    A crop that does not fit is drawn again, up to ten times; then it is the largest centred one within `ratio`.
    Raises ValueError on a scale outside (0, 1], a ratio that is not positive, or a range that falls.
    Differs: sizes and places are not rounded to whole pixels; `snapped` does.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"crop scale is {tuple(scale)}: expected area shares 0 < low <= high <= 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"crop ratio is {tuple(ratio)}: expected aspects 0 < low <= high")
    kept, aspect = aspect, torch.ones(batch, device=generator.device)
    aspect[rows] = kept.to(aspect)
    by_area, by_ratio = torch.rand(2, CROP_ATTEMPTS, batch, device=generator.device, generator=generator)
    by_top, by_left = torch.rand(2, batch, device=generator.device, generator=generator)
    area = torch.lerp(torch.tensor(scale[0]).to(by_area), torch.tensor(scale[1]).to(by_area), by_area)
    low, high = torch.tensor(ratio, device=generator.device).log()
    # In shares of the image the crop's aspect is its aspect in pixels over the image's.
    oblong = torch.lerp(low, high, by_ratio).exp() / aspect
    heights, widths = (area / oblong).sqrt(), (area * oblong).sqrt()
    fits = (heights <= 1) & (widths <= 1)
    first = fits.int().argmax(dim=0, keepdim=True)
    height, width = heights.gather(0, first)[0], widths.gather(0, first)[0]
    fallback = ~fits.any(dim=0)
    height = torch.where(fallback, (aspect / ratio[0]).clamp(max=1), height)
    width = torch.where(fallback, (ratio[1] / aspect).clamp(max=1), width)
    top = torch.where(fallback, 0.5, by_top) * (1 - height)
    left = torch.where(fallback, 0.5, by_left) * (1 - width)
    return torch.stack([top, left, height, width], dim=1)[rows]


def random_flips(batch: int, generator: torch.Generator) -> Tensor:
    """Which views are mirrored: (batch,) bool, True half of the time."""
    return torch.rand(batch, device=generator.device, generator=generator) < 0.5


def whole_images(count: int) -> tuple[Tensor, Tensor]:
    """Boxes (count, 4) and flips (count,) that leave an image as it is."""
    return torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(count, 4), torch.zeros(count, dtype=torch.bool)


def snapped(boxes: Tensor, sizes: Tensor) -> Tensor:
    """The boxes (B, 4) moved to whole pixels of images of `sizes` (B, 2) height and width; at least one pixel is left.

    What is cut from the pixels by such a box, and from a part map, is the very same share of the image.
    """
    first, extent = boxes[:, :2], boxes[:, 2:]
    sizes = sizes.to(boxes.device)
    start = torch.minimum((first * sizes).round(), sizes - 1.0)
    end = torch.maximum(((first + extent) * sizes).round(), start + 1)
    return torch.cat([start / sizes, (end - start) / sizes], dim=1).to(boxes.dtype)


def crop_images(images: Sequence[np.ndarray], boxes: Tensor, flips: Tensor, size: tuple[int, int]) -> Tensor:
    """The views of images as (B, 3, h, w) float32 in [0, 1], on the CPU.

    images: B arrays (H, W, 3) uint8, of any sizes; boxes (B, 4), rounded to whole pixels (see `snapped`); flips (B,) bool;
    size (h, w) pixels. Bicubic, with a filter that widens when the view is smaller than its box, so nothing aliases; what
    comes out depends on no other image of the batch. Source: MAE appendix A.1, torchvision's RandomResizedCrop.
    """
    views = torch.empty(len(images), 3, *size, dtype=torch.uint8)
    for image, box, flip, view in zip(images, boxes.tolist(), flips.tolist(), views, strict=True):
        height, width = image.shape[:2]
        top, left = min(round(box[0] * height), height - 1), min(round(box[1] * width), width - 1)
        bottom = max(round((box[0] + box[2]) * height), top + 1)
        right = max(round((box[1] + box[3]) * width), left + 1)
        # One image at a time and in bytes: torch has a fast path for exactly this, six times that of batched products.
        cut = torch.from_numpy(image[top:bottom, left:right].copy()).permute(2, 0, 1)[None]
        resized = F.interpolate(cut, size, mode="bicubic", antialias=True)[0]
        view.copy_(resized.flip(2) if flip else resized)
    return views.float().div_(255)


def crop_maps(maps: Tensor, boxes: Tensor, flips: Tensor, size: tuple[int, int]) -> Tensor:
    """The views of maps (B, C, H, W) of any values as (B, C, h, w) float32; boxes (B, 4), flips (B,), size (h, w).

    Bilinear with a triangle filter that widens when the view is smaller than its box, anywhere between the pixels.
    """
    height, width = size
    top, left, box_height, box_width = boxes.to(maps.device, torch.float32).unbind(dim=1)
    flips = flips.to(maps.device)
    # Two batched matrix products: as fast as grid_sample on a CPU at small sizes, though that has no filter, and the
    # same few calls on any device.
    rows = _triangle_weights(top, box_height, torch.zeros_like(flips), height, maps.shape[2])
    columns = _triangle_weights(left, box_width, flips, width, maps.shape[3])
    narrowed = torch.bmm(maps.to(torch.float32).flatten(1, 2), columns.mT).unflatten(1, maps.shape[1:3])
    return torch.matmul(rows[:, None], narrowed)


def crop_labels(labels: Tensor, boxes: Tensor, flips: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same views of part maps: (B, h, w) in the type of `labels`, nearest at the centres of the view's patches.

    labels: (B, gh, gw) on any grid that covers the whole image; boxes (B, 4); flips (B,) bool; grid (h, w) patches.
    """
    boxes, flips = boxes.to(labels.device), flips.to(labels.device)
    top, left, height, width = boxes.unbind(dim=1)
    rows = _centres(top, height, torch.zeros_like(flips), grid[0]) * labels.shape[1]
    columns = _centres(left, width, flips, grid[1]) * labels.shape[2]
    # The far edge of the image belongs to the last patch.
    rows = rows.long().clamp(0, labels.shape[1] - 1)
    columns = columns.long().clamp(0, labels.shape[2] - 1)
    image = torch.arange(len(labels), device=labels.device)
    return labels[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(images: Tensor) -> Tensor:
    """Pixels in [0, 1], (..., 3, h, w), with ImageNet's mean taken off and divided by its standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, dtype=images.dtype, device=images.device)[:, None, None]
    return (images - mean).div_(std)


def to_bytes(images: Tensor) -> Tensor:
    """The inverse of `normalise`, (..., 3, h, w) as uint8 in 0..255; what lies outside is clipped."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, dtype=images.dtype, device=images.device)[:, None, None]
    return ((images * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)


def jitter_colours(
    images: Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    probability: float,
    grey_probability: float,
    generator: torch.Generator,
) -> Tensor:
    """Images (B, 3, h, w) float in [0, 1] with each image's colours changed by its own draw.

    brightness, contrast, saturation: strength s >= 0 each; the factor is uniform in [max(0, 1 - s), 1 + s].
    probability: of these three together; grey_probability: of losing all colour after them.
    Source: SimCLR appendix A. Differs: always in the order brightness, contrast, saturation; no hue, whose effect
    on small images is slight and whose cost is the largest.
    """
    batch = len(images)
    draws = torch.rand(5, batch, device=generator.device, generator=generator).to(images.device)[..., None, None, None]
    strengths = (brightness, contrast, saturation)
    applied = draws[3] < probability
    by_brightness, by_contrast, by_saturation = (
        torch.where(applied, max(0.0, 1 - s) + draw * (1 + s - max(0.0, 1 - s)), 1.0)
        for s, draw in zip(strengths, draws[:3], strict=True)
    )
    images = (images * by_brightness).clamp_(0, 1)
    mean = _grey(images).mean(dim=(-2, -1), keepdim=True)
    images = torch.lerp(mean, images, by_contrast).clamp_(0, 1)
    by_saturation = torch.where(draws[4] < grey_probability, 0.0, by_saturation)
    return torch.lerp(_grey(images), images, by_saturation).clamp_(0, 1)


def _centres(start: Tensor, extent: Tensor, mirrored: Tensor, count: int) -> Tensor:
    """Where the centres of `count` equal cells of a view's side lie, in shares of the image's side: (B, count)."""
    steps = (torch.arange(count, device=start.device, dtype=start.dtype) + 0.5) / count
    steps = torch.where(mirrored[:, None], 1 - steps, steps)
    return start[:, None] + steps * extent[:, None]


def _triangle_weights(start: Tensor, extent: Tensor, mirrored: Tensor, count: int, length: int) -> Tensor:
    """The share of each source pixel in each target pixel of a side: (B, count, length), rows sum to 1."""
    centres = _centres(start, extent, mirrored, count) * length
    reach = (extent * (length / count)).clamp(min=1)
    positions = torch.arange(length, device=start.device, dtype=start.dtype) + 0.5
    weights = 1 - (positions - centres[:, :, None]).abs_() / reach[:, None, None]
    weights.clamp_(min=0)
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _grey(images: Tensor) -> Tensor:
    """The luma of RGB images: (..., 1, h, w)."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)[:, None, None]
    return (images * weights).sum(dim=-3, keepdim=True)
