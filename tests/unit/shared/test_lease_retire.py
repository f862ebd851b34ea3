"""Leases that are used up go back, so that what is left in them is not stranded."""

from __future__ import annotations

from shared.decision.lease import LeaseBook, LeaseGranted
from shared.decision.types import SettleKind


def book_of(*amounts: int) -> LeaseBook:
    """A book with one usable lease per amount."""
    book = LeaseBook(incarnation="inc", boot_id="boot")
    for number, amount in enumerate(amounts, start=1):
        granted = LeaseGranted(
            number=number, window_id=1, amount_nanos=amount, duration_ms=60_000, price_version=1
        )
        assert book.grant(granted, boot_ms=0, worst_case_nanos=amount)
        book.watermark_synced(number, amount)
    return book


def reserve(book: LeaseBook, amount: int) -> None:
    """Hold an amount."""
    book.reserve(
        "r1", request_id="q1", arm="a", amount_nanos=amount, task_class="t", arrived_unix_ms=0
    )


def test_only_a_lease_without_enough_room_is_retired() -> None:
    """The lease that can still hold the amount stays; the other one closes and frees its rest."""
    book = book_of(50, 200)
    book.retire(100, boot_ms=1)
    (close,) = book.finish_closing()
    assert (1, 0, True, "used up") == (
        close.lease_number,
        close.final_nanos,
        close.clean,
        close.reason,
    )
    assert 200 == book.available_nanos()


def test_a_lease_with_an_open_reservation_is_not_retired() -> None:
    """Its reservation may settle lower and leave room; it is looked at again afterwards."""
    book = book_of(100)
    reserve(book, 80)
    book.retire(50, boot_ms=1)
    assert [] == book.finish_closing()
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=10)
    book.retire(50, boot_ms=2)
    assert [] == book.finish_closing()
    assert 90 == book.available_nanos()


def test_a_lease_with_just_enough_room_is_not_retired() -> None:
    """The next request fits it."""
    book = book_of(100)
    book.retire(100, boot_ms=1)
    assert 100 == book.available_nanos()
    book.retire(101, boot_ms=2)
    assert 0 == book.available_nanos()


def test_the_books_know_since_when_a_lease_is_given_back() -> None:
    """On the clock since boot, as for every other reason to close."""
    book = book_of(100)
    book.take_changes()
    book.retire(101, boot_ms=7)
    (row,) = book.take_changes().leases
    assert (7, "used up") == (row.closing_since_boot_ms, row.close_reason)


def test_a_lease_that_was_held_for_too_long_is_retired_whatever_it_has_left() -> None:
    """Each by its own age; one with an open reservation stays here too."""
    book = book_of(100)
    granted = LeaseGranted(
        number=2, window_id=1, amount_nanos=100, duration_ms=60_000, price_version=1
    )
    assert book.grant(granted, boot_ms=5)
    book.retire(1, boot_ms=9, kept_ms_max=10)
    assert 200 == book.available_nanos()
    reserve(book, 100)
    book.retire(1, boot_ms=14, kept_ms_max=10)
    assert (1, 2) == tuple(s.lease_number for s in book.status() if not s.closing)
    book.retire(1, boot_ms=15, kept_ms_max=10)
    assert (1,) == tuple(s.lease_number for s in book.status() if not s.closing)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=10)
    book.retire(1, boot_ms=15, kept_ms_max=16)
    assert 90 == book.available_nanos()
    book.retire(1, boot_ms=15, kept_ms_max=15)
    assert 0 == book.available_nanos()
