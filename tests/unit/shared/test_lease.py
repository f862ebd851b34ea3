"""A device's leases (rules L_1 to L_6, S_2 to S_4)."""

from __future__ import annotations

import pytest

from shared.decision.lease import LeaseBook, LeaseChanges, LeaseRefusal, LeaseRow, ReservationRow
from shared.decision.types import LeaseClose, SettleKind
from shared.errors import InvariantError
from tests.fakes.samples import granted


def book_with(amount: int = 100, *, synced: bool = True, chunks: int = 1) -> LeaseBook:
    """A book with lease 1."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=chunks)
    assert book.grant(granted(1, amount=amount), boot_ms=0)
    if synced:
        sync(book)
    return book


def sync(book: LeaseBook) -> None:
    """The disk has caught up."""
    for row in book.unsynced():
        book.watermark_synced(row.number, row.watermark_nanos)


def reserve(book: LeaseBook, name: str, amount: int) -> ReservationRow | LeaseRefusal:
    """Hold an amount for one attempt."""
    return book.reserve(
        name, request_id=name, arm="cloud", amount_nanos=amount, task_class="x", arrived_unix_ms=0
    )


def lease_of(changes: LeaseChanges) -> LeaseRow:
    """The one lease that changed."""
    (row,) = changes.leases
    return row


def restarted(book: LeaseBook, *, boot_id: str) -> LeaseBook:
    """A new process on the committed rows of an earlier one, all changes taken from the start."""
    changes = book.take_changes()
    fresh = LeaseBook(incarnation="inc-2", boot_id=boot_id)
    fresh.restore(leases=changes.leases, reservations=changes.reservations, number_max=0)
    return fresh


def test_nothing_is_reserved_before_the_first_sync() -> None:
    """A grant can be spent once its number and watermark are on the disk (rule L_1)."""
    book = book_with(synced=False)
    assert LeaseRefusal.NOT_SYNCED is reserve(book, "r1", 10)
    sync(book)
    assert isinstance(reserve(book, "r1", 10), ReservationRow)


@pytest.mark.parametrize("number", [1, 0])
def test_a_number_that_is_not_above_the_highest_is_ignored(number: int) -> None:
    """A grant that is repeated, or late, changes nothing (rule L_1)."""
    book = book_with()
    book.take_changes()
    assert not book.grant(granted(number, amount=500), boot_ms=0)
    assert LeaseChanges() == book.take_changes()
    assert 100 == book.available_nanos()


def test_a_lease_is_never_exceeded() -> None:
    """What is reserved is gone for others until it is settled (rule L_2)."""
    book = book_with()
    reserve(book, "r1", 60)
    assert LeaseRefusal.TOO_SMALL is reserve(book, "r2", 41)
    assert isinstance(reserve(book, "r2", 40), ReservationRow)
    assert 0 == book.available_nanos()


def test_without_a_lease_there_is_no_money() -> None:
    """A device that was granted nothing pays for nothing, not even for nothing."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1")
    assert LeaseRefusal.NO_LEASE is reserve(book, "r1", 0)


@pytest.mark.parametrize(
    ("kind", "cost", "booked"),
    [(SettleKind.RELEASED, 30, 0), (SettleKind.REPORTED, 30, 30), (SettleKind.UNKNOWN, 30, 50)],
)
def test_there_are_three_ways_to_settle(kind: SettleKind, cost: int, booked: int) -> None:
    """Released at nothing, reported at the report, unknown at the reservation (rule S_2)."""
    book = book_with()
    reserve(book, "r1", 50)
    settled = book.settle("r1", kind=kind, cost_nanos=cost)
    assert (1, 50, booked, 0) == (
        settled.lease_number,
        settled.reserved_nanos,
        settled.cost_nanos,
        settled.overrun_nanos,
    )
    assert 100 - booked == book.available_nanos()


def test_an_overrun_is_booked_in_full() -> None:
    """Usage above the reservation is spent money, whatever the lease says (rule S_4)."""
    book = book_with()
    reserve(book, "r1", 90)
    settled = book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=120)
    assert (120, 30) == (settled.cost_nanos, settled.overrun_nanos)
    assert 0 == book.available_nanos()
    assert LeaseRefusal.TOO_SMALL is reserve(book, "r2", 1)


def test_an_overrun_does_not_stop_the_next_start() -> None:
    """A lease that a provider overran closes at what was spent, also after a crash."""
    book = book_with()
    reserve(book, "r1", 60)
    reserve(book, "r2", 40)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=90)
    fresh = restarted(book, boot_id="boot-1")
    (open_row,) = fresh.earlier_reservations()
    fresh.settle(open_row.id, kind=SettleKind.UNKNOWN)
    assert [LeaseClose(1, 130, clean=False, reason="process ended")] == fresh.close_earlier()


def test_a_reported_cost_must_be_known() -> None:
    """A report without a number is a defect of the caller."""
    book = book_with()
    reserve(book, "r1", 50)
    with pytest.raises(InvariantError, match="must be known"):
        book.settle("r1", kind=SettleKind.REPORTED)


def test_a_watermark_is_raised_ahead_of_the_reservations() -> None:
    """Long before the synced part is used up a higher watermark is asked for (rule L_2)."""
    book = book_with(100, chunks=4)
    assert 25 == lease_of(book.take_changes()).watermark_nanos
    reserve(book, "r1", 10)
    assert () == book.unsynced()
    reserve(book, "r2", 10)
    assert 55 == lease_of(book.take_changes()).watermark_nanos
    assert LeaseRefusal.NOT_SYNCED is reserve(book, "r3", 10)
    sync(book)
    assert isinstance(reserve(book, "r3", 10), ReservationRow)


def test_room_can_be_made_for_a_request_that_is_larger_than_all_before() -> None:
    """A worst case that fits the lease fits after one sync."""
    book = book_with(100, chunks=10)
    assert LeaseRefusal.NOT_SYNCED is book.refusal(80)
    book.make_room(80)
    sync(book)
    assert book.refusal(80) is None


def test_the_first_watermark_has_room_for_two_requests() -> None:
    """A lease can be used at once, however large the requests were lately."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=10)
    book.grant(granted(1, amount=100), boot_ms=0, worst_case_nanos=30)
    assert 60 == lease_of(book.take_changes()).watermark_nanos


@pytest.mark.parametrize(("arrives_ms", "left"), [(1_599, 100), (1_600, 0)])
def test_a_grant_is_as_old_as_the_wish_that_it_answers(arrives_ms: int, left: int) -> None:
    """However long it was on its way, or the machine asleep: it ends in time (rules A_3, L_3)."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1")
    late = granted(1, amount=100, duration_ms=1_000, asked_boot_ms=600)
    assert book.grant(late, boot_ms=arrives_ms)
    assert left == book.available_nanos()
    closes = [close.final_nanos for close in book.finish_closing()]
    assert ([] if left else [0]) == closes


def test_a_lease_that_closes_takes_no_reservation() -> None:
    """Closing refuses what is new and waits for what is open (rule L_5)."""
    book = book_with()
    reserve(book, "r1", 10)
    book.recall(0, boot_ms=5, reason="the budget was cut")
    assert LeaseRefusal.NO_LEASE is reserve(book, "r2", 10)
    assert [] == book.finish_closing()
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=7)
    assert [LeaseClose(1, 7, clean=True, reason="the budget was cut")] == book.finish_closing()
    assert [] == book.finish_closing()


def test_one_lease_can_be_recalled_alone() -> None:
    """The other leases go on."""
    book = book_with()
    book.grant(granted(2, amount=30), boot_ms=0)
    book.recall(1, boot_ms=0, reason="prices have changed")
    assert [True, False] == [lease.closing for lease in book.status()]
    assert 30 == book.available_nanos()


def test_a_closing_lease_waits_only_so_long() -> None:
    """After `close_wait_ms` the open reservations are named, to be settled in full (rule L_5)."""
    book = book_with()
    reserve(book, "r1", 10)
    book.recall(1, boot_ms=100, reason="expired")
    assert () == book.overdue_reservations(boot_ms=149, close_wait_ms=50)
    assert ("r1",) == book.overdue_reservations(boot_ms=150, close_wait_ms=50)


def test_a_lease_expires_on_the_clock_since_boot() -> None:
    """Its time is a duration, counted from its arrival (rule L_3)."""
    book = book_with()
    book.expire(boot_ms=59_999)
    assert [False] == [lease.closing for lease in book.status()]
    book.expire(boot_ms=60_000)
    assert [True] == [lease.closing for lease in book.status()]


@pytest.mark.parametrize(
    ("boot_id", "final", "reason"),
    [("boot-1", 35, "process ended"), ("boot-2", 100, "rebooted"), ("", 100, "rebooted")],
)
def test_an_unclean_stop_closes_by_the_boot(boot_id: str, final: int, reason: str) -> None:
    """In the same boot at what is known, else at the watermark (rule L_4)."""
    book = book_with()
    reserve(book, "r1", 30)
    reserve(book, "r2", 20)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=15)
    fresh = restarted(book, boot_id=boot_id)
    assert [LeaseClose(1, final, clean=False, reason=reason)] == fresh.close_earlier()
    assert [] == fresh.close_earlier()
    assert ("r2",) == fresh.take_changes().dropped


def test_without_a_boot_id_every_restart_is_a_reboot() -> None:
    """Two empty boot ids are not the same boot (rule L_3)."""
    book = LeaseBook(incarnation="inc-1", boot_id="", chunks=1)
    book.grant(granted(1, amount=100), boot_ms=0)
    assert [100] == [close.final_nanos for close in restarted(book, boot_id="").close_earlier()]


def test_changes_are_taken_once() -> None:
    """A reservation that was made and settled in between is never written."""
    book = book_with()
    book.take_changes()
    reserve(book, "r1", 10)
    book.settle("r1", kind=SettleKind.RELEASED)
    changes = book.take_changes()
    assert ((), ("r1",)) == (changes.reservations, changes.dropped)
    assert LeaseChanges() == book.take_changes()


def test_closed_leases_are_forgotten_by_number() -> None:
    """The books may drop them once their close is spooled; their number stays used."""
    book = book_with()
    book.recall(0, boot_ms=0, reason="x")
    book.finish_closing()
    assert (1,) == book.forget_closed()
    assert () == book.status()
    assert not book.grant(granted(1), boot_ms=0)
