"""Features of a frozen vision transformer: class-token attention of the last block, and tokens.

B images, H heads, L patches (raster order), N = prefix tokens + L, D width, d width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Extraction(NamedTuple):
    """All fp32. cls_attention: (B, H, L). cls_token: (B, D), after the final norm. cls_input: (B, D) and patch_tokens:
    (B, L, D), class and patch tokens of the token layer.
    """

    cls_attention: Tensor
    cls_token: Tensor
    cls_input: Tensor
    patch_tokens: Tensor


def rounded(extraction: Extraction) -> Extraction:
    """The values as they are stored, in half precision: labels from stored and from fresh tokens are the same."""
    return Extraction(*(values.half().float() for values in extraction))


def extract(vit: nn.Module, images: Tensor, *, token_layer: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Class-token attention (B, H, L), class token (B, D) and patch tokens (B, L, D): see `extract_all`."""
    features = extract_all(vit, images, token_layer=token_layer)
    return features.cls_attention, features.cls_token, features.patch_tokens


@torch.no_grad()
def extract_all(vit: nn.Module, images: Tensor, *, token_layer: int = 0) -> Extraction:
    """Attention and tokens of one forward pass: fp32, without gradient.

    vit: a timm VisionTransformer; its mode, fused flag and weights stay unchanged.
    images: (B, 3, h, w), normalised.
    token_layer: of cls_input and patch_tokens; 0 is after the final norm, n the input of the n-th block from the end.
    The attention is the class token's softmax row in the last block, without the columns of prefix tokens (class, registers),
    so that a row sums to less than 1.
    Raises ValueError for a model without class token or plain attention, images of another size, or a missing token layer.

    Hooks read the class token's query and all keys on their way to the fused kernel, so no L x L map is computed.
    """
    # timm's attributes, which `nn.Module` does not declare.
    model: Any = vit
    _check(model, images, token_layer)
    attention = _attention_of(model.blocks[-1])
    seen: dict[str, Tensor] = {}
    hooks = [
        attention.q_norm.register_forward_hook(lambda _, inputs, query: seen.update(query=query[:, :, :1])),
        attention.k_norm.register_forward_hook(lambda _, inputs, keys: seen.update(keys=keys)),
    ]
    if token_layer:
        block = model.blocks[-token_layer]
        hooks.append(block.register_forward_pre_hook(lambda _, inputs: seen.update(entering=inputs[0])))
    try:
        with _evaluating(vit):
            tokens: Tensor = model.forward_features(images)
    finally:
        for hook in hooks:
            hook.remove()
    prefix = model.num_prefix_tokens
    with torch.autocast(images.device.type, enabled=False):
        logits = (seen["query"].float() * attention.scale) @ seen["keys"].float().transpose(-2, -1)
        cls_attention = logits.squeeze(2).softmax(dim=-1)[:, :, prefix:]
    layer = (seen["entering"] if token_layer else tokens).float()
    return Extraction(cls_attention, tokens[:, 0].float(), layer[:, 0], layer[:, prefix:])


def _check(vit: Any, images: Tensor, token_layer: int) -> None:
    if not 0 <= token_layer <= len(vit.blocks):
        raise ValueError(f"token_layer is {token_layer}: expected 0 to {len(vit.blocks)}, the number of blocks")
    if getattr(vit, "cls_token", None) is None:
        raise ValueError("the model has no class token; use a ViT that has one (iBOT, DINO, DINOv2, MAE)")
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: expected (B, 3, h, w)")
    size = vit.patch_embed.img_size
    if not vit.dynamic_img_size and tuple(images.shape[2:]) != tuple(size):
        raise ValueError(f"images are {tuple(images.shape[2:])}, the model takes {tuple(size)}; resize them")


def _attention_of(block: nn.Module) -> Any:
    attention = getattr(block, "attn", None)
    if not all(hasattr(attention, name) for name in ("q_norm", "k_norm", "scale")):
        raise ValueError(f"the last block, {type(block).__name__}, has no plain attention; use a plain ViT")
    return attention


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, then restore the mode of every module."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
