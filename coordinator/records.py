"""What the coordinator's store holds, as plain rows: the effects that the engine asks to commit.

All effects of one event are one transaction. The engine's memory is ahead of the store only by
effects that it has returned; loading the store gives the state from which it starts again.

Rows that come by the ten thousand a second are named tuples, like the outcomes in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from shared.decision.table import SelectionTable
from shared.decision.types import Feedback, Outcome
from shared.rows import changed


class LedgerKind(StrEnum):
    """The kinds of ledger rows (rule C_2); `MOVES` says what each one moves."""

    GRANT = "grant"
    SETTLE = "settle"
    UNSETTLE = "unsettle"  # late usage was lower and the lease is still open (rule S_3)
    CONFIRM = "confirm"  # an outcome explains unconfirmed money of an ended lease
    ADJUST = "adjust"  # late usage was lower and the lease has ended (rule S_3)
    REFUND = "refund"  # the final figure after a write-off was lower (rule C_7)
    RELEASE = "release"  # from a closed lease only (rule C_6)
    UNCONFIRMED = "unconfirmed"  # spent by the device's figure, not explained (rule L_4)
    OVERRUN = "overrun"  # settled beyond the lease (rule S_4)
    WRITEOFF = "writeoff"  # spent, for all we know: the device is silent (rule C_7)
    CLOSE = "close"  # marks a lease's end; moves nothing
    CARRY = "carry"  # held in windows that the clock has left: spent, for all we know (rule C_4)


@dataclass(frozen=True)
class WindowRow:
    """A budget window with its running balances, kept in the ledger's transaction."""

    id: int
    start_unix_ms: int
    end_unix_ms: int
    target_nanos: int
    settled_nanos: int = 0
    unconfirmed_nanos: int = 0
    outstanding_nanos: int = 0
    alarms: str = ""

    def moved(self, settled: int, unconfirmed: int, outstanding: int) -> WindowRow:
        """The window after its balances have changed by so much."""
        return changed(
            self,
            settled_nanos=self.settled_nanos + settled,
            unconfirmed_nanos=self.unconfirmed_nanos + unconfirmed,
            outstanding_nanos=self.outstanding_nanos + outstanding,
        )

    @property
    def committed_nanos(self) -> int:
        """What can no longer be granted: settled + unconfirmed + outstanding."""
        return self.settled_nanos + self.unconfirmed_nanos + self.outstanding_nanos

    @property
    def enforced_nanos(self) -> int:
        """The budget that holds after a cut below what is committed (rule C_3)."""
        return max(self.target_nanos, self.committed_nanos)

    @property
    def free_nanos(self) -> int:
        """What can still be granted."""
        return self.enforced_nanos - self.committed_nanos


MOVES: Final[dict[LedgerKind, tuple[int, int, int]]] = {
    LedgerKind.GRANT: (0, 0, 1),
    LedgerKind.SETTLE: (1, 0, -1),
    LedgerKind.UNSETTLE: (1, 0, -1),
    LedgerKind.CONFIRM: (1, -1, 0),
    LedgerKind.ADJUST: (1, 0, 0),
    LedgerKind.REFUND: (0, -1, 0),
    LedgerKind.RELEASE: (0, 0, -1),
    LedgerKind.UNCONFIRMED: (0, 1, -1),
    LedgerKind.OVERRUN: (1, 0, 0),
    LedgerKind.WRITEOFF: (0, 1, -1),
    LedgerKind.CLOSE: (0, 0, 0),
    LedgerKind.CARRY: (0, 1, 0),
}
"""By which multiple of a row's amount settled, unconfirmed and outstanding money change."""


class LedgerRow(NamedTuple):
    """One append-only row. Amounts in nano-dollars; `id` rises without gaps."""

    id: int
    at_unix_ms: int
    window_id: int
    kind: LedgerKind
    device_id: str
    lease_number: int
    amount_nanos: int
    request_id: str = ""
    note: str = ""

    def applied_to(self, window: WindowRow) -> WindowRow:
        """The window's balances after this row."""
        return window.moved(*(factor * self.amount_nanos for factor in MOVES[self.kind]))


@dataclass(frozen=True)
class SpendRow:
    """What was booked on one day for one arm and tag. Nano-dollars.

    Attributes
    ----------
    day_unix_ms : int
        Midnight UTC.
    arm, tag : str
        Empty where it is not known whose money it is: unconfirmed, or compacted on the device.
    """

    day_unix_ms: int
    arm: str
    tag: str
    settled_nanos: int = 0
    unconfirmed_nanos: int = 0


class LeaseEnd(StrEnum):
    """Whether the coordinator still counts a lease as outstanding."""

    OPEN = "open"
    CLOSED = "closed"
    WRITTEN_OFF = "written_off"


@dataclass(frozen=True)
class LeaseRecord:
    """A lease as the coordinator knows it. Amounts in nano-dollars."""

    device_id: str
    number: int
    incarnation: str
    window_id: int
    amount_nanos: int
    price_version: int
    granted_unix_ms: int
    booked_nanos: int = 0
    unconfirmed_nanos: int = 0
    end: LeaseEnd = LeaseEnd.OPEN

    @property
    def is_booked_in_full(self) -> bool:
        """Whether it has ended and all of it counts as spent, confirmed or not."""
        booked = self.booked_nanos + self.unconfirmed_nanos
        return self.end is not LeaseEnd.OPEN and 0 < self.amount_nanos <= booked


class DeviceStanding(StrEnum):
    """Whether a device may talk and spend."""

    ACTIVE = "active"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"


@dataclass(frozen=True)
class DeviceRow:
    """A known device. Secrets are kept as SHA-256 digests only."""

    id: str
    name: str
    device_class: str
    credential_digest: str
    joined_unix_ms: int
    standing: DeviceStanding = DeviceStanding.ACTIVE
    standing_reason: str = ""
    incarnation: str = ""
    resume_digest: str = ""  # confirmed by the device as synced
    resume_digest_next: str = ""  # issued, not yet confirmed
    lease_number_max: int = 0
    unclean_closes: int = 0  # in a row
    lends_from_unix_ms: int = 0  # after the last of them
    seen_unix_ms: int = 0
    software_version: str = ""


@dataclass(frozen=True)
class SpoolMark:
    """The highest booked sequence of one incarnation of a device (rule O_1)."""

    device_id: str
    incarnation: str
    sequence: int


@dataclass(frozen=True)
class JoinTokenRow:
    """A single-use, expiring right to join, by the digest of its secret."""

    digest: str
    device_class: str
    created_unix_ms: int
    expires_unix_ms: int
    used_by: str = ""


@dataclass(frozen=True)
class AdminTokenRow:
    """An operator's right to use the admin service, by the digest of its secret."""

    digest: str
    name: str
    created_unix_ms: int
    expires_unix_ms: int  # 0: never


@dataclass(frozen=True)
class ConfigRow:
    """One applied fleet configuration, as text."""

    version: int
    toml: str
    actor: str
    applied_unix_ms: int


class BookedOutcome(NamedTuple):
    """An outcome at its place in the books.

    Attributes
    ----------
    position : int
        Rises by one over outcomes and grades together, in the order of booking: what came after
        the last snapshot is learned again in the same order.
    run, place : bytes and int
        The outcomes that it came with over the wire, and which of them it is; empty if it has to be
        encoded to be stored.
    """

    position: int
    device_id: str
    device_class: str
    sequence: int
    slot: int
    outcome: Outcome
    run: bytes = b""
    place: int = 0


@dataclass(frozen=True)
class BookedFeedback:
    """A grade at its place in the books."""

    position: int
    device_id: str
    device_class: str
    sequence: int
    feedback: Feedback


@dataclass(frozen=True)
class BookedCounts:
    """Requests of compacted outcomes (rule O_2): demand and arms, no details."""

    position: int
    device_id: str
    device_class: str
    sequence: int
    slot: int
    task_class: str
    arm: str
    requests: int


Learned = BookedOutcome | BookedFeedback | BookedCounts
"""What has a position."""


@dataclass(frozen=True)
class Snapshot:
    """What the engine has learned up to a position, as JSON text."""

    position: int
    slot: int
    window_id: int
    payload: str


@dataclass(frozen=True)
class AuditRow:
    """Who changed what."""

    at_unix_ms: int
    actor: str
    action: str
    detail: str


class SettingKey(StrEnum):
    """Small facts, one value each, kept as text."""

    SPEND_PAUSED = "spend_paused"
    DISABLED_ARMS = "disabled_arms"  # a JSON list
    BUDGET_OVERRIDE = "budget_override"  # JSON: set by `tidectl budget set`
    RECOVERY = "recovery"  # JSON, while one lasts
    PRICE_VERSION = "price_version"  # the configuration that last changed a price
    ALERTS = "alerts"  # JSON: the alarms that stand, and what the window has announced
    TABLE_PINS = "table_pins"  # JSON: the device classes whose table stays, and who said so
    RETENTION_MARKS = "retention_marks"  # JSON: how far the books had come, day by day


@dataclass(frozen=True)
class PutSetting:
    """Set a small fact."""

    key: SettingKey
    value: str


@dataclass(frozen=True)
class TableRowStored:
    """A selection table of a device class, in its place: 0 is in force, the others are earlier."""

    table: SelectionTable
    place: int


@dataclass(frozen=True)
class EarlierTable:
    """Which table is kept in a place."""

    device_class: str
    place: int
    version: int
    created_unix_ms: int


StoreEffect = (
    LedgerRow
    | WindowRow
    | SpendRow
    | LeaseRecord
    | DeviceRow
    | SpoolMark
    | JoinTokenRow
    | AdminTokenRow
    | ConfigRow
    | BookedOutcome
    | BookedFeedback
    | BookedCounts
    | Snapshot
    | AuditRow
    | PutSetting
    | TableRowStored
)


@dataclass(frozen=True)
class EarlierFacts:
    """What the books hold of a batch's requests and leases, beyond the engine's memory.

    Attributes
    ----------
    graded : frozenset of str
        Those of the batch's requests that have a grade already.
    leases, windows : tuple
        Leases that ended in earlier windows, with those windows.
    outcomes : tuple of Outcome
        Those of the requests that `booking.Named` asks for.
    """

    graded: frozenset[str] = frozenset()
    leases: tuple[LeaseRecord, ...] = ()
    windows: tuple[WindowRow, ...] = ()
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class StoreSnapshot:
    """Everything the engine needs to go on where it stopped.

    Attributes
    ----------
    windows : tuple of WindowRow
        Those with open leases, the latest one, and those that end after its start: which the clock
        has left.
    leases : tuple of LeaseRecord
        The open ones, and all of the windows above.
    spend : tuple of SpendRow
        Those of the last day that has any.
    tables, earlier_tables : tuple
        Those in force, and which ones are kept beside.
    learned_since : tuple
        Outcomes, grades and counts booked after `snapshot.position`, in order of position.
    """

    config: ConfigRow | None = None
    devices: tuple[DeviceRow, ...] = ()
    join_tokens: tuple[JoinTokenRow, ...] = ()
    admin_tokens: tuple[AdminTokenRow, ...] = ()
    windows: tuple[WindowRow, ...] = ()
    leases: tuple[LeaseRecord, ...] = ()
    spend: tuple[SpendRow, ...] = ()
    settings: dict[SettingKey, str] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    learned_since: tuple[BookedOutcome | BookedFeedback | BookedCounts, ...] = ()
    tables: tuple[SelectionTable, ...] = ()
    earlier_tables: tuple[EarlierTable, ...] = ()
    ledger_id_max: int = 0
    position_max: int = 0
