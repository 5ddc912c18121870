"""The vision transformer of every trained arm: parameter names and arithmetic of MAE's encoder and of timm's.

B images, C channels (3), (gh, gw) patch grid, L = gh * gw patches, V visible patches, D width, p patch size.
N tokens of a sequence. Source: Dosovitskiy et al., ICLR 2021; He et al., CVPR 2022 (fixed sine-cosine positions).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-6
MLP_RATIO = 4
# What the names of a masked autoencoder's further parameters begin with.
DECODER = ("decoder_", "mask_token")


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or two."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def patchify(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut images (B, C, h, w) into patches (B, L, p*p*C): row-major patches, pixels in (row, column, channel) order."""
    batch, channels, height, width = images.shape
    p = patch_size
    grid = images.reshape(batch, channels, height // p, p, width // p, p)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, (height // p) * (width // p), p * p * channels)


def unpatchify(patches: torch.Tensor, patch_size: int, grid: tuple[int, int]) -> torch.Tensor:
    """Inverse of `patchify` for a grid (gh, gw): images (B, 3, h, w)."""
    p, (gh, gw) = patch_size, grid
    pixels = patches.reshape(len(patches), gh, gw, p, p, 3)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, gh * p, gw * p)


def sincos_positions(grid: tuple[int, int], width: int) -> torch.Tensor:
    """Fixed positions (1, 1 + L, D), zeros for the class token; first half of D: column, second: row.

    Raises ValueError unless D is divisible by 4. Source: MAE, section 3 and its published parameters' layout.
    """
    if width % 4:
        raise ValueError(f"width {width} must be divisible by 4 for two-dimensional sine-cosine positions")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    halves = []
    for coordinate in (columns, rows):
        angles = coordinate.reshape(-1, 1) * frequencies
        halves += [angles.sin(), angles.cos()]
    table = torch.cat(halves, dim=1).float()
    return torch.cat([torch.zeros(1, width), table])[None]


def resized_positions(positions: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Positions (1, prefix + L, D) of grid `old`, resampled bicubically to grid `new`; the prefix tokens keep theirs.

    Without antialiasing, as iBOT, DINO and DINOv2 do at inference.
    """
    if old == new:
        return positions
    first, patches = positions.tensor_split([positions.shape[1] - old[0] * old[1]], dim=1)
    table = F.interpolate(patches.transpose(1, 2).unflatten(2, old), new, mode="bicubic", align_corners=False)
    return torch.cat([first, table.flatten(2).transpose(1, 2)], dim=1)


class Attention(nn.Module):
    """Multi-head attention (B, N, D) -> (B, N, D) through the fused kernel, to the tokens themselves or to others (B, M, D)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        if context is None:
            return self._attend(*self._heads(self.qkv(tokens), 3))
        width = tokens.shape[2]
        queries = F.linear(tokens, self.qkv.weight[:width], self.qkv.bias[:width])
        others = F.linear(context, self.qkv.weight[width:], self.qkv.bias[width:])
        return self._attend(*self._heads(queries, 1), *self._heads(others, 2))

    def _heads(self, projected: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        """(B, N, count * D) as `count` tensors (B, heads, N, D / heads)."""
        heads: torch.Tensor = projected.unflatten(2, (count, self.num_heads, -1))
        return heads.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        merged: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return merged


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return mapped


class Block(nn.Module):
    """Pre-norm transformer block (B, N, D) -> (B, N, D).

    drop_path: probability that a row skips a branch in training. last: compute only so many tokens at the end, from all:
    (B, last, D). share: see `VisionTransformer.take_share`.
    """

    def __init__(self, width: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width)
        self.drop_path = drop_path
        self.share: tuple[int, torch.Tensor] | None = None

    def forward(self, tokens: torch.Tensor, last: int | None = None) -> torch.Tensor:
        normed = self.norm1(tokens)
        if last is None:
            kept = tokens + self._drop(self.attn(normed))
        else:
            kept = tokens[:, -last:] + self._drop(self.attn(normed[:, -last:], normed))
        return kept + self._drop(self.mlp(self.norm2(kept)))

    def _drop(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        batch, rows = self.share or (len(branch), slice(None))
        return branch * branch.new_empty(batch, 1, 1).bernoulli_(keep)[rows] / keep


class PatchEmbed(nn.Module):
    """Linear embedding of patches. The weight has the shape (D, 3, p, p) of the equivalent convolution."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, V, D) of patches (B, V, p*p*3), their pixels in `patchify` order."""
        return F.linear(patches, self.proj.weight.permute(0, 2, 3, 1).flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """The encoder contract of all arms: images in, class token and patch tokens out.

    image_size: pixels or (h, w), divisible by `patch_size`. drop_path: rate of the last block; it rises linearly from 0.
    Positions are fixed. States are interchangeable with timm's VisionTransformer of the same shape and `num_classes=0`.
    Raises ValueError for sizes that do not divide.
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        patch_size: int,
        width: int,
        depth: int,
        num_heads: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        height, breadth = pair(image_size)
        if height % patch_size or breadth % patch_size:
            raise ValueError(f"image_size {height}x{breadth} must be divisible by patch_size {patch_size}")
        if width % num_heads:
            raise ValueError(f"width {width} must be divisible by num_heads {num_heads}")
        self.image_size, self.patch_size, self.width = (height, breadth), patch_size, width
        self.grid = (height // patch_size, breadth // patch_size)
        self.patch_embed = PatchEmbed(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(self.grid, width), requires_grad=False)
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, num_heads, rate) for rate in rates)
        self.norm: nn.Module = nn.LayerNorm(width, eps=EPS)

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    def take_share(self, rows: torch.Tensor, *, batch: int) -> None:
        """Train on `rows` (n,) int64 of each batch of `batch` images; other processes take the rest.

        Drop path then draws for the whole batch and uses the draws of these rows, so the number of processes changes nothing.
        """
        for block in self.blocks:
            assert isinstance(block, Block)
            block.share = batch, rows

    def encode(self, images: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens (B, 1 + L, D) after the final norm, class token first.

        images: (B, 3, h, w), normalised. visible: (B, V) patch indices; then only these are embedded: (B, 1 + V, D).
        Raises ValueError for images of another size.
        """
        if images.shape[2:] != self.image_size:
            raise ValueError(f"images are {tuple(images.shape[2:])}, the model takes {self.image_size}; resize them")
        (tokens,) = self.encode_patches(patchify(images, self.patch_size), visible)
        return tokens

    def encode_patches(
        self, patches: torch.Tensor, visible: torch.Tensor | None = None, *, after: Sequence[int] = ()
    ) -> list[torch.Tensor]:
        """Tokens of the blocks numbered `after`, from 1, and at the end what `encode` gives; patches (B, L, p*p*3)."""
        tokens, kept = self.embed_patches(patches, visible), []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in after:
                kept.append(tokens)
        return [*kept, self.norm(tokens)]

    def embed_patches(self, patches: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """What the first block gets: class token and embedded patches (B, 1 + L, D), with their positions."""
        positions = self.pos_embed[:, 1:].expand(len(patches), -1, -1)
        if visible is not None:
            patches, positions = pick(patches, visible), pick(positions, visible)
        tokens = self.patch_embed(patches) + positions
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return torch.cat([first, tokens], dim=1)


def pick(rows: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows (B, L, D) at indices (B, V): (B, V, D)."""
    return rows.gather(1, indices[:, :, None].expand(-1, -1, rows.shape[2]))


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Set initial weights, drawn from `generator`: Xavier-uniform matrices, zero biases, normal(0.02) tokens.

    Draws in the order of `named_parameters`, so that arms of equal shape start from equal weights. Source: MAE appendix A.1.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("pos_embed"):
                continue
            if name.endswith("token"):
                parameter.normal_(0.0, 0.02, generator=generator)
            elif parameter.ndim >= 2:
                fan_out, fan_in = parameter.shape[0], parameter[0].numel()
                bound = math.sqrt(6 / (fan_in + fan_out))
                parameter.uniform_(-bound, bound, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
