"""Several forecasters side by side; each series uses the one that has lately erred least."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from coordinator.forecast.ar1 import Ar1
from coordinator.forecast.base import FloatArray, Forecaster, ForecastResult, check_counts
from coordinator.forecast.last_value import LastValue
from coordinator.forecast.mean_so_far import MeanSoFar

_MEMBERS: dict[str, type[MeanSoFar | LastValue | Ar1]] = {
    "mean_so_far": MeanSoFar,
    "last_value": LastValue,
    "ar1": Ar1,
}


class Chooser:
    """Follows, per series, the member with the least discounted squared one-step error.

    The first member is preferred: another must beat it by ``margin``, and until a series has a
    few slots of history the first is used. Squared error, because a total is wanted, and the
    mean is what minimises it.

    Parameters
    ----------
    prior : ndarray, shape (X,)
        Declared demand per slot of each series.
    members : sequence of str
        Names of the forecasters, the preferred one first.
    discount : float
        Weight of an error relative to the one a slot later, in (0, 1].
    margin : float
        Share by which another member's error must be smaller than the first one's.

    Raises
    ------
    ValueError
        For an unknown member or an option out of range.
    """

    def __init__(
        self,
        prior: FloatArray,
        *,
        members: Sequence[str] = ("mean_so_far", "last_value", "ar1"),
        discount: float = 0.98,
        margin: float = 0.05,
        warmup_slots: int = 5,
    ) -> None:
        unknown = [name for name in members if name not in _MEMBERS]
        if unknown or not members:
            raise ValueError(f"members is {list(members)}, known are {sorted(_MEMBERS)}")
        if not 0.0 < discount <= 1.0:
            raise ValueError(f"discount is {discount}, expected more than 0 and at most 1")
        if not 0.0 <= margin < 1.0:
            raise ValueError(f"margin is {margin}, expected 0 or more and less than 1")
        self._names = tuple(members)
        self._discount = discount
        self._margin = margin
        self._warmup_slots = warmup_slots
        self._slot = -1
        self._members: list[Forecaster] = [_MEMBERS[name](prior) for name in self._names]
        self._error = np.zeros((len(self._names), len(prior)))
        self._seen = np.zeros(len(prior))

    @property
    def name(self) -> str:
        """The registered name."""
        return "chooser"

    @property
    def chosen(self) -> list[str]:
        """The member in use, per series."""
        return [self._names[index] for index in self._choice()]

    def update(self, slot: int, *, counts: FloatArray) -> None:
        """See ``Forecaster.update``."""
        check_counts(counts, series=self._seen.size, slot=slot, last_slot=self._slot)
        for index, member in enumerate(self._members):
            missed = (member.remaining(1).mean - counts) ** 2
            self._error[index] = self._discount * self._error[index] + missed
            member.update(slot, counts=counts)
        self._seen += 1.0
        self._slot = slot

    def remaining(self, slots: int) -> ForecastResult:
        """See ``Forecaster.remaining``."""
        results = [member.remaining(slots) for member in self._members]
        at = self._choice(), np.arange(self._seen.size)
        return ForecastResult(
            mean=np.stack([result.mean for result in results])[at],
            lower=np.stack([result.lower for result in results])[at],
            upper=np.stack([result.upper for result in results])[at],
        )

    def resize(self, series: int, *, prior: float | FloatArray = 1.0) -> None:
        """See ``Forecaster.resize``."""
        for member in self._members:
            member.resize(series, prior=prior)
        added = series - self._seen.size
        self._error = np.pad(self._error, ((0, 0), (0, added)))
        self._seen = np.pad(self._seen, (0, added))

    def to_state(self) -> dict[str, Any]:
        """See ``Forecaster.to_state``."""
        return {
            "names": list(self._names),
            "discount": self._discount,
            "margin": self._margin,
            "warmup_slots": self._warmup_slots,
            "slot": self._slot,
            "error": self._error.tolist(),
            "seen": self._seen.tolist(),
            "members": [member.to_state() for member in self._members],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """See ``Forecaster.from_state``."""
        made = cls(
            np.zeros(len(state["seen"])),
            members=state["names"],
            discount=state["discount"],
            margin=state["margin"],
            warmup_slots=state["warmup_slots"],
        )
        made._slot = int(state["slot"])
        made._error = np.asarray(state["error"], dtype=np.float64).reshape(made._error.shape)
        made._seen = np.asarray(state["seen"], dtype=np.float64)
        made._members = [
            _MEMBERS[name].from_state(member)
            for name, member in zip(made._names, state["members"], strict=True)
        ]
        return made

    def _choice(self) -> np.ndarray:
        handicap = np.full((len(self._names), 1), 1.0 / (1.0 - self._margin))
        handicap[0] = 1.0
        best = np.argmin(self._error * handicap, axis=0)
        return np.where(self._seen < self._warmup_slots, 0, best)
