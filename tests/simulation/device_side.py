"""What must hold at the provider's door and in a device's books, at every commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    CompactSpool,
    DropReservation,
    PutLease,
    PutMeta,
    PutReservation,
)
from shared.decision.lease import LeaseRow
from shared.decision.types import CostAdjustment, LeaseClose, Outcome, SettleKind, SpoolRecord
from tests.simulation.counts import Counts, counts
from tests.simulation.disk import SimDisk
from tests.simulation.facts import Facts, GrantSeen
from tests.simulation.provider import Bill

NEVER_SENT = ("books_full",)
REPORTED, UNKNOWN = SettleKind.REPORTED, SettleKind.UNKNOWN


@dataclass
class DiskAccount:
    """What a disk's rows come to: reservations by id, their sums by lease, leases that closed.

    Attributes
    ----------
    marks, marks_put : dict of int to int
        Watermarks by lease that a sync has covered, and those put since.
    last, last_put : int
        The last record that a sync has covered, and that was put.
    """

    held: dict[str, tuple[int, int]] = field(default_factory=dict)
    reserved: Counts[int] = field(default_factory=counts)
    closed: set[int] = field(default_factory=set)
    marks: dict[int, int] = field(default_factory=dict)
    marks_put: dict[int, int] = field(default_factory=dict)
    last: int = 0
    last_put: int = 0

    def synced(self) -> None:
        """All that was put is safe."""
        self.marks.update(self.marks_put)
        self.marks_put.clear()
        self.last = self.last_put


@dataclass
class DeviceSide(Facts):
    """Checks devices.

    Attributes
    ----------
    late : dict of str to int
        What a device has learned of a settled cost and must adjust in the same breath.
    """

    accounts: dict[SimDisk, DiskAccount] = field(default_factory=lambda: defaultdict(DiskAccount))
    used_reservations: set[tuple[str, str]] = field(default_factory=set)
    late: dict[str, int] = field(default_factory=dict)

    # A paid call.

    def paid_call(self, bill: Bill, *, disk: SimDisk, incarnation: str, name: str) -> None:
        """A call reached a paid endpoint: was it allowed to, and is it covered?"""
        holds, number, key = self.holds, bill.lease_number, (bill.device, bill.lease_number)
        row = disk.state.reservations.get(bill.reservation_id)
        holds(row is not None, "I6", "{} of {} without a committed reservation", (bill, name))
        assert row is not None
        used = (incarnation, bill.reservation_id)
        holds(
            used not in self.used_reservations, "S_1", "{}: two calls on one reservation", (bill,)
        )
        self.used_reservations.add(used)
        covered = row.amount_nanos >= bill.nanos - bill.beyond_nanos
        holds(covered, "I3", "{}: {} were reserved", (bill, row.amount_nanos))
        lease = disk.state.leases.get(number)
        holds(lease is not None, "L_5", "{} of {}: its lease is not in the books", (bill, name))
        assert lease is not None
        account = self.accounts[disk]
        holds(number not in account.closed, "L_5", "{} of {}: that lease is closed", (bill, name))
        seen = self.granted.get(key)
        holds(seen is not None, "L_1", "{} of {}: no such lease was granted", (bill, name))
        assert seen is not None
        holds(
            seen.incarnation == incarnation, "D_1", "{} of {}: it is {}", (bill, incarnation, seen)
        )
        late_ms = self.now_ms - seen.granted_ms - seen.duration_ms
        holds(late_ms <= 0, "L_3", "{} of {}: {} ms too late", (bill, name, late_ms))
        mark = account.marks.get(number, 0)
        spent = lease.settled_nanos + account.reserved[number]
        beyond = self.provider.beyond_on_lease.get(key, 0)
        within = spent <= mark + self.provider.listed_beyond.get(key, 0)
        holds(within, "L_2", "{}: {} beyond the watermark {}", (bill, spent, mark))
        self._covered(bill, seen=seen, beyond=beyond)

    def _covered(self, bill: Bill, *, seen: GrantSeen, beyond: int) -> None:
        """All bills of a lease are within it, and all of a window within its budget."""
        on_lease = self.provider.on_lease[bill.device, bill.lease_number] - beyond
        self.holds(on_lease <= seen.amount_nanos, "I2", "{} were billed on {}", (on_lease, seen))
        self.billed[seen.window_id] += bill.nanos - bill.beyond_nanos
        billed, most = self.billed[seen.window_id], self.budget_max.get(seen.window_id)
        within = most is None or billed <= most
        self.holds(within, "P1", "{} nanos were billed of {}, with {}", (billed, most, seen))

    # The books.

    def device_commit(self, disk: SimDisk, effects: Sequence[BookEffect], *, sync: bool) -> None:
        """A device's books are about to take these rows."""
        account = self.accounts[disk]
        held, reserved = account.held, account.reserved
        touched: dict[int, LeaseRow | None] = {}
        for effect in effects:
            if type(effect) is PutMeta:
                continue
            if type(effect) is PutLease:
                lease = effect.row
                touched[lease.number] = lease
                account.marks_put[lease.number] = lease.watermark_nanos
                self.whole(lease.settled_nanos)
            elif type(effect) is AppendSpool:
                account.last_put = effect.record.sequence
                self._spooled(disk, effect.record)
            elif type(effect) is PutReservation:
                made = effect.row
                held[made.id] = (made.lease_number, made.amount_nanos)
                reserved[made.lease_number] += made.amount_nanos
                touched.setdefault(made.lease_number, None)
                self.whole(made.amount_nanos)
            elif type(effect) is DropReservation:
                number, amount = held.pop(effect.reservation_id, (0, 0))
                reserved[number] -= amount
            elif type(effect) is CompactSpool:
                account.last_put = max(account.last_put, effect.record.sequence)
                unsent = effect.first > disk.sent_through
                self.holds(unsent, "O_2", "record {} was sent before", (effect.first,))
        if sync:
            account.synced()
        self.holds(not self.late, "S_3", "late usage is not adjusted at once: {}", (self.late,))
        for number, put in touched.items():
            row = put or disk.state.leases.get(number)
            if row is not None:
                used = row.settled_nanos + reserved[number]
                within = used <= row.amount_nanos or used <= self._with_overruns(disk, row)
                self.holds(within, "I2", "{} of {}", (used, row))

    def _with_overruns(self, disk: SimDisk, lease: LeaseRow) -> int:
        """What may be used of a lease at most: an overrun is booked in full."""
        beyond = self.provider.listed_beyond.get((disk.owner, lease.number), 0)
        return max(lease.settled_nanos, lease.amount_nanos + beyond)

    def disk_lost(self, disk: SimDisk) -> None:
        """The disk fell back, or was copied: what is held has to be read again."""
        account, state = self.accounts[disk], disk.state
        account.held = {
            row.id: (row.lease_number, row.amount_nanos) for row in state.reservations.values()
        }
        account.reserved = counts()
        for number, amount in account.held.values():
            account.reserved[number] += amount
        account.closed = {number for number in account.closed if number not in state.leases}
        account.marks = {number: row.watermark_nanos for number, row in state.leases.items()}
        account.marks_put = {}
        account.last = account.last_put = state.spool_last

    def _spooled(self, disk: SimDisk, record: SpoolRecord) -> None:
        body = record.body
        if isinstance(body, Outcome):
            self._settled(body)
        elif isinstance(body, LeaseClose):
            self.accounts[disk].closed.add(body.lease_number)
            self._closed_at(disk, body)
        elif isinstance(body, CostAdjustment):
            due = self.late.pop(f"{body.request_id}/{body.lease_number}", None)
            self.holds(body.delta_nanos == due, "S_3", "{}, but due were {}", (body, due))

    def _closed_at(self, disk: SimDisk, close: LeaseClose) -> None:
        """A final figure covers all that was billed, whatever was lost since (rules L_4, L_5)."""
        if disk.is_stale:
            return  # it knows less than was: quarantine settles it
        key = (disk.owner, close.lease_number)
        if close.lease_number in disk.foreign:
            seen = self.granted[key]
            whole = close.final_nanos >= seen.amount_nanos
            self.holds(whole, "D_2", "a copy of {} closes {} by {}", (disk.owner, seen, close))
        on_lease, beyond = self.provider.on_lease, self.provider.beyond_on_lease
        billed = on_lease.get(key, 0) - beyond.get(key, 0)
        covers = close.final_nanos >= billed
        self.holds(covers, "L_4", "{} of {}, but {} were billed", (close, disk.owner, billed))

    def learned(self, bill: Bill, settle: SettleKind) -> None:
        """A device has come to know how a call ended."""
        self.known[bill.request_id, bill.reservation_id] = settle

    def _settled(self, outcome: Outcome) -> None:
        """Each attempt is booked as the provider's bill demands (rules S_2, I5)."""
        bills = iter(self.provider.bills.get(outcome.request_id, ()))
        for attempt in outcome.attempts:
            if not attempt.lease_number or attempt.error in NEVER_SENT:
                continue
            bill = next(bills, None)
            if bill is None or attempt.error == "interrupted":  # nobody lived to learn it
                known: SettleKind | None = None
            else:
                known = self.known.get((bill.request_id, bill.reservation_id))
            true = bill.listed_nanos if bill is not None and known is REPORTED else 0
            if attempt.settle is UNKNOWN:
                whole = attempt.cost_nanos == attempt.reserved_nanos
                self.holds(whole, "I5", "{} of {}, not in full", (attempt, outcome.request_id))
                due = true - attempt.cost_nanos
                if due and known in (REPORTED, SettleKind.RELEASED):
                    self.late[f"{outcome.request_id}/{attempt.lease_number}"] = due
            else:
                right = known is attempt.settle and attempt.cost_nanos == true
                said = "{} of {}, but the call was {} and cost {}"
                self.holds(right, "S_2", said, (attempt, outcome.request_id, known, true))

    def sends(self, device: str, disk: SimDisk, records: Sequence[SpoolRecord]) -> None:
        """Records go on the wire: they must be safe from a loss of power (rules L_5, O_2)."""
        last = records[-1].sequence
        synced = self.accounts[disk].last >= last
        self.holds(synced, "L_5", "record {} of {} is sent before it is synced", (last, device))
        disk.sent_through = max(disk.sent_through, last)
        for record in records:
            if isinstance(record.body, LeaseClose):
                self.closes_sent.add((device, record.body.lease_number))
