"""The reduced fluid programme through HiGHS: for whatever the decomposition does not certify.

SciPy is imported when it is needed, which is hardly ever: it is half of what a start takes.
"""

from typing import Any

import numpy as np

from coordinator.policy.base import FloatArray
from coordinator.policy.decomposition import Scaled

# The least that HiGHS accepts, and its default.
_TOLERANCES = (1e-10, 1e-7)


def solve_with_highs(scaled: Scaled) -> tuple[FloatArray, FloatArray]:
    """Solve within HiGHS's tolerances; arguments and result are those of `decompose`.

    Raises
    ------
    ArithmeticError
        When HiGHS does not end at an optimum; every programme has one.
    """
    from scipy.sparse import csr_array  # noqa: PLC0415

    arms, contexts = np.nonzero(scaled.reward > -np.inf)
    covering = scaled.floor.size
    packing = scaled.coupling.shape[0] - covering
    first = packing + scaled.blocks
    dense = np.zeros((first + covering, arms.size + covering))
    rows = np.r_[:packing, first : first + covering]
    dense[rows, : arms.size] = scaled.coupling[:, arms, contexts]
    dense[first:, arms.size :] = np.eye(covering)
    dense[first:] *= -1.0
    if scaled.local is not None:
        inside = np.flatnonzero(scaled.row[contexts] < scaled.blocks)
        place = packing + scaled.row[contexts[inside]]
        dense[place, inside] = scaled.local[arms[inside], contexts[inside]]
    row, column = np.nonzero(dense)
    count = scaled.share.size
    matrix: Any = csr_array(
        (
            np.concatenate([np.ones(arms.size), dense[row, column]]),
            (
                np.concatenate([contexts, count + row]),
                np.concatenate([np.arange(arms.size), column]),
            ),
        ),
        shape=(count + dense.shape[0], dense.shape[1]),
    )
    right = np.concatenate([scaled.share, scaled.limits, -scaled.floor])
    costs = np.concatenate([-scaled.reward[arms, contexts], scaled.rho])
    solution = _solved(costs, matrix=matrix, right=right)
    weights = np.zeros(scaled.reward.shape)
    weights[arms, contexts] = solution.x[: arms.size] / scaled.share[contexts]
    prices = -solution.ineqlin.marginals[count:]
    prices[first:] *= -1.0
    return weights, prices


def _solved(costs: FloatArray, *, matrix: Any, right: FloatArray) -> Any:
    """Solve to tight tolerances, or to its own where HiGHS cannot reach those."""
    from scipy.optimize import linprog  # noqa: PLC0415

    solution: Any = None
    for tolerance in _TOLERANCES:
        solution = linprog(
            costs,
            A_ub=matrix,
            b_ub=right,
            method="highs",
            options={
                "primal_feasibility_tolerance": tolerance,
                "dual_feasibility_tolerance": tolerance,
            },
        )
        if solution.status == 0:
            return solution
    raise ArithmeticError(f"the fluid programme was not solved: {solution.message}")
