"""Baseline: an optimistic programme with the same budget in every slot (Agrawal and Devanur)."""

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
)
from coordinator.policy.fluid import solve_fluid_lp


@dataclass(frozen=True, kw_only=True)
class AdUcb:
    """Plays the optimum of the optimistic programme of an average slot.

    Every slot is held to the average budget ``B / slots``, whatever was spent before: nothing is
    corrected, and no forecast is used.

    Parameters
    ----------
    holdback : float
        Share of every budget that is not planned with, in [0, 1).

    Notes
    -----
    Source: S. Agrawal, N. R. Devanur, "Bandits with concave rewards and convex knapsacks", EC
    2014, the UCB algorithm. With linear rewards its convex programme is the fluid one:
    maximise ``p . UCB_r`` subject to ``p . LCB_c <= (1 - holdback) B / T``.

    Adapted: a slot holds several requests, so what a slot consumes is the request's bound times
    the *past* mean demand per slot; covering rows ``p . UCB_h >= floor`` are elastic at ``rho``;
    with contexts one programme spans them all. The source draws one arm for the round from ``p``.
    """

    holdback: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdback < 1.0:
            raise ValueError(f"holdback is {self.holdback}, expected 0 or more and less than 1")

    @property
    def name(self) -> str:
        """The registered name."""
        return "ad_ucb"

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
            Once the money is gone, only arms that cost nothing have weight.

        Raises
        ------
        ValueError
            When shapes disagree or an input is not finite.
        """
        check_inputs(estimates, constraints=constraints, forecast=forecast, remaining=remaining)
        return plan_average_slot(
            estimates,
            constraints=constraints,
            forecast=forecast,
            remaining=remaining,
            budget_share=1.0 - self.holdback,
        )


def plan_average_slot(
    estimates: Estimates,
    *,
    constraints: Constraints,
    forecast: Forecast,
    remaining: Remaining,
    budget_share: float = 1.0,
) -> Plan:
    """Solve the optimistic programme of a slot with past mean demand and the average budget.

    Parameters
    ----------
    budget_share : float
        Share of the average budget that the slot may plan with.
    forecast : Forecast
        Used only to scale ``Plan.objective``; no choice depends on it.
    """
    demand = remaining.demand_so_far / max(remaining.slot, 1)
    if demand.sum() <= 0.0:
        demand = np.ones_like(demand)
    budget = budget_share * constraints.budget / max(remaining.slots_total, 1)
    feasible = estimates.feasible
    if remaining.packing[MONEY_ROW] <= 0.0:
        feasible = estimates.free
    reward, packing, hits = _optimistic(estimates)
    solution = solve_fluid_lp(
        demand,
        reward=reward,
        packing=packing,
        budget=budget,
        hits=hits,
        floor=constraints.floor,
        rho=constraints.rho,
        feasible=feasible,
    )
    return Plan(
        weights=solution.weights,
        packing_dual=solution.packing_dual,
        covering_dual=solution.covering_dual,
        slack=solution.slack * max(remaining.slots_left, 0),
        objective=float(forecast.mean @ (solution.weights * reward).sum(axis=1)),
    )


def _optimistic(
    estimates: Estimates,
) -> tuple[FloatArray, tuple[FloatArray, ...], tuple[FloatArray, ...]]:
    """Upper rewards, lower costs, upper credits."""
    return (
        estimates.reward.upper,
        tuple(row.lower for row in estimates.packing),
        tuple(row.upper for row in estimates.covering),
    )
