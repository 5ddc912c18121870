import itertools

import numpy as np
import pytest

from parts.quality import colour_information, foreground_of, matched_iou, part_quality, position_information, usage


@pytest.fixture
def truth():
    return np.random.default_rng(0).integers(0, 5, (20, 6, 6)).astype(np.uint8)


def test_part_quality__renamed_truth_is_perfect(truth):
    names = np.array([4, 2, 0, 3, 1], dtype=np.uint8)
    found = part_quality(names[truth], truth, num_parts=4, background=4)
    for name in (
        "nmi",
        "ari",
        "nmi_foreground",
        "ari_foreground",
        "nmi_foreground_per_image",
        "miou",
        "foreground_iou",
    ):
        assert found[name] == pytest.approx(1), name
    assert found["dead_parts"] == 0
    assert found["usage_entropy"] == pytest.approx(1, abs=0.01)


def test_part_quality__parts_that_change_their_meaning_score_in_images_but_not_over_the_set(truth):
    draw = np.random.default_rng(1)
    labels = np.stack([np.insert(draw.permutation(4), 0, 4)[image] for image in truth]).astype(np.uint8)
    found = part_quality(labels, truth, num_parts=4, background=4)
    assert found["nmi_foreground_per_image"] == pytest.approx(1)
    assert found["nmi_foreground"] < 0.1


def test_part_quality__patches_without_truth_do_not_count(truth):
    labels = truth.copy()
    hidden = truth.copy()
    hidden[:, :2] = 255
    labels[:, :2] = 0
    found = part_quality(labels, hidden, num_parts=5, background=None)
    assert found["nmi"] == pytest.approx(1)
    assert found["miou"] == pytest.approx(1)


def test_part_quality__what_patches_without_truth_are_called_changes_nothing(truth):
    draw = np.random.default_rng(5)
    hidden, labels = np.where(draw.random(truth.shape) < 0.3, 255, truth), draw.integers(0, 5, truth.shape)
    other = np.where(hidden == 255, draw.permutation(5)[labels], labels)
    measured = [part_quality(found, hidden, num_parts=4, background=4) for found in (labels, other)]
    assert measured[0] == measured[1]


def test_part_quality__masks_of_whole_objects_measure_only_what_one_part_tells(truth):
    objects = (truth > 0).astype(np.uint8)
    labels = np.where(truth == 0, 4, truth - 1).astype(np.uint8)
    found = part_quality(labels, objects, num_parts=4, background=4)
    assert found.keys() == {"nmi", "ari", "foreground_iou", "dead_parts", "usage_entropy"}
    assert (found["foreground_iou"], found["dead_parts"]) == (1, 0)
    assert 0 < found["nmi"] < 1
    assert part_quality(1 - objects, objects, num_parts=2, background=1)["nmi"] == pytest.approx(1)


def test_part_quality__without_two_parts_in_an_image_there_is_no_mean_over_images():
    truth = np.repeat(np.array([1, 2], np.uint8), 9).reshape(2, 3, 3)
    found = part_quality(truth, truth, num_parts=3, background=0)
    assert "nmi_foreground_per_image" not in found and found["nmi_foreground"] == pytest.approx(1)


def test_part_quality__a_trimap_is_measured_as_the_same_object_drawn_directly():
    draw = np.random.default_rng(6)
    trimap, labels = draw.integers(1, 4, (20, 6, 6)), draw.integers(0, 5, (20, 6, 6))
    lookup = np.zeros(256, np.uint8)
    lookup[[1, 2, 3]] = 1, 0, 255
    drawn = np.where(trimap == 1, 1, np.where(trimap == 3, 255, 0)).astype(np.uint8)
    one, other = (part_quality(labels, truth, num_parts=4, background=4) for truth in (lookup[trimap], drawn))
    assert one == other


def test_foreground_of__without_a_background_is_what_is_rarer_at_the_border():
    """An object in the middle and two kinds of ground: the part inside is the foreground, found without truth."""
    labels = np.zeros((10, 6, 6), np.uint8)
    labels[:, :3] = 1
    labels[:, 2:5, 2:5] = 2
    assert np.array_equal(foreground_of(labels, None), labels == 2)
    assert np.array_equal(foreground_of(labels, 2), labels != 2)
    everything = np.full((10, 6, 6), 3, np.uint8)
    assert not foreground_of(everything, None).any()


def test_part_quality__predicted_background_inside_the_object_counts_as_a_label(truth):
    labels = np.where(truth == 0, 4, truth - 1).astype(np.uint8)
    spoiled = np.where(truth == 3, 4, labels).astype(np.uint8)
    found = part_quality(spoiled, truth, num_parts=4, background=4)
    assert found["nmi_foreground"] == pytest.approx(1)
    assert found["foreground_iou"] < 0.85
    assert found["dead_parts"] == 1


def test_part_quality__refuses_truth_without_parts():
    with pytest.raises(ValueError, match="no patch has a true part"):
        part_quality(np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8), num_parts=2, background=None)


def test_matched_iou__is_the_best_of_all_matchings():
    draw = np.random.default_rng(2)
    labels, truth = draw.integers(0, 4, 60), draw.integers(0, 4, 60)
    iou = np.array([[((labels == a) & (truth == b)).sum() / ((labels == a) | (truth == b)).sum() for a in range(4)]
                    for b in range(4)])  # fmt: skip
    best = max(sum(iou[b, a] for b, a in enumerate(order)) / 4 for order in itertools.permutations(range(4)))
    assert matched_iou(labels, truth) == pytest.approx(best)


def test_usage__one_part_that_takes_all():
    found = usage(np.zeros((3, 4, 4), np.uint8), np.ones((3, 4, 4), bool), 6)
    assert found == {"dead_parts": 5, "usage_entropy": 0.0}


def test_usage__a_part_below_a_quarter_of_its_fair_share_is_dead():
    labels = np.array([0] * 57 + [1] * 57 + [2] * 14 + [3] * 15, np.uint8)
    assert usage(labels, np.ones_like(labels, bool), 4)["dead_parts"] == 0
    labels[-14:] = 0
    assert usage(labels, np.ones_like(labels, bool), 4)["dead_parts"] == 1


def test_usage__what_lies_outside_the_foreground_does_not_count():
    labels = np.array([[[0, 1], [2, 2]]], np.uint8)
    assert usage(labels, labels < 2, 3)["dead_parts"] == 1


def test_position_information__parts_that_tile_the_image_are_found_out():
    tiles = np.broadcast_to(np.arange(16).reshape(4, 4) // 4, (50, 4, 4)).astype(np.uint8)
    noise = np.random.default_rng(3).integers(0, 4, (500, 4, 4)).astype(np.uint8)
    assert position_information(tiles) == pytest.approx(1)
    assert position_information(noise) < 0.01


def test_colour_information__parts_that_follow_colour_are_found_out():
    draw = np.random.default_rng(4)
    colours = draw.random((200, 4, 4, 3))
    by_colour = (colours[..., 0] > 0.5).astype(np.uint8)
    assert colour_information(by_colour, colours) == pytest.approx(1)
    assert colour_information(draw.integers(0, 2, by_colour.shape), colours) < 0.05


def test_informations__one_label_everywhere_says_nothing():
    labels = np.zeros((2, 3, 3), np.uint8)
    assert position_information(labels) == 0
    assert colour_information(labels, np.zeros((2, 3, 3, 3))) == 0
