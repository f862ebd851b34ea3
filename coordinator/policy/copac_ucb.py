"""COPAC-UCB, the paper's rule (arXiv 2606.17489), with one choice per context."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import (
    MONEY_ROW,
    Constraints,
    Estimates,
    FloatArray,
    Forecast,
    Plan,
    Remaining,
    check_inputs,
    pick_best,
)


@dataclass(frozen=True, kw_only=True)
class CopacUcb:
    """Primal-dual rule: optimistic score less shadow prices, prices by projected gradient.

    With one context it is the paper's algorithm as stated; with several, every context plays the
    arm of its own best score under common prices, and the gradient adds up over contexts.

    Parameters
    ----------
    cost_scale : float
        Nano-dollars that count as a cost of 1: the largest cost of one request, so that costs
        lie in [0, 1]. Other packing rows are expected in [0, 1] already.
    demand_max : float or None
        ``qbar``, the most requests of one slot. None takes the most seen so far.

    Notes
    -----
    The bounds must come from ``paper_radius`` for the guarantees claimed in the paper. Its one
    budget ``B`` is read as each row's own; for a covering row that is ``floor * Qhat``.
    """

    cost_scale: float = 1.0
    demand_max: float | None = None

    def __post_init__(self) -> None:
        if not self.cost_scale > 0.0:
            raise ValueError(f"cost_scale is {self.cost_scale}, expected more than 0")
        if self.demand_max is not None and not self.demand_max > 0.0:
            raise ValueError(f"demand_max is {self.demand_max}, expected more than 0")

    @property
    def name(self) -> str:
        """The registered name."""
        return "copac_ucb"

    def plan(
        self,
        estimates: Estimates,
        *,
        constraints: Constraints,
        forecast: Forecast,
        remaining: Remaining,
        rng: np.random.Generator,
    ) -> Plan:
        """Return the plan of the slot about to start; ``rng`` is not used.

        Returns
        -------
        Plan
            One arm per context. When a budget is used up, only arms that cost nothing are left
            (in the paper's setting, where every arm costs, that is the null arm). ``state``
            carries the prices and what the next dual step needs.

        Raises
        ------
        ValueError
            When shapes disagree.
        """
        check_inputs(estimates, constraints=constraints, forecast=forecast, remaining=remaining)
        scale = np.ones(len(estimates.packing))
        scale[MONEY_ROW] = self.cost_scale
        state = {} if remaining.last is None else remaining.last.state
        seen = max(float(state["demand_max"][0]) if state else 0.0, remaining.last_demand.sum())
        total = self._total_demand(forecast, slot=remaining.slot, state=state)
        budget = np.concatenate([constraints.budget / scale, constraints.floor * total])
        prices = self._prices(state, remaining=remaining, seen=seen, rows=budget.size)
        signed = np.stack(
            [row.lower / unit for row, unit in zip(estimates.packing, scale, strict=True)]
            + [-row.upper for row in estimates.covering]
        )
        rate = _rate(total, budget=budget, packing=len(estimates.packing))
        score = estimates.reward.upper - np.tensordot(prices * rate, signed, axes=1)
        spent = bool((remaining.packing <= 0.0).any())
        weights = pick_best(score, allowed=estimates.free if spent else estimates.feasible)
        packing = len(estimates.packing)
        earned = np.array(
            [forecast.mean @ (weights * row.upper).sum(axis=1) for row in estimates.covering]
        )
        return Plan(
            weights=weights,
            packing_dual=(prices * rate)[:packing] / scale,
            covering_dual=(prices * rate)[packing:],
            slack=np.maximum(budget[packing:] - remaining.covering_hits - earned, 0.0),
            objective=float(forecast.mean @ (weights * estimates.reward.upper).sum(axis=1)),
            state={
                "prices": prices,
                "played": (weights[None] * signed).sum(axis=2),
                "total_demand": np.array([total]),
                "budget": budget,
                "packing_rows": np.array([float(packing)]),
                "demand_max": np.array([seen]),
            },
        )

    def _total_demand(
        self, forecast: Forecast, *, slot: int, state: Mapping[str, FloatArray]
    ) -> float:
        """``Qhat``, refreshed only when the paper's ``t = slot + 1`` is a power of two."""
        is_power_of_two = (slot + 1) & slot == 0
        if state and not is_power_of_two:
            return float(state["total_demand"][0])
        return max(float(forecast.total_window.sum()), 1e-9)

    def _prices(
        self, state: Mapping[str, FloatArray], *, remaining: Remaining, seen: float, rows: int
    ) -> FloatArray:
        """Projected gradient step on what the last slot played: the paper's update of lambda."""
        if not state:
            return np.ones(rows)
        budget, total = state["budget"], float(state["total_demand"][0])
        packing = int(state["packing_rows"][0])
        sign = np.where(np.arange(rows) < packing, 1.0, -1.0)
        demand = remaining.last_demand
        demand_max = max(self.demand_max or seen, 1e-9)
        per_slot = max(float(budget[MONEY_ROW]) / remaining.slots_total, 1e-9)
        magnitude = demand_max + demand_max**2 / per_slot
        step = 2.0 / (magnitude * math.sqrt(max(remaining.slot, 1)))
        rate = _rate(total, budget=budget, packing=packing)
        gradient = sign * demand.sum() - rate * (state["played"] @ demand)
        stepped = np.where(rate > 0.0, state["prices"] - step * gradient, 0.0)
        return project_l1(stepped, radius=remaining.slots_total**0.25)


def _rate(total: float, *, budget: FloatArray, packing: int) -> FloatArray:
    """``Qhat / B_i`` per row. A covering row without a floor asks for nothing: 0, no price."""
    asked = (budget > 0.0) | (np.arange(budget.size) < packing)
    return np.where(asked, total / np.maximum(budget, 1e-9), 0.0)


def project_l1(point: FloatArray, *, radius: float) -> FloatArray:
    """Return the nearest point of ``{ v >= 0, sum(v) <= radius }`` in Euclidean distance.

    Sorting method of Duchi et al. (ICML 2008).

    Parameters
    ----------
    point : ndarray, shape (n,)
    radius : float
        More than 0.
    """
    inside = np.maximum(point, 0.0)
    if inside.sum() <= radius:
        return inside
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - radius) / np.arange(1, point.size + 1)
    last = np.flatnonzero(falling > excess)[-1]
    return np.asarray(np.maximum(point - excess[last], 0.0))
