"""Masked autoencoder (He et al., CVPR 2022): the mask is an argument, so that one model serves every arm.

B images, L patches, H hidden ones, P of them predicted, V = L - H visible ones, D encoder width, E decoder width, p patch size,
M feature maps of the encoder.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.vit import EPS, Attention, Block, Mlp, VisionTransformer, patchify, pick, sincos_positions, unpatchify

DECODERS = ("self", "cross")


class CrossBlock(nn.Module):
    """Pre-norm block in which hidden patches attend to visible ones alone: (B, P, E) -> (B, P, E).

    With several feature maps it reads a sum of them with learned weights, which begins as the last one.
    Source: CrossMAE (Fu et al., TMLR 2025), sections 3.2 and 3.3.
    """

    def __init__(self, width: int, num_heads: int, feature_maps: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.cross_attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width)
        self.maps = nn.Parameter(F.one_hot(torch.tensor(feature_maps - 1)).float()) if feature_maps > 1 else None

    def forward(self, tokens: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """tokens: (B, P, E); maps: (M, B, 1 + V, E)."""
        seen = maps[0] if self.maps is None else torch.tensordot(self.maps.to(maps.dtype), maps, 1)
        tokens = tokens + self.cross_attn(self.norm1(tokens), seen)
        mixed: torch.Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed


class MaskedAutoencoder(VisionTransformer):
    """Encodes the visible patches and predicts the hidden ones.

    decoder: `self`, MAE's, in which visible and hidden patches attend to each other, or `cross` of `CrossBlock`s.
    feature_maps: so many layers of the encoder, evenly spaced and the last among them, are what a cross decoder reads.
    Parameter names are those of the published MAE code: its checkpoints load strictly, and the encoder loads strictly into
    timm's VisionTransformer.
    Source: MAE section 3. Differs: only visible patches are embedded; only hidden ones are predicted, and computed in the
    decoder's last block, because the loss uses no others. CrossMAE section 3. Differs: every feature map is normalised before the
    sum, and keys have positions, as MAE's decoder has.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        patch_size: int,
        width: int,
        depth: int,
        num_heads: int,
        decoder_width: int,
        decoder_depth: int,
        decoder_num_heads: int,
        norm_pix_loss: bool = True,
        decoder: str = "self",
        feature_maps: int = 1,
    ) -> None:
        super().__init__(image_size=image_size, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads)
        if decoder not in DECODERS or not 1 <= feature_maps <= (depth if decoder == "cross" else 1):
            raise ValueError(
                f"decoder {decoder} of {feature_maps} feature maps: expected {' or '.join(DECODERS)}, and several maps, "
                f"{depth} at most, of a cross decoder alone"
            )
        self.norm_pix_loss, self.decoder = norm_pix_loss, decoder
        # Of the blocks, counted from 1.
        self.read_after = [-(-depth * number // feature_maps) for number in range(1, feature_maps + 1)]
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(self.grid, decoder_width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            CrossBlock(decoder_width, decoder_num_heads, feature_maps)
            if decoder == "cross"
            else Block(decoder_width, decoder_num_heads)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=EPS)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * 3)

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar, mean over hidden patches) and predictions (B, H, p*p*3) by ascending patch index.

        images: (B, 3, h, w), normalised. mask: (B, L) bool, True is hidden, equal counts in all rows (else ValueError).
        With `norm_pix_loss` the target is each patch normalised by its own mean and unbiased variance; predictions are in
        that space, and `reconstruct` undoes it. Source: MAE section 3, "Reconstruction target".
        """
        return self.loss(images, *split_mask(mask))

    def loss(
        self, images: torch.Tensor, visible: torch.Tensor, predicted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`forward` for indices of visible (B, V) and predicted (B, P) patches.

        Hidden patches that are not predicted are not in the decoder: a mask token says no more than its position.
        """
        patches = patchify(images, self.patch_size)
        predictions = self.decode(self.encode_maps(patches, visible), visible, predicted)
        target = pick(patches, predicted)
        if self.norm_pix_loss:
            mean, variance = patch_statistics(target)
            target = (target - mean) / (variance + EPS).sqrt()
        return (predictions.float() - target).square().mean(), predictions

    def encode_maps(self, patches: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """What the decoder reads: normalised tokens (M, B, 1 + V, D) of M layers, the output last."""
        *inner, last = self.encode_patches(patches, visible, after=self.read_after[:-1])
        return torch.stack([*(F.layer_norm(tokens, (self.width,), eps=EPS) for tokens in inner), last])

    def decode(self, maps: torch.Tensor, visible: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Predictions (B, P, p*p*3) from feature maps (M, B, 1 + V, D), visible (B, V) and predicted (B, P) indices.

        Tokens are ordered [class, visible, predicted]; each carries its own position, so the order does not matter.
        """
        count = predicted.shape[1]
        positions = self.decoder_pos_embed[:, 1:].expand(len(predicted), -1, -1)
        maps = self.decoder_embed(maps)
        first = maps[:, :, :1] + self.decoder_pos_embed[:, :1]
        seen = maps[:, :, 1:] + pick(positions, visible)
        unseen = (self.mask_token + pick(positions, predicted)).to(seen.dtype)
        if self.decoder == "cross":
            tokens, maps = unseen, torch.cat([first, seen], dim=2)
            for block in self.decoder_blocks:
                tokens = block(tokens, maps)
        else:
            tokens = torch.cat([first[0], seen[0], unseen], dim=1)
            for block in self.decoder_blocks[:-1]:
                tokens = block(tokens)
            for block in self.decoder_blocks[-1:]:
                tokens = block(tokens, last=count)
        predictions: torch.Tensor = self.decoder_pred(self.decoder_norm(tokens[:, -count:]))
        return predictions

    @torch.no_grad()
    def reconstruct(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, w) with predictions in place of the hidden patches, in the input's normalised space.

        mask: (B, L) bool, True is hidden. With `norm_pix_loss` each prediction gets its true patch's mean and variance.
        """
        _, predictions = self(images, mask)
        _, hidden = split_mask(mask)
        patches = patchify(images, self.patch_size)
        if self.norm_pix_loss:
            mean, variance = patch_statistics(pick(patches, hidden))
            predictions = predictions * (variance + EPS).sqrt() + mean
        index = hidden[:, :, None].expand(-1, -1, patches.shape[2])
        return unpatchify(patches.scatter(1, index, predictions.to(patches.dtype)), self.patch_size, self.grid)


def patch_statistics(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased variance of each patch (B, H, p*p*3): two tensors (B, H, 1)."""
    return patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)


def sample_hidden(mask: torch.Tensor, scores: torch.Tensor, share: float) -> torch.Tensor:
    """Ascending indices (B, P) of the hidden patches with the highest scores; P is the share of them, rounded, and at least 1.

    mask: (B, L) bool, True is hidden, equal counts in all rows. scores: (B, L), at least 0.
    """
    count = max(1, round(share * int(mask[0].sum())))
    return scores.masked_fill(~mask, -1.0).topk(count, dim=1).indices.sort(dim=1).values


def split_mask(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending indices of the visible (B, V) and the hidden (B, H) patches. mask: (B, L) bool, True is hidden.

    Raises ValueError if rows hide different numbers of patches, all of them, or none.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}, expected torch.bool with True for hidden patches")
    counts = mask.sum(dim=1)
    hidden = int(counts[0])
    if not bool((counts == hidden).all()):
        raise ValueError(
            f"rows of the mask hide {int(counts.min())} to {int(counts.max())} patches; all must hide equally many"
        )
    if hidden == 0 or hidden == mask.shape[1]:
        raise ValueError(f"the mask hides {hidden} of {mask.shape[1]} patches; some must be hidden and some visible")
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    return order[:, :-hidden], order[:, -hidden:]
