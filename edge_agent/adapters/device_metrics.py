"""The machine's condition for Prometheus: what it does not tell has no sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.decision.types import ArmKind, DeviceState


class DeviceCollector(Collector):
    """Turns the last reading into gauges in base units.

    Parameters
    ----------
    state : callable
        Gives the last reading.
    """

    def __init__(self, state: Callable[[], DeviceState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """The gauges now."""
        state = self._state()
        for name, meaning, value in _values(state):
            if value is not None:
                yield GaugeMetricFamily(f"tidegate_device_{name}", meaning, float(value))
        closed = GaugeMetricFamily(
            "tidegate_device_arms_closed",
            "1 while a limit of this device closes this kind of arms.",
            labels=["kind"],
        )
        limited = {fallout.arm for fallout in state.limited}
        for kind in ArmKind:
            closed.add_metric([kind], kind in limited)
        yield closed


def _values(state: DeviceState) -> Iterator[tuple[str, str, float | None]]:
    battery = state.battery
    yield "cpu_ratio", "Share of the processors at work.", state.cpu_percent / 100
    yield "memory_total_bytes", "Memory of the machine.", state.memory_total_bytes or None
    yield "memory_available_bytes", "Memory to be had.", state.memory_available_bytes or None
    yield (
        "memory_pressure_ratio",
        "Share of the last seconds in which some work waited for memory.",
        state.memory_pressure_ratio,
    )
    yield "disk_available_bytes", "Disk left for the books.", state.disk_available_bytes
    yield "temperature_celsius", "Of the processor.", state.temperature_celsius or None
    yield "throttled", "1 while the processor is held back.", state.throttled
    yield "power_watts", "What the machine draws.", state.power_watts or None
    yield "battery_ratio", "Charge of the battery.", battery.charge_ratio if battery else None
    yield "battery_on_mains", "1 on the mains.", battery.on_mains if battery else None
