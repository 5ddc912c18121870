"""Which patches a masked autoencoder hides: by part (the method) or by one of its baselines.

Every mask is (B, L) bool, True is hidden, and every row hides exactly `hidden_count(L, ratio)` patches.
B images, L patches (a grid gh x gw in raster order), K parts, G = K + 1 groups: the parts and the background.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUNDS = ("part", "random")
ATTENTION_MODES = ("high", "hint")

# BEiT's smallest block is 16 of 14 x 14 patches; its aspect (height : width) goes from 0.3 to 1 / 0.3.
SMALLEST_BLOCK_SHARE = 16 / 196
MOST_OBLONG_BLOCK = 0.3


def hidden_count(length: int, ratio: float) -> int:
    """The number of hidden patches of `length`: int(length * (1 - ratio)) stay visible, as in MAE's code.

    Raises ValueError on a ratio outside (0, 1) or a length below 1.
    """
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"ratio is {ratio}: expected the share of hidden patches, between 0 and 1")
    if length < 1:
        raise ValueError(f"length is {length}: expected at least one patch to mask")
    return length - int(length * (1 - ratio))


def random_mask(batch: int, length: int, *, ratio: float, generator: torch.Generator) -> Tensor:
    """A uniformly random mask (batch, length) bool, True is hidden, on the generator's device.

    Source: MAE section 3. Differs: selects the hidden patches instead of sorting all of them twice.
    """
    total = hidden_count(length, ratio)
    noise = torch.rand(batch, length, device=generator.device, generator=generator)
    hidden = noise.topk(total, dim=1, sorted=False).indices
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(1, hidden, True)


def semantic_mask(
    labels: Tensor,
    *,
    ratio: float,
    alpha: float | Tensor,
    num_parts: int,
    background: str,
    generator: torch.Generator,
    keep_hint: bool = False,
) -> Tensor:
    """A mask (B, L) bool, True is hidden, between a share of every part and whole parts.

    labels: (B, L) integer, 0..num_parts-1 a part, num_parts the background.
    alpha: a float or (B,) in [0, 1]; 0 hides `ratio` of each part (intra-part), 1 hides whole parts in random
        order, the last one partly (inter-part).
    background: "part" treats the background as one more part; "random" hides `ratio` of it at every alpha, and the
        parts hide the rest.
    generator: on the labels' device. keep_hint: leave a patch of every part visible, while there are as many visible ones;
        other groups, in random order, hide as many more instead, the background included.
    Raises ValueError for labels of another shape, type or range, alpha or ratio out of range, another background.

    Source: SemMAE algorithm 1.
    Differs: the released code rounds twice, misses the total by up to 4 patches and corrects it on arbitrary
        ones; here one rounding by largest remainder makes the total exact.
    """
    labels = _checked_labels(labels, num_parts)
    batch, length = labels.shape
    num_groups = batch * (num_parts + 1)
    # One sort of integers orders the batch by image, part and chance. A flat sort is a radix sort, on a CPU three
    # times faster than sorting by row, and as fast for many parts as for few.
    group_bits = num_groups.bit_length()
    dtype, key_bits = (torch.int32, 31) if group_bits <= 15 else (torch.int64, 63)
    chance_bits = key_bits - group_bits
    firsts = torch.arange(0, num_groups, num_parts + 1, dtype=dtype, device=labels.device)
    groups = labels.to(dtype) + firsts[:, None]
    sizes = torch.bincount(groups.flatten(), minlength=num_groups).view(batch, num_parts + 1)
    counts = hidden_per_group(
        sizes, length=length, ratio=ratio, alpha=alpha, background=background, generator=generator
    )
    if keep_hint:
        counts = _with_a_hint_of_each(counts, sizes, generator)
    keys = torch.randint(1 << chance_bits, groups.shape, dtype=dtype, device=labels.device, generator=generator)
    order = keys.bitwise_or_(groups << chance_bits).flatten().sort().indices
    # In this order each group is a run of hidden patches, then a run of visible ones.
    runs = torch.stack([counts, sizes - counts], dim=-1).flatten()
    is_hidden = torch.tensor([True, False], device=labels.device).expand(num_groups, 2).flatten()
    hidden = is_hidden.repeat_interleave(runs, output_size=order.numel())
    return torch.empty_like(hidden).scatter_(0, order, hidden).view(batch, length)


def hidden_per_group(
    sizes: Tensor,
    *,
    length: int,
    ratio: float,
    alpha: float | Tensor,
    background: str,
    generator: torch.Generator,
) -> Tensor:
    """How many patches of each part and of the background are hidden: (B, G) int64, each within [0, size].

    sizes: (B, G) int64, the patches of each part, the background last; every row sums to `length`.
    alpha, background: as in `semantic_mask`. Every row of the result sums to `hidden_count(length, ratio)`, and
    no number is a whole patch or more away from the exact share (1 - alpha) * intra + alpha * inter.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background is {background!r}: expected one of {', '.join(BACKGROUNDS)}")
    total = hidden_count(length, ratio)
    _check_alpha(alpha, len(sizes))
    if isinstance(alpha, Tensor):
        alpha = alpha.to(sizes.device, torch.float64).reshape(-1, 1)
    exact_sizes = sizes.double()
    intra = ratio * exact_sizes
    if background == "part":
        inter = _whole_parts_first(exact_sizes, total, generator)
    else:
        scenery = intra[:, -1:]
        parts = _whole_parts_first(exact_sizes[:, :-1], total - scenery, generator)
        inter = torch.cat([parts, scenery], dim=1)
    return _rounded_to_total(torch.lerp(intra, inter, alpha), exact_sizes, total, generator)


def block_mask(batch: int, grid: tuple[int, int], *, ratio: float, generator: torch.Generator) -> Tensor:
    """A mask (batch, gh * gw) bool, True is hidden, made of rectangles, on the generator's device.

    Adds rectangles of random area, aspect and place until the total is reached, and cuts the last one to fit.
    Source: BEiT algorithm 1; MAE table 1f ("block").
    Differs: an oversized side is clipped to the grid instead of drawn again, and the total is exact.
    """
    rows, columns = grid
    length = rows * columns
    total = hidden_count(length, ratio)
    smallest = min(total, max(1, round(SMALLEST_BLOCK_SHARE * length)))
    device = generator.device
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    mask = torch.zeros(batch, length, dtype=torch.bool, device=device)
    missing = torch.full((batch,), total, device=device)
    while bool((missing > 0).any()):
        by_area, by_aspect, by_top, by_left = torch.rand(4, batch, device=device, generator=generator)
        area = smallest + by_area * (missing - smallest).clamp(min=0)
        root_aspect = torch.exp((by_aspect - 0.5) * -math.log(MOST_OBLONG_BLOCK))
        height = (area.sqrt() * root_aspect).round().clamp(1, rows)
        width = (area.sqrt() / root_aspect).round().clamp(1, columns)
        top, left = (by_top * (rows - height + 1)).floor(), (by_left * (columns - width + 1)).floor()
        in_rows = (row >= top[:, None]) & (row < (top + height)[:, None])
        in_columns = (column >= left[:, None]) & (column < (left + width)[:, None])
        fresh = (in_rows[:, :, None] & in_columns[:, None, :]).flatten(1) & ~mask
        mask |= fresh & (fresh.cumsum(1) <= missing[:, None])
        missing = total - mask.sum(1)
    return mask


def attention_mask(scores: Tensor, *, ratio: float, mode: str, hint_share: float, generator: torch.Generator) -> Tensor:
    """A mask (B, L) bool, True is hidden, that hides the most attended patches.

    scores: (B, L) float or integer, higher is more attended; equal scores are ordered at random.
    mode: "high" hides the most attended; "hint" then reveals some of them and hides the next most attended instead,
        so that the total stays exact.
    hint_share: revealed patches as a share of the hidden ones, drawn from the twice as many most attended; unused by
        "high".
    generator: on the scores' device.
    Raises ValueError for scores that are not finite or not (B, L), another mode, more hints than visible patches.
    Source: AttMask section 3.2. Differs: there hints make the hidden share smaller.
    """
    if scores.ndim != 2 or scores.numel() == 0:
        raise ValueError(f"scores have shape {tuple(scores.shape)}: expected (B, L), one score a patch")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold NaN or infinity: expected finite attention, check the teacher")
    if mode not in ATTENTION_MODES:
        raise ValueError(f"mode is {mode!r}: expected one of {', '.join(ATTENTION_MODES)}")
    batch, length = scores.shape
    total = hidden_count(length, ratio)
    chance = torch.rand(batch, length, device=scores.device, generator=generator).argsort(dim=1)
    ranking = scores.gather(1, chance).argsort(dim=1, descending=True, stable=True)
    ranking = chance.gather(1, ranking)
    if mode == "hint":
        ranking = _with_hints(ranking, total, hint_share, generator)
    mask = torch.zeros(batch, length, dtype=torch.bool, device=scores.device)
    return mask.scatter_(1, ranking[:, :total], True)


def hidden_ratio_std(mask: Tensor, labels: Tensor, num_parts: int) -> Tensor:
    """The standard deviation over an image's parts of the share of the part that is hidden: (B,) float32.

    mask (B, L) bool, True is hidden; labels (B, L) as in `semantic_mask`. The background and parts without a
    patch do not count; the squares are divided by the number of parts. 0 where there is nothing to spread: one
    part, or all background. Near 0 for intra-part masks, up to 0.5 where whole parts are hidden.
    """
    assert mask.shape == labels.shape and mask.dtype == torch.bool
    labels = labels.long()
    size = torch.zeros(len(labels), num_parts + 1, device=labels.device)
    hidden = torch.zeros_like(size).scatter_add_(1, labels, mask.float())[:, :num_parts]
    size = size.scatter_add_(1, labels, torch.ones_like(labels, dtype=size.dtype))[:, :num_parts]
    ratios, present = hidden / size.clamp(min=1), size > 0
    parts = present.sum(1).clamp(min=1)
    mean = ratios.sum(1) / parts
    return ((ratios - mean[:, None]).square().mul(present).sum(1) / parts).sqrt()


def hidden_foreground(mask: Tensor, labels: Tensor, num_parts: int) -> Tensor:
    """The share of an image's foreground, the patches of any part, that is hidden: (B,) float32.

    Arguments as in `hidden_ratio_std`. An image without foreground counts with the share of all its patches.
    """
    assert mask.shape == labels.shape and mask.dtype == torch.bool
    foreground = labels < num_parts
    foreground = foreground | ~foreground.any(dim=1, keepdim=True)
    return (mask & foreground).sum(1) / foreground.sum(1)


def _checked_labels(labels: Tensor, num_parts: int) -> Tensor:
    """The labels (B, L) as int64, each in [0, num_parts]."""
    if labels.ndim != 2 or labels.numel() == 0:
        raise ValueError(f"labels have shape {tuple(labels.shape)}: expected (B, L), one label a patch")
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels are {labels.dtype}: expected an integer type")
    if num_parts < 1:
        raise ValueError(f"num_parts is {num_parts}: expected at least 1")
    labels = labels.long()
    low, high = (int(bound) for bound in labels.aminmax())
    if low < 0 or high > num_parts:
        raise ValueError(
            f"labels go from {low} to {high}: expected 0..{num_parts - 1} (parts) and {num_parts} (background)"
        )
    return labels


def _check_alpha(alpha: float | Tensor, batch: int) -> None:
    if not isinstance(alpha, Tensor):
        within = 0.0 <= alpha <= 1.0
    elif alpha.ndim == 0 or alpha.shape == (batch,):
        within = bool(((alpha >= 0) & (alpha <= 1)).all())
    else:
        raise ValueError(f"alpha has shape {tuple(alpha.shape)}: expected a number or one a row, ({batch},)")
    if not within:
        raise ValueError(f"alpha is {alpha}: expected [0, 1], 0 is intra-part and 1 inter-part masking")


def _whole_parts_first(sizes: Tensor, budget: float | Tensor, generator: torch.Generator) -> Tensor:
    """The budget (patches a row) spent on the groups in random order, each filled before the next: (B, G) in [0, sizes]."""
    order = torch.rand(sizes.shape, device=sizes.device, generator=generator).argsort(dim=1)
    in_order = sizes.gather(1, order)
    before = in_order.cumsum(1) - in_order
    spent = torch.minimum((budget - before).clamp(min=0), in_order)
    return torch.empty_like(spent).scatter_(1, order, spent)


def _with_a_hint_of_each(counts: Tensor, sizes: Tensor, generator: torch.Generator) -> Tensor:
    """The counts (B, G) with a patch less of every part that was hidden whole, and as many more of other groups, at random."""
    is_there = sizes > 0
    is_there[:, -1] = False
    whole = (is_there & (counts == sizes)).long()
    given, counts = whole.sum(1, keepdim=True), counts - whole
    # Where more parts are there than visible patches, some stay hidden whole after all.
    for reserved in (is_there.long(), 0):
        taken = _whole_parts_first((sizes - counts - reserved).double(), given, generator).long()
        given, counts = given - taken.sum(1, keepdim=True), counts + taken
    return counts


def _rounded_to_total(shares: Tensor, sizes: Tensor, total: int, generator: torch.Generator) -> Tensor:
    """Fractional shares (B, G) rounded to int64 that sum to the total, by largest remainder, ties at random.

    The shares of a row sum to at most the total and miss it by at most 1, so no group gets two patches more.
    """
    whole = (shares + 1e-9).floor()  # 0.29 * 100 is 28.999999999999996
    # Remainders that differ only by float noise are ties, which the fraction of the number then breaks.
    priority = ((shares - whole) * 1e6).round() + torch.rand(
        shares.shape, dtype=shares.dtype, device=shares.device, generator=generator
    )
    order = priority.masked_fill_(whole >= sizes, -1.0).argsort(dim=1, descending=True)
    missing = total - whole.sum(1, keepdim=True)
    gets_one = torch.arange(shares.shape[1], device=shares.device) < missing
    return whole.scatter_add_(1, order, gets_one.to(whole.dtype)).long()


def _with_hints(ranking: Tensor, total: int, hint_share: float, generator: torch.Generator) -> Tensor:
    """The ranking (B, L) with some patches of its top exchanged for those that follow the first `total`."""
    length = ranking.shape[1]
    hints = round(hint_share * total)
    if not 0 <= hints <= length - total:
        raise ValueError(
            f"hint_share {hint_share} reveals {hints} patches of {total}: expected 0 to {length - total}, "
            "as many as there are visible ones to hide instead"
        )
    pool = min(2 * hints, total)
    ranking = ranking.clone()
    shuffled = torch.rand(len(ranking), pool, device=ranking.device, generator=generator).argsort(dim=1)
    ranking[:, :pool] = ranking[:, :pool].gather(1, shuffled)
    revealed = ranking[:, :hints].clone()
    ranking[:, :hints] = ranking[:, total : total + hints]
    ranking[:, total : total + hints] = revealed
    return ranking


@dataclass(frozen=True)
class Draw:
    """All that the masks of a batch can depend on; each kind takes what it needs.

    batch: B. grid: (gh, gw). maps: (B, L), part labels as in `semantic_mask`, attention ranks, or None for a kind without
    maps. The others: as in the functions above. generator: on the maps' device.
    """

    batch: int
    grid: tuple[int, int]
    maps: Tensor | None
    ratio: float
    alpha: float
    num_parts: int
    background: str
    keep_hint: bool
    hint_share: float
    generator: torch.Generator


def _parts(draw: Draw) -> Tensor:
    assert draw.maps is not None
    return semantic_mask(
        draw.maps,
        ratio=draw.ratio,
        alpha=draw.alpha,
        num_parts=draw.num_parts,
        background=draw.background,
        generator=draw.generator,
        keep_hint=draw.keep_hint,
    )


def _attention(draw: Draw, mode: str) -> Tensor:
    assert draw.maps is not None
    scores, hints = draw.maps.float(), draw.hint_share
    return attention_mask(scores, ratio=draw.ratio, mode=mode, hint_share=hints, generator=draw.generator)


# How each kind of `config.arms.MASK_KINDS` that hides anything is drawn: (B, L) bool, True is hidden.
MASKS: dict[str, Callable[[Draw], Tensor]] = {
    "random": lambda draw: random_mask(draw.batch, math.prod(draw.grid), ratio=draw.ratio, generator=draw.generator),
    "block": lambda draw: block_mask(draw.batch, draw.grid, ratio=draw.ratio, generator=draw.generator),
    "parts": _parts,
    "attmask_high": lambda draw: _attention(draw, "high"),
    "attmask_hint": lambda draw: _attention(draw, "hint"),
}
