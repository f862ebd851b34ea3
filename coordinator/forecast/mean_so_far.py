"""The mean of all past slots: right for traffic without memory."""

import numpy as np

from coordinator.forecast.base import FloatArray, SeriesForecaster


class MeanSoFar(SeriesForecaster):
    """Mean of the past, the declared prior counting as one slot.

    The variance is that of the past slots, at least that of Poisson traffic until it is known,
    and the error of the mean itself is added: it grows with the square of the slots to come.
    """

    _fields = ("count", "total", "squares")

    @property
    def name(self) -> str:
        """The registered name."""
        return "mean_so_far"

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        self._data["count"] += 1.0
        self._data["total"] += counts
        self._data["squares"] += counts**2

    def _moments(self, slots: int) -> tuple[FloatArray, FloatArray]:
        data = self._data
        worth = data["count"] + 1.0
        mean = (data["total"] + data["prior"]) / worth
        around = data["squares"] - data["total"] ** 2 / np.maximum(data["count"], 1.0)
        variance = (np.maximum(around, 0.0) + mean) / np.maximum(data["count"], 1.0)
        return slots * mean, slots * variance + slots**2 * variance / worth
