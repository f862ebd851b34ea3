"""The fluid programme against problems whose optimum is known."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from coordinator.policy import FluidSolution, fluid, solve_fluid_lp
from coordinator.policy.base import FloatArray
from coordinator.policy.decomposition import Scaled
from coordinator.policy.fluid import CapacityRows
from tests.unit.coordinator.fluid_cases import (
    check_feasible,
    check_optimal,
    check_priced,
    random_case,
)


def solve(
    demand: FloatArray,
    *,
    reward: FloatArray,
    cost: FloatArray,
    money: float,
    hit: FloatArray | None = None,
    floor: float = 0.0,
    rho: float = 1.0,
    capacity: CapacityRows | None = None,
) -> FluidSolution:
    """Solve with one packing and one covering row; everything is feasible."""
    return solve_fluid_lp(
        demand,
        reward=reward,
        packing=(cost,),
        budget=np.array([money]),
        hits=(np.ones_like(reward) if hit is None else hit,),
        floor=np.array([floor]),
        rho=np.array([rho]),
        feasible=np.ones(reward.shape, dtype=np.bool_),
        capacity=capacity,
    )


def test_money_goes_to_the_context_that_gains_most_per_nano_dollar() -> None:
    """Two contexts, ten requests each, money for ten paid answers: the larger gain takes it."""
    found = solve(
        np.array([10.0, 10.0]),
        reward=np.array([[0.5, 0.6], [0.2, 0.9]]),
        cost=np.array([[0.0, 1e6], [0.0, 1e6]]),
        money=1e7,
    )
    np.testing.assert_allclose(found.weights, [[1.0, 0.0], [0.0, 1.0]], atol=1e-9)
    assert found.objective == pytest.approx(14.0)
    # At a corner every price between the gains of the next and of the last request is right.
    assert 0.1 - 1e-9 <= 1e6 * found.packing_dual[0] <= 0.7 + 1e-9


def test_the_price_of_money_is_what_a_little_more_of_it_would_earn() -> None:
    """The dual price agrees with the difference quotient of the optimum."""
    reward, cost = np.array([[0.3, 0.8]]), np.array([[0.0, 2e6]])
    demand = np.array([100.0])
    found = solve(demand, reward=reward, cost=cost, money=5e7)
    more = solve(demand, reward=reward, cost=cost, money=5.1e7)
    assert found.packing_dual[0] == pytest.approx((more.objective - found.objective) / 1e6)


def test_money_that_does_not_bind_has_no_price() -> None:
    """With money for everything the best arm serves everything."""
    found = solve(
        np.array([5.0]), reward=np.array([[0.3, 0.8]]), cost=np.array([[0.0, 2e6]]), money=1e12
    )
    np.testing.assert_allclose(found.weights, [[0.0, 1.0]])
    assert found.packing_dual[0] == 0.0


def test_the_floor_is_met_when_a_missed_request_costs_more_than_serving_it() -> None:
    """The slow good arm gives way to the fast bad one exactly as far as the floor asks."""
    found = solve(
        np.array([100.0]),
        reward=np.array([[0.9, 0.4]]),
        cost=np.zeros((1, 2)),
        money=0.0,
        hit=np.array([[0.5, 1.0]]),
        floor=0.8,
        rho=5.0,
    )
    np.testing.assert_allclose(found.weights, [[0.4, 0.6]], atol=1e-9)
    assert found.slack[0] == pytest.approx(0.0, abs=1e-6)
    assert found.covering_dual[0] == pytest.approx(1.0)


def test_a_floor_out_of_reach_is_missed_and_not_infeasible() -> None:
    """The slack is what is missing, priced at rho."""
    found = solve(
        np.array([100.0]),
        reward=np.array([[0.9]]),
        cost=np.zeros((1, 1)),
        money=0.0,
        hit=np.array([[0.5]]),
        floor=0.8,
        rho=2.0,
    )
    assert found.slack[0] == pytest.approx(30.0)
    assert found.objective == pytest.approx(90.0 - 60.0)
    assert found.covering_dual[0] == pytest.approx(2.0)


def test_a_context_without_demand_gets_the_arm_that_the_prices_favour() -> None:
    """It takes no money from the others, but its next request finds a row."""
    found = solve(
        np.array([0.0, 10.0]),
        reward=np.array([[0.1, 0.9], [0.4, 0.6]]),
        cost=np.array([[0.0, 1e6], [0.0, 1e6]]),
        money=5e6,
    )
    np.testing.assert_allclose(found.weights[0], [0.0, 1.0])
    np.testing.assert_allclose(found.weights[1], [0.5, 0.5], atol=1e-9)


def test_a_demand_of_nothing_at_all_still_gives_rows() -> None:
    """Each context then counts as one request."""
    found = solve(np.zeros(2), reward=np.array([[0.2], [0.3]]), cost=np.zeros((2, 1)), money=0.0)
    np.testing.assert_allclose(found.weights, 1.0)


def test_a_value_that_is_not_finite_is_refused() -> None:
    """The error names the array, with one context as with several."""
    with pytest.raises(ValueError, match="reward holds a value that is not finite"):
        solve(np.ones(1), reward=np.array([[np.nan]]), cost=np.zeros((1, 1)), money=0.0)
    with pytest.raises(ValueError, match="demand holds a value that is not finite"):
        solve(np.array([np.nan]), reward=np.ones((1, 1)), cost=np.zeros((1, 1)), money=0.0)
    with pytest.raises(ValueError, match=r"packing\[0\] holds a value that is not finite"):
        solve(np.ones(2), reward=np.ones((2, 1)), cost=np.full((2, 1), np.inf), money=0.0)


def test_no_mixture_on_a_grid_beats_the_optimum() -> None:
    """Brute force over two contexts with three arms, both rows binding."""
    reward = np.array([[0.4, 0.55, 0.9], [0.3, 0.7, 0.85]])
    cost = np.array([[0.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    hit = np.array([[0.9, 0.5, 0.95], [0.8, 0.4, 0.9]])
    demand = np.array([6.0, 4.0])
    found = solve(demand, reward=reward, cost=cost, money=10.0, hit=hit, floor=0.75, rho=1.0)
    steps = np.linspace(0.0, 1.0, 11)
    rows = [np.array([a, b, 1.0 - a - b]) for a, b in product(steps, steps) if a + b <= 1.0]
    best = -np.inf
    for first, second in product(rows, rows):
        mixture = np.stack([first, second])
        if demand @ (mixture * cost).sum(axis=1) > 10.0 + 1e-9:
            continue
        missing = max(7.5 - float(demand @ (mixture * hit).sum(axis=1)), 0.0)
        best = max(best, float(demand @ (mixture * reward).sum(axis=1)) - missing)
    assert best <= found.objective + 1e-9
    assert found.objective <= best + 0.2


def test_a_device_class_answers_no_more_than_its_workers_can() -> None:
    """Beyond its limit the paid arm serves; the row's price is the reward a second would add."""
    found = solve(
        np.array([100.0, 100.0]),
        reward=np.array([[0.9, 0.5], [0.9, 0.5]]),
        cost=np.array([[0.0, 1.0], [0.0, 1.0]]),
        money=1e9,
        capacity=CapacityRows(
            block=np.array([0, 1]),
            cost=np.array([[4.0, 0.0], [4.0, 0.0]]),
            limit=np.array([100.0, 1e9]),
        ),
    )
    np.testing.assert_allclose(found.weights, [[0.25, 0.75], [1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found.capacity_dual, [0.1, 0.0], atol=1e-12)


def test_a_context_outside_of_all_blocks_has_no_limit() -> None:
    """Its block is -1, whatever its arms would take."""
    found = solve(
        np.array([10.0]),
        reward=np.array([[0.9]]),
        cost=np.zeros((1, 1)),
        money=0.0,
        capacity=CapacityRows(block=np.array([-1]), cost=np.array([[5.0]]), limit=np.zeros(1)),
    )
    np.testing.assert_array_equal(found.weights, [[1.0]])


def test_a_class_without_workers_answers_nothing_itself() -> None:
    """A negative limit counts as none at all; the price keeps its own arms out."""
    found = solve(
        np.array([10.0]),
        reward=np.array([[0.9, 0.2]]),
        cost=np.zeros((1, 2)),
        money=0.0,
        capacity=CapacityRows(
            block=np.array([0]), cost=np.array([[5.0, 0.0]]), limit=np.array([-3.0])
        ),
    )
    np.testing.assert_array_equal(found.weights, [[0.0, 1.0]])
    assert found.capacity_dual[0] == pytest.approx(0.7 / 5.0)


@pytest.mark.parametrize(
    ("block", "cost", "message"),
    [
        ([0, 2], [[1.0], [1.0]], "capacity.block holds 0 to 2, expected -1 to 0"),
        ([0], [[1.0], [1.0]], "capacity.block has shape"),
        ([0, 0], [[np.nan], [1.0]], "not finite"),
    ],
)
def test_capacity_rows_that_make_no_sense_are_refused(
    block: list[int], cost: list[list[float]], message: str
) -> None:
    """When they are made, not when they are used."""
    with pytest.raises(ValueError, match=message):
        CapacityRows(block=np.array(block), cost=np.array(cost), limit=np.ones(1))


def test_an_arm_of_a_nano_dollar_counts_beside_one_of_a_thousand_dollars() -> None:
    """Twelve decades apart in one row, the cheap one takes what the money allows."""
    found = solve(
        np.array([1_000.0, 1_000.0]),
        reward=np.array([[0.1, 0.5, 0.9], [0.1, 0.4, 0.9]]),
        cost=np.array([[0.0, 1.0, 1e12], [0.0, 1.0, 1e12]]),
        money=500.0,
    )
    np.testing.assert_allclose(found.weights, [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], atol=1e-9)
    assert found.packing_dual[0] == pytest.approx(0.4)


def test_without_money_only_free_arms_serve_and_the_price_says_so() -> None:
    """The price of money keeps every paid arm below the free one."""
    found = solve(
        np.array([10.0]),
        reward=np.array([[0.3, 0.8]]),
        cost=np.array([[0.0, 2.0]]),
        money=0.0,
    )
    np.testing.assert_array_equal(found.weights, [[1.0, 0.0]])
    assert found.packing_dual[0] >= 0.5 / 2.0 - 1e-12


def test_a_fleet_of_more_classes_than_the_master_takes_is_solved_by_highs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each class has a row that binds; the result is as optimal."""
    classes = 400
    rng = np.random.default_rng(5)
    case = replace(
        random_case(0),
        demand=rng.uniform(1.0, 9.0, classes),
        reward=rng.uniform(0.0, 1.0, (classes, 3)),
        packing=(rng.uniform(0.0, 9.0, (classes, 3)) * np.array([0.0, 0.0, 1.0]),),
        budget=np.array([2_000.0]),
        hits=(),
        floor=np.zeros(0),
        rho=np.zeros(0),
        feasible=np.ones((classes, 3), dtype=np.bool_),
        capacity=CapacityRows(
            block=np.arange(classes),
            cost=rng.uniform(1.0, 2.0, (classes, 3)) * np.array([1.0, 1.0, 0.0]),
            limit=rng.uniform(0.5, 2.0, classes),
        ),
    )
    calls = []
    highs = fluid.solve_with_highs  # type: ignore[attr-defined]

    def counting(scaled: Scaled) -> tuple[FloatArray, FloatArray]:
        calls.append(scaled.blocks)
        found: tuple[FloatArray, FloatArray] = highs(scaled)
        return found

    monkeypatch.setattr(fluid, "solve_with_highs", counting)
    found = case.solved()
    assert len(calls) == 1
    check_feasible(case, found)
    check_optimal(case, found)
    check_priced(case, found)


def test_one_context_is_solved_as_many_are() -> None:
    """The short way for one context agrees with the long way, which capacity rows force."""
    nothing = np.zeros(0)
    for seed in range(300):
        case = random_case(seed, contexts_max=1)
        short = replace(case, capacity=None)
        long = replace(
            case,
            capacity=CapacityRows(
                block=np.array([-1]), cost=np.zeros(case.reward.shape), limit=nothing
            ),
        )
        here, there = short.solved(), long.solved()
        check_feasible(short, here)
        check_priced(short, here)
        assert here.objective == pytest.approx(there.objective, rel=1e-9, abs=1e-9)
