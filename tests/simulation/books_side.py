"""What must hold in the coordinator's books, and in what it says, at every commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coordinator.messages import Acked, HelloReceived, LeaseSent, Message
from coordinator.records import (
    BookedOutcome,
    LeaseEnd,
    LeaseRecord,
    LedgerRow,
    SpoolMark,
    StoreEffect,
    WindowRow,
)
from coordinator.sessions import Reaction
from tests.fakes.memory_store import MemoryDatabase
from tests.simulation.counts import Counts, counts
from tests.simulation.facts import Facts, GrantSeen

GRANTED, ADJUSTED = "grant", "adjust"
SIGNS: dict[str, tuple[int, int, int]] = {
    GRANTED: (0, 0, 1),
    "settle": (1, 0, -1),
    "unsettle": (1, 0, -1),
    "confirm": (1, -1, 0),
    ADJUSTED: (1, 0, 0),
    "refund": (0, -1, 0),
    "release": (0, 0, -1),
    "unconfirmed": (0, 1, -1),
    "overrun": (1, 0, 0),
    "writeoff": (0, 1, -1),
    "close": (0, 0, 0),
    "carry": (0, 1, 0),
}
"""How each kind of row moves settled, unconfirmed and outstanding money, by the contract."""


@dataclass(slots=True)
class Decided:
    """One change of the coordinator.

    Attributes
    ----------
    cause : str
        What the coordinator is doing: `wish`, `batch`, `hello`, `tick`, an operator's command.
    hears : str
        The device that says hello, or is written off, with that.
    """

    cause: str
    hears: str
    reaction: Reaction


@dataclass
class BooksSide(Facts):
    """Checks the coordinator.

    Attributes
    ----------
    unheard : set of str
        Devices that have not told all that they had to say since the database was restored.
    owing : dict of str to (dict of str to int)
        Of them, what those had spooled that have said hello and is not booked yet: the last
        sequence of each incarnation.
    ordered : set of int
        What the operator may have set a window's budget to, in nano-dollars.
    on_loan : Counts of (device, lease number)
        What of each lease is out, by its rows, in nano-dollars.
    committed : Counts of (device, lease number)
        What of each lease is settled, unconfirmed or out, by its rows, in nano-dollars.
    risen : Counts of int
        By window, what was committed beyond its target, and beyond what was committed before.
    marks : Counts of str
        By device, the highest booked sequence.
    decided : list of Decided
        The changes that are about to be committed in one transaction.
    """

    unheard: set[str] = field(default_factory=set)
    owing: dict[str, dict[str, int]] = field(default_factory=dict)
    restored: bool = False
    ordered: set[int] = field(default_factory=set)
    assumed_unspent: bool = False
    decided: Sequence[Decided] = ()
    cause: str = ""
    hello_number_max: int = 0
    hello_owes: dict[str, int] = field(default_factory=dict)
    on_loan: Counts[tuple[str, int]] = field(default_factory=counts)
    committed: Counts[tuple[str, int]] = field(default_factory=counts)
    ledger_id: int = 0
    booked: set[str] = field(default_factory=set)
    targets: dict[int, int] = field(default_factory=dict)
    risen: Counts[int] = field(default_factory=counts)
    marks: Counts[str] = field(default_factory=counts)

    def hello(self, device: str, hello: HelloReceived, database: MemoryDatabase) -> None:
        """A device is about to say hello: of what it names, what is not in the books yet."""
        self.hello_number_max = hello.lease_number_max
        self.hello_owes = {
            each.incarnation: each.last
            for each in hello.incarnations
            if each.last > max(each.after, database.spool_marks.get((device, each.incarnation), 0))
        }

    def told(self, device: str, message: Message, database: MemoryDatabase) -> None:
        """A message goes down: what it says must be in the books already."""
        if isinstance(message, Acked):
            booked = self.marks[device] >= message.sequence
            self.holds(booked, "O_1", "{} of {} before it is booked", (message, device))
        elif isinstance(message, LeaseSent):
            key = (device, message.lease_number)
            self.holds(key in database.leases, "C_2", "lease {} is not in the books", (key,))
            self.holds(not self.unheard, "C_5", "a lease before {} spoke", (self.unheard,))
            earlier = self.granted.get(key)
            # Restored books may give a number again that never arrived, and never will.
            unseen = earlier is None or (self.restored and not earlier.delivered)
            self.holds(unseen, "L_1", "lease {} is granted twice", (key,))
            self.granted[key] = GrantSeen(
                message.window_id,
                message.amount_nanos,
                message.duration_ms,
                message.price_version,
                message.incarnation,
                granted_ms=self.now_ms,
            )

    def store_commit(self, rows: Sequence[StoreEffect]) -> None:
        """The coordinator's books have taken these rows: change by change they must be right."""
        decided = [row for each in self.decided for row in each.reaction.effects]
        whole = decided == list(rows)
        self.holds(whole, "C_2", "{} rows are committed of {}", (len(rows), self.decided))
        for each in self.decided:
            self._change(each)

    def _change(self, change: Decided) -> None:
        self.cause, effects = change.cause, change.reaction.effects
        if change.hears in self.unheard:
            self.owing[change.hears] = self.hello_owes if self.cause == "hello" else {}
        windows: dict[int, WindowRow] = {}
        before: dict[int, int] = {}
        lent: set[int] = set()
        leases: list[LeaseRecord] = []
        outcomes: list[BookedOutcome] = []
        costs: dict[tuple[str, str], int] = {}
        for effect in effects:
            if type(effect) is LedgerRow:
                if effect.window_id not in before:
                    before[effect.window_id] = sum(self.sums[effect.window_id])
                self._row(effect)
                if effect.kind == GRANTED:
                    lent.add(effect.window_id)
                elif effect.request_id and effect.kind != ADJUSTED:
                    request = (effect.device_id, effect.request_id)
                    settled = SIGNS[effect.kind][0] * effect.amount_nanos
                    costs[request] = costs.get(request, 0) + settled
            elif type(effect) is WindowRow:
                windows[effect.id] = effect
            elif type(effect) is LeaseRecord:
                leases.append(effect)
            elif type(effect) is BookedOutcome:
                outcomes.append(effect)
            elif type(effect) is SpoolMark:
                self._mark(effect)
        if self.unheard:  # whether or not the coordinator lives to know it
            self.unheard -= {device for device, owed in self.owing.items() if not owed}
        for window_id in before:
            known = window_id in windows
            self.holds(known, "C_2", "window {} has rows and no balances", (window_id,))
        for row in windows.values():
            self._window(row, before=before.get(row.id), lent=row.id in lent)
        for lease in leases:
            self._lease(lease)
        for booked in outcomes:
            self._outcome(
                booked, settled=costs.get((booked.device_id, booked.outcome.request_id), 0)
            )

    def _outcome(self, booked: BookedOutcome, *, settled: int) -> None:
        """It is new, and settled at what its device says that it cost."""
        request_id = booked.outcome.request_id
        self.holds(request_id not in self.booked, "P5", "{} is booked twice", (request_id,))
        self.booked.add(request_id)
        cost = sum(a.cost_nanos for a in booked.outcome.attempts if a.lease_number)
        self.holds(settled == cost, "S_2", "{} nanos are settled of {}", (settled, booked))

    def _mark(self, mark: SpoolMark) -> None:
        self.marks[mark.device_id] = max(self.marks[mark.device_id], mark.sequence)
        owed = self.owing.get(mark.device_id, {})
        if mark.sequence >= owed.get(mark.incarnation, mark.sequence + 1):
            del owed[mark.incarnation]

    def _row(self, row: LedgerRow) -> None:
        self.ledger_id += 1
        self.holds(row.id == self.ledger_id, "C_2", "{} should be {}", (row, self.ledger_id))
        self.whole(row.amount_nanos)
        key, amount = (row.device_id, row.lease_number), row.amount_nanos
        sums = self.sums[row.window_id]
        settled, unconfirmed, outstanding = SIGNS[row.kind]
        sums[0] += settled * amount
        sums[1] += unconfirmed * amount
        sums[2] += outstanding * amount
        self.on_loan[key] += outstanding * amount
        self.committed[key] += (settled + unconfirmed + outstanding) * amount
        if row.kind == "release" and amount:
            unseen = self.cause == "hello" and row.lease_number > self.hello_number_max
            # In the same way a device that is shut out closes leases that it never saw.
            allowed = unseen or key in self.closes_sent or self.assumed_unspent
            self.holds(allowed, "C_6", "{} gives money back without the device's close", (row,))

    def _window(self, row: WindowRow, *, before: int | None, lent: bool) -> None:
        sums = self.sums[row.id]
        have = [row.settled_nanos, row.unconfirmed_nanos, row.outstanding_nanos]
        self.holds(have == sums, "C_2", "{} does not agree with its rows {}", (row, sums))
        self.holds(min(sums) >= 0, "C_2", "{} has a negative balance", (row,))
        if row.id not in self.targets and not self.restored:
            fresh = row.target_nanos in self.ordered
            self.holds(fresh, "C_4", "{} begins with another budget than {}", (row, self.ordered))
        self.targets[row.id] = row.target_nanos
        self.budget_max[row.id] = max(self.budget_max.get(row.id, 0), row.target_nanos)
        if self.cause == "wish" and lent:
            within = sum(sums) <= row.target_nanos
            self.holds(within, "I1", "lent beyond the budget: {}", (row,))
        elif before is not None and sum(sums) > before:
            # After a cut more may be committed already (C_3); overruns come on top of it (S_4).
            self.risen[row.id] += max(0, sum(sums) - max(before, row.target_nanos))
            within = self.risen[row.id] <= self._beyond_in(row.id)
            excused = self.restored or self.assumed_unspent
            said = "committed money rose beyond the budget: {}"
            self.holds(within or excused, "I1", said, (row,))

    def _beyond_in(self, window_id: int) -> int:
        """What the provider's own faults come to, on the leases of a window."""
        return sum(
            nanos
            for key, nanos in self.provider.listed_beyond.items()
            if self.granted[key].window_id == window_id
        )

    def _lease(self, lease: LeaseRecord) -> None:
        key = (lease.device_id, lease.number)
        most = lease.amount_nanos + self.provider.listed_beyond.get(key, 0)
        within = self.committed[key] <= most
        excused = self.restored or self.assumed_unspent
        self.holds(within or excused, "I2", "{} are committed on {}", (self.committed[key], lease))
        open_nanos = self.on_loan[key]
        left = max(0, lease.amount_nanos - lease.booked_nanos)
        expected = left if lease.end is LeaseEnd.OPEN else 0
        self.holds(open_nanos == expected, "C_2", "{}: {} are out by its rows", (lease, open_nanos))

    def database_restored(self, database: MemoryDatabase, everybody: Iterable[str]) -> None:
        """The books went back in time: so does what was read from them."""
        self.restored = True
        self.unheard = set(everybody)
        self.owing.clear()
        self.sums.clear()
        self.on_loan.clear()
        self.committed.clear()
        self.ledger_id = 0
        self.marks.clear()
        for (device, _), sequence in database.spool_marks.items():
            self.marks[device] = max(self.marks[device], sequence)
        self.booked = {
            row.outcome.request_id for row in database.learned if isinstance(row, BookedOutcome)
        }
        cause, self.cause = self.cause, "restore"
        closes, self.closes_sent = self.closes_sent, set(database.leases)
        for row in database.ledger:
            self._row(row)
        self.cause, self.closes_sent = cause, closes
