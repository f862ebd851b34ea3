"""What devices have measured of their local models, before the fleet has sent them anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, Final

from shared.decision.types import ArmSpeed

DEVICES_MAX: Final = 64
"""Devices per class whose figures are kept; the latest to speak."""


class MeasuredSpeeds:
    """The figures of `tidegate-agent bench`, per device class, as the devices tell them.

    Examples
    --------
    >>> speeds = MeasuredSpeeds()
    >>> speeds.tell("pi", "dev-1", [ArmSpeed("small", 50.0, 5.0)])
    >>> speeds.latency_ms("pi", "small", prompt_tokens=100, completion_tokens=10)
    4000.0
    >>> speeds.latency_ms("laptop", "small", prompt_tokens=100, completion_tokens=10) is None
    True
    """

    def __init__(self) -> None:
        self._told: dict[str, dict[str, tuple[ArmSpeed, ...]]] = {}

    def tell(self, device_class: str, device_id: str, speeds: Iterable[ArmSpeed]) -> None:
        """Take in all that a device has measured; it replaces what it told before."""
        told, given = self._told.setdefault(device_class, {}), tuple(speeds)
        told.pop(device_id, None)
        if given:
            told[device_id] = given
        while len(told) > DEVICES_MAX:
            del told[next(iter(told))]
        if not told:
            del self._told[device_class]

    def latency_ms(
        self, device_class: str, arm: str, *, prompt_tokens: int, completion_tokens: int
    ) -> float | None:
        """How long such a request takes a device of the class, on the median; None if unknown."""
        found = [
            speed.latency_ms(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
            for speeds in self._told.get(device_class, {}).values()
            for speed in speeds
            if speed.arm == arm
        ]
        return median(found) if found else None

    def to_state(self) -> list[Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return [
            [device_class, device_id, [_row(speed) for speed in speeds]]
            for device_class, told in self._told.items()
            for device_id, speeds in told.items()
        ]

    @classmethod
    def from_state(cls, state: Iterable[Any]) -> MeasuredSpeeds:
        """Restore from ``to_state``'s data."""
        speeds = cls()
        for device_class, device_id, rows in state:
            speeds.tell(device_class, device_id, [ArmSpeed(*row) for row in rows])
        return speeds

    def latencies(self, expected: Mapping[str, tuple[int, int]]) -> dict[tuple[str, str], float]:
        """Every latency that is known, by device class and arm.

        Parameters
        ----------
        expected : mapping
            Arm to the prompt and completion tokens that a request is expected to have; other arms
            are left out.
        """
        found = {}
        for device_class in self._told:
            for arm, (prompt, completion) in expected.items():
                ms = self.latency_ms(
                    device_class, arm, prompt_tokens=prompt, completion_tokens=completion
                )
                if ms is not None:
                    found[device_class, arm] = ms
        return found


def _row(speed: ArmSpeed) -> list[Any]:
    return [speed.arm, speed.prompt_tokens_per_s, speed.completion_tokens_per_s]
