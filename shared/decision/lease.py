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


class _Held:
    """A lease with what the present process knows of it beside its row. Amounts in nano-dollars.

    Attributes
    ----------
    used_nanos, room_nanos : int
        Settled and reserved together, and what that leaves of the amount.
    reservations : int
        How many are open; one of a call without a price takes nothing of the amount.
    synced_nanos : int
        Up to which watermark a sync has covered it.
    """

    __slots__ = (
        "granted_boot_ms",
        "reservations",
        "room_nanos",
        "row",
        "synced_nanos",
        "used_nanos",
    )

    def __init__(self, row: LeaseRow, *, synced_nanos: int, granted_boot_ms: int = 0) -> None:
        self.row = row
        self.synced_nanos = synced_nanos
        self.granted_boot_ms = granted_boot_ms
        self.reservations = self.used_nanos = 0
        self.use(row.settled_nanos)

    def use(self, nanos: int) -> None:
        """So much more is used, or less if it is negative."""
        self.used_nanos += nanos
        self.room_nanos = max(0, self.row.amount_nanos - self.used_nanos)


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
        self._leases: dict[int, _Held] = {}  # by their numbers, which rise
        self._active: list[_Held] = []  # the oldest first
        self._closing: list[_Held] = []
        self._reservations: dict[str, ReservationRow] = {}
        self._number_max = 0
        self._changed: dict[int, LeaseRow] = {}
        self._made: dict[str, ReservationRow] = {}
        self._dropped: list[str] = []
        self._rooms: tuple[int, int, int] | None = None

    @property
    def number_max(self) -> int:
        """The highest lease number ever seen."""
        return self._number_max

    def restore(
        self, *, leases: Iterable[LeaseRow], reservations: Iterable[ReservationRow], number_max: int
    ) -> None:
        """Take over the rows of an earlier process; `close_earlier` must follow."""
        for row in sorted(leases, key=lambda row: row.number):
            self._leases[row.number] = _Held(row, synced_nanos=row.watermark_nanos)
        for reservation in reservations:
            self._hold(reservation, self._leases[reservation.lease_number])
        self._number_max = max([number_max, *self._leases])
        self._sort()

    def earlier_reservations(self) -> tuple[ReservationRow, ...]:
        """Reservations that an earlier process left open."""
        return tuple(
            row
            for row in self._reservations.values()
            if self._leases[row.lease_number].row.incarnation != self._incarnation
        )

    def close_earlier(self, *, in_full: bool = False) -> list[LeaseClose]:
        """Close every lease of an earlier process (rule L_4).

        In the same boot at settled + open reservations; in another boot, or where boots cannot
        be told apart, at the watermark. With `in_full` at its amount: these books are a copy, and
        the original may be spending on it.
        """
        closes = []
        for held in self._leases.values():
            row, known = held.row, held.used_nanos
            if row.incarnation == self._incarnation or row.state is LeaseState.CLOSED:
                continue
            same_boot = bool(row.boot_id) and row.boot_id == self._boot_id
            final = known if same_boot else max(row.watermark_nanos, known)
            reason = "process ended" if same_boot else "rebooted"
            if in_full:
                final, reason = max(row.amount_nanos, known), "the books were copied"
            for reservation in list(self._reservations.values()):
                if reservation.lease_number == row.number:
                    self._forget(reservation)
            closes.append(self._close(held, final_nanos=final, clean=False, reason=reason))
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
        row = LeaseRow(
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
        held = _Held(row, synced_nanos=0, granted_boot_ms=boot_ms)
        self._leases[row.number] = held
        self._put(held, row)
        self._sort()
        self.expire(boot_ms=boot_ms)
        return True

    def watermark_synced(self, number: int, watermark_nanos: int) -> None:
        """The books have synced this watermark."""
        held = self._leases.get(number)
        if held is not None:
            held.synced_nanos = max(held.synced_nanos, watermark_nanos)
            self._rooms = None

    def unsynced(self) -> tuple[LeaseRow, ...]:
        """Active leases whose watermark a sync still has to cover."""
        return tuple([h.row for h in self._active if h.row.watermark_nanos > h.synced_nanos])

    def make_room(self, amount_nanos: int) -> None:
        """Raise a watermark so that this worst case fits once `unsynced` is synced."""
        self._raise_watermark(amount_nanos)

    def make_room_together(self, amount_nanos: int) -> None:
        """Raise watermarks so that requests of this much in all fit, as far as leases have room.

        Each of them fits one lease; here they may fill several.
        """
        for held in self._active:
            here = min(amount_nanos, held.room_nanos)
            wanted = held.used_nanos + here
            if here and wanted > held.row.watermark_nanos:  # not up to what an overrun has taken
                self._put(held, changed(held.row, watermark_nanos=wanted))
            amount_nanos -= here

    def available_nanos(self) -> int:
        """What active leases can still take."""
        return (self._rooms or self._find_rooms())[2]

    def newest_amount_nanos(self) -> int:
        """The size of the newest lease that is still active; 0 without one."""
        return self._active[-1].row.amount_nanos if self._active else 0

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
        for held in self._active:
            largest = max(largest, held.room_nanos)
            synced = max(synced, held.synced_nanos - held.used_nanos)
            together += held.room_nanos
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
            lease_number=lease.row.number,
            amount_nanos=amount_nanos,
            task_class=task_class,
            arrived_unix_ms=arrived_unix_ms,
            key_tag=key_tag,
            key_window=key_window,
            judge=judge,
        )
        self._hold(row, lease)
        self._made[row.id] = row
        self._raise_watermark(amount_nanos)
        if lease.used_nanos > lease.row.amount_nanos:
            raise InvariantError(
                f"I2 broken: {row} on lease {row.lease_number}, of which {lease.used_nanos} of "
                f"{lease.row.amount_nanos} nanos are used"
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
        lease.use(cost)
        self._put(lease, changed(lease.row, settled_nanos=lease.row.settled_nanos + cost))
        return Settlement(
            lease_number=reservation.lease_number,
            reserved_nanos=reservation.amount_nanos,
            cost_nanos=cost,
            overrun_nanos=overrun,
            kind=kind,
            key_tag=reservation.key_tag,
            key_window=reservation.key_window,
        )

    def recall(self, number: int, *, boot_ms: int, reason: str) -> None:
        """Start closing one lease, or all of them for number 0 (rule L_5, step 1)."""
        for held in self._active:
            if number in (0, held.row.number):
                closing = changed(
                    held.row,
                    state=LeaseState.CLOSING,
                    closing_since_boot_ms=boot_ms,
                    close_reason=reason,
                )
                self._put(held, closing)

    def expire(self, *, boot_ms: int) -> None:
        """Start closing the leases whose time is over."""
        for held in self._active:
            if boot_ms >= held.row.expires_boot_ms:
                self.recall(held.row.number, boot_ms=boot_ms, reason="expired")

    def retire(self, amount_nanos: int, *, boot_ms: int, kept_ms_max: int = sys.maxsize) -> None:
        """Start closing idle leases without room for this much, so that the rest is not stranded.

        With them go those that the device has held for `kept_ms_max`. A lease with an open
        reservation stays: it may yet settle below it and have room again.
        """
        for held in self._active:
            kept_ms = boot_ms - held.granted_boot_ms
            useless = held.room_nanos < amount_nanos or kept_ms >= kept_ms_max
            if useless and not held.reservations:
                self.recall(held.row.number, boot_ms=boot_ms, reason="used up")

    def overdue_reservations(self, *, boot_ms: int, close_wait_ms: int) -> tuple[str, ...]:
        """Reservations that a closing lease no longer waits for (rule L_5, step 2)."""
        if not self._closing:
            return ()
        since_max = boot_ms - close_wait_ms
        late = {h.row.number for h in self._closing if h.row.closing_since_boot_ms <= since_max}
        if not late:
            return ()
        return tuple(row.id for row in self._reservations.values() if row.lease_number in late)

    def finish_closing(self) -> list[LeaseClose]:
        """Close the closing leases that have no open reservation left (rule L_5, step 3)."""
        return [
            self._close(
                held,
                final_nanos=held.row.settled_nanos,
                clean=True,
                reason=held.row.close_reason,
            )
            for held in self._closing
            if not held.reservations
        ]

    def forget_closed(self) -> tuple[int, ...]:
        """Drop closed leases from memory; their numbers, for the books."""
        numbers = tuple(
            number for number, held in self._leases.items() if held.row.state is LeaseState.CLOSED
        )
        for number in numbers:
            del self._leases[number]
        return numbers

    def status(self) -> tuple[LeaseStatus, ...]:
        """The leases that the device still holds, for hello and heartbeats."""
        return tuple(
            LeaseStatus(
                lease_number=held.row.number,
                window_id=held.row.window_id,
                amount_nanos=held.row.amount_nanos,
                settled_nanos=held.row.settled_nanos,
                reserved_nanos=held.used_nanos - held.row.settled_nanos,
                watermark_nanos=held.row.watermark_nanos,
                closing=held.row.state is LeaseState.CLOSING,
            )
            for held in self._leases.values()
            if held.row.state is not LeaseState.CLOSED
        )

    def take_changes(self) -> LeaseChanges:
        """Everything that changed since the last call, once."""
        if not (self._changed or self._made or self._dropped):
            return NO_CHANGES
        changes = LeaseChanges(
            leases=tuple(self._changed.values()),
            reservations=tuple(self._made.values()),
            dropped=tuple(self._dropped),
        )
        self._changed, self._made, self._dropped = {}, {}, []
        return changes

    def _sort(self) -> None:
        """Find the active and the closing leases anew: one is in another state than before."""
        held = self._leases.values()
        self._active = [h for h in held if h.row.state is LeaseState.ACTIVE]
        self._closing = [h for h in held if h.row.state is LeaseState.CLOSING]

    def _lease_for(self, amount_nanos: int) -> _Held:
        """The oldest active lease with room below its synced watermark; there is one."""
        for held in self._active:
            if held.used_nanos + amount_nanos <= held.synced_nanos:
                return held
        raise InvariantError(f"no lease has room for {amount_nanos} nanos that were not refused")

    def _chunk(self, amount_nanos: int) -> int:
        return -(-amount_nanos // self._chunks)

    def _raise_watermark(self, amount_nanos: int) -> None:
        """Raise the watermark of the next lease to be used, ahead of its reservations."""
        for held in self._active:
            row, used = held.row, held.used_nanos
            if row.watermark_nanos >= row.amount_nanos or held.room_nanos < amount_nanos:
                continue
            chunk = self._chunk(row.amount_nanos)
            if used + max(amount_nanos, chunk // 2) >= row.watermark_nanos:
                raised = max(row.watermark_nanos, used + amount_nanos) + chunk
                self._put(held, changed(row, watermark_nanos=min(row.amount_nanos, raised)))
            return

    def _hold(self, reservation: ReservationRow, lease: _Held) -> None:
        self._reservations[reservation.id] = reservation
        lease.reservations += 1
        lease.use(reservation.amount_nanos)
        self._rooms = None

    def _forget(self, reservation: ReservationRow) -> None:
        """A reservation is no more; the change of its lease's row must follow."""
        del self._reservations[reservation.id]
        lease = self._leases[reservation.lease_number]
        lease.reservations -= 1
        lease.use(-reservation.amount_nanos)
        self._made.pop(reservation.id, None)
        self._dropped.append(reservation.id)

    def _put(self, lease: _Held, row: LeaseRow) -> None:
        moved = lease.row.state is not row.state
        lease.row = self._changed[row.number] = row
        self._rooms = None
        if moved:
            self._sort()

    def _close(self, lease: _Held, *, final_nanos: int, clean: bool, reason: str) -> LeaseClose:
        self._put(lease, changed(lease.row, state=LeaseState.CLOSED))
        return LeaseClose(
            lease_number=lease.row.number, final_nanos=final_nanos, clean=clean, reason=reason
        )
