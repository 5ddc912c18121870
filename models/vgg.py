"""VGG-16 features of images: the classical perceptual distance, where the user's machine can fetch the weights."""

from torch import Tensor, nn
from torchvision.models import VGG16_Weights, vgg16
from torchvision.transforms.functional import normalize

# relu1_2, relu2_2, relu3_3 and relu4_3 among the layers of torchvision's `features`.
TAPS = (3, 8, 15, 22)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class VggFeatures(nn.Module):
    """Activations of four depths, (B, C_i, h_i, w_i) each, of images (B, 3, h, w) in [0, 1]; frozen, at least 8 pixels.

    Source: Johnson et al., "Perceptual Losses", ECCV 2016, for the network and its depths.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        # An activation that is kept must not be overwritten by the next layer.
        self.layers = nn.ModuleList(
            nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers[: max(TAPS) + 1]
        )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Activations after `TAPS`."""
        found, values = [], normalize(images, MEAN, STD)
        for number, layer in enumerate(self.layers):
            values = layer(values)
            if number in TAPS:
                found.append(values)
        return found


def load_vgg() -> VggFeatures:
    """ImageNet's VGG-16 from torchvision, which checks its hash; ValueError where it can't be fetched."""
    try:
        return VggFeatures(vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"refine.perceptual vgg16: its weights cannot be fetched ({reason}); use a machine with a network, "
            "or set refine.perceptual to teacher"
        ) from None
