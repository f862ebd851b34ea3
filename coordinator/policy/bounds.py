"""From sums per (device class, task class, arm) to bounds per (context, arm)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import Bounds, FloatArray, IntArray
from coordinator.policy.pooling import Moments, Pooled, PoolPrior, pool_three_levels

UNGRADED_AFTER = 200
"""Answers without a single grade after which an arm is planned by its prior, without a bonus."""

_GRADING_KNOWN_AFTER = 20
_COST_LOWER_SHARE = 0.5
SUM_NAMES = (
    "booked",
    "cost",
    "cost_squared",
    "timed",
    "hits",
    "graded",
    "reward",
    "reward_squared",
)


@dataclass(frozen=True, kw_only=True)
class ArmPrior:
    """What is believed of an arm before its first outcome.

    Parameters
    ----------
    cost_nanos : float
        Expected money per request: price times expected tokens. 0 only for an arm that is free.
    latency_ms : float
        Expected time to the last token.
    reward : float
        Expected reward, in [0, 1].
    reward_count : float
        Number of grades that the stated reward is worth.
    hit : float
        Expected share of requests within their deadline, in [0, 1].
    hit_count : float
        Number of outcomes that the stated share is worth.
    cost_count : float
        Number of outcomes that the stated cost is worth.

    Raises
    ------
    ValueError
        When a value is out of range.
    """

    cost_nanos: float
    latency_ms: float = 1_000.0
    reward: float = 0.5
    reward_count: float = 2.0
    hit: float = 0.8
    hit_count: float = 2.0
    cost_count: float = 8.0

    def __post_init__(self) -> None:
        for name in ("reward", "hit"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        for name in ("latency_ms", "reward_count", "hit_count", "cost_count"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not self.cost_nanos >= 0.0:
            raise ValueError(f"cost_nanos is {self.cost_nanos}, expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How wide the bounds are and how strongly levels are pooled.

    A bound is ``sqrt(2 v L / n) + b L / n`` from the mean (Bernstein's form), where ``v`` is the
    variance of one observation, ``n`` the number of observations that the pooled estimate is
    worth, ``L = level + growth * log(1 + N / n)`` and ``N`` the observations in the context.

    Parameters
    ----------
    level : float
        Constant part of ``L``.
    growth : float
        Weight of the logarithm: what makes an arm that is left aside come back.
    range_weight : float
        ``b``, the weight of the term that guards against a small sample's variance. The pooled
        variance rests on all of an arm's observations, so the default is 0.
    hit_share, cost_share : float
        ``L`` of hits and of costs as a share of the reward's. Both are seen in every outcome and
        err in a way that later slots must make good, so that they need less optimism.
    """

    level: float = 0.5
    growth: float = 0.25
    range_weight: float = 0.0
    hit_share: float = 0.1
    cost_share: float = 0.25


def paper_radius(mean: FloatArray, *, pulls: FloatArray | IntArray, delta: float) -> FloatArray:
    """Return the confidence radius of COPAC-UCB.

    ``sqrt(2 v log(1/delta) / n) + 4 log(1/delta) / n`` (arXiv 2606.17489, the definition of
    ``rad``); an arm that was never pulled has an infinite radius.

    Parameters
    ----------
    mean : ndarray
        Empirical means ``v``, in [0, 1].
    pulls : ndarray of int, same shape
        Pulls ``n``.
    delta : float
        Failure probability, in (0, 1).

    Raises
    ------
    ValueError
        When ``delta`` is out of range.
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta is {delta}, expected more than 0 and less than 1")
    log = math.log(1.0 / delta)
    count = np.maximum(pulls, 1)
    radius = np.sqrt(2.0 * np.maximum(mean, 0.0) * log / count) + 4.0 * log / count
    return np.where(pulls > 0, radius, np.inf)


def paper_bounds(
    total: FloatArray, *, pulls: FloatArray | IntArray, delta: float, scale: float = 1.0
) -> Bounds:
    """Return empirical means with ``paper_radius``, held within [0, scale].

    Parameters
    ----------
    total : ndarray
        Sums of the observations.
    pulls : ndarray, same shape
    delta : float
        Failure probability, in (0, 1).
    scale : float
        Largest possible observation.
    """
    mean = total / np.maximum(pulls, 1)
    radius = scale * paper_radius(mean / scale, pulls=pulls, delta=delta)
    return Bounds(
        mean=mean, lower=np.maximum(mean - radius, 0.0), upper=np.minimum(mean + radius, scale)
    )


class Grid:
    """The cells of some arms as arrays over all device and task classes, shape (D, T, A)."""

    def __init__(
        self,
        cells: Mapping[tuple[str, str, str], object],
        *,
        contexts: Sequence[tuple[str, str]],
        arms: Sequence[str],
    ) -> None:
        arm_at = {arm: index for index, arm in enumerate(arms)}
        known = sorted(key for key in cells if key[2] in arm_at)
        devices = sorted({key[0] for key in known} | {context[0] for context in contexts})
        tasks = sorted({key[1] for key in known} | {context[1] for context in contexts})
        device_at = {name: index for index, name in enumerate(devices)}
        task_at = {name: index for index, name in enumerate(tasks)}
        shape = (len(devices), len(tasks), len(arms))
        self.sums = {name: np.zeros(shape) for name in SUM_NAMES}
        for key in known:
            place = (device_at[key[0]], task_at[key[1]], arm_at[key[2]])
            for name in SUM_NAMES:
                self.sums[name][place] = getattr(cells[key], name)
        self._device = np.array([device_at[context[0]] for context in contexts], dtype=np.intp)
        self._task = np.array([task_at[context[1]] for context in contexts], dtype=np.intp)

    def pick(self, array: FloatArray) -> FloatArray:
        """Return the rows of the contexts: (D, T, A) to (X, A)."""
        return array[self._device, self._task]

    def spread(self, array: FloatArray) -> FloatArray:
        """Put rows of contexts in their places: (X, A) to (D, T, A)."""
        result = np.zeros(self.sums["booked"].shape)
        np.add.at(result, (self._device, self._task), array)
        return result


class BoundsMaker:
    """Turns the grid's sums into bounds, one method per quantity."""

    def __init__(
        self,
        grid: Grid,
        *,
        priors: Sequence[ArmPrior],
        confidence: Confidence,
        flying: IntArray,
    ) -> None:
        self._grid = grid
        self._priors = priors
        self._confidence = confidence
        self._flying = grid.spread(flying.astype(np.float64))

    def reward(self) -> Bounds:
        """Bounds of the reward; an arm that nobody grades has its prior and no bonus."""
        sums = self._grid.sums
        booked, graded = sums["booked"], sums["graded"]
        answers, grades = booked.sum(axis=(0, 1)), graded.sum(axis=(0, 1))
        rate = np.where(answers >= _GRADING_KNOWN_AFTER, grades / np.maximum(answers, 1.0), 1.0)
        pending = np.maximum((booked + self._flying) * np.minimum(rate, 1.0) - graded, 0.0)
        mean = self._column("reward")
        pooled = pool_three_levels(
            Moments(count=graded, total=sums["reward"], squares=sums["reward_squared"]),
            prior=PoolPrior(
                mean=mean,
                count=self._column("reward_count"),
                variance=_bernoulli(mean),
                task_spread=np.full_like(mean, 0.04),
                device_spread=np.full_like(mean, 0.005),
            ),
            pending=pending,
        )
        bounds = self._unit_bounds(pooled, share=1.0)
        ungraded = (grades == 0.0) & (answers >= UNGRADED_AFTER)
        return Bounds(
            mean=np.where(ungraded, mean, bounds.mean),
            lower=np.where(ungraded, mean, bounds.lower),
            upper=np.where(ungraded, mean, bounds.upper),
        )

    def hits(self) -> Bounds:
        """Bounds of the share of requests answered within their deadline."""
        sums = self._grid.sums
        mean = self._column("hit")
        pooled = pool_three_levels(
            Moments(count=sums["timed"], total=sums["hits"], squares=sums["hits"]),
            prior=PoolPrior(
                mean=mean,
                count=self._column("hit_count"),
                variance=_bernoulli(mean),
                task_spread=np.full_like(mean, 0.04),
                device_spread=np.full_like(mean, 0.04),
            ),
            pending=self._flying,
        )
        return self._unit_bounds(pooled, share=self._confidence.hit_share)

    def cost(self) -> Bounds:
        """Bounds of the money per request in nano-dollars.

        The prior is a price, so the lower bound never falls below half of the mean: an arm is not
        explored for the hope that it costs nothing.
        """
        sums = self._grid.sums
        stated = self._column("cost_nanos")
        pooled = pool_three_levels(
            Moments(count=sums["booked"], total=sums["cost"], squares=sums["cost_squared"]),
            prior=PoolPrior(
                mean=stated,
                count=self._column("cost_count"),
                variance=(0.5 * stated) ** 2,
                task_spread=(0.3 * stated) ** 2,
                device_spread=(0.1 * stated) ** 2,
            ),
            pending=self._flying,
        )
        mean, radius = self._pick_mean_and_radius(pooled, share=self._confidence.cost_share)
        return Bounds(
            mean=mean,
            lower=np.maximum(mean - radius, _COST_LOWER_SHARE * mean),
            upper=mean + radius,
        )

    def _column(self, name: str) -> FloatArray:
        return np.array([getattr(prior, name) for prior in self._priors], dtype=np.float64)

    def _pick_mean_and_radius(
        self, pooled: Pooled, *, share: float
    ) -> tuple[FloatArray, FloatArray]:
        wide = self._confidence
        worth = np.maximum(pooled.worth, 1e-9)
        total = (self._grid.sums["booked"] + self._flying).sum(axis=2, keepdims=True)
        log = share * (wide.level + wide.growth * np.log1p(total / worth))
        radius = np.sqrt(2.0 * pooled.variance * log / worth) + wide.range_weight * log / worth
        return self._grid.pick(pooled.mean), self._grid.pick(radius)

    def _unit_bounds(self, pooled: Pooled, *, share: float) -> Bounds:
        mean, radius = self._pick_mean_and_radius(pooled, share=share)
        mean = np.clip(mean, 0.0, 1.0)
        return Bounds(
            mean=mean, lower=np.maximum(mean - radius, 0.0), upper=np.minimum(mean + radius, 1.0)
        )


def _bernoulli(mean: FloatArray) -> FloatArray:
    """Variance of a 0/1 observation, not below that of a mean of 0.05."""
    return np.maximum(mean * (1.0 - mean), 0.0475)
