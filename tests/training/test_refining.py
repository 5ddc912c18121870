from dataclasses import replace

import numpy as np
import pytest
import torch

from config.groups import RefineParams
from models.part_learner import PartLearner
from parts.labelling import label_patches
from parts.quality import part_quality
from training.compute import set_up
from training.refining import PartTokens, Refining

GROUP = {
    "parts": 3, "initialisation": "clusters", "token_width": 8, "target_width": 8, "whitening": 0.5, "centre": True,
    "normalise": "parts", "temperature": 1.0, "blur_sigma": 0.0, "foreground": "border", "foreground_clusters": 8,
    "border_ratio": 1.0,
    "background": "slot", "attention_mass": 0.8, "decoder_size": 12, "decoder_width": 8, "reconstruction_weight": 0.1,
    "perceptual": "none", "perceptual_weight": 1.0, "equivariance_weight": 0.0,
    "token_weight": 1.0, "token_pooling": "image", "diversity_weight": 0.1, "usage_weight": 0.1, "slot_weight": 1.0,
    "epochs": 10.0, "batch_size": 16, "lr": 3e-3, "weight_decay": 0.01, "warmup_share": 0.1, "clip": 3.0, "seed": 0,
}  # fmt: skip
SIDE, WIDTH, IMAGES = 6, 12, 64


@pytest.fixture(scope="module")
def scene():
    """(tokens of images, truth (N, 6, 6)): three parts in a row somewhere inside, before one background.

    A token says what the patch is, and three times as loud which image it is.
    """
    draw = np.random.default_rng(0)
    truth = np.zeros((IMAGES, SIDE, SIDE), dtype=np.uint8)
    for image in truth:
        row, column = draw.integers(1, SIDE - 2), draw.integers(1, SIDE - 3)
        image[row : row + 2, column : column + 3] = [1, 2, 3]
    kinds = draw.standard_normal((4, WIDTH))
    tokens = kinds[truth] + 3 * draw.standard_normal((IMAGES, 1, 1, WIDTH))
    tokens = tokens + 0.1 * draw.standard_normal(tokens.shape)
    attention = np.repeat((truth > 0)[:, None], 2, axis=1) + 0.05
    data = PartTokens(
        tokens=torch.from_numpy(tokens).reshape(IMAGES, -1, WIDTH).half(),
        cls_tokens=torch.from_numpy(draw.standard_normal((IMAGES, WIDTH))).float(),
        cls_attention=torch.from_numpy(attention).reshape(IMAGES, 2, -1).half(),
        pixels=torch.from_numpy(draw.integers(0, 255, (IMAGES, 3, 12, 12), dtype=np.uint8)),
        grid=(SIDE, SIDE),
        token_layer=1,
    )
    return data, truth


def refining(scene, features=None, **changes):
    compute = set_up(threads=1, device="cpu", precision="fp32", compile=False, world_size=1)
    group = RefineParams(**{**GROUP, **changes})
    return Refining(scene[0], group, last_block={}, features=features, compute=compute)


@pytest.mark.parametrize("background", ["slot", "none", "attention_mass"])
def test_refining__finds_the_parts_of_a_constructed_scene(scene, background):
    task = refining(scene, background=background)
    for number in range(task.steps):
        task.step(number)
    data, truth = scene
    labels = label_patches(task.maps(16), background=background, cls_attention=data.cls_attention, mass=0.8).numpy()
    found = part_quality(labels, truth, num_parts=3, background=None if background == "none" else 3)
    assert found["nmi_foreground"] > 0.9
    assert found["dead_parts"] == 0
    assert background != "slot" or found["foreground_iou"] > 0.9


def test_refining__the_border_tells_object_from_background(scene):
    task = refining(scene)
    inside = torch.from_numpy(scene[1] > 0).flatten(1)
    assert float((task.foreground == inside).float().mean()) > 0.95


@pytest.mark.parametrize(("foreground", "share"), [("all", 1.0), ("attention", None)])
def test_refining__other_foregrounds(scene, foreground, share):
    found = refining(scene, foreground=foreground).foreground
    assert found.shape == (IMAGES, SIDE * SIDE)
    assert share is None or float(found.float().mean()) == share
    assert found.flatten(1).any(dim=1).all()


def test_refining__usage_balance_revives_a_dead_part(scene):
    others = {"token_weight": 0.0, "diversity_weight": 0.0, "reconstruction_weight": 0.0}
    counts = []
    for weight in (0.0, 2.0):
        task = refining(scene, initialisation="random", background="none", usage_weight=weight, **others)
        with torch.no_grad():
            task.learner.offset[0] = 5
        for number in range(task.steps):
            task.step(number)
        counts.append(len(task.maps(16).argmax(dim=1)[torch.from_numpy(scene[1] > 0)].unique()))
    assert counts[0] == 1
    assert counts[1] == 3


def test_refining__resumed_is_unbroken_bit_for_bit(scene):
    def run(task, start, end):
        return [float(task.step(number)["loss"]) for number in range(start, end)]

    whole = refining(scene)
    losses = run(whole, 0, 8)
    first = refining(scene)
    start = run(first, 0, 5)
    second = refining(scene)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert start + run(second, 5, 8) == losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_refining__its_config_rebuilds_the_learner(scene):
    task = refining(scene, blur_sigma=0.7)
    task.step(0)
    copy = PartLearner(**task.config)
    copy.load_state_dict(task.learner.state_dict())
    data = scene[0]
    assert torch.equal(copy(data.cls_tokens[:4], data.tokens[:4].float()), task.maps(IMAGES)[:4])


def test_refining__perceptual_loss_reaches_the_decoder_through_the_teacher(scene):
    weight = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))

    def features(images):
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, SIDE)
        return images.mean(dim=(2, 3)), pooled.flatten(2).transpose(1, 2) @ weight

    task = refining(scene, features=features, reconstruction_weight=0.0, perceptual="teacher")
    before = task.decoder.to_rgb.weight.detach().clone()
    first = float(task.step(0)["perceptual_loss"])
    assert not torch.equal(before, task.decoder.to_rgb.weight)
    for number in range(1, task.steps):
        last = float(task.step(number)["perceptual_loss"])
    assert last < first


def test_refining__without_image_losses_nothing_is_decoded(scene):
    task = refining(scene, reconstruction_weight=0.0)
    assert "reconstruction_loss" not in task.step(0)


def test_refining__equivariance_makes_parts_follow_their_pixels(scene):
    """A teacher whose tokens say mostly where a patch is: without the loss, parts stay where they are in every view."""
    draw = torch.Generator().manual_seed(0)
    weight, places = torch.randn(3, WIDTH, generator=draw), 2 * torch.randn(SIDE * SIDE, WIDTH, generator=draw)

    def features(images):
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, SIDE).flatten(2).transpose(1, 2)
        return images.mean(dim=(2, 3)) @ weight, 4 * pooled @ weight + places

    data = scene[0]
    cls_tokens, tokens = features(data.pixels.float() / 255)
    seen = (replace(data, tokens=tokens.half(), cls_tokens=cls_tokens), scene[1])
    last = []
    for weight_of_loss in (1e-9, 3.0):
        task = refining(seen, features=features, equivariance_weight=weight_of_loss, epochs=15.0)
        for number in range(task.steps):
            losses = task.step(number)
        last.append(float(losses["equivariance_loss"]))
    assert last[1] < 0.7 * last[0]
