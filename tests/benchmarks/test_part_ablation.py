import pytest

from benchmarks.part_ablation import MEASURES, World, variants
from config.groups import RefineParams
from config.params import load_params


@pytest.fixture
def tiny(world, monkeypatch):
    monkeypatch.chdir(world)
    return World()


def test_variants__are_valid_parameters(world):
    base = load_params(world / "params.yaml").refine
    for name, (layer, change) in variants(base, heads=6, width=24).items():
        assert layer in (None, 0, 1, 2, 3), name
        RefineParams(**{**base.model_dump(), **change})


def test_world__measures_a_variant_and_the_baselines(tiny):
    change = {"epochs": 1.0, "equivariance_weight": 1.0}
    first, second = (tiny.learned(0, change, seed=1) for _ in range(2))
    assert first == second
    assert set(MEASURES) <= first.keys()
    assert set(tiny.trivial(0)) == {"raw heads", "k-means on tokens", "colour clusters", "x-y clusters", "random"}
