"""Prometheus metrics, read from the engine when they are asked for: nothing to keep in step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.alerts import AlertKind
from coordinator.engine import CoordinatorEngine
from shared.decision.money import NANOS_PER_DOLLAR


class EngineCollector(Collector):
    """Turns the engine's state into metrics. Labels are arms and kinds: their number is bounded.

    Parameters
    ----------
    engine : callable
        Gives the present engine, which is made anew after a failed commit; None while standing by.
    alerts, posted : callable
        Alerts since the start, by kind and by whether they ended an alarm; what became of the
        webhook's.
    """

    def __init__(
        self,
        engine: Callable[[], CoordinatorEngine | None],
        *,
        alerts: Callable[[], Mapping[tuple[AlertKind, bool], int]] = dict,
        posted: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._engine = engine
        self._alerts = alerts
        self._posted = posted

    def collect(self) -> Iterable[Metric]:
        """The metrics now."""
        engine = self._engine()
        yield _gauge("tidegate_standby", "1 while another coordinator is the writer", not engine)
        if engine is None:
            return
        yield _gauge(
            "tidegate_devices_known", "Devices that have joined", len(engine.registry.devices)
        )
        yield _gauge("tidegate_devices_connected", "Devices with a session", len(engine.sessions))
        yield from self._alarms(engine)
        yield _gauge("tidegate_spend_paused", "1 while spending is paused", engine.spend_paused)
        yield from _budget(engine)
        yield from _demand(engine)

    def _alarms(self, engine: CoordinatorEngine) -> Iterable[Metric]:
        standing = Counter(alarm.kind for alarm in engine.alerts.alarms)
        family = GaugeMetricFamily("tidegate_alarms", "Alarms that stand", labels=["kind"])
        told = CounterMetricFamily(
            "tidegate_alerts", "Alerts since the start", labels=["kind", "state"]
        )
        counts = self._alerts()
        for kind in AlertKind:
            if kind not in (AlertKind.BUDGET, AlertKind.REFUSED):
                family.add_metric([kind], standing[kind])
            told.add_metric([kind, "raised"], counts.get((kind, False), 0))
            told.add_metric([kind, "cleared"], counts.get((kind, True), 0))
        yield family
        yield told
        posted = CounterMetricFamily(
            "tidegate_webhook_alerts", "Alerts for the webhook", labels=["result"]
        )
        for result in ("delivered", "failed", "dropped"):
            posted.add_metric([result], self._posted().get(result, 0))
        yield posted


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
    spent = window.settled_nanos + window.unconfirmed_nanos
    if window.target_nanos:
        share = spent / window.target_nanos
        yield _gauge("tidegate_budget_spent_ratio", "Spent share of the window's money", share)
    refusals = engine.refusals
    current = refusals.window_id == window.id
    refused = refusals.exhausted if current else 0
    yield _gauge(
        "tidegate_window_budget_refusals", "Leases refused for want of free money", refused
    )


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
