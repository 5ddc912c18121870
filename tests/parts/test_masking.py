import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from config.arms import MASK_KINDS
from parts.masking import (
    BACKGROUNDS,
    MASKS,
    attention_mask,
    block_mask,
    hidden_count,
    hidden_foreground,
    hidden_per_group,
    hidden_ratio_std,
    random_mask,
    semantic_mask,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sizes_of(labels, num_parts):
    return torch.nn.functional.one_hot(labels.long(), num_parts + 1).sum(1)


def hidden_of(mask, labels, num_parts):
    return (torch.nn.functional.one_hot(labels.long(), num_parts + 1) * mask[:, :, None]).sum(1)


def dirichlet_labels(images, length, num_parts, seed=0):
    """Part labels (images, length) whose part sizes follow a Dirichlet law; no background."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(num_parts, 2.0), size=images)
    return np.stack([rng.choice(num_parts, size=length, p=share) for share in shares])


ratios = st.one_of(st.sampled_from([0.75, 0.5, 0.9, 0.6, 0.1, 0.29]), st.floats(0.01, 0.99))


@st.composite
def label_batches(draw):
    """(labels, num_parts): any grid, any number of parts, with empty parts, one-part and all-background images."""
    num_parts = draw(st.integers(1, 9))
    length = draw(st.integers(1, 8)) * draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = []
    for kind in draw(st.lists(st.sampled_from(["any", "two", "one", "background"]), min_size=1, max_size=4)):
        present = {
            "any": np.arange(num_parts + 1),
            "two": rng.integers(0, num_parts + 1, size=2),
            "one": rng.integers(0, num_parts, size=1),
            "background": np.array([num_parts]),
        }[kind]
        rows.append(rng.choice(present, size=length))
    return torch.from_numpy(np.stack(rows)), num_parts


@given(st.integers(1, 5), st.integers(1, 300), ratios)
def test_random_mask__hides_exactly_the_stated_number(batch, length, ratio):
    mask = random_mask(batch, length, ratio=ratio, generator=seeded())
    assert mask.shape == (batch, length) and mask.dtype == torch.bool
    assert (mask.sum(1) == length - int(length * (1 - ratio))).all()


def test_hidden_count__is_147_of_196_at_three_quarters():
    assert hidden_count(196, 0.75) == 147


def test_random_mask__hides_every_patch_equally_often():
    share = random_mask(4000, 20, ratio=0.75, generator=seeded()).float().mean(0)
    assert (share - 0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / 4000)


@settings(max_examples=200)
@given(label_batches(), ratios, st.data(), st.sampled_from(BACKGROUNDS))
def test_semantic_mask__keeps_its_invariants(batch, ratio, data, background):
    labels, num_parts = batch
    rows, length = labels.shape
    alpha = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=rows, max_size=rows)), dtype=torch.float64)
    arguments = {"ratio": ratio, "num_parts": num_parts, "background": background}
    mask = semantic_mask(labels, alpha=alpha, generator=seeded(), **arguments)
    assert mask.shape == labels.shape and mask.dtype == torch.bool
    assert (mask.sum(1) == length - int(length * (1 - ratio))).all()

    sizes = sizes_of(labels, num_parts)
    exact = sizes.double() * ratio
    tolerance = 1 + 1e-6
    intra = hidden_of(semantic_mask(labels, alpha=0.0, generator=seeded(), **arguments), labels, num_parts)
    assert ((intra - exact).abs() <= tolerance).all()
    if background == "random":
        background_hidden = hidden_of(mask, labels, num_parts)[:, -1]
        assert ((background_hidden - exact[:, -1]).abs() <= tolerance).all()
    inter = hidden_of(semantic_mask(labels, alpha=1.0, generator=seeded(), **arguments), labels, num_parts)
    scheduled = slice(None) if background == "part" else slice(0, num_parts)
    broken = ((inter > 0) & (inter < sizes))[:, scheduled]
    assert (broken.sum(1) <= 1).all()


@given(label_batches(), st.sampled_from([0.75, 0.5, 0.9, 0.6, 0.375]), st.floats(0, 1), st.sampled_from(BACKGROUNDS))
def test_hidden_per_group__is_within_each_part_and_sums_to_the_total(batch, ratio, alpha, background):
    labels, num_parts = batch
    length = labels.shape[1]
    sizes = sizes_of(labels, num_parts)
    counts = hidden_per_group(sizes, length=length, ratio=ratio, alpha=alpha, background=background, generator=seeded())
    assert ((counts >= 0) & (counts <= sizes)).all()
    assert (counts.sum(1) == hidden_count(length, ratio)).all()


def test_semantic_mask__hides_less_than_a_patch_beside_the_ratio_of_each_part_at_alpha_0():
    labels = torch.from_numpy(dirichlet_labels(64, 196, 6))
    mask = semantic_mask(labels, ratio=0.75, alpha=0.0, num_parts=6, background="part", generator=seeded())
    assert ((hidden_of(mask, labels, 6) - 0.75 * sizes_of(labels, 6)).abs() < 1).all()


def test_semantic_mask__takes_alpha_by_row():
    labels = torch.from_numpy(dirichlet_labels(2, 196, 6)).repeat_interleave(100, dim=0)
    alpha = torch.tensor([0.0, 1.0]).repeat_interleave(100)
    mask = semantic_mask(labels, ratio=0.75, alpha=alpha, num_parts=6, background="part", generator=seeded())
    spread = hidden_ratio_std(mask, labels, 6)
    assert spread[:100].max() < 0.1 and spread[100:].min() > 0.2


def test_semantic_mask__rounds_ties_to_every_part_equally_often():
    # Four parts of 5 patches, ratio 1/2: each part is owed 2.5, two of the four get 3.
    labels = torch.arange(4).repeat_interleave(5).expand(4000, 20)
    mask = semantic_mask(labels, ratio=0.5, alpha=0.0, num_parts=4, background="part", generator=seeded())
    hidden = hidden_of(mask, labels, 4)[:, :4]
    assert ((hidden == 2) | (hidden == 3)).all()
    assert ((hidden == 3).float().mean(0) - 0.5).abs().max() < 0.05


def test_semantic_mask__hides_every_patch_of_a_part_equally_often():
    labels = torch.tensor([0] * 8 + [1] * 12).expand(4000, 20)
    for alpha in (0.0, 0.6, 1.0):
        mask = semantic_mask(labels, ratio=0.7, alpha=alpha, num_parts=2, background="part", generator=seeded())
        for part in (0, 1):
            share = mask[:, labels[0] == part].float().mean(0)
            assert share.max() - share.min() < 0.08


def test_semantic_mask__fills_from_the_parts_when_the_background_is_random():
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 60).expand(200, 100)
    mask = semantic_mask(labels, ratio=0.75, alpha=1.0, num_parts=2, background="random", generator=seeded())
    hidden = hidden_of(mask, labels, 2)
    assert (hidden[:, 2] == 45).all()
    assert (hidden[:, :2].sort(dim=1).values == torch.tensor([10, 20])).all()


@given(label_batches(), st.sampled_from([0.75, 0.5, 0.9, 0.375]), st.floats(0, 1), st.sampled_from(BACKGROUNDS))
def test_semantic_mask__keep_hint_shows_a_patch_of_every_part(batch, ratio, alpha, background):
    labels, num_parts = batch
    arguments = {"ratio": ratio, "alpha": alpha, "num_parts": num_parts, "background": background}
    mask = semantic_mask(labels, generator=seeded(), keep_hint=True, **arguments)
    total = hidden_count(labels.shape[1], ratio)
    assert (mask.sum(1) == total).all()
    sizes, hidden = (
        found[:, :num_parts] for found in (sizes_of(labels, num_parts), hidden_of(mask, labels, num_parts))
    )
    is_there = sizes > 0
    lost = (is_there & (hidden == sizes)).sum(1)
    assert (lost <= (is_there.sum(1) - (labels.shape[1] - total)).clamp(min=0)).all()


def test_semantic_mask__keep_hint_changes_no_mask_that_shows_every_part():
    labels = torch.from_numpy(dirichlet_labels(64, 196, 6))
    arguments = {"ratio": 0.75, "alpha": 0.0, "num_parts": 6, "background": "random"}
    plain, kept = (semantic_mask(labels, generator=seeded(), keep_hint=keep, **arguments) for keep in (False, True))
    shows_all = (hidden_of(plain, labels, 6) < sizes_of(labels, 6))[:, :6].all(1)
    assert shows_all.any()
    assert torch.equal(hidden_of(plain, labels, 6)[shows_all], hidden_of(kept, labels, 6)[shows_all])


def test_semantic_mask__depends_on_the_generator_alone():
    labels = torch.from_numpy(dirichlet_labels(8, 49, 3))
    arguments = {"ratio": 0.75, "alpha": 0.5, "num_parts": 3, "background": "part"}
    first = semantic_mask(labels, generator=seeded(1), **arguments)
    torch.manual_seed(99)
    assert torch.equal(first, semantic_mask(labels, generator=seeded(1), **arguments))
    assert torch.equal(first, semantic_mask(labels.to(torch.uint8), generator=seeded(1), **arguments))
    assert not torch.equal(first, semantic_mask(labels, generator=seeded(2), **arguments))


def test_semantic_mask__handles_more_groups_than_a_32_bit_key_can_number():
    labels = torch.randint(0, 201, (200, 9), generator=seeded())
    mask = semantic_mask(labels, ratio=0.75, alpha=0.0, num_parts=200, background="part", generator=seeded())
    assert (mask.sum(1) == hidden_count(9, 0.75)).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.zeros(2, 4)}, "labels are torch.float32: expected an integer type"),
        ({"labels": torch.zeros(2, 4, dtype=torch.bool)}, "labels are torch.bool"),
        ({"labels": torch.zeros(4, dtype=torch.long)}, r"labels have shape \(4,\)"),
        ({"labels": torch.zeros(0, 4, dtype=torch.long)}, r"labels have shape \(0, 4\)"),
        ({"labels": torch.tensor([[0, 4]])}, "labels go from 0 to 4: expected 0..2"),
        ({"labels": torch.tensor([[-1, 3]])}, "labels go from -1 to 3"),
        ({"labels": torch.tensor([[0, 2**40]])}, "labels go from 0 to 1099511627776"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"alpha": torch.tensor([0.5, -0.1])}, "alpha is tensor"),
        ({"alpha": torch.tensor([0.5])}, r"alpha has shape \(1,\): expected a number or one a row, \(2,\)"),
        ({"background": "hidden"}, "background is 'hidden': expected one of part, random"),
        ({"ratio": 0.0}, "ratio is 0.0"),
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"num_parts": 0}, "num_parts is 0"),
    ],
)
def test_semantic_mask__refuses_what_it_cannot_mean(changed, message):
    arguments = {
        "labels": torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]]),
        "ratio": 0.75,
        "alpha": 0.5,
        "num_parts": 3,
        "background": "part",
        "generator": seeded(),
    } | changed
    with pytest.raises(ValueError, match=message) as caught:
        semantic_mask(arguments.pop("labels"), **arguments)
    assert "\n" not in str(caught.value)


def released_mask(labels, ratio, alpha, num_parts, rng):
    """One image's mask by the six steps of the released sampler, in plain Python."""
    length = len(labels)
    shuffled = rng.permutation(length)  # 1
    members = [[patch for patch in shuffled if labels[patch] == part] for part in range(num_parts)]
    intra = [round(ratio * len(patches)) for patches in members]  # 2
    inter, before = [0] * num_parts, 0
    for part in rng.permutation(num_parts):  # 3
        size = len(members[part])
        inter[part] = min(size, max(0, math.floor(ratio * length - before)))
        before += size
    hidden = np.zeros(length, dtype=bool)
    for part, patches in enumerate(members):
        count = round((1 - alpha) * intra[part] + alpha * inter[part])  # 4
        hidden[patches[:count]] = True  # 5
    ranked = sorted(shuffled, key=lambda patch: not hidden[patch])  # 6
    mask = np.zeros(length, dtype=bool)
    mask[ranked[: length - math.floor(length * (1 - ratio))]] = True
    return mask


RELEASED_STATISTICS = {  # alpha: std of the hidden ratio over parts, parts wholly hidden, parts wholly visible
    0.0: (0.02, 0.0, 0.0),
    0.25: (0.11, 0.0, 0.0),
    0.5: (0.21, 0.0, 0.0),
    0.75: (0.31, 0.06, 0.0),
    0.9: (0.37, 0.21, 0.02),
    1.0: (0.41, 0.62, 0.19),
}


def whole_part_shares(mask, labels, num_parts):
    """The shares of each image's parts that are wholly hidden and wholly visible: two (B,)."""
    of_part = F.one_hot(labels, num_parts + 1)[..., :num_parts]
    size, hidden = of_part.sum(1), (of_part * mask[..., None]).sum(1)
    present = size > 0
    return [(same & present).sum(1) / present.sum(1).clamp(min=1) for same in (hidden == size, hidden == 0)]


@pytest.mark.parametrize("alpha", RELEASED_STATISTICS)
def test_semantic_mask__has_the_statistics_of_the_released_sampler(alpha):
    num_parts, images = 6, 300
    labels = dirichlet_labels(images, 196, num_parts, seed=1)
    rng = np.random.default_rng(2)
    theirs = torch.from_numpy(np.stack([released_mask(row, 0.75, alpha, num_parts, rng) for row in labels]))
    labels = torch.from_numpy(labels)
    ours = semantic_mask(labels, ratio=0.75, alpha=alpha, num_parts=num_parts, background="part", generator=seeded())

    def statistics(mask):
        hidden, visible = whole_part_shares(mask, labels, num_parts)
        return [float(values.mean()) for values in (hidden_ratio_std(mask, labels, num_parts), hidden, visible)]

    assert statistics(ours) == pytest.approx(statistics(theirs), abs=0.03)
    assert statistics(ours) == pytest.approx(RELEASED_STATISTICS[alpha], abs=0.04)


@settings(max_examples=50)
@given(st.integers(1, 4), st.tuples(st.integers(1, 15), st.integers(1, 15)), ratios)
def test_block_mask__hides_exactly_the_stated_number(batch, grid, ratio):
    mask = block_mask(batch, grid, ratio=ratio, generator=seeded())
    assert mask.shape == (batch, grid[0] * grid[1])
    assert (mask.sum(1) == hidden_count(grid[0] * grid[1], ratio)).all()


def test_block_mask__hides_neighbours_together():
    def borders(mask):
        mask = mask.view(-1, 14, 14)
        return float((mask[:, 1:] != mask[:, :-1]).float().mean() + (mask[:, :, 1:] != mask[:, :, :-1]).float().mean())

    blocks = block_mask(64, (14, 14), ratio=0.5, generator=seeded())
    scattered = random_mask(64, 196, ratio=0.5, generator=seeded())
    assert borders(blocks) < 0.4 * borders(scattered)


@given(st.integers(4, 60), ratios, st.integers(0, 1000))
def test_attention_mask__high_hides_the_most_attended(length, ratio, seed):
    scores = torch.rand(3, length, generator=seeded(seed))
    mask = attention_mask(scores, ratio=ratio, mode="high", hint_share=0.0, generator=seeded())
    total = hidden_count(length, ratio)
    assert (mask.sum(1) == total).all()
    for row, hidden in zip(scores, mask, strict=True):
        assert set(hidden.nonzero().flatten().tolist()) == set(row.argsort(descending=True)[:total].tolist())


def test_attention_mask__hint_reveals_some_of_the_top_and_keeps_the_total():
    scores = torch.arange(100.0).flip(0).expand(500, 100)  # patch 0 is the most attended
    mask = attention_mask(scores, ratio=0.6, mode="hint", hint_share=0.08, generator=seeded())
    assert (mask.sum(1) == 60).all()
    assert ((~mask[:, :10]).sum(1) == 5).all() and mask[:, 10:65].all() and not mask[:, 65:].any()
    revealed = (~mask[:, :10]).float().mean(0)
    assert (revealed - 0.5).abs().max() < 0.12


def test_attention_mask__breaks_ties_at_random():
    share = attention_mask(torch.zeros(2000, 10), ratio=0.5, mode="high", hint_share=0.0, generator=seeded()).float()
    assert (share.mean(0) - 0.5).abs().max() < 0.06


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": torch.tensor([[0.0, math.nan]])}, "scores hold NaN"),
        ({"scores": torch.zeros(4)}, r"scores have shape \(4,\)"),
        ({"mode": "low"}, "mode is 'low': expected one of high, hint"),
        ({"hint_share": 0.5}, "hint_share 0.5 reveals 4 patches of 8: expected 0 to 2"),
        ({"hint_share": -0.5}, "hint_share -0.5"),
    ],
)
def test_attention_mask__refuses_what_it_cannot_mean(changed, message):
    arguments = {
        "scores": torch.zeros(2, 10),
        "ratio": 0.75,
        "mode": "hint",
        "hint_share": 0.1,
        "generator": seeded(),
    } | changed
    with pytest.raises(ValueError, match=message):
        attention_mask(arguments.pop("scores"), **arguments)


def test_hidden_ratio_std__counts_only_parts_with_patches():
    labels = torch.tensor([[0, 0, 2, 2, 3, 3], [1, 1, 1, 1, 3, 3], [3, 3, 3, 3, 3, 3]])
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    assert hidden_ratio_std(mask, labels, 3).tolist() == [0.5, 0.0, 0.0]


def test_hidden_foreground__counts_the_patches_of_all_parts_and_without_any_those_of_the_image():
    labels = torch.tensor([[0, 0, 2, 2, 3, 3], [1, 1, 1, 1, 3, 3], [3, 3, 3, 3, 3, 3]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    assert hidden_foreground(mask, labels, 3).tolist() == [0.75, 0.25, 0.5]


def test_masks__every_kind_of_an_arm_can_be_drawn_and_no_other():
    assert {*MASKS, "none"} == set(MASK_KINDS)
