"""The data of one fluid programme, as its solvers take it."""

from dataclasses import dataclass, field

import numpy as np

from coordinator.policy.base import BoolArray, FloatArray, IntArray

# A solution stands if it is proven to be optimal to this share of its value.
GAP_MAX = 1e-9
# An arm that a row cannot pay for up to this share of the demand is left out: it is worth less
# than the proof's tolerance, and its coefficients would drown the others'.
AFFORDABLE_MIN = 1e-11


@dataclass(frozen=True, eq=False, kw_only=True)
class CapacityRows:
    """What the local arms of each device class can do; a row couples one class's contexts only.

        sum over x in block d, a of  q_x u_xa cost_xa  <=  limit_d

    Parameters
    ----------
    block : ndarray of int, shape (X,)
        The device class of each context, 0 to D - 1; -1 for a context that no row limits.
    cost : ndarray, shape (X, A)
        Worker-seconds per request, >= 0; 0 for arms that are not local.
    limit : ndarray, shape (D,)
        Worker-seconds that are available for the whole demand; a negative limit counts as 0.

    Raises
    ------
    ValueError
        When a block has no limit, the shapes disagree, or a value is not finite.
    """

    block: IntArray
    cost: FloatArray
    limit: FloatArray

    def __post_init__(self) -> None:
        if self.block.shape != self.cost.shape[:1]:
            raise ValueError(
                f"capacity.block has shape {self.block.shape}, expected {self.cost.shape[:1]}"
            )
        if not (np.all(np.isfinite(self.cost)) and np.all(np.isfinite(self.limit))):
            raise ValueError("capacity.cost or capacity.limit holds a value that is not finite")
        if self.block.size and not -1 <= self.block.min() <= self.block.max() < self.limit.size:
            raise ValueError(
                f"capacity.block holds {self.block.min()} to {self.block.max()}, "
                f"expected -1 to {self.limit.size - 1}"
            )

    def total(self, weights: FloatArray, *, demand: FloatArray) -> FloatArray:
        """Worker-seconds that the weights take of each row, shape (D,)."""
        used = demand * (weights * self.cost).sum(axis=1)
        inside = self.block >= 0
        taken = np.bincount(self.block[inside], used[inside], minlength=self.limit.size)
        return taken.astype(np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Programme:
    """One programme, checked: nothing negative but rewards and credits, some demand."""

    demand: FloatArray
    reward: FloatArray
    packing: tuple[FloatArray, ...]
    budget: FloatArray
    hits: tuple[FloatArray, ...]
    floor: FloatArray
    rho: FloatArray
    feasible: BoolArray
    capacity: CapacityRows | None = None


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
    capacity_dual : ndarray, shape (D,)
        Reward per worker-second of each capacity row, >= 0; empty without such rows.
    """

    weights: FloatArray
    objective: float
    packing_dual: FloatArray
    covering_dual: FloatArray
    slack: FloatArray
    capacity_dual: FloatArray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Optimum:
    """What a solver returns: raw weights, shape (X, A), and the multipliers of the rows.

    ``planned``, shape (X,), tells which contexts had demand enough to be planned.
    """

    weights: FloatArray
    packing_dual: FloatArray
    covering_dual: FloatArray
    capacity_dual: FloatArray
    planned: BoolArray


def priced_score(
    reward: FloatArray,
    *,
    packing: tuple[FloatArray, ...],
    hits: tuple[FloatArray, ...],
    packing_dual: FloatArray,
    covering_dual: FloatArray,
    capacity: CapacityRows | None = None,
    capacity_dual: FloatArray | None = None,
) -> FloatArray:
    """Reward net of what an arm takes from and gives to the shared rows, shape (X, A)."""
    score = reward.astype(np.float64)
    for cost, price in zip(packing, packing_dual, strict=True):
        score = score - price * cost
    for credit, price in zip(hits, covering_dual, strict=True):
        score = score + price * credit
    if capacity is not None and capacity_dual is not None:
        score = score - np.append(capacity_dual, 0.0)[capacity.block][:, None] * capacity.cost
    return score


def net_score(programme: Programme, optimum: Optimum) -> FloatArray:
    """Each arm's score at the optimum's prices, shape (X, A)."""
    return priced_score(
        programme.reward,
        packing=programme.packing,
        hits=programme.hits,
        packing_dual=optimum.packing_dual,
        covering_dual=optimum.covering_dual,
        capacity=programme.capacity,
        capacity_dual=optimum.capacity_dual,
    )
