import torch

from parts.foreground import attention_foreground, border_foreground


def test_attention_foreground__is_the_smallest_set_that_holds_the_mass():
    attention = torch.rand(8, 3, 30, generator=torch.Generator().manual_seed(0))
    mean = attention.mean(dim=1)
    mean = mean / mean.sum(dim=1, keepdim=True)
    for mass in (0.3, 0.6, 0.95):
        chosen = attention_foreground(attention, mass)
        held = (mean * chosen).sum(dim=1)
        weakest = mean.masked_fill(~chosen, 2).min(dim=1).values
        assert (held >= mass - 1e-6).all()
        assert (held - weakest < mass).all(), "one patch fewer would not do"
        assert (weakest >= mean.masked_fill(chosen, -1).max(dim=1).values).all(), "no stronger patch is left out"


def test_attention_foreground__mass_one_is_every_patch():
    assert attention_foreground(torch.rand(2, 2, 5), 1.0).all()


def test_attention_foreground__does_not_depend_on_the_share_of_prefix_tokens():
    attention = torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(attention_foreground(attention, 0.5), attention_foreground(attention * 0.4, 0.5))


def test_border_foreground__is_the_kinds_that_are_inside_wherever_they_lie():
    kinds = torch.zeros(10, 5, 5, dtype=torch.long)
    kinds[:, 1:4, 1:4] = 1
    kinds[0, 0, 0] = 1
    kinds[1, 2, 2] = 0
    found = border_foreground(kinds.flatten(1), (5, 5)).view(10, 5, 5)
    assert torch.equal(found, kinds == 1)


def test_border_foreground__a_kind_spread_evenly_is_background():
    kinds = torch.zeros(2, 4, 4, dtype=torch.long)
    kinds[:, 1, 1] = 1
    found = border_foreground(kinds.flatten(1), (4, 4))
    assert found.sum() == 2


def test_border_foreground__a_smaller_ratio_asks_for_kinds_that_keep_away_from_the_border():
    kinds = torch.zeros(2, 4, 4, dtype=torch.long)
    kinds[:, 1:3, 1:3] = 1
    kinds[:, 1, 0] = 1
    assert torch.equal(border_foreground(kinds.flatten(1), (4, 4), 0.5).view(2, 4, 4), kinds == 1)
    assert not border_foreground(kinds.flatten(1), (4, 4), 0.2).any(), "a fifth of the kind lies at the border"
