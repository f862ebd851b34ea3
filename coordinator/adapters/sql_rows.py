"""The store's records as rows of its tables, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any, Final

from sqlalchemy import RowMapping, Table

from coordinator.adapters import sql_schema as schema
from coordinator.adapters.sql_insert import Columns
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
from shared.decision.types import Attempt, Feedback, Outcome, RequestStatus
from shared.limits import NUMBER_MAX
from shared.wire import encode_run, encode_table

Row = tuple[Any, ...]
Writes = Iterable[tuple[Table, Columns]]

# Looked up, because an enum's `value` costs more than all else in a row.
_KINDS: Final = {kind: kind.value for kind in LedgerKind}
_STATUSES: Final = {status: status.value for status in RequestStatus}


def storable(value: str) -> str:
    """PostgreSQL takes no NUL in text, and a device may have sent one."""
    return value.replace("\x00", "\ufffd") if "\x00" in value else value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return storable(value) if isinstance(value, str) else value


def _same_names(record: Any) -> Row:
    return tuple(_plain(value) for value in vars(record).values())


def _texts(values: Sequence[str]) -> Sequence[str]:
    return list(map(storable, values)) if "\x00" in "".join(values) else values


def _ledger(rows: Sequence[LedgerRow]) -> Writes:
    """Column by column, like the outcomes: these two come by the ten thousand a second."""
    numbers, at, windows, kinds, devices, leases, amounts, requests, notes = zip(*rows, strict=True)
    told = [_KINDS[kind] for kind in kinds]
    where = (numbers, at, windows, told, devices, leases)
    yield schema.LEDGER, (*where, amounts, _texts(requests), _texts(notes))


def _outcomes(booked: Sequence[BookedOutcome]) -> Writes:
    """Their rows, and what they came in: once for all that came together."""
    numbers, devices, classes, sequences, slots, outcomes, came, at = zip(*booked, strict=True)
    found = dict(zip(Outcome._fields, zip(*outcomes, strict=True), strict=True))
    runs: list[int] = []
    places: list[int] = []
    records: list[Row] = []
    for record, group in groupby(came):
        start, size = len(runs), len(list(group))
        together = slice(start, start + size)
        records.append((numbers[start], record or encode_run(outcomes[together])))
        runs += [numbers[start]] * size
        places += at[together] if record else range(size)
    yield (
        schema.OUTCOME,
        (
            *(numbers, devices, classes, sequences, slots, _texts(found["request_id"])),
            *(_texts(found["task_class"]), _texts(found["arm"])),
            [_STATUSES[status] for status in found["status"]],
            [a[0].cost_nanos if len(a) == 1 else _cost(a) for a in found["attempts"]],
            *(found["arrived_unix_ms"], runs, places),
        ),
    )
    yield schema.OUTCOME_RUN, list(zip(*records, strict=True))


def _cost(attempts: Sequence[Attempt]) -> int:
    return min(NUMBER_MAX, sum(attempt.cost_nanos for attempt in attempts))


def _grade(booked: BookedFeedback) -> Row:
    place = (booked.position, booked.device_id, booked.device_class, booked.sequence)
    return place + _same_names(booked.feedback)


def _snapshot(snapshot: Snapshot) -> Row:
    return (1, *_same_names(snapshot))


def _table(stored: TableRowStored) -> Row:
    table = stored.table
    place = (table.device_class, stored.place)
    return (*place, table.version, table.created_unix_ms, encode_table(table))


def _each(table: Table, row: Callable[[Any], Row] = _same_names) -> Callable[[Any], Writes]:
    return lambda effects: [(table, list(zip(*map(row, effects), strict=True)))]


WRITES: Final[Mapping[type[StoreEffect], Callable[[Sequence[Any]], Writes]]] = {
    LedgerRow: _ledger,
    WindowRow: _each(schema.WINDOW),
    SpendRow: _each(schema.SPEND),
    LeaseRecord: _each(schema.LEASE),
    DeviceRow: _each(schema.DEVICE),
    SpoolMark: _each(schema.SPOOL_MARK),
    JoinTokenRow: _each(schema.JOIN_TOKEN),
    AdminTokenRow: _each(schema.ADMIN_TOKEN),
    ConfigRow: _each(schema.CONFIG),
    BookedOutcome: _outcomes,
    BookedFeedback: _each(schema.GRADE, _grade),
    BookedCounts: _each(schema.COUNTS),
    Snapshot: _each(schema.SNAPSHOT, _snapshot),
    AuditRow: _each(schema.AUDIT),
    PutSetting: _each(schema.SETTING),
    TableRowStored: _each(schema.TABLE, _table),
}
"""What effects of one kind write into the tables."""

# Tables whose rows are added and never replaced; the audit's key is given by the database.
APPEND_ONLY: Final = frozenset(
    {
        *(schema.LEDGER, schema.CONFIG, schema.AUDIT),
        *(schema.OUTCOME, schema.OUTCOME_RUN, schema.GRADE, schema.COUNTS),
    }
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


def booked_outcome(row: RowMapping, outcome: Outcome) -> BookedOutcome:
    """An outcome at its place."""
    return BookedOutcome(
        position=row["position"],
        device_id=row["device_id"],
        device_class=row["device_class"],
        sequence=row["sequence"],
        slot=row["slot"],
        outcome=outcome,
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
