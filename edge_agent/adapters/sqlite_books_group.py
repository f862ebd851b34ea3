"""A group of commits as one net change of the books, written with few, large statements.

Every effect sets or removes one row, so what a group of commits leaves behind is its last word on
each row. Each statement gives up Python's global lock once: few of them keep the writer from
waiting for the event loop over and over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, Final, TypeVar
from zlib import crc32

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    CompactSpool,
    DropLease,
    DropReservation,
    PutConfig,
    PutKeyBudget,
    PutLease,
    PutMeta,
    PutReservation,
    PutTable,
    TrimSpool,
)
from shared.decision.key_budget import KeyBudgetRow
from shared.decision.lease import LeaseRow, ReservationRow
from shared.decision.types import Feedback, Outcome, SpoolRecord
from shared.errors import StoreError
from shared.wire import encode_config, encode_table, record_to_bytes

Row = tuple[Any, ...]
Statement = tuple[str, Row]
_T = TypeVar("_T")

SPOOL_LAST: Final = "spool_last"
LEASE_COLUMNS: Final = (
    "number, incarnation, boot_id, window_id, amount_nanos, price_version, expires_boot_ms, "
    "settled_nanos, watermark_nanos, state, closing_since_boot_ms, close_reason"
)
RESERVATION_COLUMNS: Final = (
    "id, request_id, arm, lease_number, amount_nanos, task_class, arrived_unix_ms, "
    "key_tag, key_window, judge"
)
KEY_BUDGET_COLUMNS: Final = "tag, start_unix_ms, end_unix_ms, settled_nanos, watermark_nanos"
_INTO_RESERVATION: Final = f"INSERT INTO reservation ({RESERVATION_COLUMNS})"
_INTO_LEASE: Final = f"INSERT OR REPLACE INTO lease ({LEASE_COLUMNS})"
_INTO_KEY_BUDGET: Final = f"INSERT OR REPLACE INTO key_budget ({KEY_BUDGET_COLUMNS})"
_INTO_SPOOL: Final = "INSERT INTO spool (sequence, request_id, kind, record, checksum)"
_INTO_COUNTER: Final = "INSERT OR REPLACE INTO counter (key, value)"
_INTO_META: Final = "INSERT OR REPLACE INTO meta (key, value)"
_INTO_DOCUMENT: Final = "INSERT OR REPLACE INTO document (key, record)"
_ROWS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Compacted:
    """The row that stands for all from a sequence to its own."""

    first: int
    row: Row


@dataclass(slots=True)
class Change:
    """What one commit does, in rows; encoded before it is queued."""

    leases: dict[int, Row | None] = field(default_factory=dict)
    reservations: list[tuple[str, Row | None]] = field(default_factory=list)
    key_budgets: dict[str, Row] = field(default_factory=dict)
    spool: list[Row | int | Compacted] = field(default_factory=list)  # int: the end of a trim
    meta: dict[str, str] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)


def change_of(effects: Iterable[BookEffect]) -> Change:
    """Effects as rows.

    Raises
    ------
    LimitError
        If a record cannot be encoded.
    """
    change = Change()
    for effect in effects:
        match effect:
            case PutReservation():
                change.reservations.append((effect.row.id, _reservation_row(effect.row)))
            case PutLease():
                change.leases[effect.row.number] = _lease_row(effect.row)
            case DropReservation():
                change.reservations.append((effect.reservation_id, None))
            case PutKeyBudget():
                change.key_budgets[effect.row.tag] = _key_budget_row(effect.row)
            case AppendSpool():
                change.spool.append(_spool_row(effect.record))
            case TrimSpool():
                change.spool.append(effect.through)
            case CompactSpool():
                change.spool.append(Compacted(effect.first, _spool_row(effect.record)))
            case PutMeta():
                change.meta[effect.key.value] = effect.value
            case DropLease():
                change.leases[effect.lease_number] = None
            case PutTable():
                change.documents["table"] = encode_table(effect.table)
            case PutConfig():
                change.documents["config"] = encode_config(effect.config)
    return change


def _lease_row(row: LeaseRow) -> Row:
    return (
        row.number,
        row.incarnation,
        row.boot_id,
        row.window_id,
        row.amount_nanos,
        row.price_version,
        row.expires_boot_ms,
        row.settled_nanos,
        row.watermark_nanos,
        row.state.value,
        row.closing_since_boot_ms,
        row.close_reason,
    )


def _reservation_row(row: ReservationRow) -> Row:
    return (
        row.id,
        row.request_id,
        row.arm,
        row.lease_number,
        row.amount_nanos,
        row.task_class,
        row.arrived_unix_ms,
        row.key_tag,
        row.key_window,
        int(row.judge),
    )


def _key_budget_row(row: KeyBudgetRow) -> Row:
    return (row.tag, row.start_unix_ms, row.end_unix_ms, row.settled_nanos, row.watermark_nanos)


def _spool_row(record: SpoolRecord) -> Row:
    body = record.body
    if isinstance(body, Outcome):
        found_by, kind = body.request_id, "outcome"
    elif isinstance(body, Feedback):
        found_by, kind = body.request_id, "feedback"
    else:
        found_by, kind = None, type(body).__name__
    data = record_to_bytes(record)
    return (record.sequence, found_by, kind, data, crc32(data))


@dataclass(slots=True)
class Standing:
    """What a commit is checked against: it equals the file's state, this process being alone."""

    spool_last: int
    reserved: set[str]


class Group:
    """Commits merged into one net change.

    Parameters
    ----------
    standing : Standing
        The books before the group; left as it is until `accept`.
    """

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._leases: dict[int, Row | None] = {}
        self._reservations: dict[str, Row | None] = {}
        self._key_budgets: dict[str, Row] = {}
        self._appends: list[Row] = []
        self._compacted: list[Compacted] = []
        self._spool_last = standing.spool_last
        self._trim = 0
        self._meta: dict[str, str] = {}
        self._documents: dict[str, bytes] = {}

    def add(self, change: Change) -> None:
        """Merge one commit.

        Raises
        ------
        StoreError
            If it would leave a gap in the spool or insert a reservation twice; nothing of it is
            merged then.
        """
        spool_last = self._checked_spool(change.spool)
        if change.reservations:
            self._check_reservations(change.reservations)
            self._reservations.update(change.reservations)
        self._spool_last = spool_last
        for op in change.spool:
            match op:
                case int():
                    self._trim = max(self._trim, op)
                    self._drop_appends(0, op)
                    self._compacted = [one for one in self._compacted if one.row[0] > op]
                case Compacted():
                    self._drop_appends(op.first, op.row[0])
                    self._compacted.append(op)
                case _:
                    self._appends.append(op)
        self._leases.update(change.leases)
        self._key_budgets.update(change.key_budgets)
        self._meta.update(change.meta)
        self._documents.update(change.documents)

    def _drop_appends(self, first: int, last: int) -> None:
        self._appends = [row for row in self._appends if not first <= row[0] <= last]

    def _checked_spool(self, ops: Iterable[Row | int | Compacted]) -> int:
        last = self._spool_last
        for op in ops:
            if isinstance(op, int):
                last = max(last, op)
                continue
            if isinstance(op, Compacted):
                if not op.first <= min(op.row[0], last + 1):
                    raise StoreError(
                        f"records {op.first} to {op.row[0]} cannot be compacted: the last one "
                        f"is {last}"
                    )
                last = max(last, op.row[0])
                continue
            if op[0] != last + 1:
                raise StoreError(
                    f"spool record {op[0]} does not follow the last one, {last}; load the books "
                    "again and go on from there"
                )
            last = op[0]
        return last

    def _check_reservations(self, reservations: Iterable[tuple[str, Row | None]]) -> None:
        seen: dict[str, bool] = {}
        for reservation_id, row in reservations:
            if row is not None and seen.get(reservation_id, self._is_reserved(reservation_id)):
                raise StoreError(f"reservation {reservation_id} is already in the books")
            seen[reservation_id] = row is not None

    def _is_reserved(self, reservation_id: str) -> bool:
        if reservation_id in self._reservations:
            return self._reservations[reservation_id] is not None
        return reservation_id in self._standing.reserved

    def statements(self) -> list[Statement]:
        """What writes the net change."""
        found: list[Statement] = []
        if self._reservations:
            found += self._reserved()
        if self._leases:
            found += self._leased()
        if self._key_budgets:
            found += _put(_INTO_KEY_BUDGET, [*self._key_budgets.values()])
        if self._trim or self._compacted:
            found += self._trimmed()
        if self._appends:
            found += _put(_INTO_SPOOL, self._appends)
        if self._meta:
            found += _put(_INTO_META, [*self._meta.items()])
        if self._documents:
            found += _put(_INTO_DOCUMENT, [*self._documents.items()])
        return found

    def _reserved(self) -> Iterator[Statement]:
        """What takes out the reservations that are gone or other, and puts in what is there."""
        in_the_way = [key for key in self._reservations if key in self._standing.reserved]
        if in_the_way:
            yield from _delete("reservation", "id", in_the_way)
        made = [row for row in self._reservations.values() if row is not None]
        if made:
            yield from _put(_INTO_RESERVATION, made)

    def _leased(self) -> Iterator[Statement]:
        """What takes out the leases that are gone, and puts in what the others have become."""
        gone = [number for number, row in self._leases.items() if row is None]
        if gone:
            yield from _delete("lease", "number", gone)
        rows = [row for row in self._leases.values() if row is not None]
        if rows:
            yield from _put(_INTO_LEASE, rows)

    def _trimmed(self) -> Iterator[Statement]:
        """What takes records out of the spool, and what stands for them."""
        if self._trim:
            yield "DELETE FROM spool WHERE sequence <= ?", (self._trim,)
            yield from _put(_INTO_COUNTER, [(SPOOL_LAST, self._spool_last)])
        for one in self._compacted:
            span = (one.first, one.row[0])
            yield "DELETE FROM spool WHERE sequence BETWEEN ? AND ?", span
            yield from _put(_INTO_SPOOL, [one.row])

    def accept(self) -> None:
        """The transaction is committed: bring the standing up to date."""
        self._standing.spool_last = self._spool_last
        for key, row in self._reservations.items():
            if row is None:
                self._standing.reserved.discard(key)
            else:
                self._standing.reserved.add(key)


def _put(into: str, rows: Sequence[Row]) -> list[Statement]:
    columns = len(rows[0])
    return [
        (_insertion(into, columns, len(part)), tuple(chain.from_iterable(part)))
        for part in _parts(rows)
    ]


def _delete(table: str, key: str, values: Sequence[int | str]) -> list[Statement]:
    return [(_deletion(table, key, len(part)), tuple(part)) for part in _parts(values)]


def _parts(rows: Sequence[_T]) -> Sequence[Sequence[_T]]:
    """Cut into powers of two, so that a handful of prepared statements serves every length."""
    parts: list[Sequence[_T]] = []
    while rows:
        size = min(_ROWS_MAX, 1 << (len(rows).bit_length() - 1))
        parts.append(rows[:size])
        rows = rows[size:]
    return parts


# The texts are few, and SQLite's statements are found by them. Only names from this module are in
# them.
@cache
def _insertion(into: str, columns: int, rows: int) -> str:
    places = ", ".join(["(" + ", ".join("?" * columns) + ")"] * rows)
    return f"{into} VALUES {places}"


@cache
def _deletion(table: str, key: str, values: int) -> str:
    places = ", ".join("?" * values)
    return f"DELETE FROM {table} WHERE {key} IN ({places})"  # noqa: S608
