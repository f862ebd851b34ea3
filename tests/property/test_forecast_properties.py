"""What holds of every forecaster on any counts; and that these checks can fail."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.forecast import FORECASTERS, LastValue, make_forecaster
from coordinator.forecast.base import FloatArray, Forecaster
from coordinator.forecast.neural import UNKNOWN

Kind = Callable[[FloatArray], Forecaster]
COUNTS = st.floats(min_value=0.0, max_value=1e7, allow_nan=False)
HISTORIES = st.lists(st.tuples(COUNTS, COUNTS), max_size=40)


class MeanOfKnown:
    """A model in two lines: every coming slot is the mean of the known ones."""

    history_slots = 8
    path_slots = 4

    def predict(self, history: FloatArray) -> FloatArray:
        """See `PathModel`."""
        known = np.where(history == UNKNOWN, 0.0, history)
        mean = known.sum(axis=1) / np.maximum((history != UNKNOWN).sum(axis=1), 1)
        return np.repeat(mean[:, None], self.path_slots, axis=1)


def kind_of(name: str) -> Kind:
    """How a registered forecaster is made from its prior."""
    options = {"period": 7} if name in ("seasonal", "chooser") else {}
    return lambda prior: make_forecaster(name, prior=prior, model=MeanOfKnown(), **options)


KINDS: list[Kind] = [kind_of(name) for name in sorted(FORECASTERS)]


class Negative(LastValue):
    """Broken: what it gives are no numbers."""

    def _totals(self, slots: int) -> FloatArray:
        return np.full(2, np.nan)


class Forgetful(LastValue):
    """Broken: its state leaves out what it saw last."""

    def to_state(self) -> dict[str, object]:
        state = super().to_state()
        state["arrays"]["last"] = [0.0, 0.0]
        return state


class Entangled(LastValue):
    """Broken: one series leaks into another."""

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        super()._absorb(np.full(2, counts.mean()), gap=gap)


def fed(kind: Kind, history: list[tuple[float, float]]) -> Forecaster:
    """Return a forecaster of a fleet at work that has seen the history, with a gap before it."""
    forecaster = kind(np.array([1.0, 3.0]))
    forecaster.update(0, counts=np.array([1.0, 1.0]))
    for slot, counts in enumerate(history, start=3):
        forecaster.update(slot, counts=np.array(counts))
    return forecaster


def check_ordered(kind: Kind, history: list[tuple[float, float]], slots: int) -> None:
    """0 <= lower <= mean <= upper, all finite."""
    found = fed(kind, history).remaining(slots)
    assert np.all(np.isfinite(found.upper))
    assert np.all(found.lower >= 0.0)
    assert np.all(found.lower <= found.mean)
    assert np.all(found.mean <= found.upper)


def check_restored(kind: Kind, history: list[tuple[float, float]], slots: int) -> None:
    """A forecaster that went through JSON forecasts the same, now and one slot later."""
    forecaster = fed(kind, history)
    restored = kind(np.zeros(0)).restored(json.loads(json.dumps(forecaster.to_state())))
    for _ in range(2):
        expected, actual = forecaster.remaining(slots), restored.remaining(slots)
        np.testing.assert_array_equal(actual.mean, expected.mean)
        np.testing.assert_array_equal(actual.upper, expected.upper)
        for one in (forecaster, restored):
            one.update(len(history) + 3, counts=np.array([2.0, 5.0]))
        history = [*history, (2.0, 5.0)]


def check_independent(kind: Kind, history: list[tuple[float, float]], slots: int) -> None:
    """What one series does never changes the other's forecast."""
    quiet = [(first, 0.0) for first, _ in history]
    expected = fed(kind, quiet).remaining(slots).mean[0]
    assert fed(kind, history).remaining(slots).mean[0] == expected


CHECKS: list[Callable[[Kind, list[tuple[float, float]], int], None]] = [
    check_ordered,
    check_restored,
    check_independent,
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS, ids=sorted(FORECASTERS))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(history=HISTORIES, slots=st.integers(min_value=0, max_value=10_000))
def test_every_forecaster_is_sound(
    kind: Kind,
    check: Callable[[Kind, list[tuple[float, float]], int], None],
    history: list[tuple[float, float]],
    slots: int,
) -> None:
    """Ordered quantiles, exact restoration, independent series."""
    check(kind, history, slots)


@pytest.mark.parametrize(
    ("kind", "check"),
    [(Negative, check_ordered), (Forgetful, check_restored), (Entangled, check_independent)],
)
def test_the_checks_find_a_broken_forecaster(
    kind: Kind, check: Callable[[Kind, list[tuple[float, float]], int], None]
) -> None:
    """Each property fails on a forecaster that breaks it."""
    with pytest.raises(AssertionError):
        check(kind, [(1.0, 9.0), (4.0, 7.0), (2.0, 8.0)], 5)
