"""The battery that the machine runs on, if it has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.sensors import files
from shared.decision.types import Battery

_MAINS: Final = frozenset({"Mains", "USB", "Wireless"})
_ON_MAINS_STATES: Final = frozenset({"Charging", "Full", "Not charging"})


def _batteries(root: Path) -> list[Path]:
    """Batteries of the machine; those of a mouse or a headset have the scope `Device`."""
    return [
        supply
        for supply in sorted(root.glob("sys/class/power_supply/*"))
        if files.text(supply / "type") == "Battery" and files.text(supply / "scope") != "Device"
    ]


def from_power_supplies(root: Path) -> Battery | None:
    """The fullest battery, from the kernel's power supplies."""
    charges = [files.number(each / "capacity") for each in _batteries(root)]
    known = [charge for charge in charges if charge is not None]
    if not known:
        return None
    states = {files.text(each / "status") for each in _batteries(root)}
    plugged = any(
        files.number(supply / "online") == 1
        for supply in root.glob("sys/class/power_supply/*")
        if files.text(supply / "type") in _MAINS
    )
    on_mains = plugged or ("Discharging" not in states and bool(states & _ON_MAINS_STATES))
    return Battery(charge_ratio=max(known) / 100, on_mains=on_mains)


def discharge_watts(root: Path) -> float | None:
    """What the machine draws from its batteries, in watts; None while they are not discharging."""
    total = None
    for supply in _batteries(root):
        if files.text(supply / "status") != "Discharging":
            continue
        micro_watts = files.number(supply / "power_now")
        amps, volts = files.number(supply / "current_now"), files.number(supply / "voltage_now")
        if micro_watts is None and amps is not None and volts is not None:
            micro_watts = round(abs(amps) * volts / 1_000_000)
        if micro_watts is not None:
            total = (total or 0.0) + abs(micro_watts) / 1_000_000
    return total


def from_psutil(read: Callable[[], Any] | None) -> Battery | None:
    """The battery as psutil tells it, on macOS for one."""
    told = read() if read is not None else None
    if told is None:
        return None
    return Battery(
        charge_ratio=min(1.0, max(0.0, told.percent / 100)), on_mains=bool(told.power_plugged)
    )
