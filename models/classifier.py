"""An encoder with a linear head: end-to-end fine-tuning as in MAE's appendix A.

B images, D width, N classes.
"""

from typing import Any

import torch
from torch import nn

from models.vit import EPS, VisionTransformer


class Classifier(VisionTransformer):
    """Class scores from the mean of the patch tokens. encoder: arguments of `VisionTransformer`.

    The final norm comes after the mean (`fc_norm`) and replaces the encoder's `norm`.
    Source: MAE appendix A.1 and its published fine-tuning code (global pooling).
    """

    def __init__(self, *, num_classes: int, **encoder: Any) -> None:
        super().__init__(**encoder)
        self.norm = nn.Identity()
        self.fc_norm = nn.LayerNorm(self.width, eps=EPS)
        self.head = nn.Linear(self.width, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (B, N) of normalised images (B, 3, h, w)."""
        scores: torch.Tensor = self.head(self.fc_norm(self.encode(images)[:, 1:].mean(dim=1)))
        return scores

    def start_from(self, encoder: VisionTransformer) -> None:
        """Copy the weights of a pretrained encoder of the same shape; its final norm becomes `fc_norm`."""
        own = {name: value for name, value in encoder.state_dict().items() if not name.startswith("norm.")}
        missing, unexpected = self.load_state_dict(own, strict=False)
        assert not unexpected and all(name.startswith(("fc_norm.", "head.")) for name in missing), (missing, unexpected)
        self.fc_norm.load_state_dict(encoder.norm.state_dict())


def layer_decay_groups(model: VisionTransformer, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups {params, weight_decay, lr_scale}; `lr_scale` falls by `layer_decay` a block from head to patches.

    Vectors and tokens get no weight decay. Source: MAE appendix A.1 (layer-wise decay of BEiT).
    """
    last = len(model.blocks) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("blocks."):
            layer = int(name.split(".")[1]) + 1
        else:
            layer = 0 if name.startswith(("patch_embed.", "cls_token")) else last
        decays = parameter.ndim > 1 and not name.endswith("token")
        settings = {
            "params": [],
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (last - layer),
        }
        groups.setdefault((layer, decays), settings)["params"].append(parameter)
    return list(groups.values())
