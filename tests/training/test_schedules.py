import math

import pytest
import torch

from training.schedules import cosine_between, decay_groups, set_lr, warmup_cosine


def test_warmup_cosine__rises_linearly_then_falls_to_the_end():
    rates = [warmup_cosine(step, steps=100, warmup_steps=10, peak=1.0, final=0.1) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
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
