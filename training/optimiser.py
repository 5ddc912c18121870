"""The optimiser of all training, its parameter groups, and its learning rate as a function of the step.

AdamW follows the rule of `torch.optim.AdamW(fused=True)`, to the bit. Differs: torch's class loads the whole of torch's compiler
when it is made, which takes five seconds of every training job; the kernel needs none of it.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

EPS = 1e-8


class AdamW:
    """Groups of parameters with a learning rate and a weight decay of their own.

    groups: dictionaries of `params` and `weight_decay`, and of whatever else is for the caller, such as `lr_scale`.
    A parameter without a gradient is left as it is.
    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.betas = betas
        self.param_groups = [{"lr": lr, **group, "params": list(group["params"])} for group in groups]
        self._moments = [
            [(torch.zeros_like(p), torch.zeros_like(p), torch.zeros((), device=p.device)) for p in group["params"]]
            for group in self.param_groups
        ]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, is_finite: Tensor | None = None) -> None:
        """One update by the gradients that there are, unless `is_finite`, () bool on their device, says that one is not."""
        found_inf = None if is_finite is None else 1 - is_finite.float()
        for group, moments in zip(self.param_groups, self._moments, strict=True):
            moved = [
                (parameter, parameter.grad, *state)
                for parameter, state in zip(group["params"], moments, strict=True)
                if parameter.grad is not None
            ]
            if not moved:
                continue
            weights, gradients, first, second, steps = map(list, zip(*moved, strict=True))
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                weights,
                gradients,
                first,
                second,
                [],
                steps,
                lr=group["lr"],
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=group["weight_decay"],
                eps=EPS,
                amsgrad=False,
                maximize=False,
                found_inf=found_inf,
            )
            if found_inf is not None:
                torch._foreach_sub_(steps, [found_inf] * len(steps))

    def state_dict(self) -> dict[str, list[list[list[Tensor]]]]:
        """Moments and step counts, a list a group; rates and decays are the caller's to set again."""
        return {"moments": [[list(state) for state in group] for group in self._moments]}

    def load_state_dict(self, state: dict[str, list[list[list[Tensor]]]]) -> None:
        """Take over what `state_dict` gave, for the same groups of the same parameters."""
        for own, saved in zip(self._moments, state["moments"], strict=True):
            for mine, theirs in zip(own, saved, strict=True):
                for target, source in zip(mine, theirs, strict=True):
                    target.copy_(source)


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, peak: float) -> float:
    """Linear rise to `peak` over `warmup_steps`, then half a cosine to 0 at the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


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


def set_lr(optimizer: AdamW | torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; a group's `lr_scale` multiplies it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
