"""The fluid linear programme that the planner, the clairvoyant and the yardsticks share.

    max   sum_x q_x sum_a u_xa r_xa  -  sum_j rho_j slack_j
    s.t.  sum_xa q_x u_xa c_i,xa            <= budget_i          packing rows
          sum_xa q_x u_xa h_j,xa + slack_j  >= floor_j sum_x q_x  covering rows, elastic
          sum_a u_xa <= 1,  u >= 0,  slack >= 0

With the window's true demand and true means its optimum bounds every policy from above
(arXiv 2606.17489, section on the benchmark; Badanidiyuru et al., JACM 2018).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

from coordinator.policy.base import BoolArray, FloatArray, pick_best

# A context below this share of the demand is priced instead of planned: in the programme its
# coefficients would drown in the solver's tolerance.
_SHARE_MIN = 1e-8


@dataclass(frozen=True, eq=False, kw_only=True)
class FluidSolution:
    """An optimum of the fluid programme.

    Parameters
    ----------
    weights : ndarray, shape (X, A)
        ``u``; rows sum to at most 1, infeasible arms have 0.
    objective : float
        Reward minus the price of the slack, over the whole demand.
    packing_dual : ndarray, shape (P,)
        Reward per unit of budget, >= 0.
    covering_dual : ndarray, shape (C,)
        Reward per credited request, between 0 and ``rho``.
    slack : ndarray, shape (C,)
        Credited requests missing below each floor.
    """

    weights: FloatArray
    objective: float
    packing_dual: FloatArray
    covering_dual: FloatArray
    slack: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Programme:
    demand: FloatArray
    reward: FloatArray
    packing: tuple[FloatArray, ...]
    budget: FloatArray
    hits: tuple[FloatArray, ...]
    floor: FloatArray
    rho: FloatArray
    feasible: BoolArray


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
) -> FluidSolution:
    """Solve the fluid programme with HiGHS. It always has a solution.

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
    for name, array in (("demand", demand), ("reward", reward), ("budget", budget)):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} holds a value that is not finite: {array}")
    demand = np.maximum(demand, 0.0)
    if demand.sum() <= 0.0:
        demand = np.ones_like(demand)
    programme = _Programme(
        demand=demand,
        reward=reward,
        packing=packing,
        budget=np.maximum(budget, 0.0),
        hits=hits,
        floor=np.maximum(floor, 0.0),
        rho=np.maximum(rho, 0.0),
        feasible=feasible,
    )
    weights, packing_dual, covering_dual = _solve(programme)
    return _finish(programme, weights, packing_dual, covering_dual)


def priced_score(
    reward: FloatArray,
    *,
    packing: tuple[FloatArray, ...],
    hits: tuple[FloatArray, ...],
    packing_dual: FloatArray,
    covering_dual: FloatArray,
) -> FloatArray:
    """Reward net of what an arm takes from and gives to the shared rows, shape (X, A)."""
    score = reward.astype(np.float64)
    for cost, price in zip(packing, packing_dual, strict=True):
        score = score - price * cost
    for credit, price in zip(hits, covering_dual, strict=True):
        score = score + price * credit
    return score


def _solve(programme: _Programme) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return raw weights (X, A) and the duals of the packing and covering rows."""
    share = programme.demand / programme.demand.sum()
    rows, cols = np.nonzero(programme.feasible & (share > _SHARE_MIN)[:, None])
    packing_count, covering_count = len(programme.packing), len(programme.hits)
    weights = np.zeros(programme.feasible.shape)
    if rows.size == 0:
        return weights, np.zeros(packing_count), np.zeros(covering_count)
    # Variables are shares of the whole demand, and rows are divided by their largest
    # coefficient, so that the solver's absolute tolerances mean the same for every unit.
    scale = np.array([max(cost[rows, cols].max(), 0.0) for cost in programme.packing])
    scale[scale <= 0.0] = 1.0
    coupling = np.zeros((packing_count + covering_count, rows.size + covering_count))
    for index, cost in enumerate(programme.packing):
        coupling[index, : rows.size] = cost[rows, cols] / scale[index]
    for index, credit in enumerate(programme.hits):
        coupling[packing_count + index, : rows.size] = -credit[rows, cols]
        coupling[packing_count + index, rows.size + index] = -1.0
    limit = programme.budget / (scale * programme.demand.sum())
    contexts, row_of = np.unique(rows, return_inverse=True)
    matrix: Any = _stack(row_of, contexts.size, coupling)
    solution = linprog(
        np.concatenate([-programme.reward[rows, cols], programme.rho]),
        A_ub=matrix,
        b_ub=np.concatenate([share[contexts], np.minimum(limit, 1.0), -programme.floor]),
        method="highs",
    )
    if solution.status != 0:
        raise ArithmeticError(f"the fluid programme was not solved: {solution.message}")
    found: Any = solution.x
    weights[rows, cols] = found[: rows.size] / share[rows]
    marginals: Any = solution.ineqlin.marginals
    prices = np.maximum(-marginals[contexts.size :], 0.0)
    return weights, prices[:packing_count] / scale, prices[packing_count:]


def _stack(row_of: NDArray[np.intp], contexts: int, coupling: FloatArray) -> Any:
    """Sparse rows: one per context (its weights sum to at most its share), then the coupling."""
    variables = row_of.size
    dense_row, dense_col = np.nonzero(coupling)
    return csr_array(
        (
            np.concatenate([np.ones(variables), coupling[dense_row, dense_col]]),
            (
                np.concatenate([row_of, contexts + dense_row]),
                np.concatenate([np.arange(variables), dense_col]),
            ),
        ),
        shape=(contexts + coupling.shape[0], coupling.shape[1]),
    )


def _finish(
    programme: _Programme,
    weights: FloatArray,
    packing_dual: FloatArray,
    covering_dual: FloatArray,
) -> FluidSolution:
    """Clean up rounding, give contexts without demand a row, and evaluate."""
    score = priced_score(
        programme.reward,
        packing=programme.packing,
        hits=programme.hits,
        packing_dual=packing_dual,
        covering_dual=covering_dual,
    )
    tiny = programme.demand <= _SHARE_MIN * programme.demand.sum()
    priced = pick_best(score, allowed=programme.feasible & (score >= 0.0))
    weights = np.where(tiny[:, None], priced, np.clip(weights, 0.0, 1.0))
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    for cost, budget in zip(programme.packing, programme.budget, strict=True):
        spend = float(programme.demand @ (weights * cost).sum(axis=1))
        if spend > budget:
            weights = np.where(cost > 0.0, weights * (budget / spend), weights)
    gain = float(programme.demand @ (weights * programme.reward).sum(axis=1))
    earned = np.array(
        [programme.demand @ (weights * credit).sum(axis=1) for credit in programme.hits]
    )
    slack = np.maximum(programme.floor * programme.demand.sum() - earned, 0.0)
    return FluidSolution(
        weights=weights,
        objective=gain - float(programme.rho @ slack),
        packing_dual=packing_dual,
        covering_dual=covering_dual,
        slack=slack,
    )
