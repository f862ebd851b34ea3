"""Each forecaster on traffic whose future is known, and the choice between them."""

from typing import Any

import numpy as np
import pytest

from coordinator.forecast import (
    Autoregression,
    Chooser,
    LastValue,
    Level,
    MeanSoFar,
    Seasonal,
    Smoothing,
    make_forecaster,
)
from coordinator.forecast.base import FloatArray, Forecaster

NAMES = ["ar", "chooser", "last_value", "level", "mean_so_far", "seasonal", "smoothing"]


def made(name: str, *, prior: FloatArray) -> Forecaster:
    """Return a forecaster, with the one option that has no default."""
    options: dict[str, Any] = {"period": 12} if name == "seasonal" else {}
    return make_forecaster(name, prior=prior, **options)


def feed(forecaster: Forecaster, history: FloatArray) -> None:
    """Update with history, shape (slots, X)."""
    for slot, counts in enumerate(history):
        forecaster.update(slot, counts=counts)


@pytest.mark.parametrize("name", NAMES)
def test_without_history_the_prior_is_the_forecast(name: str) -> None:
    """The declared demand per slot, times the slots."""
    found = made(name, prior=np.array([2.0, 5.0])).remaining(10)
    np.testing.assert_allclose(found.mean, [20.0, 50.0])
    assert np.all(found.lower < found.mean)
    assert np.all(found.mean < found.upper)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_series_is_forecast_as_it_is(name: str) -> None:
    """Whatever the prior said."""
    forecaster = made(name, prior=np.array([1.0]))
    feed(forecaster, np.full((400, 1), 7.0))
    assert forecaster.remaining(10).mean[0] == pytest.approx(70.0, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_series_that_falls_silent_is_forecast_as_silent(name: str) -> None:
    """Zeros of a fleet at work are no special case."""
    forecaster = made(name, prior=np.array([1.0, 1.0]))
    feed(forecaster, np.tile([0.0, 3.0], (400, 1)))
    found = forecaster.remaining(10)
    assert 0.0 <= found.lower[0] <= found.mean[0] < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_an_idle_fleet_keeps_its_declared_priors(name: str) -> None:
    """Silence before the fleet's first request says nothing about demand once it begins."""
    forecaster = made(name, prior=np.array([2.0, 5.0]))
    feed(forecaster, np.zeros((500, 2)))
    np.testing.assert_allclose(forecaster.remaining(10).mean, [20.0, 50.0])


@pytest.mark.parametrize("name", NAMES)
def test_the_idle_time_before_the_first_request_leaves_no_trace(name: str) -> None:
    """A fleet that starts late forecasts as one that has just been set up."""
    late, early = (made(name, prior=np.array([2.0])) for _ in range(2))
    feed(late, np.zeros((480, 1)))
    for slot, count in enumerate([3.0, 0.0, 4.0, 2.0, 5.0, 1.0, 2.0]):
        late.update(480 + slot, counts=np.array([count]))
        early.update(slot, counts=np.array([count]))
    np.testing.assert_array_equal(late.remaining(30).mean, early.remaining(30).mean)


def test_one_series_at_work_makes_the_silence_of_the_others_count() -> None:
    """So a task class that nobody uses does not hold back money for good."""
    forecaster = Chooser(np.array([5.0, 5.0]))
    feed(forecaster, np.tile([4.0, 0.0], (200, 1)))
    mean = forecaster.remaining(100).mean
    assert mean[0] == pytest.approx(400.0, rel=0.01)
    assert mean[1] < 5.0


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
    series = np.zeros(1_500)
    value = 40.0
    for slot in range(series.size):
        value = 20.0 + 0.5 * value + rng.normal(0.0, 2.0)
        series[slot] = max(value, 0.0)
    forecaster = Autoregression(np.array([1.0]))
    feed(forecaster, series[:, None])
    expected = 40.0 + 0.5 * (series[-1] - 40.0)
    assert forecaster.remaining(1).mean[0] == pytest.approx(expected, abs=0.5)
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
@pytest.mark.parametrize("order", [1, 3, 8])
def test_the_autoregression_never_explodes(order: int, series: FloatArray) -> None:
    """A total stays within what the largest slot, carried on for good, would give."""
    forecaster = Autoregression(np.array([1.0]), order=order)
    feed(forecaster, series[:, None])
    found = forecaster.remaining(1_000)
    assert np.isfinite(found.upper[0])
    assert 0.0 <= found.mean[0] <= 1_000.0 * max(series.max(), 1.0)


def test_a_second_order_process_is_learned() -> None:
    """phi = (0.5, 0.3): the next slot is forecast from both lags."""
    rng = np.random.default_rng(6)
    noise = rng.normal(0.0, 2.0, 1_500)
    series = np.full(noise.size, 50.0)
    for slot in range(2, series.size):
        series[slot] = 10.0 + 0.5 * series[slot - 1] + 0.3 * series[slot - 2] + noise[slot]
    forecaster = Autoregression(np.array([1.0]), order=2)
    feed(forecaster, series[:, None])
    expected = 10.0 + 0.5 * series[-1] + 0.3 * series[-2]
    assert forecaster.remaining(1).mean[0] == pytest.approx(expected, abs=0.5)


def test_smoothing_picks_its_rate_by_the_series() -> None:
    """Near 0 where the level stands still, near 1 where it wanders."""
    rng = np.random.default_rng(7)
    still = rng.poisson(100.0, 400).astype(np.float64)
    walk = np.maximum(500.0 + np.cumsum(rng.normal(0.0, 20.0, 400)), 0.0)
    forecaster = Smoothing(np.array([1.0, 1.0]))
    feed(forecaster, np.stack([still, walk], axis=1))
    coming = forecaster.remaining(1).mean
    assert coming[0] == pytest.approx(100.0, rel=0.03)
    assert abs(coming[1] - walk[-1]) < 0.5 * abs(walk[-20:].mean() - walk[-1]) + 10.0


def test_smoothing_with_a_fixed_rate_is_the_textbook_recursion() -> None:
    """level += alpha (count - level), once the history is longer than 1 / alpha."""
    forecaster = Smoothing(np.array([10.0]), alpha=0.5)
    feed(forecaster, np.array([[10.0], [20.0], [20.0]]))
    assert forecaster.remaining(2).mean[0] == pytest.approx(2 * 17.5)


def test_a_falling_trend_does_not_end_below_zero() -> None:
    """The damped trend may at most empty the level."""
    forecaster = Smoothing(np.array([100.0]))
    feed(forecaster, np.linspace(100.0, 0.0, 40)[:, None])
    assert forecaster.remaining(50).lower[0] >= 0.0


def test_the_season_is_carried_on_in_phase() -> None:
    """The next slots repeat the cycle, and a whole cycle has its total."""
    cycle = np.array([0.0, 0.0, 10.0, 40.0, 20.0, 2.0])
    forecaster = Seasonal(np.array([1.0]), period=6)
    feed(forecaster, np.tile(cycle, 60)[:-3, None])
    assert forecaster.remaining(1).mean[0] == pytest.approx(40.0, rel=0.05)
    assert forecaster.remaining(6).mean[0] == pytest.approx(72.0, rel=0.05)


def test_a_new_window_starts_from_the_earlier_windows_shape() -> None:
    """With the window as the period; and a busier last window lifts the next one."""
    shape = np.concatenate([np.full(50, 2.0), np.full(50, 8.0)])
    forecaster = Seasonal(np.array([1.0]), period=100)
    feed(forecaster, np.concatenate([shape, shape, 1.5 * shape])[:, None])
    halves = forecaster.remaining(50).mean[0], forecaster.remaining(100).mean[0]
    assert halves[0] == pytest.approx(1.5 * 2.0 * 50, rel=0.1)
    assert halves[1] == pytest.approx(1.5 * 10.0 * 50, rel=0.1)


def test_the_level_starts_again_after_a_jump() -> None:
    """And the plain mean does not."""
    rng = np.random.default_rng(8)
    series = np.concatenate([rng.poisson(5.0, 500), rng.poisson(25.0, 40)]).astype(np.float64)
    level, mean = Level(np.array([1.0])), MeanSoFar(np.array([1.0]))
    feed(level, series[:, None])
    feed(mean, series[:, None])
    assert level.remaining(100).mean[0] == pytest.approx(2_500.0, rel=0.1)
    assert mean.remaining(100).mean[0] < 800.0


def test_one_burst_is_not_a_jump() -> None:
    """A single slot of 50 times the demand leaves the level where it was."""
    rng = np.random.default_rng(9)
    series = rng.poisson(5.0, 600).astype(np.float64)
    series[500] = 250.0
    level = Level(np.array([1.0]))
    feed(level, series[:, None])
    assert level.remaining(1).mean[0] == pytest.approx(series.mean(), rel=0.02)


def test_the_choice_follows_the_data_series_by_series() -> None:
    """Memoryless traffic is forecast by its mean, a random walk is not."""
    rng = np.random.default_rng(2)
    noise = rng.poisson(20.0, 300).astype(np.float64)
    walk = np.maximum(200.0 + np.cumsum(rng.normal(0.0, 5.0, 300)), 0.0)
    forecaster = Chooser(np.array([1.0, 1.0]))
    feed(forecaster, np.stack([noise, walk], axis=1))
    assert forecaster.remaining(1).mean[0] == pytest.approx(20.0, rel=0.1)
    assert forecaster.chosen[1] in {"last_value", "ar", "smoothing"}
    assert forecaster.remaining(1).mean[1] == pytest.approx(walk[-1], rel=0.1)


def test_the_next_slot_and_the_rest_of_the_window_are_chosen_apart() -> None:
    """AR(1): one slot ahead its memory helps, for the total the level is what matters."""
    rng = np.random.default_rng(3)
    series = np.zeros((1_000, 20))
    value = np.full(20, 40.0)
    for slot in range(len(series)):
        value = 10.0 + 0.75 * value + rng.normal(0.0, 4.0, 20)
        series[slot] = np.maximum(value, 0.0)
    forecaster = Chooser(np.ones(20))
    feed(forecaster, series)
    assert forecaster.chosen.count("ar") + forecaster.chosen.count("smoothing") >= 15
    assert forecaster.chosen_for(8_000).count("level") >= 18
    np.testing.assert_allclose(forecaster.remaining(8_000).mean, 8_000 * 40.0, rtol=0.03)


@pytest.mark.parametrize("kind", ["iid", "ar1"])
def test_on_the_papers_workloads_the_total_is_forecast_as_by_the_mean(kind: str) -> None:
    """Demand of mean 2 (i.i.d.) and 4 (AR(1)), 40 runs: no worse than the mean by 5 %."""
    rng = np.random.default_rng(11)
    noise = rng.normal(0.0, 1.0, (700, 40))
    series = 2.0 + noise * 0.5**0.5
    if kind == "ar1":
        series[0] = 4.0
        for slot in range(1, len(series)):
            series[slot] = 2.0 + 0.5 * series[slot - 1] + noise[slot]
    series = np.maximum(series, 0.0)
    chooser, mean = Chooser(np.full(40, 3.0)), MeanSoFar(np.full(40, 3.0))
    missed = np.zeros((2, 40))
    for slot, counts in enumerate(series):
        if slot in {4, 16, 64, 256, 512}:
            members: tuple[Forecaster, ...] = (chooser, mean)
            for row, forecaster in enumerate(members):
                rest = forecaster.remaining(len(series) - slot).mean
                missed[row] += np.abs(rest / series[slot:].sum(axis=0) - 1.0)
        chooser.update(slot, counts=counts)
        mean.update(slot, counts=counts)
    assert missed[0].mean() <= 1.05 * missed[1].mean()


def test_the_choice_changes_when_the_traffic_does() -> None:
    """A jump in level makes the mean err; what follows the level takes over."""
    rng = np.random.default_rng(4)
    series = np.concatenate([rng.poisson(5.0, 100), rng.poisson(500.0, 12)]).astype(np.float64)
    forecaster = Chooser(np.array([5.0]))
    feed(forecaster, series[:100, None])
    assert forecaster.remaining(1).mean[0] == pytest.approx(5.0, rel=0.2)
    for slot in range(100, 112):
        forecaster.update(slot, counts=series[slot : slot + 1])
    assert forecaster.remaining(1).mean[0] == pytest.approx(500.0, rel=0.2)
    assert forecaster.remaining(1_000).mean[0] == pytest.approx(500_000.0, rel=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_series_starts_from_its_prior_and_the_old_ones_stay(name: str) -> None:
    """Contexts appear while the window runs."""
    forecaster = made(name, prior=np.array([1.0]))
    feed(forecaster, np.full((50, 1), 4.0))
    before = forecaster.remaining(5).mean[0]
    forecaster.resize(3, prior=np.array([2.0, 9.0]))
    np.testing.assert_allclose(forecaster.remaining(5).mean, [before, 10.0, 45.0])
    forecaster.update(50, counts=np.array([4.0, 2.0, 9.0]))


@pytest.mark.parametrize("name", NAMES)
def test_series_cannot_disappear(name: str) -> None:
    """Their past would be lost."""
    with pytest.raises(ValueError, match="series is 1, fewer than the 2"):
        made(name, prior=np.ones(2)).resize(1)


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
    forecaster = made(name, prior=np.ones(1))
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
    with pytest.raises(ValueError, match=r"unknown forecaster 'arima', known are \['ar'"):
        make_forecaster("arima", prior=np.ones(1))
    with pytest.raises(ValueError, match=r"unknown option of forecaster 'chooser'.*phi"):
        make_forecaster("chooser", prior=np.ones(1), phi=1)
    with pytest.raises(ValueError, match="members is"):
        make_forecaster("chooser", prior=np.ones(1), members=["arima"])
    with pytest.raises(ValueError, match="'seasonal', which needs `period` or a model"):
        make_forecaster("chooser", prior=np.ones(1), members=["seasonal"])
    with pytest.raises(ValueError, match=r"forecast\.onnx_model"):
        make_forecaster("onnx", prior=np.ones(1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smoothing", {"alpha": 1.5}, "alpha is 1.5"),
        ("ar", {"order": 0}, "order is 0"),
        ("seasonal", {"period": 1}, "period is 1"),
        ("seasonal", {}, "period"),
        ("chooser", {"discount": 0.0}, "discount is 0.0"),
        ("chooser", {"margin": 1.0}, "margin is 1.0"),
        ("chooser", {"model": "a.onnx"}, "model is 'a.onnx', not a loaded model"),
    ],
)
def test_an_option_out_of_range_is_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    """Naming the option and its value."""
    with pytest.raises(ValueError, match=message):
        make_forecaster(name, prior=np.ones(1), **options)
