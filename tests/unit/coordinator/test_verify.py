"""The ledger's rows tell everything; a balance that disagrees with them is named (rule C_2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.account import BudgetAccount
from coordinator.records import (
    MOVES,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    SpendRow,
    WindowRow,
)
from coordinator.spend import SpendByDay
from coordinator.verify import LedgerSums
from shared.limits import NUMBER_MAX

LEASE = LeaseRecord("d1", 1, "inc", 7, 300, 1, 0)


def account() -> BudgetAccount:
    """A window of 1,000 nanos with a lease of 300, of which 40 are settled."""
    made = BudgetAccount()
    made.open_window(7, start_unix_ms=0, end_unix_ms=10, target_nanos=1_000)
    made.grant(LEASE)
    made.settle("d1", 1, cost=40, request_id="r1", at=1)
    return made


def books(made: BudgetAccount) -> tuple[list[LedgerRow], WindowRow, LeaseRecord]:
    """What an account would have stored."""
    rows = [row for row in made.take_changes() if isinstance(row, LedgerRow)]
    lease = made.lease("d1", 1)
    assert lease is not None
    return rows, made.window(7), lease


def differences(rows: list[LedgerRow], window: WindowRow, lease: LeaseRecord) -> list[str]:
    """What a verification says; the lines of the days are as the rows are."""
    sums, spend = LedgerSums(), SpendByDay()
    for row in rows:
        sums.take(row)
        settled, unconfirmed, _ = MOVES[row.kind]
        spend.add(
            ("large", "shop"),
            settled=settled * row.amount_nanos,
            unconfirmed=unconfirmed * row.amount_nanos,
            unix_ms=row.at_unix_ms,
        )
    return sums.differences(windows=[window], leases=[lease], spend=spend.take())


def test_true_books_verify() -> None:
    """Through a write-off and the late word of the device."""
    made = account()
    made.write_off("d1", at=2, note="ann")
    made.settle("d1", 1, cost=10, request_id="r2", at=3)
    made.close("d1", 1, final=70, at=4, note="back")
    rows, window, lease = books(made)
    assert [] == differences(rows, window, lease)
    assert (50, 20, 0) == (
        window.settled_nanos,
        window.unconfirmed_nanos,
        window.outstanding_nanos,
    )
    assert 240 == sum(row.amount_nanos for row in rows if row.kind is LedgerKind.REFUND) + 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("settled_nanos", "window 7: settled_nanos is 41, its rows add up to 40"),
        ("unconfirmed_nanos", "window 7: unconfirmed_nanos is 1, its rows add up to 0"),
        ("outstanding_nanos", "window 7: outstanding_nanos is 261, its rows add up to 260"),
    ],
)
def test_a_false_balance_of_a_window_is_named(name: str, said: str) -> None:
    """With its place, what it says and what its rows say."""
    rows, window, lease = books(account())
    window = replace(window, **{name: getattr(window, name) + 1})
    assert [said] == differences(rows, window, lease)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("amount_nanos", "lease 1 of d1: granted is 301 nanos, its rows add up to 300"),
        ("booked_nanos", "lease 1 of d1: booked is 41 nanos, its rows add up to 40"),
        ("unconfirmed_nanos", "lease 1 of d1: unconfirmed is 1 nanos, its rows add up to 0"),
    ],
)
def test_a_false_figure_of_a_lease_is_named(name: str, said: str) -> None:
    """And so is what it leaves to spend, if that is false with it."""
    rows, window, lease = books(account())
    lease = replace(lease, **{name: getattr(lease, name) + 1})
    assert said in differences(rows, window, lease)


def test_a_lease_that_is_open_by_its_record_alone_is_named() -> None:
    """Its money came back by its rows, and the record would let it be spent again."""
    made = account()
    made.close("d1", 1, final=40, at=2, note="expired")
    rows, window, lease = books(made)
    said = ["lease 1 of d1: outstanding is 260 nanos, its rows add up to 0"]
    assert said == differences(rows, window, replace(lease, end=LeaseEnd.OPEN))


def test_rows_without_a_record_and_records_without_rows_are_named() -> None:
    """Neither may vanish behind the other's back."""
    rows, window, lease = books(account())
    sums = LedgerSums()
    for row in rows:
        sums.take(row)
    other, unheard = replace(window, id=8), replace(lease, number=2, booked_nanos=0)
    assert [
        "window 7 has ledger rows and no record",
        "window 8: settled_nanos is 40, its rows add up to 0",
        "window 8: outstanding_nanos is 260, its rows add up to 0",
        "lease 2 of d1: granted is 300 nanos, its rows add up to 0",
        "lease 2 of d1: outstanding is 300 nanos, its rows add up to 0",
        "lease 1 of d1 has ledger rows and no record",
    ] == sums.differences(
        windows=[other], leases=[unheard], spend=[SpendRow(0, "large", "shop", 40)]
    )


def test_money_that_no_day_has_is_named() -> None:
    """What is exported must be what the ledger says."""
    sums = LedgerSums()
    for row in books(account())[0]:
        sums.take(row)
    lines = [SpendRow(0, "large", "shop", 30), SpendRow(0, "", "", 9, 1)]
    said = sums.differences(windows=[], leases=[], spend=lines)
    assert "spend by day: settled_nanos is 39, the rows of all windows add up to 40" in said
    assert "spend by day: unconfirmed_nanos is 1, the rows of all windows add up to 0" in said


@pytest.mark.parametrize("most", [NUMBER_MAX, -NUMBER_MAX])
def test_a_day_that_has_lost_count_is_named(most: int) -> None:
    """One line of it is at its limit, whatever the sums are; its other figure is compared."""
    one = most // NUMBER_MAX
    lines = [SpendRow(0, "large", "shop", most), SpendRow(0, "", "", one - most, 1)]
    lines.append(SpendRow(0, "small", "shop", -one))
    assert [
        "spend by day: settled_nanos has lost count, a line is at the limit of 64 bits",
        "spend by day: unconfirmed_nanos is 1, the rows of all windows add up to 0",
    ] == LedgerSums().differences(windows=[], leases=[], spend=lines)


def test_a_missing_row_is_named() -> None:
    """Ids rise without gaps: nobody takes a row out unseen."""
    made = account()
    made.settle("d1", 1, cost=1, request_id="r2", at=2)
    rows, window, lease = books(made)
    said = differences(rows[1:], window, lease)
    assert ["row 2 stands where row 1 should be"] == [each for each in said if "stands" in each]
    assert any("granted is 300" in each for each in said)


def test_what_is_assumed_unspent_marks_its_window() -> None:
    """The money is free again, and the window says that promise P1 no longer covers it."""
    made = account()
    assert 260 == made.write_off("d1", at=2, note="ann", assume_unspent=True)
    window = made.window(7)
    assert (960, "$0.000000260 of d1, lease 1: ann") == (window.free_nanos, window.alarms)
    made.settle("d1", 1, cost=30, request_id="late", at=3)
    assert 70 == made.window(7).settled_nanos
    assert [] == differences(*books(made))


def test_what_was_assumed_unspent_and_is_not_comes_back_into_the_books() -> None:
    """The device tells 100 nanos: those were spent, explained or not."""
    made = account()
    made.write_off("d1", at=2, note="ann", assume_unspent=True)
    made.close("d1", 1, final=100, at=4, note="back")
    assert (40, 60) == (made.window(7).settled_nanos, made.window(7).unconfirmed_nanos)
    made.settle("d1", 1, cost=60, request_id="late", at=5)
    assert (100, 0) == (made.window(7).settled_nanos, made.window(7).unconfirmed_nanos)
    assert [] == differences(*books(made))


def test_a_presented_lease_is_booked_even_if_it_does_not_fit() -> None:
    """Its money is out, so nothing is free before it has come back (rule C_5)."""
    made = account()
    lost = replace(LEASE, number=2, amount_nanos=900)
    made.adopt(lost)
    made.adopt(lost)
    window = made.window(7)
    assert (1_160, 0) == (window.outstanding_nanos, window.free_nanos)
    made.close("d1", 2, final=0, at=4, note="back")
    assert 700 == made.window(7).free_nanos
    record = made.lease("d1", 2)
    assert record is not None
    assert LeaseEnd.CLOSED is record.end
