"""What the device's books hold, as plain rows: the effects that the engine asks to commit.

The engine's memory is ahead of the books only by effects that it has returned; loading the books
gives the snapshot from which the engine starts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from shared.decision.key_budget import KeyBudgetRow
from shared.decision.lease import LeaseRow, ReservationRow
from shared.decision.table import SelectionTable
from shared.decision.types import DeviceConfig, SpoolBody, SpoolRecord
from shared.rows import quick_dataclass

BOOKS_FULL: Final = "books_full"
"""Why paid arms are closed while the disk has no room for what they cost (rule O_3)."""
BOOKS_BROKEN: Final = "books_broken"
"""And when the books have failed in another way: until the next start."""


class MetaKey(StrEnum):
    """Small facts, one value each, kept as text."""

    DEVICE_ID = "device_id"
    CREDENTIAL = "credential"
    INCARNATIONS = "incarnations"  # JSON: whose records there are, and what they began after
    BOOT_ID = "boot_id"
    PLACE = "place"  # where these books were last opened
    COPIED = "copied"  # "1" until the coordinator knows that they are not what was spent by
    BOOKS_LOST = "books_lost"  # what became of those before, in words, until the device may spend
    OVERRUN_ARMS = "overrun_arms"  # JSON: closed here, and the record that tells of it
    RESUME_TOKEN = "resume_token"  # noqa: S105 - the name of a key, not a secret
    SPEND_PAUSED = "spend_paused"
    QUARANTINED = "quarantined"
    SEQUENCE_SENT_MAX = "sequence_sent_max"
    SEQUENCE_ACKED = "sequence_acked"
    LEASE_NUMBER_MAX = "lease_number_max"


@quick_dataclass(frozen=True)
class PutLease:
    """Insert or replace a lease by its number."""

    row: LeaseRow


@dataclass(frozen=True)
class DropLease:
    """Forget a lease whose close has been spooled."""

    lease_number: int


@quick_dataclass(frozen=True)
class PutReservation:
    """Insert a reservation."""

    row: ReservationRow


@quick_dataclass(frozen=True)
class DropReservation:
    """Remove a settled reservation."""

    reservation_id: str


@dataclass(frozen=True)
class PutKeyBudget:
    """Insert or replace the present window of an API key's budget, by the key's tag."""

    row: KeyBudgetRow


@quick_dataclass(frozen=True)
class AppendSpool:
    """Append one record to the outbox; its sequence is one above the last."""

    record: SpoolRecord


def spooled_in(effects: Iterable[object]) -> Iterator[SpoolBody]:
    """What is told the coordinator with these effects."""
    for effect in effects:
        if isinstance(effect, AppendSpool):
            yield effect.record.body


@dataclass(frozen=True)
class TrimSpool:
    """Delete records with a sequence up to `through`; the next one follows it, if all went."""

    through: int


@dataclass(frozen=True)
class CompactSpool:
    """Put one record in the place of those from a sequence to its own (rule O_2).

    Those that are not written yet never will be: the next one follows it.
    """

    first: int
    record: SpoolRecord


@quick_dataclass(frozen=True)
class PutMeta:
    """Set a small fact."""

    key: MetaKey
    value: str


@dataclass(frozen=True)
class PutTable:
    """Keep the selection table for the next start."""

    table: SelectionTable


@dataclass(frozen=True)
class PutConfig:
    """Keep the device's part of the configuration for the next start."""

    config: DeviceConfig


BookEffect = (
    PutLease
    | DropLease
    | PutReservation
    | DropReservation
    | PutKeyBudget
    | AppendSpool
    | TrimSpool
    | CompactSpool
    | PutMeta
    | PutTable
    | PutConfig
)


@dataclass(frozen=True)
class BooksSnapshot:
    """Everything in the books at the start of a process.

    Attributes
    ----------
    place : str
        Where the books are: another for every copy of them. Empty if that cannot be told.
    """

    meta: dict[MetaKey, str] = field(default_factory=dict)
    leases: tuple[LeaseRow, ...] = ()
    reservations: tuple[ReservationRow, ...] = ()
    key_budgets: tuple[KeyBudgetRow, ...] = ()
    table: SelectionTable | None = None
    config: DeviceConfig | None = None
    spool_first: int = 0
    spool_last: int = 0
    place: str = ""
