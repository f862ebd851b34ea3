"""Off-policy estimators: what another policy would have earned, from logged draws. Pure.

A request with context x was given arm a with the known probability p(a | x), the propensity. A
target policy draws a with probability pi(a | x). With the weight w = pi / p of the arm drawn
*first* (whatever its fallbacks did is part of what came of that draw) and the probability e with
which the value v of a request becomes known (grading may be sampled):

    IPS     mean of  w k v / e                                  (k: v is known)
    SNIPS   the same, divided by the mean of  w k / e
    DR      mean of  sum_a pi(a | x) m(x, a)  +  w k (v - m(x, a)) / e

IPS is unbiased and noisy; SNIPS trades a bias of order 1/n for less noise; DR is unbiased for any
model m that was fitted on other requests (cross-fitting) and the less noisy the better m is.

Horvitz and Thompson, JASA 1952; Swaminathan and Joachims, NeurIPS 2015; Dudik, Langford and Li,
ICML 2011; Chernozhukov et al., Econometrics Journal 2018 (cross-fitting). Intervals are those of
clustered means: requests of one slot share a plan, queues and the world's state, so slots count as
the independent units (Liang and Zeger, Biometrika 1986), with Student's t at the degrees of freedom
that the contributions' kurtosis leaves (Satterthwaite, Biometrics Bulletin 1946): where a few heavy
weights carry the estimate, the variance itself is uncertain and the interval is wide.

The spread that was seen may be too small: the heaviest weights belong to the rarest draws, which
perhaps did not happen, and the few values that count may all be alike by chance. But how heavy the
weights could have been is known beforehand, sum_a pi^2 / (p e) for each request. So the variance is
averaged with what these expected squares and the pooled spread of the values make of it, which is
worth four observations (after Agresti and Coull, American Statistician 1998), against the number of
equally weighted requests that the expected squares leave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy

from coordinator.policy.base import BoolArray, FloatArray, IntArray

CONFIDENCE = 0.95
PSEUDO_COUNT = 4.0
"""Observations of pooled spread that the spread of the weighted ones is averaged with."""
SHRINK_COUNT = 8.0
"""Observations that a coarser level's mean is worth in `shrunk_means`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Logged:
    """What was logged of the requests that count, and how the target policy sees them.

    Parameters
    ----------
    weight : ndarray, shape (n,)
        ``pi / p`` of the arm drawn first; 1 where nothing was drawn. For the difference of two
        policies the difference of their weights.
    known : ndarray of bool, shape (n,)
        The value is known.
    inclusion : ndarray, shape (n,)
        Probability that it becomes known, in (0, 1].
    value : ndarray, shape (n,)
        Anything where it is not known.
    model_drawn, model_target : ndarray, shape (n,)
        ``m(x, a)`` of the arm drawn, and its mean under the target policy; from a model that has
        not seen the request.
    cluster : ndarray of int, shape (n,)
        Requests of one number may depend on each other.
    expected_square : ndarray, shape (n,)
        ``sum_a pi^2 / (p e)``: what the square of the request's `evidence` is before the draw.

    Raises
    ------
    ValueError
        When there is no request, shapes disagree or an inclusion probability is not above 0.
    """

    weight: FloatArray
    known: BoolArray
    inclusion: FloatArray
    value: FloatArray
    model_drawn: FloatArray
    model_target: FloatArray
    cluster: IntArray
    expected_square: FloatArray

    def __post_init__(self) -> None:
        shape = self.weight.shape
        if shape == (0,):
            raise ValueError("there is no request to estimate from")
        for name, array in vars(self).items():
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        if not bool(np.all(self.inclusion > 0.0)):
            raise ValueError(f"inclusion is {self.inclusion.min()}, expected more than 0")

    @property
    def evidence(self) -> FloatArray:
        """``w k / e``: how much each request's value counts, shape (n,)."""
        return np.where(self.known, self.weight / self.inclusion, 0.0)

    @property
    def effective_sample_size(self) -> float:
        """Equally weighted requests that would tell as much (Kish, 1965)."""
        evidence = self.evidence
        squares = float(evidence @ evidence)
        return float(evidence.sum()) ** 2 / squares if squares > 0.0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean per request, its 95 % confidence interval, standard error and degrees of freedom."""

    value: float
    low: float
    high: float
    error: float
    freedom: float

    def scaled(self, factor: float) -> Estimate:
        """The same of `factor` (> 0) times the quantity."""
        return replace(
            self,
            value=self.value * factor,
            low=self.low * factor,
            high=self.high * factor,
            error=self.error * factor,
        )

    def within(self, low: float, high: float) -> Estimate:
        """The interval cut to what is possible; the value stays in it, so that oddities show."""
        return replace(
            self,
            low=min(max(self.low, low), self.value),
            high=max(min(self.high, high), self.value),
        )


def inverse_propensity(logged: Logged) -> Estimate:
    """IPS."""
    found = clustered_mean(_ips(logged), cluster=logged.cluster)
    return _with_pooled_spread(found, logged=logged, error=logged.value)


def self_normalised(logged: Logged) -> Estimate:
    """SNIPS. Its interval is that of its linearisation.

    Raises
    ------
    ValueError
        When no known value has any weight.
    """
    evidence = logged.evidence
    total = float(evidence.mean())
    if total <= 0.0:
        raise ValueError("the target policy puts no weight on any request whose value is known")
    value = float((evidence * _filled(logged)).mean()) / total
    influence = evidence * (_filled(logged) - value) / total
    found = clustered_mean(value + influence, cluster=logged.cluster)
    return _with_pooled_spread(found, logged=logged, error=logged.value - value, scale=total)


def doubly_robust(logged: Logged) -> Estimate:
    """DR with the model that `logged` carries."""
    found = clustered_mean(dr_scores(logged), cluster=logged.cluster)
    return _with_pooled_spread(found, logged=logged, error=logged.value - logged.model_drawn)


def dr_scores(logged: Logged) -> FloatArray:
    """Each request's contribution to DR, shape (n,)."""
    error = _filled(logged) - np.where(logged.known, logged.model_drawn, 0.0)
    return np.asarray(logged.model_target + logged.evidence * error)


def clustered_mean(scores: FloatArray, *, cluster: IntArray) -> Estimate:
    """Mean of scores whose errors may be correlated within clusters, with its interval.

    Parameters
    ----------
    scores : ndarray, shape (n,)
    cluster : ndarray of int, shape (n,)

    Returns
    -------
    Estimate
        With a single cluster nothing is known of the spread: the interval is infinite.
    """
    value = float(scores.mean())
    _, index = np.unique(cluster, return_inverse=True)
    sums = np.bincount(index, weights=scores - value) / scores.size
    count = sums.size
    if count < 2:
        return Estimate(value=value, low=-np.inf, high=np.inf, error=np.inf, freedom=1.0)
    second = float((sums**2).mean())
    if second <= 0.0:
        return Estimate(value=value, low=value, high=value, error=0.0, freedom=count - 1.0)
    kurtosis = float((sums**4).mean()) / second**2
    freedom = float(np.clip(2.0 * count / max(kurtosis - 1.0, 1e-9), 1.0, count - 1.0))
    error = float(np.sqrt(second * count * count / (count - 1.0)))
    half = float(scipy.special.stdtrit(freedom, 0.5 + CONFIDENCE / 2.0)) * error
    return Estimate(value=value, low=value - half, high=value + half, error=error, freedom=freedom)


def shrunk_means(
    value: FloatArray,
    *,
    known: BoolArray,
    context: IntArray,
    arm: IntArray,
    fold: IntArray,
    shape: tuple[int, int, int],
) -> FloatArray:
    """Means per (context, arm) that have not seen the requests of their fold: DR's model.

    Each is shrunk to the arm's mean over all contexts, and that to the mean of everything.

    Parameters
    ----------
    value, known, context, arm, fold : ndarray, shape (n,)
        `arm` is that drawn first; requests with -1 (nothing drawn) are passed over.
    shape : (F, X, A)
        Folds, contexts, arms.

    Returns
    -------
    ndarray, shape (F, X, A)
        Entry f is fitted on every fold but f. Without any observation it is 0.
    """
    use = known & (arm >= 0)
    count, total = np.zeros(shape), np.zeros(shape)
    cells = (fold[use], context[use], arm[use])
    np.add.at(count, cells, 1.0)
    np.add.at(total, cells, value[use])
    count = count.sum(axis=0) - count
    total = total.sum(axis=0) - total
    overall = total.sum(axis=(1, 2)) / np.maximum(count.sum(axis=(1, 2)), 1.0)
    of_arm = (total.sum(axis=1) + SHRINK_COUNT * overall[:, None]) / (
        count.sum(axis=1) + SHRINK_COUNT
    )
    return np.asarray((total + SHRINK_COUNT * of_arm[:, None]) / (count + SHRINK_COUNT))


def _with_pooled_spread(
    found: Estimate, *, logged: Logged, error: FloatArray, scale: float = 1.0
) -> Estimate:
    """Average an interval's variance with the expected one, worth `PSEUDO_COUNT`.

    Parameters
    ----------
    error : ndarray, shape (n,)
        What the evidence multiplies; only that of known values counts.
    scale : float
        What the evidence is divided by.
    """
    if not (np.isfinite(found.error) and logged.known.any()):
        return found
    expected = max(float(logged.expected_square.sum()), float(logged.evidence @ logged.evidence))
    if expected <= 0.0:
        return found
    count = logged.weight.size**2 / expected
    spread = float((error[logged.known] ** 2).mean())
    pooled = spread * expected / (logged.weight.size * scale) ** 2
    variance = (count * found.error**2 + PSEUDO_COUNT * pooled) / (count + PSEUDO_COUNT)
    freedom = max(1.0, min(found.freedom, count + PSEUDO_COUNT - 1.0))
    error_now = float(np.sqrt(variance))
    half = float(scipy.special.stdtrit(freedom, 0.5 + CONFIDENCE / 2.0)) * error_now
    return Estimate(
        value=found.value,
        low=found.value - half,
        high=found.value + half,
        error=error_now,
        freedom=freedom,
    )


def _filled(logged: Logged) -> FloatArray:
    """Values with 0 where they are not known, so that what stands there cannot matter."""
    return np.where(logged.known, logged.value, 0.0)


def _ips(logged: Logged) -> FloatArray:
    return np.asarray(logged.evidence * _filled(logged))
