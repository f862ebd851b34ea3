"""Forecasts of the demand still to come, per context."""

from typing import Any

from coordinator.forecast.ar1 import Ar1
from coordinator.forecast.base import FloatArray, Forecaster, ForecastResult
from coordinator.forecast.chooser import Chooser
from coordinator.forecast.last_value import LastValue
from coordinator.forecast.mean_so_far import MeanSoFar

__all__ = [
    "Ar1",
    "Chooser",
    "ForecastResult",
    "Forecaster",
    "LastValue",
    "MeanSoFar",
    "make_forecaster",
]

_FORECASTERS: dict[str, Any] = {
    "ar1": Ar1,
    "chooser": Chooser,
    "last_value": LastValue,
    "mean_so_far": MeanSoFar,
}


def make_forecaster(name: str, *, prior: FloatArray, **options: Any) -> Forecaster:
    """Return a fresh forecaster.

    Parameters
    ----------
    name : str
        One of ``ar1``, ``chooser`` (the default of the product), ``last_value``, ``mean_so_far``.
    prior : ndarray, shape (X,)
        Declared demand per slot of each series.
    **options
        Options of the class, see there.

    Raises
    ------
    ValueError
        For an unknown name or option, naming it and the known ones.
    """
    if name not in _FORECASTERS:
        raise ValueError(f"unknown forecaster {name!r}, known are {sorted(_FORECASTERS)}")
    try:
        made: Forecaster = _FORECASTERS[name](prior, **options)
    except TypeError as error:
        raise ValueError(f"unknown option of forecaster {name!r}: {error}") from error
    return made
