"""The shape of the cycles before, at the level of the last one: days, weeks, earlier windows."""

from collections.abc import Mapping
from typing import Final, Self

import numpy as np

from coordinator.forecast.base import FloatArray
from coordinator.forecast.series import SeriesForecaster

BUCKETS_MAX: Final = 96

_MEMORY_CYCLES: Final = 10.0
_OVERALL_WORTH: Final = 0.25
_LEVEL_WORTH_SLOTS: Final = 10.0


class Seasonal(SeriesForecaster):
    """A mean per phase of a known cycle, times how the last cycle compares with those before.

    Phases are at most 96 buckets, so that a long cycle costs no more memory than a short one; a
    bucket forgets over about ten cycles. A phase that was never seen is given the mean of the
    others, and before the first request the prior: with the window's length as the period, a new
    window starts from the earlier windows' shape. The comparison of levels goes back over one
    cycle and starts from "no different".

    Parameters
    ----------
    prior : ndarray, shape (X,)
        See ``SeriesForecaster``.
    period : int
        Length of the cycle in slots, at least 2. A slot's phase is its index modulo the period.

    Raises
    ------
    ValueError
        When ``period`` is less than 2.
    """

    def __init__(self, prior: FloatArray, *, period: int) -> None:
        if period < 2:
            raise ValueError(f"period is {period}, expected 2 slots or more")
        self._period = period
        self._buckets = min(period, BUCKETS_MAX)
        super().__init__(prior)

    @property
    def name(self) -> str:
        """The registered name."""
        return "seasonal"

    def _fresh(self) -> Self:
        return type(self)(np.zeros(0), period=self._period)

    def growth(self, slots: int) -> FloatArray:
        """See ``SeriesForecaster.growth``."""
        return np.full(self.series, float(slots))

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {
            "sums": (self._buckets,),
            "weights": (self._buckets,),
            "actual": (),
            "expected": (),
        }

    def _bucket(self, slots: np.ndarray) -> np.ndarray:
        return (slots % self._period) * self._buckets // self._period

    def _profile(self) -> FloatArray:
        """Demand per slot in each bucket, shape (buckets, X)."""
        data = self._data
        seen = data["weights"] > 0.0
        means = np.where(seen, data["sums"] / np.where(seen, data["weights"], 1.0), 0.0)
        overall = (means.sum(axis=0) + data["prior"]) / (seen.sum(axis=0) + 1.0)
        worth = data["weights"] + _OVERALL_WORTH
        profile: FloatArray = (data["sums"] + _OVERALL_WORTH * overall) / worth
        return profile

    def _profile_at(self, bucket: int) -> FloatArray:
        """Demand per slot of the visits to one bucket, which has had some."""
        row: FloatArray = self._data["sums"][bucket] / self._data["weights"][bucket]
        return row

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        data = self._data
        bucket = int(self._bucket(np.array(self._slot)))
        memory = max(float(self._period), _LEVEL_WORTH_SLOTS)
        visits = _MEMORY_CYCLES * max(1.0, self._period / self._buckets)
        data["sums"][bucket] = (1.0 - 1.0 / visits) * data["sums"][bucket] + counts
        data["weights"][bucket] = (1.0 - 1.0 / visits) * data["weights"][bucket] + 1.0
        # In its first cycle a series has no shape yet to be compared with.
        compared = data["count"] >= self._period
        kept = np.where(compared, 1.0 - 1.0 / memory, 0.0)
        data["expected"] = kept * data["expected"] + compared * self._profile_at(bucket)
        data["actual"] = kept * data["actual"] + compared * counts

    def _totals(self, slots: int) -> FloatArray:
        data = self._data
        whole, rest = divmod(slots, self._period)
        phases = np.arange(self._period)
        visits = np.bincount(self._bucket(phases), minlength=self._buckets) * float(whole)
        coming = np.arange(self._slot + 1, self._slot + 1 + rest)
        visits += np.bincount(self._bucket(coming), minlength=self._buckets)
        profile = self._profile()
        neutral = _LEVEL_WORTH_SLOTS * np.maximum(profile.mean(axis=0), 1e-3)
        level = (data["actual"] + neutral) / (data["expected"] + neutral)
        total: FloatArray = level * (visits @ profile)
        return total

    def _shape(self, slots: int) -> FloatArray:
        # A slot's shape rests on its bucket's visits, the level on one cycle.
        visits = self._data["weights"].mean(axis=0) + 1.0
        doubt = 1.0 / (visits * self._buckets) + 1.0 / max(self._period, _LEVEL_WORTH_SLOTS)
        shape: FloatArray = (slots + slots**2 * doubt) / (1.0 + doubt)
        return shape
