from collections import Counter

import pytest

from images.sources.items import NO_LABEL, Item, assign_splits, draw

SHARES = {"seed": 0, "val_share": 0.1, "test_share": 0.2}


def items(count, split="", start=0):
    return [Item(b"%d" % i, (i * 2654435761) % 2**64, split, NO_LABEL) for i in range(start, start + count)]


def classes_of(sizes, split=""):
    """One class for each number of images."""
    every = items(sum(sizes), split)
    for item, label in zip(every, (label for label, size in enumerate(sizes) for _ in range(size)), strict=True):
        item.label = label
    return every


def assigned(every, **changes):
    assign_splits(every, **{**SHARES, **changes})
    return every


def splits(found):
    return {item.id: item.split for item in found}


def test_assign__shares_are_met():
    found = assigned(items(20_000))
    counts = Counter(item.split for item in found)
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.01)
    # val is a share of what test leaves.
    assert counts["val"] / 20_000 == pytest.approx(0.08, abs=0.01)


def test_assign__added_images_move_none():
    assert splits(assigned(items(200))).items() <= splits(assigned(items(1000))).items()


def test_assign__order_does_not_matter_and_the_seed_does():
    sizes = [1 + number % 6 for number in range(200)]
    for draw_items in (lambda: items(300), lambda: classes_of(sizes)):
        one = splits(assigned(draw_items()))
        assert one == splits(assigned(draw_items()[::-1])) != splits(assigned(draw_items(), seed=1))


def test_assign__a_split_of_the_source_stays():
    for given, drawn in (("test", "val"), ("val", "test")):
        found = assigned(items(300, "train") + items(50, given, 300))
        assert {item.split for item in found[300:]} == {given}
        assert {item.split for item in found[:300]} == {"train", drawn}


def test_assign__a_handful_of_images_fills_every_split():
    for count in range(3, 12):
        for seed in range(20):
            assert {item.split for item in assigned(items(count), seed=seed)} == {"train", "val", "test"}


def test_assign__what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="too few"):
        assigned(items(2))
    with pytest.raises(ValueError, match="none for train"):
        assigned(items(20, "test"))


def by_hash(item, missing=("test", "val")):
    """The split that the draws of an image alone give it."""
    shares = {"test": SHARES["test_share"], "val": SHARES["val_share"]}
    return next((s for s in missing if draw(item.id, seed=SHARES["seed"], purpose=s) < shares[s]), "train")


def splits_by_class(every):
    found = {}
    for item in every:
        found.setdefault(item.label, set()).add(item.split)
    return found


def test_assign__where_no_class_is_short_the_hash_alone_decides():
    for every in (assigned(classes_of([400, 300, 200])), assigned(items(900))):
        assert all(item.split == by_hash(item) for item in every)


def test_assign__every_class_of_two_images_is_trained_on_and_tested():
    sizes = [1 + number % 6 for number in range(300)]
    every = assigned(classes_of(sizes))
    for label, splits in splits_by_class(every).items():
        assert splits == {"train"} if sizes[label] == 1 else splits >= {"train", "test"}
    # A class that is not short is left as the hash has it.
    for label in range(300):
        of_class = [item for item in every if item.label == label]
        if {"train", "test"} <= {by_hash(item) for item in of_class}:
            assert all(item.split == by_hash(item) for item in of_class)


def test_assign__splits_of_the_source_are_kept_and_classes_keep_their_training_images():
    every = assigned(classes_of([2] * 200, "train") + items(50, "test", 1000))
    assert all("train" in splits for label, splits in splits_by_class(every).items() if label != NO_LABEL)
    assert Counter(item.split for item in every)["test"] == 50
    # With a val of the source there is a test to draw, of training images.
    every = assigned(classes_of([2] * 200, "train") + items(50, "val", 1000))
    assert all(splits == {"train", "test"} for label, splits in splits_by_class(every).items() if label != NO_LABEL)
    assert Counter(item.split for item in every)["val"] == 50


@pytest.mark.parametrize("given", ["", "val", "test"])
def test_assign__an_added_image_moves_at_most_one_and_of_its_own_class(given):
    rest = items(40, given, 10**6) + items(40, "train" if given else "", 2 * 10**6)
    unmoved = 0
    for first in range(0, 5000, 20):
        group = items(7, "train" if given else "", first)
        for item in group:
            item.label = 0
        other = items(3, "train" if given else "", first + 10)
        for item in other:
            item.label = 1
        before: dict[int, str] = {}
        for count in range(1, 8):
            every = [Item(i.path, i.id, i.split, i.label) for i in (*group[:count], *other, *rest)]
            after = splits(assigned(every))
            moved = [image for image, split in before.items() if after[image] != split]
            assert len(moved) <= 1 and set(moved) <= {item.id for item in group}
            unmoved += not moved
            before = after
    assert unmoved > 1250


def test_assign__a_thousand_classes_of_one_image_are_all_trained_on_but_two():
    every = assigned(classes_of([1] * 1000))
    assert Counter(item.split for item in every) == {"train": 998, "val": 1, "test": 1}


def test_assign__an_empty_split_is_filled_by_a_class_that_can_spare_an_image():
    for start in range(0, 2000, 10):
        every = items(4, start=start)
        for item, label in zip(every, (0, 0, 0, 1), strict=True):
            item.label = label
        assigned(every)
        (lone,) = (item for item in every if item.label == 1)
        assert {item.split for item in every} == {"train", "val", "test"} and lone.split == "train", start


def test_draw__purposes_are_independent():
    pairs = [(draw(i, seed=0, purpose="test"), draw(i, seed=0, purpose="val")) for i in range(4000)]
    low = [val for test, val in pairs if test < 0.2]
    assert sum(low) / len(low) == pytest.approx(0.5, abs=0.05)
