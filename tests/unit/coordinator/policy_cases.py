"""Random and hand-made inputs for policies, and the properties that every plan must have."""

from dataclasses import dataclass, replace

import numpy as np

from coordinator.policy import (
    Bounds,
    Capacity,
    Constraints,
    Estimates,
    Forecast,
    Plan,
    Policy,
    Remaining,
)
from coordinator.policy.base import MONEY_ROW, FloatArray, IntArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One complete input of ``Policy.plan``."""

    estimates: Estimates
    constraints: Constraints
    forecast: Forecast
    remaining: Remaining


def plan(policy: Policy, case: Case) -> Plan:
    """Plan a case with a fixed generator."""
    return policy.plan(
        case.estimates,
        constraints=case.constraints,
        forecast=case.forecast,
        remaining=case.remaining,
        rng=np.random.default_rng(0),
    )


def around(mean: FloatArray, *, radius: FloatArray | float = 0.0, top: float = np.inf) -> Bounds:
    """Return bounds at a distance of ``radius``, held within [0, top]."""
    return Bounds(
        mean=mean, lower=np.maximum(mean - radius, 0.0), upper=np.minimum(mean + radius, top)
    )


def known_case(
    *,
    reward: FloatArray,
    cost: FloatArray,
    demand: FloatArray,
    money: float,
    hit: FloatArray | None = None,
    floor: float = 0.0,
    rho: float = 1.0,
    slack_max: float = 0.1,
    booked: int = 10_000,
    epsilon_ppm: int = 0,
) -> Case:
    """Return a case without any uncertainty, at the start of a window of ten slots."""
    shape = reward.shape
    counts = np.full(shape, booked, dtype=np.int64)
    return Case(
        estimates=Estimates(
            feasible=np.ones(shape, dtype=np.bool_),
            reward=around(reward),
            packing=(around(cost),),
            covering=(around(np.ones(shape) if hit is None else hit),),
            sent=counts,
            graded=counts,
        ),
        constraints=Constraints(
            budget=np.array([money]),
            floor=np.array([floor]),
            rho=np.array([rho]),
            slack_max=np.array([slack_max]),
            epsilon_ppm=epsilon_ppm,
        ),
        forecast=Forecast(
            mean=demand,
            lower=demand,
            upper=demand,
            next_slot=demand / 10.0,
            total_window=demand,
        ),
        remaining=Remaining(
            packing=np.array([money]),
            covering_hits=np.zeros(1),
            demand_so_far=np.zeros_like(demand),
            slot=0,
            slots_left=10,
            slots_total=10,
            last=None,
            last_demand=np.zeros_like(demand),
        ),
    )


def random_case(seed: int) -> Case:
    """Return an arbitrary case: any mixture of free and paid arms, rows, demand and balances."""
    rng = np.random.default_rng(seed)
    contexts, arms = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    packing, covering = int(rng.integers(1, 3)), int(rng.integers(0, 3))
    shape = (contexts, arms)
    free = rng.random(arms) < rng.choice([0.0, 0.4, 0.9])
    money = rng.uniform(1e5, 1e8, shape) * ~free
    rows = (
        around(money, radius=0.3 * money),
        *(around(rng.uniform(0.0, 1.0, shape), radius=0.1) for _ in range(packing - 1)),
    )
    booked = rng.integers(0, 200, shape)
    demand = rng.uniform(0.0, rng.choice([1.0, 100.0, 1e5]), contexts)
    demand[rng.random(contexts) < 0.2] = 0.0
    past = rng.uniform(0.0, 500.0, contexts)
    budget = np.array([rng.choice([0.0, 1.0, 1e8, 1e10]) * rng.uniform(0.5, 2.0)])
    budget = np.concatenate([budget, rng.uniform(1.0, 1e3, packing - 1)])
    slots_left = int(rng.integers(1, 100))
    return Case(
        estimates=Estimates(
            feasible=rng.random(shape) < 0.8,
            reward=around(rng.uniform(0.1, 0.7, shape), radius=rng.uniform(0.0, 0.25, shape)),
            packing=rows,
            covering=tuple(
                around(rng.uniform(0.2, 0.8, shape), radius=0.1) for _ in range(covering)
            ),
            sent=booked,
            graded=booked,
        ),
        constraints=Constraints(
            budget=2.0 * budget,
            floor=rng.uniform(0.0, 1.0, covering),
            rho=rng.uniform(0.0, 3.0, covering),
            slack_max=rng.uniform(0.0, 0.5, covering),
            explore_share=float(rng.uniform(0.0, 0.1)),
            epsilon_ppm=int(rng.integers(0, 50_000)),
        ),
        forecast=Forecast(
            mean=demand,
            lower=0.8 * demand,
            upper=1.2 * demand,
            next_slot=demand / slots_left,
            total_window=past + demand,
        ),
        remaining=Remaining(
            packing=budget * rng.choice([-0.1, 1.0], p=[0.1, 0.9]),
            covering_hits=rng.uniform(0.0, past.sum(), covering),
            demand_so_far=past,
            slot=100 - slots_left,
            slots_left=slots_left,
            slots_total=100,
            last=None,
            last_demand=np.zeros(contexts),
        ),
    )


def loaded_case(seed: int) -> Case:
    """Return an arbitrary case with device classes, resident models and forced demand."""
    case = random_case(seed)
    rng = np.random.default_rng([seed, 1])
    contexts, arms = case.estimates.feasible.shape
    classes = int(rng.integers(1, 3))
    local = case.estimates.packing[MONEY_ROW].mean.max(axis=0) <= 0.0
    choices = tuple(rng.random((int(rng.integers(0, 3)), arms)) < 0.5 for _ in range(classes))
    capacity = Capacity(
        device_class=rng.integers(0, classes, (contexts,)),
        local=local,
        service_s=rng.uniform(0.1, 5.0, (contexts, arms)),
        per_slot_s=rng.choice([0.0, 1.0, 50.0, np.inf], (classes,)),
        resident_choices=choices,
        load_s=rng.uniform(0.0, 10.0, (arms,)),
        devices=rng.integers(1, 5, (classes,)).astype(np.float64),
    )
    forced = rng.uniform(0.0, 5.0, (contexts, arms)) * (rng.random((contexts, arms)) < 0.3)
    return replace(
        case,
        constraints=replace(case.constraints, capacity=capacity),
        forecast=replace(case.forecast, forced=forced),
    )


def permuted(case: Case, *, order: IntArray) -> Case:
    """Return the case with its arms in another order."""
    given = case.estimates

    def turn(bounds: Bounds) -> Bounds:
        return Bounds(
            mean=bounds.mean[:, order], lower=bounds.lower[:, order], upper=bounds.upper[:, order]
        )

    return replace(
        case,
        estimates=Estimates(
            feasible=given.feasible[:, order],
            reward=turn(given.reward),
            packing=tuple(turn(row) for row in given.packing),
            covering=tuple(turn(row) for row in given.covering),
            sent=given.sent[:, order],
            graded=given.graded[:, order],
        ),
    )


def with_money(case: Case, *, money: float) -> Case:
    """Return the case with another amount of money left."""
    packing = case.remaining.packing.copy()
    packing[MONEY_ROW] = money
    return replace(case, remaining=replace(case.remaining, packing=packing))


def check_sub_distribution(policy: Policy, case: Case) -> None:
    """Weights are probabilities on feasible arms that sum to at most 1; prices are not negative."""
    found = plan(policy, case)
    assert found.weights.shape == case.estimates.feasible.shape
    assert np.all(np.isfinite(found.weights))
    assert np.all(found.weights >= 0.0)
    assert np.all(found.weights[~case.estimates.feasible] == 0.0)
    assert np.all(found.weights.sum(axis=1) <= 1.0 + 1e-9)
    assert np.all(found.packing_dual >= 0.0)
    assert np.all(found.covering_dual >= 0.0)
    assert np.all(found.slack >= 0.0)


def check_deterministic(policy: Policy, case: Case) -> None:
    """Equal inputs give equal plans, bit for bit."""
    first, second = plan(policy, case), plan(policy, case)
    assert np.array_equal(first.weights, second.weights)
    assert np.array_equal(first.packing_dual, second.packing_dual)
    assert first.objective == second.objective
    assert first.state.keys() == second.state.keys()
    for name, array in first.state.items():
        assert np.array_equal(array, second.state[name])


def check_equivariant(policy: Policy, case: Case, *, seed: int) -> None:
    """The arms' order does not matter."""
    order = np.random.default_rng(seed).permutation(case.estimates.feasible.shape[1])
    expected = plan(policy, case).weights[:, order]
    actual = plan(policy, permuted(case, order=order)).weights
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def check_within_budget(policy: Policy, case: Case) -> None:
    """Expected spend at the lower cost bounds and the forecast demand fits into what is left."""
    weights = plan(policy, case).weights
    lower = case.estimates.packing[MONEY_ROW].lower
    spend = float(case.forecast.mean @ (weights * lower).sum(axis=1))
    left = max(float(case.remaining.packing[MONEY_ROW]), 0.0)
    assert spend <= left * (1.0 + 1e-6) + 1e-3


def check_always_a_plan(policy: Policy, case: Case) -> None:
    """Whatever is asked for, there is a plan, and every number in it is finite."""
    found = plan(policy, case)
    assert np.all(np.isfinite(found.weights))
    assert np.all(np.isfinite(found.slack))
    assert np.isfinite(found.objective)


def check_resident(policy: Policy, case: Case) -> None:
    """A local arm serves only where its model is to be resident."""
    found, capacity = plan(policy, case), case.constraints.capacity
    assert capacity is not None
    assert found.resident is not None
    for row, device_class in enumerate(capacity.device_class):
        chosen = int(found.resident[device_class])
        if chosen >= 0:
            absent = capacity.local & ~capacity.resident_choices[device_class][chosen]
            assert np.all(found.weights[row, absent] == 0.0)


def check_monotone_in_money(policy: Policy, case: Case, *, factor: float) -> None:
    """More money never makes the objective fall."""
    money = max(float(case.remaining.packing[MONEY_ROW]), 0.0)
    poor = plan(policy, with_money(case, money=money)).objective
    rich = plan(policy, with_money(case, money=money * factor + 1.0)).objective
    assert rich >= poor - 1e-6 * (1.0 + abs(poor))


def check_serves_where_free(policy: Policy, case: Case) -> None:
    """A context with an arm that costs nothing is served in full."""
    weights = plan(policy, case).weights
    served = weights.sum(axis=1)[case.estimates.free.any(axis=1)]
    np.testing.assert_allclose(served, 1.0, atol=1e-9)
