"""The paper's rule, equation by equation (arXiv 2606.17489)."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.policy import Bounds, Plan, make_policy
from coordinator.policy.base import FloatArray
from coordinator.policy.bounds import paper_bounds, paper_radius
from coordinator.policy.copac_ucb import project_l1
from tests.unit.coordinator.policy_cases import Case, around, known_case, plan

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


def with_rows(case: Case, *, packing: list[Bounds], covering: list[Bounds]) -> Case:
    """Return the case with further rows: budgets of 40 units and floors of 0.7."""
    more = len(packing), len(covering)
    limits = case.constraints
    return replace(
        case,
        estimates=replace(
            case.estimates,
            packing=(*case.estimates.packing, *packing),
            covering=(*case.estimates.covering, *covering),
        ),
        constraints=replace(
            limits,
            budget=np.append(limits.budget, [40.0] * more[0]),
            floor=np.append(limits.floor, [0.7] * more[1]),
            rho=np.append(limits.rho, [1.0] * more[1]),
            slack_max=np.append(limits.slack_max, [0.1] * more[1]),
        ),
        remaining=replace(
            case.remaining,
            packing=np.append(case.remaining.packing, [40.0] * more[0]),
            covering_hits=np.append(case.remaining.covering_hits, [0.0] * more[1]),
        ),
    )


def test_the_radius_is_the_papers() -> None:
    """sqrt(2 v log(1/delta) / n) + 4 log(1/delta) / n, infinite before the first pull."""
    actual = paper_radius(np.array([0.5, 0.5]), pulls=np.array([100, 0]), delta=np.exp(-2.0))
    np.testing.assert_allclose(actual, [np.sqrt(0.02) + 0.08, np.inf])


def test_the_bounds_are_clipped_to_what_is_possible() -> None:
    """UCB = min(mean + rad, 1), LCB = max(mean - rad, 0); with a scale, in its unit."""
    found = paper_bounds(np.array([90.0, 10.0]), pulls=np.array([100, 100]), delta=np.exp(-2.0))
    radius = np.sqrt(4.0 * np.array([0.9, 0.1]) / 100.0) + 0.08
    np.testing.assert_allclose(found.upper, [1.0, 0.1 + radius[1]])
    np.testing.assert_allclose(found.lower, [0.9 - radius[0], 0.0])
    scaled = paper_bounds(np.array([900.0]), pulls=np.array([100]), delta=np.exp(-2.0), scale=10.0)
    np.testing.assert_allclose([scaled.lower[0], scaled.upper[0]], [9.0 - 10.0 * radius[0], 10.0])


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


def test_a_floor_of_zero_asks_for_nothing_and_has_no_price(case: Case) -> None:
    """Its row leaves the choice and the money's price as they are without it."""
    void = replace(case, constraints=replace(case.constraints, floor=np.zeros(1)))
    first = plan(POLICY, void)
    second = plan(POLICY, after(void, last=first, slot=1, demand=3.0))
    # Scores r - 2 z: -1.1, -0.4, 0.1.
    np.testing.assert_array_equal(first.weights, [[0.0, 0.0, 1.0]])
    money = 1.0 - 2.0 / (4.0 + 16.0 / 5.0) * 3.0 * 2.0 * (0.5 - 0.1)
    np.testing.assert_allclose(second.state["prices"], [max(money, 0.0), 0.0], atol=1e-12)


def test_contexts_choose_apart_under_common_prices_and_their_gradients_add_up() -> None:
    """Two contexts whose best arms differ; the step sums q_x times each one's own zc."""
    case = known_case(
        reward=np.array([[0.9, 0.1], [0.1, 0.9]]),
        cost=np.array([[1e5, 1e5], [1e5, 1e5]]),
        demand=np.array([60.0, 40.0]),
        money=5e7,
        hit=np.array([[0.5, 0.5], [1.0, 1.0]]),
        floor=0.5,
    )
    first = plan(POLICY, case)
    np.testing.assert_array_equal(first.weights, [[1.0, 0.0], [0.0, 1.0]])
    later = replace(
        case,
        remaining=replace(case.remaining, slot=1, last=first, last_demand=np.array([3.0, 1.0])),
    )
    step = 2.0 / (4.0 + 16.0 / 5.0)
    money = 4.0 - (100.0 / 50.0) * (3.0 * 0.1 + 1.0 * 0.1)
    hits = -4.0 + (100.0 / 50.0) * (3.0 * 0.5 + 1.0 * 1.0)
    expected = project_l1(np.array([1.0 - step * money, 1.0 - step * hits]), radius=10.0**0.25)
    np.testing.assert_allclose(plan(POLICY, later).state["prices"], expected, atol=1e-12)


def test_a_whole_run_with_four_rows_is_the_papers_loop(case: Case) -> None:
    """Forty slots against the algorithm written down again with plain numbers."""
    rng = np.random.default_rng(4)
    case = with_rows(
        case,
        packing=[around(np.array([[0.2, 0.6, 0.1]]), radius=0.05)],
        covering=[around(np.array([[0.3, 0.8, 0.6]]), radius=0.1, top=1.0)],
    )
    case = replace(case, remaining=replace(case.remaining, slots_total=40))
    reward = case.estimates.reward.upper[0]
    bounds = np.stack(
        [
            case.estimates.packing[0].lower[0] / 1e6,
            case.estimates.packing[1].lower[0],
            -case.estimates.covering[0].upper[0],
            -case.estimates.covering[1].upper[0],
        ]
    )
    sign, prices, total = np.array([1.0, 1.0, -1.0, -1.0]), np.ones(4), 0.0
    last: Plan | None = None
    demand, before = 0.0, case
    for slot in range(40):
        guess = 60.0 + 5.0 * float(rng.random())
        before = replace(
            case,
            forecast=replace(case.forecast, total_window=np.array([guess])),
            remaining=replace(case.remaining, slot=slot, last=last, last_demand=np.array([demand])),
        )
        last = plan(POLICY, before)
        if slot + 1 in (1, 2, 4, 8, 16, 32):
            total = guess
        budget = np.array([50.0, 40.0, 0.8 * total, 0.7 * total])
        arm = int(np.argmax([_score(a, reward, bounds, prices, total, budget) for a in range(3)]))
        assert int(np.argmax(last.weights[0])) == arm, f"slot {slot}"
        np.testing.assert_allclose(last.state["prices"], prices, atol=1e-9)
        demand = float(rng.integers(0, 5))
        magnitude = 4.0 + 16.0 / (50.0 / 40.0)
        gradient = demand * (total / budget) * ((budget / total) * sign - bounds[:, arm])
        stepped = prices - 2.0 / (magnitude * np.sqrt(slot + 1)) * gradient
        prices = project_l1(stepped, radius=40.0**0.25)


def _score(
    arm: int,
    reward: FloatArray,
    bounds: FloatArray,
    prices: FloatArray,
    total: float,
    budget: FloatArray,
) -> float:
    """UCB_r(a) - sum_i lambda_i (Qhat / B_i) zc_i(a)."""
    return float(reward[arm]) - sum(
        float(prices[i]) * total / float(budget[i]) * float(bounds[i, arm]) for i in range(4)
    )


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
