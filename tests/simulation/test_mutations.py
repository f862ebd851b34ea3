"""Every deliberate defect is caught: the checkers can fail."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, catch

SEEDS_MAX = 200
STEPS = 200


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_deliberate_defect_is_caught(name: str) -> None:
    """By a checker, nearly all within a few seeds."""
    caught = catch(MUTATIONS[name], seeds=SEEDS_MAX, steps=STEPS)
    assert caught.seed >= 0, f"{name}, which breaks {MUTATIONS[name].rule}, is not caught"


def test_there_are_enough_of_them() -> None:
    """At least sixteen."""
    assert len(MUTATIONS) >= 16
