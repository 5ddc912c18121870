"""AdamW on torch's fused kernel.

The rule is that of `torch.optim.AdamW(fused=True)`, to the bit. That class loads the whole of torch's compiler when it is made,
five seconds of every training job; the kernel needs none of it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

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
    def step(self) -> None:
        """One update by the gradients that there are."""
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
            )

    def state_dict(self) -> dict[str, list[list[list[Tensor]]]]:
        """Moments and step counts, a list a group; rates and decays are the caller's to set again."""
        return {"moments": [[list(state) for state in group] for group in self._moments]}

    def load_state_dict(self, state: dict[str, list[list[list[Tensor]]]]) -> None:
        """Take over what `state_dict` gave, for the same groups of the same parameters."""
        for own, saved in zip(self._moments, state["moments"], strict=True):
            for mine, theirs in zip(own, saved, strict=True):
                for target, source in zip(mine, theirs, strict=True):
                    target.copy_(source)
