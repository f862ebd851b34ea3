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
    StoreEffect,
    TableRowStored,
    WindowRow,
)
from shared.decision.types import Feedback
from shared.wire import decode_outcome, encode_outcome, encode_table

Values = dict[str, Any]


def _plain(value: Any) -> Any:
    """Enums as text; PostgreSQL takes no NUL in text, and a device may have sent one."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) and "\x00" in value:
        return value.replace("\x00", "\ufffd")
    return value


def _same_names(record: Any) -> Values:
    return {name: _plain(value) for name, value in vars(record).items()}


def _lease(record: LeaseRecord) -> Values:
    values = _same_names(record)
    values["ended"] = values.pop("end")
    return values


def _outcome(booked: BookedOutcome) -> Values:
    outcome = booked.outcome
    return {
        "position": booked.position,
        "device_id": booked.device_id,
        "device_class": booked.device_class,
        "sequence": booked.sequence,
        "slot": booked.slot,
        "request_id": _plain(outcome.request_id),
        "task_class": _plain(outcome.task_class),
        "arm": _plain(outcome.arm),
        "status": outcome.status.value,
        "cost_nanos": outcome.cost_nanos,
        "arrived_unix_ms": outcome.arrived_unix_ms,
        "record": encode_outcome(outcome),
    }


def _grade(booked: BookedFeedback) -> Values:
    values = _same_names(booked)
    values.update(_same_names(values.pop("feedback")))
    return values


def _snapshot(snapshot: Snapshot) -> Values:
    return {"id": 1, **_same_names(snapshot)}


def _table(stored: TableRowStored) -> Values:
    table = stored.table
    return {
        "device_class": table.device_class,
        "version": table.version,
        "record": encode_table(table),
    }


TABLES: Final[Mapping[type[StoreEffect], tuple[Table, Callable[[Any], Values]]]] = {
    LedgerRow: (schema.LEDGER, _same_names),
    WindowRow: (schema.WINDOW, _same_names),
    LeaseRecord: (schema.LEASE, _lease),
    DeviceRow: (schema.DEVICE, _same_names),
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
        ),
    )
