"""Forecasts of the demand still to come, per context."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from coordinator.forecast.ar import Autoregression
from coordinator.forecast.base import FloatArray, Forecaster, ForecastResult
from coordinator.forecast.chooser import Chooser
from coordinator.forecast.last_value import LastValue
from coordinator.forecast.level import Level
from coordinator.forecast.mean_so_far import MeanSoFar
from coordinator.forecast.neural import Neural, PathModel
from coordinator.forecast.seasonal import Seasonal
from coordinator.forecast.smoothing import Smoothing

__all__ = [
    "FORECASTERS",
    "Autoregression",
    "Chooser",
    "ForecastResult",
    "Forecaster",
    "LastValue",
    "Level",
    "MeanSoFar",
    "Neural",
    "PathModel",
    "Seasonal",
    "Smoothing",
    "make_forecaster",
]

FORECASTERS: Final[Mapping[str, Callable[..., Forecaster]]] = {
    "ar": Autoregression,
    "chooser": Chooser,
    "last_value": LastValue,
    "level": Level,
    "mean_so_far": MeanSoFar,
    "onnx": Neural,
    "seasonal": Seasonal,
    "smoothing": Smoothing,
}
"""Every forecaster by its name."""


@cache
def _options_of(kind: Callable[..., Forecaster]) -> frozenset[str]:
    """The names of a class's options."""
    return frozenset(inspect.signature(kind).parameters) - {"prior", "model"}


def make_forecaster(
    name: str, *, prior: FloatArray, model: PathModel | None = None, **options: Any
) -> Forecaster:
    """Return a fresh forecaster.

    Parameters
    ----------
    name : str
        One of ``FORECASTERS``; ``chooser`` is the default of the product.
    prior : ndarray, shape (X,)
        Declared demand per slot of each series.
    model : PathModel or None
        A trained model for ``onnx`` and ``chooser``; the others leave it aside.
    **options
        Options of the class, see there.

    Raises
    ------
    ValueError
        For an unknown name or option, naming it and the known ones, and for an option out of
        range.
    """
    if name not in FORECASTERS:
        raise ValueError(f"unknown forecaster {name!r}, known are {sorted(FORECASTERS)}")
    if model is not None and not hasattr(model, "predict"):
        raise ValueError(f"model is {model!r}, not a loaded model: set `forecast.onnx_model`")
    if name == "onnx" and model is None:
        raise ValueError("forecaster 'onnx' needs a model: set `forecast.onnx_model` to its path")
    kind = FORECASTERS[name]
    known = _options_of(kind)
    unknown = sorted(set(options) - known)
    if unknown:
        has = f"known are {sorted(known)}" if known else "it has none"
        raise ValueError(f"unknown option of forecaster {name!r}: {unknown[0]!r}; {has}")
    if name in ("onnx", "chooser"):
        options["model"] = model
    try:
        return kind(prior, **options)
    except TypeError as error:
        raise ValueError(f"options of forecaster {name!r} do not fit: {error}") from error
