"""How hot the processor is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_agent.adapters.sensors import files

_NOT_THE_PROCESSOR: Final = ("PMIC-Die", "iwlwifi", "pch_", "INT3400", "acpitz")
"""Zones of other parts, or that always say the same (a Jetson's PMIC-Die says 100 °C for ever)."""
_PROCESSOR_CHIPS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")
_CELSIUS_MIN, _CELSIUS_MAX = -60.0, 150.0


def from_zones(root: Path) -> float | None:
    """The hottest thermal zone of the processor, in degrees Celsius.

    A zone that is switched off, such as an idle GPU's, gives an error when it is read.
    """
    found = []
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        if files.text(zone / "type").startswith(_NOT_THE_PROCESSOR):
            continue
        milli = files.number(zone / "temp")
        if milli is not None and _CELSIUS_MIN <= milli / 1000 <= _CELSIUS_MAX:
            found.append(milli / 1000)
    return max(found, default=None)


def from_chips(root: Path) -> float | None:
    """The hottest reading of the processor's own chip, in degrees Celsius."""
    found = []
    for name in _PROCESSOR_CHIPS:
        for folder in files.hwmon(root, name=name):
            found += [files.number(path) for path in folder.glob("temp*_input")]
    return max((milli / 1000 for milli in found if milli is not None), default=None)
