import pytest
import torch
from torchvision.models import vgg16

from models import vgg
from models.part_losses import vgg_loss
from models.vgg import VggFeatures, load_vgg


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    layers = vgg16(weights=None).features
    return layers, VggFeatures(layers)


def test_features__are_torchvisions_activations_before_each_pooling(features):
    layers, ours = features
    images = torch.rand(2, 3, 32, 32)
    values = (images - torch.tensor(vgg.MEAN).view(3, 1, 1)) / torch.tensor(vgg.STD).view(3, 1, 1)
    expected = []
    for layer in layers:
        if isinstance(layer, torch.nn.MaxPool2d):
            expected.append(values)
        values = layer(values)
    found = ours(images)
    assert [tuple(value.shape[1:]) for value in found] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    for ours_at, theirs_at in zip(found, expected[:4], strict=True):
        torch.testing.assert_close(ours_at, theirs_at)


def test_loss__is_zero_for_the_image_itself_and_shrinks_towards_it(features):
    _, ours = features
    image, other = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    target = ours(image)
    assert vgg_loss(ours(image), target) == 0
    distances = [float(vgg_loss(ours(image + share * (other - image)), target)) for share in (0.1, 0.5, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2] < 4


def test_loss__moves_the_image_and_not_the_network(features):
    _, ours = features
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    vgg_loss(ours(image), ours(torch.rand(1, 3, 16, 16))).backward()
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_load_vgg__without_a_network_is_one_line(monkeypatch):
    def offline(weights):
        raise OSError("<urlopen error\n no route>")

    monkeypatch.setattr(vgg, "vgg16", offline)
    with pytest.raises(ValueError, match="refine.perceptual vgg16: its weights cannot be fetched .*no route.*teacher"):
        load_vgg()
