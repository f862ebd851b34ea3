"""Which local models each device class keeps loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from coordinator.policy.base import BoolArray, Capacity, FloatArray, IntArray
from coordinator.policy.fluid import CapacityRows, FluidSolution, priced_score, solve_fluid_lp

_ENUMERATE_MAX = 8
_ROUNDS = 3

Solve = Callable[[BoolArray, FloatArray], FluidSolution]
"""From the arms that are resident, shape (X, A), and the worker-seconds that loading takes from
each device class, shape (D,), to the optimum."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Residency:
    """The choice of one slot.

    Parameters
    ----------
    chosen : ndarray of int, shape (D,)
        Row of ``Capacity.resident_choices``; -1 for a class without choices.
    allowed : ndarray of bool, shape (X, A)
        Arms that are paid, or resident in the context's device class.
    solution : FluidSolution
        The optimum with that choice.
    """

    chosen: IntArray
    allowed: BoolArray
    solution: FluidSolution


def resident_arms(capacity: Capacity, chosen: IntArray) -> BoolArray:
    """Arms that may serve each context under a choice, shape (X, A)."""
    by_class = np.ones((capacity.per_slot_s.size, capacity.local.size), dtype=np.bool_)
    for index, choices in enumerate(capacity.resident_choices):
        if chosen[index] >= 0:
            by_class[index] = choices[chosen[index]] | ~capacity.local
    return by_class[capacity.device_class]


def plan_residency(
    capacity: Capacity,
    *,
    solve: Solve,
    value: Callable[[BoolArray, FluidSolution], FloatArray],
    last: IntArray | None,
    margin: float,
) -> Residency:
    """Choose what is resident: few combinations are compared in full, many class by class.

    A choice that differs from the last one loses the worker-seconds of loading, and must still
    win by ``margin`` of what the classes that change are worth.

    Parameters
    ----------
    capacity : Capacity
    solve : callable
        Optimum for a set of resident arms.
    value : callable
        From allowed arms (X, A) and a solution to the value of each class at that solution's
        prices, shape (D,).
    last : ndarray of int, shape (D,), optional
        The choice in force.
    margin : float
        Share of a class's value.
    """
    search = _Search(capacity, solve, value, _in_range(capacity, last), margin)
    sizes = [max(len(choices), 1) for choices in capacity.resident_choices]
    if int(np.prod(sizes, dtype=np.float64)) <= _ENUMERATE_MAX:
        tried = [search.at(np.array(place)) for place in product(*(range(n) for n in sizes))]
        best = max(tried, key=lambda found: found.solution.objective)
        return search.settled(best)
    return search.ascend(sizes)


def _in_range(capacity: Capacity, last: IntArray | None) -> IntArray | None:
    sizes = np.array([len(choices) for choices in capacity.resident_choices])
    if last is None or last.shape != sizes.shape or np.any(last >= sizes):
        return None
    if np.any((last < 0) & (sizes > 0)):
        return None
    return last


@dataclass(frozen=True, eq=False)
class _Search:
    capacity: Capacity
    solve: Solve
    value: Callable[[BoolArray, FluidSolution], FloatArray]
    last: IntArray | None
    margin: float

    def at(self, chosen: IntArray) -> Residency:
        """The optimum of a choice, with its loading paid for."""
        sizes = np.array([len(choices) for choices in self.capacity.resident_choices])
        chosen = np.where(sizes > 0, chosen, -1).astype(np.int64)
        allowed = resident_arms(self.capacity, chosen)
        return Residency(
            chosen=chosen, allowed=allowed, solution=self.solve(allowed, self._loading(chosen))
        )

    def settled(self, best: Residency) -> Residency:
        """The best choice if it beats the last one by the margin, else the last one."""
        if self.last is None or np.array_equal(best.chosen, self.last):
            return best
        current = self.at(self.last)
        worth = self.value(current.allowed, current.solution)
        needed = self.margin * float(np.abs(worth[best.chosen != self.last]).sum())
        gain = best.solution.objective - current.solution.objective
        return best if gain > needed else current

    def ascend(self, sizes: list[int]) -> Residency:
        """Improve every class at the prices of the present choice, as long as that helps."""
        found = self._relaxed(sizes) if self.last is None else self.at(self.last)
        for _ in range(_ROUNDS):
            proposed = self._improved(found.solution, found.chosen, sizes)
            if np.array_equal(proposed, found.chosen):
                break
            better = self.at(proposed)
            if better.solution.objective <= found.solution.objective:
                break
            found = better
        return self.settled(found)

    def _relaxed(self, sizes: list[int]) -> Residency:
        everything = np.ones((self.capacity.device_class.size, self.capacity.local.size), np.bool_)
        relaxed = self.solve(everything, np.zeros(len(sizes)))
        start = np.zeros(len(sizes), dtype=np.int64)
        return self.at(self._improved(relaxed, start, sizes, margin=0.0))

    def _improved(
        self,
        solution: FluidSolution,
        chosen: IntArray,
        sizes: list[int],
        *,
        margin: float | None = None,
    ) -> IntArray:
        margin = self.margin if margin is None else margin
        own = np.maximum(chosen, 0)
        here = self.value(resident_arms(self.capacity, self._shape(own)), solution)
        best, best_value = own.copy(), here + margin * np.abs(here)
        for step in range(1, max(sizes)):
            other = (own + step) % np.array(sizes)
            there = self.value(resident_arms(self.capacity, self._shape(other)), solution)
            wins = (there > best_value) & (other != own)
            best, best_value = np.where(wins, other, best), np.where(wins, there, best_value)
        return self._shape(best)

    def _shape(self, chosen: IntArray) -> IntArray:
        sizes = np.array([len(choices) for choices in self.capacity.resident_choices])
        return np.where(sizes > 0, chosen, -1).astype(np.int64)

    def _loading(self, chosen: IntArray) -> FloatArray:
        """Worker-seconds that each class spends on loading what was not resident."""
        capacity = self.capacity
        seconds = np.zeros(capacity.per_slot_s.size)
        if self.last is None or capacity.load_s is None:
            return seconds
        devices = np.ones_like(seconds) if capacity.devices is None else capacity.devices
        for index in np.flatnonzero((chosen != self.last) & (chosen >= 0) & (self.last >= 0)):
            choices = capacity.resident_choices[index]
            fresh = choices[chosen[index]] & ~choices[self.last[index]] & capacity.local
            seconds[index] = devices[index] * float(capacity.load_s[fresh].sum())
        return seconds


def class_values(
    allowed: BoolArray,
    solution: FluidSolution,
    *,
    demand: FloatArray,
    reward: FloatArray,
    packing: tuple[FloatArray, ...],
    hits: tuple[FloatArray, ...],
    capacity: CapacityRows,
) -> FloatArray:
    """What each device class is worth with these arms, at a solution's prices, shape (D,).

    With the prices of money and deadlines given, classes do not touch each other: all are solved
    in one programme that has capacity rows only.
    """
    score = priced_score(
        reward,
        packing=packing,
        hits=hits,
        packing_dual=solution.packing_dual,
        covering_dual=solution.covering_dual,
    )
    apart = solve_fluid_lp(
        demand,
        reward=score,
        packing=(np.zeros_like(score),),
        budget=np.ones(1),
        hits=(),
        floor=np.zeros(0),
        rho=np.zeros(0),
        feasible=allowed & (score > 0.0),
        capacity=capacity,
    )
    gain = demand * (apart.weights * score).sum(axis=1)
    return np.bincount(capacity.block, gain, minlength=capacity.limit.size).astype(np.float64)
