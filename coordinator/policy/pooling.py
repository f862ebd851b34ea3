"""Means that borrow strength: arm, arm and task class, arm and task class and device class.

A Gaussian hierarchy with estimated variances (empirical Bayes, method of moments): the true mean
of a group differs from that of its parent by a spread ``tau`` that is itself estimated from how
much the groups differ, less what chance explains (DerSimonian and Laird, 1986). A group with few
observations, or groups that do not differ, take their parent's mean; a group that has been seen
often, or groups that differ much, keep their own.
"""

from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import FloatArray

_TINY = 1e-12


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments:
    """Sums over observations, each of shape (D, T, A): device class, task class, arm."""

    count: FloatArray
    total: FloatArray
    squares: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class PoolPrior:
    """What is believed before any observation; arrays of shape (A,).

    Parameters
    ----------
    mean, count : ndarray
        Stated mean, and the number of observations that it is worth.
    variance : ndarray
        Stated variance of one observation, worth ``variance_count`` observations.
    task_spread, device_spread : ndarray
        Stated variances between task classes, and between device classes of one task class; each
        is worth ``spread_count`` groups.
    variance_count, spread_count : float
    """

    mean: FloatArray
    count: FloatArray
    variance: FloatArray
    task_spread: FloatArray
    device_spread: FloatArray
    variance_count: float = 4.0
    spread_count: float = 3.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Pooled:
    """Posterior of the finest level, each of shape (D, T, A).

    Parameters
    ----------
    mean : ndarray
    variance : ndarray
        Of one observation.
    worth : ndarray
        Observations that the estimate is worth: ``variance`` over its posterior variance.
    """

    mean: FloatArray
    variance: FloatArray
    worth: FloatArray


def pool_three_levels(
    moments: Moments, *, prior: PoolPrior, pending: FloatArray | None = None
) -> Pooled:
    """Estimate every (device class, task class, arm) from all three levels.

    Parameters
    ----------
    moments : Moments
        Shape (D, T, A); cells without observations have zeros.
    prior : PoolPrior
        Arrays of shape (A,).
    pending : ndarray, shape (D, T, A), optional
        Observations on their way: they add to ``worth`` as if they had come, at the mean.

    Returns
    -------
    Pooled
    """
    count, total = moments.count, moments.total
    variance = _within_variance(moments, prior=prior)
    cell_mean = total / np.maximum(count, 1.0)
    task_count, task_total = count.sum(axis=0), total.sum(axis=0)
    task_mean = task_total / np.maximum(task_count, 1.0)
    arm_count = task_count.sum(axis=0)
    arm_mean = (prior.count * prior.mean + task_total.sum(axis=0)) / (prior.count + arm_count)

    device_spread = _between(
        count, cell_mean, variance=variance, stated=prior.device_spread, weight=prior.spread_count
    )
    task_noise = variance / np.maximum(task_count, 1.0) + device_spread * _concentration(
        count, task_count
    )
    task_spread = _between_tasks(
        task_count,
        task_mean,
        noise=task_noise,
        stated=prior.task_spread,
        weight=prior.spread_count,
    )
    arm_error = variance / (prior.count + arm_count) + task_spread * _concentration(
        task_count, arm_count
    )
    task_mean, task_error = _combine(
        task_mean,
        noise=np.where(task_count > 0.0, task_noise, np.inf),
        parent=arm_mean,
        spread=task_spread + arm_error,
    )
    noise = np.where(count > 0.0, variance / np.maximum(count, 1.0), np.inf)
    mean, error = _combine(
        cell_mean, noise=noise, parent=task_mean[None], spread=device_spread + task_error[None]
    )
    variance = np.broadcast_to(variance, mean.shape)
    worth = variance / np.maximum(error, _TINY)
    if pending is not None:
        worth = worth + pending
    return Pooled(mean=mean, variance=variance, worth=worth)


def _within_variance(moments: Moments, *, prior: PoolPrior) -> FloatArray:
    """Variance of one observation around its cell's mean, shape (A,)."""
    around = moments.squares - moments.total**2 / np.maximum(moments.count, 1.0)
    freedom = np.maximum(moments.count - 1.0, 0.0).sum(axis=(0, 1))
    total = np.maximum(around, 0.0).sum(axis=(0, 1)) + prior.variance_count * prior.variance
    return np.asarray(total / (freedom + prior.variance_count))


def _concentration(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Sum of squared shares of the parts (axis 0): 1 if one part has all, 1/n if n are equal."""
    share = part / np.maximum(whole, 1.0)
    return np.asarray((share**2).sum(axis=0))


def _between(
    count: FloatArray,
    mean: FloatArray,
    *,
    variance: FloatArray,
    stated: FloatArray,
    weight: float,
) -> FloatArray:
    """Variance between the devices of a task class, shape (A,): one value for all task classes."""
    whole = count.sum(axis=0)
    center = (count * mean).sum(axis=0) / np.maximum(whole, 1.0)
    observed = (count * (mean - center) ** 2).sum(axis=(0, 1))
    groups = np.maximum((count > 0.0).sum(axis=0) - 1.0, 0.0).sum(axis=0)
    scale = (whole - (count**2).sum(axis=0) / np.maximum(whole, 1.0)).sum(axis=0)
    return _moment(observed - groups * variance, scale, groups, stated=stated, weight=weight)


def _between_tasks(
    count: FloatArray, mean: FloatArray, *, noise: FloatArray, stated: FloatArray, weight: float
) -> FloatArray:
    """Variance between the task classes of an arm, shape (A,)."""
    whole = count.sum(axis=0)
    center = (count * mean).sum(axis=0) / np.maximum(whole, 1.0)
    observed = (count * (mean - center) ** 2).sum(axis=0)
    expected = (count * noise * (1.0 - count / np.maximum(whole, 1.0))).sum(axis=0)
    groups = np.maximum((count > 0.0).sum(axis=0) - 1.0, 0.0)
    scale = whole - (count**2).sum(axis=0) / np.maximum(whole, 1.0)
    return _moment(observed - expected, scale, groups, stated=stated, weight=weight)


def _moment(
    excess: FloatArray,
    scale: FloatArray,
    groups: FloatArray,
    *,
    stated: FloatArray,
    weight: float,
) -> FloatArray:
    """Moment estimate ``excess / scale`` of a spread, averaged with the stated one by groups.

    It stays above a twentieth of the stated spread: groups that look equal may yet differ.
    """
    found = np.maximum(excess, 0.0) / np.maximum(scale, _TINY)
    found = np.where(scale > 0.0, found, 0.0)
    mixed = (groups * found + weight * stated) / (groups + weight)
    return np.maximum(mixed, 0.05 * stated)


def _combine(
    mean: FloatArray, *, noise: FloatArray, parent: FloatArray, spread: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Posterior mean and variance of a group from its own mean and its parent's."""
    trust = spread / np.where(np.isinf(noise), np.inf, np.maximum(spread + noise, _TINY))
    return parent + trust * (mean - parent), (1.0 - trust) * spread
