"""The sums of one (device class, task class, arm), and the watch over their means.

Counting is O(1) per outcome in plain Python numbers. Every quantity is watched twice: in its cell,
and over all cells of its arm, where what counts is how far an observation lies from its cell's
mean. The second sees a change that hits all contexts at once long before any single one could.
"""

from collections.abc import Iterable, Mapping
from math import log1p
from typing import Any, Final

from coordinator.policy.detector import Stream, alarm_level
from coordinator.policy.sketch import bucket_of

QUANTITIES: Final = ("reward", "hit", "cost")
Key = tuple[str, str, str]
"""Device class, task class, arm."""

Grade = tuple[float, float, float]
"""A reward, what it counts beside a full grade, and the probability with which it was asked for."""

Observation = tuple[int, int | None, bool | None, float | None, Grade | None]
"""What one attempt or grade says: cost in nano-dollars, whether in time, latency in ms, grade.

None where nothing is known of it. First comes the cell that it is of, by its number in a list.
"""

UNANSWERED: Final = (False, None, (0.0, 1.0, 1.0))
"""An error or a refusal counts as a miss and as a grade of 0."""

STATE_NAMES: Final = (
    "booked",
    "costed",
    "cost",
    "cost_squared",
    "timed",
    "hits",
    "graded",
    "weight",
    "weight_squared",
    "weighted",
    "weighted_squared",
)
_SPREAD_MIN = 0.05
"""Variance of a share of 5 %: below it, a few rare events would look like a change."""


class Cell:
    """Sums of one (device class, task class, arm) since its quantities last changed.

    A grade that was asked for with a probability p stands for 1 / p answers (Hansen and Hurwitz,
    1943), so that answers that are graded always and those that are sampled are mixed without
    bias. What such weights are worth together is less than their number (Kish, 1965): `worth` is
    the number of full grades of equal weight that would tell as much.

    Attributes
    ----------
    weight, weight_squared : float
        Sums of w = l / p and of w ** 2 / l, over grades that count l beside a full one.
    weighted, weighted_squared : float
        Sums of w r and of w r ** 2, over rewards r.
    """

    __slots__ = (*STATE_NAMES, "latency", "streams", "watch")

    def __init__(self, watch: "ArmWatch") -> None:
        self.watch = watch
        self.booked = 0
        self.costed = 0
        self.cost: float = 0
        self.cost_squared: float = 0
        self.timed = 0
        self.hits: float = 0
        self.graded = 0.0
        self.weight = 0.0
        self.weight_squared = 0.0
        self.weighted = 0.0
        self.weighted_squared = 0.0
        self.latency: dict[int, int] = {}
        self.streams = {name: Stream() for name in QUANTITIES}

    @property
    def worth(self) -> float:
        """How many full grades of equal weight would tell as much."""
        return self.weight * self.weight / self.weight_squared if self.weight_squared else 0.0

    @property
    def reward(self) -> float:
        """The sum of the rewards of `worth` grades."""
        return self.worth / self.weight * self.weighted if self.weight else 0.0

    @property
    def reward_squared(self) -> float:
        """The sum of their squares."""
        return self.worth / self.weight * self.weighted_squared if self.weight else 0.0

    def grade(self, grade: Grade) -> None:
        """Count a grade."""
        reward, counts, chance = grade
        weight = counts / chance
        self.graded += counts
        self.weight += weight
        self.weight_squared += weight * weight / counts
        self.weighted += weight * reward
        self.weighted_squared += weight * reward * reward

    def restart(self, quantity: str) -> None:
        """Forget what a quantity was; what others know of it is in the coarser levels.

        What came after the change is forgotten too: of all places, the test has picked the one
        where it looks most extreme, so it would mislead for long, above all after a false alarm.
        """
        self.streams[quantity].clear()
        if quantity == "reward":
            self.graded = self.weight = self.weight_squared = 0.0
            self.weighted = self.weighted_squared = 0.0
        elif quantity == "hit":
            self.timed, self.hits = 0, 0
            self.latency = {}
        else:
            self.costed, self.cost, self.cost_squared = 0, 0, 0

    def reprice(self, factor: float, *, worth_max: int | None) -> None:
        """Multiply every cost seen; with ``worth_max`` they count as at most so many."""
        shrink = 1.0
        if worth_max is not None and self.costed > worth_max:
            shrink, self.costed = worth_max / self.costed, worth_max
        self.cost *= factor * shrink
        self.cost_squared *= factor**2 * shrink
        self.streams["cost"].clear()

    def to_state(self) -> list[Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return [
            *(getattr(self, name) for name in STATE_NAMES),
            sorted(self.latency.items()),
            [self.streams[name].to_state() for name in QUANTITIES],
        ]

    @classmethod
    def from_state(cls, state: list[Any], *, watch: "ArmWatch") -> "Cell":
        """Restore a cell from ``to_state``'s data."""
        cell = cls(watch)
        *values, latency, streams = state
        for name, value in zip(STATE_NAMES, values, strict=True):
            setattr(cell, name, value)
        cell.latency = {int(bucket): int(count) for bucket, count in latency}
        for name, stream in zip(QUANTITIES, streams, strict=True):
            cell.streams[name] = Stream.from_state(stream)
        return cell


class ArmWatch:
    """What is watched over all cells of an arm.

    Attributes
    ----------
    alarms : int
        Changes found so far.
    cells : dict of Key to Cell
        Those of the arm; with one only, there is nothing to watch in common.
    """

    def __init__(self) -> None:
        self.alarms = 0
        self.cells: dict[Key, Cell] = {}
        self.streams = {name: Stream() for name in QUANTITIES}

    def take(self, key: Key, cell: Cell) -> None:
        """Watch a cell, the second one and all later ones also in common with the others."""
        self.cells[key] = cell
        if len(self.cells) > 1:
            for each in self.cells.values() if len(self.cells) == 2 else (cell,):
                for name, stream in each.streams.items():
                    stream.common = self.streams[name]

    def to_state(self) -> list[Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return [self.alarms, [self.streams[name].to_state() for name in QUANTITIES]]

    @classmethod
    def from_state(cls, state: list[Any]) -> "ArmWatch":
        """Restore a watch from ``to_state``'s data."""
        watch = cls()
        watch.alarms, streams = state
        for name, stream in zip(QUANTITIES, streams, strict=True):
            watch.streams[name] = Stream.from_state(stream)
        return watch


class CellStore:
    """All cells, their watch, and which of them changed since they were last read.

    Attributes
    ----------
    adaptive : bool
        Watch for changes and restart what has changed; False: nothing is ever forgotten.
    """

    def __init__(self, *, adaptive: bool = True) -> None:
        self.adaptive = adaptive
        self.cells: dict[Key, Cell] = {}
        self.watches: dict[str, ArmWatch] = {}
        self.changed: set[Key] = set()

    def forget(self, arm: str) -> None:
        """Drop everything observed of an arm."""
        for key in [key for key in self.cells if key[2] == arm]:
            del self.cells[key]
        self.watches.pop(arm, None)
        self.changed = {key for key in self.changed if key[2] != arm}

    def observe(
        self,
        observations: Iterable[Observation],
        *,
        keys: Iterable[Key],
        prices: Mapping[str, float],
    ) -> None:
        """Count observations, in order. O(1) each.

        Parameters
        ----------
        keys : iterable of Key
            Of the cells that the observations speak of, in the order of their numbers.
        prices : mapping of arm to float
            What a request is expected to cost, in nano-dollars.
        """
        named, adaptive = list(keys), self.adaptive
        found = [self.cells.get(key) for key in named]
        priced = [prices.get(key[2], 0.0) for key in named]
        for number, cost_nanos, hit, latency_ms, grade in observations:
            cell = found[number]
            if cell is None:
                cell = found[number] = self._new_cell(named[number])
            if cost_nanos is not None:
                cell.booked += 1
                cell.costed += 1
                price = priced[number]
                if cost_nanos or price:
                    cell.cost += cost_nanos
                    cell.cost_squared += cost_nanos * cost_nanos
                    dearness = log1p(cost_nanos / price if price > 1.0 else cost_nanos)
                    if adaptive and cell.streams["cost"].add(dearness):
                        self._test(cell, "cost")
            if hit is not None:
                cell.timed += 1
                cell.hits += hit
                if adaptive and cell.streams["hit"].add(1.0 if hit else 0.0):
                    self._test(cell, "hit")
            if latency_ms is not None:
                bucket, latency = bucket_of(latency_ms), cell.latency
                latency[bucket] = latency.get(bucket, 0) + 1
            if grade is not None:
                cell.grade(grade)
                reward, counts, _ = grade
                is_hint = counts != 1.0  # it says too little to be taken for a change
                if adaptive and not is_hint and cell.streams["reward"].add(reward):
                    self._test(cell, "reward")
        self.changed.update(key for key in named if key in self.cells)

    def _new_cell(self, key: Key) -> Cell:
        watch = self.watches.setdefault(key[2], ArmWatch())
        cell = self.cells[key] = Cell(watch)
        watch.take(key, cell)
        return cell

    def _test(self, cell: Cell, quantity: str) -> None:
        """Act on an alarm, the cell's first."""
        watch = cell.watch
        stream, common = cell.streams[quantity], watch.streams[quantity]
        streams = len(QUANTITIES) * (len(self.cells) + len(self.watches))
        unit = quantity != "cost"
        shared = common.due() and common.changed(
            alarm_level(common.count, streams=streams), spread=_SPREAD_MIN if unit else 0.0
        )
        own = (shared or stream.due()) and stream.changed(
            alarm_level(stream.count, streams=streams), spread=None if unit else 0.0
        )
        if own:
            cell.restart(quantity)
        elif shared:
            for found in watch.cells.values():
                found.restart(quantity)
            self.changed.update(watch.cells)
        if own or shared:
            common.clear()
            watch.alarms += 1

    def reprice(self, arm: str, factor: float, *, worth_max: int | None) -> None:
        """An arm's price has changed by a known factor."""
        for key, cell in self.cells.items():
            if key[2] == arm:
                cell.reprice(factor, worth_max=worth_max)
                self.changed.add(key)
        if arm in self.watches:
            self.watches[arm].streams["cost"].clear()

    def to_state(self) -> dict[str, Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return {
            "adaptive": self.adaptive,
            "cells": [[*key, cell.to_state()] for key, cell in sorted(self.cells.items())],
            "watches": {arm: watch.to_state() for arm, watch in sorted(self.watches.items())},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "CellStore":
        """Restore a store from ``to_state``'s data."""
        store = cls(adaptive=state["adaptive"])
        for arm, values in state["watches"].items():
            store.watches[arm] = ArmWatch.from_state(values)
        for device_class, task_class, arm, values in state["cells"]:
            key, watch = (device_class, task_class, arm), store.watches[arm]
            store.cells[key] = Cell.from_state(values, watch=watch)
            watch.take(key, store.cells[key])
        return store
