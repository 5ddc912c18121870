from collections import Counter

import pytest

from images.sources.items import Item, assign_splits, draw

SHARES = {"seed": 0, "val_share": 0.1, "test_share": 0.2}


def items(count, split="", start=0):
    return [Item(b"%d" % i, (i * 2654435761) % 2**64, split, 0) for i in range(start, start + count)]


def splits(found):
    return {item.id: item.split for item in found}


def test_assign__shares_are_met():
    found = items(20_000)
    assign_splits(found, **SHARES)
    counts = Counter(item.split for item in found)
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.01)
    # val is a share of what test leaves.
    assert counts["val"] / 20_000 == pytest.approx(0.08, abs=0.01)


def test_assign__added_images_move_none():
    before, after = items(200), items(1000)
    assign_splits(before, **SHARES)
    assign_splits(after, **SHARES)
    assert splits(before).items() <= splits(after).items()


def test_assign__order_does_not_matter_and_the_seed_does():
    one, other, reseeded = items(300), items(300)[::-1], items(300)
    assign_splits(one, **SHARES)
    assign_splits(other, **SHARES)
    assign_splits(reseeded, **{**SHARES, "seed": 1})
    assert splits(one) == splits(other) != splits(reseeded)


def test_assign__a_split_of_the_source_stays():
    found = items(300, "train") + items(50, "test", 300)
    assign_splits(found, **SHARES)
    assert {item.split for item in found[300:]} == {"test"}
    assert {item.split for item in found[:300]} == {"train", "val"}
    found = items(300, "train") + items(50, "val", 300)
    assign_splits(found, **SHARES)
    assert {item.split for item in found[300:]} == {"val"}
    assert {item.split for item in found[:300]} == {"train", "test"}


def test_assign__a_handful_of_images_fills_every_split():
    for count in range(3, 12):
        for seed in range(20):
            found = items(count)
            assign_splits(found, seed=seed, val_share=0.1, test_share=0.2)
            assert {item.split for item in found} == {"train", "val", "test"}


def test_assign__what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="too few"):
        assign_splits(items(2), **SHARES)
    with pytest.raises(ValueError, match="none for train"):
        assign_splits(items(20, "test"), **SHARES)


def test_draw__purposes_are_independent():
    pairs = [(draw(i, seed=0, purpose="test"), draw(i, seed=0, purpose="val")) for i in range(4000)]
    low = [val for test, val in pairs if test < 0.2]
    assert sum(low) / len(low) == pytest.approx(0.5, abs=0.05)
