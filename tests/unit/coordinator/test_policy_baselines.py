"""The baselines do the simple thing that their names say."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.policy import make_policy
from tests.unit.coordinator.policy_cases import Case, known_case, plan


@pytest.fixture
def case() -> Case:
    """Two free arms and two paid ones."""
    return known_case(
        reward=np.array([[0.4, 0.6, 0.8, 0.7]]),
        cost=np.array([[0.0, 0.0, 1e6, 2e6]]),
        demand=np.array([10.0]),
        money=1e7,
    )


def test_always_local_takes_the_best_free_arm(case: Case) -> None:
    """Money makes no difference."""
    np.testing.assert_array_equal(plan(make_policy("always_local"), case).weights, [[0, 1, 0, 0]])


def test_always_cloud_takes_the_best_paid_arm_while_money_is_left(case: Case) -> None:
    """And the best free one afterwards."""
    policy = make_policy("always_cloud")
    np.testing.assert_array_equal(plan(policy, case).weights, [[0, 0, 1, 0]])
    broke = replace(case, remaining=replace(case.remaining, packing=np.zeros(1)))
    np.testing.assert_array_equal(plan(policy, broke).weights, [[0, 1, 0, 0]])


def test_uniform_gives_every_feasible_arm_the_same_weight(case: Case) -> None:
    """Without money, every free one."""
    policy = make_policy("uniform")
    np.testing.assert_allclose(plan(policy, case).weights, [[0.25, 0.25, 0.25, 0.25]])
    broke = replace(case, remaining=replace(case.remaining, packing=np.zeros(1)))
    np.testing.assert_allclose(plan(policy, broke).weights, [[0.5, 0.5, 0.0, 0.0]])
