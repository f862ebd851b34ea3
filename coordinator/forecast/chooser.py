"""Several forecasters side by side; each series uses the one that has lately erred least."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np

from coordinator.forecast.ar import Autoregression
from coordinator.forecast.base import FloatArray, ForecastResult, check_counts
from coordinator.forecast.last_value import LastValue
from coordinator.forecast.level import Level
from coordinator.forecast.mean_so_far import MeanSoFar
from coordinator.forecast.neural import Neural, PathModel
from coordinator.forecast.seasonal import Seasonal
from coordinator.forecast.series import SeriesForecaster
from coordinator.forecast.smoothing import Smoothing
from coordinator.forecast.track_record import HORIZONS

_PLAIN: Final[Mapping[str, type[SeriesForecaster]]] = {
    "level": Level,
    "mean_so_far": MeanSoFar,
    "last_value": LastValue,
    "smoothing": Smoothing,
    "ar": Autoregression,
}
MEMBERS: Final = (*_PLAIN, "seasonal", "onnx")
"""Every member there is, the preferred one first."""

_BLOCKS_MIN: Final = 4.0
"""Blocks (discounted) at a horizon from which on it has a say."""

_CHANCE: Final = 2.0
"""Spread of the ratio of two mean squared errors over one block each."""

_WARMUP_SLOTS: Final = 5.0


class Chooser:
    """Follows, per series, the member with the least recent error *for the horizon asked*.

    The next slot and the rest of the window are two questions. One slot ahead (and up to three),
    the member with the least discounted absolute error is used, on real traffic often the last
    value; members within ``margin`` of it are as good, and their mean is better. For a longer total
    it is the member with the least squared error over blocks of the longest of 1, 4, 16, ...
    slots that the horizon holds and that has been checked often enough: one slot's error says
    little about a total, whose error is mostly the error of the level. From there to the horizon
    half of each member's own growth of doubt is added (the root of its ``growth``): the last value
    may serve four slots well, and must not be carried on for four hundred. The first member is
    preferred: another must beat it by ``margin`` and by what chance explains.

    Parameters
    ----------
    prior : ndarray, shape (X,)
        Declared demand per slot of each series.
    members : sequence of str
        Names of the forecasters, the preferred one first; none means every one there is an
        option for: ``seasonal`` needs ``period``, ``onnx`` needs ``model``.
    discount : float
        Weight of a one-slot error relative to the one a slot later, in (0, 1].
    margin : float
        Share of the least absolute error within which members are equals, and share by which
        another's squared error of totals must be smaller than the first one's.
    alpha : float
        Of ``Smoothing``.
    order : int
        Of ``Autoregression``.
    period : int
        Of the cycle in slots; 0: no cycle is known.
    model : PathModel or None
        See ``Neural``.

    Raises
    ------
    ValueError
        For an unknown member or an option out of range.
    """

    def __init__(
        self,
        prior: FloatArray,
        *,
        members: Sequence[str] = (),
        discount: float = 0.95,
        margin: float = 0.05,
        alpha: float = 0.0,
        order: int = 3,
        period: int = 0,
        model: PathModel | None = None,
    ) -> None:
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount is {discount}, expected more than 0 and at most 1")
        if not 0.0 <= margin < 1.0:
            raise ValueError(f"margin is {margin}, expected 0 or more and less than 1")
        unknown = [name for name in members if name not in MEMBERS]
        if unknown:
            raise ValueError(f"members is {list(members)}, known are {list(MEMBERS)}")
        possible = {*_PLAIN, *(["seasonal"] if period else []), *(["onnx"] if model else [])}
        missing = [name for name in members if name not in possible]
        if missing:
            raise ValueError(f"members has {missing[0]!r}, which needs `period` or a model")
        self._names = tuple(members) or tuple(name for name in MEMBERS if name in possible)
        self._options: dict[str, Any] = {
            "members": self._names,
            "discount": discount,
            "margin": margin,
            "alpha": alpha,
            "order": order,
            "period": period,
            "model": model,
        }
        self._discount = discount
        self._margin = margin
        self._slot = -1
        self._members = [_member(name, prior=prior, **self._options) for name in self._names]
        self._missed = np.zeros((len(self._names), len(prior)))
        self._seen = np.zeros(len(prior))

    @property
    def name(self) -> str:
        """The registered name."""
        return "chooser"

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members."""
        return self._names

    @property
    def chosen(self) -> list[str]:
        """The member in use for the next slot, per series."""
        return self.chosen_for(1)

    def chosen_for(self, slots: int) -> list[str]:
        """The member in use for the total of the next ``slots`` slots, per series."""
        return [self._names[index] for index in self._choice(slots)]

    def update(self, slot: int, *, counts: FloatArray) -> None:
        """See ``Forecaster.update``."""
        check_counts(counts, series=self._seen.size, slot=slot, last_slot=self._slot)
        if self._seen.any() or counts.any():
            missed = [np.abs(member.mean(1) - counts) for member in self._members]
            self._missed = self._discount * self._missed + np.stack(missed)
            self._seen += 1.0
        for member in self._members:
            member.update(slot, counts=counts)
        self._slot = slot

    def remaining(self, slots: int) -> ForecastResult:
        """See ``Forecaster.remaining``."""
        used = self._used(slots)
        arrays = np.zeros((3, self._seen.size))
        for member, share in zip(self._members, used / used.sum(axis=0), strict=True):
            if share.any():
                result = member.remaining(slots)
                arrays += share * np.stack([result.mean, result.lower, result.upper])
        return ForecastResult(mean=arrays[0], lower=arrays[1], upper=arrays[2])

    def resize(self, series: int, *, prior: float | FloatArray = 1.0) -> None:
        """See ``Forecaster.resize``."""
        for member in self._members:
            member.resize(series, prior=prior)
        added = series - self._seen.size
        self._missed = np.pad(self._missed, ((0, 0), (0, added)))
        self._seen = np.pad(self._seen, (0, added))

    def to_state(self) -> dict[str, Any]:
        """See ``Forecaster.to_state``."""
        return {
            "slot": self._slot,
            "missed": self._missed.tolist(),
            "seen": self._seen.tolist(),
            "members": {
                name: member.to_state()
                for name, member in zip(self._names, self._members, strict=True)
            },
        }

    def restored(self, state: Mapping[str, Any]) -> Self:
        """See ``Forecaster.restored``."""
        made = type(self)(np.zeros(0), **self._options)
        made.load_state(state)
        return made

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over the memory in ``to_state``'s data."""
        self._slot = int(state["slot"])
        self._seen = np.asarray(state["seen"], dtype=np.float64)
        missed = np.asarray(state["missed"], dtype=np.float64)
        self._missed = missed.reshape(len(self._names), self._seen.size)
        self._members = [
            member.restored(state["members"][name])
            for name, member in zip(self._names, self._members, strict=True)
        ]

    def _choice(self, slots: int) -> np.ndarray:
        """Index of the member in use for a horizon, shape (X,)."""
        best: np.ndarray
        if slots < HORIZONS[1]:
            best = np.argmin(self._missed, axis=0)
        else:
            best = np.argmin(self._total_errors(slots), axis=0)
        return np.where(self._seen < _WARMUP_SLOTS, 0, best)

    def _used(self, slots: int) -> np.ndarray:
        """Which members make the forecast, shape (members, X)."""
        used: np.ndarray = np.arange(len(self._names))[:, None] == self._choice(slots)
        if slots < HORIZONS[1]:
            equals = self._missed <= (1.0 + self._margin) * self._missed.min(axis=0)
            used |= equals & (self._seen >= _WARMUP_SLOTS)
        return used

    def _total_errors(self, slots: int) -> FloatArray:
        """Squared error to expect of each member's total, less the first one's advantage."""
        members = self._members
        errors = np.ones((len(members), self._seen.size))
        errors[0] = 0.0
        coming = [member.growth(slots) for member in members]
        for horizon in HORIZONS[1:]:
            # A jump voids open blocks, each member's own: all of them must have enough.
            blocks = np.min([member.record.blocks(horizon) for member in members], axis=0)
            proven = blocks >= _BLOCKS_MIN
            if horizon > slots or not proven.any():
                break
            found = np.stack(
                [
                    member.record.square(horizon) * np.sqrt(grown / member.growth(horizon))
                    for member, grown in zip(members, coming, strict=True)
                ]
            )
            found[1:] *= 1.0 / (1.0 - self._margin) + _CHANCE / np.sqrt(np.maximum(blocks, 1.0))
            errors = np.where(proven, found, errors)
        return errors


def _member(
    name: str,
    *,
    prior: FloatArray,
    alpha: float,
    order: int,
    period: int,
    model: PathModel | None,
    **_: object,
) -> SeriesForecaster:
    if name == "smoothing":
        return Smoothing(prior, alpha=alpha)
    if name == "ar":
        return Autoregression(prior, order=order)
    if name == "seasonal":
        return Seasonal(prior, period=period)
    if name == "onnx" and model is not None:
        return Neural(prior, model=model)
    return _PLAIN[name](prior)
