"""What the engine tells devices, as plain values; the fleet servicer puts them on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from shared.decision.table import SelectionTable
from shared.decision.types import ArmSpeed, DeviceConfig, IncarnationRange, LeaseStatus


@dataclass(frozen=True)
class HelloReceived:
    """What a device said first in its session.

    Attributes
    ----------
    acked_sequence : int
        Up to where it knows its spool to be booked.
    incarnations : tuple of IncarnationRange
        Whose records its spool holds, rising; the last one is its own.
    copied : bool
        Its books were copied from another place, or took the place of lost ones, since they last
        spoke to a coordinator.
    speeds : tuple of ArmSpeed
        What it has measured of its local arms.
    """

    incarnation: str
    resume_token: str
    acked_sequence: int
    incarnations: tuple[IncarnationRange, ...]
    lease_number_max: int
    leases: tuple[LeaseStatus, ...]
    local_arms: tuple[str, ...]
    table_version: int
    config_version: int
    software_version: str
    copied: bool = False
    speeds: tuple[ArmSpeed, ...] = ()


@dataclass(frozen=True)
class Welcomed:
    """The answer to a hello."""

    resume_token: str
    acked_sequence: int
    heartbeat_ms: int
    spend_paused: bool
    quarantined: bool


@dataclass(frozen=True)
class Acked:
    """Everything up to this sequence is in the books."""

    sequence: int


@dataclass(frozen=True)
class ConfigSent:
    """The device's part of the configuration.

    Attributes
    ----------
    revision : int
        How many of them the device's session has been sent: a later one overtakes it.
    """

    config: DeviceConfig
    revision: int = 0


@dataclass(frozen=True)
class ProviderKeysSent:
    """The keys of these names; the adapter reads them when it sends, and only over TLS."""

    names: frozenset[str]


@dataclass(frozen=True)
class TableSent:
    """A new selection table."""

    table: SelectionTable


@dataclass(frozen=True)
class LeaseSent:
    """An allowance. Amount in nano-dollars; `asked_boot_ms` is the wish's that it answers."""

    incarnation: str
    lease_number: int
    window_id: int
    amount_nanos: int
    duration_ms: int
    price_version: int
    asked_boot_ms: int = 0


@dataclass(frozen=True)
class LeaseRefused:
    """No allowance now, and why; `exhausted`: the free money does not suffice."""

    budget: str
    reason: str
    retry_after_ms: int
    exhausted: bool = False


@dataclass(frozen=True)
class LeaseRecalled:
    """Give a lease back; 0 means all of them."""

    lease_number: int
    reason: str


@dataclass(frozen=True)
class SpendCommanded:
    """Stop or allow paid calls."""

    paused: bool


@dataclass(frozen=True)
class HeartbeatAnswered:
    """The coordinator is alive; repeats what must not be missed."""

    spend_paused: bool


@dataclass(frozen=True)
class QuarantineCommanded:
    """Spend nothing until an operator readmits this device."""

    reason: str


Message = (
    Welcomed
    | Acked
    | ConfigSent
    | ProviderKeysSent
    | TableSent
    | LeaseSent
    | LeaseRefused
    | LeaseRecalled
    | SpendCommanded
    | HeartbeatAnswered
    | QuarantineCommanded
)
