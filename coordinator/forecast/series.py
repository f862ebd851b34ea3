"""What the forecasters share: arrays per series, a track record, state, cold starts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from coordinator.forecast.base import FloatArray, ForecastResult, check_counts, result_of
from coordinator.forecast.track_record import TrackRecord

_KNOWN_SLOTS = 4.0
"""Slots from which on a series' forecasts are its own more than its prior's."""


class SeriesForecaster(ABC):
    """A forecaster whose memory is arrays with the series on the last axis.

    A subclass names its arrays in ``_shapes`` with the axes before the last one, and implements
    ``_absorb``, ``_totals`` and ``_shape``; a new series starts from 0 in each array.

    Parameters
    ----------
    prior : ndarray, shape (X,)
        Declared demand per slot of each series, >= 0. It counts as one slot.
    """

    def __init__(self, prior: FloatArray) -> None:
        self._slot = -1
        self._started = False
        self._data: dict[str, FloatArray] = {
            name: np.zeros((*axes, 0))
            for name, axes in {"prior": (), "count": (), **self._shapes()}.items()
        }
        self.record = TrackRecord(0)
        self.resize(len(prior), prior=prior)

    @property
    @abstractmethod
    def name(self) -> str:
        """See ``Forecaster.name``."""

    @property
    def series(self) -> int:
        """Number of series X."""
        return int(self._data["prior"].size)

    def update(self, slot: int, *, counts: FloatArray) -> None:
        """See ``Forecaster.update``."""
        check_counts(counts, series=self.series, slot=slot, last_slot=self._slot)
        counts = np.asarray(counts, dtype=np.float64)
        gap, self._slot = slot - self._slot - 1, slot
        self._started = self._started or bool(counts.any())
        if not self._started:
            return
        if gap > 0:
            self.record.void()
        jumps = self.record.settle(counts, floor=self._floor())
        self._absorb(counts, gap=gap)
        self._data["count"] += 1.0
        for horizon, totals in jumps.items():
            if horizon > 1 and not np.all(np.isnan(totals)):
                self._jumped(totals, slots=horizon)
        known = self._data["count"] >= _KNOWN_SLOTS
        self.record.promise(self._totals, shape=self._shape, known=known)

    def remaining(self, slots: int) -> ForecastResult:
        """See ``Forecaster.remaining``."""
        if slots < 0:
            raise ValueError(f"slots is {slots}, expected 0 or more")
        if slots == 0:
            return result_of(np.zeros(self.series), variance=np.zeros(self.series))
        floor = self._floor()
        per_slot, widening = self.record.doubt(slots, floor=floor)
        variance = per_slot * widening * self._shape(slots)
        return result_of(self.mean(slots), variance=variance)

    def mean(self, slots: int) -> FloatArray:
        """Mean total of the next slots (1 or more), shape (X,)."""
        return np.maximum(self._totals(slots), 0.0)

    def growth(self, slots: int) -> FloatArray:
        """``_shape`` without the doubt that is left in what was estimated: the method's alone."""
        return self._shape(slots)

    def resize(self, series: int, *, prior: float | FloatArray = 1.0) -> None:
        """See ``Forecaster.resize``."""
        added = series - self.series
        if added < 0:
            raise ValueError(f"series is {series}, fewer than the {self.series} there are")
        if not added:
            return
        fresh = np.full(added, prior, dtype=np.float64)
        for name, array in self._data.items():
            start = fresh if name == "prior" else np.zeros((*array.shape[:-1], added))
            self._data[name] = np.concatenate([array, start], axis=-1)
        self.record.resize(series)

    def to_state(self) -> dict[str, Any]:
        """See ``Forecaster.to_state``."""
        return {
            "slot": self._slot,
            "started": self._started,
            "record": self.record.to_state(),
            "arrays": {name: array.tolist() for name, array in self._data.items()},
        }

    def restored(self, state: Mapping[str, Any]) -> Self:
        """See ``Forecaster.restored``."""
        made = self._fresh()
        made.load_state(state)
        return made

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over the memory in ``to_state``'s data."""
        self._slot = int(state["slot"])
        self._started = bool(state["started"])
        series = len(state["arrays"]["prior"])
        for name, array in self._data.items():
            loaded = np.asarray(state["arrays"][name], dtype=np.float64)
            self._data[name] = loaded.reshape((*array.shape[:-1], series))
        self.record = TrackRecord.from_state(state["record"], series=series)

    def _fresh(self) -> Self:
        """A forecaster with the same options and no series."""
        return type(self)(np.zeros(0))

    def _floor(self) -> FloatArray:
        """Variance of one slot before errors are known: that of Poisson traffic, at least 1/4."""
        return np.maximum(self._totals(1), 0.25)

    def _jumped(self, totals: FloatArray, *, slots: int) -> None:  # noqa: B027 - most stay deaf
        """Be told that a series' level has jumped.

        Parameters
        ----------
        totals : ndarray, shape (X,)
            Total of the last ``slots`` slots where it jumped, NaN elsewhere.
        """

    @abstractmethod
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Names of the arrays and their axes before the last one."""

    @abstractmethod
    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        """Take in one slot; ``gap`` slots before it are unknown. ``count`` is raised after it."""

    @abstractmethod
    def _totals(self, slots: int) -> FloatArray:
        """Mean total of the next slots (1 or more); may be negative, which counts as 0."""

    @abstractmethod
    def _shape(self, slots: int) -> FloatArray:
        """Variance of that total over the variance of one slot; 1 for one slot."""
