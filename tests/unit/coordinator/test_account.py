"""The budget's books, row by row (rules C_1 to C_7, S_3, S_4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.account import BudgetAccount
from coordinator.records import (
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    SpendRow,
    WindowRow,
)
from coordinator.spend import UNKNOWN
from shared.errors import InvariantError, NotFoundError
from shared.limits import AMOUNT_NANOS_MAX, BOOKED_NANOS_MAX

DEVICE = "dev"
WINDOW = WindowRow(7, 0, 10, 1_000)


def lent(amount: int = 100, *, budget: int = 1_000) -> BudgetAccount:
    """An account that has lent lease 1."""
    account = BudgetAccount()
    account.open_window(7, start_unix_ms=0, end_unix_ms=10, target_nanos=budget)
    account.grant(LeaseRecord(DEVICE, 1, "inc", 7, amount, 1, 0))
    account.take_changes()
    return account


def settle(account: BudgetAccount, cost: int) -> int:
    """Book a cost on lease 1."""
    return account.settle(DEVICE, 1, cost=cost, request_id="r1", at=1)


def adjust(account: BudgetAccount, delta: int) -> None:
    """Correct a cost on lease 1."""
    account.adjust(DEVICE, 1, delta=delta, request_id="r1", at=2)


def close(account: BudgetAccount, final: int) -> str:
    """Close lease 1."""
    return account.close(DEVICE, 1, final=final, at=3, note="expired")


def balances(account: BudgetAccount) -> tuple[int, int, int]:
    """Settled, unconfirmed, outstanding."""
    window = account.window(7)
    return window.settled_nanos, window.unconfirmed_nanos, window.outstanding_nanos


def rows(account: BudgetAccount) -> list[tuple[LedgerKind, int]]:
    """The rows since the last time."""
    return [(row.kind, row.amount_nanos) for row in ledger(account)]


def ledger(account: BudgetAccount) -> list[LedgerRow]:
    """The whole rows since the last time."""
    return [row for row in account.take_changes() if isinstance(row, LedgerRow)]


def lease(account: BudgetAccount, number: int = 1) -> LeaseRecord:
    """A lease that is known to be there."""
    found = account.lease(DEVICE, number)
    assert found is not None
    return found


def test_money_is_lent_only_while_it_is_free() -> None:
    """A lease beyond the free money is a defect of whoever sized it."""
    account = lent(900)
    assert (0, 0, 900) == balances(account)
    with pytest.raises(InvariantError, match="exceeds the free 100"):
        account.grant(LeaseRecord(DEVICE, 2, "inc", 7, 101, 1, 0))
    assert (0, 0, 900) == balances(account)


def test_a_lease_of_nothing_is_not_granted() -> None:
    """It would be one number more to close, and nothing to spend."""
    with pytest.raises(InvariantError, match="a lease of 0 nanos"):
        lent(0)
    assert [(LedgerKind.GRANT, 1)] == [(row.kind, row.amount_nanos) for row in granted(1)]


def granted(amount: int) -> list[LedgerRow]:
    """The rows of a grant."""
    account = BudgetAccount(windows=[WINDOW])
    account.grant(LeaseRecord(DEVICE, 1, "inc", 7, amount, 1, granted_unix_ms=5))
    return ledger(account)


@pytest.mark.parametrize("balances", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_nothing_is_lent_on_a_negative_balance(balances: tuple[int, int, int]) -> None:
    """It would make money free that is not there (I1)."""
    account = BudgetAccount(windows=[WINDOW.moved(*balances)])
    with pytest.raises(InvariantError, match="a balance is negative"):
        account.grant(LeaseRecord(DEVICE, 1, "inc", 7, 100, 1, 0))


def test_a_row_says_when_for_what_and_why() -> None:
    """Through the life of a lease; an auditor reads nothing else."""
    (row,) = granted(100)
    assert LedgerRow(1, 5, 7, LedgerKind.GRANT, DEVICE, 1, 100) == row
    account = lent()
    settle(account, 120)
    adjust(account, -30)
    adjust(account, 1)
    close(account, 95)
    settle(account, 4)
    assert [
        LedgerRow(2, 1, 7, LedgerKind.SETTLE, DEVICE, 1, 100, "r1"),
        LedgerRow(3, 1, 7, LedgerKind.OVERRUN, DEVICE, 1, 20, "r1"),
        LedgerRow(4, 2, 7, LedgerKind.ADJUST, DEVICE, 1, -20, "r1"),
        LedgerRow(5, 2, 7, LedgerKind.UNSETTLE, DEVICE, 1, -10, "r1"),
        LedgerRow(6, 2, 7, LedgerKind.SETTLE, DEVICE, 1, 1, "r1"),
        LedgerRow(7, 3, 7, LedgerKind.UNCONFIRMED, DEVICE, 1, 4, note="expired"),
        LedgerRow(8, 3, 7, LedgerKind.RELEASE, DEVICE, 1, 5, note="expired"),
        LedgerRow(9, 3, 7, LedgerKind.CLOSE, DEVICE, 1, 0, note="expired"),
        LedgerRow(10, 1, 7, LedgerKind.CONFIRM, DEVICE, 1, 4, "r1"),
    ] == ledger(account)


@pytest.mark.parametrize(
    ("final", "rest"), [(30, LedgerKind.RELEASE), (100, LedgerKind.UNCONFIRMED)]
)
def test_nothing_that_moves_no_money_is_a_row(final: int, rest: LedgerKind) -> None:
    """A request that was free, a correction by nothing, a close without a rest."""
    account = lent()
    settle(account, 30)
    rows(account)
    settle(account, 0)
    assert [] == rows(account)
    adjust(account, 0)
    assert [] == account.take_changes()
    close(account, final)
    assert [(rest, 70), (LedgerKind.CLOSE, 0)] == rows(account)


def test_a_cost_is_not_negative() -> None:
    """It would create money; a lower cost is a correction."""
    with pytest.raises(InvariantError, match="negative: -1"):
        settle(lent(), -1)


def test_a_settled_cost_leaves_the_lease() -> None:
    """From outstanding to settled; the committed money stays the same."""
    account = lent()
    assert 0 == settle(account, 30)
    assert (30, 0, 70) == balances(account)
    assert [(LedgerKind.SETTLE, 30)] == rows(account)


def test_what_the_lease_does_not_cover_is_an_overrun() -> None:
    """It is booked in full, whatever the budget says (rule S_4)."""
    account = lent(budget=100)
    assert 20 == settle(account, 120)
    assert (120, 0, 0) == balances(account)
    assert [(LedgerKind.SETTLE, 100), (LedgerKind.OVERRUN, 20)] == rows(account)
    assert (120, 0) == (account.window(7).enforced_nanos, account.window(7).free_nanos)


def test_a_close_returns_what_was_not_spent() -> None:
    """And books what was spent but not explained yet (rules C_6, L_4)."""
    account = lent()
    settle(account, 30)
    rows(account)
    assert "" == close(account, 45)
    assert (30, 15, 0) == balances(account)
    expected = [(LedgerKind.UNCONFIRMED, 15), (LedgerKind.RELEASE, 55), (LedgerKind.CLOSE, 0)]
    assert expected == rows(account)


def test_the_first_close_wins() -> None:
    """A second one, with whatever figure, changes nothing (rule L_5)."""
    account = lent()
    close(account, 45)
    rows(account)
    assert "" == close(account, 0)
    assert [] == rows(account)


@pytest.mark.parametrize("final", [29, 101])
def test_an_impossible_figure_counts_as_the_full_lease(final: int) -> None:
    """Below what is booked, or above what was lent: an alarm, and nothing returns (rule L_5)."""
    account = lent()
    settle(account, 30)
    rows(account)
    alarm = close(account, final)
    assert "the full lease is booked" in alarm
    assert (30, 70, 0) == balances(account)
    assert alarm == ledger(account)[-1].note


def test_a_figure_may_exceed_the_lease_by_the_overrun() -> None:
    """The provider's doing is no fault of the device."""
    account = lent()
    settle(account, 120)
    assert "" == close(account, 120)
    assert (120, 0, 0) == balances(account)


def test_a_late_outcome_explains_unconfirmed_money() -> None:
    """On an ended lease a cost confirms before it overruns."""
    account = lent()
    close(account, 45)
    rows(account)
    assert 0 == settle(account, 40)
    assert 5 == settle(account, 10)
    assert (50, 0, 0) == balances(account)
    assert [
        (LedgerKind.CONFIRM, 40),
        (LedgerKind.CONFIRM, 5),
        (LedgerKind.OVERRUN, 5),
    ] == rows(account)


def test_a_lower_cost_returns_to_an_open_lease() -> None:
    """Not to the budget: only the device's close does that (rule S_3)."""
    account = lent()
    settle(account, 30)
    rows(account)
    adjust(account, -20)
    assert (10, 0, 90) == balances(account)
    assert [(LedgerKind.UNSETTLE, -20)] == rows(account)


def test_a_lower_cost_takes_back_the_overrun_first() -> None:
    """What the lease had not covered cannot return to it."""
    account = lent()
    settle(account, 120)
    rows(account)
    adjust(account, -30)
    assert (90, 0, 10) == balances(account)
    assert [(LedgerKind.ADJUST, -20), (LedgerKind.UNSETTLE, -10)] == rows(account)
    close(account, 90)
    assert (90, 0, 0) == balances(account)


def test_a_lower_cost_may_leave_an_overrun() -> None:
    """Only so much returns as the correction says."""
    account = lent()
    settle(account, 120)
    rows(account)
    adjust(account, -5)
    assert (115, 0, 0) == balances(account)
    assert [(LedgerKind.ADJUST, -5)] == rows(account)


def test_a_lower_cost_on_an_ended_lease_frees_money() -> None:
    """Its device has closed it: there is nothing left to spend there."""
    account = lent()
    settle(account, 30)
    close(account, 30)
    rows(account)
    adjust(account, -20)
    assert (10, 0, 0) == balances(account)
    assert [(LedgerKind.ADJUST, -20)] == rows(account)


def test_no_correction_goes_below_nothing() -> None:
    """More cannot be taken back than was booked."""
    account = lent()
    settle(account, 30)
    adjust(account, -50)
    assert (0, 0, 100) == balances(account)


def test_a_device_that_is_not_trusted_returns_nothing() -> None:
    """Every open lease is booked in full (rule D_2), also one that a provider overran."""
    account = lent()
    account.grant(LeaseRecord(DEVICE, 2, "inc", 7, 50, 1, 0))
    settle(account, 30)
    account.settle(DEVICE, 2, cost=60, request_id="r2", at=1)
    rows(account)
    account.close_in_full(DEVICE, at=4, note="quarantined")
    assert (90, 70, 0) == balances(account)
    assert () == account.open_leases()
    assert (LeaseEnd.CLOSED, 70) == (lease(account).end, lease(account).unconfirmed_nanos)
    assert [
        (4, LedgerKind.UNCONFIRMED, 70, "quarantined"),
        (4, LedgerKind.CLOSE, 0, "quarantined"),
        (4, LedgerKind.CLOSE, 0, "quarantined"),
    ] == [(row.at_unix_ms, row.kind, row.amount_nanos, row.note) for row in ledger(account)]


def test_one_lease_can_be_booked_in_full_alone() -> None:
    """The device's other leases go on, whether they are older or newer."""
    account = lent()
    for number in (2, 3):
        account.grant(LeaseRecord(DEVICE, number, "inc", 7, 50, 1, 0))
    account.close_in_full(DEVICE, at=4, note="copied", number=2)
    assert [1, 3] == [lease.number for lease in account.open_leases(DEVICE)]
    assert (0, 50, 150) == balances(account)


def written_off(*, unspent: bool) -> BudgetAccount:
    """Lease 1 of 100 nanos, of which 30 are booked, was written off."""
    account = lent()
    settle(account, 30)
    account.write_off(DEVICE, at=4, note="ann", assume_unspent=unspent)
    account.take_changes()
    return account


@pytest.mark.parametrize(
    ("unspent", "final", "expected"),
    [
        (False, 45, [(LedgerKind.REFUND, 55), (LedgerKind.CLOSE, 0)]),
        (False, 99, [(LedgerKind.REFUND, 1), (LedgerKind.CLOSE, 0)]),
        (False, 100, [(LedgerKind.CLOSE, 0)]),
        (False, 500, [(LedgerKind.CLOSE, 0)]),
        (False, 30, [(LedgerKind.REFUND, 70), (LedgerKind.CLOSE, 0)]),
        (True, 30, [(LedgerKind.CLOSE, 0)]),
        (True, 31, [(LedgerKind.GRANT, 1), (LedgerKind.UNCONFIRMED, 1), (LedgerKind.CLOSE, 0)]),
    ],
)
def test_the_late_word_on_a_lease_that_was_written_off_corrects_it(
    unspent: bool, final: int, expected: list[tuple[LedgerKind, int]]
) -> None:
    """Upwards only if its rest was given away, and never beyond what was lent (rule C_7)."""
    account = written_off(unspent=unspent)
    assert "" == close(account, final)
    found = ledger(account)
    assert expected == [(row.kind, row.amount_nanos) for row in found]
    assert {(3, "expired")} == {(row.at_unix_ms, row.note) for row in found}
    assert LeaseEnd.CLOSED is lease(account).end
    close(account, 0)
    assert [] == rows(account)


@pytest.mark.parametrize("unspent", [False, True])
def test_a_late_word_below_what_is_booked_counts_as_the_full_lease(unspent: bool) -> None:
    """Whoever says less than it has reported is not to be believed about the rest (rule L_5)."""
    account = written_off(unspent=unspent)
    alarm = close(account, 29)
    assert (
        "lease 1 of dev was closed at $0.000000029, with $0.000000030 booked of $0.000000100"
        in alarm
    )
    assert alarm == ledger(account)[-1].note
    assert (30, 70, 0) == balances(account)
    assert LeaseEnd.CLOSED is lease(account).end


def test_a_device_that_is_not_trusted_gets_no_write_off_back() -> None:
    """An old disk tells of less than was spent on the lease (rules C_7, D_2)."""
    account = written_off(unspent=False)
    account.close_in_full(DEVICE, at=5, note="quarantined")
    assert "" == close(account, 45)
    assert (30, 70, 0) == balances(account)


def test_only_that_devices_write_offs_end_and_the_row_says_why() -> None:
    """Not its open leases, nor those of others, nor when one lease alone is booked in full."""
    account = written_off(unspent=False)
    account.grant(LeaseRecord(DEVICE, 2, "inc", 7, 50, 1, 0))
    account.grant(LeaseRecord("other", 1, "inc", 7, 40, 1, 0))
    account.write_off("other", at=4, note="ann")
    account.take_changes()
    account.close_in_full(DEVICE, at=5, note="copied", number=2)
    assert LeaseEnd.WRITTEN_OFF is lease(account).end
    account.take_changes()

    account.close_in_full(DEVICE, at=6, note="quarantined")

    (row,) = ledger(account)
    said = (row.kind, row.amount_nanos, row.at_unix_ms, row.note, row.lease_number)
    assert (LedgerKind.CLOSE, 0, 6, "quarantined", 1) == said
    assert LeaseEnd.CLOSED is lease(account).end
    others = account.lease("other", 1)
    assert others is not None
    assert LeaseEnd.WRITTEN_OFF is others.end


def test_a_late_word_on_a_lease_of_unknown_amount_gives_nothing_back() -> None:
    """Restored books know no more of it than the costs that they were told."""
    account = BudgetAccount()
    account.open_window(7, start_unix_ms=0, end_unix_ms=10, target_nanos=1_000)
    forgotten = LeaseRecord(DEVICE, 1, "inc", 7, 0, 1, 0, end=LeaseEnd.WRITTEN_OFF)
    account.adopt(forgotten)
    settle(account, 30)
    account.take_changes()
    assert "" == close(account, 10)
    assert ([(LedgerKind.CLOSE, 0)], (30, 0, 0)) == (rows(account), balances(account))


def test_what_a_lease_does_not_cover_is_told_together_and_of_its_arm_and_tag() -> None:
    """All of it, however many attempts it were (rule S_4)."""
    account = lent()
    label = ("cloud", "shop")
    costs = [(1, 150, "r1", label), (1, 40, "r2", label)]
    assert 90 == account.settle_all(DEVICE, costs, at=1)
    spent = [row for row in account.take_changes() if isinstance(row, SpendRow)]
    assert [("cloud", "shop", 190)] == [(row.arm, row.tag, row.settled_nanos) for row in spent]


def test_what_was_assumed_unspent_can_still_be_explained_by_a_copy() -> None:
    """It was given back: any word on it is nearer to the truth."""
    account = written_off(unspent=True)
    account.close_in_full(DEVICE, at=5, note="quarantined")
    close(account, 45)
    assert (30, 15, 0) == balances(account)


def test_a_lease_that_was_used_up_is_written_off_without_a_rest() -> None:
    """There is nothing to give back or to assume, so no window is marked."""
    account = lent()
    settle(account, 120)
    rows(account)
    assert 0 == account.write_off(DEVICE, at=4, note="ann", assume_unspent=True)
    assert ((120, 0, 0), "") == (balances(account), account.window(7).alarms)
    assert [(LedgerKind.CLOSE, 0)] == rows(account)


def test_every_lease_that_is_assumed_unspent_marks_its_window() -> None:
    """One after the other, so that the operator's word stands for each of them."""
    account = lent()
    account.grant(LeaseRecord(DEVICE, 2, "inc", 7, 50, 1, 0))
    rows(account)
    assert 150 == account.write_off(DEVICE, at=4, note="ann", assume_unspent=True)
    said = "$0.000000100 of dev, lease 1: ann; $0.000000050 of dev, lease 2: ann"
    assert said == account.window(7).alarms
    assert [(LedgerKind.RELEASE, 100), (LedgerKind.CLOSE, 0)] == rows(account)[:2]


def test_a_write_off_says_when_and_who() -> None:
    """The rest counts as spent."""
    account = lent()
    account.write_off(DEVICE, at=4, note="ann")
    assert [
        (4, LedgerKind.WRITEOFF, 100, "ann"),
        (4, LedgerKind.CLOSE, 0, "ann"),
    ] == [(row.at_unix_ms, row.kind, row.amount_nanos, row.note) for row in ledger(account)]


def test_a_lease_that_a_device_presents_is_booked_as_such() -> None:
    """With its own date; it cannot be negative (rule C_5)."""
    account = BudgetAccount(windows=[WINDOW])
    presented = LeaseRecord(DEVICE, 3, "inc", 7, 2_000, 0, granted_unix_ms=6)
    account.adopt(presented)
    note = "presented by its device after a restore"
    assert [LedgerRow(1, 6, 7, LedgerKind.GRANT, DEVICE, 3, 2_000, note=note)] == ledger(account)
    with pytest.raises(InvariantError, match="negative: -1"):
        account.adopt(replace(presented, number=4, amount_nanos=-1))


def test_ended_leases_of_earlier_windows_are_let_go() -> None:
    """Open ones stay, and the windows that they belong to; so does the present."""
    windows = [
        replace(WINDOW, id=number, start_unix_ms=number, end_unix_ms=number + 1)
        for number in (5, 6, 7, 8)
    ]
    leases = [
        LeaseRecord(DEVICE, 1, "inc", 5, 10, 1, 0, end=LeaseEnd.CLOSED),
        LeaseRecord(DEVICE, 2, "inc", 6, 10, 1, 0),
        LeaseRecord(DEVICE, 3, "inc", 6, 10, 1, 0, end=LeaseEnd.WRITTEN_OFF),
        LeaseRecord(DEVICE, 4, "inc", 7, 10, 1, 0, end=LeaseEnd.CLOSED),
    ]
    account = BudgetAccount(windows=windows, leases=leases)
    account.forget_before(7)
    assert [2, 4] == [number for number in range(1, 5) if account.lease(DEVICE, number)]
    assert [6, 7, 8] == [number for number in range(5, 9) if account.has_window(number)]
    account = BudgetAccount(windows=windows)
    account.forget_before(7)
    assert [7, 8] == [number for number in range(5, 9) if account.has_window(number)]


def test_what_still_holds_money_is_listed_by_window_device_and_number() -> None:
    """Open leases, and ended ones with costs that nobody has explained."""
    order = [(6, "b", 1), (7, "a", 2), (7, "a", 3), (7, "b", 2)]
    leases = [
        LeaseRecord(device, number, "inc", window, 10, 1, 0)
        for window, device, number in (order[2], order[0], order[3])
    ]
    ended = LeaseRecord("a", 2, "inc", 7, 10, 1, 0, unconfirmed_nanos=3, end=LeaseEnd.CLOSED)
    done = replace(ended, number=9, unconfirmed_nanos=0)
    account = BudgetAccount(leases=[*leases, ended, done])
    held = account.holding_leases()
    assert order == [(lease.window_id, lease.device_id, lease.number) for lease in held]


def test_a_cut_below_what_is_committed_falls_as_leases_return() -> None:
    """Target and enforced budget are told apart (rule C_3)."""
    account = lent(900)
    account.set_target(7, 200)
    assert (200, 900, 0) == _cut(account)
    close(account, 50)
    assert (200, 200, 150) == _cut(account)


def _cut(account: BudgetAccount) -> tuple[int, int, int]:
    window = account.window(7)
    return window.target_nanos, window.enforced_nanos, window.free_nanos


def test_what_the_books_do_not_know_is_said() -> None:
    """A window; a lease is a defect, not a refusal: other costs may be booked by then."""
    account = lent()
    with pytest.raises(NotFoundError, match="window 8"):
        account.window(8)
    with pytest.raises(InvariantError, match="lease 2 of device dev"):
        account.settle(DEVICE, 2, cost=1, request_id="", at=0)


def test_a_window_is_opened_once() -> None:
    """Its balances must never start again from nothing."""
    account = lent()
    with pytest.raises(InvariantError, match="opened twice"):
        account.open_window(7, start_unix_ms=0, end_unix_ms=10, target_nanos=5)


def test_rows_go_on_where_the_store_stopped() -> None:
    """Their ids rise without gaps, also over restarts (rule C_2)."""
    window = WindowRow(7, 0, 10, 1_000)
    account = BudgetAccount(windows=[window], ledger_id_max=41)
    account.grant(LeaseRecord(DEVICE, 1, "inc", 7, 100, 1, 0))
    ids = [row.id for row in account.take_changes() if isinstance(row, LedgerRow)]
    assert ([42], []) == (ids, account.take_changes())


@pytest.mark.parametrize(
    ("amount", "booked", "unconfirmed", "end", "full"),
    [
        (100, 40, 60, LeaseEnd.CLOSED, True),
        (1, 0, 1, LeaseEnd.CLOSED, True),
        (100, 40, 60, LeaseEnd.WRITTEN_OFF, True),
        (100, 130, 0, LeaseEnd.CLOSED, True),
        (100, 40, 59, LeaseEnd.CLOSED, False),
        (100, 100, 0, LeaseEnd.OPEN, False),
        (0, 30, 0, LeaseEnd.WRITTEN_OFF, False),
    ],
)
def test_a_lease_that_has_ended_may_be_booked_in_full(
    amount: int, booked: int, unconfirmed: int, end: LeaseEnd, full: bool
) -> None:
    """Then it covers whatever else is said of it; one of unknown amount covers nothing."""
    row = LeaseRecord(DEVICE, 1, "inc", 7, amount, 1, 0, booked, unconfirmed, end)
    assert full is row.is_booked_in_full


def test_what_devices_make_up_fills_a_window_and_no_more() -> None:
    """Costs, late usage and lost leases far above any budget are cut, so that sums fit."""
    account = lent()
    for _ in range(3):
        settle(account, AMOUNT_NANOS_MAX)
    adjust(account, 2 * AMOUNT_NANOS_MAX)
    account.adopt(LeaseRecord(DEVICE, 2, "inc", 7, AMOUNT_NANOS_MAX, 1, 0))
    assert (BOOKED_NANOS_MAX, 0, 0) == balances(account)
    assert (BOOKED_NANOS_MAX, 0) == (lease(account).booked_nanos, lease(account, 2).amount_nanos)
    rows(account)
    settle(account, 1)
    assert [] == rows(account)


def test_what_is_made_up_in_one_batch_fills_a_window_and_no_more() -> None:
    """Cost by cost, and what a lease covers is no part of it."""
    account = lent()
    costs = [(1, 3 * AMOUNT_NANOS_MAX, "r", UNKNOWN)] * 2
    assert BOOKED_NANOS_MAX - 100 == account.settle_all(DEVICE, costs, at=1)
    assert (BOOKED_NANOS_MAX, 0, 0) == balances(account)
    assert BOOKED_NANOS_MAX == lease(account).booked_nanos


def test_lost_leases_fill_a_window_and_no_more() -> None:
    """To the last nano."""
    account = BudgetAccount(windows=[WINDOW])
    for number in range(1, 6):
        account.adopt(LeaseRecord(DEVICE, number, "inc", 7, AMOUNT_NANOS_MAX, 1, 0))
    assert (0, 0, BOOKED_NANOS_MAX) == balances(account)
    assert [AMOUNT_NANOS_MAX] * 4 + [0] == [lease(account, n).amount_nanos for n in range(1, 6)]


def test_the_close_of_a_lost_lease_fills_a_window_and_no_more() -> None:
    """The lease has as much unconfirmed as the window has for it."""
    unknown = LeaseRecord(DEVICE, 1, "inc", 7, 0, 1, 0, end=LeaseEnd.WRITTEN_OFF)
    account = BudgetAccount(windows=[WINDOW], leases=[unknown])
    close(account, BOOKED_NANOS_MAX + 1)
    assert (0, BOOKED_NANOS_MAX, 0) == balances(account)
    assert (BOOKED_NANOS_MAX,) * 2 == (
        lease(account).unconfirmed_nanos,
        lease(account).amount_nanos,
    )


def test_a_window_that_holds_more_than_is_made_up_takes_no_more_of_it() -> None:
    """Several windows carried into one may come to that."""
    full = replace(WINDOW, settled_nanos=BOOKED_NANOS_MAX, outstanding_nanos=100)
    held = LeaseRecord(DEVICE, 1, "inc", 7, 100, 1, 0)
    account = BudgetAccount(windows=[full], leases=[held])
    assert 0 == settle(account, 150)
    assert [(LedgerKind.SETTLE, 100)] == rows(account)
    assert (BOOKED_NANOS_MAX + 100, 0, 0) == balances(account)


def test_what_no_lease_covers_is_told_in_all() -> None:
    """Of every lease of a batch."""
    account = lent()
    account.grant(LeaseRecord(DEVICE, 2, "inc", 7, 100, 1, 0))
    costs = [(1, 130, "a", UNKNOWN), (2, 90, "b", UNKNOWN), (2, 60, "c", UNKNOWN)]
    assert 30 + 50 == account.settle_all(DEVICE, costs, at=1)
