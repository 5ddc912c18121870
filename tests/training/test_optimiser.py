import math
import subprocess
import sys

import pytest
import torch

from training.optimiser import AdamW, cosine_between, decay_groups, set_lr, warmup_cosine


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
        "import sys, torch\nfrom training.optimiser import AdamW\nw = torch.ones(3, requires_grad=True)\n"
        "o = AdamW([{'params': [w], 'weight_decay': 0.1}], lr=0.1)\nw.sum().backward()\no.step()\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_warmup_cosine__rises_linearly_then_falls_to_the_end():
    rates = [warmup_cosine(step, steps=100, warmup_steps=10, peak=1.0) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert sorted(rates[10:], reverse=True) == rates[10:]


def test_warmup_cosine__no_warmup_starts_at_the_peak():
    assert warmup_cosine(0, steps=10, warmup_steps=0, peak=2.0) == 2.0


def test_cosine_between__ends():
    assert cosine_between(0.0, 0.9, 1.0) == pytest.approx(0.9)
    assert cosine_between(1.0, 0.9, 1.0) == pytest.approx(1.0)
    assert cosine_between(0.5, 0.0, 1.0) == pytest.approx((1 - math.cos(math.pi / 2)) / 2)


def test_decay_groups__hold_every_trained_parameter_once():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    model.register_parameter("cls_token", torch.nn.Parameter(torch.zeros(1, 1, 4)))
    model.register_parameter("frozen", torch.nn.Parameter(torch.zeros(2, 2), requires_grad=False))
    decayed, free = decay_groups(model, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert len(free["params"]) == 4
    assert free["weight_decay"] == 0


def test_set_lr__applies_the_scale_of_a_group():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr_scale": 0.5}, {"params": weights[1:]}], lr=1.0)
    set_lr(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
