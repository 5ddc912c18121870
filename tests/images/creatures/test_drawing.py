from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import binary_dilation

from images.creatures.anatomy import (
    ATTRIBUTES,
    EARS,
    HEAD,
    LEGS,
    MARKS,
    PARTS,
    SHAPES,
    SNOUT,
    SPECIES,
    TAIL,
    TORSO,
    WINGS,
    mixed,
    pose,
)  # fmt: skip
from images.creatures.drawing import coats, draw, place

SCENE = {"seed": 3, "size": 32, "max_clutter": 6, "occlusion": 0.5}
WINGED = {"dragon", "griffin", "rooster", "heron", "bat"}


def picture(index, split="train", **changes):
    return draw(split=split, index=index, **{**SCENE, **changes})


@pytest.fixture(scope="module")
def pictures():
    return [picture(index) for index in range(60)]


def test_draw__depends_on_its_key_alone(pictures):
    """Drawn alone, backwards, or after other pictures: the same bytes."""
    for index in (41, 7, 0):
        again = picture(index)
        assert np.array_equal(again.image, pictures[index].image)
        assert np.array_equal(again.labels, pictures[index].labels)


def test_draw__uses_no_global_generator():
    np.random.seed(0)
    first = picture(5).image
    np.random.seed(1)
    assert np.array_equal(picture(5).image, first)


def test_draw__each_part_of_the_key_moves_the_picture(pictures):
    for other in (picture(10), picture(0, split="test"), picture(0, seed=4)):
        assert not np.array_equal(other.image, pictures[0].image)
        assert not np.array_equal(other.labels, pictures[0].labels)


@pytest.mark.parametrize("size", [32, 33, 96])
def test_draw__any_size(size):
    drawn = picture(6, size=size)
    assert drawn.image.shape == (size, size, 3) and drawn.image.dtype == np.uint8
    assert drawn.labels.shape == (size, size) and drawn.labels.dtype == np.uint8
    assert drawn.image.flags.c_contiguous and set(np.unique(drawn.labels)) <= set(range(len(PARTS) + 1))


def test_draw__the_size_changes_the_resolution_and_not_the_scene():
    for index in range(5):
        small, large = picture(index, size=32), picture(index, size=96)
        assert (small.labels == large.labels[1::3, 1::3]).mean() > 0.97
        shrunk = large.image.reshape(32, 3, 32, 3, 3).mean((1, 3))
        assert np.corrcoef(shrunk.ravel(), small.image.ravel())[0, 1] > 0.9


def test_labels__are_where_the_animal_changes_the_scene():
    """Without its animal the scene differs on the labels, and elsewhere only along their soft outline."""
    for index in range(20):
        drawn, empty = (picture(index, size=64, occlusion=0.0, animal=animal) for animal in (True, False))
        assert not empty.labels.any()
        changed = (drawn.image != empty.image).any(-1)
        labelled = drawn.labels > 0
        assert changed[labelled].mean() > 0.98
        assert not (changed & ~binary_dilation(labelled, np.ones((3, 3)))).any()


def test_labels__occluders_hide_parts():
    hidden = 0
    for index in range(10):
        clear, covered = picture(index, occlusion=0.0), picture(index, occlusion=1.0)
        assert ((covered.labels == clear.labels) | (covered.labels == 0)).all()
        hidden += (covered.labels != clear.labels).sum()
        changed = (covered.image != clear.image).any(-1)
        assert not ((covered.labels != clear.labels) & ~changed).any()
    assert hidden > 0


def test_labels__every_part_is_seen_and_only_where_the_species_has_it(pictures):
    for part in (TORSO, HEAD, LEGS, TAIL, EARS, SNOUT):
        assert np.mean([(p.labels == part).any() for p in pictures]) > 0.9
    for p in pictures:
        assert (p.labels == WINGS).any() == (p.species in WINGED)


def test_labels__the_animal_fills_a_good_share_of_the_picture(pictures):
    shares = np.array([(p.labels > 0).mean() for p in pictures])
    assert 0.2 < shares.mean() < 0.4 and shares.min() > 0.08


def test_classes__are_balanced(pictures):
    assert set(Counter(p.species for p in pictures).values()) == {6}
    assert set(Counter(p.attributes["subspecies"] for p in pictures).values()) == {2}
    assert len({p.attributes["subspecies"] for p in pictures}) == len(SPECIES) * len(MARKS)


def test_species__differ_in_their_shapes_and_share_most():
    def shapes(species):
        return (
            species.torso,
            species.head,
            species.legs,
            species.tail,
            species.wings,
            species.ears,
            species.snout,
        )

    every = [shapes(species) for species in SPECIES]
    assert len({species.name for species in SPECIES}) == 10
    for i, one in enumerate(every):
        for other in every[:i]:
            assert sum(a != b for a, b in zip(one, other, strict=True)) >= 2
    counts = [Counter(column) for column in zip(*every, strict=True)]
    shared = np.mean([counts[j][shape] > 1 for one in every for j, shape in enumerate(one)])
    assert shared > 0.8


def attributes_of(count, coherence):
    """For each attribute, how often each species (rows) has each shape (columns)."""
    table = {name: np.zeros((len(SPECIES), len(SHAPES[name]))) for name in ATTRIBUTES}
    for index in range(count):
        species = index % len(SPECIES)
        found = mixed(SPECIES[species], coherence, np.random.default_rng([7, index]))
        for name in ATTRIBUTES:
            table[name][species, SHAPES[name].index(getattr(found, name))] += 1
    return table


@pytest.mark.parametrize("coherence", [0.0, 0.7, 1.0])
def test_mixed__species_have_each_shape_as_often_as_coherence_says(coherence):
    for name, counts in attributes_of(4000, coherence).items():
        own = np.array([[getattr(one, name) == shape for shape in SHAPES[name]] for one in SPECIES])
        expected = 400 * (coherence * own + (1 - coherence) / len(SHAPES[name]))
        assert not counts[expected == 0].any()
        if coherence < 1:
            degrees = counts.size - len(SPECIES)
            assert stats.chi2.sf(np.sum((counts - expected) ** 2 / expected), degrees) > 1e-4, name
        else:
            assert np.array_equal(counts, expected)


def test_mixed__without_coherence_no_part_tells_another():
    drawn = [mixed(SPECIES[0], 0.0, np.random.default_rng([8, index])) for index in range(4000)]
    for first, second in combinations(ATTRIBUTES, 2):
        table = np.zeros((len(SHAPES[first]), len(SHAPES[second])))
        for one in drawn:
            table[SHAPES[first].index(getattr(one, first)), SHAPES[second].index(getattr(one, second))] += 1
        assert stats.chi2_contingency(table).pvalue > 1e-5, (first, second)


def test_draw__a_mixed_animal_has_its_attributes_and_keeps_its_scene():
    for index in range(20):
        mixed_up, pure = picture(index, coherence=0.0), picture(index)
        assert mixed_up.species == pure.species and mixed_up.attributes["mark"] == pure.attributes["mark"]
        assert np.array_equal(picture(index, coherence=0.0, animal=False).image, picture(index, animal=False).image)
        assert (WINGS in mixed_up.labels) <= (mixed_up.attributes["wings"] != "none")
    assert any(picture(index, coherence=0.0).attributes != picture(index).attributes for index in range(20))


@pytest.mark.parametrize("species", SPECIES, ids=lambda species: species.name)
def test_pose__has_the_parts_of_its_species(species):
    first, second = (pose(species, np.random.default_rng(seed)) for seed in (0, 1))
    kinds = {part.kind for part in first.parts}
    assert kinds == set(range(1, len(PARTS) + 1)) - (set() if species.name in WINGED else {WINGS})
    assert species.marked in kinds
    assert first.parts != second.parts


def test_coats__the_mark_of_other_parts_tells_nothing():
    """The sub-species shows on one part of the species; the same marks fall on every large kind elsewhere."""
    rng = np.random.default_rng(0)
    drawn = [coats(TORSO, "barred", rng) for _ in range(90)]
    assert {worn[TORSO].mark for worn in drawn} == {"barred"}
    for kind in (TAIL, WINGS):
        counts = Counter(worn[kind].mark for worn in drawn)
        assert set(counts) == set(MARKS) and min(counts.values()) > 15


def test_place__varies_and_keeps_the_animal_in_sight():
    rng = np.random.default_rng(0)
    animal = pose(SPECIES[0], rng)
    placements = [place(animal, 64, rng) for _ in range(200)]
    targets = np.array([placement.target for placement in placements])
    assert (targets.std(axis=0) > 3).all() and np.abs(targets - 32).max() < 16
    assert 0.3 < np.mean([placement.mirrored for placement in placements]) < 0.7
    assert np.std([placement.angle for placement in placements]) > 0.4


def test_colours__tell_little_about_the_species():
    """Nearest neighbours of colour histograms stay near chance (0.1): parts tell the species, not colours."""
    train, test = [[picture(i, split=s) for i in range(n)] for s, n in (("train", 120), ("test", 60))]

    def histograms(drawn):
        bins = np.stack([p.image for p in drawn]).astype(int) // 64
        codes = (bins[..., 0] * 16 + bins[..., 1] * 4 + bins[..., 2]).reshape(len(drawn), -1)
        return np.sqrt(np.stack([np.bincount(row, minlength=64) for row in codes]))

    nearest = (histograms(test) @ histograms(train).T).argmax(axis=1)
    assert np.mean([train[j].species == p.species for j, p in zip(nearest, test, strict=True)]) < 0.3
