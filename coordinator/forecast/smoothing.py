"""Exponential smoothing with a damped trend; rates by what has erred least, per series."""

from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np

from coordinator.forecast.base import FloatArray
from coordinator.forecast.series import SeriesForecaster

_RATES: Final = (
    (0.02, 0.0),
    (0.05, 0.0),
    (0.1, 0.0),
    (0.2, 0.0),
    (0.4, 0.0),
    (0.7, 0.0),
    (0.1, 0.05),
    (0.3, 0.1),
)
"""Rates of the level and of the trend that run side by side."""

_DAMPING: Final = 0.9
_MEMORY_SLOTS: Final = 100.0


class Smoothing(SeriesForecaster):
    """``level += alpha error``, ``trend += alpha beta error``, the trend damped by 0.9 a slot.

    Several pairs of rates run side by side; each series uses the pair with the least discounted
    squared one-step error. While a history is short, the rate is at least that of a plain mean,
    in which the prior counts as one slot. After a gap the level stays and the trend is gone.
    Reference: Gardner and McKenzie, Management Science 31 (1985).

    Parameters
    ----------
    prior : ndarray, shape (X,)
        See ``SeriesForecaster``.
    alpha : float
        A fixed rate of the level, without a trend; 0 lets each series choose.

    Raises
    ------
    ValueError
        When ``alpha`` is not in [0, 1].
    """

    def __init__(self, prior: FloatArray, *, alpha: float = 0.0) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha is {alpha}, expected 0 (choose) to 1")
        self._alpha = alpha
        rates = np.array(_RATES if alpha == 0.0 else ((alpha, 0.0),))
        self._level_rate, self._trend_rate = rates[:, :1], rates[:, 1:]
        super().__init__(prior)

    @property
    def name(self) -> str:
        """The registered name."""
        return "smoothing"

    def _fresh(self) -> Self:
        return type(self)(np.zeros(0), alpha=self._alpha)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        pairs = (len(self._level_rate),)
        return {"level": pairs, "trend": pairs, "missed": pairs}

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        data = self._data
        fresh = data["count"] == 0.0
        level = np.where(fresh, data["prior"], data["level"])
        trend = data["trend"] * (0.0 if gap else _DAMPING)
        error = counts - (level + trend)
        data["missed"] = (1.0 - 1.0 / _MEMORY_SLOTS) * data["missed"] + error**2
        rate = np.maximum(self._level_rate, 1.0 / (data["count"] + 2.0))
        data["level"] = np.maximum(level + trend + rate * error, 0.0)
        data["trend"] = trend + self._level_rate * self._trend_rate * error

    def _picked(self) -> tuple[Any, FloatArray]:
        """Index of each series' pair of rates, and the effective rate of its level."""
        best = np.argmin(self._data["missed"], axis=0)
        rate = np.maximum(self._level_rate[best, 0], 1.0 / (self._data["count"] + 2.0))
        return (best, np.arange(self.series)), rate

    def _totals(self, slots: int) -> FloatArray:
        data = self._data
        at, _ = self._picked()
        level = np.where(data["count"] > 0.0, data["level"][at], data["prior"])
        # sum over j <= slots of phi + ... + phi^j
        run = _DAMPING / (1.0 - _DAMPING)
        reach = run * (slots - _DAMPING * (1.0 - _DAMPING**slots) / (1.0 - _DAMPING))
        # A trend may at most empty the level: demand does not go below zero on its way.
        total: FloatArray = slots * level
        total += np.maximum(data["trend"][at] * reach, -total)
        return total

    def _shape(self, slots: int) -> FloatArray:
        _, rate = self._picked()
        steps = slots - 1
        cubes = steps * slots * (2 * slots - 1) / 6.0
        return slots + rate * steps * slots + rate**2 * cubes
