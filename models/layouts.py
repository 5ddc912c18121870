"""Export of a masked autoencoder under the parameter names and configuration files of other packages.

`config` is always the keyword arguments of `models.mae.MaskedAutoencoder` or `models.classifier.Classifier`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from models.vit import DECODER, EPS, MLP_RATIO, pair

State = Mapping[str, torch.Tensor]

# Source: the parameter names of ViTMAEForPreTraining in transformers' documentation and model files.
_HF_BLOCK = (
    ("norm1.", "layernorm_before."),
    ("attn.proj.", "attention.output.dense."),
    ("norm2.", "layernorm_after."),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
)
_HF_OTHERS = (
    ("decoder_", "decoder.decoder_"),
    ("mask_token", "decoder.mask_token"),
    ("cls_token", "vit.embeddings.cls_token"),
    ("pos_embed", "vit.embeddings.position_embeddings"),
    ("patch_embed.proj.", "vit.embeddings.patch_embeddings.projection."),
    ("norm.", "vit.layernorm."),
)


def to_timm(state: State, config: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(weights, config.json) that timm's `local-dir:` and `hf-hub:` loaders take: encoder, or the whole classifier.

    An exported encoder pools the mean of the patch tokens after the final norm, as the probes do.
    """
    kept = {name: value for name, value in state.items() if not name.startswith(DECODER)}
    classes = config.get("num_classes", 0)
    size = list(pair(config["image_size"]))
    arguments = {
        "img_size": size,
        "patch_size": config["patch_size"],
        "embed_dim": config["width"],
        "depth": config["depth"],
        "num_heads": config["num_heads"],
        "global_pool": "avg",
        # With it, timm applies the norm after the mean, as MAE fine-tunes.
        "fc_norm": bool(classes),
    }
    described = {
        "architecture": "vit_base_patch16_224",
        "num_classes": classes,
        "num_features": config["width"],
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, *size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    return kept, described


def to_hf(
    state: State, config: Mapping[str, Any], *, mask_ratio: float
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(weights, config.json) of transformers' ViTMAEForPreTraining, decoder included.

    mask_ratio: share of the patches that was hidden in training, which transformers hides at random by default.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        block = re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", name)
        if block is None:
            old, new = next(pair for pair in _HF_OTHERS if name.startswith(pair[0]))
            weights[new + name.removeprefix(old)] = value
            continue
        root = f"decoder.decoder_layers.{block[2]}." if block[1] else f"vit.encoder.layer.{block[2]}."
        if block[3].startswith("attn.qkv."):
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                weights[f"{root}attention.attention.{part}.{block[3].removeprefix('attn.qkv.')}"] = third
        else:
            old, new = next(pair for pair in _HF_BLOCK if block[3].startswith(pair[0]))
            weights[root + new + block[3].removeprefix(old)] = value
    height, width = pair(config["image_size"])
    described = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "image_size": height if height == width else [height, width],
        "patch_size": config["patch_size"],
        "num_channels": 3,
        "hidden_size": config["width"],
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["num_heads"],
        "intermediate_size": MLP_RATIO * config["width"],
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": EPS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "decoder_hidden_size": config["decoder_width"],
        "decoder_num_hidden_layers": config["decoder_depth"],
        "decoder_num_attention_heads": config["decoder_num_heads"],
        "decoder_intermediate_size": MLP_RATIO * config["decoder_width"],
        "norm_pix_loss": config["norm_pix_loss"],
        "mask_ratio": mask_ratio,
    }
    return weights, described


def to_mae(state: State, config: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(weights, arguments of MaskedAutoencoder). Ours are the names of the published MAE code."""
    return dict(state), dict(config)
