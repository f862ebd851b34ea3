"""Reading the store: what the engine starts from, the ledger's sums, the latest decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sqlalchemy import Connection, RowMapping, Table, func, or_, select

from coordinator.adapters import sql_rows as rows
from coordinator.adapters import sql_schema as schema
from coordinator.ports import DecisionRecord
from coordinator.records import (
    MOVES,
    AdminTokenRow,
    AuditRow,
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    ConfigRow,
    EarlierFacts,
    EarlierTable,
    JoinTokenRow,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    SettingKey,
    Snapshot,
    SpendRow,
    StoreSnapshot,
    WindowRow,
)
from shared.decision.table import SelectionTable
from shared.decision.types import Outcome
from shared.errors import NotFoundError
from shared.wire import decode_run, decode_table

_NAMES_PER_QUERY = 500


def maxima(connection: Connection) -> tuple[int, int]:
    """The last ledger id, and the last position over outcomes, grades and counts."""
    ledger_id = connection.scalar(select(func.max(schema.LEDGER.c.id))) or 0
    # What the snapshot covers may have been pruned since.
    learned = (schema.OUTCOME, schema.GRADE, schema.COUNTS, schema.SNAPSHOT)
    positions = (connection.scalar(select(func.max(table.c.position))) for table in learned)
    return ledger_id, max(position or 0 for position in positions)


def load_all(connection: Connection) -> StoreSnapshot:
    """Everything that the engine needs to go on."""
    ledger_id_max, position_max = maxima(connection)
    snapshot = _snapshot(connection)
    windows, leases = _windows(connection)
    devices = _all(connection, schema.DEVICE)
    join_tokens = _all(connection, schema.JOIN_TOKEN)
    admin_tokens = _all(connection, schema.ADMIN_TOKEN)
    return StoreSnapshot(
        config=_config(connection),
        devices=tuple(rows.device_row(row) for row in devices),
        join_tokens=tuple(JoinTokenRow(**row) for row in join_tokens),
        admin_tokens=tuple(AdminTokenRow(**row) for row in admin_tokens),
        windows=windows,
        leases=leases,
        spend=_last_spend(connection),
        settings=_settings(connection),
        snapshot=snapshot,
        learned_since=_learned(connection, after=snapshot.position if snapshot else 0),
        tables=_tables_in_force(connection),
        earlier_tables=_earlier_tables(connection),
        ledger_id_max=ledger_id_max,
        position_max=position_max,
    )


def _all(connection: Connection, table: Table) -> Sequence[RowMapping]:
    query = select(table).order_by(*table.primary_key)
    return connection.execute(query).mappings().all()


def _tables_in_force(connection: Connection) -> tuple[SelectionTable, ...]:
    table = schema.TABLE
    query = select(table.c.record).where(table.c.place == 0).order_by(table.c.device_class)
    return tuple(decode_table(record) for record in connection.execute(query).scalars())


def _earlier_tables(connection: Connection) -> tuple[EarlierTable, ...]:
    table = schema.TABLE
    heads = (table.c.device_class, table.c.place, table.c.version, table.c.created_unix_ms)
    query = select(*heads).where(table.c.place > 0).order_by(table.c.device_class, table.c.place)
    return tuple(EarlierTable(*row) for row in connection.execute(query))


def load_table(connection: Connection, device_class: str, *, version: int) -> SelectionTable | None:
    """A selection table that is in force or kept."""
    table = schema.TABLE
    mine = (table.c.device_class == rows.storable(device_class)) & (table.c.version == version)
    query = select(table.c.record).where(mine).order_by(table.c.place).limit(1)
    record = connection.execute(query).scalar_one_or_none()
    return decode_table(record) if record is not None else None


def _config(connection: Connection) -> ConfigRow | None:
    newest = select(schema.CONFIG).order_by(schema.CONFIG.c.version.desc()).limit(1)
    row = connection.execute(newest).mappings().one_or_none()
    return ConfigRow(**row) if row is not None else None


def _settings(connection: Connection) -> dict[SettingKey, str]:
    """Known facts; one that only a newer program knows stays in the database for it."""
    names = {key.value: key for key in SettingKey}
    found = _all(connection, schema.SETTING)
    return {names[row["key"]]: row["value"] for row in found if row["key"] in names}


def _snapshot(connection: Connection) -> Snapshot | None:
    row = connection.execute(select(schema.SNAPSHOT)).mappings().one_or_none()
    if row is None:
        return None
    return Snapshot(**{name: value for name, value in row.items() if name != "id"})


def _windows(
    connection: Connection,
) -> tuple[tuple[WindowRow, ...], tuple[LeaseRecord, ...]]:
    """What `StoreSnapshot.windows` says, with all of their leases."""
    window, lease = schema.WINDOW, schema.LEASE
    is_open = lease.c.ended == LeaseEnd.OPEN.value
    latest = select(func.max(window.c.id)).scalar_subquery()
    begun = select(window.c.start_unix_ms).where(window.c.id == latest).scalar_subquery()
    wanted = or_(
        window.c.id.in_(select(lease.c.window_id).where(is_open)),
        window.c.id == latest,
        window.c.end_unix_ms > begun,
    )
    windows = connection.execute(select(window).where(wanted).order_by(window.c.id)).mappings()
    found = tuple(WindowRow(**row) for row in windows)
    leases = connection.execute(
        select(lease)
        .where(or_(is_open, lease.c.window_id.in_(select(window.c.id).where(wanted))))
        .order_by(lease.c.device_id, lease.c.number)
    ).mappings()
    return found, tuple(rows.lease_record(row) for row in leases)


def _learned(
    connection: Connection, *, after: int
) -> tuple[BookedOutcome | BookedFeedback | BookedCounts, ...]:
    """Outcomes, grades and counts above a position, in its order."""

    def above(table: Table) -> Sequence[RowMapping]:
        return connection.execute(select(table).where(table.c.position > after)).mappings().all()

    booked: list[BookedOutcome | BookedFeedback | BookedCounts] = []
    booked.extend(_outcomes(connection, above(schema.OUTCOME)))
    booked.extend(rows.booked_feedback(row) for row in above(schema.GRADE))
    booked.extend(BookedCounts(**row) for row in above(schema.COUNTS))
    return tuple(sorted(booked, key=lambda row: row.position))


def _outcomes(connection: Connection, found: Sequence[RowMapping]) -> Iterator[BookedOutcome]:
    """The outcomes of rows. All about them comes from the runs in which they came."""
    table = schema.OUTCOME_RUN
    needed = list(dict.fromkeys(row["run"] for row in found))
    runs: dict[int, list[Outcome]] = {}
    for start in range(0, len(needed), _NAMES_PER_QUERY):
        wanted = table.c.position.in_(needed[start : start + _NAMES_PER_QUERY])
        for position, record in connection.execute(select(table).where(wanted)):
            runs[position] = decode_run(record)
    for row in found:
        yield rows.booked_outcome(row, runs[row["run"]][row["place"]])


def _last_spend(connection: Connection) -> tuple[SpendRow, ...]:
    day = connection.scalar(select(func.max(schema.SPEND.c.day_unix_ms)))
    return tuple(load_spend(connection, from_unix_ms=day)) if day is not None else ()


def load_spend(connection: Connection, *, from_unix_ms: int) -> Sequence[SpendRow]:
    """What was spent on the first day, from a time on, that has any."""
    table = schema.SPEND
    days = select(func.min(table.c.day_unix_ms)).where(table.c.day_unix_ms >= from_unix_ms)
    query = select(table).where(table.c.day_unix_ms == days.scalar_subquery())
    found = connection.execute(query.order_by(table.c.arm, table.c.tag)).mappings()
    return [SpendRow(**row) for row in found]


def load_ledger(
    connection: Connection, *, after_id: int, limit: int, device_id: str
) -> Sequence[LedgerRow]:
    """Ledger rows with an id above `after_id`, rising."""
    table = schema.LEDGER
    query = select(table).where(table.c.id > after_id).order_by(table.c.id).limit(limit)
    if device_id:
        query = query.where(table.c.device_id == rows.storable(device_id))
    return [rows.ledger_row(row) for row in connection.execute(query).mappings()]


def load_audit(connection: Connection, *, limit: int) -> Sequence[AuditRow]:
    """Who changed what, newest first."""
    table = schema.AUDIT
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    return [
        AuditRow(row.at_unix_ms, row.actor, row.action, row.detail)
        for row in connection.execute(query)
    ]


def load_decisions(
    connection: Connection, *, limit: int, device_id: str, request_id: str, after: int | None
) -> Sequence[DecisionRecord]:
    """The latest outcomes with their grades, newest first; those above `after` rising."""
    outcome, grade = schema.OUTCOME, schema.GRADE
    same_device = grade.c.device_id == outcome.c.device_id
    same_request = grade.c.request_id == outcome.c.request_id
    query = (
        select(outcome, *(column.label(f"grade_{column.name}") for column in grade.c))
        .select_from(outcome.outerjoin(grade, same_device & same_request & schema.IS_FULL_GRADE))
        .order_by(outcome.c.position.desc() if after is None else outcome.c.position)
        .limit(limit)
    )
    if after is not None:
        query = query.where(outcome.c.position > after)
    if device_id:
        query = query.where(outcome.c.device_id == rows.storable(device_id))
    if request_id:
        query = query.where(outcome.c.request_id == rows.storable(request_id))
    found = connection.execute(query).mappings().all()
    booked = _outcomes(connection, found)
    return [
        DecisionRecord(outcome=outcome, feedback=_grade(row))
        for outcome, row in zip(booked, found, strict=True)
    ]


def _grade(row: RowMapping) -> BookedFeedback | None:
    if row["grade_position"] is None:
        return None
    names = [column.name for column in schema.GRADE.c]
    return rows.booked_feedback({name: row[f"grade_{name}"] for name in names})


def load_earlier(
    connection: Connection,
    device_id: str,
    *,
    request_ids: Sequence[str],
    lease_numbers: Sequence[int],
) -> EarlierFacts:
    """Which of a device's requests are graded, and its leases with those numbers."""
    grade, lease, window = schema.GRADE, schema.LEASE, schema.WINDOW
    graded: set[str] = set()
    if request_ids:
        asked = grade.c.request_id.in_(request_ids)
        mine = (grade.c.device_id == device_id) & asked & schema.IS_FULL_GRADE
        graded.update(connection.execute(select(grade.c.request_id).where(mine)).scalars())
    if not lease_numbers:
        return EarlierFacts(graded=frozenset(graded))
    leases: list[RowMapping] = []
    for start in range(0, len(lease_numbers), _NAMES_PER_QUERY):
        named = lease.c.number.in_(lease_numbers[start : start + _NAMES_PER_QUERY])
        wanted = (lease.c.device_id == device_id) & named
        leases += connection.execute(select(lease).where(wanted)).mappings()
    ids = {row["window_id"] for row in leases}
    windows = connection.execute(select(window).where(window.c.id.in_(ids))).mappings()
    return EarlierFacts(
        graded=frozenset(graded),
        leases=tuple(rows.lease_record(row) for row in leases),
        windows=tuple(WindowRow(**row) for row in windows),
    )


def load_spool_marks(
    connection: Connection, device_id: str, *, incarnations: Sequence[str]
) -> dict[str, int]:
    """The highest booked sequence of each incarnation that is known, a few hundred at a time."""
    mark = schema.SPOOL_MARK
    found: dict[str, int] = {}
    for start in range(0, len(incarnations), _NAMES_PER_QUERY):
        names = incarnations[start : start + _NAMES_PER_QUERY]
        wanted = (mark.c.device_id == device_id) & mark.c.incarnation.in_(names)
        query = select(mark.c.incarnation, mark.c.sequence).where(wanted)
        found.update((row.incarnation, row.sequence) for row in connection.execute(query))
    return found


def load_windows(connection: Connection, *, ending_after_unix_ms: int) -> Sequence[WindowRow]:
    """The windows that end after a time, by their ids."""
    window = schema.WINDOW
    query = select(window).where(window.c.end_unix_ms > ending_after_unix_ms).order_by(window.c.id)
    return [WindowRow(**row) for row in connection.execute(query).mappings()]


def add_up(connection: Connection, *, window_id: int) -> WindowRow:
    """A window with its balances added up from the ledger rows.

    Raises
    ------
    NotFoundError
        If there is no such window.
    """
    window, ledger = schema.WINDOW, schema.LEDGER
    query = select(window).where(window.c.id == window_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no window {window_id} in the books")
    sums = (
        select(ledger.c.kind, func.sum(ledger.c.amount_nanos))
        .where(ledger.c.window_id == window_id)
        .group_by(ledger.c.kind)
    )
    balances = [0, 0, 0]
    for kind, total in connection.execute(sums):
        for index, factor in enumerate(MOVES[LedgerKind(kind)]):
            balances[index] += factor * int(total)
    settled, unconfirmed, outstanding = balances
    return replace(
        WindowRow(**row),
        settled_nanos=settled,
        unconfirmed_nanos=unconfirmed,
        outstanding_nanos=outstanding,
    )
