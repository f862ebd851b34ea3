"""The fluid linear programme that the planner, the clairvoyant and the yardsticks share.

    max   sum_x q_x sum_a u_xa r_xa  -  sum_j rho_j slack_j
    s.t.  sum_xa q_x u_xa c_i,xa            <= budget_i          packing rows
          sum_xa q_x u_xa h_j,xa + slack_j  >= floor_j sum_x q_x  covering rows, elastic
          sum_{x in d},a q_x u_xa k_xa      <= limit_d            capacity rows, one per block
          sum_a u_xa <= 1,  u >= 0,  slack >= 0

With the window's true demand and true means its optimum bounds every policy from above
(arXiv 2606.17489, section on the benchmark; Badanidiyuru et al., JACM 2018).
"""

from collections.abc import Mapping

import numpy as np

from coordinator.policy.base import BoolArray, FloatArray, pick_best
from coordinator.policy.decomposition import decompose
from coordinator.policy.highs import solve_with_highs
from coordinator.policy.programme import (
    GAP_MAX,
    CapacityRows,
    FluidSolution,
    Optimum,
    Programme,
    priced_score,
)
from coordinator.policy.reduction import solve_reduced
from coordinator.policy.single import solve_single

__all__ = ["CapacityRows", "FluidSolution", "priced_score", "solve_fluid_lp"]


def solve_fluid_lp(
    demand: FloatArray,
    *,
    reward: FloatArray,
    packing: tuple[FloatArray, ...],
    budget: FloatArray,
    hits: tuple[FloatArray, ...],
    floor: FloatArray,
    rho: FloatArray,
    feasible: BoolArray,
    capacity: CapacityRows | None = None,
) -> FluidSolution:
    """Solve the fluid programme exactly. It always has a solution.

    Parameters
    ----------
    demand : ndarray, shape (X,)
        Requests to come, >= 0. Contexts without any are given the arm that is best at the
        optimum's prices; if no context has any, each counts as one request.
    reward : ndarray, shape (X, A)
    packing : tuple of ndarray, shape (X, A), length P
        Cost per request, >= 0.
    budget : ndarray, shape (P,)
        Units of the packing rows; a negative budget counts as 0.
    hits : tuple of ndarray, shape (X, A), length C
        Credit per request.
    floor : ndarray, shape (C,)
        Credited share of the demand to reach. It may exceed 1 (then slack is certain) or be
        negative (then the row is void).
    rho : ndarray, shape (C,)
        Reward given up per credited request that is missing, >= 0.
    feasible : ndarray of bool, shape (X, A)
    capacity : CapacityRows, optional
        Limits of the local arms of each device class.

    Returns
    -------
    FluidSolution

    Raises
    ------
    ValueError
        When an array holds a value that is not finite.

    Examples
    --------
    >>> best = solve_fluid_lp(
    ...     np.array([10.0]), reward=np.array([[0.5, 0.9]]),
    ...     packing=(np.array([[0.0, 2.0]]),), budget=np.array([5.0]),
    ...     hits=(), floor=np.zeros(0), rho=np.zeros(0), feasible=np.array([[True, True]]))
    >>> best.weights.round(3).tolist(), round(best.objective, 3)
    ([[0.75, 0.25]], 6.0)
    """
    if demand.size == 1 and capacity is None:
        alone = solve_single(
            1.0 if demand[0] <= 0.0 else float(demand[0]),
            reward=reward,
            packing=packing,
            budget=budget,
            hits=hits,
            floor=floor,
            rho=rho,
            feasible=feasible,
        )
        if alone is not None:
            return alone
    _refuse_infinite(
        {
            "demand": demand,
            "reward": reward,
            "budget": budget,
            "floor": floor,
            "rho": rho,
            **{f"packing[{index}]": cost for index, cost in enumerate(packing)},
            **{f"hits[{index}]": credit for index, credit in enumerate(hits)},
        }
    )
    demand = np.maximum(demand, 0.0)
    if demand.sum() <= 0.0:
        demand = np.ones_like(demand)
    programme = Programme(
        demand=demand,
        reward=reward,
        packing=packing,
        budget=np.maximum(budget, 0.0),
        hits=hits,
        floor=np.maximum(floor, 0.0),
        rho=np.maximum(rho, 0.0),
        feasible=feasible,
        capacity=capacity,
    )
    return solve_programme(programme)


def _refuse_infinite(arrays: Mapping[str, FloatArray]) -> None:
    """Raise ValueError when an array holds a value that is not finite."""
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} holds a value that is not finite: {array}")


def solve_programme(programme: Programme) -> FluidSolution:
    """Solve with the structured solver, and with HiGHS what that does not certify.

    The certificate is independent of the solver: in the programme's own units, the value of the
    weights and the Lagrangian at the prices (an upper bound) agree.
    """
    for core in (decompose, solve_with_highs):
        optimum = solve_reduced(programme, core=core)
        if optimum is not None:
            found = _finish(programme, optimum)
            if core is solve_with_highs or gap(programme, found) <= GAP_MAX:
                return found
    raise ArithmeticError("no solver returned a solution of the fluid programme")


def gap(programme: Programme, found: FluidSolution) -> float:
    """How far the objective may be below the optimum, over the demand times the largest value.

    Zero at an optimum whose prices are optimal as well. The largest value is that of a reward,
    or of the bound per request if it is larger.
    """
    total = float(programme.demand.sum())
    score = priced_score(
        programme.reward,
        packing=programme.packing,
        hits=programme.hits,
        packing_dual=found.packing_dual,
        covering_dual=found.covering_dual,
        capacity=programme.capacity,
        capacity_dual=found.capacity_dual,
    )
    best = np.where(programme.feasible, score, 0.0).max(axis=1, initial=0.0)
    bound = float(programme.demand @ best) + float(found.packing_dual @ programme.budget)
    bound -= total * float(found.covering_dual @ programme.floor)
    if programme.capacity is not None:
        bound += float(found.capacity_dual @ np.maximum(programme.capacity.limit, 0.0))
    worth = float(np.abs(np.where(programme.feasible, programme.reward, 0.0)).max(initial=0.0))
    scale = max(worth * total, abs(bound))
    return (bound - found.objective) / scale if scale > 0.0 else 0.0


def _finish(programme: Programme, optimum: Optimum) -> FluidSolution:
    """Clean up rounding, give contexts without demand a row, and evaluate."""
    score = priced_score(
        programme.reward,
        packing=programme.packing,
        hits=programme.hits,
        packing_dual=optimum.packing_dual,
        covering_dual=optimum.covering_dual,
        capacity=programme.capacity,
        capacity_dual=optimum.capacity_dual,
    )
    priced = pick_best(score, allowed=programme.feasible & (score >= 0.0))
    weights = np.where(optimum.planned[:, None], np.clip(optimum.weights, 0.0, 1.0) + 0.0, priced)
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    for cost, budget in zip(programme.packing, programme.budget, strict=True):
        spend = float(programme.demand @ (weights * cost).sum(axis=1))
        if spend > budget:
            weights = np.where(cost > 0.0, weights * (budget / spend), weights)
    if programme.capacity is not None:
        weights = _within_capacity(weights, programme.capacity, demand=programme.demand)
    gain = float(programme.demand @ (weights * programme.reward).sum(axis=1))
    earned = np.array(
        [programme.demand @ (weights * credit).sum(axis=1) for credit in programme.hits]
    )
    slack = np.maximum(programme.floor * programme.demand.sum() - earned, 0.0)
    return FluidSolution(
        weights=weights,
        objective=gain - float(programme.rho @ slack),
        packing_dual=optimum.packing_dual,
        covering_dual=optimum.covering_dual,
        slack=slack,
        capacity_dual=optimum.capacity_dual,
    )


def _within_capacity(
    weights: FloatArray, capacity: CapacityRows, *, demand: FloatArray
) -> FloatArray:
    """Scale the local weights of a block that exceeds its limit down to it."""
    used = capacity.total(weights, demand=demand)
    limit = np.maximum(capacity.limit, 0.0)
    factor = np.divide(limit, used, out=np.ones_like(used), where=used > limit)
    factor_of = np.append(factor, 1.0)[capacity.block]
    return np.where(capacity.cost > 0.0, weights * factor_of[:, None], weights)
