"""Other implementations of the masked autoencoder under one call, to measure ours against: (images, mask) -> loss.

B images, L patches; images (B, 3, h, w); mask (B, L) bool, True is hidden, equal counts in all rows. The loss is a scalar, the
mean over hidden patches of the squared error to pixels normalised by patch.
"""

import os
from functools import partial
from typing import Any

import torch
from torch import nn

from models.mae import split_mask
from models.vit import EPS, patchify, sincos_positions

norm_layer: Any = partial(nn.LayerNorm, eps=EPS)


class TimmAutoencoder(nn.Module):
    """MAE put together from timm's blocks in the order of the paper: embed all, drop the hidden, predict all.

    Parameter names and shapes are those of `models.mae.MaskedAutoencoder`, so that it takes its weights.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        num_heads: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_num_heads: int,
    ) -> None:
        super().__init__()
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import Block

        def blocks(count: int, size: int, heads: int) -> nn.ModuleList:
            return nn.ModuleList(Block(size, heads, qkv_bias=True, norm_layer=norm_layer) for _ in range(count))

        grid = (image_size // patch_size,) * 2
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(image_size, patch_size, 3, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(grid, width), requires_grad=False)
        self.blocks = blocks(depth, width, num_heads)
        self.norm = norm_layer(width)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(grid, decoder_width), requires_grad=False)
        self.decoder_blocks = blocks(decoder_depth, decoder_width, decoder_num_heads)
        self.decoder_norm = norm_layer(decoder_width)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * 3)

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        visible = split_mask(mask)[0][:, :, None]
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:]
        tokens = tokens.gather(1, visible.expand(-1, -1, tokens.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.decoder_embed(self.norm(tokens))
        everywhere = self.mask_token.repeat(len(tokens), mask.shape[1], 1)
        everywhere = everywhere.scatter(1, visible.expand(-1, -1, tokens.shape[2]), tokens[:, 1:].type_as(everywhere))
        tokens = torch.cat([tokens[:, :1], everywhere], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        predictions = self.decoder_pred(self.decoder_norm(tokens))[:, 1:]
        target = patchify(images, self.patch_size)
        target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + EPS).sqrt()
        loss = (predictions - target).square().mean(dim=-1)
        return (loss * mask).sum() / mask.sum()


class LightlyAutoencoder(nn.Module):
    """The MAE of the lightly package, put together as its documentation does."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        num_heads: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_num_heads: int,
    ) -> None:
        super().__init__()
        os.environ["LIGHTLY_DID_VERSION_CHECK"] = "True"  # Otherwise the import asks a server for a newer version.
        from lightly.models import utils
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
        from timm.models.vision_transformer import VisionTransformer

        self.utils, self.patch_size = utils, patch_size
        shape: dict[str, Any] = {"img_size": image_size, "patch_size": patch_size, "embed_dim": width, "depth": depth}
        self.encoder = MaskedVisionTransformerTIMM(vit=VisionTransformer(num_classes=0, num_heads=num_heads, **shape))
        self.decoder = MAEDecoderTIMM(
            num_patches=(image_size // patch_size) ** 2,
            patch_size=patch_size,
            embed_dim=width,
            decoder_embed_dim=decoder_width,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_num_heads,
        )

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        utils, (visible, hidden) = self.utils, split_mask(mask)
        keep = torch.cat([torch.zeros_like(visible[:, :1]), visible + 1], dim=1)  # The class token is index 0.
        encoded = self.decoder.embed(self.encoder.encode(images=images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), 1 + mask.shape[1]))
        tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
        predicted = self.decoder.predict(utils.get_at_index(self.decoder.decode(tokens), hidden + 1))
        target = utils.get_at_index(utils.patchify(images, self.patch_size), hidden)
        return nn.functional.mse_loss(predicted, utils.normalize_mean_var(target, dim=-1))
