"""How long a plan takes, against the bare HiGHS solution of the same linear programme."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from coordinator.policy import Bounds, Constraints, Estimates, Forecast, Remaining, make_policy
from coordinator.policy.base import FloatArray
from coordinator.policy.fluid import solve_fluid_lp
from tests.bench.figures import ROUNDS, Figure


@dataclass(frozen=True, eq=False, kw_only=True)
class _Case:
    """One programme with every arm feasible."""

    demand: FloatArray
    reward: FloatArray
    packing: tuple[FloatArray, ...]
    budget: FloatArray
    hits: tuple[FloatArray, ...]
    floor: FloatArray
    rho: FloatArray


def plan_of_a_large_fleet() -> Figure:
    """A whole plan of 1,000 contexts and 16 arms under three rows, over HiGHS on its LP alone."""
    rng = np.random.default_rng(1)
    shape = (1_000, 16)
    money = np.where(np.arange(16) < 8, 0.0, rng.uniform(1e3, 1e6, shape))
    energy = rng.uniform(0.1, 1.0, shape)
    demand = rng.uniform(1.0, 50.0, shape[0])
    case = _Case(
        demand=demand,
        reward=rng.uniform(0.2, 0.9, shape),
        packing=(money, energy),
        budget=demand.sum() * np.array([0.4 * money.mean(), 0.5]),
        hits=(rng.uniform(0.6, 1.0, shape),),
        floor=np.array([0.85]),
        rho=np.array([1.0]),
    )
    ratio = _ratio(_planned(case, rng), _bare(case))
    return Figure("plan-large", ratio, "x", "HiGHS on the LP alone", "<= 1.2", ratio <= 1.2)


def programme_of_one_context() -> Figure:
    """The fluid programme of one context and four arms, over HiGHS on the same."""
    case = _Case(
        demand=np.array([20_000.0]),
        reward=np.array([[0.77, 0.84, 0.54, 0.27]]),
        packing=(np.array([[0.45, 1.0, 0.11, 0.21]]),),
        budget=np.array([8_000.0]),
        hits=(np.array([[0.25, 0.96, 0.99, 0.9]]),),
        floor=np.array([0.8]),
        rho=np.array([1.0]),
    )
    arguments = {**vars(case), "feasible": np.ones((1, 4), dtype=np.bool_)}
    ratio = _ratio(lambda: solve_fluid_lp(**arguments), _bare(case), calls=100)
    return Figure("plan-small", ratio, "x", "HiGHS on the LP alone", "<= 0.1", ratio <= 0.1)


def _planned(case: _Case, rng: np.random.Generator) -> Callable[[], object]:
    """A call of ``lp_ucb`` on estimates that are certain, early in a window."""
    shape = case.reward.shape
    nothing, counts = np.zeros(shape[0]), np.full(shape, 1_000)
    estimates = Estimates(
        feasible=np.ones(shape, dtype=np.bool_),
        reward=_certain(case.reward),
        packing=tuple(_certain(cost) for cost in case.packing),
        covering=tuple(_certain(credit) for credit in case.hits),
        sent=counts,
        graded=counts,
    )
    constraints = Constraints(
        budget=case.budget, floor=case.floor, rho=case.rho, slack_max=np.array([0.5])
    )
    forecast = Forecast(
        mean=case.demand,
        lower=case.demand,
        upper=case.demand,
        next_slot=case.demand / 10.0,
        total_window=case.demand,
    )
    remaining = Remaining(
        packing=case.budget,
        covering_hits=np.zeros(1),
        demand_so_far=nothing,
        slot=0,
        slots_left=10,
        slots_total=10,
        last=None,
        last_demand=nothing,
    )
    policy = make_policy("lp_ucb")
    return lambda: policy.plan(
        estimates, constraints=constraints, forecast=forecast, remaining=remaining, rng=rng
    )


def _certain(mean: FloatArray) -> Bounds:
    return Bounds(mean=mean, lower=mean, upper=mean)


def _bare(case: _Case) -> Callable[[], object]:
    """A call of HiGHS on the programme, which is prepared and scaled beforehand."""
    contexts, arms = case.reward.shape
    variables, share = contexts * arms, case.demand / case.demand.sum()
    limit = case.budget / case.demand.sum()
    used = [cost.ravel() / row for cost, row in zip(case.packing, limit, strict=True)]
    short = np.eye(len(case.hits))
    earned = np.array([credit.ravel() for credit in case.hits])
    rows: Any = np.vstack(
        [
            np.hstack([np.array(used), np.zeros((len(used), len(short)))]),
            np.hstack([-earned, -short]),
        ]
    )
    once: Any = csr_array(
        (np.ones(variables), (np.repeat(np.arange(contexts), arms), np.arange(variables))),
        shape=(contexts, variables + len(short)),
    )
    matrix: Any = csr_array(vstack([once, csr_array(rows)]))
    costs = np.concatenate([-case.reward.ravel(), case.rho])
    right = np.concatenate([share, np.ones(len(used)), -case.floor])

    def solved() -> object:
        found: Any = linprog(costs, A_ub=matrix, b_ub=right, method="highs")
        if found.status != 0:
            raise ArithmeticError(f"HiGHS did not solve the benchmark's LP: {found.message}")
        return found

    return solved


def _ratio(ours: Callable[[], object], against: Callable[[], object], *, calls: int = 1) -> float:
    """The median of how many times longer ours takes, pairwise; each timing is of ``calls``."""
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for call in (ours, against):
            begun = time.perf_counter()
            for _ in range(calls):
                call()
            times.append(time.perf_counter() - begun)
        ratios.append(times[0] / times[1])
    return round(statistics.median(ratios), 3)
