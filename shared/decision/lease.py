"""A device's budget leases: reserve, settle, watermark, close (rules L_1 to L_6, S_1 to S_4).

Pure state: every method changes memory and leaves what it changed in `take_changes()`, for the
caller to commit. A reservation may be acted on once its change is *committed*; the watermark
bounds what a loss of power can hide and is *synced* ahead of the reservations.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from shared.decision.types import LeaseClose, LeaseStatus, SettleKind
from shared.errors import InvariantError
from shared.rows import changed, quick_dataclass

WATERMARK_CHUNKS = 4


class LeaseState(StrEnum):
    """A lease only moves forward: active, closing, closed."""

    ACTIVE = "active"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True)
class LeaseRow:
    """One lease as it stands in the books. Amounts in nano-dollars.

    Attributes
    ----------
    watermark_nanos : int
        "Spent at most this much": synced before any reservation reaches beyond it (rule L_2).
    expires_boot_ms : int
        On the boot-time clock of `boot_id` (rule L_3).
    close_reason : str
        Why it is closing; empty while active.
    """

    number: int
    incarnation: str
    boot_id: str
    window_id: int
    amount_nanos: int
    price_version: int
    expires_boot_ms: int
    settled_nanos: int = 0
    watermark_nanos: int = 0
    state: LeaseState = LeaseState.ACTIVE
    closing_since_boot_ms: int = 0
    close_reason: str = ""


@quick_dataclass(frozen=True)
class ReservationRow:
    """The worst case of one paid attempt, held until it is settled.

    Attributes
    ----------
    key_tag, key_window : str, int
        The API key on whose budget it is held too, and the window by its start in Unix
        milliseconds; empty without one.
    judge : bool
        Of a call that grades an answer, not of a request.
    """

    id: str
    request_id: str
    arm: str
    lease_number: int
    amount_nanos: int
    task_class: str
    arrived_unix_ms: int
    key_tag: str = ""
    key_window: int = 0
    judge: bool = False


@dataclass(frozen=True)
class LeaseWish:
    """A request for more allowance. Amounts in nano-dollars.

    Attributes
    ----------
    worst_case_nanos : int
        Of one request: with less it is of no use.
    needed_nanos : int
        Of all requests that wait for it together; 0 if it is asked for ahead.
    asked_boot_ms : int
        When, on the boot-time clock; 0 if that is not known.
    lease_number_max : int or None
        Of the leases that have arrived: a later one is still on its way. None if that is not known.
    """

    available_nanos: int
    worst_case_nanos: int
    needed_nanos: int = 0
    asked_boot_ms: int = 0
    lease_number_max: int | None = None


@dataclass(frozen=True)
class LeaseGranted:
    """A grant as it arrived from the coordinator.

    Attributes
    ----------
    asked_boot_ms : int
        When the device asked for it, on its boot-time clock; 0 if that is not known. The duration
        counts from there: a grant may be old when it arrives, and must not outlive its price.
    """

    number: int
    window_id: int
    amount_nanos: int
    duration_ms: int
    price_version: int
    asked_boot_ms: int = 0


class LeaseChanges(NamedTuple):
    """What the books must commit: rows that changed, reservations made and dropped."""

    leases: tuple[LeaseRow, ...] = ()
    reservations: tuple[ReservationRow, ...] = ()
    dropped: tuple[str, ...] = ()


NO_CHANGES = LeaseChanges()


@quick_dataclass(frozen=True)
class Settlement:
    """How a reservation ended: what is booked and against which lease."""

    lease_number: int
    reserved_nanos: int
    cost_nanos: int
    overrun_nanos: int
    kind: SettleKind
    key_tag: str = ""
    key_window: int = 0


class LeaseRefusal(StrEnum):
    """Why a worst case cannot be reserved now."""

    NO_LEASE = "no_lease"
    TOO_SMALL = "lease_too_small"
    NOT_SYNCED = "watermark_not_synced"


# Asked for with every request; a member takes ten times as long to look up as a name.
NO_LEASE: Final = LeaseRefusal.NO_LEASE
NOT_SYNCED: Final = LeaseRefusal.NOT_SYNCED
REPORTED: Final = SettleKind.REPORTED


class LeaseBook:
    """All leases of one device.

    Parameters
    ----------
    incarnation : str
        The present start of the agent's process (rule D_1).
    boot_id : str
        The present boot.
    chunks : int
        In how many steps a lease's watermark is raised; more steps hide less from a loss of
        power and sync more often.

    Notes
    -----
    Invariant I2: settled + reserved <= amount for every lease. It is checked at every reservation;
    a settlement can only break it by an overrun, which the provider caused and which is booked in
    full (rule S_4).
    """

    def __init__(self, *, incarnation: str, boot_id: str, chunks: int = WATERMARK_CHUNKS) -> None:
        self._incarnation = incarnation
        self._boot_id = boot_id
        self._chunks = chunks
        self._leases: dict[int, LeaseRow] = {}
        self._synced: dict[int, int] = {}
        self._granted_boot_ms: dict[int, int] = {}
        self._reservations: dict[str, ReservationRow] = {}
        self._reserved: dict[int, int] = {}
        self._number_max = 0
        self._changed: dict[int, LeaseRow] = {}
        self._made: list[ReservationRow] = []
        self._dropped: list[str] = []
        self._rooms: tuple[int, int, int] | None = None
        self._actives: list[LeaseRow] | None = None
        self._closing: list[LeaseRow] | None = None

    @property
    def number_max(self) -> int:
        """The highest lease number ever seen."""
        return self._number_max

    def restore(
        self, *, leases: Iterable[LeaseRow], reservations: Iterable[ReservationRow], number_max: int
    ) -> None:
        """Take over the rows of an earlier process; `close_earlier` must follow."""
        for row in leases:
            self._leases[row.number] = row
            self._synced[row.number] = row.watermark_nanos
            self._reserved[row.number] = self._granted_boot_ms[row.number] = 0
        for reservation in reservations:
            self._reservations[reservation.id] = reservation
            self._reserved[reservation.lease_number] += reservation.amount_nanos
        self._number_max = max([number_max, *self._leases])

    def earlier_reservations(self) -> tuple[ReservationRow, ...]:
        """Reservations that an earlier process left open."""
        return tuple(
            row
            for row in self._reservations.values()
            if self._leases[row.lease_number].incarnation != self._incarnation
        )

    def close_earlier(self, *, in_full: bool = False) -> list[LeaseClose]:
        """Close every lease of an earlier process (rule L_4).

        In the same boot at settled + open reservations; in another boot, or where boots cannot
        be told apart, at the watermark. With `in_full` at its amount: these books are a copy, and
        the original may be spending on it.
        """
        closes = []
        for row in sorted(self._leases.values(), key=lambda row: row.number):
            if row.incarnation == self._incarnation or row.state is LeaseState.CLOSED:
                continue
            same_boot = bool(row.boot_id) and row.boot_id == self._boot_id
            known = row.settled_nanos + self._reserved[row.number]
            final = known if same_boot else max(row.watermark_nanos, known)
            reason = "process ended" if same_boot else "rebooted"
            if in_full:
                final, reason = max(row.amount_nanos, known), "the books were copied"
            for reservation in list(self._reservations.values()):
                if reservation.lease_number == row.number:
                    self._forget(reservation)
            closes.append(self._close(row, final_nanos=final, clean=False, reason=reason))
        return closes

    def grant(self, granted: LeaseGranted, *, boot_ms: int, worst_case_nanos: int = 0) -> bool:
        """Take a new lease; False if its number is not above the highest seen (rule L_1).

        The changes must be synced before `watermark_synced` allows the first reservation. The
        first watermark has room for two worst cases as they were lately. A grant that was so long
        on its way that its time is over closes at once.
        """
        if granted.number <= self._number_max or granted.amount_nanos <= 0:
            return False
        self._number_max = granted.number
        self._put(
            LeaseRow(
                number=granted.number,
                incarnation=self._incarnation,
                boot_id=self._boot_id,
                window_id=granted.window_id,
                amount_nanos=granted.amount_nanos,
                price_version=granted.price_version,
                expires_boot_ms=(granted.asked_boot_ms or boot_ms) + granted.duration_ms,
                watermark_nanos=min(
                    granted.amount_nanos,
                    max(self._chunk(granted.amount_nanos), 2 * worst_case_nanos),
                ),
            )
        )
        self._synced[granted.number] = 0
        self._reserved[granted.number] = 0
        self._granted_boot_ms[granted.number] = boot_ms
        self.expire(boot_ms=boot_ms)
        return True

    def watermark_synced(self, number: int, watermark_nanos: int) -> None:
        """The books have synced this watermark."""
        if number in self._synced:
            self._synced[number] = max(self._synced[number], watermark_nanos)
            self._rooms = None

    def unsynced(self) -> tuple[LeaseRow, ...]:
        """Active leases whose watermark a sync still has to cover."""
        active, synced = self._active(), self._synced
        return tuple([row for row in active if row.watermark_nanos > synced[row.number]])

    def make_room(self, amount_nanos: int) -> None:
        """Raise a watermark so that this worst case fits once `unsynced` is synced."""
        self._raise_watermark(amount_nanos)

    def make_room_together(self, amount_nanos: int) -> None:
        """Raise watermarks so that requests of this much in all fit, as far as leases have room.

        Each of them fits one lease; here they may fill several.
        """
        for row in self._active():
            here = min(amount_nanos, self._room(row))
            wanted = self._used(row) + here
            if here and wanted > row.watermark_nanos:  # not up to what an overrun has taken
                self._put(changed(row, watermark_nanos=wanted))
            amount_nanos -= here

    def available_nanos(self) -> int:
        """What active leases can still take."""
        return (self._rooms or self._find_rooms())[2]

    def newest_amount_nanos(self) -> int:
        """The size of the newest lease that is still active; 0 without one."""
        active = self._active()
        return active[-1].amount_nanos if active else 0

    @property
    def room_nanos(self) -> int:
        """The most that can be reserved at once, without waiting for a sync."""
        return (self._rooms or self._find_rooms())[1]

    def refusal(self, amount_nanos: int) -> LeaseRefusal | None:
        """Why this worst case cannot be reserved now, or None if it can."""
        room, synced_room, _ = self._rooms or self._find_rooms()
        if amount_nanos <= synced_room:
            return None
        if room < 0:
            return NO_LEASE
        return LeaseRefusal.TOO_SMALL if amount_nanos > room else NOT_SYNCED

    def _find_rooms(self) -> tuple[int, int, int]:
        """The most that fits an active lease, and below a synced watermark; -1 for nothing.

        And what fits all of them together. Kept until something changes: every choice of an arm
        asks for it.
        """
        largest, synced, together = -1, -1, 0
        for row in self._active():
            room = self._room(row)
            largest = max(largest, room)
            synced = max(synced, self._synced[row.number] - self._used(row))
            together += room
        self._rooms = largest, synced, together
        return self._rooms

    def reserve(
        self,
        reservation_id: str,
        *,
        request_id: str,
        arm: str,
        amount_nanos: int,
        task_class: str,
        arrived_unix_ms: int,
        key_tag: str = "",
        key_window: int = 0,
        judge: bool = False,
    ) -> ReservationRow | LeaseRefusal:
        """Hold a worst case (rules S_1, L_2). The change must be committed before the call."""
        if amount_nanos < 0:
            raise InvariantError(f"a worst case cannot be negative: {amount_nanos}")
        if reservation_id in self._reservations:
            raise InvariantError(f"{reservation_id} is reserved twice")
        refused = self.refusal(amount_nanos)
        if refused is not None:
            self._raise_watermark(amount_nanos)
            return refused
        lease = self._lease_for(amount_nanos)
        row = ReservationRow(
            id=reservation_id,
            request_id=request_id,
            arm=arm,
            lease_number=lease.number,
            amount_nanos=amount_nanos,
            task_class=task_class,
            arrived_unix_ms=arrived_unix_ms,
            key_tag=key_tag,
            key_window=key_window,
            judge=judge,
        )
        self._reservations[row.id] = row
        self._reserved[lease.number] += amount_nanos
        self._rooms = None
        self._made.append(row)
        self._raise_watermark(amount_nanos)
        used = self._used(lease)
        if used > lease.amount_nanos:
            raise InvariantError(
                f"I2 broken: {row} on lease {lease.number}, of which {used} of "
                f"{lease.amount_nanos} nanos are used"
            )
        return row

    def settle(
        self, reservation_id: str, *, kind: SettleKind, cost_nanos: int | None = None
    ) -> Settlement:
        """End a reservation (rule S_2): released, at the reported cost, or in full if unknown."""
        reservation = self._reservations[reservation_id]
        if kind is REPORTED:
            if cost_nanos is None or cost_nanos < 0:
                said = f"a reported cost must be known and not negative: {cost_nanos}"
                raise InvariantError(said)
            cost = cost_nanos
        else:
            cost = reservation.amount_nanos if kind is SettleKind.UNKNOWN else 0
        self._forget(reservation)
        lease = self._leases[reservation.lease_number]
        overrun = max(0, cost - reservation.amount_nanos)
        self._put(changed(lease, settled_nanos=lease.settled_nanos + cost))
        return Settlement(
            lease_number=lease.number,
            reserved_nanos=reservation.amount_nanos,
            cost_nanos=cost,
            overrun_nanos=overrun,
            kind=kind,
            key_tag=reservation.key_tag,
            key_window=reservation.key_window,
        )

    def recall(self, number: int, *, boot_ms: int, reason: str) -> None:
        """Start closing one lease, or all of them for number 0 (rule L_5, step 1)."""
        for row in self._active():
            if number in (0, row.number):
                self._put(
                    changed(
                        row,
                        state=LeaseState.CLOSING,
                        closing_since_boot_ms=boot_ms,
                        close_reason=reason,
                    )
                )

    def expire(self, *, boot_ms: int) -> None:
        """Start closing the leases whose time is over."""
        for row in self._active():
            if boot_ms >= row.expires_boot_ms:
                self.recall(row.number, boot_ms=boot_ms, reason="expired")

    def retire(self, amount_nanos: int, *, boot_ms: int, kept_ms_max: int = sys.maxsize) -> None:
        """Start closing idle leases without room for this much, so that the rest is not stranded.

        With them go those that the device has held for `kept_ms_max`. A lease with an open
        reservation stays: it may yet settle below it and have room again.
        """
        for row in self._active():
            kept_ms = boot_ms - self._granted_boot_ms[row.number]
            useless = self._room(row) < amount_nanos or kept_ms >= kept_ms_max
            if useless and not self._holds(row.number):
                self.recall(row.number, boot_ms=boot_ms, reason="used up")

    def overdue_reservations(self, *, boot_ms: int, close_wait_ms: int) -> tuple[str, ...]:
        """Reservations that a closing lease no longer waits for (rule L_5, step 2)."""
        closing = self._in_closing()
        if not closing:
            return ()
        late = {
            row.number for row in closing if boot_ms - row.closing_since_boot_ms >= close_wait_ms
        }
        if not late:
            return ()
        return tuple(row.id for row in self._reservations.values() if row.lease_number in late)

    def finish_closing(self) -> list[LeaseClose]:
        """Close the closing leases that have no open reservation left (rule L_5, step 3)."""
        return [
            self._close(row, final_nanos=row.settled_nanos, clean=True, reason=row.close_reason)
            for row in self._in_closing()
            if not self._holds(row.number)
        ]

    def forget_closed(self) -> tuple[int, ...]:
        """Drop closed leases from memory; their numbers, for the books."""
        numbers = tuple(
            row.number for row in self._leases.values() if row.state is LeaseState.CLOSED
        )
        for number in numbers:
            del self._leases[number], self._synced[number]
            del self._reserved[number], self._granted_boot_ms[number]
        return numbers

    def status(self) -> tuple[LeaseStatus, ...]:
        """The leases that the device still holds, for hello and heartbeats."""
        return tuple(
            LeaseStatus(
                lease_number=row.number,
                window_id=row.window_id,
                amount_nanos=row.amount_nanos,
                settled_nanos=row.settled_nanos,
                reserved_nanos=self._reserved[row.number],
                watermark_nanos=row.watermark_nanos,
                closing=row.state is LeaseState.CLOSING,
            )
            for row in sorted(self._leases.values(), key=lambda row: row.number)
            if row.state is not LeaseState.CLOSED
        )

    def take_changes(self) -> LeaseChanges:
        """Everything that changed since the last call, once."""
        if not (self._changed or self._made or self._dropped):
            return NO_CHANGES
        changes = LeaseChanges(
            leases=tuple(self._changed.values()),
            reservations=tuple([row for row in self._made if row.id not in self._dropped]),
            dropped=tuple(self._dropped),
        )
        self._changed, self._made, self._dropped = {}, [], []
        return changes

    def _active(self) -> list[LeaseRow]:
        """The active leases, the oldest first; kept until a row changes."""
        if self._actives is None:
            self._actives = self._in_state(LeaseState.ACTIVE)
        return self._actives

    def _in_closing(self) -> list[LeaseRow]:
        """The closing leases, the oldest first; kept until a row changes."""
        if self._closing is None:
            self._closing = self._in_state(LeaseState.CLOSING)
        return self._closing

    def _in_state(self, state: LeaseState) -> list[LeaseRow]:
        rows = [row for row in self._leases.values() if row.state is state]
        return sorted(rows, key=lambda row: row.number)

    def _used(self, row: LeaseRow) -> int:
        return row.settled_nanos + self._reserved[row.number]

    def _holds(self, number: int) -> bool:
        """Whether a reservation is open on a lease; a call without a price holds nothing of it."""
        return any(row.lease_number == number for row in self._reservations.values())

    def _room(self, row: LeaseRow) -> int:
        return max(0, row.amount_nanos - self._used(row))

    def _lease_for(self, amount_nanos: int) -> LeaseRow:
        """The oldest active lease with room below its synced watermark; there is one."""
        return next(
            row
            for row in self._active()
            if self._used(row) + amount_nanos <= self._synced[row.number]
        )

    def _chunk(self, amount_nanos: int) -> int:
        return -(-amount_nanos // self._chunks)

    def _raise_watermark(self, amount_nanos: int) -> None:
        """Raise the watermark of the next lease to be used, ahead of its reservations."""
        for row in self._active():
            used = self._used(row)
            if row.watermark_nanos >= row.amount_nanos or self._room(row) < amount_nanos:
                continue
            ahead = used + max(amount_nanos, self._chunk(row.amount_nanos) // 2)
            if ahead >= row.watermark_nanos:
                raised = max(row.watermark_nanos, used + amount_nanos)
                raised = min(row.amount_nanos, raised + self._chunk(row.amount_nanos))
                self._put(changed(row, watermark_nanos=raised))
            return

    def _forget(self, reservation: ReservationRow) -> None:
        del self._reservations[reservation.id]
        self._reserved[reservation.lease_number] -= reservation.amount_nanos
        self._dropped.append(reservation.id)

    def _put(self, row: LeaseRow) -> None:
        before = self._leases.get(row.number)
        self._leases[row.number] = self._changed[row.number] = row
        self._rooms = None
        if before is None or before.state is not row.state:
            self._actives = self._closing = None
            return
        if self._actives:
            self._actives = [row if each is before else each for each in self._actives]
        if self._closing:
            self._closing = None

    def _close(self, row: LeaseRow, *, final_nanos: int, clean: bool, reason: str) -> LeaseClose:
        self._put(changed(row, state=LeaseState.CLOSED))
        return LeaseClose(
            lease_number=row.number, final_nanos=final_nanos, clean=clean, reason=reason
        )
