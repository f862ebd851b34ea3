"""The firmware of a Raspberry Pi, through the kernel or `vcgencmd`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_agent.adapters.sensors import files

Ask = Callable[[str], str]
"""Takes a command of `vcgencmd`, gives its answer; empty if there is none."""

COMMAND_S_MAX: Final = 2.0
_THROTTLED: Final = "sys/devices/platform/soc*/*firmware*/get_throttled"
_NOW: Final = {
    0: "under_voltage",
    1: "frequency_capped",
    2: "throttled",
    3: "soft_temperature_limit",
}
"""Bits of `get_throttled` that speak of now; those from 16 on have happened since the boot."""
_RAIL: Final = re.compile(r"^\s*(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$")


def vcgencmd(command: str) -> str:
    """Ask the firmware; the program comes with Raspberry Pi OS and may need the group `video`."""
    program = shutil.which("vcgencmd")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, command],
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def throttle_reasons(root: Path, *, ask: Ask) -> tuple[str, ...]:
    """Why the firmware holds the processor back now; empty if it does not."""
    paths = sorted(root.glob(_THROTTLED))
    state = files.text(paths[0]) if paths else ask("get_throttled").removeprefix("throttled=")
    try:
        bits = int(state, 16)
    except ValueError:
        return ()
    return tuple(reason for bit, reason in _NOW.items() if bits >> bit & 1)


def pmic_watts(ask: Ask) -> float | None:
    """What the rails of a Raspberry Pi 5 draw, in watts; what hangs on its USB ports is not in it.

    Every rail has a line with its current and one with its voltage.
    """
    found: dict[str, dict[str, float]] = {}
    for line in ask("pmic_read_adc").splitlines():
        if match := _RAIL.match(line):
            rail, unit, value = match.groups()
            found.setdefault(rail, {})[unit] = float(value)
    rails = [each["A"] * each["V"] for each in found.values() if len(each) == 2]
    return sum(rails) if rails else None
