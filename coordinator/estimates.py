"""Running statistics of every arm, and the estimates that a plan is made from.

Counting is O(1) per outcome in plain Python numbers; pooling runs when a slot is planned. Only
the finest level is stored, (device class, task class, arm): the coarser two are its sums, so they
cannot disagree with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from coordinator.policy.base import BoolArray, Estimates, FloatArray, IntArray
from coordinator.policy.bounds import (
    SUM_NAMES,
    ArmPrior,
    BoundsMaker,
    Confidence,
    Grid,
    paper_bounds,
    paper_radius,
)
from coordinator.policy.sketch import blend, bucket_of, dense, prior_histogram, quantiles

__all__ = ["ArmPrior", "Confidence", "Context", "EstimateBook", "paper_radius"]

Context = tuple[str, str]
"""Device class and task class."""

_LATENCY_POOL_WORTH = 10.0


class _Cell:
    """Sums of one (device class, task class, arm)."""

    __slots__ = (
        "booked",
        "cost",
        "cost_squared",
        "graded",
        "hits",
        "latency",
        "reward",
        "reward_squared",
        "timed",
    )

    def __init__(self) -> None:
        self.booked = 0
        self.cost = 0
        self.cost_squared = 0
        self.timed = 0
        self.hits = 0
        self.graded = 0
        self.reward = 0.0
        self.reward_squared = 0.0
        self.latency: dict[int, int] = {}


class EstimateBook:
    """Statistics per (device class, task class, arm), pooled at three levels when read.

    Parameters
    ----------
    confidence : Confidence, optional
        Width of the bounds.

    Examples
    --------
    >>> book = EstimateBook()
    >>> book.set_prior("small", prior=ArmPrior(cost_nanos=0.0))
    >>> book.record_outcome("pi", "code", "small", cost_nanos=0, hit=True, latency_ms=900.0)
    >>> book.record_reward("pi", "code", "small", reward=1.0)
    >>> found = book.estimates([("pi", "code")], arms=["small"])
    >>> bool(found.reward.mean[0, 0] > 0.5), int(found.graded[0, 0])
    (True, 1)
    """

    def __init__(self, *, confidence: Confidence | None = None) -> None:
        self._confidence = confidence or Confidence()
        self._cells: dict[tuple[str, str, str], _Cell] = {}
        self._priors: dict[str, ArmPrior] = {}

    def set_prior(self, arm: str, *, prior: ArmPrior) -> None:
        """State what is believed of ``arm``; replaces an earlier prior, keeps the statistics."""
        self._priors[arm] = prior

    def forget(self, arm: str) -> None:
        """Drop everything observed of ``arm``; its prior stays."""
        for key in [key for key in self._cells if key[2] == arm]:
            del self._cells[key]

    def record_outcome(
        self,
        device_class: str,
        task_class: str,
        arm: str,
        *,
        cost_nanos: int,
        hit: bool | None,
        latency_ms: float | None = None,
        answered: bool = True,
    ) -> None:
        """Book one outcome. O(1).

        Parameters
        ----------
        device_class, task_class, arm : str
            Where it belongs.
        cost_nanos : int
            Settled money.
        hit : bool or None
            Answered within the deadline; None when that is not known.
        latency_ms : float or None
            Time to the last token.
        answered : bool
            False for an error or a refusal: it counts as a miss and as a grade of 0, so the
            caller records no reward for it.
        """
        key = (device_class, task_class, arm)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = _Cell()
        cell.booked += 1
        cell.cost += cost_nanos
        cell.cost_squared += cost_nanos * cost_nanos
        if not answered:
            cell.timed += 1
            cell.graded += 1
            return
        if hit is not None:
            cell.timed += 1
            if hit:
                cell.hits += 1
        if latency_ms is not None:
            bucket = bucket_of(latency_ms)
            cell.latency[bucket] = cell.latency.get(bucket, 0) + 1

    def record_reward(self, device_class: str, task_class: str, arm: str, *, reward: float) -> None:
        """Book one grade. O(1).

        Parameters
        ----------
        device_class, task_class, arm : str
            Where it belongs.
        reward : float
            In [0, 1].

        Raises
        ------
        ValueError
            When ``reward`` is out of range.
        """
        if not 0.0 <= reward <= 1.0:
            raise ValueError(f"reward is {reward}, expected 0 to 1")
        key = (device_class, task_class, arm)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = _Cell()
        cell.graded += 1
        cell.reward += reward
        cell.reward_squared += reward * reward

    def estimates(
        self,
        contexts: Sequence[Context],
        *,
        arms: Sequence[str],
        feasible: BoolArray | None = None,
        in_flight: IntArray | None = None,
    ) -> Estimates:
        """Return pooled means and bounds.

        Parameters
        ----------
        contexts : sequence of (device class, task class), length X
        arms : sequence of str, length A
            Each needs a prior.
        feasible : ndarray of bool, shape (X, A), optional
            Default: everything is.
        in_flight : ndarray of int, shape (X, A), optional
            Requests sent whose outcome is not booked. They narrow the bounds, so that outcomes
            and grades that are late do not prolong exploration.

        Returns
        -------
        Estimates
            One packing row (money in nano-dollars) and one covering row (hits).

        Raises
        ------
        ValueError
            When an arm has no prior.
        """
        shape = (len(contexts), len(arms))
        priors = self._priors_of(arms)
        grid = Grid(self._cells, contexts=contexts, arms=arms)
        flying = np.zeros(shape, dtype=np.int64) if in_flight is None else in_flight
        bounds = BoundsMaker(grid, priors=priors, confidence=self._confidence, flying=flying)
        booked = grid.pick(grid.sums["booked"]).astype(np.int64)
        return Estimates(
            feasible=np.ones(shape, dtype=np.bool_) if feasible is None else feasible,
            reward=bounds.reward(),
            packing=(bounds.cost(),),
            covering=(bounds.hits(),),
            sent=booked + flying,
            graded=grid.pick(grid.sums["graded"]).astype(np.int64),
            booked=booked,
        )

    def paper_estimates(
        self,
        contexts: Sequence[Context],
        *,
        arms: Sequence[str],
        delta: float,
        cost_scale: float,
        feasible: BoolArray | None = None,
    ) -> Estimates:
        """Return plain means per context with the paper's radius, for ``copac_ucb``.

        No pooling and no priors: an arm that was never used in a context has a mean of 0 and the
        widest bounds.

        Parameters
        ----------
        contexts, arms, feasible
            As in ``estimates``.
        delta : float
            Failure probability, in (0, 1).
        cost_scale : float
            Nano-dollars that count as a cost of 1, as in the policy.

        Raises
        ------
        ValueError
            When ``delta`` is out of range.
        """
        grid = Grid(self._cells, contexts=contexts, arms=arms)
        sums = {name: grid.pick(values) for name, values in grid.sums.items()}
        shape = (len(contexts), len(arms))
        booked = sums["booked"].astype(np.int64)
        return Estimates(
            feasible=np.ones(shape, dtype=np.bool_) if feasible is None else feasible,
            reward=paper_bounds(sums["reward"], pulls=sums["graded"], delta=delta),
            packing=(paper_bounds(sums["cost"], pulls=booked, delta=delta, scale=cost_scale),),
            covering=(paper_bounds(sums["hits"], pulls=sums["timed"], delta=delta),),
            sent=booked,
            graded=sums["graded"].astype(np.int64),
            booked=booked,
        )

    def latency_quantiles(
        self,
        contexts: Sequence[Context],
        *,
        arms: Sequence[str],
        probabilities: Sequence[float] = (0.5, 0.9, 0.99),
    ) -> FloatArray:
        """Return latency quantiles in ms, shape (X, A, len(probabilities)).

        Each context's histogram is completed by the coarser levels', worth ten observations, and
        those by a lognormal shape around the prior. The buckets are 13 % wide.

        Raises
        ------
        ValueError
            When an arm has no prior.
        """
        priors = self._priors_of(arms)
        result = np.zeros((len(contexts), len(arms), len(probabilities)))
        for column, arm in enumerate(arms):
            prior = prior_histogram(priors[column].latency_ms)
            by_task: dict[str, FloatArray] = {}
            for (_, task_class, name), cell in sorted(self._cells.items()):
                if name == arm:
                    by_task.setdefault(task_class, np.zeros_like(prior))
                    by_task[task_class] += dense(cell.latency)
            overall = sum(by_task.values(), np.zeros_like(prior))
            overall = blend(overall, prior=prior, worth=_LATENCY_POOL_WORTH)
            for row, (device_class, task_class) in enumerate(contexts):
                own = self._cells.get((device_class, task_class, arm))
                task = by_task.get(task_class, np.zeros_like(prior))
                histogram = blend(
                    np.zeros_like(prior) if own is None else dense(own.latency),
                    prior=blend(task, prior=overall, worth=_LATENCY_POOL_WORTH),
                    worth=_LATENCY_POOL_WORTH,
                )
                result[row, column] = quantiles(histogram, probabilities=probabilities)
        return result

    def _priors_of(self, arms: Sequence[str]) -> list[ArmPrior]:
        unknown = [arm for arm in arms if arm not in self._priors]
        if unknown:
            raise ValueError(f"arms without a prior: {unknown}; call set_prior for each")
        return [self._priors[arm] for arm in arms]

    def to_state(self) -> dict[str, Any]:
        """Return everything as JSON-able plain data; ``from_state`` restores it exactly."""
        return {
            "confidence": asdict(self._confidence),
            "priors": {arm: asdict(prior) for arm, prior in sorted(self._priors.items())},
            "cells": [
                [*key, *(getattr(cell, name) for name in SUM_NAMES), sorted(cell.latency.items())]
                for key, cell in sorted(self._cells.items())
            ],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "EstimateBook":
        """Restore a book from ``to_state``'s data, also after a trip through JSON."""
        book = cls(confidence=Confidence(**state["confidence"]))
        for arm, prior in state["priors"].items():
            book.set_prior(arm, prior=ArmPrior(**prior))
        for device_class, task_class, arm, *values, latency in state["cells"]:
            cell = book._cells[(device_class, task_class, arm)] = _Cell()
            for name, value in zip(SUM_NAMES, values, strict=True):
                setattr(cell, name, value)
            cell.latency = {int(bucket): int(count) for bucket, count in latency}
        return book
