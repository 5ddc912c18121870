import numpy as np
import torch

from shards.arrays import ArrayShards
from shards.image_shards import ImageShards
from shards.mask_cache import MaskCache
from training.part_labels import FrozenParts


def test_frozen_parts__labels_of_stored_tokens_are_those_of_the_cache(world):
    """Two ways to the same labels: the streamed teacher, and what extraction stored in half precision."""
    from parts.attention import Extraction

    learned = FrozenParts(world / "part_learner", torch.device("cpu"))
    tokens, everything = ArrayShards(world / "attention/tokens"), ArrayShards(world / "attention/all")
    assert learned.token_layer == tokens.header["token_layer"]
    ids = tokens.ids
    stored = {name: torch.from_numpy(everything.rows(ids, name)).float() for name in ("cls_attention", "cls_input")}
    patches = torch.from_numpy(tokens.rows(ids, "tokens")).float()
    found = Extraction(stored["cls_attention"], stored["cls_input"], stored["cls_input"], patches)
    labels = learned.labels(learned.maps(found), found).numpy()
    assert np.mean(labels == MaskCache(world / "masks/learned").rows(ids)) > 0.99
    assert set(ids) <= set(ImageShards(world / "data/shards", "train").ids)
