"""Whether the 90 % intervals hold what they say, on simulated series with fixed seeds."""

from typing import Any

import numpy as np
import pytest

from coordinator.forecast import make_forecaster
from coordinator.forecast.base import FloatArray, result_of

SERIES = 150
SLOTS = 480
HORIZONS = (1, 20, 150)
LOOKS = (96, 192, 300)


def poisson(rng: np.random.Generator) -> FloatArray:
    """Memoryless, five a slot."""
    return rng.poisson(5.0, (SLOTS, SERIES)).astype(np.float64)


def sparse(rng: np.random.Generator) -> FloatArray:
    """Memoryless, one in five slots."""
    return rng.poisson(0.2, (SLOTS, SERIES)).astype(np.float64)


def autocorrelated(rng: np.random.Generator) -> FloatArray:
    """AR(1) around 40 with a coefficient of 0.6."""
    values = np.full((SLOTS, SERIES), 40.0)
    for slot in range(1, SLOTS):
        values[slot] = 16.0 + 0.6 * values[slot - 1] + rng.normal(0.0, 4.0, SERIES)
    counts: FloatArray = np.maximum(values, 0.0)
    return counts


def seasonal(rng: np.random.Generator) -> FloatArray:
    """Poisson around a wave of 24 slots between 4 and 36."""
    wave = 20.0 + 16.0 * np.sin(2.0 * np.pi * np.arange(SLOTS) / 24)
    return rng.poisson(wave[:, None], (SLOTS, SERIES)).astype(np.float64)


def coverage(name: str, *, series: FloatArray) -> dict[int, float]:
    """Share of totals within the interval, per horizon, over all looks and series."""
    options: dict[str, Any] = {"period": 24} if name in ("seasonal", "chooser") else {}
    forecaster = make_forecaster(name, prior=np.full(SERIES, series.mean()), **options)
    held: dict[int, list[float]] = {horizon: [] for horizon in HORIZONS}
    for slot, counts in enumerate(series):
        if slot in LOOKS:
            for horizon in HORIZONS:
                found = forecaster.remaining(horizon)
                total = series[slot : slot + horizon].sum(axis=0)
                held[horizon].append(
                    float(np.mean((found.lower <= total) & (total <= found.upper)))
                )
        if slot == max(LOOKS):
            break
        forecaster.update(slot, counts=counts)
    return {horizon: float(np.mean(shares)) for horizon, shares in held.items()}


@pytest.mark.parametrize(
    ("name", "simulate"),
    [
        ("mean_so_far", poisson),
        ("mean_so_far", sparse),
        ("level", poisson),
        ("level", autocorrelated),
        ("ar", poisson),
        ("ar", autocorrelated),
        ("smoothing", poisson),
        ("seasonal", seasonal),
        ("chooser", poisson),
        ("chooser", sparse),
        ("chooser", autocorrelated),
        ("chooser", seasonal),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_intervals_cover_what_they_promise(name: str, simulate: object) -> None:
    """90 % of the totals over 1, 20 and 150 slots, give or take 6 points; wider is less harm."""
    assert callable(simulate)
    shares = coverage(name, series=simulate(np.random.default_rng(21)))
    for horizon, share in shares.items():
        assert share >= 0.84, (horizon, shares)
    assert shares[1] <= 0.99 or simulate is sparse, shares


def test_a_random_walk_of_counts_stays_within_the_last_values_interval() -> None:
    """Its width grows as the walk's does."""
    rng = np.random.default_rng(22)
    steps = rng.normal(0.0, 5.0, (SLOTS, SERIES))
    shares = coverage("last_value", series=np.maximum(1_000.0 + np.cumsum(steps, axis=0), 0.0))
    assert all(0.84 <= share <= 0.97 for share in shares.values()), shares


def test_quantiles_of_a_poisson_law_are_close_to_the_true_ones() -> None:
    """Those of Poisson counts of mean 4 and 100: 1 and 8, 84 and 117."""
    found = result_of(np.array([4.0, 100.0]), variance=np.array([4.0, 100.0]))
    np.testing.assert_allclose(found.lower, [1.0, 84.0], atol=1.0)
    np.testing.assert_allclose(found.upper, [8.0, 117.0], atol=1.0)


def test_without_variance_the_quantiles_are_the_mean() -> None:
    """A total over no slots is known."""
    found = result_of(np.array([0.0, 3.0]), variance=np.zeros(2))
    np.testing.assert_array_equal(found.lower, [0.0, 3.0])
    np.testing.assert_array_equal(found.upper, [0.0, 3.0])
