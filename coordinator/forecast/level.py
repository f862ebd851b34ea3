"""The mean since the level last jumped: memoryless traffic with shocks."""

import numpy as np

from coordinator.forecast.base import FloatArray
from coordinator.forecast.mean_so_far import MeanSoFar


class Level(MeanSoFar):
    """Mean so far that starts again where the traffic's level has jumped.

    A jump is two blocks running of 4, 16, 64, ... slots whose totals are off in one direction by
    more than three and a half deviations, as measured on earlier blocks of that length; so bursts
    and autocorrelation, which widen those deviations, do not look like jumps. What was seen before
    is then forgotten, and the second block is the new beginning.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        return "level"

    def _jumped(self, totals: FloatArray, *, slots: int) -> None:
        jumped = ~np.isnan(totals)
        data = self._data
        data["prior"] = np.where(jumped, totals / slots, data["prior"])
        data["total"] = np.where(jumped, totals, data["total"])
        data["count"] = np.where(jumped, float(slots), data["count"])
        self.record.void(jumped)
