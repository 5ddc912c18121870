"""The trained part learner of the streaming stages: its folder, its maps, and the labels that they become."""

from pathlib import Path

import torch

from models.part_learner import PartLearner
from parts.attention import Extraction
from parts.labelling import label_patches
from training.encoders import load_weights

# What part_learner/config.json says beside the arguments of PartLearner.
LABELLING_KEYS = ("token_layer", "attention_mass", "label_background")


class FrozenParts:
    """A part learner folder on a device. token_layer: the layer of the teacher whose tokens it takes."""

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        state, config = load_weights(folder)
        self.token_layer, self.attention_mass, self.label_background = (config.pop(name) for name in LABELLING_KEYS)
        self.learner = PartLearner(**config)
        self.learner.load_state_dict(state)
        self.learner.to(device).eval()
        self.num_parts: int = config["num_parts"]
        self.width: int = config["width"]

    @torch.no_grad()
    def maps(self, found: Extraction) -> torch.Tensor:
        """Maps (B, S, gh, gw) of what the teacher said of B images."""
        return self.learner(found.cls_input, found.patch_tokens)

    def labels(self, maps: torch.Tensor, found: Extraction) -> torch.Tensor:
        """Labels (B, gh, gw) uint8 of the maps of the same images: 0..K-1 parts, K background."""
        background, mass = self.label_background, self.attention_mass
        return label_patches(maps, background=background, cls_attention=found.cls_attention, mass=mass)
