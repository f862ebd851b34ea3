"""What the machine draws, from the best source that the board has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_agent.adapters.sensors import files
from edge_agent.adapters.sensors.battery import discharge_watts
from edge_agent.adapters.sensors.firmware import Ask, pmic_watts

_WHOLE_BOARD: Final = ("VDD_IN", "POM_5V_IN", "5V_IN")
"""Rails of a Jetson that feed all the others."""
_NOT_CONNECTED: Final = "NC"
_CHANNELS: Final = (1, 2, 3)


def ina3221_watts(root: Path) -> float | None:
    """A Jetson's power: the input rail where it is measured, else the sum of the rails.

    Each chip has three channels: `inN_input` in millivolts and `currN_input` in milliamperes.
    """
    rails: dict[str, float] = {}
    for folder in files.hwmon(root, name="ina3221"):
        for channel in _CHANNELS:
            label = files.text(folder / f"in{channel}_label") or f"{folder.name}.{channel}"
            volts = files.number(folder / f"in{channel}_input")
            amps = files.number(folder / f"curr{channel}_input")
            switched_off = files.number(folder / f"in{channel}_enable") == 0
            if label == _NOT_CONNECTED or switched_off or volts is None or amps is None:
                continue
            rails[label] = volts * amps / 1_000_000
    for label in _WHOLE_BOARD:
        if label in rails:
            return rails[label]
    return sum(rails.values()) if rails else None


class Rapl:
    """Power of Intel and AMD processors, from the energy counters; root alone may read them.

    Parameters
    ----------
    now_s : callable
        A monotonic clock in seconds.
    """

    def __init__(self, root: Path, *, now_s: Callable[[], float]) -> None:
        self._root = root
        self._now_s = now_s
        self._before: dict[str, int] = {}
        self._before_s = 0.0

    def watts(self) -> float | None:
        """Mean power since the last call; None at the first one, and where nothing can be read."""
        zones = sorted(self._root.glob("sys/class/powercap/intel-rapl:?"))
        platform = [zone for zone in zones if files.text(zone / "name") == "psys"]
        energy = {
            zone.name: micro_joules
            for zone in platform or zones
            if (micro_joules := files.number(zone / "energy_uj")) is not None
        }
        before, before_s, now_s = self._before, self._before_s, self._now_s()
        self._before, self._before_s = energy, now_s
        if not energy or before.keys() != energy.keys() or now_s <= before_s:
            return None
        used = sum(self._used(name, before=before[name], after=energy[name]) for name in energy)
        return used / 1_000_000 / (now_s - before_s)

    def _used(self, name: str, *, before: int, after: int) -> int:
        """Micro-joules between two readings of a counter that starts again at its maximum."""
        if after >= before:
            return after - before
        zone = self._root / "sys/class/powercap" / name
        return after + (files.number(zone / "max_energy_range_uj") or before) - before


class PowerMeter:
    """Asks one source after the other, from the whole board to the processor alone."""

    def __init__(self, root: Path, *, ask: Ask, now_s: Callable[[], float]) -> None:
        self._root = root
        self._ask = ask
        self._rapl = Rapl(root, now_s=now_s)
        self._rapl.watts()

    def watts(self) -> float | None:
        """Watts now; None where no source tells."""
        for source in (ina3221_watts, discharge_watts):
            if (watts := source(self._root)) is not None:
                return watts
        board = pmic_watts(self._ask)
        return board if board is not None else self._rapl.watts()
