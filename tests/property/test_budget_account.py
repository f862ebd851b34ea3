"""The budget's books under random grants, costs, corrections and closes, right and wrong ones."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.account import BudgetAccount
from coordinator.records import (
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    SpendRow,
    WindowRow,
)
from coordinator.spend import DAY_MS
from coordinator.verify import LedgerSums
from shared.errors import InvariantError

WINDOW = 7
BUDGET = 1_000
DEVICES = ("dev-a", "dev-b")
amounts = st.integers(1, 400)
costs = st.integers(0, 300)
picks = st.integers(0, 10_000)
ARMS = ("large", "larger")
times = st.integers(0, 3).map(lambda day: day * DAY_MS + 1)


@dataclass
class Known:
    """What the test itself remembers of a lease."""

    amount: int
    costs: int = 0
    ended: bool = False
    written_off: bool = False


class Account(RuleBasedStateMachine):
    """A budget account beside a second, much simpler book-keeping."""

    def __init__(self) -> None:
        super().__init__()
        self.account = BudgetAccount()
        self.account.open_window(WINDOW, start_unix_ms=0, end_unix_ms=10, target_nanos=BUDGET)
        self.target_max = BUDGET
        self.overruns = 0
        self.rows: list[LedgerRow] = []
        self.spend: dict[tuple[int, str, str], SpendRow] = {}
        self.known: dict[tuple[str, int], Known] = {}

    @property
    def window(self) -> WindowRow:
        return self.account.window(WINDOW)

    def pick(self, number: int) -> tuple[str, int]:
        keys = sorted(self.known)
        return keys[number % len(keys)]

    @rule(device=st.sampled_from(DEVICES), amount=amounts)
    def grant(self, device: str, amount: int) -> None:
        """A lease is granted if it fits what is free, and refused aloud if it does not."""
        number = 1 + sum(key[0] == device for key in self.known)
        lease = LeaseRecord(device, number, "inc", WINDOW, amount, 1, 0)
        if amount > self.window.free_nanos:
            with pytest.raises(InvariantError):
                self.account.grant(lease)
            return
        self.account.grant(lease)
        self.known[device, number] = Known(amount)

    @precondition(lambda self: self.known)
    @rule(pick=picks)
    def grant_twice(self, pick: int) -> None:
        """A lease number is granted once only."""
        device, number = self.pick(pick)
        before = self.window

        with pytest.raises(InvariantError):
            self.account.grant(LeaseRecord(device, number, "inc", WINDOW, 1, 1, 0))

        assert before == self.window

    @precondition(lambda self: self.known)
    @rule(pick=picks, cost=costs, arm=st.sampled_from(ARMS), at=times)
    def settle(self, pick: int, cost: int, arm: str, at: int) -> None:
        """Every cost is booked in full; what the lease does not cover is told."""
        key = self.pick(pick)
        settled = self.window.settled_nanos

        overrun = self.account.settle(*key, cost=cost, request_id="r", at=at, label=(arm, "shop"))

        assert settled + cost == self.window.settled_nanos
        self.overruns += overrun
        self.known[key].costs += cost

    @precondition(lambda self: self.known)
    @rule(pick=picks, delta=st.integers(-200, 200), at=times)
    def adjust(self, pick: int, delta: int, at: int) -> None:
        """A correction moves what is settled by itself, but never below nothing."""
        key = self.pick(pick)
        moved = max(delta, -self.known[key].costs)
        settled = self.window.settled_nanos
        committed = self.window.committed_nanos

        self.account.adjust(*key, delta=delta, request_id="r", at=at)

        assert settled + moved == self.window.settled_nanos
        self.known[key].costs += moved
        if moved > 0:
            self.overruns += self.window.committed_nanos - committed

    @precondition(lambda self: self.known)
    @rule(pick=picks, unreported=st.integers(-100, 500))
    def close(self, pick: int, unreported: int) -> None:
        """The first close ends a lease for good; an impossible figure counts as the full lease."""
        key = self.pick(pick)
        lease, before = self.known[key], self.window
        overrun = max(0, lease.costs - lease.amount)
        final = max(0, lease.costs + unreported)
        possible = lease.costs <= final <= lease.amount + overrun

        alarm = self.account.close(*key, final=final, at=2, note="test")

        if lease.written_off:  # only now may money return, and only what was not spent
            lease.written_off = False
            assert before.outstanding_nanos == self.window.outstanding_nanos
            assert before.settled_nanos == self.window.settled_nanos
            record = self.account.lease(*key)
            assert record is not None
            assert record.unconfirmed_nanos <= max(0, final - lease.costs)
            return
        if lease.ended:
            assert ("", before) == (alarm, self.window)
            return
        lease.ended = True
        spent = final if possible else lease.amount + overrun
        assert possible == (alarm == "")
        assert before.outstanding_nanos - (lease.amount - min(lease.costs, lease.amount)) == (
            self.window.outstanding_nanos
        )
        assert before.unconfirmed_nanos + spent - lease.costs == self.window.unconfirmed_nanos

    @rule(device=st.sampled_from(DEVICES))
    def close_in_full(self, device: str) -> None:
        """A device that is not trusted any more returns nothing."""
        committed = self.window.committed_nanos

        self.account.close_in_full(device, at=3, note="test")

        assert committed == self.window.committed_nanos
        assert () == self.account.open_leases(device)
        for key, lease in self.known.items():
            lease.ended = lease.ended or key[0] == device

    @rule(device=st.sampled_from(DEVICES))
    def write_off(self, device: str) -> None:
        """Nothing of a silent device returns before it has spoken."""
        committed = self.window.committed_nanos
        rest = sum(
            max(0, lease.amount - lease.costs)
            for key, lease in self.known.items()
            if key[0] == device and not lease.ended
        )

        assert rest == self.account.write_off(device, at=3, note="silent for a week, says ann")

        assert committed == self.window.committed_nanos
        assert () == self.account.open_leases(device)
        for key, lease in self.known.items():
            if key[0] == device and not lease.ended:
                lease.ended, lease.written_off = True, True

    @rule(budget=st.integers(0, 2 * BUDGET))
    def set_target(self, budget: int) -> None:
        """A cut moves no money."""
        committed = self.window.committed_nanos

        self.account.set_target(WINDOW, budget)

        self.target_max = max(self.target_max, budget)
        assert committed == self.window.committed_nanos

    @rule(number=st.integers(100, 101))
    def unknown_lease(self, number: int) -> None:
        """Nothing is booked on a lease that the books do not know."""
        before = self.window
        with pytest.raises(InvariantError):
            self.account.settle("dev-a", number, cost=1, request_id="r", at=1)
        with pytest.raises(InvariantError):
            self.account.adjust("dev-a", number, delta=-1, request_id="r", at=1)
        with pytest.raises(InvariantError):
            self.account.close("dev-a", number, final=0, at=1, note="test")
        assert before == self.window

    @invariant()
    def committed_money_stays_within_the_budget(self) -> None:
        """I1, with the largest target that was in force; overruns were the provider's doing."""
        assert self.window.committed_nanos <= self.target_max + self.overruns
        assert self.window.committed_nanos <= self.window.enforced_nanos
        assert self.window.free_nanos >= 0

    @invariant()
    def no_balance_is_negative(self) -> None:
        """Settled, unconfirmed and outstanding money are amounts."""
        window = self.window
        assert window.settled_nanos >= 0
        assert window.unconfirmed_nanos >= 0
        assert window.outstanding_nanos >= 0

    @invariant()
    def rows_add_up_to_the_balances(self) -> None:
        """The running balances can be had from the append-only rows alone (rule C_2)."""
        for row in self.account.take_changes():
            if isinstance(row, LedgerRow):
                self.rows.append(row)
            elif isinstance(row, SpendRow):
                self.spend[row.day_unix_ms, row.arm, row.tag] = row
        again = WindowRow(WINDOW, 0, 10, self.window.target_nanos)
        for row in self.rows:
            again = row.applied_to(again)
        assert again == self.window
        assert list(range(1, len(self.rows) + 1)) == [row.id for row in self.rows]

    @invariant()
    def the_books_verify(self) -> None:
        """Every window and every lease is what its rows say."""
        sums = LedgerSums()
        for row in self.rows:
            sums.take(row)
        leases = [lease for key in self.known if (lease := self.account.lease(*key)) is not None]
        spend = self.spend.values()
        assert [] == sums.differences(windows=[self.window], leases=leases, spend=spend)

    @invariant()
    def money_is_where_the_costs_say(self) -> None:
        """Settled money is the costs; outstanding money is what open leases have left."""
        leases = self.known.values()
        assert sum(lease.costs for lease in leases) == self.window.settled_nanos
        left = sum(max(0, lease.amount - lease.costs) for lease in leases if not lease.ended)
        assert left == self.window.outstanding_nanos

    @invariant()
    def only_a_close_releases(self) -> None:
        """Money of a lease returns to the budget once it is closed, never before (rule C_6)."""
        for row in self.rows:
            if row.kind is LedgerKind.RELEASE:
                lease = self.account.lease(row.device_id, row.lease_number)
                assert lease is not None
                assert LeaseEnd.CLOSED is lease.end


TestAccount = Account.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=30)
