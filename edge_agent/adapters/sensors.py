"""Readings of this machine through psutil."""

from __future__ import annotations

from pathlib import Path

import psutil

from edge_agent.ports import DeviceSensors
from shared.decision.types import DeviceState


class SystemSensors(DeviceSensors):
    """CPU, memory, disk and temperature, as far as the machine tells them.

    Parameters
    ----------
    state_dir : Path
        Whose file system's free space counts.
    """

    def __init__(self, *, state_dir: Path) -> None:
        self._state_dir = state_dir
        psutil.cpu_percent()

    def read(self) -> DeviceState:
        return DeviceState(
            cpu_percent=psutil.cpu_percent(),
            memory_available_bytes=psutil.virtual_memory().available,
            disk_available_bytes=psutil.disk_usage(str(self._state_dir)).free,
            temperature_celsius=_temperature(),
        )


def _temperature() -> float:
    """The hottest sensor in degrees Celsius; 0 where there is none."""
    read = getattr(psutil, "sensors_temperatures", None)
    if read is None:
        return 0.0
    return max((entry.current for group in read().values() for entry in group), default=0.0)
