"""The default policy's behaviour, rule by rule."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.policy import LpUcb, make_policy, solve_fluid_lp
from coordinator.policy.base import Bounds
from tests.unit.coordinator.policy_cases import Case, around, known_case, plan

REWARD = np.array([[0.5, 0.9], [0.6, 0.7]])
COST = np.array([[0.0, 1e6], [0.0, 1e6]])


def changed(case: Case, *, booked: np.ndarray | None = None, reward: Bounds | None = None) -> Case:
    """Return the case with other counts or reward bounds."""
    estimates = case.estimates
    if booked is not None:
        estimates = replace(estimates, sent=booked, graded=booked)
    if reward is not None:
        estimates = replace(estimates, reward=reward)
    return replace(case, estimates=estimates)


def test_with_certain_estimates_it_is_the_fluid_optimum() -> None:
    """No bonus, no exploration: weights, prices and objective are the programme's."""
    case = known_case(reward=REWARD, cost=COST, demand=np.array([40.0, 60.0]), money=5e7)
    found = plan(LpUcb(), case)
    best = solve_fluid_lp(
        np.array([40.0, 60.0]),
        reward=REWARD,
        packing=(COST,),
        budget=np.array([5e7]),
        hits=(np.ones((2, 2)),),
        floor=np.zeros(1),
        rho=np.ones(1),
        feasible=np.ones((2, 2), dtype=np.bool_),
    )
    np.testing.assert_allclose(found.weights, best.weights)
    assert found.objective == best.objective


def test_without_money_the_free_arm_serves() -> None:
    """An overdrawn balance counts as none."""
    case = known_case(reward=REWARD, cost=COST, demand=np.array([40.0, 60.0]), money=-5.0)
    np.testing.assert_allclose(plan(LpUcb(), case).weights, [[1.0, 0.0], [1.0, 0.0]])


def test_mass_without_money_stays_unassigned_where_every_arm_is_paid() -> None:
    """Half the money serves half the requests."""
    case = known_case(
        reward=np.array([[0.9]]), cost=np.array([[1e6]]), demand=np.array([10.0]), money=5e6
    )
    np.testing.assert_allclose(plan(LpUcb(), case).weights, [[0.5]])


def test_every_candidate_keeps_a_share_of_epsilon() -> None:
    """Half a percent is spread over the two candidates; the money pays for it."""
    case = known_case(
        reward=REWARD, cost=COST, demand=np.array([40.0, 60.0]), money=5e7, epsilon_ppm=5_000
    )
    weights = plan(LpUcb(), case).weights
    assert weights.min() >= 0.0025 - 1e-12
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_epsilon_on_paid_arms_costs_at_most_the_explore_share() -> None:
    """With money for five requests in all, the floor spends 2 % of that."""
    case = known_case(
        reward=np.array([[0.9, 0.1]]),
        cost=np.array([[0.0, 1e6]]),
        demand=np.array([10_000.0]),
        money=5e6,
        epsilon_ppm=5_000,
    )
    weights = plan(LpUcb(), case).weights
    assert weights[0, 1] * 10_000 * 1e6 == pytest.approx(0.02 * 5e6)


def test_an_unexplored_arm_gets_eight_requests_in_a_slot() -> None:
    """However promising it is; the known free arm answers the rest."""
    case = known_case(
        reward=np.array([[0.5, 0.5]]),
        cost=np.zeros((1, 2)),
        demand=np.array([10_000.0]),
        money=0.0,
    )
    hopeful = around(np.array([[0.5, 0.5]]), radius=np.array([[0.0, 0.5]]), top=1.0)
    case = changed(case, booked=np.array([[5_000, 0]]), reward=hopeful)
    weights = plan(LpUcb(), case).weights
    np.testing.assert_allclose(weights * 1_000.0, [[992.0, 8.0]])


def test_the_cap_grows_with_the_outcomes_booked() -> None:
    """Not with those merely sent: an arm that never reports back stays at eight."""
    case = known_case(
        reward=np.array([[0.5, 0.9]]),
        cost=np.zeros((1, 2)),
        demand=np.array([10_000.0]),
        money=0.0,
    )
    booked = np.array([[5_000, 100]])
    grown = plan(LpUcb(), changed(case, booked=booked)).weights
    assert grown[0, 1] * 1_000.0 == pytest.approx(100.0)
    silent = replace(
        case.estimates,
        sent=np.array([[5_000, 4_000]]),
        booked=np.array([[5_000, 0]]),
    )
    held = plan(LpUcb(), replace(case, estimates=silent)).weights
    assert held[0, 1] * 1_000.0 == pytest.approx(8.0)


def test_money_that_only_optimism_justifies_is_held_to_the_explore_share_per_slot() -> None:
    """A dear unknown arm may use 2 % of the money in a slot, not the whole of it."""
    case = known_case(
        reward=np.array([[0.5, 0.5]]),
        cost=np.array([[0.0, 1e9]]),
        demand=np.array([50.0]),
        money=3e10,
    )
    hopeful = around(np.array([[0.5, 0.5]]), radius=np.array([[0.0, 0.5]]), top=1.0)
    case = changed(case, booked=np.array([[5_000, 0]]), reward=hopeful)
    weights = plan(LpUcb(), case).weights
    assert weights[0, 1] * 5.0 * 1e9 == pytest.approx(0.02 * 3e10)
    assert weights.sum() == pytest.approx(1.0)


def test_debt_of_the_past_is_made_good_up_to_slack_max_and_the_rest_is_reported() -> None:
    """A window that began with 1,000 misses does not chase them with its last 100 requests."""
    case = known_case(
        reward=np.array([[0.9, 0.4]]),
        cost=np.zeros((1, 2)),
        demand=np.array([100.0]),
        money=0.0,
        hit=np.array([[0.5, 1.0]]),
        floor=0.6,
        rho=5.0,
        slack_max=0.1,
    )
    late = replace(case.remaining, demand_so_far=np.array([1_000.0]))
    found = plan(LpUcb(), replace(case, remaining=late))
    np.testing.assert_allclose(found.weights, [[0.6, 0.4]], atol=1e-9)
    assert found.slack[0] == pytest.approx(590.0)


def test_credit_of_the_past_frees_the_rest_of_the_window() -> None:
    """When the floor is already safe, reward alone decides."""
    case = known_case(
        reward=np.array([[0.9, 0.4]]),
        cost=np.zeros((1, 2)),
        demand=np.array([100.0]),
        money=0.0,
        hit=np.array([[0.5, 1.0]]),
        floor=0.6,
        rho=5.0,
    )
    early = replace(
        case.remaining, demand_so_far=np.array([1_000.0]), covering_hits=np.array([1_000.0])
    )
    found = plan(LpUcb(), replace(case, remaining=early))
    np.testing.assert_allclose(found.weights, [[1.0, 0.0]], atol=1e-9)
    assert found.covering_dual[0] == 0.0


def test_shapes_that_disagree_are_refused() -> None:
    """The error names the array and both shapes."""
    case = known_case(reward=REWARD, cost=COST, demand=np.array([40.0, 60.0]), money=5e7)
    wrong = replace(case.forecast, next_slot=np.ones(3))
    with pytest.raises(ValueError, match=r"forecast\.next_slot has shape \(3,\), expected \(2,\)"):
        plan(LpUcb(), replace(case, forecast=wrong))


def test_an_unknown_policy_is_refused_with_the_known_names() -> None:
    """The message is what an operator sees at start-up."""
    with pytest.raises(ValueError, match=r"unknown policy 'lp_ucv', known are \['ad_ucb'"):
        make_policy("lp_ucv")


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    """A misspelt option never passes silently."""
    with pytest.raises(ValueError, match=r"unknown options \['explore'\].*explore_requests"):
        make_policy("lp_ucb", explore=3)
