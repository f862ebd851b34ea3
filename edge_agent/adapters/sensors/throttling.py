"""Whether something holds the processor back: heat, or a supply that is too weak."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_agent.adapters.sensors import files
from edge_agent.adapters.sensors.firmware import Ask, throttle_reasons

_BRAKES: Final = ("cpufreq", "devfreq", "thermal-cpufreq", "thermal-devfreq", "Processor")
"""Cooling devices that work by slowing something down; fans are others."""


class Throttling:
    """Watches the counters of events beside the states.

    Parameters
    ----------
    root : Path
        Where `sys` is.
    ask : callable
        Asks the firmware of a Raspberry Pi.
    """

    def __init__(self, root: Path, *, ask: Ask) -> None:
        self._root = root
        self._ask = ask
        self._counts = self._read_counts()

    def reasons(self) -> tuple[str, ...]:
        """What holds the processor back, or has since the last call; empty if nothing does."""
        found = list(throttle_reasons(self._root, ask=self._ask))
        if self._braked():
            found.append("cooling")
        counts = self._read_counts()
        for reason, count in counts.items():
            if count > self._counts.get(reason, count):
                found.append(reason)
        self._counts = counts
        return tuple(dict.fromkeys(found))

    def _braked(self) -> bool:
        for device in self._root.glob("sys/class/thermal/cooling_device*"):
            slows_down = files.text(device / "type").startswith(_BRAKES)
            if slows_down and (files.number(device / "cur_state") or 0) > 0:
                return True
        return False

    def _read_counts(self) -> dict[str, int]:
        """Events since the boot: of a Jetson's over-current watch, and of x86 processors."""
        counts: dict[str, int] = {}
        for folder in files.hwmon(self._root, name="soctherm_oc"):
            for path in folder.glob("oc*_event_cnt"):
                counts["over_current"] = counts.get("over_current", 0) + (files.number(path) or 0)
        for path in self._root.glob(
            "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
        ):
            counts["hot_core"] = counts.get("hot_core", 0) + (files.number(path) or 0)
        return counts
