"""Limits of the device: what closes arms, and when they open again."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.device_limits import CLEAR_READINGS, DeviceLimits, KindLimits, LimitWatch
from shared.decision.types import ArmKind, Battery, DeviceState, Fallout

LOCAL, CLOUD = ArmKind.LOCAL, ArmKind.CLOUD


def watch(**local: Any) -> LimitWatch:
    """A watch over local arms."""
    return LimitWatch(DeviceLimits(local=KindLimits(**local)))


def battery(charge_ratio: float, *, on_mains: bool = False) -> dict[str, Any]:
    """A reading of a battery."""
    return {"battery": Battery(charge_ratio, on_mains=on_mains)}


def throttled(*, clear: int) -> list[dict[str, Any]]:
    """A throttled reading with clear ones after it."""
    return [{"throttled": True}, *([{"throttled": False}] * clear)]


@pytest.mark.parametrize(
    ("limit", "readings", "reason"),
    [
        ({"temperature_celsius_max": 80.0}, [79.9], ""),
        ({"temperature_celsius_max": 80.0}, [80.0], "hot"),
        ({"temperature_celsius_max": 80.0}, [80.0, 75.1], "hot"),
        ({"temperature_celsius_max": 80.0}, [80.0, 75.0], ""),
        ({"temperature_celsius_max": 80.0}, [80.0, 75.0, 79.0], ""),
        ({"temperature_celsius_max": 80.0}, [80.0, 0.0], "hot"),
        ({}, [120.0], ""),
    ],
)
def test_heat_closes_and_some_coolness_opens(
    limit: dict[str, Any], readings: list[float], reason: str
) -> None:
    """Five degrees between; a reading that fails changes nothing; no limit never closes."""
    watched = watch(**limit)
    for celsius in readings:
        watched.look(DeviceState(temperature_celsius=celsius))
    assert reason == watched.closed(LOCAL)


@pytest.mark.parametrize(
    ("limit", "readings", "reason"),
    [
        ({"battery_ratio_min": 0.2}, [battery(0.2)], ""),
        ({"battery_ratio_min": 0.2}, [battery(0.19)], "battery"),
        ({"battery_ratio_min": 0.2}, [battery(0.19, on_mains=True)], ""),
        ({"battery_ratio_min": 0.2}, [battery(0.19), battery(0.24)], "battery"),
        ({"battery_ratio_min": 0.2}, [battery(0.19), battery(0.25)], ""),
        ({"battery_ratio_min": 0.2}, [battery(0.19), battery(0.19, on_mains=True)], ""),
        ({"battery_ratio_min": 1.0}, [battery(0.99), battery(1.0)], ""),
        ({"battery_ratio_min": 0.2}, [{}], ""),
        ({"memory_bytes_min": 100}, [{"memory_available_bytes": 99}], "memory"),
        (
            {"memory_bytes_min": 100},
            [{"memory_available_bytes": 99}, {"memory_available_bytes": 124}],
            "memory",
        ),
        (
            {"memory_bytes_min": 100},
            [{"memory_available_bytes": 99}, {"memory_available_bytes": 125}],
            "",
        ),
        ({"power_watts_max": 10.0}, [{"power_watts": 10.1}], "power"),
        ({"power_watts_max": 10.0}, [{"power_watts": 10.1}, {"power_watts": 9.1}], "power"),
        ({"power_watts_max": 10.0}, [{"power_watts": 10.1}, {"power_watts": 9.0}], ""),
        ({"when_throttled": True}, throttled(clear=0), "throttled"),
        ({"when_throttled": True}, throttled(clear=CLEAR_READINGS - 1), "throttled"),
        ({"when_throttled": True}, throttled(clear=CLEAR_READINGS), ""),
        ({}, throttled(clear=0), ""),
    ],
)
def test_every_limit_has_its_distance(
    limit: dict[str, Any], readings: list[dict[str, Any]], reason: str
) -> None:
    """A battery counts off the mains only; throttling is over after a row of clear readings."""
    watched = watch(**limit)
    for reading in readings:
        watched.look(DeviceState(**reading))
    assert reason == watched.closed(LOCAL)


def test_kinds_of_arms_have_limits_of_their_own() -> None:
    """A low battery may close the local arms long before the paid ones."""
    watched = LimitWatch(
        DeviceLimits(
            local=KindLimits(battery_ratio_min=0.5, temperature_celsius_max=80.0),
            cloud=KindLimits(battery_ratio_min=0.1),
        )
    )
    watched.look(DeviceState(**battery(0.3)))
    assert ("battery", "") == (watched.closed(LOCAL), watched.closed(CLOUD))
    watched.look(DeviceState(**battery(0.05), temperature_celsius=90.0))
    assert "battery" == watched.closed(LOCAL), "the first limit that was reached"
    assert {
        Fallout("local", "battery"),
        Fallout("local", "hot"),
        Fallout("cloud", "battery"),
    } == set(watched.fallouts)
