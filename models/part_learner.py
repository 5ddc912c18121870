"""Part maps of an image from the tokens of a frozen vision transformer.

B images, D width of the teacher, C width of part tokens, K parts, S = K or K + 1 maps (background slot last),
(gh, gw) patch grid, L = gh * gw patches, H heads of the teacher, d = D / H.
Source: SemMAE section 3.1 and figure 1. The authors did not publish this stage; what the paper leaves open is our choice,
and a parameter.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class PartLearner(nn.Module):
    """Embeds the class token as S part tokens and compares them with the projected patch tokens: one map a part.

    Class and patch tokens come from one layer of the teacher. Part k has its own rows of `embed`, shared by all images, which
    makes it the same kind of part everywhere.

    normalise: softmax over the maps at a patch (`parts`), or over the patches of a map (`space`).
    temperature: initial value of that softmax's learned temperature.
    centre: subtract the image's mean from its patch tokens, so that differences between images do not hide those between
        parts. Differs: not in the paper; with a small teacher no other choice helps as much.
    blur_sigma: standard deviation in patches of the Gaussian that smooths the maps; 0 turns it off.
    background: add map K + 1, the background slot, to compete with the parts.
    Raises ValueError for another `normalise`.
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        width: int,
        num_parts: int,
        token_width: int,
        normalise: str = "parts",
        temperature: float = 1.0,
        centre: bool = False,
        blur_sigma: float = 0.0,
        background: bool = False,
    ) -> None:
        super().__init__()
        if normalise not in ("parts", "space"):
            raise ValueError(f"normalise is {normalise!r}; expected parts or space")
        self.grid, self.num_parts, self.normalise, self.centre = tuple(grid), num_parts, normalise, centre
        self.num_maps = num_parts + background
        self.cls_norm = nn.LayerNorm(width, eps=EPS)
        self.patch_norm = nn.LayerNorm(width, eps=EPS)
        self.embed = nn.Linear(width, self.num_maps * token_width)
        self.project = nn.Linear(width, token_width)
        self.offset = nn.Parameter(torch.zeros(self.num_maps))
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.kernel: Tensor
        self.register_buffer("kernel", gaussian(blur_sigma), persistent=False)

    def part_tokens(self, cls_token: Tensor) -> Tensor:
        """Part tokens (B, S, C) of class tokens (B, D)."""
        tokens: Tensor = self.embed(self.cls_norm(cls_token)).unflatten(1, (self.num_maps, -1))
        return tokens

    def project_patches(self, patch_tokens: Tensor) -> Tensor:
        """Patch tokens (B, L, D) in the space of the part tokens: (B, L, C)."""
        tokens = self.patch_norm(patch_tokens)
        projected: Tensor = self.project(tokens - tokens.mean(dim=1, keepdim=True) if self.centre else tokens)
        return projected

    def logits(self, cls_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """Scores (B, S, L) before temperature, softmax and blur: (S x C) times (C x L), plus an offset a map."""
        scores = self.part_tokens(cls_token) @ self.project_patches(patch_tokens).transpose(1, 2)
        return scores + self.offset[:, None]

    def forward(self, cls_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """Blurred maps (B, S, gh, gw) from class tokens (B, D) and patch tokens (B, L, D).

        Before the blur, normalise `parts` makes the maps of a patch sum to 1, `space` makes each map sum to 1.
        Raises ValueError for a number of patches other than the grid's.
        """
        if patch_tokens.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(f"{patch_tokens.shape[1]} patch tokens, the learner's grid is {self.grid}; extract again")
        scores = self.logits(cls_token, patch_tokens) / self.log_temperature.exp()
        maps = scores.softmax(dim=1 if self.normalise == "parts" else 2)
        return blur(maps.unflatten(2, self.grid), self.kernel)


@torch.no_grad()
def start_from_centres(learner: PartLearner, centres: Tensor, matrix: Tensor, offset: Tensor) -> None:
    """Initialise the maps as soft assignments to `centres` (S, C): score = z c - |c|^2 / 2, largest for the nearest centre.

    matrix (C, D) and offset (C,) map a layer-normalised token to z. The class token has no influence at the start and gains
    it in training.
    """
    learner.project.weight.copy_(matrix)
    learner.project.bias.copy_(offset)
    learner.embed.weight.zero_()
    learner.embed.bias.copy_(centres.flatten())
    learner.offset.copy_(-centres.square().sum(dim=1) / 2)


@torch.no_grad()
def start_from_heads(learner: PartLearner, block: Mapping[str, Tensor], num_heads: int) -> None:
    """Initialise the maps with the logits of the teacher's last attention: part k is head k.

    block: parameters of the teacher's last block under timm's names (`norm1.weight`, `attn.qkv.weight`, ...). A part token is
    its head's scaled query, in the head's d of the D channels and zero elsewhere, hence C = D; projected patch tokens are the
    keys of all heads. A background slot starts from the zero token.
    Raises ValueError unless K = H, C = D, `centre` is off and the teacher has no query norm.
    """
    width = learner.patch_norm.weight.numel()
    if learner.num_parts != num_heads:
        raise ValueError(
            f"initialisation heads makes {num_heads} parts, one a head; refine.parts is {learner.num_parts}"
        )
    if learner.project.out_features != width:
        raise ValueError(
            f"initialisation heads needs refine.token_width {width}, the teacher's width; "
            f"got {learner.project.out_features}"
        )
    if learner.centre:
        raise ValueError("initialisation heads needs uncentred tokens; set refine.centre to false")
    if any(name.startswith(("attn.q_norm", "attn.k_norm")) for name in block):
        raise ValueError("initialisation heads: this teacher normalises its queries; use random or clusters")
    weight = block["attn.qkv.weight"]
    bias = block.get("attn.qkv.bias", weight.new_zeros(3 * width))
    for norm in (learner.cls_norm, learner.patch_norm):
        norm.weight.copy_(block["norm1.weight"])
        norm.bias.copy_(block["norm1.bias"])
    learner.project.weight.copy_(weight[width : 2 * width])
    learner.project.bias.copy_(bias[width : 2 * width])
    learner.embed.weight.zero_()
    learner.embed.bias.zero_()
    head_width = width // num_heads
    for head in range(num_heads):
        own = slice(head * head_width, (head + 1) * head_width)
        token = slice(head * width + own.start, head * width + own.stop)
        learner.embed.weight[token] = weight[own] * head_width**-0.5
        learner.embed.bias[token] = bias[own] * head_width**-0.5


def gaussian(sigma: float) -> Tensor:
    """One-dimensional Gaussian weights of odd length and sum 1; [1] for sigma 0. sigma: in patches."""
    radius = math.ceil(2 * sigma)
    if radius == 0:
        return torch.ones(1)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def blur(maps: Tensor, kernel: Tensor) -> Tensor:
    """Maps (B, S, gh, gw) smoothed by a separable kernel (n,); replicated borders keep the sum over the parts."""
    radius = len(kernel) // 2
    if radius == 0:
        return maps
    channels = maps.shape[1]
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
