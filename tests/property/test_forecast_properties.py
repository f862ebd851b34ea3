"""What holds of every forecaster on any counts; and that these checks can fail."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.forecast import Ar1, Chooser, LastValue, MeanSoFar
from coordinator.forecast.base import FloatArray, SeriesForecaster

Kind = type[Ar1] | type[Chooser] | type[LastValue] | type[MeanSoFar]
KINDS: list[Kind] = [Ar1, Chooser, LastValue, MeanSoFar]
COUNTS = st.floats(min_value=0.0, max_value=1e7, allow_nan=False)
HISTORIES = st.lists(st.tuples(COUNTS, COUNTS), max_size=40)


class Negative(LastValue):
    """Broken: forgets that counts are not negative, and has no interval."""

    def _moments(self, slots: int) -> tuple[FloatArray, FloatArray]:
        return np.full(2, np.nan), np.zeros(2)


class Forgetful(LastValue):
    """Broken: its state leaves out what it saw last."""

    def to_state(self) -> dict[str, object]:
        state = SeriesForecaster.to_state(self)
        state["arrays"]["last"] = [0.0, 0.0]
        return state


class Entangled(LastValue):
    """Broken: one series leaks into another."""

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        super()._absorb(np.full(2, counts.mean()), gap=gap)


def fed(kind: Kind, history: list[tuple[float, float]]) -> Ar1 | Chooser | LastValue | MeanSoFar:
    """Return a forecaster that has seen the history."""
    forecaster = kind(np.array([1.0, 3.0]))
    for slot, counts in enumerate(history):
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
    restored = kind.from_state(json.loads(json.dumps(forecaster.to_state())))
    for _ in range(2):
        expected, actual = forecaster.remaining(slots), restored.remaining(slots)
        np.testing.assert_array_equal(actual.mean, expected.mean)
        np.testing.assert_array_equal(actual.upper, expected.upper)
        for one in (forecaster, restored):
            one.update(len(history), counts=np.array([2.0, 5.0]))
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
@pytest.mark.parametrize("kind", KINDS)
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
