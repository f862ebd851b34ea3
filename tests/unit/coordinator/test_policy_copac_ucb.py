"""The paper's rule, equation by equation (arXiv 2606.17489)."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.estimates import paper_radius
from coordinator.policy import Plan, make_policy
from coordinator.policy.copac_ucb import project_l1
from tests.unit.coordinator.policy_cases import Case, known_case, plan

POLICY = make_policy("copac_ucb", cost_scale=1e6, demand_max=4.0)


@pytest.fixture
def case() -> Case:
    """One context, three arms, everything known; 100 requests in ten slots."""
    return known_case(
        reward=np.array([[0.9, 0.6, 0.3]]),
        cost=np.array([[1e6, 0.5e6, 0.1e6]]),
        demand=np.array([100.0]),
        money=5e7,
        hit=np.array([[0.5, 0.9, 1.0]]),
        floor=0.8,
    )


def after(case: Case, *, last: Plan, slot: int, demand: float) -> Case:
    """Return the case one slot on."""
    return replace(
        case,
        remaining=replace(case.remaining, slot=slot, last=last, last_demand=np.array([demand])),
    )


def test_the_radius_is_the_papers() -> None:
    """sqrt(2 v log(1/delta) / n) + 4 log(1/delta) / n, infinite before the first pull."""
    actual = paper_radius(np.array([0.5, 0.5]), pulls=np.array([100, 0]), delta=np.exp(-2.0))
    np.testing.assert_allclose(actual, [np.sqrt(0.02) + 0.08, np.inf])


def test_the_first_choice_maximises_the_score_at_prices_of_one(case: Case) -> None:
    """Scores: r - (100/50) z + (100/80) h = -0.475, 0.725, 1.35."""
    found = plan(POLICY, case)
    np.testing.assert_array_equal(found.weights, [[0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(found.state["prices"], [1.0, 1.0])


def test_the_dual_step_follows_the_gradient(case: Case) -> None:
    """Hand-computed with M = 4 + 16/5, eta = 2/M, q = 3, arm 3."""
    first = plan(POLICY, case)
    second = plan(POLICY, after(case, last=first, slot=1, demand=3.0))
    step = 2.0 / (4.0 + 16.0 / 5.0)
    money = 3.0 * (100.0 / 50.0) * (50.0 / 100.0 - 0.1)
    hits = 3.0 * (100.0 / 80.0) * (-80.0 / 100.0 + 1.0)
    stepped = np.array([1.0 - step * money, 1.0 - step * hits])
    np.testing.assert_allclose(
        second.state["prices"], project_l1(stepped, radius=10.0**0.25), atol=1e-12
    )


def test_the_demand_estimate_is_refreshed_at_powers_of_two_only(case: Case) -> None:
    """Slots 1 and 3 (t = 2, 4) take the new total, slot 2 (t = 3) keeps the old one."""
    first = plan(POLICY, case)
    grown = replace(case, forecast=replace(case.forecast, total_window=np.array([200.0])))
    kept = plan(POLICY, after(grown, last=first, slot=2, demand=3.0))
    taken = plan(POLICY, after(grown, last=first, slot=3, demand=3.0))
    assert kept.state["total_demand"][0] == 100.0
    assert taken.state["total_demand"][0] == 200.0


def test_a_spent_budget_leaves_the_null_arm(case: Case) -> None:
    """Where every arm costs, nobody is served."""
    broke = replace(case, remaining=replace(case.remaining, packing=np.zeros(1)))
    np.testing.assert_array_equal(plan(POLICY, broke).weights, [[0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ([0.2, 0.3], [0.2, 0.3]),
        ([-1.0, 0.5], [0.0, 0.5]),
        ([2.0, 1.0], [1.0, 0.0]),
        ([0.9, 0.7], [0.6, 0.4]),
    ],
)
def test_prices_are_projected_onto_the_simplex_ball(
    point: list[float], expected: list[float]
) -> None:
    """Nearest point with v >= 0 and a sum of at most 1."""
    np.testing.assert_allclose(project_l1(np.array(point), radius=1.0), expected)
