import torch

from images.augmentation import to_bytes
from models.mae import MaskedAutoencoder
from models.vit import initialise
from parts.masking import random_mask
from shards.seals import write_manifest
from training.snapshots import MOMENTS, Snapshots, read_snapshots

SHAPE = {
    "image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "num_heads": 2,
    "decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def make(steps):
    model, draw = MaskedAutoencoder(**SHAPE), torch.Generator().manual_seed(0)
    initialise(model, draw)
    images = torch.randn(3, 3, 16, 16, generator=draw)
    return model, Snapshots(images, random_mask(3, 16, ratio=0.75, generator=draw), steps=steps)


def train(model, snapshots, steps):
    for done in steps:
        with torch.no_grad():
            model.decoder_pred.bias.add_(0.1)
        snapshots.take(done, model)


def test_snapshots__are_the_models_reconstructions_at_their_moments(tmp_path):
    model, snapshots = make(steps=8)
    before = torch.get_rng_state()
    train(model, snapshots, range(9))
    assert torch.equal(torch.get_rng_state(), before)
    snapshots.write(tmp_path)
    write_manifest(tmp_path)
    found = read_snapshots(tmp_path)
    assert found["reconstructions"].shape == (len(MOMENTS), 3, 3, 16, 16)
    assert torch.equal(found["reconstructions"][-1], to_bytes(model.reconstruct(snapshots.images, snapshots.mask)))
    assert len({picture.numpy().tobytes() for picture in found["reconstructions"]}) == len(MOMENTS)
    visible = ~found["mask"].bool().view(3, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(
        3, 3, 16, 16
    )
    for picture in found["reconstructions"]:
        assert torch.equal(picture[visible], found["images"][visible])


def test_snapshots__go_on_where_a_checkpoint_left_them():
    model, whole = make(steps=8)
    train(model, whole, range(9))
    model, first = make(steps=8)
    train(model, first, range(4))
    second = make(steps=8)[1]
    second.load_state_dict(first.state_dict())
    train(model, second, range(4, 9))
    assert torch.equal(second.state_dict()["reconstructions"], whole.state_dict()["reconstructions"])
