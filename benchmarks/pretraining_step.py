"""One pretraining step against other implementations of MAE, and where its time goes: `python -m benchmarks.pretraining_step`.

ViT-S/16 or ViT-B/16 with MAE's decoder (512 wide, 8 deep), or with a cross-attention decoder that predicts a share of the
hidden patches; 224 pixels, fp32, CPU. The contenders take turns in one process, so that other load falls on all of them; a ratio
compares neighbours. Others use torch's AdamW with its defaults, or fused where the row says so. Peak memory is measured in a
process of its own for each.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from benchmarks.autoencoders import LightlyAutoencoder, TimmAutoencoder
from images.augmentation import crop_images, normalise, random_crops, random_flips
from jobs.record import peak_mib
from models.mae import MaskedAutoencoder, sample_hidden, split_mask
from models.vit import initialise, patchify
from parts.masking import random_mask, semantic_mask
from training.loop import update
from training.optimiser import AdamW, decay_groups

VIT: dict[str, Any] = {"image_size": 224, "depth": 12}
SIZES: dict[str, Any] = {
    "ViT-S/16": {"patch_size": 16, "width": 384, "num_heads": 6},
    "ViT-B/16": {"patch_size": 16, "width": 768, "num_heads": 12},
    "ViT-B/8": {"patch_size": 8, "width": 768, "num_heads": 12},
}
DECODER: dict[str, Any] = {"decoder_width": 512, "decoder_depth": 8, "decoder_num_heads": 16}
RATIO, PARTS = 0.75, 6
DECAY, CLIP = 0.05, 1.0
RATES: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.95)}
OURS = "this project"
# Name -> (arguments, share of the hidden patches that is predicted).
CROSS: dict[str, tuple[dict[str, Any], float]] = {
    f"cross, {depth} blocks, {words}": ({"decoder": "cross", "decoder_depth": depth}, share)
    for depth in (12, 8)
    for words, share in (("1/3", 1 / 3), ("all", 1.0))
}


class Contender:
    """A model with its optimiser; calling it is one step without input: mask, loss, gradients, clipping, update.

    The step is where the images are. autocast: of the forward pass.
    """

    def __init__(
        self,
        name: str,
        size: str,
        images: torch.Tensor,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.images, self.autocast = images, autocast
        self.draw, self.share = torch.Generator().manual_seed(0), 1.0
        self.model: nn.Module
        self.optimizer: AdamW | torch.optim.Optimizer
        shape = {**VIT, **SIZES[size], **DECODER}
        self.length = (VIT["image_size"] // shape["patch_size"]) ** 2
        if name == OURS or name in CROSS:
            changes, self.share = CROSS.get(name, ({}, 1.0))
            self.model = MaskedAutoencoder(**{**shape, **changes})
            initialise(self.model, self.draw)
            self.model.to(images.device)
            self.optimizer = AdamW(decay_groups(self.model, DECAY), **RATES)
            return
        self.model = (LightlyAutoencoder if name.startswith("lightly") else TimmAutoencoder)(**shape)
        self.model.to(images.device)
        groups = decay_groups(self.model, DECAY)
        self.optimizer = torch.optim.AdamW(groups, **RATES, fused=name.endswith("fused") or None)

    def __call__(self) -> torch.Tensor:
        mask, device = random_mask(len(self.images), self.length, ratio=RATIO, generator=self.draw), self.images.device
        if isinstance(self.optimizer, AdamW):
            assert isinstance(self.model, MaskedAutoencoder)
            visible, predicted = split_mask(mask)
            if self.share < 1:
                predicted = sample_hidden(mask, torch.rand(mask.shape, generator=self.draw), self.share)
            with self.autocast():
                loss, _ = self.model.loss(
                    self.images, *(one.to(device, non_blocking=True) for one in (visible, predicted))
                )
            return update([loss], self.optimizer, clip=CLIP, scaler=torch.amp.GradScaler(enabled=False))[0]
        with self.autocast():
            loss = self.model(self.images, mask.to(device, non_blocking=True))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return loss.detach()


def contenders() -> list[str]:
    """Names of those whose packages are installed, ours first."""
    lightly = ["lightly", "lightly, fused"] if importlib.util.find_spec("lightly") else []
    return [OURS, *CROSS, *lightly, "timm blocks", "timm blocks, fused"]


def parts_of_a_step(ours: Contender) -> dict[str, Callable[[], object]]:
    """Each part of our step with its own forward and backward pass, and what comes before the step."""
    model, images, draw, batch = ours.model, ours.images, ours.draw, len(ours.images)
    assert isinstance(model, MaskedAutoencoder)
    patches = patchify(images, model.patch_size)
    visible, hidden = split_mask(random_mask(batch, ours.length, ratio=RATIO, generator=draw))
    tokens = torch.randn(batch, 1 + visible.shape[1], model.width, generator=draw, requires_grad=True)
    predictions = torch.randn(batch, hidden.shape[1], patches.shape[2], generator=draw, requires_grad=True)
    labels = torch.randint(0, PARTS + 1, (batch, ours.length), generator=draw)
    pixels = list(torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8, generator=draw).numpy())

    def embedding() -> None:
        model.patch_embed(patchify(images, model.patch_size).take_along_dim(visible[:, :, None], 1)).sum().backward()

    def encoder() -> None:
        encoded = tokens
        for block in model.blocks:
            encoded = block(encoded)
        model.norm(encoded).sum().backward()

    def decoder() -> None:
        model.decode(tokens[None], visible, hidden).sum().backward()

    def loss() -> None:
        target = patches.take_along_dim(hidden[:, :, None], 1)
        target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        (predictions - target).square().mean().backward()

    def optimiser() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        ours.optimizer.step()

    def masks() -> None:
        semantic_mask(labels, ratio=RATIO, alpha=0.5, num_parts=PARTS, background="part", generator=draw)

    def crops() -> None:
        boxes = random_crops(batch, scale=(0.2, 1), ratio=(0.75, 4 / 3), aspect=torch.ones(batch), generator=draw)
        normalise(crop_images(pixels, boxes, random_flips(batch, draw), model.image_size))

    return {work.__name__: work for work in (embedding, encoder, decoder, loss, optimiser, masks, crops)}


def seconds(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work in every round, after one that does not count; a different one begins each round."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(-1, rounds):
        names = list(work)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            work[name]()
            times[name].append(time.perf_counter() - started)
    return {name: rounds[1:] for name, rounds in times.items()}


def main() -> None:
    """Print the comparison, the peak memory and the split of a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="ViT-S/16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", choices=contenders(), help="run two steps of one and print its peak memory, MiB")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore", category=FutureWarning, module="benchmarks")
    images = torch.randn(chosen.batch, 3, VIT["image_size"], VIT["image_size"])
    if chosen.peak:
        step = Contender(chosen.peak, chosen.model, images)
        step()
        step()
        print(peak_mib())
        return
    work = {name: Contender(name, chosen.model, images) for name in contenders()}
    times = seconds(dict(work), chosen.rounds)
    print(
        f"{chosen.model}, 224 px, batch {chosen.batch}, fp32, {chosen.threads} threads, medians of {chosen.rounds} rounds"
    )
    print(f"{'step of':20s}{'images/s':>10s}{'its time / ours':>18s}{'least':>8s}{'most':>8s}{'peak MiB':>10s}")
    for name, rounds in times.items():
        ratios = sorted(theirs / own for theirs, own in zip(rounds, times[OURS], strict=True))
        command = [sys.executable, "-m", "benchmarks.pretraining_step", "--peak", name]
        command += ["--model", chosen.model, "--batch", str(chosen.batch)]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        speed, ratio = chosen.batch / statistics.median(rounds), statistics.median(ratios)
        print(f"{name:20s}{speed:10.2f}{ratio:18.3f}{ratios[0]:8.3f}{ratios[-1]:8.3f}{peak:10.0f}", flush=True)
    split = seconds({"step": work[OURS], **parts_of_a_step(work[OURS])}, chosen.rounds)
    print(f"\n{'part':20s}{'ms':>10s}{'% of the step':>18s}")
    for name, rounds in split.items():
        share = statistics.median(part / step for part, step in zip(rounds, split["step"], strict=True))
        print(f"{name:20s}{statistics.median(rounds) * 1000:10.1f}{share * 100:18.2f}")


if __name__ == "__main__":
    main()
