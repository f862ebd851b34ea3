"""Each forecaster on traffic whose future is known, and the choice between them."""

import numpy as np
import pytest

from coordinator.forecast import Ar1, Chooser, LastValue, MeanSoFar, make_forecaster
from coordinator.forecast.base import FloatArray, Forecaster

NAMES = ["ar1", "chooser", "last_value", "mean_so_far"]


def feed(forecaster: Forecaster, history: FloatArray) -> None:
    """Update with history, shape (slots, X)."""
    for slot, counts in enumerate(history):
        forecaster.update(slot, counts=counts)


@pytest.mark.parametrize("name", NAMES)
def test_without_history_the_prior_is_the_forecast(name: str) -> None:
    """The declared demand per slot, times the slots."""
    found = make_forecaster(name, prior=np.array([2.0, 5.0])).remaining(10)
    np.testing.assert_allclose(found.mean, [20.0, 50.0])
    assert np.all(found.lower < found.mean)
    assert np.all(found.mean < found.upper)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_series_is_forecast_as_it_is(name: str) -> None:
    """Whatever the prior said."""
    forecaster = make_forecaster(name, prior=np.array([1.0]))
    feed(forecaster, np.full((400, 1), 7.0))
    assert forecaster.remaining(10).mean[0] == pytest.approx(70.0, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_silent_series_is_forecast_as_silent(name: str) -> None:
    """Zeros are no special case."""
    forecaster = make_forecaster(name, prior=np.array([1.0]))
    feed(forecaster, np.zeros((400, 1)))
    found = forecaster.remaining(10)
    assert 0.0 <= found.lower[0] <= found.mean[0] < 0.1


def test_the_mean_forgets_nothing() -> None:
    """(prior + 1 + 2 + 6) / 4 per slot."""
    forecaster = MeanSoFar(np.array([3.0]))
    feed(forecaster, np.array([[1.0], [2.0], [6.0]]))
    assert forecaster.remaining(4).mean[0] == pytest.approx(12.0)


def test_the_last_value_is_carried_on() -> None:
    """With an interval that widens faster than the horizon."""
    forecaster = LastValue(np.array([3.0]))
    feed(forecaster, np.array([[1.0], [2.0], [6.0]]))
    near, far = forecaster.remaining(1), forecaster.remaining(4)
    assert far.mean[0] == 24.0
    assert (far.upper - far.mean)[0] > 4.0 * (near.upper - near.mean)[0]


def test_the_autoregression_finds_its_coefficient() -> None:
    """A long AR(1) series: the next slot is forecast with phi, the far ones by the mean."""
    rng = np.random.default_rng(5)
    series = np.zeros(5_000)
    value = 40.0
    for slot in range(series.size):
        value = 20.0 + 0.5 * value + rng.normal(0.0, 2.0)
        series[slot] = max(value, 0.0)
    forecaster = Ar1(np.array([1.0]))
    feed(forecaster, series[:, None])
    expected = 40.0 + 0.5 * (series[-1] - 40.0)
    assert forecaster.remaining(1).mean[0] == pytest.approx(expected, abs=0.4)
    assert forecaster.remaining(1_000).mean[0] == pytest.approx(40_000.0, rel=0.01)


@pytest.mark.parametrize(
    "series",
    [
        np.arange(300.0),
        np.exp(np.arange(300.0) / 20.0),
        np.tile([0.0, 100.0], 150),
        np.array([5.0]),
        np.array([0.0, 1e9]),
    ],
    ids=["trend", "explosion", "alternation", "one slot", "jump"],
)
def test_the_autoregression_never_explodes(series: FloatArray) -> None:
    """A total stays within what the largest slot, carried on for good, would give."""
    forecaster = Ar1(np.array([1.0]))
    feed(forecaster, series[:, None])
    found = forecaster.remaining(1_000)
    assert np.isfinite(found.upper[0])
    assert 0.0 <= found.mean[0] <= 1_000.0 * max(series.max(), 1.0)


def test_the_choice_follows_the_data_series_by_series() -> None:
    """Memoryless traffic is forecast by its mean, a random walk is not."""
    rng = np.random.default_rng(2)
    noise = rng.poisson(20.0, 300).astype(np.float64)
    walk = np.maximum(200.0 + np.cumsum(rng.normal(0.0, 5.0, 300)), 0.0)
    forecaster = Chooser(np.array([1.0, 1.0]))
    feed(forecaster, np.stack([noise, walk], axis=1))
    assert forecaster.chosen[0] == "mean_so_far"
    assert forecaster.chosen[1] in {"last_value", "ar1"}
    assert forecaster.remaining(1).mean[1] == pytest.approx(walk[-1], rel=0.1)


def test_the_choice_changes_when_the_traffic_does() -> None:
    """A jump in level makes the mean err; the last value takes over."""
    rng = np.random.default_rng(4)
    series = np.concatenate([rng.poisson(5.0, 100), rng.poisson(500.0, 10)]).astype(np.float64)
    forecaster = Chooser(np.array([5.0]))
    feed(forecaster, series[:100, None])
    assert forecaster.chosen == ["mean_so_far"]
    for slot in range(100, 110):
        forecaster.update(slot, counts=series[slot : slot + 1])
    assert forecaster.chosen != ["mean_so_far"]
    assert forecaster.remaining(1).mean[0] == pytest.approx(500.0, rel=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_series_starts_from_its_prior_and_the_old_ones_stay(name: str) -> None:
    """Contexts appear while the window runs."""
    forecaster = make_forecaster(name, prior=np.array([1.0]))
    feed(forecaster, np.full((50, 1), 4.0))
    before = forecaster.remaining(5).mean[0]
    forecaster.resize(3, prior=np.array([2.0, 9.0]))
    np.testing.assert_allclose(forecaster.remaining(5).mean, [before, 10.0, 45.0])
    forecaster.update(50, counts=np.array([4.0, 2.0, 9.0]))


@pytest.mark.parametrize("name", NAMES)
def test_series_cannot_disappear(name: str) -> None:
    """Their past would be lost."""
    with pytest.raises(ValueError, match="series is 1, fewer than the 2"):
        make_forecaster(name, prior=np.ones(2)).resize(1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("slot", "counts", "message"),
    [
        (3, np.array([1.0]), "expected more than the last one, 3"),
        (4, np.array([1.0, 2.0]), r"counts has shape \(2,\), expected \(1,\)"),
        (4, np.array([-1.0]), "finite and 0 or more"),
        (4, np.array([np.nan]), "finite and 0 or more"),
    ],
)
def test_impossible_counts_are_refused(
    name: str, slot: int, counts: FloatArray, message: str
) -> None:
    """And change nothing."""
    forecaster = make_forecaster(name, prior=np.ones(1))
    forecaster.update(3, counts=np.array([2.0]))
    before = forecaster.to_state()
    with pytest.raises(ValueError, match=message):
        forecaster.update(slot, counts=counts)
    assert forecaster.to_state() == before


def test_a_missing_slot_is_unknown_and_not_zero() -> None:
    """The mean is over the slots that were seen."""
    forecaster = MeanSoFar(np.array([4.0]))
    forecaster.update(0, counts=np.array([4.0]))
    forecaster.update(9, counts=np.array([4.0]))
    assert forecaster.remaining(1).mean[0] == 4.0


def test_an_unknown_forecaster_or_option_is_refused() -> None:
    """Naming it and the known ones."""
    with pytest.raises(ValueError, match=r"unknown forecaster 'arima', known are \['ar1'"):
        make_forecaster("arima", prior=np.ones(1))
    with pytest.raises(ValueError, match=r"unknown option of forecaster 'chooser'.*phi"):
        make_forecaster("chooser", prior=np.ones(1), phi=1)
    with pytest.raises(ValueError, match="members is"):
        make_forecaster("chooser", prior=np.ones(1), members=["arima"])
