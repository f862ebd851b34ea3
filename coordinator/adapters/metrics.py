"""Prometheus metrics, read from the engine when they are asked for: nothing to keep in step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.engine import CoordinatorEngine
from shared.decision.money import NANOS_PER_DOLLAR


class EngineCollector(Collector):
    """Turns the engine's state into metrics. Labels are arms, so their number is bounded.

    Parameters
    ----------
    engine : callable
        Gives the present engine; it is made anew after a failed commit.
    """

    def __init__(self, engine: Callable[[], CoordinatorEngine]) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """The metrics now."""
        engine = self._engine()
        yield _gauge(
            "tidegate_devices_known", "Devices that have joined", len(engine.registry.devices)
        )
        yield _gauge("tidegate_devices_connected", "Devices with a session", len(engine.sessions))
        yield _gauge("tidegate_alarms", "Alarms that stand", len(engine.alarms))
        yield _gauge("tidegate_spend_paused", "1 while spending is paused", engine.spend_paused)
        yield from _budget(engine)
        yield from _demand(engine)


def _budget(engine: CoordinatorEngine) -> Iterable[Metric]:
    window = engine.window
    if window is None:
        return
    family = GaugeMetricFamily(
        "tidegate_budget_dollars", "The window's money, by where it is", labels=["part"]
    )
    for part, nanos in (
        ("target", window.target_nanos),
        ("enforced", window.enforced_nanos),
        ("settled", window.settled_nanos),
        ("unconfirmed", window.unconfirmed_nanos),
        ("outstanding", window.outstanding_nanos),
        ("free", window.free_nanos),
    ):
        family.add_metric([part], nanos / NANOS_PER_DOLLAR)
    yield family


def _demand(engine: CoordinatorEngine) -> Iterable[Metric]:
    if engine.planner is None:
        return
    totals = engine.planner.totals
    yield _gauge("tidegate_window_requests", "Requests of this window", totals.requests)
    yield _gauge("tidegate_window_hits", "Of them answered within their deadline", totals.hits)
    answered = GaugeMetricFamily(
        "tidegate_window_answers", "Answers of this window", labels=["arm"]
    )
    spent = CounterMetricFamily(
        "tidegate_window_cost_dollars", "Cost of this window", labels=["arm"]
    )
    for name, arm in totals.arms.items():
        answered.add_metric([name], arm.requests)
        spent.add_metric([name], arm.cost_nanos / NANOS_PER_DOLLAR)
    yield answered
    yield spent
    planned = engine.planner.planned
    if planned is not None:
        remaining = float(planned.forecast.mean.sum())
        yield _gauge("tidegate_forecast_requests", "Requests still expected", remaining)
        dual = float(planned.plan.packing_dual[0]) * NANOS_PER_DOLLAR
        yield _gauge("tidegate_money_dual_per_dollar", "Reward that one dollar more earns", dual)


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, value=float(value))
