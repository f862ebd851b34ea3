"""What every forecaster takes and gives: counts per slot in, totals of the slots to come out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

QUANTILE_Z = 1.645
"""Half width of the 90 % interval in standard deviations."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ForecastResult:
    """Totals over the coming slots, in requests.

    Parameters
    ----------
    mean, lower, upper : ndarray, shape (X,)
        Mean, and the 5 % and 95 % quantiles; ``0 <= lower <= mean <= upper``.
    """

    mean: FloatArray
    lower: FloatArray
    upper: FloatArray


class Forecaster(Protocol):
    """Forecasts several series of counts, each on its own past alone."""

    @property
    def name(self) -> str:
        """The name under which ``make_forecaster`` knows the forecaster."""
        ...

    def update(self, slot: int, *, counts: FloatArray) -> None:
        """Take in the counts of a slot that is over.

        Parameters
        ----------
        slot : int
            Its index; larger than that of the update before. Slots left out are unknown, not 0.
        counts : ndarray, shape (X,)
            Requests of each series, >= 0.

        Raises
        ------
        ValueError
            When the shape is wrong, a count is negative or not finite, or time goes backwards.
        """
        ...

    def remaining(self, slots: int) -> ForecastResult:
        """Return the totals of the next ``slots`` slots (0 or more), shape (X,)."""
        ...

    def resize(self, series: int, *, prior: float | FloatArray = 1.0) -> None:
        """Grow to ``series`` series; new ones start from ``prior`` requests per slot.

        Parameters
        ----------
        series : int
            New total X.
        prior : float or ndarray, shape (number of new series,)

        Raises
        ------
        ValueError
            When ``series`` is less than the present number.
        """
        ...

    def to_state(self) -> dict[str, Any]:
        """Return everything as JSON-able plain data; ``from_state`` restores it exactly."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Restore a forecaster from ``to_state``'s data."""
        ...


class SeriesForecaster:
    """Shared keeping of per-series arrays for forecasters that consist of nothing else.

    A subclass names its arrays in ``_fields`` (each of shape (X,), 0 for a new series) and
    implements ``_absorb`` and ``_moments``.

    Parameters
    ----------
    prior : ndarray, shape (X,)
        Declared demand per slot of each series, >= 0.
    """

    _fields: tuple[str, ...] = ()

    def __init__(self, prior: FloatArray) -> None:
        self._slot = -1
        self._data: dict[str, FloatArray] = {
            "prior": np.zeros(0),
            **{name: np.zeros(0) for name in self._fields},
        }
        self.resize(len(prior), prior=prior)

    def update(self, slot: int, *, counts: FloatArray) -> None:
        """See ``Forecaster.update``."""
        check_counts(counts, series=self._data["prior"].size, slot=slot, last_slot=self._slot)
        self._absorb(np.asarray(counts, dtype=np.float64), gap=slot - self._slot - 1)
        self._slot = slot

    def remaining(self, slots: int) -> ForecastResult:
        """See ``Forecaster.remaining``."""
        if slots < 0:
            raise ValueError(f"slots is {slots}, expected 0 or more")
        mean, variance = self._moments(slots)
        mean = np.maximum(mean, 0.0)
        width = QUANTILE_Z * np.sqrt(np.maximum(variance, 0.0))
        return ForecastResult(mean=mean, lower=np.maximum(mean - width, 0.0), upper=mean + width)

    def resize(self, series: int, *, prior: float | FloatArray = 1.0) -> None:
        """See ``Forecaster.resize``."""
        added = series - self._data["prior"].size
        if added < 0:
            raise ValueError(f"series is {series}, fewer than the {series - added} there are")
        for name, array in self._data.items():
            fresh = np.broadcast_to(np.float64(0.0), (added,))
            if name == "prior":
                fresh = np.broadcast_to(np.asarray(prior, dtype=np.float64), (added,))
            self._data[name] = np.concatenate([array, fresh])

    def to_state(self) -> dict[str, Any]:
        """See ``Forecaster.to_state``."""
        arrays = {name: array.tolist() for name, array in self._data.items()}
        return {"slot": self._slot, "arrays": arrays}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """See ``Forecaster.from_state``."""
        made = cls(np.zeros(0))
        made._slot = int(state["slot"])
        made._data = {
            name: np.asarray(state["arrays"][name], dtype=np.float64) for name in made._data
        }
        return made

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        """Take in one slot; ``gap`` slots before it are unknown."""
        raise NotImplementedError

    def _moments(self, slots: int) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of the total of the next slots."""
        raise NotImplementedError


def check_counts(counts: FloatArray, *, series: int, slot: int, last_slot: int) -> None:
    """Refuse counts that cannot be.

    Raises
    ------
    ValueError
        See ``Forecaster.update``.
    """
    if counts.shape != (series,):
        raise ValueError(f"counts has shape {counts.shape}, expected ({series},)")
    if not np.all(np.isfinite(counts)) or np.any(counts < 0):
        raise ValueError(f"counts must be finite and 0 or more: {counts}")
    if slot <= last_slot:
        raise ValueError(f"slot is {slot}, expected more than the last one, {last_slot}")
