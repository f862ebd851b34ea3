"""When the device's condition closes its local or its cloud arms.

Each limit closes at its value and opens again only at some distance from it, so that arms do not
come and go with every reading. What the machine does not tell leaves a limit as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shared.decision.types import ArmKind, DeviceState, Fallout

HOT: Final = "hot"
BATTERY: Final = "battery"
MEMORY: Final = "memory"
POWER: Final = "power"
THROTTLED: Final = "throttled"

COOLER_CELSIUS: Final = 5.0
CHARGED_RATIO: Final = 0.05
FREER_MEMORY: Final = 1.25
LESS_POWER: Final = 0.9
CLEAR_READINGS: Final = 10
"""Readings in a row without throttling after which it is over."""


@dataclass(frozen=True)
class KindLimits:
    """What closes one kind of arms; a limit of 0 does not.

    Attributes
    ----------
    battery_ratio_min : float
        Counts only while the device is not on the mains.
    memory_bytes_min : int
        Of what is available, not of what is free.
    when_throttled : bool
        Close while the processor is held back.
    """

    temperature_celsius_max: float = 0.0
    battery_ratio_min: float = 0.0
    memory_bytes_min: int = 0
    power_watts_max: float = 0.0
    when_throttled: bool = False


@dataclass(frozen=True)
class DeviceLimits:
    """The limits of both kinds of arms."""

    local: KindLimits = field(default_factory=KindLimits)
    cloud: KindLimits = field(default_factory=KindLimits)


class LimitWatch:
    """Which kinds of arms are closed, reading by reading."""

    def __init__(self, limits: DeviceLimits) -> None:
        self._limits = {ArmKind.LOCAL: limits.local, ArmKind.CLOUD: limits.cloud}
        self._closed: dict[ArmKind, dict[str, None]] = {kind: {} for kind in ArmKind}
        self._clear_readings = CLEAR_READINGS

    def look(self, state: DeviceState) -> None:
        """Take in a reading."""
        self._clear_readings = 0 if state.throttled else self._clear_readings + 1
        for kind, limits in self._limits.items():
            for reason, beyond, clear in self._judged(state, limits):
                if beyond:
                    self._closed[kind][reason] = None
                elif clear:
                    self._closed[kind].pop(reason, None)

    def closed(self, kind: ArmKind) -> str:
        """The limit that closes a kind of arms, the first one reached; empty if none does."""
        return next(iter(self._closed[kind]), "")

    @property
    def fallouts(self) -> tuple[Fallout, ...]:
        """Every kind of arms that is closed, with every limit that closes it."""
        return tuple(Fallout(kind, reason) for kind in ArmKind for reason in self._closed[kind])

    def _judged(self, state: DeviceState, limits: KindLimits) -> Iterator[tuple[str, bool, bool]]:
        """Each limit that is set and told: its reason, whether it is passed, whether well clear."""
        celsius, celsius_max = state.temperature_celsius, limits.temperature_celsius_max
        if celsius and celsius_max:
            yield HOT, celsius >= celsius_max, celsius <= celsius_max - COOLER_CELSIUS
        battery, ratio_min = state.battery, limits.battery_ratio_min
        if battery is not None and ratio_min:
            ratio, mains = battery.charge_ratio, battery.on_mains
            yield (
                BATTERY,
                ratio < ratio_min and not mains,
                mains or ratio >= min(1.0, ratio_min + CHARGED_RATIO),
            )
        available, bytes_min = state.memory_available_bytes, limits.memory_bytes_min
        if available and bytes_min:
            yield MEMORY, available < bytes_min, available >= FREER_MEMORY * bytes_min
        watts, watts_max = state.power_watts, limits.power_watts_max
        if watts and watts_max:
            yield POWER, watts > watts_max, watts <= LESS_POWER * watts_max
        if limits.when_throttled:
            yield THROTTLED, state.throttled, self._clear_readings >= CLEAR_READINGS
