"""A primal simplex with an explicit inverse, for masters of few rows that grow by columns."""

import numpy as np

from coordinator.policy.base import FloatArray

# A column must gain more than this to enter, where rewards and prices are of order 1.
_GAIN_MIN = 1e-13
# Entries of the entering column below this are rounding, once columns are divided by their largest.
_PIVOT_MIN = 1e-11
_PIVOTS_MAX = 50_000
# Steps in a row that move nothing, after which Bland's rule takes over until one does.
_STALLED = 40
_REFRESH = 100


class Simplex:
    """max costs . x  subject to  columns . x = right, x >= 0, from a basis that is at hand.

    Every row starts with a unit column: the slack of a row not to exceed, at cost 0, or the
    shortage of a row to reach, at cost ``-rho``. So no first phase is needed.

    Parameters
    ----------
    right : ndarray, shape (R,)
        Right sides, >= 0; the rows to reach come last.
    rho : ndarray, shape (C,)
        Price of the shortage in each of the last C rows, >= 0.

    Attributes
    ----------
    prices : ndarray, shape (R,)
        The multipliers at the present basis; of rows to reach they are in ``[-rho, 0]``.

    Notes
    -----
    Dantzig's rule, among tied rows the largest pivot; Bland's rule while nothing moves, so it
    ends. Source: Chvatal, Linear Programming, 1983, chapters 3 and 7.
    """

    def __init__(self, right: FloatArray, *, rho: FloatArray) -> None:
        rows, covering = right.size, rho.size
        self._right = right
        self._count = rows + covering
        self._columns = np.zeros((rows, self._count + 64))
        self._costs = np.zeros(self._count + 64)
        self._columns.flat[: rows * self._columns.shape[1] : self._columns.shape[1] + 1] = 1.0
        if covering:
            first = rows - covering
            self._costs[first:rows] = -rho
            self._columns[np.arange(first, rows), np.arange(rows, self._count)] = -1.0
        self._own = self._count
        self._largest = np.ones(self._costs.size)
        self._basis = np.arange(rows)
        self._inverse: FloatArray = np.eye(rows)
        self._values = right.copy()
        self.prices: FloatArray = self._costs[:rows].copy()
        self._pivots = 0

    @property
    def least(self) -> float:
        """What a column must gain to enter: more than the rounding in the prices."""
        return _GAIN_MIN * max(1.0, float(np.abs(self.prices).max()))

    @property
    def value(self) -> float:
        """The objective at the present basis."""
        return float(self._costs[self._basis] @ self._values)

    def solution(self) -> FloatArray:
        """Values of the columns that were added, in that order."""
        found = np.zeros(self._count)
        found[self._basis] = self._values
        return found[self._own :]

    def add(self, columns: FloatArray, *, costs: FloatArray) -> None:
        """Append columns, shape (R, k), at value 0."""
        end = self._count + costs.size
        if end > self._costs.size:
            grown = np.zeros((self._right.size, 2 * end))
            grown[:, : self._count] = self._columns[:, : self._count]
            self._columns = grown
            more = 2 * end - self._costs.size
            self._costs = np.concatenate([self._costs, np.zeros(more)])
            self._largest = np.concatenate([self._largest, np.ones(more)])
        self._columns[:, self._count : end] = columns
        self._costs[self._count : end] = costs
        self._largest[self._count : end] = np.abs(columns).max(axis=0)
        self._count = end

    def maximise(self) -> bool:
        """Pivot to an optimum; False when it is not reached within the limit of pivots."""
        columns, costs = self._columns[:, : self._count], self._costs[: self._count]
        stalled = 0
        for _ in range(_PIVOTS_MAX):
            gain = costs - self.prices @ columns
            entering = int(gain.argmax())
            if gain[entering] <= self.least:
                return True
            if stalled > _STALLED:
                entering = int((gain > self.least).argmax())
            step = self._pivot(columns[:, entering], entering, float(gain[entering]), stalled)
            if step is None:
                return False
            stalled = 0 if step > 0.0 else stalled + 1
        return False

    def _pivot(self, column: FloatArray, entering: int, gain: float, stalled: int) -> float | None:
        """Exchange one basic column; return its step, None when nothing limits it."""
        direction = self._inverse @ column
        size = direction * self._largest[self._basis]
        rows = (size > _PIVOT_MIN * self._largest[entering]).nonzero()[0]
        if rows.size == 0:
            return None
        ratio = self._values[rows] / direction[rows]
        step = float(ratio.min())
        if rows.size > 1:
            rows = rows[ratio <= step * (1.0 + 1e-12)]
        if stalled > _STALLED:
            leaving = int(rows[self._basis[rows].argmin()])
        else:
            leaving = int(rows[size[rows].argmax()])
        self._basis[leaving] = entering
        self._pivots += 1
        if self._pivots % _REFRESH == 0:
            return step if self._refresh() else None
        self._values -= step * direction
        self._values[leaving] = step
        np.maximum(self._values, 0.0, out=self._values)
        row = self._inverse[leaving] / direction[leaving]
        self._inverse -= direction[:, None] * row
        self._inverse[leaving] = row
        self.prices = self.prices + gain * row
        return step

    def _refresh(self) -> bool:
        """Recompute everything from the basis, to shed rounding; False if it is singular."""
        try:
            inverse = np.linalg.inv(self._columns[:, self._basis])
        except np.linalg.LinAlgError:
            return False
        self._inverse = inverse.astype(np.float64)
        self._values = np.maximum(self._inverse @ self._right, 0.0)
        self.prices = self._costs[self._basis] @ self._inverse
        return True
