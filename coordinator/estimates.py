"""Running statistics of every arm, and the estimates that a plan is made from.

Counting is O(1) per outcome; pooling runs when a slot is planned. Only
the finest level is stored, (device class, task class, arm): the coarser two are its sums, so they
cannot disagree with it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.policy.base import BoolArray, Estimates, FloatArray, IntArray
from coordinator.policy.bounds import (
    UNGRADED_AFTER,
    ArmPrior,
    Confidence,
    Grid,
    PriorArrays,
    make_bounds,
    paper_bounds,
    paper_radius,
)
from coordinator.policy.cells import UNANSWERED, Cell, CellStore, Key, Observation
from coordinator.policy.sketch import BUCKETS, blend, dense, prior_histogram, quantiles

__all__ = ["ArmPrior", "Confidence", "Context", "EstimateBook", "paper_radius"]

Context = tuple[str, str]
"""Device class and task class."""

_LATENCY_POOL_WORTH = 10.0


class EstimateBook:
    """Statistics per (device class, task class, arm), pooled at three levels when read.

    Parameters
    ----------
    confidence : Confidence, optional
        Width of the bounds.
    adaptive : bool
        Watch for changes and restart the estimates of what has changed. False: nothing is ever
        forgotten, as the paper's rule and its relatives have it.

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

    def __init__(self, *, confidence: Confidence | None = None, adaptive: bool = True) -> None:
        self._confidence = confidence or Confidence()
        self._store = CellStore(adaptive=adaptive)
        self._priors: dict[str, ArmPrior] = {}
        self._prices: dict[str, float] = {}
        self._deadlines: dict[str, float] = {}
        self._latencies: dict[tuple[str, str], float] = {}
        self._cached: _Cached | None = None

    def set_prior(self, arm: str, *, prior: ArmPrior) -> None:
        """State what is believed of ``arm``; replaces an earlier prior, keeps the statistics."""
        if self._priors.get(arm) != prior:
            self._priors[arm] = prior
            self._prices[arm] = prior.cost_nanos
            self._cached = None

    def set_adaptive(self, adaptive: bool) -> None:
        """Watch for changes from now on, or stop doing so."""
        self._store.adaptive = adaptive

    def set_deadline(self, task_class: str, *, deadline_ms: float) -> None:
        """State a task class's deadline: with an arm's stated latency it gives a first hit rate."""
        if self._deadlines.get(task_class) != deadline_ms:
            self._deadlines[task_class] = float(deadline_ms)
            self._cached = None

    def set_latencies(self, latencies: Mapping[tuple[str, str], float]) -> None:
        """State what was measured, in ms by (device class, arm): it goes over the priors'."""
        if self._latencies != latencies:
            self._latencies = dict(latencies)
            self._cached = None

    def deadline_ms(self, task_class: str) -> float | None:
        """A task class's stated deadline."""
        return self._deadlines.get(task_class)

    def reprice(self, arm: str, *, factor: float, exact: bool = True) -> None:
        """Take over a known change of price: what requests would have cost at the new one.

        Parameters
        ----------
        arm : str
        factor : float
            New price over old price, more than 0.
        exact : bool
            False where the factor depends on the mix of tokens: the costs seen then count as
            little as the stated cost does.

        Raises
        ------
        ValueError
            When ``factor`` is not a positive number.
        """
        if not 0.0 < factor < math.inf:
            raise ValueError(f"factor is {factor}, expected more than 0; or drop_costs")
        worth = None if exact else round(self._priors[arm].cost_count)
        self._store.reprice(arm, factor, worth_max=worth)

    def drop_costs(self, arm: str) -> None:
        """Forget what ``arm`` cost: its price has nothing to do with what it was."""
        self._store.reprice(arm, 1.0, worth_max=0)

    def forget(self, arm: str) -> None:
        """Drop everything observed of ``arm``; its prior stays."""
        self._store.forget(arm)
        self._cached = None

    def alarms(self, arm: str) -> int:
        """How many changes of ``arm`` were found and acted upon."""
        watch = self._store.watches.get(arm)
        return 0 if watch is None else watch.alarms

    def ungraded(self, arm: str) -> bool:
        """Whether ``arm`` has answered 200 requests or more and nobody graded one."""
        cells = [cell for key, cell in self._store.cells.items() if key[2] == arm]
        return sum(cell.booked for cell in cells) >= UNGRADED_AFTER and not any(
            cell.graded for cell in cells
        )

    def record(self, observations: Iterable[Observation], *, cells: Iterable[Key]) -> None:
        """Book what attempts and grades say, in order. O(1) each.

        Parameters
        ----------
        cells : iterable of (device class, task class, arm)
            Those that the observations are of, in the order of their numbers.
        """
        self._store.observe(observations, keys=cells, prices=self._prices)

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
        said = (hit, latency_ms, None) if answered else UNANSWERED
        self.record([(0, cost_nanos, *said)], cells=[(device_class, task_class, arm)])

    def record_reward(
        self,
        device_class: str,
        task_class: str,
        arm: str,
        *,
        reward: float,
        weight: float = 1.0,
        chance: float = 1.0,
    ) -> None:
        """Book one grade. O(1).

        Parameters
        ----------
        device_class, task_class, arm : str
            Where it belongs.
        reward : float
            In [0, 1].
        weight : float
            What it counts beside a full grade, in (0, 1].
        chance : float
            The probability with which it was asked for, in (0, 1].

        Raises
        ------
        ValueError
            When a value is out of range.
        """
        if not 0.0 <= reward <= 1.0:
            raise ValueError(f"reward is {reward}, expected 0 to 1")
        for name, value in (("weight", weight), ("chance", chance)):
            if not 0.0 < value <= 1.0:
                raise ValueError(f"{name} is {value}, expected more than 0 and at most 1")
        grade = (reward, weight, chance)
        self.record([(0, None, None, None, grade)], cells=[(device_class, task_class, arm)])

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
        cached = self._cached_for(tuple(contexts), arms=tuple(arms))
        grid = cached.grid
        flying = cached.nothing if in_flight is None else grid.spread(in_flight.astype(np.float64))
        reward, hits, cost = make_bounds(
            grid, arrays=cached.arrays, confidence=self._confidence, flying=flying
        )
        booked = grid.pick(grid.sums["booked"]).astype(np.int64)
        return Estimates(
            feasible=np.ones(shape, dtype=np.bool_) if feasible is None else feasible,
            reward=reward,
            packing=(cost,),
            covering=(hits,),
            sent=booked if in_flight is None else booked + in_flight,
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
        grid = Grid(self._store.cells, contexts=contexts, arms=arms)
        sums = {name: grid.pick(values) for name, values in grid.sums.items()}
        shape = (len(contexts), len(arms))
        booked = sums["booked"].astype(np.int64)
        return Estimates(
            feasible=np.ones(shape, dtype=np.bool_) if feasible is None else feasible,
            reward=paper_bounds(sums["reward"], pulls=sums["worth"], delta=delta),
            packing=(
                paper_bounds(sums["cost"], pulls=sums["costed"], delta=delta, scale=cost_scale),
            ),
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
        those by a lognormal shape around the prior. Where the latency was measured, the coarser
        levels are those of the device class alone: others may be faster or slower. The buckets are
        13 % wide.

        Raises
        ------
        ValueError
            When an arm has no prior.
        """
        priors = self._priors_of(arms)
        result = np.zeros((len(contexts), len(arms), len(probabilities)))
        for column, arm in enumerate(arms):
            cells = {key[:2]: cell for key, cell in self._store.cells.items() if key[2] == arm}
            everywhere = _Completed(cells, latency_ms=priors[column].latency_ms)
            measured: dict[str, _Completed] = {}
            for row, context in enumerate(contexts):
                device_class = context[0]
                found, latency_ms = everywhere, self._latencies.get((device_class, arm))
                if latency_ms is not None:
                    if device_class not in measured:
                        own = {key: cell for key, cell in cells.items() if key[0] == device_class}
                        measured[device_class] = _Completed(own, latency_ms=latency_ms)
                    found = measured[device_class]
                histogram = found.histogram(context)
                result[row, column] = quantiles(histogram, probabilities=probabilities)
        return result

    def _cached_for(self, contexts: tuple[Context, ...], *, arms: tuple[str, ...]) -> "_Cached":
        """The arrays for these contexts and arms, with every cell that changed read again."""
        store, cached = self._store, self._cached
        if cached is not None and (cached.contexts, cached.arms) == (contexts, arms):
            fits = all(cached.grid.refresh(key, cell=store.cells[key]) for key in store.changed)
            if fits:
                store.changed.clear()
                return cached
        priors = self._priors_of(arms)
        grid = Grid(store.cells, contexts=contexts, arms=arms)
        store.changed.clear()
        self._cached = _Cached(
            contexts=contexts,
            arms=arms,
            grid=grid,
            arrays=PriorArrays.of(
                priors,
                grid=grid,
                deadlines=self._deadlines,
                latencies={
                    (device_class, arms.index(arm)): ms
                    for (device_class, arm), ms in self._latencies.items()
                    if arm in arms
                },
            ),
            nothing=np.zeros(grid.shape),
        )
        return self._cached

    def _priors_of(self, arms: Sequence[str]) -> list[ArmPrior]:
        unknown = [arm for arm in arms if arm not in self._priors]
        if unknown:
            raise ValueError(f"arms without a prior: {unknown}; call set_prior for each")
        return [self._priors[arm] for arm in arms]

    def to_state(self) -> dict[str, Any]:
        """Return everything as JSON-able plain data; ``from_state`` restores it exactly."""
        return {
            "confidence": dict(vars(self._confidence)),
            "priors": {arm: dict(vars(prior)) for arm, prior in sorted(self._priors.items())},
            "deadlines": dict(sorted(self._deadlines.items())),
            **self._store.to_state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "EstimateBook":
        """Restore a book from ``to_state``'s data, also after a trip through JSON."""
        book = cls(confidence=Confidence(**state["confidence"]))
        for arm, prior in state["priors"].items():
            book.set_prior(arm, prior=ArmPrior(**prior))
        book._deadlines = dict(state["deadlines"])
        book._store = CellStore.from_state(state)
        return book


@dataclass(frozen=True, eq=False, kw_only=True)
class _Cached:
    """What stays the same from plan to plan, and the sums that are kept up to date."""

    contexts: tuple[Context, ...]
    arms: tuple[str, ...]
    grid: Grid
    arrays: PriorArrays
    nothing: FloatArray


class _Completed:
    """Latency histograms of one arm, completed by those of the task class, all, and a prior.

    Parameters
    ----------
    cells : mapping
        (Device class, task class) to the cell of the arm.
    latency_ms : float
        What a request takes before any is seen.
    """

    def __init__(self, cells: Mapping[Context, Cell], *, latency_ms: float) -> None:
        self._cells = cells
        self._by_task: dict[str, FloatArray] = {}
        for (_, task_class), cell in sorted(cells.items(), key=lambda item: item[0]):
            known = self._by_task.setdefault(task_class, np.zeros(BUCKETS))
            known += dense(cell.latency)
        overall = sum(self._by_task.values(), np.zeros(BUCKETS))
        prior = prior_histogram(latency_ms)
        self._overall = blend(overall, prior=prior, worth=_LATENCY_POOL_WORTH)

    def histogram(self, context: Context) -> FloatArray:
        """What is known of a context's latency."""
        own = self._cells.get(context)
        task = self._by_task.get(context[1], np.zeros(BUCKETS))
        return blend(
            np.zeros(BUCKETS) if own is None else dense(own.latency),
            prior=blend(task, prior=self._overall, worth=_LATENCY_POOL_WORTH),
            worth=_LATENCY_POOL_WORTH,
        )
