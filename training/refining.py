"""Training of the part learner on the stored tokens of a frozen teacher: data, starting point, step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from config.groups import RefineParams
from images.augmentation import crop_images, crop_maps, random_crops, random_flips, snapped
from images.decoding import decode_square
from images.stream import map_ahead
from models.part_decoder import PartDecoder, initialise_decoder
from models.part_learner import PartLearner, start_from_centres, start_from_heads
from models.part_losses import (
    diversity_loss,
    equivariance_loss,
    memberships,
    perceptual_loss,
    slot_loss,
    token_loss,
    usage_loss,
)
from parts.clustering import distances, k_means, whitening
from parts.foreground import attention_foreground, border_foreground
from shards.arrays import ArrayShards
from shards.image_shards import ImageShards
from training.compute import Compute
from training.encoders import load_weights
from training.loop import Stateful, update
from training.optimiser import AdamW, decay_groups, set_lr, warmup_cosine
from training.randomness import batch_indices, generator, steps_of

# Patches that whitening and k-means see: beyond this the centres no longer move.
SAMPLE = 20_000
# Images that are read, or whose patches are compared with the centres, at a time: bounds the memory.
CHUNK = 256
# Tries of the k-means that the part tokens start from; one alone can end with two parts of one kind.
STARTS = 5
# Standard deviation of random part tokens, and of the class token's weight in them.
RANDOM_SCALE, CLASS_SCALE = 0.3, 0.5

# Area shares and aspects of the views that the equivariance loss compares with their whole images.
VIEW_SCALE, VIEW_RATIO = (0.5, 1.0), (0.8, 1.25)

Features = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PartTokens:
    """The images that part learning trains on, N of them.

    tokens: (N, L, D) float16. cls_tokens: (N, D) float32, of the same layer. cls_attention: (N, H, L), of the last block.
    pixels: (N, 3, h, w) uint8. token_layer: of the teacher, see `parts.attention`.
    """

    tokens: Tensor
    cls_tokens: Tensor
    cls_attention: Tensor
    pixels: Tensor
    grid: tuple[int, int]
    token_layer: int

    def __len__(self) -> int:
        return len(self.tokens)


def load_part_tokens(
    shards: ImageShards,
    folder: str,
    *,
    most: int,
    size: int,
    workers: int,
    ram_gib: float,
    advance: Callable[[int], object] = lambda images: None,
) -> PartTokens:
    """Read what `extract_attention` stored in `folder` and decode the same images to `size` pixels squared.

    most: images, those of the smallest ids. advance: called with the number of images of each chunk that is read.
    Raises ValueError when they take more memory than `ram_gib`, or when `folder` is of other images.
    """
    stored, everything = ArrayShards(f"{folder}/tokens"), ArrayShards(f"{folder}/all")
    # By id, since steps draw row numbers: the order of the shards depends on the history of the data set.
    ids = shards.ids[:most]
    shape = stored.header["columns"]["tokens"]["shape"]
    needed = len(ids) * (2 * math.prod(shape) + 3 * size * size) / 2**30
    if needed > ram_gib:
        raise ValueError(
            f"part learning on {len(ids)} images needs {needed:.1f} GiB, ram_gib in runtime.yaml allows {ram_gib}; "
            "raise it or lower extract.part_images"
        )
    if not stored.has(ids):
        raise ValueError(f"{folder}: lacks tokens of images that are in {shards.folder}; run `dvc repro` again")
    squares = map_ahead(
        lambda row: decode_square(shards.bytes(row), size), range(len(ids)), workers=workers, prefetch=4 * workers
    )
    tokens = torch.empty(len(ids), *shape, dtype=torch.float16)
    pixels = torch.empty(len(ids), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        tokens[start : start + CHUNK] = torch.from_numpy(stored.rows(some, "tokens"))
        decoded = np.stack(list(islice(squares, len(some))))
        pixels[start : start + CHUNK] = torch.from_numpy(decoded).permute(0, 3, 1, 2)
        advance(len(some))
    return PartTokens(
        tokens=tokens,
        cls_tokens=torch.from_numpy(everything.rows(ids, "cls_input")).float(),
        cls_attention=torch.from_numpy(everything.rows(ids, "cls_attention")),
        pixels=pixels,
        grid=tuple(stored.header["grid"]),
        token_layer=stored.header["token_layer"],
    )


def read_last_block(folder: str) -> dict[str, Tensor]:
    """Parameters of the last block of a teacher folder by their names within the block, without building the teacher."""
    state, _ = load_weights(folder)
    numbers = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    prefix = f"blocks.{max(numbers)}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class Refining:
    """Part learner, decoder, optimiser and one step; a step is a pure function of its number and of their state.

    last_block: parameters of the teacher's last block, for the initialisation from its heads. features: the teacher's class
    token (B, D) and patch tokens (B, L, D), of the stored layer, of images (B, 3, h, w) in [0, 1]; needed for the perceptual
    and the equivariance loss alone. advance: called with the number of images whose foreground was found.
    """

    label = "refine_parts"

    def __init__(
        self,
        data: PartTokens,
        group: RefineParams,
        *,
        last_block: Mapping[str, Tensor],
        features: Features | None,
        compute: Compute,
        advance: Callable[[int], object] = lambda images: None,
    ) -> None:
        self.data, self.group, self.features, self.compute = data, group, features, compute
        self.seed, self.batch_size = group.seed, group.batch_size
        width = data.tokens.shape[2]
        self.config: dict[str, Any] = {
            "grid": list(data.grid),
            "width": width,
            "num_parts": group.parts,
            "token_width": group.token_width,
            "normalise": group.normalise,
            "temperature": group.temperature,
            "centre": group.centre,
            "blur_sigma": group.blur_sigma,
            "background": group.background == "slot",
        }
        self.learner = PartLearner(**self.config)
        self.decoder_config: dict[str, Any] = {
            "num_maps": self.learner.num_maps,
            "style_width": width,
            "grid": list(data.grid),
            "image_size": [group.decoder_size, group.decoder_size],
            "width": group.decoder_width,
        }
        self.decoder = PartDecoder(**self.decoder_config)
        initialise_decoder(self.decoder, generator(group.seed, "decoder"))
        self._start(last_block, advance)
        self.model = torch.nn.ModuleDict({"learner": self.learner, "decoder": self.decoder}).to(compute.device)
        self.steps = steps_of(group.epochs, len(data), group.batch_size)
        self.optimizer = AdamW(decay_groups(self.model, group.weight_decay), lr=group.lr)
        self.scaler = compute.scaler()
        self.state: dict[str, Stateful] = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def _start(self, last_block: Mapping[str, Tensor], advance: Callable[[int], object]) -> None:
        """Foreground, the components that make the token targets, and the weights of step 0."""
        group, draw = self.group, generator(self.group.seed, "start")
        width = self.data.tokens.shape[2]
        everywhere = torch.ones(self.data.tokens.shape[:2], dtype=torch.bool)
        sample = self._sample(everywhere, draw)
        self.foreground = self._find_foreground(sample, draw, advance)
        if group.initialisation == "heads":
            start_from_heads(self.learner, last_block, self.data.cls_attention.shape[1])
        else:
            self._start_from_tokens(self._sample(self.foreground, draw), sample, draw)
        matrix, offset = whitening(self._sample(self.foreground, draw), min(group.target_width, width), group.whitening)
        self.target_matrix, self.target_offset = matrix.to(self.compute.device), offset.to(self.compute.device)

    def _find_foreground(self, sample: Tensor, draw: torch.Generator, advance: Callable[[int], object]) -> Tensor:
        """(N, L) bool."""
        group = self.group
        if group.foreground == "all":
            return torch.ones(self.data.tokens.shape[:2], dtype=torch.bool)
        if group.foreground == "attention":
            return attention_foreground(self.data.cls_attention, group.attention_mass)
        matrix, offset = whitening(sample, group.token_width, group.whitening)
        centres = k_means(sample @ matrix.T + offset, group.foreground_clusters, draw)
        kinds = []
        for tokens in self.data.tokens.split(CHUNK):
            points = standardise(tokens.float(), centre=group.centre) @ matrix.T + offset
            kinds.append(distances(points, centres).argmin(dim=2))
            advance(len(tokens))
        return border_foreground(torch.cat(kinds), self.data.grid, group.border_ratio)

    def _start_from_tokens(self, inside: Tensor, everywhere: Tensor, draw: torch.Generator) -> None:
        """Start part tokens at random, or at the centres of the tokens `inside` (n, D); the slot starts at the mean of all."""
        group, parts = self.group, self.group.parts
        matrix, offset = whitening(inside, group.token_width, group.whitening)
        centres = torch.zeros(self.learner.num_maps, group.token_width)
        if group.initialisation == "clusters":
            centres[:parts] = k_means(inside @ matrix.T + offset, parts, draw, starts=STARTS)
            centres[parts:] = (everywhere @ matrix.T + offset).mean(dim=0)
        start_from_centres(self.learner, centres, matrix, offset)
        if group.initialisation == "random":
            with torch.no_grad():
                self.learner.embed.bias.normal_(0.0, RANDOM_SCALE, generator=draw)
                self.learner.embed.weight.normal_(0.0, CLASS_SCALE * inside.shape[1] ** -0.5, generator=draw)

    def _sample(self, chosen: Tensor, draw: torch.Generator) -> Tensor:
        """Standardised tokens (about SAMPLE at most, D) of the `chosen` patches (N, L) of random images."""
        per_image = max(1.0, int(chosen.sum()) / len(self.data))
        images = torch.randperm(len(self.data), generator=draw)[: math.ceil(SAMPLE / per_image)]
        return standardise(self.data.tokens[images].float(), centre=self.group.centre)[chosen[images]]

    def step(self, number: int) -> dict[str, float | Tensor]:
        """One update; returns the losses, unweighted, and the learning rate."""
        group, device = self.group, self.compute.device
        indices = torch.from_numpy(batch_indices(len(self.data), group.batch_size, number, group.seed, "order"))
        tokens = self.data.tokens[indices].to(device).float()
        cls_token = self.data.cls_tokens[indices].to(device)
        foreground = self.foreground[indices].to(device).float()
        pixels = self.data.pixels[indices].to(device).float() / 255
        targets = standardise(tokens, centre=group.centre) @ self.target_matrix.T + self.target_offset
        with self.compute.autocast():
            maps = self.learner(cls_token, tokens)
            images = self.decoder(maps, cls_token) if self.decodes else None
        maps = maps.float()
        shares = memberships(maps[:, : group.parts])
        losses = {
            "token_loss": token_loss(shares, targets, foreground, pooling=group.token_pooling),
            "usage_loss": usage_loss(shares, foreground),
            "diversity_loss": diversity_loss(maps),
        }
        loss = (
            group.token_weight * losses["token_loss"]
            + group.usage_weight * losses["usage_loss"]
            + group.diversity_weight * losses["diversity_loss"]
        )
        if group.background == "slot":
            losses["slot_loss"] = slot_loss(memberships(maps)[:, -1], foreground)
            loss = loss + group.slot_weight * losses["slot_loss"]
        if images is not None:
            losses["reconstruction_loss"] = F.mse_loss(images.float(), pixels)
            loss = loss + group.reconstruction_weight * losses["reconstruction_loss"]
        if group.perceptual != "none":
            assert images is not None and self.features is not None
            losses["perceptual_loss"] = perceptual_loss(self.features(images.float())[1], tokens)
            loss = loss + group.perceptual_weight * losses["perceptual_loss"]
        if group.equivariance_weight:
            losses["equivariance_loss"] = self._equivariance(maps, self.data.pixels[indices], number)
            loss = loss + group.equivariance_weight * losses["equivariance_loss"]
        warmup = round(self.steps * group.warmup_share)
        rate = warmup_cosine(number, steps=self.steps, warmup_steps=warmup, peak=group.lr)
        set_lr(self.optimizer, rate)
        _, norm = update([loss], self.optimizer, clip=group.clip, scaler=self.scaler)
        return {
            "loss": loss.detach(),
            "lr": rate,
            "gradient_norm": norm,
            **{name: value.detach() for name, value in losses.items()},
        }

    def _equivariance(self, maps: Tensor, pixels: Tensor, number: int) -> Tensor:
        """Parts of a random view against the same view of the parts: both follow, so that neither can stay behind."""
        assert self.features is not None
        draw, batch = generator(self.group.seed, "equivariance", number), len(pixels)
        boxes = random_crops(batch, scale=VIEW_SCALE, ratio=VIEW_RATIO, aspect=torch.ones(batch), generator=draw)
        size = (pixels.shape[2], pixels.shape[3])
        boxes, flips = snapped(boxes, torch.tensor([size])), random_flips(batch, draw)
        views = crop_images(list(pixels.permute(0, 2, 3, 1).numpy()), boxes, flips, size)
        with torch.no_grad():
            view = self.features(views.to(maps.device))
        return equivariance_loss(
            memberships(self.learner(*view)), memberships(crop_maps(maps, boxes, flips, (maps.shape[2], maps.shape[3])))
        )

    @property
    def decodes(self) -> bool:
        """Whether any loss looks at the reconstructed image."""
        return self.group.reconstruction_weight > 0 or self.group.perceptual != "none"

    @torch.no_grad()
    def maps(self, batch_size: int, advance: Callable[[int], object] = lambda images: None) -> Tensor:
        """Maps (N, S, gh, gw) of all training images."""
        device, maps = self.compute.device, []
        for cls_tokens, tokens in zip(
            self.data.cls_tokens.split(batch_size), self.data.tokens.split(batch_size), strict=True
        ):
            maps.append(self.learner(cls_tokens.to(device), tokens.to(device).float()).cpu())
            advance(len(tokens))
        return torch.cat(maps)


def standardise(tokens: Tensor, *, centre: bool) -> Tensor:
    """Layer-normalised tokens (B, L, D), relative to the mean of their image where `centre` is set."""
    tokens = F.layer_norm(tokens, tokens.shape[2:])
    return tokens - tokens.mean(dim=1, keepdim=True) if centre else tokens
