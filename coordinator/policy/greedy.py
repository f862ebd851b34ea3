"""Baseline: most reward for the money, without looking ahead."""

from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import (
    MONEY_ROW,
    BoolArray,
    Constraints,
    Estimates,
    Forecast,
    Plan,
    Remaining,
    check_inputs,
    idle_plan,
    pick_best,
)


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Plays the arm of highest optimistic reward per share of the budgets that it takes.

    The cost of an arm is ``sum_i LCB_i / B_i``: the share of the window's budgets that one
    request uses up. There are no prices, so a budget is never used to buy a better arm than the
    thriftiest, and it is not paced. While a covering row is behind its floor, only arms whose
    upper credit reaches the floor are candidates, if the context has one.

    Notes
    -----
    The density rule for knapsack problems (Dantzig, 1957), with upper confidence bounds. No
    forecast is used. Of several arms that cost nothing the one of highest reward is played.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        return "greedy"

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
        share = np.zeros(estimates.feasible.shape)
        for row, budget in zip(estimates.packing, constraints.budget, strict=True):
            share = share + row.lower / max(float(budget), 1.0)
        spent = remaining.packing[MONEY_ROW] <= 0.0
        allowed = estimates.free if spent else estimates.feasible
        for index, row in enumerate(estimates.covering):
            floor = float(constraints.floor[index])
            owed = floor * float(remaining.demand_so_far.sum())
            if remaining.covering_hits[index] < owed:
                allowed = _prefer(allowed, wanted=row.upper >= floor)
        weights = pick_best(estimates.reward.upper / np.maximum(share, 1e-15), allowed=allowed)
        gain = (weights * estimates.reward.upper).sum(axis=1)
        return idle_plan(estimates, weights=weights, objective=float(forecast.mean @ gain))


def _prefer(allowed: BoolArray, *, wanted: BoolArray) -> BoolArray:
    """Narrow each context to its wanted arms, where it has one."""
    narrowed = allowed & wanted
    return np.where(narrowed.any(axis=1, keepdims=True), narrowed, allowed)
