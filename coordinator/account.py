"""The budget's books: windows, leases and the append-only ledger (rules C_1 to C_7).

Pure state: every method changes memory and leaves the rows that it made in `take_changes()`, for
the caller to commit in one transaction. Amounts are nano-dollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from coordinator.records import (
    MOVES,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    SpendRow,
    StoreEffect,
    WindowRow,
)
from coordinator.spend import UNKNOWN, Label, SpendByDay
from shared.decision.money import dollars
from shared.errors import InvariantError, NotFoundError, invariant
from shared.limits import BOOKED_NANOS_MAX
from shared.rows import changed, many

AttemptCost = tuple[int, int, str, Label]
"""The lease's number, what the attempt cost in nano-dollars, its request, its arm and tag."""

_Part = tuple[LedgerKind, int, str, Label]
"""Of a cost: what becomes of it, how much, its request, its arm and tag."""

_lease_number = itemgetter(0)


class BudgetAccount:
    """Where every nano-dollar of the open windows is.

    Notes
    -----
    Invariant I1, checked whenever money is lent: settled + unconfirmed + outstanding <= enforced
    budget. All else moves money that was lent. Overruns, which a provider caused against its own
    price list, are booked in full (rule S_4) and may exceed it; they raise an alarm.
    """

    def __init__(
        self,
        *,
        windows: Iterable[WindowRow] = (),
        leases: Iterable[LeaseRecord] = (),
        ledger_id_max: int = 0,
        spend: Iterable[SpendRow] = (),
    ) -> None:
        self._windows = {window.id: window for window in windows}
        self._leases = {(lease.device_id, lease.number): lease for lease in leases}
        self._ledger_id = ledger_id_max
        self._spend = SpendByDay(spend)
        self._rows: list[LedgerRow] = []
        self._moved: dict[int, list[int]] = {}  # what rows moved since the balances were put
        self._dirty_windows: dict[int, WindowRow] = {}
        self._dirty_leases: dict[tuple[str, int], LeaseRecord] = {}

    def window(self, window_id: int) -> WindowRow:
        """A window with its running balances.

        Raises
        ------
        NotFoundError
            If it was never opened.
        """
        if window_id not in self._windows:
            raise NotFoundError(f"there is no budget window {window_id}")
        if window_id in self._moved:
            moved = self._moved.pop(window_id)
            self._put_window(self._windows[window_id].moved(*moved))
        return self._windows[window_id]

    def has_window(self, window_id: int) -> bool:
        """Whether a window was opened."""
        return window_id in self._windows

    def remember(self, leases: Iterable[LeaseRecord], *, windows: Iterable[WindowRow]) -> None:
        """Take in leases that ended in earlier windows, as the books hold them."""
        for window in windows:
            self._windows.setdefault(window.id, window)
        for lease in leases:
            self._leases.setdefault((lease.device_id, lease.number), lease)

    def forget_before(self, window_id: int) -> None:
        """Let go of leases that ended in windows before this one; the books have them.

        A window that the clock has left stays until its time is over.
        """
        start = self._windows[window_id].start_unix_ms
        self._leases = {
            key: lease
            for key, lease in self._leases.items()
            if lease.window_id >= window_id or lease.end is LeaseEnd.OPEN
        }
        held = {lease.window_id for lease in self._leases.values()}
        self._windows = {
            key: row for key, row in self._windows.items() if key in held or row.end_unix_ms > start
        }

    def lease(self, device_id: str, number: int) -> LeaseRecord | None:
        """A lease, open or ended."""
        return self._leases.get((device_id, number))

    def open_leases(self, device_id: str = "") -> tuple[LeaseRecord, ...]:
        """Leases that still count as outstanding, of one device or of all."""
        is_open = LeaseEnd.OPEN  # looked up once: it takes longer than the rest of the question
        return tuple(
            [
                lease
                for lease in self._leases.values()
                if lease.end is is_open and device_id in ("", lease.device_id)
            ]
        )

    def holding_leases(self) -> tuple[LeaseRecord, ...]:
        """Leases that are open, or whose end left unconfirmed money, by window and device."""
        found = (
            lease
            for lease in self._leases.values()
            if lease.end is LeaseEnd.OPEN or lease.unconfirmed_nanos
        )
        return tuple(sorted(found, key=lambda held: (held.window_id, held.device_id, held.number)))

    def open_window(
        self, window_id: int, *, start_unix_ms: int, end_unix_ms: int, target_nanos: int
    ) -> None:
        """Begin a window with a fresh budget; nothing rolls over (rule C_4)."""
        invariant(window_id not in self._windows, f"window {window_id} was opened twice")
        self._put_window(
            WindowRow(
                id=window_id,
                start_unix_ms=start_unix_ms,
                end_unix_ms=end_unix_ms,
                target_nanos=target_nanos,
            )
        )

    def carry(self, window_id: int, *, since_unix_ms: int, until_unix_ms: float, at: int) -> None:
        """Count against a window what others hold that lie in the same time.

        There are such windows once an operator has left one that had begun in the future: what is
        settled, unconfirmed and lent in them counts as spent here, so that nothing is spent twice.
        """
        left = [
            self.window(row.id)
            for row in list(self._windows.values())
            if row.id != window_id
            and row.end_unix_ms > since_unix_ms
            and row.start_unix_ms < until_unix_ms
        ]
        held = sum(row.committed_nanos for row in left)
        if held:
            ids = ", ".join(str(row.id) for row in left)
            note = f"held in windows that the clock has left: {ids}"
            self._ledger_id += 1
            kind = LedgerKind.CARRY  # no lease's, and in what was spent by day already
            row = LedgerRow(self._ledger_id, at, window_id, kind, "", 0, held, note=note)
            self._rows.append(row)
            self._put_window(row.applied_to(self.window(window_id)))

    def set_target(self, window_id: int, target_nanos: int) -> None:
        """Change a window's budget; below what is committed it falls as leases return (C_3)."""
        self._put_window(changed(self.window(window_id), target_nanos=target_nanos))

    def grant(self, lease: LeaseRecord) -> None:
        """Lend free money to a device."""
        window = self.window(lease.window_id)
        if min(window.settled_nanos, window.unconfirmed_nanos, window.outstanding_nanos) < 0:
            raise InvariantError(f"a balance is negative, so nothing can be lent: {window}")
        invariant(
            0 < lease.amount_nanos <= window.free_nanos,
            f"a lease of {lease.amount_nanos} nanos exceeds the free {window.free_nanos}",
        )
        invariant(
            (lease.device_id, lease.number) not in self._leases,
            f"lease {lease.number} of {lease.device_id} was granted twice",
        )
        self._put_lease(lease)
        self._book(lease, LedgerKind.GRANT, lease.amount_nanos, unix_ms=lease.granted_unix_ms)

    def settle(
        self,
        device_id: str,
        number: int,
        *,
        cost: int,
        request_id: str,
        at: int,
        label: Label = UNKNOWN,
    ) -> int:
        """Book the cost of one attempt; returns the part that the lease did not cover."""
        return self.settle_all(device_id, [(number, cost, request_id, label)], at=at)

    def settle_all(self, device_id: str, costs: Sequence[AttemptCost], *, at: int) -> int:
        """Book the costs of attempts, in order; returns the part that no lease covered.

        On a lease that has ended, a cost turns its unconfirmed money into settled money first.
        """
        overrun = 0
        for number, run in groupby(costs, key=_lease_number):
            lease = self._known(device_id, number)
            is_open = lease.end is LeaseEnd.OPEN
            kind = LedgerKind.SETTLE if is_open else LedgerKind.CONFIRM
            booked, unconfirmed = lease.booked_nanos, lease.unconfirmed_nanos
            parts: list[_Part] = []
            beyond = 0
            for _, cost, request_id, label in run:
                if cost < 0:
                    raise InvariantError(f"a cost cannot be negative: {cost}")
                left = lease.amount_nanos - booked if is_open else unconfirmed
                covered = cost if cost <= left else max(0, left)
                booked += covered
                if not is_open:
                    unconfirmed -= covered
                if covered:
                    parts.append((kind, covered, request_id, label))
                if cost > covered:
                    uncovered = self._fitting(cost - covered, lease.window_id, besides=beyond)
                    booked += uncovered
                    beyond += uncovered
                    if uncovered:
                        parts.append((LedgerKind.OVERRUN, uncovered, request_id, label))
            overrun += beyond
            self._book_all(lease, parts, unix_ms=at)
            self._put_lease(changed(lease, booked_nanos=booked, unconfirmed_nanos=unconfirmed))
        return overrun

    def adjust(
        self,
        device_id: str,
        number: int,
        *,
        delta: int,
        request_id: str,
        at: int,
        label: Label = UNKNOWN,
    ) -> None:
        """Correct a settled cost after late usage (rule S_3).

        On an open lease a lower cost gives the money back to the lease, not to the budget: only
        the device's close does that (rule C_6).
        """
        lease = self._known(device_id, number)
        delta = max(delta, -lease.booked_nanos)
        if delta > 0:
            self.settle(device_id, number, cost=delta, request_id=request_id, at=at, label=label)
        elif delta < 0:
            self._put_lease(changed(lease, booked_nanos=lease.booked_nanos + delta))
            overrun = max(0, lease.booked_nanos - lease.amount_nanos)
            uncovered = -delta if lease.end is not LeaseEnd.OPEN else min(-delta, overrun)
            parts = ((LedgerKind.ADJUST, -uncovered), (LedgerKind.UNSETTLE, delta + uncovered))
            for kind, part in parts:
                if part:
                    self._book(lease, kind, part, unix_ms=at, request_id=request_id, label=label)

    def close(self, device_id: str, number: int, *, final: int, at: int, note: str) -> str:
        """End a lease at its device's final figure (rules C_6, L_5); returns an alarm or "".

        What the figure holds beyond the booked costs becomes unconfirmed; the rest of the lease
        returns to the budget. The first close wins. A figure below the booked costs, or above the
        lease, counts as the full lease; so does one below them after a write-off.
        """
        lease = self._known(device_id, number)
        if lease.end is LeaseEnd.WRITTEN_OFF:
            return self._close_written_off(lease, final=final, at=at, note=note)
        if lease.end is not LeaseEnd.OPEN:
            return ""
        alarm = ""
        full = max(lease.booked_nanos, lease.amount_nanos)
        if not lease.booked_nanos <= final <= full:
            alarm, final = _impossible(lease, final=final), full
        unconfirmed, released = final - lease.booked_nanos, full - final
        self._put_lease(changed(lease, end=LeaseEnd.CLOSED, unconfirmed_nanos=unconfirmed))
        if unconfirmed:
            self._book(lease, LedgerKind.UNCONFIRMED, unconfirmed, unix_ms=at, note=note)
        if released:
            self._book(lease, LedgerKind.RELEASE, released, unix_ms=at, note=note)
        self._book(lease, LedgerKind.CLOSE, 0, unix_ms=at, note=alarm or note)
        return alarm

    def _close_written_off(self, lease: LeaseRecord, *, final: int, at: int, note: str) -> str:
        """The late word on a lease that was ended without its device.

        What was written off and not spent comes back. What was spent and counted as unspent, or
        on a lease of unknown amount, is granted after the fact, so that it is in the books.
        """
        alarm = ""
        if lease.amount_nanos:  # else these books never knew how large it was
            if final < lease.booked_nanos:
                alarm, final = _impossible(lease, final=final), lease.amount_nanos
            final = min(final, lease.amount_nanos)
        unexplained = max(0, final - lease.booked_nanos)
        change = self._fitting(unexplained - lease.unconfirmed_nanos, lease.window_id)
        unexplained = lease.unconfirmed_nanos + change
        lease = changed(
            lease,
            end=LeaseEnd.CLOSED,
            unconfirmed_nanos=unexplained,
            amount_nanos=lease.amount_nanos + max(0, change),
        )
        self._put_lease(lease)
        if change < 0:
            self._book(lease, LedgerKind.REFUND, -change, unix_ms=at, note=note)
        elif change > 0:
            self._book(lease, LedgerKind.GRANT, change, unix_ms=at, note=note)
            self._book(lease, LedgerKind.UNCONFIRMED, change, unix_ms=at, note=note)
        self._book(lease, LedgerKind.CLOSE, 0, unix_ms=at, note=alarm or note)
        return alarm

    def write_off(self, device_id: str, *, at: int, note: str, assume_unspent: bool = False) -> int:
        """End the leases of a silent device (rule C_7); returns what they had not reported.

        The rest of each lease is booked as spent, or, against all caution, given back: then the
        window is marked as no longer covered by promise P1.
        """
        total = 0
        kind = LedgerKind.RELEASE if assume_unspent else LedgerKind.WRITEOFF
        for lease in self.open_leases(device_id):
            rest = max(0, lease.amount_nanos - lease.booked_nanos)
            total += rest
            unconfirmed = 0 if assume_unspent else rest
            self._put_lease(changed(lease, end=LeaseEnd.WRITTEN_OFF, unconfirmed_nanos=unconfirmed))
            if rest:
                self._book(lease, kind, rest, unix_ms=at, note=note)
            self._book(lease, LedgerKind.CLOSE, 0, unix_ms=at, note=note)
            if assume_unspent and rest:
                window = self.window(lease.window_id)
                said = f"${dollars(rest)} of {device_id}, lease {lease.number}: {note}"
                alarms = "; ".join(filter(None, (window.alarms, said)))
                self._put_window(changed(window, alarms=alarms))
        return total

    def adopt(self, lease: LeaseRecord) -> None:
        """Book a lease that lost books had granted (rule C_5), whether or not it fits.

        Its money is out, so the enforced budget follows.
        """
        invariant(lease.amount_nanos >= 0, f"a lease cannot be negative: {lease.amount_nanos}")
        if (lease.device_id, lease.number) in self._leases:
            return
        lease = changed(lease, amount_nanos=self._fitting(lease.amount_nanos, lease.window_id))
        self._put_lease(lease)
        note = "presented by its device after a restore"
        self._book(
            lease, LedgerKind.GRANT, lease.amount_nanos, unix_ms=lease.granted_unix_ms, note=note
        )

    def close_in_full(self, device_id: str, *, at: int, note: str, number: int = 0) -> None:
        """Book the open leases of a device, or one of them, as spent but unconfirmed (D_2).

        Those that were written off as spent stay so, whatever such a device says of them later.
        """
        if not number:
            self._end_written_off(device_id, at=at, note=note)
        for lease in self.open_leases(device_id):
            if number not in (0, lease.number):
                continue
            full = max(lease.booked_nanos, lease.amount_nanos)
            self.close(device_id, lease.number, final=full, at=at, note=note)

    def _end_written_off(self, device_id: str, *, at: int, note: str) -> None:
        for lease in list(self._leases.values()):
            written_off = lease.device_id == device_id and lease.end is LeaseEnd.WRITTEN_OFF
            if written_off and lease.unconfirmed_nanos:
                self._put_lease(changed(lease, end=LeaseEnd.CLOSED))
                self._book(lease, LedgerKind.CLOSE, 0, unix_ms=at, note=note)

    def take_changes(self) -> list[StoreEffect]:
        """Every row made or changed since the last call, once."""
        for window_id in list(self._moved):
            self.window(window_id)
        changes: list[StoreEffect] = [
            *self._dirty_windows.values(),
            *self._dirty_leases.values(),
            *self._rows,
            *self._spend.take(),
        ]
        self._dirty_windows, self._dirty_leases, self._rows = {}, {}, []
        return changes

    def is_booked_in_full(self, device_id: str, number: int) -> bool:
        """Whether a lease has ended and all of it counts as spent, confirmed or not."""
        return self._known(device_id, number).is_booked_in_full

    def _fitting(self, nanos: int, window_id: int, *, besides: int = 0) -> int:
        """As much of what was never lent as a window can take, which devices may say at will.

        Far above any budget, so that only nonsense is cut; sums must stay within 64 bits.
        """
        room = BOOKED_NANOS_MAX - self.window(window_id).committed_nanos - besides
        return min(nanos, max(0, room))

    def _known(self, device_id: str, number: int) -> LeaseRecord:
        lease = self.lease(device_id, number)
        if lease is None:
            # No refusal: what the account has changed by now must not be committed.
            raise InvariantError(f"the books do not know lease {number} of device {device_id}")
        return lease

    def _book(
        self,
        lease: LeaseRecord,
        kind: LedgerKind,
        amount: int,
        *,
        unix_ms: int,
        request_id: str = "",
        note: str = "",
        label: Label = UNKNOWN,
    ) -> None:
        self._book_all(lease, [(kind, amount, request_id, label)], unix_ms=unix_ms, note=note)

    def _book_all(
        self, lease: LeaseRecord, parts: Sequence[_Part], *, unix_ms: int, note: str = ""
    ) -> None:
        """A ledger row for each part, and their sums in the window and in the day's spend."""
        window_id, device_id, number = lease.window_id, lease.device_id, lease.number
        rows = [
            (row_id, unix_ms, window_id, kind, device_id, number, amount, request_id, note)
            for row_id, (kind, amount, request_id, _) in enumerate(parts, self._ledger_id + 1)
        ]
        self._rows += many(LedgerRow, rows)
        self._ledger_id += len(rows)
        sums: defaultdict[tuple[LedgerKind, Label], int] = defaultdict(int)
        for kind, amount, _, label in parts:
            sums[kind, label] += amount
        for (kind, label), amount in sums.items():
            settled, unconfirmed, outstanding = (factor * amount for factor in MOVES[kind])
            moved = self._moved.setdefault(window_id, [0, 0, 0])
            moved[0] += settled
            moved[1] += unconfirmed
            moved[2] += outstanding
            if settled or unconfirmed:
                self._spend.add(label, settled=settled, unconfirmed=unconfirmed, unix_ms=unix_ms)

    def _put_window(self, window: WindowRow) -> None:
        self._windows[window.id] = window
        self._dirty_windows[window.id] = window

    def _put_lease(self, lease: LeaseRecord) -> None:
        key = (lease.device_id, lease.number)
        self._leases[key] = lease
        self._dirty_leases[key] = lease


def _impossible(lease: LeaseRecord, *, final: int) -> str:
    return (
        f"lease {lease.number} of {lease.device_id} was closed at ${dollars(final)}, with "
        f"${dollars(lease.booked_nanos)} booked of ${dollars(lease.amount_nanos)}: the full lease "
        "is booked"
    )
