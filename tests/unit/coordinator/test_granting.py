"""How large a lease is (rule L_6)."""

from __future__ import annotations

import pytest

from coordinator.granting import back_off_ms, lease_amount_nanos


def amount(**changes: float) -> int:
    """The lease of the only device, with plenty of money and nothing planned."""
    values: dict[str, float] = {
        "free_nanos": 1_000_000,
        "planned_nanos_per_slot": 0.0,
        "lease_slots": 5,
        "available_nanos": 0,
        "worst_case_nanos": 100,
        "devices": 1,
    }
    return lease_amount_nanos(**{**values, **changes})  # type: ignore[arg-type]


def test_a_lease_has_room_for_several_worst_cases() -> None:
    """A device is not sent back to ask for every request."""
    assert 800 == amount()


def test_a_lease_covers_the_planned_spend_of_a_few_slots() -> None:
    """The larger of plan and worst cases counts."""
    assert 5 * 1_000 == amount(planned_nanos_per_slot=1_000.0)


def test_what_the_device_still_holds_is_subtracted() -> None:
    """But one worst case is always granted."""
    assert 500 == amount(available_nanos=300)
    assert 100 == amount(available_nanos=10_000)


def test_no_device_gets_more_than_a_fair_share() -> None:
    """The last money of a window goes out in small leases."""
    assert 1_000_000 // (4 * 10) == amount(planned_nanos_per_slot=1e9, devices=10)
    assert 1_001 // (4 * 10) == amount(free_nanos=1_001, worst_case_nanos=1, devices=10,
                                       planned_nanos_per_slot=1e9)  # fmt: skip


@pytest.mark.parametrize(("free", "expected"), [(150, 100), (100, 100), (99, 0), (0, 0)])
def test_the_last_money_goes_out_in_worst_cases(free: int, expected: int) -> None:
    """A lease too small for a single request would be stranded."""
    assert expected == amount(free_nanos=free)


@pytest.mark.parametrize(
    ("needed", "free", "expected"),
    [(350, 1_000, 350), (350, 300, 300), (350, 100, 100), (350, 99, 0), (50, 1_000, 100)],
)
def test_who_waits_gets_what_it_needs_as_far_as_there_is_any(
    needed: int, free: int, expected: int
) -> None:
    """Several requests at once are not sent through one round trip after the other."""
    assert expected == amount(needed_nanos=needed, free_nanos=free, devices=10)
    assert expected == amount(needed_nanos=needed, free_nanos=free, devices=10, store=False)


def test_a_device_without_paid_work_gets_nothing() -> None:
    """Neither a plan nor a worst case."""
    assert 0 == amount(worst_case_nanos=0)


def test_no_lease_exceeds_what_is_free() -> None:
    """Whatever is asked for (rule C_1)."""
    for free in range(0, 3_000, 7):
        for worst in range(0, 2_000, 97):
            for planned in (0.0, 10.0, 1e6):
                found = amount(
                    free_nanos=free, worst_case_nanos=worst, planned_nanos_per_slot=planned
                )
                assert 0 <= found <= free


def test_near_the_end_of_a_window_a_lease_is_for_one_request() -> None:
    """What a device kept in store then would be lost to all."""
    assert 100 == amount(planned_nanos_per_slot=1_000.0, store=False)


@pytest.mark.parametrize(
    ("unclean", "wait_ms"), [(1, 1_000), (2, 2_000), (5, 16_000), (10, 512_000), (500, 600_000)]
)
def test_unclean_closes_make_a_device_wait_longer_and_longer(unclean: int, wait_ms: int) -> None:
    """Twice as long each time, and at most ten minutes (rule L_4)."""
    assert wait_ms == back_off_ms(unclean)
