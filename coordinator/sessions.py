"""Connected devices, and what follows from an event."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from coordinator.alerts import Alert
from coordinator.messages import Message
from coordinator.records import LeaseRecord, StoreEffect
from coordinator.spool_progress import SpoolProgress
from shared.decision.types import ArmSpeed, LeaseStatus

UNDER_WAY_MS: Final = 10_000
"""A grant that was not heard of for so long is taken for lost."""


@dataclass
class Reaction:
    """What follows from an event.

    Attributes
    ----------
    effects : list of StoreEffect
        To be committed in one transaction before anything is sent.
    sends : list of (device id, message)
        To be sent afterwards, to the devices that are connected.
    alerts : list of Alert
        To be told to operators afterwards.
    """

    effects: list[StoreEffect] = field(default_factory=list)
    sends: list[tuple[str, Message]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def extend(self, more: Reaction) -> None:
        """Add what follows from it in turn."""
        self.effects += more.effects
        self.sends += more.sends
        self.alerts += more.alerts


@dataclass(frozen=True)
class LastWord:
    """What a device last said of its leases, and when; kept in memory beyond its session."""

    leases: tuple[LeaseStatus, ...]
    at_unix_ms: int

    def of(self, number: int) -> LeaseStatus | None:
        """Its word on one lease."""
        return next((lease for lease in self.leases if lease.lease_number == number), None)


@dataclass
class Refusals:
    """Leases that were refused in the present window, as far as this process knows.

    Attributes
    ----------
    count, exhausted : int
        All of them, and those that the free money did not suffice for.
    budget, reason, device_id : str
        Of the last one.
    """

    window_id: int = 0
    count: int = 0
    exhausted: int = 0
    budget: str = ""
    reason: str = ""
    device_id: str = ""
    at_unix_ms: int = 0

    def note(
        self,
        *,
        window_id: int,
        device_id: str,
        budget: str,
        reason: str,
        exhausted: bool,
        unix_ms: int,
    ) -> None:
        """Count one more; a new window begins anew."""
        if window_id != self.window_id:
            self.window_id, self.count, self.exhausted = window_id, 0, 0
        self.count += 1
        self.exhausted += exhausted
        self.budget, self.reason = budget, reason
        self.device_id, self.at_unix_ms = device_id, unix_ms


@dataclass
class Session:
    """A connected device.

    Attributes
    ----------
    spool : SpoolProgress
        How far its spool is booked.
    unheld : tuple of int
        Leases that it has seen and, by its hello, no longer holds. Their closes are on the way.
    lost : tuple of LeaseStatus
        Leases that its hello has presented and that the books do not know, until they are booked.
    may_spend : bool
        Its resume token of this session is synced (rule D_2).
    granted : list of LeaseRecord
        In this session, as far as they may still be on their way.
    """

    device_id: str
    incarnation: str
    spool: SpoolProgress
    unheld: tuple[int, ...] = ()
    lost: tuple[LeaseStatus, ...] = ()
    may_spend: bool = False
    spooled_records: int = 0
    table_version: int = 0
    leases: tuple[LeaseStatus, ...] = ()
    local_arms: tuple[str, ...] = ()
    speeds: tuple[ArmSpeed, ...] = ()
    configs_sent: int = 0
    granted: list[LeaseRecord] = field(default_factory=list)

    def under_way_nanos(self, *, after: int | None, unix_ms: int) -> int:
        """What was lent lately in leases above a number, the highest that has arrived.

        0 where that is not known.
        """
        self.granted = [
            lease
            for lease in self.granted
            if lease.number > (after or 0) and unix_ms - lease.granted_unix_ms < UNDER_WAY_MS
        ]
        return sum(lease.amount_nanos for lease in self.granted) if after is not None else 0
