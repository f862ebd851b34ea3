"""Connected devices, and what follows from an event."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.messages import Message
from coordinator.records import StoreEffect
from shared.decision.types import LeaseStatus


@dataclass
class Reaction:
    """What follows from an event.

    Attributes
    ----------
    effects : list of StoreEffect
        To be committed in one transaction before anything is sent.
    sends : list of (device id, message)
        To be sent afterwards, to the devices that are connected.
    """

    effects: list[StoreEffect] = field(default_factory=list)
    sends: list[tuple[str, Message]] = field(default_factory=list)


@dataclass
class Session:
    """A connected device.

    Attributes
    ----------
    may_spend : bool
        Its resume token of this session is synced (rule D_2).
    """

    device_id: str
    incarnation: str
    may_spend: bool = False
    spooled_records: int = 0
    table_version: int = 0
    leases: tuple[LeaseStatus, ...] = ()
    local_arms: tuple[str, ...] = ()
    unclean_until_ms: int = 0
