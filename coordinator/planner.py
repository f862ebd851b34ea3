"""From booked outcomes to the plan of a slot: demand, estimates, forecast, policy, tables.

Pure and deterministic: two planners that were told the same in the same order plan alike, also
when one of them was restored from a snapshot in between.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from coordinator.capacity import FleetLoad, resident_arms, with_trials
from coordinator.estimates import ArmPrior, EstimateBook
from coordinator.fleet_config import ArmConfig, FleetConfig
from coordinator.forecast import Forecaster, PathModel, make_forecaster
from coordinator.lessons import Lessons
from coordinator.planned import (
    Context,
    PlannedSlot,
    WindowTotals,
    array_of,
    counts_of,
    pairs_of,
    plan_of,
    table_rows,
    without_forced,
)
from coordinator.policy import Constraints, Estimates, Forecast, Remaining, make_policy
from coordinator.policy.base import BoolArray, FloatArray, IntArray
from coordinator.records import Learned
from shared.decision.table import SelectionTable
from shared.decision.types import ArmKind, ArmSpeed

PAPER_DELTA: Final = 0.01
WITHOUT_FORGETTING: Final = frozenset({"copac_ucb", "ad_ucb", "pd_bwk", "sw_ucb"})
"""Policies with a rule of their own for what is old."""


class Planner:
    """Learns from outcomes and plans every slot.

    Parameters
    ----------
    config : FleetConfig
        Contexts, arms, constraints, policy.
    disabled_arms : set of str
        Arms that an operator has closed.
    seed : int
        For policies that draw; every slot has a generator of its own.
    demand_model : PathModel or None
        What the forecaster `onnx` runs, and one more for the chooser.
    """

    def __init__(
        self,
        config: FleetConfig,
        *,
        disabled_arms: frozenset[str] = frozenset(),
        seed: int = 0,
        demand_model: PathModel | None = None,
    ) -> None:
        self._seed = seed
        self._demand_model = demand_model
        self.estimates = EstimateBook()
        self.load = FleetLoad()
        self.totals = WindowTotals()
        self.slot_closed = -1
        self._contexts: list[Context] = []
        self._counts: dict[int, dict[Context, int]] = {}
        self._last_demand: dict[Context, int] = {}
        self._last: PlannedSlot | None = None
        self._forecaster: Forecaster | None = None
        self._config = config
        self.reconfigure(config, disabled_arms=disabled_arms)

    @property
    def planned(self) -> PlannedSlot | None:
        """The latest plan."""
        return self._last

    @property
    def demand_last_slot(self) -> int:
        """Requests of the last closed slot."""
        return sum(self._last_demand.values())

    @property
    def contexts(self) -> tuple[Context, ...]:
        """Every context ever configured, in the order of appearance: the forecaster's series."""
        return tuple(self._contexts)

    def forecaster_of(self, context: Context) -> str:
        """The forecaster in use for a context."""
        chosen = getattr(self._forecaster, "chosen", None)
        if chosen is None:
            return self._config.policy.forecaster
        return str(chosen[self._contexts.index(context)])

    def reconfigure(self, config: FleetConfig, *, disabled_arms: frozenset[str]) -> None:
        """Take over a new configuration; what was learned of arms and contexts stays."""
        old = self._config
        before, self._config = old.policy, config
        same_forecaster = (before.forecaster, before.forecaster_options) == (
            config.policy.forecaster,
            config.policy.forecaster_options,
        )
        self._disabled = disabled_arms
        self._policy = make_policy(config.policy.kind, **self._policy_options(config))
        self.estimates.set_adaptive(config.policy.kind not in WITHOUT_FORGETTING)
        for name, task_class in config.task_classes.items():
            self.estimates.set_deadline(name, deadline_ms=float(task_class.task.deadline_ms))
        for name, arm in config.arms.items():
            if name in old.arms:
                self._follow_price(name, before=old.arms[name], after=arm)
            self.estimates.set_prior(
                name,
                prior=ArmPrior(
                    cost_nanos=float(arm.cost_nanos),
                    latency_ms=arm.latency_ms,
                    reward=arm.reward,
                    reward_count=arm.reward_weight,
                ),
            )
        self._follow_speeds()
        wanted = [
            (d, t) for d in sorted(config.device_classes) for t in sorted(config.task_classes)
        ]
        fresh = [context for context in wanted if context not in self._contexts]
        self._contexts += fresh
        if self._forecaster is None or not same_forecaster:
            prior = np.array([self._demand_prior(context) for context in self._contexts])
            options = dict(config.policy.forecaster_options)
            self._forecaster = make_forecaster(
                config.policy.forecaster, prior=prior, model=self._demand_model, **options
            )
        elif fresh:
            prior = np.array([self._demand_prior(context) for context in fresh])
            self._forecaster.resize(len(self._contexts), prior=prior)
        self._last = None

    def restart_slots(self) -> None:
        """Slots are counted anew, in a new length: the forecaster starts afresh."""
        self.slot_closed = -1
        self._counts = {}
        self._last_demand = {}
        self._forecaster = None

    def begin_window(self) -> None:
        """A new budget window: its totals start at zero, what was learned stays."""
        self.totals = WindowTotals()
        self._last = None

    def learn(self, booked: Iterable[Learned]) -> None:
        """Count and learn from booked records, in order.

        A request counts in the slot in which it arrived, or in the one open now if that is later.
        """
        lessons = Lessons.of(booked)
        for (device_class, task, slot, status, arm, hit, _), requests in lessons.kinds.items():
            self._count((device_class, task), slot=slot, requests=requests)
            self.totals.take(status, arm=arm, hit=hit, requests=requests)
        for (context, slot), requests in lessons.compacted.items():
            self._count(context, slot=slot, requests=requests)
        for arm, cost_nanos in lessons.costs.items():
            self.totals.arms[arm].cost_nanos += cost_nanos
        for arm, reward, weight in lessons.grades:
            self.totals.arms[arm].graded += 1
            self.totals.arms[arm].reward += weight * reward
            self.totals.arms[arm].weight += weight
        self.load.learn(lessons)
        self.estimates.record(lessons.observations, cells=lessons.cells)

    def learn_speeds(
        self, device_id: str, speeds: Iterable[ArmSpeed], *, device_class: str
    ) -> None:
        """Take in how fast a device runs its local arms, as far as it has measured them."""
        self.load.speeds.tell(device_class, device_id, speeds)
        self._follow_speeds()

    def close_slots(self, through: int) -> None:
        """Give the forecaster the counts of every slot up to an absolute index.

        Where more than one is over since the last time, nobody was there to count: those in which
        nothing has arrived are then unknown, not empty.
        """
        if self.slot_closed < 0:
            self.slot_closed = min([through, *(slot - 1 for slot in self._counts)])
        if through <= self.slot_closed:
            return
        watched = through == self.slot_closed + 1
        known = [through] if watched else sorted(s for s in self._counts if s <= through)
        self._last_demand = dict(self._counts.get(through, {}))
        for slot in known:
            counted = self._counts.pop(slot, {})
            counts = np.array([float(counted.get(c, 0)) for c in self._contexts])
            self._require_forecaster().update(slot, counts=counts)
            self.load.slot_closed()
        self.slot_closed = through

    def plan(
        self,
        *,
        slot: int,
        slots_total: int,
        budget_nanos: int,
        left_nanos: int,
        devices_up: Mapping[str, int] | None = None,
    ) -> PlannedSlot:
        """Plan the slot about to start.

        Parameters
        ----------
        slot, slots_total : int
            Index in the window, from 0, and length of the window in slots.
        budget_nanos, left_nanos : int
            The window's budget, and what of it is neither settled nor unconfirmed.
        devices_up : mapping of str to int, optional
            Devices that are alive, per class. A class that is missing, or has none, keeps the
            number that was last heard of: after a restart nobody has called yet.
        """
        self.load.heard_of(devices_up or {})
        config = self._config
        contexts = tuple(
            c
            for c in self._contexts
            if c[0] in config.device_classes and c[1] in config.task_classes
        )
        arms = tuple(sorted(config.arms))
        forecast = self._forecast(contexts, slots_left=slots_total - slot)
        last = self._last
        reusable = last is not None and (last.contexts, last.arms) == (contexts, arms)
        estimates = self._estimates(
            contexts,
            arms=arms,
            flying=self.load.in_flight(last, config=config) if last and reusable else None,
        )
        lost = self.load.reach.lost(estimates.feasible, contexts=contexts, arms=arms)
        if lost.any():
            estimates = replace(estimates, feasible=estimates.feasible & ~lost)
        forced_share = self.load.forced.share(contexts, arms=arms)
        demand = self._of(contexts, self.totals.demand)
        plan = self._policy.plan(
            estimates,
            constraints=Constraints(
                budget=np.array([float(budget_nanos)]),
                floor=np.array([config.sla.floor]),
                rho=np.array([config.sla.rho]),
                slack_max=np.array([config.sla.slack_max]),
                explore_share=config.policy.explore_share,
                epsilon_ppm=config.policy.epsilon_ppm,
                capacity=self.load.capacity(config, contexts=contexts, arms=arms),
            ),
            forecast=without_forced(forecast, forced_share),
            remaining=Remaining(
                packing=np.array([float(max(0, left_nanos))]),
                covering_hits=np.array([float(self.totals.hits)]),
                demand_so_far=demand * (self.totals.admitted / max(1, self.totals.requests)),
                slot=slot,
                slots_left=slots_total - slot,
                slots_total=slots_total,
                last=last.plan if last is not None and reusable else None,
                last_demand=self._of(contexts, self._last_demand),
            ),
            rng=np.random.default_rng([self._seed, self.slot_closed + 1]),
        )
        if lost.any():
            estimates = replace(estimates, feasible=estimates.feasible | lost)
            weights = with_trials(plan.weights, lost=lost, next_slot=forecast.next_slot)
            plan = replace(plan, weights=weights)
        self._last = PlannedSlot(
            slot, slots_total, contexts, arms, estimates, forecast, plan, forced_share
        )
        return self._last

    def table(
        self, device_class: str, *, version: int, config_version: int, unix_ms: int
    ) -> SelectionTable:
        """The latest plan as a device's selection table."""
        planned = self._last
        if planned is None:
            raise ValueError("there is no plan yet")
        return SelectionTable(
            version=version,
            device_class=device_class,
            config_version=config_version,
            created_unix_ms=unix_ms,
            rows=table_rows(planned, device_class=device_class, estimates=self.estimates),
            resident_arms=resident_arms(planned, device_class=device_class, config=self._config),
        )

    def to_payload(self) -> str:
        """Everything learned, as JSON text; `restore` takes it back exactly."""
        last = self._last
        return json.dumps(
            {
                "contexts": self._contexts,
                "estimates": self.estimates.to_state(),
                "forecaster": self._require_forecaster().to_state(),
                "slot_closed": self.slot_closed,
                "counts": [[slot, pairs_of(counts)] for slot, counts in self._counts.items()],
                "last_demand": pairs_of(self._last_demand),
                "totals": self.totals.to_state(),
                "load": self.load.to_state(),
                "plan": None if last is None else last.to_state(),
            }
        )

    def restore(self, payload: str) -> None:
        """Take over what `to_payload` gave, for the same configuration."""
        state = json.loads(payload)
        self._contexts = [(c[0], c[1]) for c in state["contexts"]]
        self.estimates = EstimateBook.from_state(state["estimates"])
        self._forecaster = self._require_forecaster().restored(state["forecaster"])
        self.slot_closed = state["slot_closed"]
        self._counts = {slot: counts_of(pairs) for slot, pairs in state["counts"]}
        self._last_demand = counts_of(state["last_demand"])
        self.totals = WindowTotals.from_state(state["totals"])
        self.load = FleetLoad.from_state(state["load"])
        self._follow_speeds()
        self._last = None
        if state["plan"] is not None:
            self._last = self._planned_again(state["plan"])

    def _planned_again(self, state: Mapping[str, Any]) -> PlannedSlot:
        """The plan of a snapshot; what it was made from follows from the rest of the snapshot."""
        contexts = tuple((c[0], c[1]) for c in state["contexts"])
        arms = tuple(state["arms"])
        return PlannedSlot(
            slot=state["slot"],
            slots_total=state["slots_total"],
            contexts=contexts,
            arms=arms,
            estimates=self._estimates(contexts, arms=arms),
            forecast=self._forecast(contexts, slots_left=state["slots_total"] - state["slot"]),
            plan=plan_of(state["plan"]),
            forced_share=array_of(state["forced_share"]),
        )

    def _follow_speeds(self) -> None:
        """Latencies that were measured stand where the configuration's statements stood."""
        self.estimates.set_latencies(self.load.measured_latencies(self._config))

    def _count(self, context: Context, *, slot: int, requests: int) -> None:
        slot = max(slot, self.slot_closed + 1)
        self._counts.setdefault(slot, defaultdict(int))[context] += requests
        self.totals.demand[context] += requests
        self.totals.requests += requests

    def _follow_price(self, name: str, *, before: ArmConfig, after: ArmConfig) -> None:
        """A change of price is known: what was seen of an arm's cost follows it at once."""
        if before.prices == after.prices:
            return
        old, new = replace(after, arm=before.arm).cost_nanos, after.cost_nanos
        if not old or not new:
            self.estimates.drop_costs(name)
            return
        ratios = {n / o for o, n in zip(before.prices, after.prices, strict=True) if o and n}
        appeared = any(bool(o) != bool(n) for o, n in zip(before.prices, after.prices, strict=True))
        exact = len(ratios) == 1 and not appeared
        self.estimates.reprice(name, factor=ratios.pop() if exact else new / old, exact=exact)

    def _estimates(
        self,
        contexts: tuple[Context, ...],
        *,
        arms: tuple[str, ...],
        flying: IntArray | None = None,
    ) -> Estimates:
        feasible = self._feasible(contexts, arms=arms)
        if self._config.policy.kind != "copac_ucb":
            return self.estimates.estimates(
                contexts, arms=arms, feasible=feasible, in_flight=flying
            )
        return self.estimates.paper_estimates(
            contexts,
            arms=arms,
            delta=PAPER_DELTA,
            cost_scale=_cost_scale(self._config),
            feasible=feasible,
        )

    def _feasible(self, contexts: tuple[Context, ...], *, arms: tuple[str, ...]) -> BoolArray:
        config = self._config
        feasible = np.zeros((len(contexts), len(arms)), dtype=np.bool_)
        for row, (device_class, task_class) in enumerate(contexts):
            private = config.task_classes[task_class].task.privacy_local
            for column, name in enumerate(arms):
                arm = config.arms[name].arm
                feasible[row, column] = (
                    name in config.device_classes[device_class].arms
                    and arm.enabled
                    and arm.chats
                    and name not in self._disabled
                    and not (private and arm.kind is ArmKind.CLOUD)
                )
        return feasible

    def _forecast(self, contexts: tuple[Context, ...], *, slots_left: int) -> Forecast:
        at = [self._contexts.index(context) for context in contexts]
        forecaster = self._require_forecaster()
        rest = forecaster.remaining(slots_left)
        coming = rest if slots_left == 1 else forecaster.remaining(1)
        return Forecast(
            mean=rest.mean[at],
            lower=rest.lower[at],
            upper=rest.upper[at],
            next_slot=coming.mean[at],
            total_window=self._of(contexts, self.totals.demand) + rest.mean[at],
        )

    def _of(self, contexts: tuple[Context, ...], counts: Mapping[Context, int]) -> FloatArray:
        return np.array([float(counts.get(context, 0)) for context in contexts])

    def _demand_prior(self, context: Context) -> float:
        task = self._config.task_classes.get(context[1])
        return task.demand_prior_per_slot if task is not None else 0.0

    def _policy_options(self, config: FleetConfig) -> dict[str, Any]:
        options = dict(config.policy.options)
        if config.policy.kind == "copac_ucb":
            options.setdefault("cost_scale", _cost_scale(config))
        return options

    def _require_forecaster(self) -> Forecaster:
        if self._forecaster is None:
            raise ValueError("the planner has no forecaster yet")
        return self._forecaster


def _cost_scale(config: FleetConfig) -> float:
    """The dearest arm's expected cost: COPAC-UCB wants costs in [0, 1] (paper.md, 1)."""
    return float(max([1, *(arm.cost_nanos for arm in config.arms.values())]))
