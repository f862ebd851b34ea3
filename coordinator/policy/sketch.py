"""A mergeable latency histogram with buckets of equal ratio, and its quantiles."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from coordinator.policy.base import FloatArray

BUCKETS_PER_E = 8.0
"""Buckets per factor of e: each is 13 % wide, so a quantile is within 7 % of a sample's."""

BUCKETS = 160
"""From 1 ms to 5 days; what lies beyond falls into the last bucket."""

PRIOR_SHAPE = 0.5
"""Standard deviation of the logarithm of a latency, before any is measured."""

_MIDDLE = np.exp((np.arange(BUCKETS) + 0.5) / BUCKETS_PER_E)
_LOG_MIDDLE = np.log(_MIDDLE)


@lru_cache(maxsize=65_536)
def bucket_of(latency_ms: float) -> int:
    """Return the bucket of a latency in ms."""
    if latency_ms <= 1.0:
        return 0
    return min(int(math.log(latency_ms) * BUCKETS_PER_E), BUCKETS - 1)


def dense(counts: Mapping[int, float]) -> FloatArray:
    """Return sparse counts as an array, shape (BUCKETS,)."""
    histogram = np.zeros(BUCKETS)
    for bucket, count in counts.items():
        histogram[bucket] += count
    return histogram


def prior_histogram(latency_ms: float) -> FloatArray:
    """Return a lognormal shape (sigma 0.5) with the given mean in ms, total 1."""
    center = math.log(max(latency_ms, 1.0)) - 0.5 * PRIOR_SHAPE**2
    density = np.exp(-0.5 * ((_LOG_MIDDLE - center) / PRIOR_SHAPE) ** 2)
    return np.asarray(density / max(float(density.sum()), 1e-300))


def blend(histogram: FloatArray, *, prior: FloatArray, worth: float) -> FloatArray:
    """Return the histogram completed by ``worth`` observations of the prior, total 1."""
    return np.asarray((histogram + worth * prior) / (histogram.sum() + worth))


def quantiles(histogram: FloatArray, *, probabilities: Sequence[float]) -> FloatArray:
    """Return the middle (ms) of the bucket in which each probability is reached."""
    reached = np.cumsum(histogram) / histogram.sum()
    index = np.searchsorted(reached, np.asarray(probabilities) * (1.0 - 1e-12))
    return np.asarray(_MIDDLE[np.minimum(index, BUCKETS - 1)])
