"""The last slot's count, carried on: hard to beat on real traffic."""

from collections.abc import Mapping

import numpy as np

from coordinator.forecast.base import FloatArray
from coordinator.forecast.series import SeriesForecaster


class LastValue(SeriesForecaster):
    """A random walk: every slot to come looks like the last one.

    Its error adds up slot by slot, so the variance of a total over ``h`` slots is
    ``h (h + 1) (2 h + 1) / 6`` times that of one step.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        return "last_value"

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"last": ()}

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        self._data["last"] = counts.copy()

    def _totals(self, slots: int) -> FloatArray:
        data = self._data
        return slots * np.where(data["count"] > 0.0, data["last"], data["prior"])

    def _shape(self, slots: int) -> FloatArray:
        return np.full(self.series, slots * (slots + 1) * (2 * slots + 1) / 6.0)
