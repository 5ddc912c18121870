"""The report's rows of pictures: parts, masks and reconstructions of the same few images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from images.decoding import IGNORED_LABEL
from reports.map_tiles import MapTile, head_tiles, map_tiles
from reports.pictures import enlarge, hide, only_part, paint_parts, strip
from reports.samples import TILE, Samples
from training.snapshots import MOMENTS

MOST_PARTS = 12
SNAPSHOT_HEADS = ["target", "masked", *(f"{100 * moment:.0f} %" for moment in MOMENTS)]


class Strip(NamedTuple):
    """A row of pictures (h, w, 4) uint8 RGBA, its label, and what it shows in words."""

    label: str
    pixels: np.ndarray
    alt: str


class PartMaps(NamedTuple):
    """Part labels (n, gh, gw) of the shown images, 0..num_parts-1 parts and num_parts background."""

    labels: np.ndarray
    num_parts: int


def image_strip(samples: Samples, label: str = "image") -> Strip:
    """The images themselves."""
    classes = ", ".join(filter(None, samples.classes))
    return Strip(label, strip(samples.tiles), f"{len(samples.tiles)} test images{classes and f': {classes}'}")


def part_strips(samples: Samples, maps: Mapping[str, PartMaps]) -> list[Strip]:
    """The images, each kind of part map over them, and the true parts if the data has any."""
    rows = [image_strip(samples)]
    rows += [painted_strip(samples.tiles, labels, name) for name, labels in maps.items()]
    if any(truth is not None for truth in samples.truth):
        tiles = [_truth_tile(tile, truth) for tile, truth in zip(samples.tiles, samples.truth, strict=True)]
        rows.append(Strip("true parts", strip(tiles), "The same images with the data's own part labels in colour"))
    return rows


def painted_strip(images: Sequence[np.ndarray], maps: PartMaps, name: str) -> Strip:
    """The images with one kind of part map over them."""
    tiles = [paint_parts(image, label, maps.num_parts) for image, label in zip(images, maps.labels, strict=True)]
    return Strip(name, strip(tiles), f"The same images with {name} in colour, background grey")


def rebuilt_strip(rebuilt: Sequence[np.ndarray]) -> Strip:
    """Images (h, w, 3) uint8 that the decoder rebuilt from part maps and class token."""
    tiles = [enlarge(image, TILE) for image in rebuilt]
    return Strip("rebuilt", strip(tiles), "The same images, rebuilt from their part maps and their class token alone")


def head_strips(samples: Samples, heads: np.ndarray) -> list[Strip]:
    """One attention head a row, across the images. heads: (n, H, gh, gw)."""
    rows = [list(head_tiles(tile, attention)) for tile, attention in zip(samples.tiles, heads, strict=True)]
    return _transposed(
        rows, "Attention of {} of the teacher's last block over the same images, bright for high attention"
    )


def share_strips(samples: Samples, shares: np.ndarray, num_parts: int) -> list[Strip]:
    """One part map a row, across the images, of many maps those that cover most. shares: (n, S, gh, gw)."""
    largest = np.sort(np.argsort(-shares.sum(axis=(0, 2, 3)), kind="stable")[:MOST_PARTS])
    rows = [list(map_tiles(tile, share, num_parts, largest)) for tile, share in zip(samples.tiles, shares, strict=True)]
    return _transposed(rows, "The share of {} in each patch of the same images, in its colour")


def _transposed(rows: Sequence[Sequence[MapTile]], alt: str) -> list[Strip]:
    """Tiles by image and map -> one map a strip."""
    return [
        Strip(same[0].title, strip([tile.pixels for tile in same]), alt.format(same[0].title))
        for same in zip(*rows, strict=True)
    ]


def _truth_tile(tile: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """The data's parts: label 0 is background, and 255 is no label."""
    if truth is None:
        return tile
    count = int(truth[truth != IGNORED_LABEL].max(initial=0))
    labels = np.where((truth == 0) | (truth == IGNORED_LABEL), count, truth.astype(np.int64) - 1)
    return paint_parts(tile, labels, count)


def single_part_strips(images: Sequence[np.ndarray], maps: PartMaps) -> list[Strip]:
    """One part a row, across the images. Of many parts those that cover most."""
    largest = np.argsort(-np.bincount(maps.labels.ravel(), minlength=maps.num_parts)[: maps.num_parts], kind="stable")
    return [
        Strip(
            f"part {part}",
            strip([only_part(tile, label, part) for tile, label in zip(images, maps.labels, strict=True)]),
            f"Part {part} in the same {len(images)} images; the rest is dim",
        )
        for part in sorted(largest[:MOST_PARTS].tolist())
    ]


def mask_strips(samples: Samples, masks: Sequence[np.ndarray], arm: str) -> list[Strip]:
    """One image a row: unmasked, and then under the masks of successive moments of training.

    masks: by moment (n, gh, gw) bool, True is hidden.
    """
    return [
        Strip(
            samples.drawn[place],
            strip([tile, *(hide(tile, moment[place]) for moment in masks)]),
            f"{arm}: {samples.classes[place] or 'an image'}, whole and under the masks of {len(masks)} moments of training",
        )
        for place, tile in enumerate(samples.tiles)
    ]


def reconstruction_strips(
    samples: Samples, mask: np.ndarray, predictions: Mapping[str, Sequence[np.ndarray]]
) -> list[Strip]:
    """Target, masked, and what each arm predicts with the visible patches pasted in.

    mask: (n, gh, gw) bool, True is hidden. predictions: arm -> n images (h, w, 3) uint8.
    """
    masked = [hide(tile, hidden) for tile, hidden in zip(samples.tiles, mask, strict=True)]
    rows = [image_strip(samples, "target"), Strip("masked", strip(masked), "The same images, hidden patches in grey")]
    for arm, images in predictions.items():
        tiles = [enlarge(image, TILE) for image in images]
        rows.append(Strip(arm.replace("_", " "), strip(tiles), f"What {arm} predicts, visible patches pasted in"))
    return rows


def snapshot_strips(arm: str, snapshots: Mapping[str, torch.Tensor], grid: tuple[int, int]) -> list[Strip]:
    """One training image a row: unmasked, masked, and rebuilt by the arm at successive moments of training.

    snapshots: as `training.snapshots.read_snapshots` returns them.
    """
    rows = []
    moments = snapshots["reconstructions"].permute(1, 0, 3, 4, 2).numpy()
    for image, mask, rebuilt in zip(snapshots["images"], snapshots["mask"], moments, strict=True):
        tile = enlarge(image.permute(1, 2, 0).numpy(), TILE)
        masked = hide(tile, mask.bool().unflatten(0, grid).numpy())
        tiles = [tile, masked, *(enlarge(picture, TILE) for picture in rebuilt)]
        rows.append(Strip("", strip(tiles), f"{arm}: a training image, masked, and rebuilt at {len(rebuilt)} moments"))
    return rows
