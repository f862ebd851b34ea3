"""How wrong a forecaster has been, at several horizons: the source of widths and of choices."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import numpy as np

from coordinator.forecast.base import FloatArray

HORIZONS: Final = (1, 4, 16, 64, 256, 1024)
"""Lengths, in slots, of the blocks whose totals are promised and checked."""

_MEMORY_SLOTS: Final = 100.0
_MEMORY_BLOCKS: Final = 10.0
_BORROWED: Final = 8.0
_BORROWED_MIN: Final = 0.5
"""Blocks' worth of evidence that a horizon takes over from the next shorter one, while it has less
than that of its own; later only the minimum, so that a jump which the short blocks have already
seen still stands out in the long ones."""

_SURPRISE: Final = 12.0
"""Squared standardised error from which on a block is a surprise; two running are a jump."""


class TrackRecord:
    """Promises of totals over blocks of 1, 4, 16, ... slots, and what came of them.

    At each horizon one block at a time is open: the forecaster's total is noted when it opens and
    compared when it is over. What is kept is the mean of ``error^2 / shape``, where ``shape`` is
    the forecaster's own idea of how its variance grows with the horizon (1 at one slot). If that
    idea is right, the mean is the same at every horizon; where it is wrong, the longer horizons
    say so, and they count for every horizon from theirs on. Plain squared errors are kept beside
    it: forecasters with different shapes are compared by those, over the same blocks.

    Parameters
    ----------
    series : int
        Number of series X.
    """

    _FIELDS = ("promised", "shape", "actual", "ratio", "square", "weight", "sign")

    def __init__(self, series: int) -> None:
        self._left = [0] * len(HORIZONS)
        self._data = {name: np.zeros((len(HORIZONS), series)) for name in self._FIELDS}

    def settle(self, counts: FloatArray, *, floor: FloatArray) -> dict[int, FloatArray]:
        """Take in a slot's counts and close the blocks that it completes.

        Parameters
        ----------
        counts, floor : ndarray, shape (X,)
            Requests, and the variance of one slot to assume while nothing else is known.

        Returns
        -------
        dict of int to ndarray, shape (X,)
            Per closed horizon, the block's total of the series for which it and the block before
            were surprises in the same direction, NaN for the others. One alone may be a burst.
        """
        jumps = {}
        self._data["actual"] += counts
        for row, horizon in enumerate(HORIZONS):
            self._left[row] -= 1
            if self._left[row] == 0:
                jumps[horizon] = self._close(row, floor=floor)
        return jumps

    def promise(
        self,
        totals: Callable[[int], FloatArray],
        *,
        shape: Callable[[int], FloatArray],
        known: np.ndarray,
    ) -> None:
        """Open a block at each horizon that has none.

        Parameters
        ----------
        totals, shape : callable
            From a horizon to the forecast total and to its variance over that of one slot.
        known : ndarray of bool, shape (X,)
            Where a block longer than a slot counts: elsewhere it would judge the declared prior.
        """
        for row, horizon in enumerate(HORIZONS):
            if self._left[row] <= 0:
                self._left[row] = horizon
                self._data["promised"][row] = totals(horizon)
                self._data["shape"][row] = np.where(known | (row == 0), shape(horizon), 0.0)
                self._data["actual"][row] = 0.0

    def void(self, series: np.ndarray | None = None) -> None:
        """Drop the open blocks: of all series, or of those where the mask holds."""
        if series is None:
            self._left = [0] * len(HORIZONS)
            self._data["sign"][:] = 0.0
        else:
            self._data["shape"][:, series] = 0.0
            self._data["sign"][:, series] = 0.0

    def doubt(self, horizon: int, *, floor: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What to expect at a horizon, each of shape (X,).

        Returns
        -------
        per_slot
            ``error^2 / shape``: the variance of one slot.
        widening
            By how much few blocks widen it for quantiles, >= 1: the quantiles of Student's law
            over those of the normal one, squared, to first order.
        """
        per_slot, blocks = self._expected(_row_of(horizon), floor=floor)
        return per_slot, (1.0 + 1.0 / blocks) ** 2

    def square(self, horizon: int) -> FloatArray:
        """Mean squared error at exactly this one of ``HORIZONS``, shape (X,); 0 without blocks."""
        row = HORIZONS.index(horizon)
        total, blocks = self._data["square"][row], self._data["weight"][row]
        mean: FloatArray = total / np.maximum(blocks, 1e-9)
        return mean

    def blocks(self, horizon: int) -> FloatArray:
        """Blocks that count at exactly this one of ``HORIZONS``, discounted, shape (X,)."""
        blocks: FloatArray = self._data["weight"][HORIZONS.index(horizon)]
        return blocks

    def resize(self, series: int) -> None:
        """Grow to ``series`` series; a new one has no open blocks."""
        added = series - self._data["weight"].shape[1]
        if added:
            fresh = np.zeros((len(HORIZONS), added))
            self._data = {k: np.concatenate([v, fresh], axis=1) for k, v in self._data.items()}

    def to_state(self) -> dict[str, Any]:
        """Plain data; ``from_state`` takes it back exactly."""
        return {"left": list(self._left), **{k: v.tolist() for k, v in self._data.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, series: int) -> Self:
        """A record from ``to_state``'s data."""
        made = cls(series)
        made._left = [int(left) for left in state["left"]]
        for name in cls._FIELDS:
            made._data[name] = np.asarray(state[name], dtype=np.float64).reshape(-1, series)
        return made

    def _expected(self, row: int, *, floor: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What to expect at a horizon, and the blocks it rests on.

        The horizon's own mean, shrunk towards the shorter one's while its blocks are few.
        """
        data, expected, worth = self._data, floor, np.ones_like(floor)
        for shorter in range(row + 1):
            own = data["weight"][shorter]
            borrowed = np.clip(_BORROWED - own, _BORROWED_MIN, worth)
            worth = own + borrowed
            expected = (data["ratio"][shorter] + borrowed * expected) / worth
        return expected, worth

    def _close(self, row: int, *, floor: FloatArray) -> FloatArray:
        data = self._data
        valid = data["shape"][row] > 0.0
        shape = np.where(valid, data["shape"][row], 1.0)
        expected, _ = self._expected(row, floor=floor)
        error = data["actual"][row] - data["promised"][row]
        # Counts have heavy upper tails: Bernstein's bound, with bursts of the series' own size.
        burst = np.maximum(expected / np.maximum(floor, 1e-9), 1.0)
        surprise = error**2 / (expected * shape + np.abs(error) * burst / 3.0 + 1e-12)
        memory = _MEMORY_SLOTS if row == 0 else _MEMORY_BLOCKS
        # One burst or jump should not decide the widths of the next ten blocks.
        added = np.minimum(error**2 / shape, _SURPRISE * expected)
        kept = np.where(valid, 1.0 - 1.0 / memory, 1.0)
        for name, value in (("ratio", added), ("square", error**2), ("weight", 1.0)):
            data[name][row] = kept * data[name][row] + np.where(valid, value, 0.0)
        sign = np.where(valid & (surprise > _SURPRISE), np.sign(error), 0.0)
        jumped = (sign != 0.0) & (sign == data["sign"][row])
        data["sign"][row] = sign
        return np.where(jumped, data["actual"][row], np.nan)


def _row_of(horizon: int) -> int:
    """The longest of ``HORIZONS`` that fits into this one."""
    return max(row for row, length in enumerate(HORIZONS) if length <= max(horizon, 1))
