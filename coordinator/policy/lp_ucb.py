"""The default policy: an optimistic linear programme, re-solved in every slot on what is left."""

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
from coordinator.policy.fluid import FluidSolution, priced_score, solve_fluid_lp

_PPM = 1_000_000


@dataclass(frozen=True, kw_only=True)
class LpUcb:
    """Optimistic LP on the remaining budget, the remaining SLA debt and the demand to come.

    Rewards and credits enter at their upper bounds, costs at their lower bounds. Re-solving on
    what is really left corrects in the next slot what optimism got wrong in this one.

    Parameters
    ----------
    explore_requests : int
        An arm with fewer booked outcomes than this in a context is unexplored there; one slot
        sends an arm at most ``max(explore_requests, outcomes booked)`` requests of a context.

    Notes
    -----
    Source: policy.md of the design; the re-solving idea is that of Flajolet and Jaillet (2015).
    See README.md in this package for the exploration rules and what they guarantee.
    """

    explore_requests: int = 8

    @property
    def name(self) -> str:
        """The registered name."""
        return "lp_ucb"

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
            Within the remaining packing budgets at ``lower`` costs and forecast means. A context
            with a free arm is always fully served.

        Raises
        ------
        ValueError
            When shapes disagree or an input is not finite.
        """
        check_inputs(estimates, constraints=constraints, forecast=forecast, remaining=remaining)
        demand = np.maximum(forecast.mean, 0.0)
        floors, reserve = _floors(
            estimates, constraints=constraints, demand=demand, remaining=remaining
        )
        share, dropped = _covering_share(constraints, demand=demand, remaining=remaining)
        packing = tuple(row.lower for row in estimates.packing)
        solution = solve_fluid_lp(
            demand,
            reward=estimates.reward.upper,
            packing=packing,
            budget=remaining.packing - reserve,
            hits=tuple(row.upper for row in estimates.covering),
            floor=share,
            rho=constraints.rho,
            feasible=estimates.feasible,
        )
        weights = floors + solution.weights * (1.0 - floors.sum(axis=1, keepdims=True))
        weights = _serve_free(weights, estimates=estimates, solution=solution)
        next_slot = np.maximum(forecast.next_slot, 0.0)
        weights = self._cap_unexplored(weights, estimates=estimates, next_slot=next_slot)
        weights = self._cap_spend(
            weights,
            estimates=estimates,
            next_slot=next_slot,
            solution=solution,
            allowance=constraints.explore_share * max(float(remaining.packing[MONEY_ROW]), 0.0),
        )
        return Plan(
            weights=weights,
            packing_dual=solution.packing_dual,
            covering_dual=solution.covering_dual,
            slack=solution.slack + dropped,
            objective=solution.objective,
        )

    def _cap_unexplored(
        self, weights: FloatArray, *, estimates: Estimates, next_slot: FloatArray
    ) -> FloatArray:
        """Hold each arm to at most max(explore_requests, booked) requests in the next slot."""
        booked = estimates.outcomes
        cap = np.maximum(self.explore_requests, booked) / np.maximum(next_slot, 1e-9)[:, None]
        return _move(weights, ceiling=cap, estimates=estimates)

    def _cap_spend(
        self,
        weights: FloatArray,
        *,
        estimates: Estimates,
        next_slot: FloatArray,
        solution: FluidSolution,
        allowance: float,
    ) -> FloatArray:
        """Hold the money of one slot that only optimism justifies to the allowance.

        A weight is exploration when the arm is unexplored in the context and, at the programme's
        prices and at mean estimates, another arm is better.
        """
        score = priced_score(
            estimates.reward.mean,
            packing=tuple(row.mean for row in estimates.packing),
            hits=tuple(row.mean for row in estimates.covering),
            packing_dual=solution.packing_dual,
            covering_dual=solution.covering_dual,
        )
        best = np.where(estimates.feasible, score, -np.inf).max(axis=1, initial=-np.inf)
        cost = estimates.packing[MONEY_ROW].mean
        exploring = (
            (estimates.outcomes < self.explore_requests) & (score < best[:, None]) & (cost > 0.0)
        )
        spend = float(next_slot @ np.where(exploring, weights * cost, 0.0).sum(axis=1))
        if spend <= allowance:
            return weights
        ceiling = np.where(exploring, weights * (allowance / spend), np.inf)
        return _move(weights, ceiling=ceiling, estimates=estimates)


def _floors(
    estimates: Estimates,
    *,
    constraints: Constraints,
    demand: FloatArray,
    remaining: Remaining,
) -> tuple[FloatArray, FloatArray]:
    """Spread epsilon over each row's candidates; costly arms only as far as explore_share pays.

    Returns the floors, and what to set aside for them in each packing row. Money comes last, so
    that what is set aside elsewhere does not depend on it: with more money the programme's
    optimum cannot fall.
    """
    feasible = estimates.feasible
    candidates = feasible.sum(axis=1, keepdims=True)
    epsilon = constraints.epsilon_ppm / _PPM
    floors = np.where(feasible & (candidates > 1), epsilon / np.maximum(candidates, 1), 0.0)
    reserve = np.zeros(len(estimates.packing))
    for index in reversed(range(len(estimates.packing))):
        row = estimates.packing[index]
        spend = float(demand @ (floors * row.mean).sum(axis=1))
        allowance = constraints.explore_share * max(float(remaining.packing[index]), 0.0)
        if spend > allowance:
            floors = np.where(row.mean > 0.0, floors * (allowance / spend), floors)
        reserve[index] = float(demand @ (floors * row.lower).sum(axis=1))
    return floors, reserve


def _covering_share(
    constraints: Constraints, *, demand: FloatArray, remaining: Remaining
) -> tuple[FloatArray, FloatArray]:
    """Return the share that the demand to come must reach, and the debt that is given up.

    The floor on the whole window is the floor on what comes plus the debt (or minus the credit)
    of what was; debt beyond ``slack_max`` of what comes is dropped.
    """
    total = float(demand.sum())
    debt = constraints.floor * remaining.demand_so_far.sum() - remaining.covering_hits
    kept = np.minimum(debt, constraints.slack_max * total)
    return constraints.floor + (kept / total if total > 0.0 else 0.0), debt - kept


def _serve_free(
    weights: FloatArray, *, estimates: Estimates, solution: FluidSolution
) -> FloatArray:
    """Give mass that the programme left unserved to the best arm that costs no money.

    Other packing rows are planned, not enforced: an answer is worth more than their balance.
    """
    score = priced_score(
        estimates.reward.upper,
        packing=tuple(row.lower for row in estimates.packing),
        hits=tuple(row.upper for row in estimates.covering),
        packing_dual=solution.packing_dual,
        covering_dual=solution.covering_dual,
    )
    missing = np.maximum(1.0 - weights.sum(axis=1, keepdims=True), 0.0)
    filled: FloatArray = weights + missing * pick_best(score, allowed=estimates.free)
    return filled


def _move(weights: FloatArray, *, ceiling: FloatArray, estimates: Estimates) -> FloatArray:
    """Cut weights to their ceiling; the excess goes to the row's best known cheap arm.

    That is the free arm with most booked outcomes, or without a free arm the best known one that
    costs no more than any arm that was cut. If it is itself above its ceiling, it keeps the
    excess: somebody has to answer.
    """
    excess = np.maximum(weights - ceiling, 0.0)
    if not excess.any():
        return weights
    cost = estimates.packing[MONEY_ROW].lower
    limit = np.where(excess > 0.0, cost, np.inf).min(axis=1, keepdims=True)
    free = estimates.free
    allowed = np.where(free.any(axis=1, keepdims=True), free, estimates.feasible & (cost <= limit))
    # Equally well known arms: the one that is used already, then the one of higher mean.
    rank = estimates.outcomes + 0.5 * weights + 0.25 * np.clip(estimates.reward.mean, 0.0, 1.0)
    receiver = pick_best(rank, allowed=allowed)
    served = receiver.any(axis=1, keepdims=True)
    excess = np.where(served, excess, 0.0)
    moved: FloatArray = weights - excess + receiver * excess.sum(axis=1, keepdims=True)
    return moved
