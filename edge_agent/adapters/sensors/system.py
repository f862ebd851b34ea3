"""All sources behind the one port."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from edge_agent.adapters.sensors import battery, files, temperature
from edge_agent.adapters.sensors.firmware import Ask, vcgencmd
from edge_agent.adapters.sensors.power import PowerMeter
from edge_agent.adapters.sensors.throttling import Throttling
from edge_agent.ports import DeviceSensors
from shared.decision.types import Battery, DeviceState

FIRMWARE_EVERY_S: Final = 10.0
"""A question to the firmware starts a process; its last answer holds for so long."""
_STALLED: Final = re.compile(r"^some avg10=([0-9.]+)", re.MULTILINE)


class SystemSensors(DeviceSensors):
    """Jetson, Raspberry Pi, and laptops on Linux and macOS, as far as each tells.

    Parameters
    ----------
    state_dir : Path
        Whose file system's free space counts.
    root : Path
        Where `sys` and `proc` are.
    ask : callable
        Asks the firmware of a Raspberry Pi.
    now_s : callable
        A monotonic clock in seconds.
    """

    def __init__(
        self,
        *,
        state_dir: Path,
        root: Path = Path("/"),
        ask: Ask = vcgencmd,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state_dir = state_dir
        self._root = root
        remembered = _Remembered(ask, now_s=now_s)
        self._throttling = Throttling(root, ask=remembered)
        self._power = PowerMeter(root, ask=remembered, now_s=now_s)
        psutil.cpu_percent()

    def read(self) -> DeviceState:
        memory = psutil.virtual_memory()
        reasons = self._throttling.reasons()
        return DeviceState(
            cpu_percent=psutil.cpu_percent(),
            memory_available_bytes=memory.available,
            memory_total_bytes=memory.total,
            memory_pressure_ratio=self._memory_pressure(),
            disk_available_bytes=psutil.disk_usage(str(self._state_dir)).free,
            temperature_celsius=self._temperature() or 0.0,
            throttled=bool(reasons),
            throttle_reasons=reasons,
            power_watts=self._power.watts() or 0.0,
            battery=self._battery(),
        )

    def _temperature(self) -> float | None:
        found = temperature.from_zones(self._root)
        return temperature.from_chips(self._root) if found is None else found

    def _battery(self) -> Battery | None:
        if (self._root / "sys/class").is_dir():
            return battery.from_power_supplies(self._root)
        return battery.from_psutil(getattr(psutil, "sensors_battery", None))

    def _memory_pressure(self) -> float:
        """The share of the last ten seconds in which some work waited for memory."""
        match = _STALLED.search(files.text(self._root / "proc/pressure/memory"))
        return float(match[1]) / 100 if match else 0.0


class _Remembered:
    """The firmware's answers, kept for a while."""

    def __init__(self, ask: Ask, *, now_s: Callable[[], float]) -> None:
        self._ask = ask
        self._now_s = now_s
        self._answers: dict[str, tuple[float, str]] = {}

    def __call__(self, command: str) -> str:
        now_s = self._now_s()
        asked_s, answer = self._answers.get(command, (-FIRMWARE_EVERY_S, ""))
        if now_s - asked_s >= FIRMWARE_EVERY_S:
            answer = self._ask(command)
            self._answers[command] = (now_s, answer)
        return answer
