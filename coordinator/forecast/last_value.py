"""The last slot's count, carried on: hard to beat on real traffic."""

import numpy as np

from coordinator.forecast.base import FloatArray, SeriesForecaster


class LastValue(SeriesForecaster):
    """A random walk: every slot to come looks like the last one.

    Its error adds up slot by slot, so the variance of a total over ``h`` slots is
    ``h (h + 1) (2 h + 1) / 6`` times that of one step.
    """

    _fields = ("count", "last", "steps", "step_squares")

    @property
    def name(self) -> str:
        """The registered name."""
        return "last_value"

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        data = self._data
        seen = data["count"] > 0.0
        data["steps"] += seen
        data["step_squares"] += np.where(seen, (counts - data["last"]) ** 2 / (gap + 1.0), 0.0)
        data["last"] = counts.copy()
        data["count"] += 1.0

    def _moments(self, slots: int) -> tuple[FloatArray, FloatArray]:
        data = self._data
        level = np.where(data["count"] > 0.0, data["last"], data["prior"])
        step = (data["step_squares"] + np.maximum(level, 1.0)) / (data["steps"] + 1.0)
        return slots * level, step * (slots * (slots + 1) * (2 * slots + 1) / 6.0)
