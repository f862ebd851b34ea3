"""The default policy: an optimistic linear programme, re-solved in every slot on what is left."""

from dataclasses import dataclass, replace

import numpy as np

from coordinator.policy.base import (
    MONEY_ROW,
    BoolArray,
    Constraints,
    Estimates,
    FloatArray,
    Forecast,
    IntArray,
    Plan,
    Remaining,
    check_inputs,
    pick_best,
)
from coordinator.policy.exploration import (
    affordable_floors,
    cap_spend,
    cap_unexplored,
    floors_and_reserve,
)
from coordinator.policy.fluid import FluidSolution, priced_score, solve_fluid_lp
from coordinator.policy.remaining_rows import RowsLeft, rows_left
from coordinator.policy.residency import class_values, plan_residency

_BANK = "explore_bank"
_REFILLS = 20.0


@dataclass(frozen=True, kw_only=True)
class LpUcb:
    """Optimistic LP on the remaining budget, the remaining SLA debt and the demand to come.

    Rewards and credits enter at their upper bounds, costs at their lower bounds. Re-solving on
    what is really left corrects in the next slot what optimism got wrong in this one.

    Parameters
    ----------
    explore_requests : int
        An arm with fewer booked outcomes than this in a context is unexplored there; one slot
        sends an arm at most ``max(explore_requests, outcomes booked)`` requests of a context.
    band : float
        Arms that lose less than this much reward per request, at mean estimates and the plan's
        prices, carry the full propensity floor.
    floor_loss : float
        Share of the objective that the floors of all other arms may cost together.
    resident_margin : float
        Share of a device class's value by which another resident model must win.

    Notes
    -----
    Source: policy.md of the design; the re-solving idea is that of Flajolet and Jaillet (2015).
    See README.md in this package for the exploration rules and what they guarantee.
    """

    explore_requests: int = 8
    band: float = 0.01
    floor_loss: float = 0.0005
    resident_margin: float = 0.02

    @property
    def name(self) -> str:
        """The registered name."""
        return "lp_ucb"

    def plan(
        self,
        estimates: Estimates,
        *,
        constraints: Constraints,
        forecast: Forecast,
        remaining: Remaining,
        rng: np.random.Generator,
    ) -> Plan:
        """Return the plan of the slot about to start; ``rng`` is not used.

        Returns
        -------
        Plan
            Within the remaining packing budgets at ``lower`` costs and forecast means. A context
            with a free arm is always fully served.

        Raises
        ------
        ValueError
            When shapes disagree or an input is not finite.
        """
        check_inputs(estimates, constraints=constraints, forecast=forecast, remaining=remaining)
        slot = _Slot(
            policy=self,
            estimates=estimates,
            constraints=constraints,
            rows=rows_left(
                estimates, constraints=constraints, forecast=forecast, remaining=remaining
            ),
            lower=tuple(row.lower for row in estimates.packing),
            hits=tuple(row.upper for row in estimates.covering),
        )
        last = remaining.last
        allowed, solution, resident = slot.solve(None if last is None else last.resident)
        next_slot = np.maximum(forecast.next_slot, 0.0)
        bank = _bank(constraints, remaining=remaining)
        weights, spent = slot.weights(solution, allowed=allowed, next_slot=next_slot, bank=bank)
        return Plan(
            weights=weights,
            packing_dual=solution.packing_dual,
            covering_dual=solution.covering_dual,
            slack=solution.slack + slot.rows.dropped,
            objective=solution.objective,
            resident=resident,
            capacity_dual=solution.capacity_dual if constraints.capacity is not None else None,
            state={_BANK: np.array([bank - spent])},
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Slot:
    """One slot's inputs, and the steps from them to weights."""

    policy: LpUcb
    estimates: Estimates
    constraints: Constraints
    rows: RowsLeft
    lower: tuple[FloatArray, ...]
    hits: tuple[FloatArray, ...]

    def solve(self, last: IntArray | None) -> tuple[BoolArray, FluidSolution, IntArray | None]:
        """Return the arms that may serve, the optimum, and what is to be resident."""
        feasible, capacity = self.estimates.feasible, self.constraints.capacity
        if capacity is None:
            return feasible, self._solve(feasible, None), None
        classes = capacity.per_slot_s.size
        if all(len(choices) <= 1 for choices in capacity.resident_choices) and not any(
            len(choices) for choices in capacity.resident_choices
        ):
            return feasible, self._solve(feasible, None), np.full(classes, -1, dtype=np.int64)
        found = plan_residency(
            capacity,
            solve=lambda allowed, loading: self._solve(feasible & allowed, loading),
            value=self._values,
            last=last,
            margin=self.policy.resident_margin,
        )
        return feasible & found.allowed, found.solution, found.chosen

    def _floors(self, feasible: BoolArray) -> tuple[FloatArray, FloatArray]:
        return floors_and_reserve(
            self.estimates,
            feasible=feasible,
            epsilon_ppm=self.constraints.epsilon_ppm,
            explore_share=self.constraints.explore_share,
            demand=self.rows.demand,
            packing=self.rows.packing,
        )

    def _solve(self, feasible: BoolArray, loading: FloatArray | None) -> FluidSolution:
        """The optimum of what is left once the floors are paid."""
        rows = self.rows
        floors, reserve = self._floors(feasible)
        capacity = rows.capacity
        if capacity is not None:
            limit = capacity.limit - capacity.total(floors, demand=rows.demand)
            limit = limit if loading is None else limit - loading
            capacity = replace(capacity, limit=np.maximum(limit, 0.0))
        return solve_fluid_lp(
            rows.demand,
            reward=self.estimates.reward.upper,
            packing=self.lower,
            budget=rows.packing - reserve,
            hits=self.hits,
            floor=rows.share,
            rho=self.constraints.rho,
            feasible=feasible,
            capacity=capacity,
        )

    def _values(self, allowed: BoolArray, solution: FluidSolution) -> FloatArray:
        capacity = self.rows.capacity
        if capacity is None:
            raise ValueError("there are no device classes without a capacity")
        return class_values(
            self.estimates.feasible & allowed,
            solution,
            demand=self.rows.demand,
            reward=self.estimates.reward.upper,
            packing=self.lower,
            hits=self.hits,
            capacity=capacity,
        )

    def weights(
        self,
        solution: FluidSolution,
        *,
        allowed: BoolArray,
        next_slot: FloatArray,
        bank: float,
    ) -> tuple[FloatArray, float]:
        """Return the weights with floors and caps, and the slot's spend on exploration."""
        estimates, demand = self.estimates, self.rows.demand
        score = priced_score(
            estimates.reward.mean,
            packing=tuple(row.mean for row in estimates.packing),
            hits=tuple(row.mean for row in estimates.covering),
            packing_dual=solution.packing_dual,
            covering_dual=solution.covering_dual,
            capacity=self.rows.capacity,
            capacity_dual=solution.capacity_dual,
        )
        best = np.where(allowed, score, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
        gap = np.where(allowed, best - score, 0.0)
        floors = affordable_floors(
            self._floors(allowed)[0],
            gap=gap,
            demand=demand,
            band=self.policy.band,
            loss_max=self.policy.floor_loss * abs(solution.objective),
        )
        weights = floors + solution.weights * (1.0 - floors.sum(axis=1, keepdims=True))
        weights = self._serve_free(weights, solution=solution, allowed=allowed)
        weights = cap_unexplored(
            weights,
            estimates=estimates,
            feasible=allowed,
            next_slot=next_slot,
            explore_requests=self.policy.explore_requests,
        )
        return cap_spend(
            weights,
            estimates=estimates,
            feasible=allowed,
            gap=gap,
            next_slot=next_slot,
            explore_requests=self.policy.explore_requests,
            allowance=bank,
        )

    def _serve_free(
        self, weights: FloatArray, *, solution: FluidSolution, allowed: BoolArray
    ) -> FloatArray:
        """Give mass that the programme left unserved to the best arm that costs no money.

        Other rows are planned, not enforced: an answer is worth more than their balance.
        """
        missing = np.maximum(1.0 - weights.sum(axis=1, keepdims=True), 0.0)
        if not missing.any():
            return weights
        score = priced_score(
            self.estimates.reward.upper,
            packing=self.lower,
            hits=self.hits,
            packing_dual=solution.packing_dual,
            covering_dual=solution.covering_dual,
            capacity=self.rows.capacity,
            capacity_dual=solution.capacity_dual,
        )
        filled: FloatArray = weights + missing * pick_best(
            score, allowed=self.estimates.free & allowed
        )
        return filled


def _bank(constraints: Constraints, *, remaining: Remaining) -> float:
    """Money that may be spent on exploration now.

    ``explore_share`` of what is left, at most; what was spent comes back over a twentieth of the
    window, so that exploration is short of money when much is unknown, but never for long.
    """
    full = constraints.explore_share * max(float(remaining.packing[MONEY_ROW]), 0.0)
    last = remaining.last
    if last is None or _BANK not in last.state:
        return full
    refill = full * _REFILLS / max(remaining.slots_total, 1)
    return min(full, float(last.state[_BANK][0]) + refill)
