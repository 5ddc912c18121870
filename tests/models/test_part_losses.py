import math

import pytest
import torch
import torch.nn.functional as F

from models.part_losses import (
    diversity_loss,
    equivariance_loss,
    memberships,
    perceptual_loss,
    slot_loss,
    token_loss,
    usage_loss,
)

LABELS = torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0]])
SHARES = F.one_hot(LABELS, 3).permute(0, 2, 1).float()
EVERYWHERE = torch.ones(2, 6)


def test_memberships__sum_to_one_at_every_patch_however_maps_are_normalised():
    maps = torch.rand(2, 4, 3, 3).flatten(2).softmax(dim=2).unflatten(2, (3, 3))
    torch.testing.assert_close(memberships(maps).sum(dim=1), torch.ones(2, 9))


def test_token_loss__is_zero_when_parts_gather_equal_patches():
    tokens = F.one_hot(LABELS, 3).float() @ torch.randn(3, 4)
    assert token_loss(SHARES, tokens, EVERYWHERE) < 1e-9


def test_token_loss__is_the_variance_within_parts():
    tokens = torch.randn(2, 6, 4)
    within = torch.stack([tokens[b, LABELS[b] == k].var(dim=0, correction=0) for b in range(2) for k in range(3)])
    assert token_loss(SHARES, tokens, EVERYWHERE) == pytest.approx(float(within.mean()), rel=1e-4)


def test_token_loss__pooled_over_the_batch_is_the_variance_of_a_part_over_all_images():
    tokens = torch.randn(2, 6, 4)
    within = torch.stack([tokens[k == LABELS].var(dim=0, correction=0) for k in range(3)])
    found = token_loss(SHARES, tokens, EVERYWHERE, pooling="batch")
    assert found == pytest.approx(float(within.mean()), rel=1e-4)
    assert found > token_loss(SHARES, tokens, EVERYWHERE)


def test_token_loss__does_not_look_outside_the_foreground():
    weight = torch.tensor([[1.0, 1, 1, 1, 0, 0], [0.0, 1, 1, 1, 1, 0]])
    tokens = torch.randn(2, 6, 4)
    noise = torch.randn(2, 6, 4) * (1 - weight)[:, :, None]
    torch.testing.assert_close(token_loss(SHARES, tokens, weight), token_loss(SHARES, tokens + noise, weight))


def test_usage_loss__runs_from_even_to_one_part_that_takes_all():
    assert usage_loss(SHARES, EVERYWHERE) == pytest.approx(0, abs=1e-5)
    alone = torch.zeros(2, 3, 6)
    alone[:, 1] = 1
    assert usage_loss(alone, EVERYWHERE) == pytest.approx(math.log(3), abs=1e-4)


def test_usage_loss__one_step_down_revives_a_dead_part():
    logits = torch.zeros(2, 3, 6)
    logits[:, 0] = 4
    logits.requires_grad_()
    usage_loss(logits.softmax(dim=1), EVERYWHERE).backward()
    assert (logits.grad[:, 0] > 0).all()
    assert (logits.grad[:, 1:] < 0).all()


def test_diversity_loss__is_zero_for_disjoint_and_one_for_equal_maps():
    assert diversity_loss(SHARES.unflatten(2, (2, 3))) == pytest.approx(0, abs=1e-6)
    assert diversity_loss(torch.rand(2, 1, 2, 3).expand(2, 3, 2, 3)) == pytest.approx(1, abs=1e-5)


def test_slot_loss__is_least_where_the_slot_is_what_is_not_foreground():
    weight = torch.tensor([[1.0, 0, 1, 0]])
    right, wrong = slot_loss(1 - weight, weight), slot_loss(weight, weight)
    assert right < 1e-4
    assert torch.isfinite(wrong)
    assert wrong > 5


def test_perceptual_loss__ignores_scale_and_sees_direction():
    tokens = torch.randn(2, 6, 4)
    assert perceptual_loss(tokens * 3, tokens) == pytest.approx(0, abs=1e-5)
    assert perceptual_loss(-tokens, tokens) == pytest.approx(2, abs=1e-5)


def test_losses__are_finite_with_an_empty_foreground():
    nothing = torch.zeros(2, 6)
    assert torch.isfinite(token_loss(SHARES, torch.randn(2, 6, 4), nothing))
    assert torch.isfinite(usage_loss(SHARES, nothing))


def test_equivariance_loss__is_zero_for_equal_shares_and_two_for_disjoint_ones():
    one, other = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    one[:, 0], other[:, 1] = 1, 1
    assert float(equivariance_loss(one, one)) == 0
    assert float(equivariance_loss(one, other)) == 2
