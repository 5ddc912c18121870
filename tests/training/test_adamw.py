import subprocess
import sys

import pytest
import torch

from training.adamw import AdamW
from training.schedules import set_lr


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.GELU(), torch.nn.Linear(7, 3))


def groups(model):
    weights = list(model.parameters())
    return [
        {"params": weights[:2], "weight_decay": 0.1, "lr_scale": 0.5},
        {"params": weights[2:], "weight_decay": 0.0},
    ]


def run(model, optimizer, first, last):
    for number in range(first, last):
        draw = torch.Generator().manual_seed(number)
        optimizer.zero_grad()
        set_lr(optimizer, 0.01 * (number + 1))
        model(torch.randn(8, 5, generator=draw)).square().mean().backward()
        if number == 3:
            model[2].bias.grad = None
        optimizer.step()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.95)])
def test_adamw__is_torchs_to_the_bit(betas):
    ours, theirs = network(), network()
    run(ours, AdamW(groups(ours), lr=0.01, betas=betas), 0, 20)
    run(theirs, torch.optim.AdamW(groups(theirs), lr=0.01, betas=betas, fused=True), 0, 20)
    assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(ours), weights(network()))


def test_adamw__continues_from_its_state(tmp_path):
    whole, first = network(), network()
    run(whole, AdamW(groups(whole), lr=0.01), 0, 12)
    optimizer = AdamW(groups(first), lr=0.01)
    run(first, optimizer, 0, 5)
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second = network(seed=1)
    second.load_state_dict(saved["model"])
    resumed = AdamW(groups(second), lr=0.5)
    resumed.load_state_dict(saved["optimizer"])
    run(second, resumed, 5, 12)
    assert torch.equal(weights(second), weights(whole))


def test_adamw__refuses_a_state_of_other_parameters():
    optimizer = AdamW(groups(network()), lr=0.01)
    other = AdamW(groups(network())[:1], lr=0.01)
    with pytest.raises(ValueError, match="shorter"):
        optimizer.load_state_dict(other.state_dict())


def test_adamw__loads_no_compiler():
    """What the class is for: the compiler costs every training job five seconds."""
    code = (
        "import sys, torch\nfrom training.adamw import AdamW\nw = torch.ones(3, requires_grad=True)\n"
        "o = AdamW([{'params': [w], 'weight_decay': 0.1}], lr=0.1)\nw.sum().backward()\no.step()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
