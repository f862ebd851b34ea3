"""Autoregression of a chosen order, per series, from discounted autocovariances."""

from collections.abc import Mapping
from typing import Final, Self

import numpy as np

from coordinator.forecast.base import FloatArray
from coordinator.forecast.series import SeriesForecaster

ORDER_MAX: Final = 8

_PARTIAL_MAX: Final = 0.97
_SHRINK_SLOTS: Final = 8.0
_FORGOTTEN_AT_JUMP: Final = 0.95
_PATH_SLOTS: Final = 64


class Autoregression(SeriesForecaster):
    """``q_t - m = sum_k phi_k (q_{t-k} - m) + e_t`` with coefficients from Yule and Walker.

    The recursion of Levinson and Durbin gives partial autocorrelations; held within 0.97 and
    shrunk while the history is short, they make every result stationary, so no series can make
    the forecast explode. Where the level jumps, most of the moments are forgotten. After a gap
    the lags are those of the slots that were seen.
    Reference: Brockwell and Davis, Time Series: Theory and Methods (1991), chapter 8.

    Parameters
    ----------
    prior : ndarray, shape (X,)
        See ``SeriesForecaster``.
    order : int
        Number of lags p, 1 to 8.

    Raises
    ------
    ValueError
        When ``order`` is out of range.
    """

    def __init__(self, prior: FloatArray, *, order: int = 3) -> None:
        if not 1 <= order <= ORDER_MAX:
            raise ValueError(f"order is {order}, expected 1 to {ORDER_MAX}")
        self._order = order
        super().__init__(prior)

    @property
    def name(self) -> str:
        """The registered name."""
        return "ar"

    def _fresh(self) -> Self:
        return type(self)(np.zeros(0), order=self._order)

    def growth(self, slots: int) -> FloatArray:
        """See ``SeriesForecaster.growth``."""
        return self._variance(slots)[0]

    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        lags = (self._order,)
        moments = (self._order + 1,)
        return {
            "weight": (),
            "total": (),
            "lags": lags,
            "seen": (),
            "pairs": moments,
            "products": moments,
            "before": moments,
            "after": moments,
        }

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        data = self._data
        if gap:
            data["seen"][:] = 0.0
        lagged = np.concatenate([counts[None], data["lags"]])
        known = np.arange(self._order + 1)[:, None] <= data["seen"]
        data["pairs"] += known
        data["products"] += np.where(known, lagged * counts, 0.0)
        data["before"] += np.where(known, lagged, 0.0)
        data["after"] += np.where(known, counts, 0.0)
        data["total"] += counts
        data["weight"] += 1.0
        data["lags"] = lagged[:-1]
        data["seen"] = np.minimum(data["seen"] + 1.0, float(self._order))

    def _jumped(self, totals: FloatArray, *, slots: int) -> None:
        jumped = ~np.isnan(totals)
        data = self._data
        kept = np.where(jumped, 1.0 - _FORGOTTEN_AT_JUMP, 1.0)
        for name in ("weight", "total", "pairs", "products", "before", "after"):
            data[name] = data[name] * kept
        data["prior"] = np.where(jumped, totals / slots, data["prior"])
        data["total"] = data["total"] + np.where(jumped, totals, 0.0)
        data["weight"] = data["weight"] + np.where(jumped, float(slots), 0.0)
        self.record.void(jumped)

    def _mean(self) -> FloatArray:
        data = self._data
        return (data["total"] + data["prior"]) / (data["weight"] + 1.0)

    def _phi(self) -> FloatArray:
        """Coefficients, shape (p, X)."""
        data = self._data
        pairs = np.maximum(data["pairs"], 1e-9)
        center = data["after"][0] / pairs[0]
        covariance = data["products"] - center * (data["before"] + data["after"])
        covariance = (covariance + data["pairs"] * center**2) / pairs
        spread = covariance[0]
        tiny = spread <= 1e-9 * np.maximum(center**2, 1e-9)
        correlation = np.where(tiny, 0.0, covariance / np.where(tiny, 1.0, spread))
        correlation *= data["pairs"] / (data["pairs"] + _SHRINK_SLOTS)
        phi = np.zeros((self._order, self.series))
        left = np.ones(self.series)
        for k in range(self._order):
            earlier = phi[:k].copy()
            rest = correlation[k + 1] - (earlier * correlation[k:0:-1]).sum(axis=0)
            partial = np.clip(rest / left, -_PARTIAL_MAX, _PARTIAL_MAX)
            phi[:k] = earlier - partial * earlier[::-1]
            phi[k] = partial
            left = left * (1.0 - partial**2)
        return phi

    def _totals(self, slots: int) -> FloatArray:
        data = self._data
        mean = self._mean()
        phi = self._phi()
        lags = np.where(np.arange(self._order)[:, None] < data["seen"], data["lags"] - mean, 0.0)
        reach = _power_sum(phi, steps=slots)
        total: FloatArray = slots * mean + np.einsum("xk,kx->x", reach, lags)
        return total

    def _shape(self, slots: int) -> FloatArray:
        squares, sums = self._variance(slots)
        worth = self._data["weight"] + 1.0
        return (squares + slots**2 * sums**2 / worth) / (1.0 + 1.0 / worth)

    def _variance(self, slots: int) -> tuple[FloatArray, FloatArray]:
        """Variance of the total per unit of noise, and what one unit of noise adds up to."""
        phi = self._phi()
        psi = np.zeros_like(phi)
        psi[0] = 1.0
        sums = np.ones(self.series)
        squares = np.ones(self.series)
        path = min(slots, _PATH_SLOTS)
        for _ in range(path - 1):
            coming = (phi * psi).sum(axis=0)
            sums = sums + coming
            squares = squares + sums**2
            psi = np.concatenate([coming[None], psi[:-1]])
        return squares + (slots - path) * sums**2, sums


def _power_sum(phi: FloatArray, *, steps: int) -> FloatArray:
    """First row of ``F + F^2 + ... + F^steps`` for each series' companion matrix, shape (X, p).

    By doubling, so that ten thousand slots take fourteen products: the sum over ``2 m`` steps is
    the one over ``m``, plus the same moved on by ``F^m``.
    """
    order, series = phi.shape
    companion = np.zeros((series, order, order))
    companion[:, 0, :] = phi.T
    companion[:, np.arange(1, order), np.arange(order - 1)] = 1.0
    power, total = companion, companion
    for bit in bin(steps)[3:]:
        total = total + power @ total
        power = power @ power
        if bit == "1":
            power = power @ companion
            total = total + power
    first: FloatArray = total[:, 0, :]
    return first
