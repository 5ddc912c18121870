"""Masked autoencoder (He et al., CVPR 2022): the mask is an argument, so that one model serves every arm.

B images, L patches, H hidden patches, V = L - H visible ones, D encoder width, E decoder width, p patch size.
"""

import torch
from torch import nn

from models.vit import EPS, Block, VisionTransformer, patchify, pick, sincos_positions, unpatchify


class MaskedAutoencoder(VisionTransformer):
    """Encodes the visible patches and predicts the hidden ones.

    Parameter names are those of the published MAE code: its checkpoints load strictly, and the encoder loads strictly into
    timm's VisionTransformer.
    Source: MAE section 3. Differs: only visible patches are embedded; only hidden ones are predicted, and computed in the
    decoder's last block, because the loss uses no others.
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
    ) -> None:
        super().__init__(image_size=image_size, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads)
        self.norm_pix_loss = norm_pix_loss
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(self.grid, decoder_width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(decoder_width, decoder_num_heads) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=EPS)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * 3)

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar, mean over hidden patches) and predictions (B, H, p*p*3) by ascending patch index.

        images: (B, 3, h, w), normalised. mask: (B, L) bool, True is hidden, equal counts in all rows (else ValueError).
        With `norm_pix_loss` the target is each patch normalised by its own mean and unbiased variance; predictions are in
        that space, and `reconstruct` undoes it. Source: MAE section 3, "Reconstruction target".
        """
        visible, hidden = split_mask(mask)
        patches = patchify(images, self.patch_size)
        predictions = self.decode(self.encode_patches(patches, visible), visible, hidden)
        target = pick(patches, hidden)
        if self.norm_pix_loss:
            mean, variance = patch_statistics(target)
            target = (target - mean) / (variance + EPS).sqrt()
        return (predictions.float() - target).square().mean(), predictions

    def decode(self, tokens: torch.Tensor, visible: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Predictions (B, H, p*p*3) from encoded tokens (B, 1 + V, D), visible (B, V) and hidden (B, H) indices.

        Tokens are ordered [class, visible, hidden]; each carries its own position, so the order does not matter.
        """
        positions = self.decoder_pos_embed[:, 1:].expand(len(tokens), -1, -1)
        tokens = self.decoder_embed(tokens)
        first = tokens[:, :1] + self.decoder_pos_embed[:, :1]
        seen = tokens[:, 1:] + pick(positions, visible)
        unseen = self.mask_token + pick(positions, hidden)
        tokens = torch.cat([first, seen, unseen.to(seen.dtype)], dim=1)
        for block in self.decoder_blocks[:-1]:
            tokens = block(tokens)
        for block in self.decoder_blocks[-1:]:
            tokens = block(tokens, last=hidden.shape[1])
        predictions: torch.Tensor = self.decoder_pred(self.decoder_norm(tokens[:, -hidden.shape[1] :]))
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
