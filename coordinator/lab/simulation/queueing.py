"""How long a request waits for a worker: a queue served in order by several workers, simulated.

The clairvoyant needs the share of answers in time at a given load. There is no closed form for
several workers and lognormal service, so the waits of a few thousand arrivals are drawn.
"""

from __future__ import annotations

import heapq

import numpy as np

from coordinator.lab.simulation.truth import Distribution
from coordinator.policy.base import FloatArray

ARRIVALS = 4_000


def waits(
    mix: list[tuple[float, Distribution]], *, workers: int, seed: int = 0
) -> tuple[FloatArray, float]:
    """Waits of Poisson arrivals on one device.

    Parameters
    ----------
    mix : list of (arrivals per ms, service in ms)
        What one device serves.
    workers : int
        Requests that it serves at a time.

    Returns
    -------
    waits : ndarray
        In ms, rising; zeros without any load.
    load : float
        Arrivals times service over workers.
    """
    rates = np.array([rate for rate, _ in mix])
    total = float(rates.sum())
    if total <= 0.0:
        return np.zeros(1), 0.0
    load = sum(rate * service.mean for rate, service in mix) / workers
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0 / total, ARRIVALS)
    kinds = rng.choice(len(mix), ARRIVALS, p=rates / total)
    at = rng.random(ARRIVALS)
    free = [0.0] * workers
    now, found = 0.0, []
    for gap, kind, share in zip(gaps.tolist(), kinds.tolist(), at.tolist(), strict=True):
        now += gap
        values = mix[kind][1].values
        start = max(now, heapq.heappop(free))
        heapq.heappush(free, start + values[int(share * len(values))])
        found.append(start - now)
    return np.sort(np.array(found)), load


def share_in_time(service: Distribution, *, waited: FloatArray, deadline_ms: float) -> float:
    """The probability that wait and service together end by the deadline."""
    values = np.asarray(service.values)
    return float(np.searchsorted(values, deadline_ms - waited, side="right").mean() / values.size)
