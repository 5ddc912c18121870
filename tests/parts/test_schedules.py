import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parts.schedules import SCHEDULES, alpha_at

progresses = st.floats(0, 1)
gammas = st.floats(0.1, 8)


@given(progresses, gammas, st.sampled_from(SCHEDULES))
def test_alpha_at__stays_in_the_unit_interval(progress, gamma, schedule):
    assert 0 <= alpha_at(progress, schedule=schedule, gamma=gamma) <= 1


@pytest.mark.parametrize(
    ("schedule", "start", "end"),
    [("intra_to_inter", 0, 1), ("intra", 0, 0), ("inter", 1, 1), ("inter_to_intra", 1, 0), ("cosine", 0, 1)],
)
def test_alpha_at__starts_and_ends_where_its_name_says(schedule, start, end):
    assert alpha_at(0.0, schedule=schedule, gamma=2.0) == start
    assert alpha_at(1.0, schedule=schedule, gamma=2.0) == end


@given(progresses, progresses, gammas)
def test_alpha_at__rising_schedules_never_fall(one, other, gamma):
    early, late = sorted((one, other))
    for schedule in ("intra_to_inter", "cosine"):
        assert alpha_at(early, schedule=schedule, gamma=gamma) <= alpha_at(late, schedule=schedule, gamma=gamma)


@given(progresses, gammas)
def test_alpha_at__inter_to_intra_is_the_method_played_backwards(progress, gamma):
    backwards = alpha_at(progress, schedule="inter_to_intra", gamma=gamma)
    assert backwards == alpha_at(1 - progress, schedule="intra_to_inter", gamma=gamma)


def test_alpha_at__gamma_is_the_exponent():
    assert alpha_at(0.5, schedule="intra_to_inter", gamma=2.0) == 0.25
    assert alpha_at(0.25, schedule="intra_to_inter", gamma=0.5) == 0.5
    assert math.isclose(alpha_at(0.5, schedule="cosine", gamma=7.0), 0.5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"progress": 1.01}, "progress is 1.01"),
        ({"progress": math.nan}, "progress is nan"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"gamma": math.inf}, "gamma is inf"),
        ({"schedule": "linear"}, "schedule is 'linear': expected one of intra_to_inter"),
    ],
)
def test_alpha_at__refuses_what_it_cannot_mean(changed, message):
    arguments = {"progress": 0.5, "schedule": "intra_to_inter", "gamma": 2.0} | changed
    with pytest.raises(ValueError, match=message):
        alpha_at(arguments.pop("progress"), **arguments)
