import numpy as np
import pytest
import torch

from images.augmentation import normalise
from models.classifier import Classifier
from models.mae import MaskedAutoencoder
from models.vit import initialise
from training.encoders import features, load_encoder, load_encoder_state, load_weights, save_model

CONFIG = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 1, "num_heads": 2, "decoder_width": 16, "decoder_depth": 1,
          "decoder_num_heads": 2, "norm_pix_loss": True}  # fmt: skip


@pytest.fixture
def saved(tmp_path):
    model = MaskedAutoencoder(**CONFIG)
    initialise(model, torch.Generator().manual_seed(0))
    save_model(tmp_path, model, CONFIG)
    return tmp_path, model


def test_load_encoder__is_the_saved_encoder_frozen(saved):
    folder, model = saved
    encoder = load_encoder(folder)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder.encode(images), model.encode(images))
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_load_encoder_state__another_architecture_is_refused_by_key(saved):
    deeper = Classifier(image_size=32, patch_size=8, width=24, depth=2, num_heads=2, num_classes=3)
    with pytest.raises(ValueError, match=r"blocks\.1\.norm1\.weight"):
        load_encoder_state(saved[0], deeper)


def test_load_weights__a_truncated_file_is_named(saved):
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged: its sha256 is"):
        load_weights(saved[0])


def test_features__do_not_depend_on_the_batch(saved):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 32, 32)).astype(np.uint8))
    encoder = load_encoder(saved[0])
    whole, parts = features(encoder, pixels), torch.cat([features(encoder, some) for some in pixels.split(3)])
    assert whole.shape == (7, 24)
    torch.testing.assert_close(whole, parts)
    tokens = encoder.encode(normalise(pixels.float() / 255))
    torch.testing.assert_close(whole, tokens[:, 1:].mean(dim=1))
