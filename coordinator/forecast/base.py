"""What every forecaster takes and gives: counts per slot in, totals of the slots to come out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

QUANTILE_Z = 1.645
"""Half width of the 90 % interval of the normal law in standard deviations."""


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
    """Forecasts several series of counts, each on its own past alone.

    The series are those of one fleet. Slots before the fleet's first request are unknown, not 0:
    until then every series keeps its declared prior.
    """

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
        """Return everything as JSON-able plain data; ``restored`` takes it back exactly."""
        ...

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Return a forecaster with this one's options and the memory in ``to_state``'s data."""
        ...


def result_of(mean: FloatArray, *, variance: FloatArray) -> ForecastResult:
    """Mean and quantiles of a total with this mean and variance, both of shape (X,), >= 0.

    A gamma law through the cube root of Wilson and Hilferty (1931): never negative, skewed where
    counts are few, normal where they are many. Half a request is added on each side, because
    totals are whole numbers.
    """
    safe = np.maximum(mean, 1e-9)
    spread = np.sqrt(np.maximum(variance, 0.0)) / safe
    # Where the spread exceeds the mean, the cube's law has no more to say than its upper end.
    spread = np.minimum(spread, 3.0)
    center = 1.0 - spread**2 / 9.0
    low = safe * np.maximum(center - QUANTILE_Z * spread / 3.0, 0.0) ** 3 - 0.5
    high = safe * np.maximum(center + QUANTILE_Z * spread / 3.0, 0.0) ** 3 + 0.5
    wide = np.sqrt(np.maximum(variance, 0.0)) > 3.0 * safe
    high = np.where(wide, mean + QUANTILE_Z * np.sqrt(np.maximum(variance, 0.0)), high)
    known = variance <= 0.0
    return ForecastResult(
        mean=mean,
        lower=np.where(known, mean, np.clip(low, 0.0, mean)),
        upper=np.where(known, mean, np.maximum(high, mean)),
    )


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
