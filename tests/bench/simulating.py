"""Whole fleets against the clairvoyant: the shipped scenarios, warm and cold, and their changes."""

from __future__ import annotations

import os
from functools import cache
from typing import Final

from coordinator.lab.output import run_jobs
from coordinator.lab.simulation.report import Figures, judge
from coordinator.lab.simulation.schema import load_scenario, scenario_path
from coordinator.lab.simulation.world import World
from tests.bench.figures import Figure

STATIONARY: Final = (
    "binding-budget",
    "binding-budget-and-sla",
    "binding-sla",
    "infeasible-sla",
    "ten-percent-graded",
)
CHANGES: Final = (
    "budget-cut",
    "dead-arm",
    "demand-shock",
    "new-arm",
    "price-change",
    "quality-drift",
)
AGAINST: Final = {
    "fleet overrun": "the budget",
    "fleet money stranded in leases": "the budget",
    "fleet requests refused a lease": "all requests",
}
WARM_WINDOWS: Final = 2
SEED: Final = 0


def fleet_regret_warm() -> Figure:
    """The largest penalised regret share of a stationary scenario after two earlier windows."""
    worst = max(warm.penalised_regret_share for warm, _ in _stationary())
    return _figure("fleet regret, warm", 100.0 * worst, target=1.0)


def fleet_regret_cold() -> Figure:
    """The largest penalised regret share of a stationary scenario in a fleet's first window."""
    worst = max(cold.penalised_regret_share for _, cold in _stationary())
    return _figure("fleet regret, cold", 100.0 * worst, target=2.5)


def fleet_sla_gap() -> Figure:
    """By how many points the share in time is short of the clairvoyant's, at worst, warm."""
    worst = max(warm.sla_gap for warm, _ in _stationary())
    return _figure("fleet SLA gap, warm", 100.0 * worst, target=0.5)


def fleet_stranded() -> Figure:
    """The largest share of a budget that devices held in leases when its window ended."""
    worst = max(each.stranded_share for pair in _stationary() for each in pair)
    return _figure("fleet money stranded in leases", 100.0 * worst, target=2.0)


def fleet_lease_refusals() -> Figure:
    """Requests, at worst, that lost a paid arm for want of a lease while the budget lasted."""
    worst = max(each.lease_refused_share for pair in _stationary() for each in pair)
    return _figure("fleet requests refused a lease", 100.0 * worst, target=0.1)


def fleet_overrun() -> Figure:
    """Nano-dollars billed beyond any window's budget, over all runs."""
    runs = [each for pair in _stationary() for each in pair] + list(_changes())
    return _figure("fleet overrun", sum(run.overrun_nanos for run in runs), target=0.0)


def fleet_returns() -> Figure:
    """The share of the window after which the slowest run is back within 2 % after a change."""
    shares = [share for run in _changes() for share in run.return_shares]
    worst = max(1.0 if share is None else share for share in shares)
    return _figure("fleet return after a change", 100.0 * worst, target=10.0)


def _figure(name: str, value: float, *, target: float) -> Figure:
    unit = "nano-dollars" if "overrun" in name else "%"
    return Figure.at_most(
        name,
        value,
        target,
        unit=unit,
        against=AGAINST.get(name, "the clairvoyant"),
        digits=3,
    )


@cache
def _stationary() -> tuple[tuple[Figures, Figures], ...]:
    """Each scenario's judged window: the third one (warm), and the first one (cold)."""
    jobs = os.cpu_count() or 1
    runs = run_jobs(_play_stationary, tasks=STATIONARY, jobs=jobs, description="stationary fleets")
    return tuple(runs)


@cache
def _changes() -> tuple[Figures, ...]:
    jobs = os.cpu_count() or 1
    return tuple(run_jobs(_play_change, tasks=CHANGES, jobs=jobs, description="changing fleets"))


def _play_stationary(name: str) -> tuple[Figures, Figures]:
    scenario = load_scenario(scenario_path(name))
    tally = World(scenario, seed=SEED, windows=WARM_WINDOWS + 1).run()
    warm, _ = judge(scenario, tally=tally, seed=SEED)
    cold, _ = judge(scenario, tally=tally, seed=SEED, window=0)
    return warm, cold


def _play_change(name: str) -> Figures:
    scenario = load_scenario(scenario_path(name))
    tally = World(scenario, seed=SEED, windows=WARM_WINDOWS + 1).run()
    return judge(scenario, tally=tally, seed=SEED)[0]
