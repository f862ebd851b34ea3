"""The budget of an API key: windows, watermarks, restarts."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from shared.decision.key_budget import (
    NO_WINDOW,
    KeyBudget,
    KeyBudgetBook,
    KeyBudgetRefusal,
    KeyBudgetRow,
)
from shared.decision.lease import ReservationRow, Settlement
from shared.decision.types import SettleKind

DAY_MS = 86_400_000
NOON = 20_000 * DAY_MS + DAY_MS // 2
MIDNIGHT = 20_000 * DAY_MS
_numbers = count(1)


def book_of(
    *rows: KeyBudgetRow, amount: int = 1_000, window_ms: int = DAY_MS, held: int = 0
) -> KeyBudgetBook:
    """The book of one key, `shop`, with these rows and one reservation of so much."""
    book = KeyBudgetBook([KeyBudget("shop", amount, window_ms)])
    reservations = [held_row(held, window=rows[0].start_unix_ms)] if held else []
    book.restore(rows=rows, reservations=reservations)
    return book


def opened(*, amount: int = 1_000, unix_ms: int = NOON) -> KeyBudgetBook:
    """A book whose first window is open and synced."""
    book = book_of(amount=amount)
    book.open_windows(unix_ms=unix_ms)
    sync(book)
    return book


def sync(book: KeyBudgetBook) -> None:
    """What the house-keeping does."""
    for row in book.unsynced():
        book.synced(row)


def held_row(amount: int, *, window: int, tag: str = "shop") -> ReservationRow:
    """A reservation on a key's window."""
    name = f"r{next(_numbers)}"
    return ReservationRow(name, name, "a", 1, amount, "x", 0, key_tag=tag, key_window=window)


def watermarks(book: KeyBudgetBook) -> list[int]:
    """What was raised and is not synced."""
    return [row.watermark_nanos for row in book.unsynced()]


def hold(book: KeyBudgetBook, amount: int) -> ReservationRow:
    """Reserve what is not refused."""
    assert book.refusal("shop", amount) is None
    row = held_row(amount, window=book.window_of("shop"))
    book.hold(row)
    return row


def settle(book: KeyBudgetBook, row: ReservationRow, cost: int) -> Settlement:
    """End a reservation at its reported cost."""
    settled = Settlement(
        lease_number=1,
        reserved_nanos=row.amount_nanos,
        cost_nanos=cost,
        overrun_nanos=max(0, cost - row.amount_nanos),
        kind=SettleKind.REPORTED,
        key_tag=row.key_tag,
        key_window=row.key_window,
    )
    book.settle(settled)
    return settled


def test_a_window_is_aligned_to_the_epoch_and_ends_with_its_period() -> None:
    """A day begins at midnight UTC."""
    (status,) = opened().status()
    assert (MIDNIGHT + DAY_MS, 0, 0) == (
        status.end_unix_ms,
        status.settled_nanos,
        status.reserved_nanos,
    )


def test_a_key_without_a_budget_is_not_limited_here() -> None:
    """The fleet's budget is, elsewhere."""
    book = opened()
    assert book.refusal("lab", 10**12) is None
    assert book.room_nanos("lab") is None


def test_nothing_is_reserved_before_the_window_is_synced() -> None:
    """A loss of power would forget that it was ever opened."""
    book = book_of()
    book.open_windows(unix_ms=NOON)
    assert KeyBudgetRefusal.NOT_SYNCED is book.refusal("shop", 1)
    sync(book)
    assert book.refusal("shop", 1) is None


def test_the_worst_case_is_held_and_settled_at_its_cost() -> None:
    """What was not spent has room again; beyond the budget nothing has."""
    book = opened(amount=100)
    row = hold(book, 20)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 81)
    settle(book, row, 5)
    sync(book)
    assert book.refusal("shop", 95) in (None, KeyBudgetRefusal.NOT_SYNCED)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 96)


def test_a_reservation_beyond_the_synced_watermark_waits_for_the_next_sync() -> None:
    """The request goes without; those after the sync have room."""
    book = opened(amount=1_000)
    assert KeyBudgetRefusal.NOT_SYNCED is book.refusal("shop", 251)
    book.make_room("shop", 251)
    sync(book)
    assert book.refusal("shop", 251) is None


def test_a_new_window_opens_when_the_last_one_has_ended() -> None:
    """Until its row is synced the old one goes on; then it starts from nothing."""
    book = opened(amount=100)
    old = hold(book, 25)
    book.open_windows(unix_ms=NOON + DAY_MS)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 76)
    sync(book)
    settle(book, old, 25)  # belongs to the window that it was reserved in
    (status,) = book.status()
    assert (0, 0, MIDNIGHT + 2 * DAY_MS) == (
        status.settled_nanos,
        status.reserved_nanos,
        status.end_unix_ms,
    )


def test_the_room_of_a_key_is_what_is_synced_and_not_used() -> None:
    """Within its budget, also after a cut; a late word of an older sync takes nothing back."""
    book = book_of(amount=1_000)
    assert (-1, NO_WINDOW) == (book.room_nanos("shop"), book.window_of("shop"))
    book.open_windows(unix_ms=NOON)
    opening = book.unsynced()
    sync(book)
    assert (250, MIDNIGHT) == (book.room_nanos("shop"), book.window_of("shop"))
    hold(book, 100)
    assert 150 == book.room_nanos("shop")
    sync(book)
    room = book.room_nanos("shop")
    for row in opening:
        book.synced(row)
    assert room == book.room_nanos("shop")
    book.configure([KeyBudget("shop", 120, DAY_MS)])
    assert 20 == book.room_nanos("shop")
    book.configure([])
    assert (None, NO_WINDOW) == (book.room_nanos("shop"), book.window_of("shop"))


def test_a_window_opens_in_its_own_time() -> None:
    """Whatever the other keys' do; after days without any it begins at its own midnight."""
    book = KeyBudgetBook([KeyBudget("shop", 100, DAY_MS), KeyBudget("lab", 100, DAY_MS // 4)])
    book.open_windows(unix_ms=NOON)
    sync(book)
    assert (MIDNIGHT, NOON) == (book.window_of("shop"), book.window_of("lab"))
    book.open_windows(unix_ms=NOON + DAY_MS // 4)
    sync(book)
    assert (MIDNIGHT, NOON + DAY_MS // 4) == (book.window_of("shop"), book.window_of("lab"))
    book.open_windows(unix_ms=NOON + 3 * DAY_MS)
    sync(book)
    assert MIDNIGHT + 3 * DAY_MS == book.window_of("shop")


def test_a_window_opens_with_no_more_than_its_budget() -> None:
    """Else a loss of power would count more as spent than there was."""
    book = opened(amount=100)
    hold(book, 20)
    book.open_windows(unix_ms=NOON + DAY_MS)
    (row,) = book.take_changes()[-1:]
    assert (MIDNIGHT + DAY_MS, 100) == (row.start_unix_ms, row.watermark_nanos)


def test_only_what_was_raised_is_synced_and_counts_for_its_own_window() -> None:
    """A sync takes its time; the window that it covers may be over when it ends."""
    book = opened(amount=1_000)
    assert () == book.unsynced()
    book.make_room("shop", 600)
    raised = book.unsynced()
    book.open_windows(unix_ms=NOON + DAY_MS)
    (opening,) = book.unsynced()
    assert MIDNIGHT + DAY_MS == opening.start_unix_ms
    for row in raised:
        book.synced(row)
    assert MIDNIGHT == book.window_of("shop"), "the next one is not synced yet"
    book.synced(replace(opening, watermark_nanos=300))
    for row in raised:
        book.synced(row)
    assert (300, MIDNIGHT + DAY_MS) == (book.room_nanos("shop"), book.window_of("shop"))


def test_what_ends_while_the_next_window_is_synced_does_not_overwrite_it() -> None:
    """The books would fall back to the old window, and open the next one afresh."""
    book = opened(amount=100)
    old = hold(book, 20)
    book.open_windows(unix_ms=NOON + DAY_MS)
    in_the_books = {row.tag: row for row in book.take_changes()}
    syncing = book.unsynced()
    settle(book, old, 20)
    hold(book, 5)
    in_the_books |= {row.tag: row for row in book.take_changes()}
    for row in syncing:
        book.synced(row)
    assert MIDNIGHT + DAY_MS == in_the_books["shop"].start_unix_ms


def test_a_clock_that_steps_back_opens_nothing() -> None:
    """Neither an earlier window nor a fresh one, however far it goes."""
    book = opened(amount=100)
    settle(book, hold(book, 25), 25)
    sync(book)
    book.take_changes()
    for back in (1, DAY_MS, 400 * DAY_MS):
        book.open_windows(unix_ms=NOON - back)
        assert () == book.take_changes()
        assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 76)


def test_a_window_in_the_future_ends_when_it_has_lasted_as_long_as_one() -> None:
    """The clock was weeks ahead; by the time since boot no more than one budget is spent a day."""
    ahead = MIDNIGHT + 30 * DAY_MS
    book = opened(unix_ms=ahead)
    settle(book, hold(book, 250), 250)
    began = 5_000
    for boot_ms in (began, began + DAY_MS - 1):
        book.open_windows(unix_ms=NOON + boot_ms, boot_ms=boot_ms)
        assert ahead == book.window_of("shop")
    book.open_windows(unix_ms=NOON + DAY_MS, boot_ms=began + DAY_MS)
    sync(book)
    (status,) = book.status()
    assert MIDNIGHT + DAY_MS == book.window_of("shop")
    assert (0, MIDNIGHT + 2 * DAY_MS) == (status.settled_nanos, status.end_unix_ms)
    book.open_windows(unix_ms=MIDNIGHT + 2 * DAY_MS, boot_ms=began + 3 * DAY_MS // 2)
    sync(book)
    assert MIDNIGHT + 2 * DAY_MS == book.window_of("shop"), "and then as ever"


def test_the_time_of_a_window_in_the_future_begins_anew_with_a_right_clock() -> None:
    """And with another window, and with a process that knows no boot time."""
    ahead = MIDNIGHT + 30 * DAY_MS
    book = opened(unix_ms=ahead)
    for unix_ms, boot_ms in ((NOON, 0), (ahead, 1), (NOON, 2), (NOON, None), (NOON, 3)):
        book.open_windows(unix_ms=unix_ms, boot_ms=boot_ms)
    book.open_windows(unix_ms=NOON, boot_ms=DAY_MS + 2)
    assert ahead == book.window_of("shop")
    book.open_windows(unix_ms=NOON, boot_ms=DAY_MS + 3)
    sync(book)
    assert MIDNIGHT == book.window_of("shop")
    later = opened(unix_ms=ahead)
    later.open_windows(unix_ms=NOON, boot_ms=0)
    later.open_windows(unix_ms=ahead + DAY_MS, boot_ms=1)
    sync(later)
    later.open_windows(unix_ms=NOON, boot_ms=DAY_MS + 1)
    later.open_windows(unix_ms=NOON, boot_ms=2 * DAY_MS)
    assert ahead + DAY_MS == later.window_of("shop")


def test_another_length_counts_from_the_end_of_the_running_window() -> None:
    """A longer window that would have begun before is cut short: no money is given twice."""
    spent = KeyBudgetRow("shop", NOON, NOON + 3_600_000, settled_nanos=100, watermark_nanos=100)
    book = book_of(spent, amount=100)
    book.open_windows(unix_ms=NOON + 1)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 1)
    book.open_windows(unix_ms=NOON + 3_600_000)
    (row,) = book.take_changes()
    assert (NOON + 3_600_000, MIDNIGHT + DAY_MS) == (row.start_unix_ms, row.end_unix_ms)


def test_after_a_loss_of_power_the_watermark_counts_as_spent() -> None:
    """Whatever lies below it may have been spent."""
    row = KeyBudgetRow("shop", MIDNIGHT, MIDNIGHT + DAY_MS, settled_nanos=10, watermark_nanos=60)
    book = book_of(row, amount=100, held=5)
    book.close_earlier()
    sync(book)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 41)
    assert KeyBudgetRefusal.NOT_SYNCED is book.refusal("shop", 40)
    assert [(60, 0)] == [(each.settled_nanos, each.reserved_nanos) for each in book.status()]


def test_a_loss_of_power_takes_nothing_back_that_is_settled() -> None:
    """The window of copied books was counted as spent, whatever its watermark."""
    row = KeyBudgetRow("shop", MIDNIGHT, MIDNIGHT + DAY_MS, settled_nanos=100, watermark_nanos=60)
    book = book_of(row, amount=100)
    book.close_earlier()
    sync(book)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 1)


def test_after_the_end_of_the_process_what_it_had_reserved_is_still_held() -> None:
    """Until the gate settles it at its amount."""
    row = KeyBudgetRow("shop", MIDNIGHT, MIDNIGHT + DAY_MS, settled_nanos=10, watermark_nanos=60)
    book = book_of(row, amount=100)
    book.restore(
        rows=[row],
        reservations=[
            held_row(20, window=MIDNIGHT),
            held_row(30, window=MIDNIGHT),
            held_row(40, window=MIDNIGHT - DAY_MS),
        ],
    )
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 41)
    assert [(10, 50)] == [(each.settled_nanos, each.reserved_nanos) for each in book.status()]


def test_a_process_relies_on_no_watermark_that_it_has_not_synced() -> None:
    """The one before may have been killed between its commit and its sync."""
    row = KeyBudgetRow("shop", MIDNIGHT, MIDNIGHT + DAY_MS, watermark_nanos=60)
    book = book_of(row, amount=100)
    assert KeyBudgetRefusal.NOT_SYNCED is book.refusal("shop", 1)
    sync(book)
    assert book.refusal("shop", 60) is None


def test_the_windows_of_copied_books_are_spent() -> None:
    """Their original may be spending on them, also on one that began after the copy."""
    row = KeyBudgetRow("shop", MIDNIGHT, MIDNIGHT + DAY_MS, settled_nanos=10, watermark_nanos=60)
    for unix_ms in (NOON, NOON + DAY_MS):
        book = book_of(row, amount=100)
        book.close_earlier()
        book.spend_windows(unix_ms=unix_ms)
        book.open_windows(unix_ms=unix_ms + 1)
        sync(book)
        book.open_windows(unix_ms=unix_ms + 2)
        sync(book)
        assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 1)
        book.open_windows(unix_ms=unix_ms + DAY_MS)
        sync(book)
        assert book.refusal("shop", 1) is None


def test_an_overrun_is_booked_in_full_and_outlives_the_power() -> None:
    """It raises the watermark with it."""
    book = opened(amount=100)
    settle(book, hold(book, 20), 130)
    (row,) = book.take_changes()[-1:]
    assert (130, 130) == (row.settled_nanos, row.watermark_nanos)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 0)


def test_late_usage_corrects_the_window_that_it_belongs_to() -> None:
    """Down or up; another window is left alone."""
    book = opened(amount=100)
    settled = settle(book, hold(book, 20), 20)
    book.correct(settled, delta_nanos=-15)
    assert 5 == book.status()[0].settled_nanos
    book.open_windows(unix_ms=NOON + DAY_MS)
    sync(book)
    book.correct(settled, delta_nanos=7)
    assert 0 == book.status()[0].settled_nanos


def test_a_cut_budget_refuses_what_it_no_longer_covers() -> None:
    """What was spent stays; a budget of nothing closes every paid arm."""
    row = KeyBudgetRow("shop", MIDNIGHT, MIDNIGHT + DAY_MS, settled_nanos=60, watermark_nanos=60)
    book = book_of(row, amount=0)
    assert KeyBudgetRefusal.EXCEEDED is book.refusal("shop", 1)
    assert [(0, 60)] == [(each.amount_nanos, each.settled_nanos) for each in book.status()]


def test_room_for_many_is_made_at_once_and_within_the_budget() -> None:
    """What is there already stays; a window that is not open yet, and no budget, have none."""
    book = opened(amount=1_000)
    book.make_room_together("shop", 250)
    assert [] == watermarks(book), "the first quarter is open"
    for together, watermark in ((300, 300), (280, 300), (5_000, 1_000)):
        book.make_room_together("shop", together)
        assert [watermark] == watermarks(book)
    unopened = book_of(amount=1_000)
    for tag in ("shop", "other"):
        unopened.make_room_together(tag, 500)
    assert [] == watermarks(unopened)
    unopened.open_windows(unix_ms=NOON)
    unopened.make_room_together("shop", 500)
    assert [250] == watermarks(unopened)
