"""A trained model as a forecaster: the last counts in, a path of means out."""

from collections.abc import Mapping
from typing import Any, Final, Protocol, Self

import numpy as np

from coordinator.forecast.base import FloatArray
from coordinator.forecast.series import SeriesForecaster

UNKNOWN: Final = -1.0
"""What stands in a history for a slot that nobody has seen."""

_DRIFT_SHARE: Final = 0.05


class PathModel(Protocol):
    """A model of demand: pure, equal histories give equal paths, every row on its own."""

    @property
    def history_slots(self) -> int:
        """Length L of the history that it wants."""
        ...

    @property
    def path_slots(self) -> int:
        """Length H of the path that it gives."""
        ...

    def predict(self, history: FloatArray) -> FloatArray:
        """Return the expected counts of the next H slots, shape (X, H).

        Parameters
        ----------
        history : ndarray, shape (X, L)
            Requests per slot, the latest last; ``UNKNOWN`` where a slot was not seen.
        """
        ...


class Neural(SeriesForecaster):
    """Forecasts with a model that was trained elsewhere.

    Beyond the model's path, demand stays at the mean of the path's last quarter. What is not a
    number, or negative, counts as 0. Before a series has a history it is its prior.

    Parameters
    ----------
    prior : ndarray, shape (X,)
        See ``SeriesForecaster``.
    model : PathModel
        Built by whoever may open files.
    """

    def __init__(self, prior: FloatArray, *, model: PathModel) -> None:
        self._model = model
        self._path: FloatArray | None = None
        super().__init__(prior)

    @property
    def name(self) -> str:
        """The registered name."""
        return "onnx"

    def resize(self, series: int, *, prior: float | FloatArray = 1.0) -> None:
        """See ``Forecaster.resize``."""
        before = self.series
        super().resize(series, prior=prior)
        self._data["history"][:, before:] = UNKNOWN
        self._path = None

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``SeriesForecaster.load_state``."""
        super().load_state(state)
        self._path = None

    def _fresh(self) -> Self:
        return type(self)(np.zeros(0), model=self._model)

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"history": (self._model.history_slots,)}

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        history = self._data["history"]
        length = len(history)
        missing = np.full((min(gap if self._data["count"].any() else 0, length), self.series), -1.0)
        self._data["history"] = np.concatenate([history, missing, counts[None]])[-length:]
        self._path = None

    def _totals(self, slots: int) -> FloatArray:
        if self._path is None:
            found = self._model.predict(np.ascontiguousarray(self._data["history"].T))
            usable = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
            self._path = np.maximum(usable.astype(np.float64), 0.0)
        near = self._path[:, :slots].sum(axis=1)
        beyond = max(slots - self._model.path_slots, 0)
        quarter = max(self._model.path_slots // 4, 1)
        total = near + beyond * self._path[:, -quarter:].mean(axis=1)
        return np.where(self._data["count"] > 0.0, total, slots * self._data["prior"])

    def _shape(self, slots: int) -> FloatArray:
        return np.full(self.series, slots + _DRIFT_SHARE * slots * (slots - 1))
