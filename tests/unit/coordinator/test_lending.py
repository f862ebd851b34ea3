"""Who gets a lease, and for how long (rule L_6)."""

from __future__ import annotations

import pytest

from tests.unit.coordinator.test_fleet_flow import WORST, Fleet

WINDOW_MS = 100_000
CLOSING_MS = WINDOW_MS // 32


def connected(*, later_ms: int = 0) -> Fleet:
    """A fleet in its window of 100 s, with a device that may spend."""
    fleet = Fleet()
    fleet.tick(later_ms=later_ms)
    fleet.hello()
    fleet.sync()
    return fleet


def test_what_is_kept_in_store_comes_back_before_the_window_ends() -> None:
    """A large lease ends a thirty-second part of the window early."""
    lease = connected(later_ms=50_000).lease()
    assert lease.amount_nanos > 2 * WORST
    assert WINDOW_MS - CLOSING_MS - 50_000 == lease.duration_ms


@pytest.mark.parametrize("left_ms", [CLOSING_MS, 500])
def test_the_last_money_of_a_window_is_lent_request_by_request(left_ms: int) -> None:
    """One worst case, to the end of the window."""
    lease = connected(later_ms=WINDOW_MS - left_ms).lease()
    assert (WORST, left_ms) == (lease.amount_nanos, lease.duration_ms)


def test_the_planned_spend_is_shared_by_the_devices_that_are_up() -> None:
    """It is counted once a slot; before the first count everybody connected shares it."""
    fleet = connected()
    fleet.tick(later_ms=10_500)
    planner = fleet.engine.planner
    assert planner is not None
    assert {"pi": 1} == planner.load.devices_up
    planner.load.devices_up["pi"] = 10**9
    assert 8 * WORST == fleet.lease().amount_nanos
