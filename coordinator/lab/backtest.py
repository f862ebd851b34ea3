"""Backtests of the forecasters on recorded demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from coordinator.forecast import FORECASTERS, Forecaster, PathModel, make_forecaster
from coordinator.policy.base import FloatArray
from shared.errors import ConfigError

CHOOSER: Final = "chooser"
SETTINGS: Final[Mapping[str, tuple[Mapping[str, Any], ...]]] = {
    "smoothing": tuple({"alpha": alpha} for alpha in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)),
    "ar": tuple({"order": order} for order in (3, 1, 2, 5, 8)),
}
"""What is tried on the first half, the default first; the others have nothing to set.

The chooser gets the settings of its members.
"""


@dataclass(frozen=True, eq=False)
class Backtest:
    """How a forecaster did on a series, its settings chosen on the first half.

    Attributes
    ----------
    settings : mapping
        The options with the least WAPE on the first half.
    wape : float
        Weighted absolute percentage error of the second half, one slot ahead:
        sum |forecast - count| / sum count.
    coverage : float
        Share of the second half's slots within the one-slot 90 % interval.
    total_error : mapping of int to float
        |Qhat - Q| / Q of the whole series' total, forecast before slot t = 1, 2, 4, ... (so from
        the counts of t - 1 slots).
    forecast : ndarray, shape (slots,)
        Mean forecast of each slot, one slot ahead.
    """

    forecaster: str
    settings: Mapping[str, Any]
    wape: float
    coverage: float
    total_error: Mapping[int, float]
    forecast: FloatArray


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is known before the first slot.

    Attributes
    ----------
    prior : float
        Declared demand per slot.
    period : int
        Length of the cycle in slots; 0: none is known, and `seasonal` does not take part.
    model : PathModel or None
        For `onnx`, which does not take part without it.
    """

    prior: float = 1.0
    period: int = 0
    model: PathModel | None = None

    @property
    def forecasters(self) -> tuple[str, ...]:
        """Names of those that can take part, the chooser last."""
        left_out = {CHOOSER}
        if not self.period:
            left_out.add("seasonal")
        if self.model is None:
            left_out.add("onnx")
        return (*(name for name in FORECASTERS if name not in left_out), CHOOSER)


def backtest(
    counts: FloatArray,
    *,
    setup: Setup | None = None,
    forecasters: Iterable[str] = (),
    advance: Callable[[int], None] | None = None,
) -> list[Backtest]:
    """Run forecasters over a series of counts, shape (slots,); the second half is scored.

    Parameters
    ----------
    setup : Setup, optional
    forecasters : iterable of str
        Names; none means all that the setup allows.
    advance : callable, optional
        Told how many candidates (forecasters with their settings) are done.

    Raises
    ------
    ConfigError
        When there are too few slots, or the second half is empty.
    """
    setup = setup or Setup()
    half = counts.size // 2
    if half < 1 or counts[half:].sum() == 0:
        raise ConfigError("--bin", f"{counts.size} bins are too few, or their second half is empty")
    results = []
    chosen: dict[str, Any] = {}
    for name in forecasters or setup.forecasters:
        runs = []
        for settings in (chosen,) if name == CHOOSER else SETTINGS.get(name, ({},)):
            runs.append(_Run(name, settings=settings, setup=setup, slots=counts.size))
            runs[-1].play(counts, through=half)
            if advance is not None:
                advance(1)
        best = min(runs, key=lambda run: run.missed(counts, begin=0, end=half))
        best.play(counts, through=counts.size)
        chosen |= best.settings
        results.append(best.result(counts, half=half))
    return results


def candidates(setup: Setup) -> int:
    """How often `backtest` will call `advance` by 1."""
    return sum(len(SETTINGS.get(name, ({},))) for name in setup.forecasters)


def chooser_ratio(results: Iterable[Backtest]) -> float:
    """The chooser's WAPE over that of the best single forecaster."""
    wape = {result.forecaster: result.wape for result in results}
    return wape.pop(CHOOSER) / max(min(wape.values()), 1e-12)


class _Run:
    """One forecaster with one choice of settings on its way through the series."""

    def __init__(self, name: str, *, settings: Mapping[str, Any], setup: Setup, slots: int) -> None:
        self._name = name
        self.settings = dict(settings)
        options = dict(settings)
        if setup.period and name in ("seasonal", CHOOSER):
            options["period"] = setup.period
        prior = np.array([setup.prior])
        self._forecaster: Forecaster = make_forecaster(
            name, prior=prior, model=setup.model, **options
        )
        self._at = 0
        self._mean = np.zeros(slots)
        self._covered = np.zeros(slots, dtype=np.bool_)
        self._totals: dict[int, float] = {}

    def play(self, counts: FloatArray, *, through: int) -> None:
        """Go on until slot `through`, exclusive; slots are forecast before they are seen."""
        for slot in range(self._at, through):
            if (slot + 1) & slot == 0:
                rest = float(self._forecaster.remaining(counts.size - slot).mean[0])
                self._totals[slot + 1] = float(counts[:slot].sum()) + rest
            coming = self._forecaster.remaining(1)
            self._mean[slot] = coming.mean[0]
            self._covered[slot] = coming.lower[0] <= counts[slot] <= coming.upper[0]
            self._forecaster.update(slot, counts=counts[slot : slot + 1])
        self._at = through

    def missed(self, counts: FloatArray, *, begin: int, end: int) -> float:
        """Sum of absolute errors one slot ahead."""
        return float(np.abs(self._mean - counts)[begin:end].sum())

    def result(self, counts: FloatArray, *, half: int) -> Backtest:
        """The figures of a run that is through."""
        total = float(counts.sum())
        return Backtest(
            forecaster=self._name,
            settings=self.settings,
            wape=self.missed(counts, begin=half, end=counts.size) / float(counts[half:].sum()),
            coverage=float(self._covered[half:].mean()),
            total_error={t: abs(guess - total) / total for t, guess in self._totals.items()},
            forecast=self._mean,
        )
