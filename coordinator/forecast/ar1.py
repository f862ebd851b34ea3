"""First-order autoregression per series, from rolling moments."""

import numpy as np

from coordinator.forecast.base import FloatArray, SeriesForecaster

_PHI_MAX = 0.95
_SHRINK_PAIRS = 4.0


class Ar1(SeriesForecaster):
    """``q_t - m = phi (q_{t-1} - m) + e_t`` with ``m`` and ``phi`` by the method of moments.

    ``phi`` is shrunk to 0 while the history is short and held within 0.95, so that a trend or a
    constant series cannot make the forecast explode. Without history it is the prior.
    """

    _fields = ("count", "total", "squares", "pairs", "products", "before", "after", "last")

    @property
    def name(self) -> str:
        """The registered name."""
        return "ar1"

    def _absorb(self, counts: FloatArray, *, gap: int) -> None:
        data = self._data
        paired = (data["count"] > 0.0) & (gap == 0)
        data["pairs"] += paired
        data["products"] += np.where(paired, counts * data["last"], 0.0)
        data["before"] += np.where(paired, data["last"], 0.0)
        data["after"] += np.where(paired, counts, 0.0)
        data["count"] += 1.0
        data["total"] += counts
        data["squares"] += counts**2
        data["last"] = counts.copy()

    def _moments(self, slots: int) -> tuple[FloatArray, FloatArray]:
        data = self._data
        worth = data["count"] + 1.0
        mean = (data["total"] + data["prior"]) / worth
        center = data["total"] / np.maximum(data["count"], 1.0)
        spread = np.maximum(data["squares"] / np.maximum(data["count"], 1.0) - center**2, 0.0)
        phi = self._phi(center, spread=spread)
        variance = (spread * data["count"] + mean) / np.maximum(data["count"], 1.0)
        offset = np.where(data["count"] > 0.0, data["last"] - mean, 0.0)
        decay = phi * (1.0 - phi**slots) / (1.0 - phi)
        walk = (
            slots
            - 2.0 * phi * (1.0 - phi**slots) / (1.0 - phi)
            + phi**2 * (1.0 - phi ** (2 * slots)) / (1.0 - phi**2)
        )
        noise = variance * (1.0 - phi**2) * walk / (1.0 - phi) ** 2
        doubt = slots**2 * variance * np.maximum((1.0 + phi) / (1.0 - phi), 1.0) / worth
        return slots * mean + offset * decay, noise + doubt

    def _phi(self, center: FloatArray, *, spread: FloatArray) -> FloatArray:
        data = self._data
        pairs = np.maximum(data["pairs"], 1.0)
        lagged = (data["products"] - center * (data["before"] + data["after"])) / pairs + center**2
        tiny = spread <= 1e-9 * np.maximum(center**2, 1e-9)
        phi = np.where(tiny, 0.0, lagged / np.where(tiny, 1.0, spread))
        phi = phi * data["pairs"] / (data["pairs"] + _SHRINK_PAIRS)
        return np.clip(phi, -_PHI_MAX, _PHI_MAX)
