"""What must hold at every moment, judged from the outside.

The checker sees the provider's bills, the messages on the wire, the clients' requests, and durable
rows. It never asks an engine: every sum here is its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coordinator.messages import Acked, LeaseSent, Message
from coordinator.records import (
    BookedCounts,
    BookedOutcome,
    LeaseEnd,
    LeaseRecord,
    LedgerRow,
    StoreEffect,
    WindowRow,
)
from edge_agent.books import (
    AppendSpool,
    BookEffect,
    CompactSpool,
    DropReservation,
    PutLease,
    PutReservation,
)
from shared.decision.lease import LeaseRow
from shared.decision.types import (
    CostAdjustment,
    LeaseClose,
    Outcome,
    SettleKind,
    SpoolRecord,
)
from tests.fakes.memory_store import MemoryDatabase
from tests.simulation.disk import SimDisk
from tests.simulation.provider import Bill, Provider

GRANTED = "grant"
SIGNS: dict[str, tuple[int, int, int]] = {
    GRANTED: (0, 0, 1),
    "settle": (1, 0, -1),
    "unsettle": (1, 0, -1),
    "confirm": (1, -1, 0),
    "adjust": (1, 0, 0),
    "refund": (0, -1, 0),
    "release": (0, 0, -1),
    "unconfirmed": (0, 1, -1),
    "overrun": (1, 0, 0),
    "writeoff": (0, 1, -1),
    "close": (0, 0, 0),
}
"""How each kind of row moves settled, unconfirmed and outstanding money, by the contract."""
NEVER_SENT = ("books_full",)


class Violated(Exception):
    """An invariant does not hold.

    Attributes
    ----------
    rule : str
        Its name in the contract.
    """

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(rule, what)  # as they are, so that it can go from process to process
        self.rule, self.what = rule, what

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@dataclass
class GrantSeen:
    """A lease as it went over the wire."""

    window_id: int
    amount_nanos: int
    duration_ms: int
    price_version: int
    incarnation: str
    granted_ms: int
    delivered: bool = False


@dataclass
class Checker:
    """Keeps its own account of everything.

    Attributes
    ----------
    checked : Counter of str
        How often each invariant was looked at.
    unheard : set of str
        Devices that have not said hello since the database was restored.
    lossy : set of str
        Devices whose disk was restored or copied.
    ordered : set of int
        What the operator may have set a window's budget to, in nano-dollars.
    cause : str
        What the coordinator is doing: `wish`, `batch`, `hello`, `tick`, an operator's command.
    hears : str
        The device that says hello, or is written off, with that.
    """

    provider: Provider
    checked: Counter[str] = field(default_factory=Counter)
    budget_max: dict[int, int] = field(default_factory=dict)
    billed: Counter[int] = field(default_factory=Counter)
    granted: dict[tuple[str, int], GrantSeen] = field(default_factory=dict)
    closed: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    closes_sent: set[tuple[str, int]] = field(default_factory=set)
    unheard: set[str] = field(default_factory=set)
    lossy: set[str] = field(default_factory=set)
    restored: bool = False
    ordered: set[int] = field(default_factory=set)
    assumed_unspent: bool = False
    cause: str = ""
    hears: str = ""
    hello_number_max: int = 0
    now_ms: int = 0
    used_reservations: set[str] = field(default_factory=set)
    reserved: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    held: dict[int, dict[str, tuple[int, int]]] = field(default_factory=lambda: defaultdict(dict))
    late: dict[str, int] = field(default_factory=dict)
    known: dict[tuple[str, str], SettleKind] = field(default_factory=dict)
    sums: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    lease_rows: dict[tuple[str, int], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    ledger_id: int = 0
    ledger_tail: list[LedgerRow] = field(default_factory=list)
    booked: set[str] = field(default_factory=set)
    targets: dict[int, int] = field(default_factory=dict)

    # The provider's side.

    def paid_call(self, bill: Bill, *, disk: SimDisk, incarnation: str, name: str) -> None:
        """A call reached a paid endpoint: was it allowed to, and is it covered?"""
        number, key = bill.lease_number, (bill.device, bill.lease_number)
        where = f"request {bill.request_id} on {bill.arm}, lease {number} of {name}"
        row = disk.state.reservations.get(bill.reservation_id)
        self._holds(row is not None, "I6", f"{where}: a paid call without a committed reservation")
        assert row is not None
        fresh = (incarnation + "/" + bill.reservation_id) not in self.used_reservations
        self._holds(fresh, "S_1", f"{where}: two calls on one reservation")
        self.used_reservations.add(incarnation + "/" + bill.reservation_id)
        covered = row.amount_nanos >= bill.nanos - bill.beyond_nanos
        self._holds(
            covered, "I3", f"{where}: {bill.nanos} were billed, {row.amount_nanos} reserved"
        )
        lease = disk.state.leases.get(number)
        self._holds(lease is not None, "L_5", f"{where}: the lease is not in the books")
        assert lease is not None
        self._holds(
            number not in self.closed[id(disk)], "L_5", f"{where}: spends on a lease that it closed"
        )
        seen = self.granted.get(key)
        self._holds(seen is not None, "L_1", f"{where}: the lease was never granted")
        assert seen is not None
        self._holds(
            seen.incarnation == incarnation, "D_1", f"{where}: the lease is {seen.incarnation}'s"
        )
        late_ms = self.now_ms - seen.granted_ms - seen.duration_ms
        self._holds(late_ms <= 0, "L_3", f"{where}: {late_ms} ms too late")
        synced = disk.synced.leases.get(number)
        mark = synced.watermark_nanos if synced is not None else 0
        spent = lease.settled_nanos + self.reserved[id(disk)][number]
        beyond = self.provider.beyond_on_lease[key]
        self._holds(spent <= mark + beyond, "L_2", f"{where}: {spent} beyond the watermark {mark}")
        self.billed[seen.window_id] += bill.nanos - bill.beyond_nanos
        self._within_budget(seen.window_id)

    def _within_budget(self, window_id: int) -> None:
        billed, most = self.billed[window_id], self.budget_max.get(window_id)
        self._holds(
            most is None or billed <= most,
            "P1",
            f"{billed} nanos were billed in window {window_id} of {most}",
        )

    # The device's side.

    def device_commit(self, disk: SimDisk, effects: Sequence[BookEffect], sync: bool) -> None:
        """A device's books are about to take these rows."""
        place = id(disk)
        held, reserved = self.held[place], self.reserved[place]
        touched: dict[int, LeaseRow | None] = {}
        for effect in effects:
            if isinstance(effect, PutReservation):
                number = effect.row.lease_number
                held[effect.row.id] = (number, effect.row.amount_nanos)
                reserved[number] += effect.row.amount_nanos
                touched.setdefault(number, None)
                self._whole(effect.row.amount_nanos)
            elif isinstance(effect, DropReservation):
                found = held.pop(effect.reservation_id, None)
                if found is not None:
                    reserved[found[0]] -= found[1]
            elif isinstance(effect, PutLease):
                touched[effect.row.number] = effect.row
                self._whole(effect.row.settled_nanos)
            elif isinstance(effect, AppendSpool):
                self._spooled(disk, effect.record)
            elif isinstance(effect, CompactSpool):
                self._holds(
                    effect.first > disk.sent_through,
                    "O_2",
                    f"record {effect.first} was sent before it was compacted",
                )
        self._holds(not self.late, "S_3", f"late usage is not adjusted at once: {self.late}")
        for number, row in touched.items():
            lease = row or disk.state.leases.get(number)
            if lease is None:
                continue
            used = lease.settled_nanos + reserved[number]
            beyond = max(0, lease.settled_nanos - lease.amount_nanos)  # an overrun, booked in full
            if used > lease.amount_nanos + beyond:
                beyond = self._overrun_on(disk, number)
            self._holds(
                used <= lease.amount_nanos + beyond, "I2", f"lease {number}: {used} of {lease}"
            )

    def _overrun_on(self, disk: SimDisk, number: int) -> int:
        return max(
            (n for (_, no), n in self.provider.beyond_on_lease.items() if no == number), default=0
        )

    def disk_lost(self, disk: SimDisk) -> None:
        """The disk fell back, or was copied: what is held has to be read again."""
        place, state = id(disk), disk.state
        self.held[place] = {
            row.id: (row.lease_number, row.amount_nanos) for row in state.reservations.values()
        }
        self.reserved[place] = Counter()
        for number, amount in self.held[place].values():
            self.reserved[place][number] += amount
        self.closed[place] = {n for n in self.closed[place] if n not in state.leases}

    def _spooled(self, disk: SimDisk, record: SpoolRecord) -> None:
        body = record.body
        if isinstance(body, Outcome):
            self._settled(body)
        elif isinstance(body, LeaseClose):
            self.closed[id(disk)].add(body.lease_number)
            self._closed_at(disk, body)
        elif isinstance(body, CostAdjustment):
            due = self.late.pop(body.request_id + f"/{body.lease_number}", None)
            self._holds(
                due is not None and due == body.delta_nanos,
                "S_3",
                f"request {body.request_id}: adjusted by {body.delta_nanos}, due were {due}",
            )

    def _closed_at(self, disk: SimDisk, close: LeaseClose) -> None:
        """A final figure covers all that was billed, whatever was lost since (rules L_4, L_5)."""
        if disk.is_stale:
            return  # it knows less than was: quarantine settles it
        key = (disk.owner, close.lease_number)
        billed = self.provider.on_lease[key] - self.provider.beyond_on_lease[key]
        self._holds(
            close.final_nanos >= billed, "L_4", f"{disk.owner} closes at {close}, billed {billed}"
        )

    def learned(self, bill: Bill, settle: SettleKind) -> None:
        """A device has come to know how a call ended."""
        self.known[bill.request_id, bill.reservation_id] = settle

    def _settled(self, outcome: Outcome) -> None:
        """Each attempt is booked as the provider's bill demands (rules S_2, I5)."""
        bills = iter(self.provider.bills.get(outcome.request_id, ()))
        for attempt in outcome.attempts:
            if not attempt.lease_number or attempt.error in NEVER_SENT:
                continue
            where = f"request {outcome.request_id}: {attempt.settle} at {attempt.cost_nanos}"
            bill = next(bills, None)
            if bill is None or attempt.error == "interrupted":  # nobody lived to learn it
                known: SettleKind | None = None
            else:
                known = self.known.get((bill.request_id, bill.reservation_id))
            true = bill.listed_nanos if bill is not None and known is SettleKind.REPORTED else 0
            if attempt.settle is SettleKind.UNKNOWN:
                whole = attempt.cost_nanos == attempt.reserved_nanos
                self._holds(whole, "I5", f"{where}, unknown and not in full")
                if known in (SettleKind.REPORTED, SettleKind.RELEASED):
                    due = true - attempt.cost_nanos
                    if due:
                        self.late[f"{outcome.request_id}/{attempt.lease_number}"] = due
            else:
                self._holds(
                    known is attempt.settle and attempt.cost_nanos == true,
                    "S_2",
                    f"{where}, but the call was {known} and cost {true}",
                )

    def sends(self, device: str, disk: SimDisk, records: Sequence[SpoolRecord]) -> None:
        """Records go on the wire: they must be safe from a loss of power (rules L_5, O_2)."""
        self._holds(
            disk.synced.spool_last >= records[-1].sequence,
            "L_5",
            f"record {records[-1].sequence} of {device} is sent before it is synced",
        )
        disk.sent_through = max(disk.sent_through, records[-1].sequence)
        for record in records:
            if isinstance(record.body, LeaseClose):
                self.closes_sent.add((device, record.body.lease_number))

    # The coordinator's side.

    def told(self, device: str, message: Message, database: MemoryDatabase) -> None:
        """A message goes down: what it says must be in the books already."""
        if isinstance(message, Acked):
            marks = (mark for (name, _), mark in database.spool_marks.items() if name == device)
            self._holds(
                max(marks, default=0) >= message.sequence,
                "O_1",
                f"sequence {message.sequence} of {device} is acked before it is booked",
            )
        elif isinstance(message, LeaseSent):
            key = (device, message.lease_number)
            self._holds(key in database.leases, "C_2", f"lease {key} is not in the books")
            self._holds(
                not self.unheard, "C_5", f"a lease is granted before {sorted(self.unheard)} spoke"
            )
            earlier = self.granted.get(key)
            # Restored books may give a number again that never arrived, and never will.
            unseen = earlier is None or (self.restored and not earlier.delivered)
            self._holds(unseen, "L_1", f"lease {key} is granted twice")
            self.granted[key] = GrantSeen(
                message.window_id,
                message.amount_nanos,
                message.duration_ms,
                message.price_version,
                message.incarnation,
                granted_ms=self.now_ms,
            )

    def store_commit(self, effects: Sequence[StoreEffect]) -> None:
        """The coordinator's books have taken these rows."""
        self.unheard.discard(self.hears)  # whether or not the coordinator lives to know it
        touched: set[int] = set()
        leases: list[LeaseRecord] = []
        before: dict[int, int] = {}
        loans: list[LedgerRow] = []
        for effect in effects:
            if isinstance(effect, LedgerRow):
                before.setdefault(effect.window_id, sum(self.sums[effect.window_id]))
                self._row(effect)
                touched.add(effect.window_id)
                if effect.kind == GRANTED:
                    loans.append(effect)
            elif isinstance(effect, WindowRow):
                touched.add(effect.id)
            elif isinstance(effect, LeaseRecord):
                leases.append(effect)
            elif isinstance(effect, BookedOutcome):
                self._holds(
                    effect.outcome.request_id not in self.booked,
                    "P5",
                    f"request {effect.outcome.request_id} is booked twice",
                )
                self.booked.add(effect.outcome.request_id)
        windows = {row.id: row for row in effects if isinstance(row, WindowRow)}
        for window_id in touched:
            row = windows.get(window_id)
            self._holds(row is not None, "C_2", f"window {window_id} has rows and no balances")
            assert row is not None
            self._window(row, before=before.get(window_id), loans=loans)
        for lease in leases:
            self._lease(lease)

    def _row(self, row: LedgerRow) -> None:
        self.ledger_id += 1
        self._holds(row.id == self.ledger_id, "C_2", f"row {row.id} is not {self.ledger_id}")
        self._whole(row.amount_nanos)
        for index, sign in enumerate(SIGNS[str(row.kind)]):
            self.sums[row.window_id][index] += sign * row.amount_nanos
        self.lease_rows[row.device_id, row.lease_number][str(row.kind)] += row.amount_nanos
        if row.kind == "release" and row.amount_nanos:
            key = (row.device_id, row.lease_number)
            unseen = self.cause == "hello" and row.lease_number > self.hello_number_max
            # In the same way a device that is shut out closes leases that it never saw.
            allowed = unseen or key in self.closes_sent or self.assumed_unspent
            self._holds(allowed, "C_6", f"{row} gives money back without the device's close")

    def _window(self, row: WindowRow, *, before: int | None, loans: Iterable[LedgerRow]) -> None:
        sums = self.sums[row.id]
        self._holds(
            [row.settled_nanos, row.unconfirmed_nanos, row.outstanding_nanos] == sums,
            "C_2",
            f"{row} does not agree with its rows {sums}",
        )
        self._holds(min(sums) >= 0, "C_2", f"{row} has a negative balance")
        if row.id not in self.targets and not self.restored:
            fresh = row.target_nanos in self.ordered
            self._holds(fresh, "C_4", f"{row} begins with another budget than {self.ordered}")
        self.targets[row.id] = row.target_nanos
        most = max(self.budget_max.get(row.id, 0), row.target_nanos)
        self.budget_max[row.id] = most
        if self.cause == "wish" and any(loan.window_id == row.id for loan in loans):
            self._holds(
                sum(sums) <= row.target_nanos, "I1", f"lent beyond the budget: {row}, {sums}"
            )
        elif before is not None and sum(sums) > before:
            beyond = sum(self.provider.beyond_on_lease.values())
            self._holds(
                sum(sums) <= row.target_nanos + beyond or self.restored or self.assumed_unspent,
                "I1",
                f"committed money rose beyond the budget: {row}",
            )

    def _lease(self, lease: LeaseRecord) -> None:
        rows = self.lease_rows[lease.device_id, lease.number]
        open_nanos = sum(SIGNS[kind][2] * nanos for kind, nanos in rows.items())
        left = max(0, lease.amount_nanos - lease.booked_nanos)
        expected = left if lease.end is LeaseEnd.OPEN else 0
        self._holds(open_nanos == expected, "C_2", f"{lease}: {open_nanos} outstanding by its rows")

    def database_restored(self, database: MemoryDatabase, everybody: Iterable[str]) -> None:
        """The books went back in time: so does what was read from them."""
        self.restored = True
        self.unheard = set(everybody)
        self.sums.clear()
        self.lease_rows.clear()
        self.ledger_id = 0
        self.booked = {
            row.outcome.request_id for row in database.learned if isinstance(row, BookedOutcome)
        }
        cause, self.cause = self.cause, "restore"
        closes, self.closes_sent = self.closes_sent, set(self.lease_keys(database))
        for row in database.ledger:
            self._row(row)
        self.closes_sent = closes
        self.cause = cause

    @staticmethod
    def lease_keys(database: MemoryDatabase) -> Iterable[tuple[str, int]]:
        """Every lease in the books."""
        return database.leases.keys()

    # The end.

    def at_rest(
        self,
        database: MemoryDatabase,
        *,
        disks: Iterable[tuple[str, SimDisk]],
    ) -> None:
        """All has been told: the books cover every bill, each outcome is there once (P5)."""
        sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        for row in database.ledger:
            for index, sign in enumerate(SIGNS[str(row.kind)]):
                sums[row.window_id][index] += sign * row.amount_nanos
        for window in database.windows.values():
            have = [window.settled_nanos, window.unconfirmed_nanos, window.outstanding_nanos]
            self._holds(have == sums[window.id], "C_2", f"{window}: its rows say {sums[window.id]}")
            self._holds(0 == have[2], "L_5", f"{window}: money is still out")
        for key, nanos in self.provider.on_lease.items():
            lease = database.leases.get(key)
            known = lease.booked_nanos + lease.unconfirmed_nanos if lease is not None else 0
            # What comes beyond a closed lease and is never reported is nobody's to know.
            self._holds(
                known >= nanos - self.provider.beyond_on_lease[key],
                "I5",
                f"{nanos} were billed on lease {key}, the books say {lease}",
            )
        booked = Counter(
            row.outcome.request_id for row in database.learned if isinstance(row, BookedOutcome)
        )
        counted = Counter[str]()
        for told in database.learned:
            if isinstance(told, BookedCounts):
                counted[told.device_id] += told.requests
        spooled: dict[str, set[str]] = defaultdict(set)
        for device, disk in disks:
            spooled[device].update(disk.outcomes)
        for device, requests in spooled.items():
            missing = [request for request in requests if not booked[request]]
            # Some that a summary speaks of were on a disk that is lost, or are told by a copy too.
            told_of = len(missing) == counted[device] or (
                device in self.lossy and len(missing) < counted[device]
            )
            self._holds(
                told_of,
                "P5",
                f"{device} spooled {len(requests)} outcomes; {len(missing)} are not booked, "
                f"summaries speak of {counted[device]}: {missing[:3]}",
            )
        twice = [request for request, times in booked.items() if times > 1]
        self._holds(not twice, "P5", f"booked twice: {twice[:3]}")

    def _whole(self, amount: int) -> None:
        self._holds(type(amount) is int, "A_1", f"{amount!r} is no whole number of nanos")

    def _holds(self, holds: bool, rule: str, what: str) -> None:
        self.checked[rule] += 1
        if not holds:
            raise Violated(rule, what)
