"""Policies played on the paper's workloads, in the paper's setting: one arm serves a whole slot.

A slot is planned, one arm is drawn from the plan's weights before the slot's demand is known, it
serves all tasks of the slot, and their outcomes are seen. The task that would exceed the money
budget is refused, and from then on only the null arm is played.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from coordinator.estimates import ArmPrior, EstimateBook
from coordinator.lab.paper_workload import (
    COST_UNIT_NANOS,
    DemandForecast,
    PaperScenario,
    Workload,
    draw_workload,
    forecast_demand,
)
from coordinator.policy import (
    Bounds,
    Constraints,
    Estimates,
    Forecast,
    Plan,
    Policy,
    Remaining,
    make_policy,
    policy_names,
    solve_fluid_lp,
)
from coordinator.policy.base import BoolArray, FloatArray, idle_plan
from coordinator.policy.bounds import paper_bounds
from shared.errors import ConfigError

CLAIRVOYANT: Final = "clairvoyant"
WITH_FORECAST: Final = frozenset({"copac_ucb", "lp_ucb"})
"""The policies that use a forecast; the others are shown none."""
NULL_ARM: Final = -1

_CONTEXT: Final = ("edge", "task")


@dataclass(frozen=True, eq=False, kw_only=True)
class PaperRun:
    """One policy on one seed.

    Attributes
    ----------
    policy : str
    arm : ndarray of int, shape (T,)
        The arm of each slot, ``NULL_ARM`` for none.
    served : ndarray of int, shape (T,)
        Tasks of each slot that it served.
    reward : ndarray, shape (T,)
        Realised reward of each slot.
    hits : ndarray of int, shape (T,)
        Answers of each slot within the deadline.
    spent_nanos : int
        Money used.
    overrun_nanos : int
        Money beyond the budget.
    halted_at : int
        The slot from which on only the null arm is played; ``T`` if there is none.
    demand_estimate : ndarray, shape (T,)
        The total demand that the policy assumed in each slot; NaN where it assumes none.
    """

    policy: str
    arm: np.ndarray[Any, np.dtype[np.int64]]
    served: np.ndarray[Any, np.dtype[np.int64]]
    reward: FloatArray
    hits: np.ndarray[Any, np.dtype[np.int64]]
    spent_nanos: int
    overrun_nanos: int
    halted_at: int
    demand_estimate: FloatArray


def playable_policies() -> list[str]:
    """Names that ``play`` accepts, the clairvoyant included."""
    return [CLAIRVOYANT, *policy_names()]


def check_policy(name: str) -> None:
    """Refuse a name that ``play`` would not accept.

    Raises
    ------
    ConfigError
        Naming the known ones.
    """
    if name not in playable_policies():
        known = ", ".join(playable_policies())
        raise ConfigError("--policies", f"{name!r} is not a policy; known are {known}")


def play(
    name: str,
    *,
    scenario: PaperScenario,
    seed: int,
    forecast: DemandForecast | None = None,
) -> PaperRun:
    """Play one policy on one seed's workload.

    Parameters
    ----------
    forecast : DemandForecast, optional
        Of the same scenario and seed; only policies in ``WITH_FORECAST`` need one, and it is
        made where it is missing.

    Raises
    ------
    ConfigError
        For an unknown policy.
    """
    check_policy(name)
    workload = draw_workload(scenario, seed=seed)
    learner: _Learner
    policy: Policy
    if name == CLAIRVOYANT:
        policy, learner = _Clairvoyant(), _TrueMeans(scenario)
    elif name == "lp_ucb":
        policy, learner = make_policy(name), _Book(scenario)
    else:
        policy, learner = make_policy(name, **_options(name, scenario)), _SlotMeans(scenario)
    shown = _shown(name, workload=workload, forecast=forecast)
    return _run(name, policy=policy, learner=learner, workload=workload, shown=shown)


class _Learner(Protocol):
    """Turns what was seen into estimates."""

    def estimates(self) -> Estimates:
        """What is known now, for one context."""
        ...

    def learn(self, arm: int, *, success: BoolArray, hit: BoolArray, cost: list[int]) -> None:
        """Take in the tasks of one slot, one entry per task."""
        ...


class _Book:
    """The estimates of production: every task is an outcome and a grade of its own."""

    def __init__(self, scenario: PaperScenario) -> None:
        self._arms = scenario.arm_names
        self._book = EstimateBook()
        for arm, cost in zip(self._arms, scenario.list_cost, strict=True):
            self._book.set_prior(arm, prior=ArmPrior(cost_nanos=float(cost) * COST_UNIT_NANOS))

    def estimates(self) -> Estimates:
        return self._book.estimates([_CONTEXT], arms=self._arms)

    def learn(self, arm: int, *, success: BoolArray, hit: BoolArray, cost: list[int]) -> None:
        device, task = _CONTEXT
        name = self._arms[arm]
        for won, timely, nanos in zip(success.tolist(), hit.tolist(), cost, strict=True):
            self._book.record_outcome(device, task, name, cost_nanos=nanos, hit=timely)
            self._book.record_reward(device, task, name, reward=float(won))


class _SlotMeans:
    """The paper's estimates: a slot with demand is one pull, its observation the tasks' mean."""

    def __init__(self, scenario: PaperScenario) -> None:
        self._delta = scenario.delta
        self._pulls = np.zeros((1, len(scenario.arms)), dtype=np.int64)
        self._sums = np.zeros((3, 1, len(scenario.arms)))
        self._feasible = np.ones(self._pulls.shape, dtype=np.bool_)
        self._found: Estimates | None = None

    def estimates(self) -> Estimates:
        if self._found is None:
            pulls, delta = self._pulls.copy(), self._delta
            reward, hits, cost = self._sums
            self._found = Estimates(
                feasible=self._feasible,
                reward=paper_bounds(reward, pulls=pulls, delta=delta),
                packing=(
                    paper_bounds(cost, pulls=pulls, delta=delta, scale=float(COST_UNIT_NANOS)),
                ),
                covering=(paper_bounds(hits, pulls=pulls, delta=delta),),
                sent=pulls,
                graded=pulls,
            )
        return self._found

    def learn(self, arm: int, *, success: BoolArray, hit: BoolArray, cost: list[int]) -> None:
        self._pulls[0, arm] += 1
        self._sums[:, 0, arm] += success.mean(), hit.mean(), sum(cost) / len(cost)
        self._found = None


class _TrueMeans:
    """Knows everything from the start."""

    def __init__(self, scenario: PaperScenario) -> None:
        def known(values: FloatArray) -> Bounds:
            return Bounds(mean=values[None], lower=values[None], upper=values[None])

        counts = np.zeros((1, len(scenario.arms)), dtype=np.int64)
        self._estimates = Estimates(
            feasible=np.ones(counts.shape, dtype=np.bool_),
            reward=known(scenario.reward),
            packing=(known(scenario.cost * COST_UNIT_NANOS),),
            covering=(known(scenario.hit),),
            sent=counts,
            graded=counts,
        )

    def estimates(self) -> Estimates:
        return self._estimates

    def learn(self, arm: int, *, success: BoolArray, hit: BoolArray, cost: list[int]) -> None:
        """Nothing is left to learn."""


@dataclass(frozen=True, kw_only=True)
class _Clairvoyant:
    """The fluid programme on what is left, with true means and the true demand to come."""

    @property
    def name(self) -> str:
        return CLAIRVOYANT

    def plan(
        self,
        estimates: Estimates,
        *,
        constraints: Constraints,
        forecast: Forecast,
        remaining: Remaining,
        rng: np.random.Generator,
    ) -> Plan:
        demand = float(forecast.mean.sum())
        owed = constraints.floor * (float(remaining.demand_so_far.sum()) + demand)
        best = solve_fluid_lp(
            forecast.mean,
            reward=estimates.reward.mean,
            packing=tuple(row.mean for row in estimates.packing),
            budget=remaining.packing,
            hits=tuple(row.mean for row in estimates.covering),
            floor=(owed - remaining.covering_hits) / max(demand, 1.0),
            rho=constraints.rho,
            feasible=estimates.feasible,
        )
        return idle_plan(estimates, weights=best.weights, objective=best.objective)


def _options(name: str, scenario: PaperScenario) -> dict[str, Any]:
    """Options of a baseline: what its paper lets it know."""
    match name:
        case "copac_ucb":
            demand_max = float(scenario.demand.max)
            return {"cost_scale": float(COST_UNIT_NANOS), "demand_max": demand_max}
        case "pd_bwk":
            return {"cost_scale": float(COST_UNIT_NANOS)}
        case "sw_ucb":
            return {"cost_scale": float(COST_UNIT_NANOS), "delta": scenario.delta}
    return {}


def _shown(name: str, *, workload: Workload, forecast: DemandForecast | None) -> DemandForecast:
    """What a policy is told: the truth, a forecast, or nothing.

    Nothing is ones, of which no choice may depend, and a total of NaN.
    """
    demand = workload.demand.astype(np.float64)
    if name == CLAIRVOYANT:
        rest = demand[::-1].cumsum()[::-1]
        total = np.full_like(rest, demand.sum())
        return DemandForecast(
            rest=rest, rest_lower=rest, rest_upper=rest, coming=demand, total=total
        )
    if name in WITH_FORECAST:
        return forecast or forecast_demand(workload.scenario, seeds=[workload.seed])[0]
    one = np.ones_like(demand)
    return DemandForecast(
        rest=one, rest_lower=one, rest_upper=one, coming=one, total=np.full_like(one, np.nan)
    )


def _run(
    name: str,
    *,
    policy: Policy,
    learner: _Learner,
    workload: Workload,
    shown: DemandForecast,
) -> PaperRun:
    scenario, slots = workload.scenario, workload.demand.size
    budget = workload.budget_nanos
    constraints = Constraints(
        budget=np.array([float(budget)]),
        floor=np.array([scenario.floor]),
        rho=np.array([scenario.rho]),
        slack_max=np.array([scenario.slack_max]),
    )
    rng = np.random.default_rng(0)
    arms = np.full(slots, NULL_ARM, dtype=np.int64)
    served, hits = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
    reward, estimate = np.zeros(slots), np.full(slots, np.nan)
    spent, past, credited, halted_at = 0, 0, 0, slots
    last: Plan | None = None
    demand = workload.demand.tolist()
    for slot in range(slots):
        last = policy.plan(
            learner.estimates(),
            constraints=constraints,
            forecast=_forecast_at(shown, slot=slot),
            remaining=Remaining(
                packing=np.array([float(budget - spent)]),
                covering_hits=np.array([float(credited)]),
                demand_so_far=np.array([float(past)]),
                slot=slot,
                slots_left=slots - slot,
                slots_total=slots,
                last=last,
                last_demand=np.array([float(demand[slot - 1]) if slot else 0.0]),
            ),
            rng=rng,
        )
        total = last.state.get("total_demand")
        estimate[slot] = shown.total[slot] if total is None else float(total[0])
        arm = _drawn(last.weights[0], draw=float(workload.arm_draw[slot]))
        past += demand[slot]
        if arm == NULL_ARM or demand[slot] == 0:
            continue
        costs, fits = _affordable(
            workload.cost_nanos[slot, arm, : demand[slot]].tolist(), left=budget - spent
        )
        if costs:
            success = workload.success[slot, arm, : len(costs)]
            hit = workload.hit[slot, arm, : len(costs)]
            learner.learn(arm, success=success, hit=hit, cost=costs)
            arms[slot], served[slot] = arm, len(costs)
            reward[slot], hits[slot] = success.sum(), hit.sum()
            spent += sum(costs)
            credited += int(hits[slot])
        if not fits:
            halted_at = slot + (1 if costs else 0)
            estimate[slot:] = estimate[slot]
            break
    return PaperRun(
        policy=name,
        arm=arms,
        served=served,
        reward=reward,
        hits=hits,
        spent_nanos=spent,
        overrun_nanos=max(spent - budget, 0),
        halted_at=halted_at,
        demand_estimate=estimate,
    )


def _forecast_at(shown: DemandForecast, *, slot: int) -> Forecast:
    at = slice(slot, slot + 1)
    total = shown.total[at]
    return Forecast(
        mean=shown.rest[at],
        lower=shown.rest_lower[at],
        upper=shown.rest_upper[at],
        next_slot=shown.coming[at],
        total_window=np.where(np.isnan(total), shown.rest[at], total),
    )


def _drawn(weights: FloatArray, *, draw: float) -> int:
    """The arm of a mixture at a uniform draw; what is left of the mass is the null arm."""
    reached = 0.0
    for arm, weight in enumerate(weights.tolist()):
        reached += weight
        if draw < reached:
            return arm
    return NULL_ARM


def _affordable(costs: list[int], *, left: int) -> tuple[list[int], bool]:
    """The tasks served before one would exceed the money left, and whether all were."""
    if sum(costs) <= left:
        return costs, True
    kept: list[int] = []
    for cost in costs:
        if cost > left:
            break
        left -= cost
        kept.append(cost)
    return kept, False
