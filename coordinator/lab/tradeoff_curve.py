"""How reward, spend and SLA move with the budget: the value of the fluid programme. Pure.

The optimum of a linear programme is concave and piecewise linear in its right-hand side, and its
slope is the dual price. So the price of the next dollar falls from step to step, and the knee,
where the curve is furthest above the straight line between its ends, is where more money begins to
help less than it did on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from coordinator.policy import FluidSolution, solve_fluid_lp
from coordinator.policy.base import BoolArray, FloatArray, pick_best
from shared.decision.money import NANOS_PER_DOLLAR
from shared.errors import ConfigError, invariant

GRID_POINTS = 24
_SLACK_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False, kw_only=True)
class PlanInputs:
    """What a budget is to be chosen for: demand, what arms do, and the SLA.

    Parameters
    ----------
    contexts : tuple of str, length X
    arms : tuple of str, length A
    demand : ndarray, shape (X,)
        Requests in the window.
    reward, cost_nanos, hit : ndarray, shape (X, A)
        Means per request.
    feasible : ndarray of bool, shape (X, A)
    sla_floor, rho : float
        As in the fleet's configuration.
    budget_nanos : float or None
        The present budget, if there is one.
    source : str
        Where all this comes from, in words.
    """

    contexts: tuple[str, ...]
    arms: tuple[str, ...]
    demand: FloatArray
    reward: FloatArray
    cost_nanos: FloatArray
    hit: FloatArray
    feasible: BoolArray
    sla_floor: float
    rho: float
    budget_nanos: float | None
    source: str

    def __post_init__(self) -> None:
        if not self.contexts or self.demand.sum() <= 0.0:
            raise ConfigError(self.source, "has no demand; there is nothing to plan")
        if not self.feasible.any():
            raise ConfigError(self.source, "has no arm that may serve; there is nothing to plan")
        shape = (len(self.contexts), len(self.arms))
        for name in ("reward", "cost_nanos", "hit", "feasible"):
            invariant(getattr(self, name).shape == shape, f"{name} must have shape {shape}")

    @property
    def requests(self) -> float:
        """Requests in the window."""
        return float(self.demand.sum())


@dataclass(frozen=True, kw_only=True)
class Point:
    """The optimum at one budget.

    Attributes
    ----------
    reward_mean, sla_share : float
        Per request; what is not served earns 0 and misses.
    spend_usd : float
        What of the budget is used.
    reward_per_dollar : float
        The dual price: what the next dollar would earn, SLA misses at their price included.
    sla_price : float
        Reward given up per request of the floor.
    cloud_share : float
        Share of the requests that go to arms which cost money.
    """

    budget_usd: float
    reward_mean: float
    spend_usd: float
    sla_share: float
    sla_met: bool
    reward_per_dollar: float
    sla_price: float
    cloud_share: float
    served_share: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The curve and its marked budgets, in dollars.

    Attributes
    ----------
    knee_usd : float
        Beyond it a dollar earns less than the average one.
    present_usd : float or None
        The budget of today.
    sla_minimum_usd : float or None
        The least that meets the floor; None if no budget does.
    unconstrained_usd : float
        More than this is never spent.
    """

    points: tuple[Point, ...]
    knee_usd: float
    present_usd: float | None
    sla_minimum_usd: float | None
    unconstrained_usd: float


def tradeoff(inputs: PlanInputs, *, budgets_usd: tuple[float, ...] = ()) -> Curve:
    """Solve the programme at every budget.

    Parameters
    ----------
    budgets_usd : tuple of float
        Default: about `GRID_POINTS` from 0 to where more is not spent, half of them evenly spaced
        and half halving towards 0, and the marked budgets.
    """
    free_rein = float((inputs.demand @ np.where(inputs.feasible, inputs.cost_nanos, 0.0)).sum())
    most = point_at(inputs, budget_nanos=free_rein).spend_usd
    least = sla_minimum_nanos(inputs)
    sla_minimum = None if least is None else least / NANOS_PER_DOLLAR
    present = None if inputs.budget_nanos is None else inputs.budget_nanos / NANOS_PER_DOLLAR
    knee = knee_usd(inputs, most_usd=most)
    marked = [each for each in (present, sla_minimum, knee) if each is not None]
    # Where prices differ by a factor of hundreds, what matters happens near zero.
    even = np.linspace(0.0, most, GRID_POINTS // 2 + 1)
    wanted = budgets_usd or (*even, *(most * 2.0 ** np.arange(-GRID_POINTS // 2, 0)), *marked)
    budgets = sorted({round(float(each) * NANOS_PER_DOLLAR) for each in wanted})
    return Curve(
        points=tuple(point_at(inputs, budget_nanos=float(each)) for each in budgets),
        knee_usd=knee,
        present_usd=present,
        sla_minimum_usd=sla_minimum,
        unconstrained_usd=most,
    )


def point_at(inputs: PlanInputs, *, budget_nanos: float) -> Point:
    """The optimum at one budget."""
    found = _solve(inputs, budget_nanos=budget_nanos)
    weights, demand, total = found.weights, inputs.demand, inputs.requests
    paid = np.where(inputs.cost_nanos > 0.0, weights, 0.0)
    return Point(
        budget_usd=budget_nanos / NANOS_PER_DOLLAR,
        reward_mean=_per_request(weights * inputs.reward, demand),
        spend_usd=float(demand @ (weights * inputs.cost_nanos).sum(axis=1)) / NANOS_PER_DOLLAR,
        sla_share=_per_request(weights * inputs.hit, demand),
        sla_met=bool(found.slack[0] <= _SLACK_TOLERANCE * total),
        reward_per_dollar=float(found.packing_dual[0]) * NANOS_PER_DOLLAR,
        sla_price=float(found.covering_dual[0]),
        cloud_share=_per_request(paid, demand),
        served_share=_per_request(weights, demand),
    )


def knee_usd(inputs: PlanInputs, *, most_usd: float) -> float:
    """The budget at which the optimum is furthest above the line between its ends.

    There the dual price passes the average reward per dollar, so bisection on the price finds it.
    """
    if most_usd <= 0.0:
        return 0.0
    most = most_usd * NANOS_PER_DOLLAR
    gain = _solve(inputs, budget_nanos=most).objective - _solve(inputs, budget_nanos=0.0).objective
    slope = gain / most
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        if _solve(inputs, budget_nanos=middle).packing_dual[0] > slope:
            low = middle
        else:
            high = middle
    return high / NANOS_PER_DOLLAR


def sla_minimum_nanos(inputs: PlanInputs) -> float | None:
    """The least money that meets the SLA floor; None if none does.

    Minimise the cost subject to the floor as a hard row.
    """
    best = pick_best(inputs.hit, allowed=inputs.feasible)
    if _per_request(best * inputs.hit, inputs.demand) < inputs.sla_floor - _SLACK_TOLERANCE:
        return None
    rows, columns = np.nonzero(inputs.feasible & (inputs.demand > 0.0)[:, None])
    share = inputs.demand / inputs.requests
    cost = inputs.cost_nanos[rows, columns]
    scale = max(float(cost.max(initial=0.0)), 1.0)
    variables = np.arange(rows.size)
    matrix: Any = scipy.sparse.csr_array(
        (
            np.concatenate([np.ones(rows.size), -inputs.hit[rows, columns]]),
            (
                np.concatenate([rows, np.full(rows.size, len(share))]),
                np.concatenate([variables, variables]),
            ),
        ),
        shape=(len(share) + 1, rows.size),
    )
    # The floor may be met only just: a hair of room keeps the solver from calling it infeasible.
    floor = max(inputs.sla_floor - _SLACK_TOLERANCE, 0.0)
    solution = scipy.optimize.linprog(
        cost / scale, A_ub=matrix, b_ub=np.concatenate([share, [-floor]]), method="highs"
    )
    if solution.status != 0:
        raise ArithmeticError(f"the least spend was not found: {solution.message}")
    least: Any = solution.fun
    return float(least) * scale * inputs.requests


def _solve(inputs: PlanInputs, *, budget_nanos: float) -> FluidSolution:
    return solve_fluid_lp(
        inputs.demand,
        reward=inputs.reward,
        packing=(inputs.cost_nanos,),
        budget=np.array([budget_nanos]),
        hits=(inputs.hit,),
        floor=np.array([inputs.sla_floor]),
        rho=np.array([inputs.rho]),
        feasible=inputs.feasible,
    )


def _per_request(values: FloatArray, demand: FloatArray) -> float:
    return float(demand @ values.sum(axis=1)) / float(demand.sum())
