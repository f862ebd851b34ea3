"""The budget's books, row by row (rules C_1 to C_7, S_3, S_4)."""

from __future__ import annotations

import pytest

from coordinator.account import BudgetAccount
from coordinator.records import LeaseEnd, LeaseRecord, LedgerKind, LedgerRow, WindowRow
from shared.errors import InvariantError, NotFoundError

DEVICE = "dev"


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
    return [
        (row.kind, row.amount_nanos) for row in account.take_changes() if isinstance(row, LedgerRow)
    ]


def test_money_is_lent_only_while_it_is_free() -> None:
    """A lease beyond the free money is a defect of whoever sized it."""
    account = lent(900)
    assert (0, 0, 900) == balances(account)
    with pytest.raises(InvariantError, match="exceeds the free 100"):
        account.grant(LeaseRecord(DEVICE, 2, "inc", 7, 101, 1, 0))
    assert (0, 0, 900) == balances(account)


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
    assert "the full lease is booked" in close(account, final)
    assert (30, 70, 0) == balances(account)


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
    """Every open lease is booked in full (rule D_2)."""
    account = lent()
    settle(account, 30)
    account.close_in_full(DEVICE, at=4, note="quarantined")
    assert (30, 70, 0) == balances(account)
    assert () == account.open_leases()
    lease = account.lease(DEVICE, 1)
    assert lease is not None
    assert (LeaseEnd.CLOSED, 70) == (lease.end, lease.unconfirmed_nanos)


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
    """A window or a lease that never was."""
    account = lent()
    with pytest.raises(NotFoundError, match="window 8"):
        account.window(8)
    with pytest.raises(NotFoundError, match="lease 2 of device dev"):
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
