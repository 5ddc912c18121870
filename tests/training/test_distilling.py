import numpy as np
import pytest
import torch

from config.groups import TeacherParams
from images.stream import Batch
from training.compute import set_up
from training.distilling import CollapseError, Distillation

GROUP = {
    "source": "train", "sha256": "", "architecture": "", "branch": "teacher", "image_size": 32, "patch_size": 8, "width": 24,
    "depth": 2, "num_heads": 3, "epochs": 8.0, "batch_size": 8, "lr": 2e-3, "weight_decay": 0.04, "warmup_share": 0.1,
    "global_size": 24, "local_crops": 1, "local_size": 16, "global_scale": (0.5, 1.0), "local_scale": (0.2, 0.5),
    "colour_jitter": 0.2, "prototypes": 16, "head_width": 16, "student_temperature": 0.1,
    "teacher_temperature": (0.02, 0.02), "momentum": 0.9, "mask_ratio": (0.1, 0.5), "mask_probability": 0.5, "clip": 3.0,
    "seed": 0, "neighbours": 3, "knn_images": 9,
}  # fmt: skip


class Pictures:
    """Sixteen pictures of one colour each, under a little noise."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        colours = draw.integers(30, 220, (16, 3, 1, 1))
        self.pixels = (colours + draw.integers(-20, 20, (16, 3, 32, 32))).astype(np.uint8).transpose(0, 2, 3, 1)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: np.ndarray) -> Batch:
        sizes, aspect = np.full((len(rows), 2), 32), np.ones(len(rows), dtype=np.float32)
        return Batch(rows, sizes, aspect, list(self.pixels[rows]))


def distillation(**changes):
    compute = set_up(threads=1, device="cpu", precision="fp32", compile=False, world_size=1)
    return Distillation(Pictures(), TeacherParams(**{**GROUP, **changes}), compute=compute)


def test_step__is_a_function_of_its_number_and_the_state():
    first, second, other = distillation(), distillation(), distillation(seed=1)
    losses = [[float(task.step(number)["loss"]) for number in range(3)] for task in (first, second, other)]
    assert losses[0] == losses[1] != losses[2]
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_training__tells_pictures_apart():
    task = distillation(epochs=60.0)
    rows = [task.step(number) for number in range(task.steps)]
    assert float(rows[-1]["information"]) > float(rows[0]["information"]) + 0.3
    assert np.mean([float(row["class_loss"]) for row in rows[-5:]]) < float(rows[0]["class_loss"]) - 0.3


def test_step__a_collapsed_teacher_stops_the_run_with_one_line():
    task = distillation()
    with torch.no_grad():
        for branch in (task.model.student, task.model.teacher):
            branch.vit.norm.weight.zero_()
            branch.vit.norm.bias.fill_(1.0)
    for number in range(task.warmup):
        task.step(number)
    with torch.no_grad():
        task.model.teacher.vit.norm.weight.zero_()
    with pytest.raises(CollapseError, match=f"collapsed at step {task.warmup}: spread of the features 0.0"):
        task.step(task.warmup)


def test_masks__hide_a_share_of_some_views():
    task = distillation(mask_probability=0.5, mask_ratio=(0.3, 0.3))
    masks = task.masks(400, torch.Generator().manual_seed(0))
    assert masks.shape == (400, 9)
    hidden = masks.float().mean(dim=1)
    assert 0.4 < float((hidden > 0).float().mean()) < 0.6
    assert hidden[hidden > 0].unique().numel() == 1
    assert 0.2 < float(hidden.max()) < 0.45
