"""Baseline: reward per priced cost, prices that grow with consumption (primal-dual BwK)."""

import math
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
class PdBwk:
    """Plays the arm of highest optimistic reward per optimistic, priced cost.

    Each resource's price is multiplied by ``(1 + eps)`` to the power of what was consumed of it,
    at its lower bounds. Nobody forecasts: only the ratio of the budgets matters.

    Parameters
    ----------
    cost_scale : float or None
        Nano-dollars that count as a cost of 1. None takes the largest mean cost known.

    Notes
    -----
    Source: A. Badanidiyuru, R. Kleinberg, A. Slivkins, "Bandits with knapsacks", JACM 65 (2018),
    algorithm PrimalDualBwK: score ``UCB_r / (y . LCB_c)`` with ``y = v / |v|``, then
    ``v_i <- v_i (1 + eps)^(LCB_c,i)``, ``eps = sqrt(log(d) / B)``; budgets are made equal by
    scaling each resource's costs with ``B / B_i``, ``B`` the smallest, and time is a resource.

    Adapted: "at least a share ``floor`` of credits" is "at most a share ``1 - floor`` of misses",
    so a covering row becomes the resource of misses with lower bound ``1 - UCB_h``. Time is
    counted in requests. Their number, which the source knows as ``T``, is the past mean demand
    times the slots. A slot's update is that of its requests one after the other, at the bounds
    with which it was planned. Prices are kept as logarithms in ``Plan.state``. A covering
    resource that runs out does not stop the policy: its floor is soft.
    """

    cost_scale: float | None = None

    def __post_init__(self) -> None:
        if self.cost_scale is not None and not self.cost_scale > 0.0:
            raise ValueError(f"cost_scale is {self.cost_scale}, expected more than 0")

    @property
    def name(self) -> str:
        """The registered name."""
        return "pd_bwk"

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
            One arm per context; once the money is gone, an arm that costs nothing or none.

        Raises
        ------
        ValueError
            When shapes disagree.
        """
        check_inputs(estimates, constraints=constraints, forecast=forecast, remaining=remaining)
        scale = self._scale(estimates)
        budget = _budgets(constraints, remaining=remaining, scale=scale)
        lower = np.stack(
            [np.ones(estimates.feasible.shape)]
            + [row.lower / unit for row, unit in zip(estimates.packing, scale, strict=True)]
            + [1.0 - row.upper for row in estimates.covering]
        )
        smallest = float(budget.min())
        equal = lower * (smallest / budget)[:, None, None]
        log_prices = np.zeros(budget.size)
        if remaining.last is not None and "log_prices" in remaining.last.state:
            state = remaining.last.state
            log_prices = state["log_prices"] + state["step"] * (
                state["played"] @ remaining.last_demand
            )
        prices = np.exp(log_prices - log_prices.max())
        prices = prices / prices.sum()
        score = estimates.reward.upper / np.maximum(np.tensordot(prices, equal, axes=1), 1e-12)
        spent = remaining.packing[MONEY_ROW] <= 0.0
        weights = pick_best(score, allowed=estimates.free if spent else estimates.feasible)
        packing = len(estimates.packing)
        step = math.log1p(math.sqrt(math.log(max(budget.size, 2)) / max(smallest, 1.0)))
        return Plan(
            weights=weights,
            packing_dual=prices[1 : packing + 1] / scale,
            covering_dual=prices[packing + 1 :],
            slack=np.zeros(len(estimates.covering)),
            objective=float(forecast.mean @ (weights * estimates.reward.upper).sum(axis=1)),
            state={
                "log_prices": log_prices,
                "played": (weights[None] * equal).sum(axis=2),
                "step": np.array([step]),
            },
        )

    def _scale(self, estimates: Estimates) -> FloatArray:
        """Units of each packing row that count as 1, shape (P,)."""
        largest = [float(row.mean.max(initial=0.0)) for row in estimates.packing]
        scale = np.array([value if value > 0.0 else 1.0 for value in largest])
        if self.cost_scale is not None:
            scale[MONEY_ROW] = self.cost_scale
        return scale


def _budgets(constraints: Constraints, *, remaining: Remaining, scale: FloatArray) -> FloatArray:
    """Budgets of time, of the packing rows and of the misses; requests or scaled units."""
    per_slot = float(remaining.demand_so_far.sum()) / max(remaining.slot, 1)
    requests = max(per_slot, 1.0) * max(remaining.slots_total, 1)
    budget = np.concatenate(
        [[requests], constraints.budget / scale, (1.0 - constraints.floor) * requests]
    )
    return np.asarray(np.maximum(budget, 1e-9))
