"""The mean of all past slots: right for traffic without memory."""

from collections.abc import Mapping

import numpy as np

from coordinator.forecast.base import FloatArray
from coordinator.forecast.series import SeriesForecaster


class MeanSoFar(SeriesForecaster):
    """Mean of the past, the declared prior counting as one slot.

    The error of the mean itself grows with the square of the slots to come.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        return "mean_so_far"

    def growth(self, slots: int) -> FloatArray:
        """See ``SeriesForecaster.growth``."""
        return np.full(self.series, float(slots))

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"total": ()}

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        self._data["total"] += counts

    def _totals(self, slots: int) -> FloatArray:
        data = self._data
        return slots * (data["total"] + data["prior"]) / (data["count"] + 1.0)

    def _shape(self, slots: int) -> FloatArray:
        doubt = 1.0 / (self._data["count"] + 1.0)
        return (slots + slots**2 * doubt) / (1.0 + doubt)
