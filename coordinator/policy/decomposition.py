"""The fluid programme by Dantzig-Wolfe decomposition: few rows couple many contexts.

At given prices of the coupling rows every context simply takes its best arm. The master programme
mixes such assignments, one per group of contexts and round, so that the coupling rows hold; its
multipliers are the next prices. The mixture is feasible in every round, and the value at the
prices (the Lagrangian) bounds the optimum from above; both meet at the optimum after finitely many
rounds (Dantzig and Wolfe, Operations Research 8, 1960).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.policy.base import FloatArray
from coordinator.policy.simplex import Simplex

_GAP_MAX = 1e-12
_ROUNDS_MAX = 500
# Up to this many weights, of this many contexts, the master starts with every arm of every context.
_DIRECT_MAX = 256
_DIRECT_CONTEXTS_MAX = 24
# More groups mean more columns a round, hence fewer rounds, and more rows in the master.
_GROUPS = 8
# Beyond this many rows the master's dense inverse is no longer small.
_ROWS_MAX = 600

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scaled:
    """A programme in shares of the demand, arms first, every limiting row divided by its unit.

    Parameters
    ----------
    share : ndarray, shape (n,)
        Of the demand, > 0.
    reward : ndarray, shape (A, n)
        Of order 1; -inf where the arm is not allowed.
    coupling : ndarray, shape (P + C, A, n)
        The packing rows, then the covering rows.
    limits : ndarray, shape (P + L,)
        Right sides of the packing rows, then of the blocks' rows.
    floor, rho : ndarray, shape (C,)
    local : ndarray, shape (A, n), or None
        What a context takes of the row of its block.
    row : ndarray, shape (n,)
        The index of that row; L for none.
    """

    share: FloatArray
    reward: FloatArray
    coupling: FloatArray
    limits: FloatArray
    floor: FloatArray
    rho: FloatArray
    local: FloatArray | None
    row: Indices

    @property
    def blocks(self) -> int:
        """The number of blocks' rows, L."""
        return int(self.limits.size + self.floor.size - self.coupling.shape[0])


def decompose(scaled: Scaled) -> tuple[FloatArray, FloatArray] | None:
    """Solve to the optimum.

    Returns
    -------
    tuple of ndarray, or None
        Weights, shape (A, n), and prices of the packing rows, the blocks' rows and (negative) the
        covering rows, shape (P + L + C,). None when there are too many rows, or the limit of
        rounds or pivots is reached.
    """
    group = _groups(scaled.row, blocks=scaled.blocks, arms=scaled.reward.shape[0])
    if int(group.max()) + 1 + scaled.limits.size + scaled.floor.size > _ROWS_MAX:
        return None
    return _Decomposition(scaled, group=group).solve()


def _groups(row: Indices, *, blocks: int, arms: int) -> Indices:
    """Split the contexts of each block into groups: every context its own where they are few."""
    if _is_small(row.size, arms) or row.size <= _GROUPS:
        return np.arange(row.size)
    parts = max(_GROUPS // (blocks + 1), 1)
    order = np.argsort(row, kind="stable")
    start = np.searchsorted(row[order], row)
    rank = np.empty(row.size, dtype=np.intp)
    rank[order] = np.arange(row.size)
    return np.unique(row * parts + (rank - start) % parts, return_inverse=True)[1]


def _is_small(contexts: int, arms: int) -> bool:
    return contexts <= _DIRECT_CONTEXTS_MAX and contexts * arms <= _DIRECT_MAX


class _Decomposition:
    """The master, and the columns that it was given.

    Its rows are the groups, the packing rows, the blocks' rows and the covering rows. A column is
    the average of one group's choices; its value is the share of the demand that follows it.
    """

    def __init__(self, scaled: Scaled, *, group: Indices) -> None:
        self._scaled, self._group = scaled, group
        self._groups = int(self._group.max()) + 1
        self._size = np.bincount(self._group, scaled.share)
        self._right = np.concatenate([self._size, scaled.limits, scaled.floor])
        self._master = Simplex(self._right, rho=scaled.rho)
        self._flat = scaled.coupling.reshape(scaled.coupling.shape[0], -1)
        self._packing = scaled.limits.size - scaled.blocks
        self._every = np.arange(scaled.share.size)
        self._chosen: list[tuple[Indices, FloatArray, Indices]] = []

    def solve(self) -> tuple[FloatArray, FloatArray] | None:
        """Weights and prices, see `decompose`."""
        if _is_small(*self._scaled.reward.shape[::-1]):
            return self._solve_directly()
        for _ in range(_ROUNDS_MAX):
            if not self._price():
                return self._weights(), self._prices()
            if not self._master.maximise():
                return None
        return None

    def _solve_directly(self) -> tuple[FloatArray, FloatArray] | None:
        """Give the master every arm of every context at once."""
        scaled = self._scaled
        arms, contexts = np.nonzero(scaled.reward > -np.inf)
        columns = np.zeros((self._right.size, arms.size))
        columns[contexts, np.arange(arms.size)] = 1.0
        columns[self._places()] = scaled.coupling[:, arms, contexts]
        if scaled.local is not None:
            each = np.flatnonzero(scaled.row[contexts] < scaled.blocks)
            place = self._groups + self._packing + scaled.row[contexts[each]]
            columns[place, each] = scaled.local[arms[each], contexts[each]]
        self._master.add(columns, costs=scaled.reward[arms, contexts])
        if not self._master.maximise():
            return None
        weights = np.zeros(scaled.reward.shape)
        weights[arms, contexts] = self._master.solution() / scaled.share[contexts]
        return weights, self._prices()

    def _places(self) -> Indices:
        """Where the rows of ``coupling`` are in the master."""
        places = np.arange(self._groups, self._right.size)
        return np.delete(places, np.s_[self._packing : self._packing + self._scaled.blocks])

    def _prices(self) -> FloatArray:
        return self._master.prices[self._groups :]

    def _price(self) -> bool:
        """Let every context choose at the present prices; False if that changes nothing."""
        scaled, prices = self._scaled, self._master.prices
        score = scaled.reward - (prices[self._places()] @ self._flat).reshape(scaled.reward.shape)
        first = self._groups + self._packing
        if scaled.local is not None:
            rent = np.append(prices[first : first + scaled.blocks], 0.0)
            score -= rent[scaled.row] * scaled.local
        arm = score.argmax(axis=0)
        best = score[arm, self._every]
        served = np.where(best > 0.0, scaled.share, 0.0)
        worth = np.bincount(self._group, served * best, minlength=self._groups)
        gain = worth / self._size - prices[: self._groups]
        # The sum of the gains is what the bound is above the master's value.
        if float(self._size @ np.maximum(gain, 0.0)) <= _GAP_MAX * max(
            1.0, abs(self._master.value)
        ):
            return False
        groups = np.flatnonzero(gain > self._master.least)
        if groups.size == 0:
            return False
        self._add(arm, served=served, groups=groups)
        return True

    def _add(self, arm: Indices, *, served: FloatArray, groups: Indices) -> None:
        """Append the column of each of the groups."""
        scaled, count = self._scaled, self._groups

        def mean(layer: FloatArray) -> FloatArray:
            taken = np.bincount(self._group, served * layer[arm, self._every], minlength=count)
            return (taken / self._size)[groups]

        columns = np.zeros((self._right.size, groups.size))
        columns[groups, np.arange(groups.size)] = 1.0
        for place, layer in zip(self._places(), scaled.coupling, strict=True):
            columns[place] = mean(layer)
        if scaled.local is not None:
            row = np.empty(count, dtype=np.intp)
            row[self._group] = scaled.row
            inside = np.flatnonzero(row[groups] < scaled.blocks)
            place = count + self._packing + row[groups[inside]]
            columns[place, inside] = mean(scaled.local)[inside]
        self._master.add(columns, costs=mean(scaled.reward))
        self._chosen.append((arm, served, groups))

    def _weights(self) -> FloatArray:
        """The mixture of the choices, shape (A, n)."""
        scaled, found = self._scaled, self._master.solution()
        weights = np.zeros(scaled.reward.shape)
        start = 0
        for arm, served, groups in self._chosen:
            part = found[start : start + groups.size]
            start += groups.size
            if part.any():
                mixed = np.zeros(self._groups)
                mixed[groups] = part / self._size[groups]
                weights[arm, self._every] += np.where(served > 0.0, mixed[self._group], 0.0)
        return weights
