import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parts.labelling import UNLABELLED, label_patches, majority_labels


def test_label_patches__takes_the_strongest_map():
    maps = torch.rand(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    labels = label_patches(maps, background="none")
    assert labels.dtype == torch.uint8
    assert labels.shape == (3, 4, 6)
    assert torch.equal(labels.long(), maps.max(dim=1).indices)


def test_label_patches__the_slot_is_label_k():
    maps = torch.zeros(1, 4, 1, 2)
    maps[0, 3, 0, 0] = maps[0, 1, 0, 1] = 1
    assert label_patches(maps, background="slot").tolist() == [[[3, 1]]]


def test_label_patches__attention_mass_marks_only_what_lies_outside_of_it():
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 1] = 1
    attention = torch.tensor([[[0.7, 0.2, 0.06, 0.04]]])
    labels = label_patches(maps, background="attention_mass", cls_attention=attention, mass=0.8)
    assert labels.tolist() == [[[1, 1], [2, 2]]]


def test_label_patches__refuses_an_unknown_background():
    with pytest.raises(ValueError, match="expected one of none, attention_mass, slot"):
        label_patches(torch.zeros(1, 2, 2, 2), background="other")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_majority_labels__agrees_with_counting_by_hand(seed, rows, columns, cell):
    draw = np.random.default_rng(seed)
    masks = draw.choice([0, 1, 2, UNLABELLED], (2, rows * cell, columns * cell)).astype(np.uint8)
    found = majority_labels(masks, (rows, columns))
    for image, row, column in np.ndindex(found.shape):
        pixels = masks[image, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        pixels = pixels[pixels != UNLABELLED]
        expected = np.bincount(pixels).argmax() if pixels.size else UNLABELLED
        assert found[image, row, column] == expected


def test_majority_labels__refuses_a_grid_that_does_not_divide_the_mask():
    with pytest.raises(ValueError, match=r"6 x 6 pixels cannot be cut into a grid of 4 x 3"):
        majority_labels(np.zeros((1, 6, 6), np.uint8), (4, 3))
