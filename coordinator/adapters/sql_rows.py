"""The store's records as rows of its tables, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from sqlalchemy import RowMapping, Table

from coordinator.adapters import sql_schema as schema
from coordinator.records import (
    AdminTokenRow,
    AuditRow,
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    ConfigRow,
    DeviceRow,
    DeviceStanding,
    JoinTokenRow,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    PutSetting,
    Snapshot,
    SpendRow,
    SpoolMark,
    StoreEffect,
    TableRowStored,
    WindowRow,
)
from shared.decision.types import Feedback, RequestStatus
from shared.wire import decode_outcome, encode_outcome, encode_table

Row = tuple[Any, ...]
"""A row's values, in the order of its table's columns that the database does not fill in."""

# Looked up, because an enum's `value` costs more than all else in a row.
_KINDS: Final = {kind: kind.value for kind in LedgerKind}
_STATUSES: Final = {status: status.value for status in RequestStatus}


def _text(value: str) -> str:
    """PostgreSQL takes no NUL in text, and a device may have sent one."""
    return value.replace("\x00", "\ufffd") if "\x00" in value else value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return _text(value) if isinstance(value, str) else value


def _same_names(record: Any) -> Row:
    return tuple(_plain(value) for value in vars(record).values())


def _ledger(row: LedgerRow) -> Row:
    number, at, window, kind, device, lease, amount, request, note = row
    return (
        number,
        at,
        window,
        _KINDS[kind],
        device,
        lease,
        amount,
        _text(request),
        _text(note),
    )


def _outcome(booked: BookedOutcome) -> Row:
    position, device_id, device_class, sequence, slot, outcome, encoded = booked
    request_id, task_class, arm = outcome.request_id, outcome.task_class, outcome.arm
    if "\x00" in request_id or "\x00" in task_class or "\x00" in arm:
        request_id, task_class, arm = map(_text, (request_id, task_class, arm))
    return (
        position,
        device_id,
        device_class,
        sequence,
        slot,
        request_id,
        task_class,
        arm,
        _STATUSES[outcome.status],
        outcome.cost_nanos,
        outcome.arrived_unix_ms,
        encoded or encode_outcome(outcome),
    )


def _grade(booked: BookedFeedback) -> Row:
    place = (booked.position, booked.device_id, booked.device_class, booked.sequence)
    return place + _same_names(booked.feedback)


def _snapshot(snapshot: Snapshot) -> Row:
    return (1, *_same_names(snapshot))


def _table(stored: TableRowStored) -> Row:
    table = stored.table
    place = (table.device_class, stored.place)
    return (*place, table.version, table.created_unix_ms, encode_table(table))


TABLES: Final[Mapping[type[StoreEffect], tuple[Table, Callable[[Any], Row]]]] = {
    LedgerRow: (schema.LEDGER, _ledger),
    WindowRow: (schema.WINDOW, _same_names),
    SpendRow: (schema.SPEND, _same_names),
    LeaseRecord: (schema.LEASE, _same_names),
    DeviceRow: (schema.DEVICE, _same_names),
    SpoolMark: (schema.SPOOL_MARK, _same_names),
    JoinTokenRow: (schema.JOIN_TOKEN, _same_names),
    AdminTokenRow: (schema.ADMIN_TOKEN, _same_names),
    ConfigRow: (schema.CONFIG, _same_names),
    BookedOutcome: (schema.OUTCOME, _outcome),
    BookedFeedback: (schema.GRADE, _grade),
    BookedCounts: (schema.COUNTS, _same_names),
    Snapshot: (schema.SNAPSHOT, _snapshot),
    AuditRow: (schema.AUDIT, _same_names),
    PutSetting: (schema.SETTING, _same_names),
    TableRowStored: (schema.TABLE, _table),
}

# Rows that are added and never replaced; the audit's key is given by the database.
APPEND_ONLY: Final[frozenset[type[StoreEffect]]] = frozenset(
    {LedgerRow, ConfigRow, BookedOutcome, BookedFeedback, BookedCounts, AuditRow}
)


def ledger_row(row: RowMapping) -> LedgerRow:
    """A row of the ledger."""
    return LedgerRow(**{**row, "kind": LedgerKind(row["kind"])})


def lease_record(row: RowMapping) -> LeaseRecord:
    """A lease as the coordinator knows it."""
    values = dict(row)
    values["end"] = LeaseEnd(values.pop("ended"))
    return LeaseRecord(**values)


def device_row(row: RowMapping) -> DeviceRow:
    """A known device."""
    return DeviceRow(**{**row, "standing": DeviceStanding(row["standing"])})


def booked_outcome(row: RowMapping) -> BookedOutcome:
    """An outcome at its place; everything about it comes from its encoded record."""
    return BookedOutcome(
        position=row["position"],
        device_id=row["device_id"],
        device_class=row["device_class"],
        sequence=row["sequence"],
        slot=row["slot"],
        outcome=decode_outcome(row["record"]),
    )


def booked_feedback(row: Mapping[str, Any] | RowMapping) -> BookedFeedback:
    """A grade at its place."""
    return BookedFeedback(
        position=row["position"],
        device_id=row["device_id"],
        device_class=row["device_class"],
        sequence=row["sequence"],
        feedback=Feedback(
            request_id=row["request_id"],
            task_class=row["task_class"],
            arm=row["arm"],
            reward_ppm=row["reward_ppm"],
            source=row["source"],
            at_unix_ms=row["at_unix_ms"],
            weight_ppm=row["weight_ppm"],
            grading_ppm=row["grading_ppm"],
        ),
    )
