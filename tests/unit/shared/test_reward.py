"""Rewards as parts per million."""

from __future__ import annotations

import math

import pytest

from shared.decision.reward import reward_from_ppm, reward_ppm


@pytest.mark.parametrize(("score", "ppm"), [(0.0, 0), (0.25, 250_000), (2e-6 / 3, 1), (1.0, 10**6)])
def test_a_score_becomes_the_nearest_whole_number_of_parts(score: float, ppm: int) -> None:
    """Both ends of the interval count."""
    assert ppm == reward_ppm(score)


@pytest.mark.parametrize("score", [-1e-9, 1.0000001, math.nan, math.inf, -math.inf])
def test_what_is_no_share_is_refused(score: float) -> None:
    """A grade outside the unit interval is a mistake of the client's, not a better answer."""
    with pytest.raises(ValueError, match="from 0 to 1"):
        reward_ppm(score)


def test_parts_become_the_score_again() -> None:
    """What was learned is what was said."""
    assert 0.25 == reward_from_ppm(reward_ppm(0.25))
