"""What a slot's planning leaves behind: the plan, the window's totals, the tables' rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from coordinator.estimates import EstimateBook
from coordinator.policy import Estimates, Forecast, Plan
from coordinator.policy.base import FloatArray
from shared.decision.money import PPM
from shared.decision.table import TableArm, TableRow
from shared.decision.types import RequestStatus

Context = tuple[str, str]
"""Device class and task class."""

OK: Final = RequestStatus.OK
ABORTED: Final = RequestStatus.ABORTED
WEIGHT_STEP_PPM: Final = 1_000
REWARD_STEP_PPM: Final = 10_000
COST_STEPS_PER_E: Final = 20.0
LATENCY_MS_MAX: Final = 2**31
LATENCY_KNOWN_AFTER: Final = 20
"""Outcomes of an arm in a context, twice what the pooled latencies are worth."""


@dataclass
class ArmTotals:
    """What an arm did in the present window. Cost in nano-dollars.

    Attributes
    ----------
    reward, weight : float
        Sums over grades; one that was asked for with a probability p stands for 1 / p answers.
    """

    requests: int = 0
    graded: int = 0
    reward: float = 0.0
    weight: float = 0.0
    cost_nanos: int = 0

    @property
    def reward_mean(self) -> float | None:
        """Mean grade; None without any."""
        return self.reward / self.weight if self.weight else None


@dataclass
class WindowTotals:
    """What happened in the present window.

    Attributes
    ----------
    admitted : int
        Every request but those that the client aborted: the SLA's denominator.
    """

    demand: dict[Context, int] = field(default_factory=lambda: defaultdict(int))
    requests: int = 0
    admitted: int = 0
    answered: int = 0
    hits: int = 0
    arms: dict[str, ArmTotals] = field(default_factory=lambda: defaultdict(ArmTotals))

    def take(self, status: RequestStatus, *, arm: str, hit: bool, requests: int) -> None:
        """Count requests that ended alike."""
        if status is not ABORTED:
            self.admitted += requests
            self.hits += requests * hit
        if status is OK:
            self.answered += requests
            self.arms[arm].requests += requests

    @property
    def graded(self) -> int:
        """Answers with a grade."""
        return sum(arm.graded for arm in self.arms.values())

    @property
    def reward_mean(self) -> float | None:
        """Mean grade; None without any."""
        weight = sum(arm.weight for arm in self.arms.values())
        return sum(arm.reward for arm in self.arms.values()) / weight if weight else None

    def to_state(self) -> dict[str, Any]:
        """Plain data; `from_state` restores it exactly."""
        return {
            "demand": pairs_of(self.demand),
            "numbers": [self.requests, self.admitted, self.answered, self.hits],
            "arms": {name: dict(vars(arm)) for name, arm in self.arms.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> WindowTotals:
        """Restore totals from `to_state`'s data."""
        requests, admitted, answered, hits = state["numbers"]
        totals = cls(counts_of(state["demand"]), requests, admitted, answered, hits)
        for name, values in state["arms"].items():
            totals.arms[name] = ArmTotals(**values)
        return totals


@dataclass(frozen=True, eq=False)
class PlannedSlot:
    """A plan with what it was made from. Arrays are over `contexts` and `arms`.

    Attributes
    ----------
    forecast : Forecast
        Of all demand.
    forced_share : ndarray, shape (X, A), or None
        The part of it that is not the policy's to place.
    """

    slot: int
    slots_total: int
    contexts: tuple[Context, ...]
    arms: tuple[str, ...]
    estimates: Estimates
    forecast: Forecast
    plan: Plan
    forced_share: FloatArray | None = None

    def paid_nanos_next_slot(self, device_class: str) -> float:
        """Expected spend of a device class in the coming slot, in nano-dollars."""
        return self._paid_nanos.get(device_class, 0.0)

    @cached_property
    def _paid_nanos(self) -> dict[str, float]:
        """The same for every class, summed once: each request for a lease asks for it."""
        mixture = self.plan.weights
        if self.forced_share is not None:
            placed = 1.0 - self.forced_share.sum(axis=1, keepdims=True)
            mixture = mixture * placed + self.forced_share
        spend = (mixture * self.estimates.packing[0].mean).sum(axis=1) * self.forecast.next_slot
        found: dict[str, float] = defaultdict(float)
        for (device_class, _), nanos in zip(self.contexts, spend.tolist(), strict=True):
            found[device_class] += nanos
        return dict(found)

    def to_state(self) -> dict[str, Any]:
        """Plain data, without the estimates and the forecast."""
        plan = self.plan
        return {
            "slot": self.slot,
            "slots_total": self.slots_total,
            "contexts": self.contexts,
            "arms": self.arms,
            "plan": {
                "weights": plan.weights.tolist(),
                "packing_dual": plan.packing_dual.tolist(),
                "covering_dual": plan.covering_dual.tolist(),
                "slack": plan.slack.tolist(),
                "objective": plan.objective,
                "resident": None if plan.resident is None else plan.resident.tolist(),
                "capacity_dual": _listed(plan.capacity_dual),
                "state": {name: array.tolist() for name, array in plan.state.items()},
            },
            "forced_share": _listed(self.forced_share),
        }


def _listed(array: FloatArray | None) -> object:
    return None if array is None else array.tolist()


def array_of(values: object) -> FloatArray | None:
    """An array from plain data, or None."""
    return None if values is None else np.asarray(values, dtype=np.float64)


def without_forced(forecast: Forecast, share: FloatArray | None) -> Forecast:
    """The demand that the policy may place, and the forced demand beside it."""
    if share is None:
        return forecast
    placed = 1.0 - share.sum(axis=1)
    return Forecast(
        mean=forecast.mean * placed,
        lower=forecast.lower * placed,
        upper=forecast.upper * placed,
        next_slot=forecast.next_slot * placed,
        total_window=forecast.total_window,
        forced=forecast.mean[:, None] * share,
    )


def plan_of(state: Mapping[str, Any]) -> Plan:
    """A policy's plan from plain data."""
    resident = state["resident"]
    return Plan(
        weights=np.asarray(state["weights"], dtype=np.float64),
        packing_dual=np.asarray(state["packing_dual"], dtype=np.float64),
        covering_dual=np.asarray(state["covering_dual"], dtype=np.float64),
        slack=np.asarray(state["slack"], dtype=np.float64),
        objective=state["objective"],
        resident=None if resident is None else np.asarray(resident, dtype=np.int64),
        capacity_dual=array_of(state["capacity_dual"]),
        state={k: np.asarray(v, dtype=np.float64) for k, v in state["state"].items()},
    )


def table_rows(
    planned: PlannedSlot, *, device_class: str, estimates: EstimateBook
) -> tuple[TableRow, ...]:
    """The rows of a device class's selection table.

    Numbers are rounded to what makes a difference for a device, so that a table which decides
    alike is the same table and need not be pushed.
    """
    mine = [i for i, context in enumerate(planned.contexts) if context[0] == device_class]
    contexts = [planned.contexts[index] for index in mine]
    quantiles = estimates.latency_quantiles(contexts, arms=planned.arms)
    deadlines = [estimates.deadline_ms(task_class) for _, task_class in contexts]
    limits = np.array([limit or np.inf for limit in deadlines])
    quantiles[..., 0] = np.minimum(
        quantiles[..., 0], _latency_limits(planned.estimates, rows=mine, deadline_ms=limits)
    )
    return tuple(
        TableRow(
            context[1],
            tuple(
                _table_arm(planned, row=row, column=int(column), quantiles=quantiles[at, column])
                for column in np.flatnonzero(planned.estimates.feasible[row])
            ),
        )
        for at, (row, context) in enumerate(zip(mine, contexts, strict=True))
    )


def _latency_limits(
    estimates: Estimates, *, rows: list[int], deadline_ms: FloatArray
) -> FloatArray:
    """The most that a table may say of an arm's usual latency, shape (rows, A).

    A device passes over an arm whose usual latency is above the deadline, and then nothing more is
    learned of it. So what is borrowed from other contexts must not rule an arm out before it was
    tried, nor may latencies of a crowded hour while half of the answers may well be in time.
    """
    hits, booked = estimates.covering[0].upper[rows], estimates.outcomes[rows]
    limit = np.where(hits > 0.5, deadline_ms[:, None], np.inf)
    return np.where(booked < LATENCY_KNOWN_AFTER, 0.5 * deadline_ms[:, None], limit)


def _table_arm(planned: PlannedSlot, *, row: int, column: int, quantiles: FloatArray) -> TableArm:
    estimates = planned.estimates
    p50, p90, p99 = (min(LATENCY_MS_MAX, round(float(value))) for value in quantiles)
    cost = float(estimates.packing[0].mean[row, column])
    reward = float(estimates.reward.mean[row, column])
    return TableArm(
        arm=planned.arms[column],
        weight_ppm=_down(float(planned.plan.weights[row, column]), step=WEIGHT_STEP_PPM),
        expected_reward_ppm=_down(reward, step=REWARD_STEP_PPM),
        expected_cost_nanos=_rounded(cost),
        latency_p50_ms=p50,
        latency_p90_ms=p90,
        latency_p99_ms=p99,
    )


def _down(share: float, *, step: int) -> int:
    """A share in parts per million, rounded down to a step: rows never exceed a million."""
    return int(share * PPM + 1e-3) // step * step


def _rounded(nanos: float) -> int:
    """A cost to within 5 %."""
    if nanos < 1.0:
        return 0
    return round(float(np.exp(np.round(np.log(nanos) * COST_STEPS_PER_E) / COST_STEPS_PER_E)))


def pairs_of(counts: Mapping[Context, int]) -> list[list[object]]:
    """Counts per context as plain data."""
    return [[list(context), number] for context, number in counts.items()]


def counts_of(pairs: Iterable[Any]) -> dict[Context, int]:
    """Counts per context from plain data."""
    counts: dict[Context, int] = defaultdict(int)
    for context, number in pairs:
        counts[(context[0], context[1])] = number
    return counts
