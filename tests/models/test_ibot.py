import math

import pytest
import torch
import torch.nn.functional as F

from models.ibot import SelfDistillation, balance, entropy
from models.teachers import build
from models.vit import initialise

ARCHITECTURE = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "dynamic_img_size": True,
}  # fmt: skip


@pytest.fixture
def model():
    draw = torch.Generator().manual_seed(0)
    vit = build(ARCHITECTURE)
    initialise(vit, draw)
    return SelfDistillation(vit, head_width=16, bottleneck=8, prototypes=12, generator=draw)


def batch(count=3, local=2):
    draw = torch.Generator().manual_seed(1)
    views = torch.randn(2 * count, 3, 32, 32, generator=draw)
    small = torch.randn(local * count, 3, 16, 16, generator=draw) if local else None
    return views, small, torch.rand(2 * count, 16, generator=draw) < 0.4


def run(model, views, small, mask):
    return model(views, small, mask, student_temperature=0.1, teacher_temperature=0.05)


def test_balance__targets_are_shares_and_prototypes_get_equal_parts():
    logits = torch.rand(4000, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits[:, 3] += 0.5  # without balance this prototype takes a third
    shares = balance(logits, 0.1)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(4000))
    assert shares.mean(dim=0).sub(0.1).abs().max() < 0.01
    assert (logits / 0.1).softmax(dim=1).mean(dim=0).amax() > 0.3
    assert balance(logits[:0], 0.1).shape == (0, 10)


def test_balance__keeps_what_is_balanced_already():
    logits = torch.eye(6)
    shares = balance(logits, 0.2)
    assert torch.equal(shares.argmax(dim=1), torch.arange(6))
    torch.testing.assert_close(shares, (logits / 0.2).softmax(dim=1))


def test_entropy__bounds():
    assert float(entropy(torch.full((5,), 0.2))) == pytest.approx(math.log(5))
    assert float(entropy(torch.tensor([0.0, 1.0, 0.0]))) == 0


def test_branch__without_a_mask_is_the_vit_itself(model):
    views, _, _ = batch()
    torch.testing.assert_close(model.student(views), model.student.vit.forward_features(views))


def test_branch__what_is_hidden_does_not_show(model):
    views, _, mask = batch()
    changed = views.clone().unfold(2, 8, 8).unfold(3, 8, 8)
    where = mask.view(-1, 1, 4, 4, 1, 1).expand_as(changed)
    other = torch.where(where, changed + 5, changed)
    other = other.permute(0, 1, 2, 4, 3, 5).reshape(views.shape)
    assert not torch.equal(other, views)
    torch.testing.assert_close(model.student(views, mask), model.student(other, mask))


def test_forward__losses_are_those_of_the_papers(model):
    """Against loops over views, images and patches."""
    views, small, mask = batch()
    found = run(model, views, small, mask)
    tokens, seen = model.teacher(views), model.student(views, mask)
    targets = balance(model.teacher.head(tokens[:, 0]), 0.05).view(2, 3, -1)
    guesses = torch.cat([seen[:, 0], model.student(small)[:, 0]]).view(4, 3, -1)
    terms = [
        -(targets[g, b] * F.log_softmax(model.student.head(guesses[v, b]) / 0.1, dim=-1)).sum()
        for g in range(2) for v in range(4) if g != v for b in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(found.class_loss, torch.stack(terms).mean())
    hidden = [(n, p) for n in range(6) for p in range(16) if mask[n, p]]
    wanted = balance(torch.stack([model.teacher.head(tokens[n, 1 + p]) for n, p in hidden]), 0.05)
    terms = [
        -(wanted[row] * F.log_softmax(model.student.head(seen[n, 1 + p]) / 0.1, dim=-1)).sum()
        for row, (n, p) in enumerate(hidden)
    ]
    torch.testing.assert_close(found.patch_loss, torch.stack(terms).mean())
    torch.testing.assert_close(found.loss, found.class_loss + found.patch_loss)


def test_forward__no_hidden_patch_and_no_local_view(model):
    views, _, mask = batch(local=0)
    found = run(model, views, None, torch.zeros_like(mask))
    assert float(found.patch_loss) == 0
    found.loss.backward()
    assert model.student.vit.patch_embed.proj.weight.grad.abs().sum() > 0


def test_forward__the_teacher_learns_nothing_by_gradient(model):
    run(model, *batch()).loss.backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.student.parameters())


def test_forward__a_teacher_that_sees_no_difference_is_told(model):
    views, small, mask = batch()
    healthy = run(model, views, small, mask)
    with torch.no_grad():
        model.teacher.vit.norm.weight.zero_()
        model.teacher.vit.norm.bias.fill_(1.0)
    collapsed = run(model, views, small, mask)
    assert float(collapsed.spread) < 1e-5 < 0.1 < float(healthy.spread)
    assert float(collapsed.information) == pytest.approx(0, abs=1e-5)
    assert float(healthy.information) > 0.01


@pytest.mark.parametrize("momentum", [0.0, 0.25, 1.0])
def test_follow__is_a_running_average(model, momentum):
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in model.teacher.parameters()]
    model.follow(momentum)
    for old, new, student in zip(before, model.teacher.parameters(), model.student.parameters(), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * student)
