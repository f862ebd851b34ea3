"""A device's leases (rules L_1 to L_6, S_2 to S_4)."""

from __future__ import annotations

import pytest

from shared.decision.lease import (
    NO_CHANGES,
    LeaseBook,
    LeaseChanges,
    LeaseGranted,
    LeaseRefusal,
    LeaseRow,
    ReservationRow,
    Settlement,
)
from shared.decision.types import LeaseClose, LeaseStatus, SettleKind
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


def test_a_grant_is_kept_and_told_as_it_came() -> None:
    """Its window, its prices and the process and boot that it belongs to go to the books."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=1)
    grant = LeaseGranted(number=7, window_id=3, amount_nanos=100, duration_ms=50, price_version=9)
    assert book.grant(grant, boot_ms=1_000)
    row = LeaseRow(7, "inc-1", "boot-1", 3, 100, 9, expires_boot_ms=1_050, watermark_nanos=100)
    assert LeaseChanges(leases=(row,)) == book.take_changes()
    sync(book)
    reserve(book, "r1", 60)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=20)
    reserve(book, "r2", 30)
    assert (LeaseStatus(7, 3, 100, 20, 30, 100, closing=False),) == book.status()


@pytest.mark.parametrize(("amount", "taken"), [(0, False), (1, True)])
def test_a_grant_of_nothing_is_no_grant(amount: int, taken: bool) -> None:
    """The smallest lease is one nano-dollar."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1")
    assert taken is book.grant(granted(1, amount=amount), boot_ms=0)
    assert (1 if taken else 0) == book.number_max


def test_nothing_is_reserved_before_the_first_sync() -> None:
    """A grant can be spent once its number and watermark are on the disk (rule L_1)."""
    book = book_with(synced=False)
    assert 0 == book.room_nanos
    assert LeaseRefusal.NOT_SYNCED is reserve(book, "r1", 1)
    sync(book)
    assert isinstance(reserve(book, "r1", 1), ReservationRow)


def test_what_can_be_reserved_at_once_follows_every_change() -> None:
    """It is asked for between all events, so what was said before must not stick."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=1)
    rooms = [book.room_nanos]
    book.grant(granted(1, amount=100), boot_ms=0)
    rooms.append(book.room_nanos)
    sync(book)
    rooms.append(book.room_nanos)
    reserve(book, "r1", 60)
    rooms.append(book.room_nanos)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=30)
    rooms.append(book.room_nanos)
    book.recall(1, boot_ms=0, reason="x")
    rooms.append(book.room_nanos)
    assert [-1, 0, 100, 40, 70, -1] == rooms


def test_a_reservation_goes_to_a_lease_whose_watermark_is_synced() -> None:
    """An older lease with more room waits for its disk (rule L_2)."""
    book = book_with(100, chunks=2)
    book.grant(granted(2, amount=100), boot_ms=0, worst_case_nanos=50)
    sync(book)
    row = reserve(book, "r1", 60)
    assert isinstance(row, ReservationRow)
    assert 2 == row.lease_number


def test_what_is_reserved_says_for_whom() -> None:
    """If the process ends, its successor reports the request from this row."""
    book = book_with()
    row = book.reserve(
        "inc-1.1", request_id="q", arm="a", amount_nanos=9, task_class="code", arrived_unix_ms=5
    )
    assert ReservationRow("inc-1.1", "q", "a", 1, 9, "code", 5) == row


def test_a_sync_that_is_told_late_takes_nothing_back() -> None:
    """The books tell of syncs in any order; the highest watermark is on the disk (rule L_2)."""
    book = book_with(100, synced=False)
    book.watermark_synced(1, 80)
    book.watermark_synced(1, 30)
    assert 80 == book.room_nanos


def test_a_sync_of_a_lease_that_is_gone_is_nothing_to_the_others() -> None:
    """It may have closed while the disk was busy."""
    book = book_with()
    book.watermark_synced(2, 500)
    assert 100 == book.room_nanos


def test_a_closing_lease_needs_no_sync() -> None:
    """Nothing more is reserved on it."""
    book = book_with(synced=False)
    assert [1] == [row.number for row in book.unsynced()]
    book.recall(1, boot_ms=0, reason="x")
    assert () == book.unsynced()


@pytest.mark.parametrize(("synced", "reason"), [(True, None), (False, LeaseRefusal.NOT_SYNCED)])
def test_the_last_of_a_lease_can_be_reserved(synced: bool, reason: LeaseRefusal | None) -> None:
    """What fits exactly is not too large."""
    book = book_with(100, synced=synced)
    assert reason is book.refusal(100)
    assert LeaseRefusal.TOO_SMALL is book.refusal(101)


def test_a_lease_is_not_exceeded_even_if_the_disk_is_said_to_hold_more() -> None:
    """A watermark above the lease is a defect of the caller, and nothing is spent on it (I2)."""
    book = book_with(100)
    book.watermark_synced(1, 1_000)
    reserve(book, "r1", 60)
    with pytest.raises(InvariantError, match="I2 broken"):
        reserve(book, "r2", 41)


def test_a_worst_case_is_not_negative_and_a_reservation_is_made_once() -> None:
    """Either would create money, so either is a defect of the caller."""
    book = book_with()
    with pytest.raises(InvariantError, match="negative: -1"):
        reserve(book, "r1", -1)
    reserve(book, "r1", 10)
    with pytest.raises(InvariantError, match="r1 is reserved twice"):
        reserve(book, "r1", 10)
    assert 90 == book.available_nanos()


def test_the_size_of_the_newest_active_lease_is_known() -> None:
    """By it a device judges when it is low."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1")
    assert 0 == book.newest_amount_nanos()
    for number, amount in ((1, 100), (2, 70), (3, 30)):
        book.grant(granted(number, amount=amount), boot_ms=0)
    assert 30 == book.newest_amount_nanos()
    book.recall(3, boot_ms=0, reason="x")
    assert 70 == book.newest_amount_nanos()


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
    assert Settlement(1, 50, booked, 0, kind) == book.settle("r1", kind=kind, cost_nanos=cost)
    assert 100 - booked == book.available_nanos()


def test_a_paid_answer_may_have_cost_nothing() -> None:
    """A report of zero is a report."""
    book = book_with()
    reserve(book, "r1", 50)
    assert 0 == book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=0).cost_nanos


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
    with pytest.raises(InvariantError, match="not negative: -1"):
        book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=-1)


def test_a_reservation_is_settled_once() -> None:
    """A second word on it is a defect of the caller, not a second cost."""
    book = book_with()
    reserve(book, "r1", 50)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=30)
    with pytest.raises(KeyError):
        book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=30)
    assert 70 == book.available_nanos()


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


@pytest.mark.parametrize(("second", "watermark"), [(2, 25), (3, 50), (5, 50)])
def test_a_watermark_is_raised_half_a_step_before_it_is_reached(
    second: int, watermark: int
) -> None:
    """Small requests too find the next step synced when they come to it."""
    book = book_with(100, chunks=4)
    reserve(book, "r1", 10)
    reserve(book, "r2", second)
    assert watermark == lease_of(book.take_changes()).watermark_nanos


def test_a_watermark_ends_with_its_lease() -> None:
    """Whoever finds it after a loss of power books no more than was lent."""
    book = book_with(100, chunks=4)
    book.make_room(90)
    assert 100 == lease_of(book.take_changes()).watermark_nanos


def test_the_first_watermark_ends_with_its_lease_too() -> None:
    """Although two requests as they were lately are more than was lent."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=4)
    book.grant(granted(1, amount=100), boot_ms=0, worst_case_nanos=80)
    assert 100 == lease_of(book.take_changes()).watermark_nanos


def test_a_step_of_a_watermark_is_a_whole_number_of_nanos() -> None:
    """Rounded up, so that the last step reaches the end."""
    book = book_with(10, chunks=4)
    assert "3" == str(lease_of(book.take_changes()).watermark_nanos)


def test_a_refused_reservation_asks_for_the_room_that_it_lacked() -> None:
    """After the next sync the same worst case fits (rule L_2)."""
    book = book_with(100, chunks=10)
    assert LeaseRefusal.NOT_SYNCED is reserve(book, "r1", 80)
    sync(book)
    assert isinstance(reserve(book, "r1", 80), ReservationRow)


@pytest.mark.parametrize(
    ("worst_case", "watermarks"),
    [
        (19, [30, 25]),  # the first lease needs no more
        (30, [40, 25]),  # it has just the room
        (31, [30, 56]),  # it has not
    ],
)
def test_room_is_made_on_the_first_lease_that_has_it(
    worst_case: int, watermarks: list[int]
) -> None:
    """A lease without room is left as it is."""
    book = book_with(40, chunks=4)
    reserve(book, "r1", 10)
    book.grant(granted(2, amount=100), boot_ms=0)
    sync(book)
    book.make_room(worst_case)
    assert watermarks == [lease.watermark_nanos for lease in book.status()]


def test_room_is_made_on_the_next_lease_when_the_first_is_open_to_its_end() -> None:
    """A watermark that cannot rise any more does not hold up those behind it."""
    book = book_with(80, chunks=2)
    book.grant(granted(2, amount=100), boot_ms=0)
    for _ in range(2):
        book.make_room(60)
        sync(book)
    assert [80, 100] == [lease.watermark_nanos for lease in book.status()]


@pytest.mark.parametrize(
    ("together", "watermarks"),
    [
        (5, [30, 25]),  # room for it is there
        (25, [35, 25]),
        (30, [40, 25]),  # all that the first lease has
        (60, [40, 30]),
        (500, [40, 100]),
    ],
)
def test_room_for_many_is_made_on_as_many_leases_as_it_takes(
    together: int, watermarks: list[int]
) -> None:
    """A watermark that is high enough stays, and none rises above its lease."""
    book = book_with(40, chunks=4)
    reserve(book, "r1", 10)
    book.grant(granted(2, amount=100), boot_ms=0)
    sync(book)
    book.make_room_together(together)
    assert watermarks == [lease.watermark_nanos for lease in book.status()]


def test_room_that_is_there_already_changes_nothing() -> None:
    """No row is written for it."""
    book = book_with(40, chunks=4)
    book.take_changes()
    book.make_room_together(10)
    assert book.take_changes() is NO_CHANGES


def test_no_room_is_made_on_a_lease_that_an_overrun_has_spent() -> None:
    """Its watermark stays within it, so that not even a call without a price goes onto it."""
    book = book_with(10)
    reserve(book, "r1", 6)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=15)
    book.make_room_together(20)
    sync(book)
    assert [10] == [lease.watermark_nanos for lease in book.status()]
    assert isinstance(reserve(book, "r2", 0), LeaseRefusal)


def test_a_lease_waits_for_a_call_without_a_price_as_for_any_other() -> None:
    """What holds nothing of it is open all the same, and settles on it."""
    book = book_with(10)
    reserve(book, "free", 0)
    book.retire(11, boot_ms=1)
    assert 10 == book.available_nanos()
    book.recall(1, boot_ms=1, reason="expired")
    assert [] == book.finish_closing()
    settled = book.settle("free", kind=SettleKind.REPORTED, cost_nanos=0)
    assert (1, 0) == (settled.lease_number, settled.cost_nanos)
    assert [0] == [close.final_nanos for close in book.finish_closing()]


def test_room_can_be_made_for_a_request_that_is_larger_than_all_before() -> None:
    """A worst case that fits the lease fits after one sync."""
    book = book_with(100, chunks=10)
    assert LeaseRefusal.NOT_SYNCED is book.refusal(80)
    book.make_room(80)
    sync(book)
    assert book.refusal(80) is None


def test_the_first_watermark_has_room_for_two_requests() -> None:
    """However large they were lately; without that, one step is open."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=100)
    book.grant(granted(1, amount=100), boot_ms=0, worst_case_nanos=30)
    assert 60 == lease_of(book.take_changes()).watermark_nanos
    book.grant(granted(2, amount=100), boot_ms=0)
    assert 1 == lease_of(book.take_changes()).watermark_nanos


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


def test_a_lease_waits_for_each_of_its_reservations() -> None:
    """The first that settles leaves the others open."""
    book = book_with(10)
    reserve(book, "first", 4)
    reserve(book, "second", 5)
    book.recall(1, boot_ms=1, reason="expired")
    book.settle("first", kind=SettleKind.RELEASED)
    assert [] == book.finish_closing()
    book.settle("second", kind=SettleKind.UNKNOWN)
    assert [5] == [close.final_nanos for close in book.finish_closing()]


def test_a_book_without_leases_has_nothing_to_close() -> None:
    """House-keeping looks after a device that was never lent any money, too."""
    book = LeaseBook(incarnation="inc-1", boot_id="boot-1")
    assert [] == book.finish_closing()
    assert () == book.overdue_reservations(boot_ms=1, close_wait_ms=0)


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
    reserve(book, "r1", 10)
    book.expire(boot_ms=60_000)
    assert [True] == [lease.closing for lease in book.status()]
    assert () == book.overdue_reservations(boot_ms=60_049, close_wait_ms=50)
    assert ("r1",) == book.overdue_reservations(boot_ms=60_050, close_wait_ms=50)


@pytest.mark.parametrize(
    ("boot_id", "final", "reason"),
    [("boot-1", 42, "process ended"), ("boot-2", 100, "rebooted"), ("", 100, "rebooted")],
)
def test_an_unclean_stop_closes_by_the_boot(boot_id: str, final: int, reason: str) -> None:
    """In the same boot at what is known, else at the watermark (rule L_4)."""
    book = book_with()
    reserve(book, "r1", 30)
    reserve(book, "r2", 20)
    reserve(book, "r3", 7)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=15)
    fresh = restarted(book, boot_id=boot_id)
    assert [LeaseClose(1, final, clean=False, reason=reason)] == fresh.close_earlier()
    assert [] == fresh.close_earlier()
    assert ("r2", "r3") == fresh.take_changes().dropped


@pytest.mark.parametrize(("spent", "final"), [(30, 100), (130, 130)])
def test_a_copy_of_the_books_closes_at_the_whole_lease(spent: int, final: int) -> None:
    """The original may be spending on it; what is known beyond the lease counts too (D_2)."""
    book = book_with()
    reserve(book, "r1", 30)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=spent)
    fresh = restarted(book, boot_id="boot-1")
    (close,) = fresh.close_earlier(in_full=True)
    assert LeaseClose(1, final, clean=False, reason="the books were copied") == close


def test_every_lease_closes_at_its_own_reservations() -> None:
    """Those of another lease are that one's; a lease that had closed before stays closed."""
    book = book_with(10)
    reserve(book, "r1", 10)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=10)
    book.recall(1, boot_ms=0, reason="x")
    book.finish_closing()
    for number in (2, 3):
        book.grant(granted(number, amount=50), boot_ms=0)
        sync(book)
        reserve(book, f"r{number}", 20 + number)
        book.recall(number, boot_ms=0, reason="x")
    closes = restarted(book, boot_id="boot-1").close_earlier()
    assert [(2, 22), (3, 23)] == [(close.lease_number, close.final_nanos) for close in closes]


def test_a_loss_of_power_does_not_hide_an_overrun() -> None:
    """What is known to be spent beyond the watermark is spent (rules L_4, S_4)."""
    book = book_with(100, chunks=4)
    reserve(book, "r1", 20)
    book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=70)
    assert 65 == book.status()[0].watermark_nanos
    (close,) = restarted(book, boot_id="boot-2").close_earlier()
    assert 70 == close.final_nanos


def test_the_numbers_of_an_earlier_process_stay_used() -> None:
    """Also if nothing but the leases themselves is left to tell them (rule L_1)."""
    fresh = restarted(book_with(), boot_id="boot-1")
    assert 1 == fresh.number_max
    assert not fresh.grant(granted(1), boot_ms=0)


def test_what_a_process_began_itself_is_not_taken_for_an_earlier_ones() -> None:
    """Its own lease and reservation stay, however often the earlier ones are asked for."""
    book = book_with()
    reserve(book, "r1", 10)
    fresh = restarted(book, boot_id="boot-1")
    assert ["r1"] == [row.id for row in fresh.earlier_reservations()]
    assert [1] == [close.lease_number for close in fresh.close_earlier()]
    fresh.grant(granted(2, amount=50), boot_ms=0)
    sync(fresh)
    reserve(fresh, "r2", 10)
    assert () == fresh.earlier_reservations()
    assert [] == fresh.close_earlier()
    assert 40 == fresh.available_nanos()


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
    assert () == book.forget_closed()
    assert () == book.status()
    assert not book.grant(granted(1), boot_ms=0)


def test_only_what_is_held_on_a_lease_that_closes_is_overdue() -> None:
    """A newer lease's calls have all their time (rule L_5)."""
    book = book_with(100)
    reserve(book, "old", 100)
    book.recall(1, boot_ms=1_000, reason="the window is over")
    book.grant(granted(2, amount=100), boot_ms=1_000)
    sync(book)
    reserve(book, "new", 50)
    assert () == book.overdue_reservations(boot_ms=1_499, close_wait_ms=500)
    assert ("old",) == book.overdue_reservations(boot_ms=1_500, close_wait_ms=500)


def test_a_reservation_keeps_whose_budget_it_is_in() -> None:
    """An API key's window is settled with the lease, also when the next one has begun."""
    book = book_with(100)
    row = book.reserve(
        "r1", request_id="r1", arm="cloud", amount_nanos=40, task_class="x", arrived_unix_ms=0,
        key_tag="shop", key_window=7,
    )  # fmt: skip
    assert isinstance(row, ReservationRow)
    assert ("shop", 7) == (row.key_tag, row.key_window)
    settled = book.settle("r1", kind=SettleKind.REPORTED, cost_nanos=9)
    assert ("shop", 7) == (settled.key_tag, settled.key_window)
