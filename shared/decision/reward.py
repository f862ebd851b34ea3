"""Rewards as integers: parts per million of the unit interval."""

from __future__ import annotations

from shared.decision.money import PPM


def reward_ppm(score: float) -> int:
    """A score in [0, 1] as parts per million.

    Raises
    ------
    ValueError
        If the score is not a number in [0, 1].
    """
    if not 0.0 <= score <= 1.0:  # nor is NaN
        raise ValueError(f"a reward must be a number from 0 to 1, not {score!r}")
    return round(score * PPM)


def reward_from_ppm(ppm: int) -> float:
    """Parts per million as a score in [0, 1]."""
    return ppm / PPM
