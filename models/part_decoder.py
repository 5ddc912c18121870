"""The image from part maps: a StyleGAN-like decoder that takes the maps in place of the constant input.

B images, S maps (parts, and a background slot), (gh, gw) grid, D width of the class token, W decoder width.
Source: SemMAE section 3.1 and figure 1 (maps -> AdaIN by the class token -> RGB); Karras et al., "StyleGAN", CVPR 2019.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WIDTH = 8
SLOPE = 0.2


class AdaIN(nn.Module):
    """Instance normalisation whose scale and shift are linear in a style (B, W)."""

    def __init__(self, style_width: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(style_width, 2 * channels)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Normalised features (B, channels, h, w), scaled and shifted by `style` (B, W)."""
        scale, shift = self.affine(style)[:, :, None, None].chunk(2, dim=1)
        styled: Tensor = F.instance_norm(features) * (1 + scale) + shift
        return styled


class Layer(nn.Module):
    """Convolution, leaky ReLU, AdaIN; with `upsample`, doubles the resolution first."""

    def __init__(self, channels_in: int, channels_out: int, *, style_width: int, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.adain = AdaIN(style_width, channels_out)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        if self.upsample:
            features = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        styled: Tensor = self.adain(F.leaky_relu(self.conv(features), SLOPE), style)
        return styled


class PartDecoder(nn.Module):
    """RGB images from blurred part maps: shape comes only from the maps, texture only from the class token.

    grid: (gh, gw) of the maps. Each layer after the first doubles it while it fits `image_size` (h, w) in pixels; the result
        is then resized to `image_size`.
    width: channels at the grid's resolution, halved by every doubling, at least 8.
    Differs: no noise, so that a reconstruction is a function of the image; a mapping of two layers, because the class token
        is not a Gaussian code.
    """

    def __init__(
        self, *, num_maps: int, style_width: int, grid: tuple[int, int], image_size: tuple[int, int], width: int
    ) -> None:
        super().__init__()
        self.image_size = tuple(image_size)
        self.mapping = nn.Sequential(
            nn.LayerNorm(style_width),
            nn.Linear(style_width, width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(width, width),
            nn.LeakyReLU(SLOPE),
        )
        widths = [width]
        while grid[0] * 2 ** len(widths) <= image_size[0] and grid[1] * 2 ** len(widths) <= image_size[1]:
            widths.append(max(LEAST_WIDTH, widths[-1] // 2))
        inputs = [num_maps, *widths[:-1]]
        self.layers = nn.ModuleList(
            Layer(before, after, style_width=width, upsample=index > 0)
            for index, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.to_rgb = nn.Conv2d(widths[-1], 3, 1)

    def forward(self, maps: Tensor, cls_token: Tensor) -> Tensor:
        """Images (B, 3, h, w), about [0, 1], from maps (B, S, gh, gw) and class tokens (B, D)."""
        style = self.mapping(cls_token)
        features = maps
        for layer in self.layers:
            features = layer(features, style)
        images: Tensor = self.to_rgb(features)
        if images.shape[2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bilinear", align_corners=False)
        return images + 0.5


def initialise_decoder(decoder: PartDecoder, generator: torch.Generator) -> None:
    """He-normal matrices from `generator` and zero biases; styles start near scale 1 and shift 0."""
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim >= 2:
                gain = 0.1 if "affine" in name else 2**0.5
                parameter.normal_(0.0, gain / parameter[0].numel() ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
