"""Learning rate and parameter groups, as functions of the step."""

import math

from torch import nn

from training.adamw import AdamW


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, peak: float, final: float = 0.0) -> float:
    """Linear rise to `peak` over `warmup_steps`, then half a cosine to `final` at the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def cosine_between(progress: float, start: float, end: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups: matrices decay, vectors (biases, norms, tokens) and positions do not."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    free = [p for name, p in trained if p.ndim <= 1 or name.endswith(("token", "pos_embed"))]
    kept = {id(p) for p in free}
    decayed = [p for _, p in trained if id(p) not in kept]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def set_lr(optimizer: AdamW, lr: float) -> None:
    """Set the learning rate of all groups; a group's `lr_scale` multiplies it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
