"""From sums per (device class, task class, arm) to bounds per (context, arm)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from coordinator.policy.base import BoolArray, Bounds, FloatArray, IntArray
from coordinator.policy.pooling import Moments, PoolPrior, pool_three_levels
from coordinator.policy.sketch import PRIOR_SHAPE

UNGRADED_AFTER = 200
"""Answers without a single grade after which an arm is planned by its prior, without a bonus."""

_GRADING_KNOWN_AFTER = 20
_COST_LOWER_SHARE = 0.5
_HIT_UNKNOWN = 0.8
_HIT_DOUBT = 0.02
SUM_NAMES = (
    "booked",
    "costed",
    "cost",
    "cost_squared",
    "timed",
    "hits",
    "graded",
    "worth",
    "reward",
    "reward_squared",
)
_SUMS = attrgetter(*SUM_NAMES)


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
    hit : float or None
        Expected share of requests within their deadline, in [0, 1]. None: it follows from
        ``latency_ms`` and the task class's deadline.
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
    hit: float | None = None
    hit_count: float = 2.0
    cost_count: float = 8.0

    def hit_within(self, deadline_ms: float | None, *, latency_ms: float | None = None) -> float:
        """Expected share of requests within a deadline, a lognormal shape around the latency.

        Parameters
        ----------
        deadline_ms : float or None
            None where the task class's deadline is not known.
        latency_ms : float, optional
            Measured, instead of the one that is stated.
        """
        if self.hit is not None:
            return self.hit
        if deadline_ms is None:
            return _HIT_UNKNOWN
        center = math.log(latency_ms or self.latency_ms) - 0.5 * PRIOR_SHAPE**2
        score = (math.log(max(deadline_ms, 1.0)) - center) / PRIOR_SHAPE
        share = 0.5 * math.erfc(-score / math.sqrt(2.0))
        return min(max(share, _HIT_DOUBT), 1.0 - _HIT_DOUBT)

    def __post_init__(self) -> None:
        for name in ("reward", "hit"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}, expected 0 to 1")
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
    cost_share: float = 0.05


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
    """The cells of some arms as arrays over all device and task classes, shape (D, T, A).

    It is built once for a list of contexts and arms; afterwards only cells that changed are read
    again.
    """

    def __init__(
        self,
        cells: Mapping[tuple[str, str, str], object],
        *,
        contexts: Sequence[tuple[str, str]],
        arms: Sequence[str],
    ) -> None:
        self._arm_at = {arm: index for index, arm in enumerate(arms)}
        known = sorted(key for key in cells if key[2] in self._arm_at)
        self.devices = sorted({key[0] for key in known} | {context[0] for context in contexts})
        self.tasks = sorted({key[1] for key in known} | {context[1] for context in contexts})
        self._device_at = {name: index for index, name in enumerate(self.devices)}
        self._task_at = {name: index for index, name in enumerate(self.tasks)}
        self.shape = (len(self.devices), len(self.tasks), len(arms))
        self._stack = np.zeros((len(SUM_NAMES), *self.shape))
        self.sums = dict(zip(SUM_NAMES, self._stack, strict=True))
        for key in known:
            self.refresh(key, cell=cells[key])
        self._device = np.array([self._device_at[c[0]] for c in contexts], dtype=np.intp)
        self._task = np.array([self._task_at[c[1]] for c in contexts], dtype=np.intp)

    def refresh(self, key: tuple[str, str, str], *, cell: object) -> bool:
        """Take over a cell's sums; False if the grid has no place for it."""
        device, task = self._device_at.get(key[0]), self._task_at.get(key[1])
        arm = self._arm_at.get(key[2])
        if arm is None:
            return True
        if device is None or task is None:
            return False
        self._stack[:, device, task, arm] = _SUMS(cell)
        return True

    def pick(self, array: FloatArray) -> FloatArray:
        """Return the rows of the contexts: (..., D, T, A) to (..., X, A)."""
        return array[..., self._device, self._task, :]

    def spread(self, array: FloatArray) -> FloatArray:
        """Put rows of contexts in their places: (X, A) to (D, T, A)."""
        result = np.zeros(self.shape)
        np.add.at(result, (self._device, self._task), array)
        return result


@dataclass(frozen=True, eq=False, kw_only=True)
class PriorArrays:
    """The priors of some arms as arrays: reward, hits and cost behind each other on the last axis.

    Parameters
    ----------
    offset : ndarray, shape (D, T, 3 A)
        Stated means, or those that follow from measured latencies. Pooling works on what an
        observation is above them.
    prior : PoolPrior
        Arrays of shape (3 A,), with means of 0.
    free : ndarray of bool, shape (A,)
        The stated cost is 0.
    """

    offset: FloatArray
    prior: PoolPrior
    free: BoolArray

    @classmethod
    def of(
        cls,
        priors: Sequence[ArmPrior],
        *,
        grid: Grid,
        deadlines: Mapping[str, float],
        latencies: Mapping[tuple[str, int], float],
    ) -> "PriorArrays":
        """Return the arrays for the arms of a grid.

        Parameters
        ----------
        priors : sequence of ArmPrior, length A
        deadlines : mapping
            Task class to its deadline in ms.
        latencies : mapping
            (Device class, position of the arm) to a measured latency in ms.
        """
        arms = len(priors)
        reward, cost = _column(priors, "reward"), _column(priors, "cost_nanos")
        offset = np.empty((*grid.shape[:2], 3 * arms))
        offset[..., :arms], offset[..., 2 * arms :] = reward, cost
        hit = offset[..., arms : 2 * arms]
        hit[:] = [[p.hit_within(deadlines.get(task)) for p in priors] for task in grid.tasks]
        for (device_class, at), ms in latencies.items():
            if device_class in grid.devices:
                hit[grid.devices.index(device_class), :, at] = [
                    priors[at].hit_within(deadlines.get(task), latency_ms=ms) for task in grid.tasks
                ]
        one = np.ones_like(reward)
        hit_middle = hit.mean(axis=(0, 1))
        return cls(
            offset=offset,
            prior=PoolPrior(
                mean=np.zeros(3 * arms),
                count=np.concatenate(
                    [_column(priors, f"{name}_count") for name in ("reward", "hit", "cost")]
                ),
                variance=np.concatenate(
                    [_bernoulli(reward), _bernoulli(hit_middle), (0.5 * cost) ** 2]
                ),
                task_spread=np.concatenate([0.04 * one, 0.04 * one, (0.3 * cost) ** 2]),
                device_spread=np.concatenate([0.005 * one, 0.04 * one, (0.1 * cost) ** 2]),
            ),
            free=cost <= 0.0,
        )


def make_bounds(
    grid: Grid, *, arrays: PriorArrays, confidence: Confidence, flying: FloatArray
) -> tuple[Bounds, Bounds, Bounds]:
    """Return the bounds of reward, hits and cost, each of shape (X, A).

    An arm that nobody grades has its stated reward and no bonus. The stated cost is a price, so
    the lower bound of a cost never falls below half of the mean: an arm is not explored for the
    hope that it costs nothing.

    Parameters
    ----------
    grid : Grid
    arrays : PriorArrays
        For the grid's task classes and arms.
    confidence : Confidence
    flying : ndarray, shape (D, T, A)
        Requests whose outcome is not booked.
    """
    sums, arms = grid.sums, grid.shape[2]
    booked, graded = sums["booked"], sums["graded"]
    answers, grades = booked.sum(axis=(0, 1)), graded.sum(axis=(0, 1))
    rate = np.where(answers >= _GRADING_KNOWN_AFTER, grades / np.maximum(answers, 1.0), 1.0)
    ungraded_yet = (booked + flying) * np.minimum(rate, 1.0) - graded
    count = np.concatenate([sums["worth"], sums["timed"], sums["costed"]], axis=2)
    raw = np.concatenate([sums["reward"], sums["hits"], sums["cost"]], axis=2)
    squares = np.concatenate([sums["reward_squared"], sums["hits"], sums["cost_squared"]], axis=2)
    offset = arrays.offset
    pooled = pool_three_levels(
        Moments(
            count=count,
            total=raw - count * offset,
            squares=squares - 2.0 * offset * raw + count * offset**2,
        ),
        prior=arrays.prior,
        pending=np.concatenate([np.maximum(ungraded_yet, 0.0), flying, flying], axis=2),
    )
    worth = np.maximum(pooled.worth, 1e-9)
    total = (booked + flying).sum(axis=2, keepdims=True)
    share = np.repeat([1.0, confidence.hit_share, confidence.cost_share], arms)
    log = share * (confidence.level + confidence.growth * np.log1p(total / worth))
    scale = np.concatenate([np.ones(2 * arms), arrays.prior.variance[2 * arms :] ** 0.5 * 2.0])
    radius = (
        np.sqrt(2.0 * pooled.variance * log / worth) + confidence.range_weight * scale * log / worth
    )
    mean, radius = grid.pick(pooled.mean + offset), grid.pick(radius)
    ungraded = (grades == 0.0) & (answers >= UNGRADED_AFTER)
    stated = grid.pick(offset)[:, :arms]
    reward = np.where(ungraded, stated, mean[:, :arms])
    return (
        _unit_bounds(reward, np.where(ungraded, 0.0, radius[:, :arms])),
        _unit_bounds(mean[:, arms : 2 * arms], radius[:, arms : 2 * arms]),
        _cost_bounds(mean[:, 2 * arms :], radius[:, 2 * arms :]),
    )


def _unit_bounds(mean: FloatArray, radius: FloatArray) -> Bounds:
    mean = np.minimum(np.maximum(mean, 0.0), 1.0)
    return Bounds(
        mean=mean, lower=np.maximum(mean - radius, 0.0), upper=np.minimum(mean + radius, 1.0)
    )


def _cost_bounds(mean: FloatArray, radius: FloatArray) -> Bounds:
    mean = np.maximum(mean, 0.0)
    return Bounds(
        mean=mean,
        lower=np.maximum(mean - radius, _COST_LOWER_SHARE * mean),
        upper=mean + radius,
    )


def _column(priors: Sequence[ArmPrior], name: str) -> FloatArray:
    return np.array([getattr(prior, name) for prior in priors], dtype=np.float64)


def _bernoulli(mean: FloatArray) -> FloatArray:
    """Variance of a 0/1 observation, not below that of a mean of 0.05."""
    return np.maximum(mean * (1.0 - mean), 0.0475)
