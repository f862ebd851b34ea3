"""The coordinator's durable state in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, Insert, RootTransaction, Table, insert
from sqlalchemy.dialects import postgresql, sqlite

from coordinator.adapters import sql_rows as rows
from coordinator.adapters.sql_connection import (
    check_epoch,
    lock_file,
    make_engine,
    migrate,
    parse_url,
    raise_epoch,
    sqlite_path,
    write_epoch_file,
)
from coordinator.adapters.sql_errors import translated
from coordinator.adapters.sql_load import (
    add_up,
    load_all,
    load_decisions,
    load_earlier,
    load_ledger,
    maxima,
)
from coordinator.ports import DecisionRecord, Store
from coordinator.records import (
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    EarlierFacts,
    LedgerRow,
    StoreEffect,
    StoreSnapshot,
    WindowRow,
)
from shared.errors import StoreError
from shared.file_lock import FileLock


class SqlStore(Store):
    """A store with one writer, named by an epoch that every commit checks.

    Parameters
    ----------
    url : str
        `sqlite:///path` or `postgresql://...`.
    epoch_file : Path or None
        Where the epoch is kept outside the database, so that a restored backup is noticed; None
        to do without.

    Raises
    ------
    StoreError
        If the URL is of no supported database.
    """

    def __init__(self, url: str, *, epoch_file: Path | None = None) -> None:
        self._url = parse_url(url)
        self._epoch_file = epoch_file
        self._engine: Engine = make_engine(self._url)
        self._connection: Connection | None = None
        self._lock: FileLock | None = None
        self._epoch = 0
        self._ledger_id_max = 0
        self._position_max = 0
        self._inserts = {
            effect: _insert(table, replaces=effect not in rows.APPEND_ONLY, engine=self._engine)
            for effect, (table, _) in rows.TABLES.items()
        }

    @property
    def epoch(self) -> int:
        """The epoch that this process began; 0 while closed."""
        return self._epoch

    def open(self) -> None:
        """Connect, migrate to the newest schema and become the one writer.

        Raises
        ------
        StoreError
            If another coordinator is the writer, if the schema is of a newer version, or if the
            database is older than the epoch file.
        """
        if self._connection is not None:
            raise StoreError("the store is already open")
        path = sqlite_path(self._url)
        try:
            if path is not None:
                self._lock = lock_file(path)
            with translated("open the database"):
                self._connection = self._engine.connect()
                self._begin_epoch(self._connection)
        except BaseException:
            self.close()
            raise

    def _begin_epoch(self, connection: Connection) -> None:
        with connection.begin():
            migrate(connection)
            epoch = raise_epoch(connection, epoch_file=self._epoch_file)
        if self._epoch_file is not None:
            write_epoch_file(self._epoch_file, epoch=epoch)
        self._epoch = epoch
        with connection.begin():
            self._ledger_id_max, self._position_max = maxima(connection)

    def close(self) -> None:
        """Give up the writer's role and disconnect; a second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._epoch = 0

    def commit(self, effects: Sequence[StoreEffect]) -> None:
        """Apply effects in one durable transaction, if this is still the writer.

        Ledger ids, and positions over outcomes, grades and counts together, must rise by one.
        """
        ledger_id_max, position_max = self._checked(effects)
        by_type: dict[type[StoreEffect], list[rows.Values]] = {}
        for effect in effects:
            kind = type(effect)
            by_type.setdefault(kind, []).append(rows.TABLES[kind][1](effect))
        with translated("commit"), self._begin() as transaction:
            connection = transaction.connection
            check_epoch(connection, epoch=self._epoch)
            # No table refers to another, so only the order within each of them counts.
            for kind, values in by_type.items():
                connection.execute(self._inserts[kind], self._last_of_each(kind, values))
        self._ledger_id_max, self._position_max = ledger_id_max, position_max

    def _last_of_each(
        self, kind: type[StoreEffect], values: list[rows.Values]
    ) -> list[rows.Values]:
        """Of rows that replace each other, the last."""
        if kind in rows.APPEND_ONLY:
            return values
        key = [column.name for column in rows.TABLES[kind][0].primary_key]
        return list({tuple(row[name] for name in key): row for row in values}.values())

    def _checked(self, effects: Sequence[StoreEffect]) -> tuple[int, int]:
        ledger_id, position = self._ledger_id_max, self._position_max
        for effect in effects:
            if isinstance(effect, LedgerRow):
                ledger_id = _next(effect.id, after=ledger_id, what="ledger row")
            elif isinstance(effect, BookedOutcome | BookedFeedback | BookedCounts):
                position = _next(effect.position, after=position, what="position")
        return ledger_id, position

    def load(self) -> StoreSnapshot:
        """Everything that the engine needs to go on."""
        with translated("load the books"), self._begin() as transaction:
            return load_all(transaction.connection)

    def ledger(self, *, after_id: int, limit: int, device_id: str = "") -> Sequence[LedgerRow]:
        """Ledger rows with an id above `after_id`, rising."""
        with translated("read the ledger"), self._begin() as transaction:
            return load_ledger(
                transaction.connection, after_id=after_id, limit=limit, device_id=device_id
            )

    def decisions(
        self, *, limit: int, device_id: str = "", request_id: str = "", after: int | None = None
    ) -> Sequence[DecisionRecord]:
        """The latest booked decisions with their grades, newest first; rising with `after`."""
        with translated("read the decisions"), self._begin() as transaction:
            return load_decisions(
                transaction.connection,
                limit=limit,
                device_id=device_id,
                request_id=request_id,
                after=after,
            )

    def earlier(
        self, device_id: str, *, request_ids: Sequence[str], lease_numbers: Sequence[int]
    ) -> EarlierFacts:
        """Which of a device's requests are graded, and its leases with those numbers."""
        with translated("look up a device's leases and grades"), self._begin() as transaction:
            return load_earlier(
                transaction.connection,
                device_id,
                request_ids=request_ids,
                lease_numbers=lease_numbers,
            )

    def recomputed_window(self, window_id: int) -> WindowRow:
        """A window with its balances added up from the ledger rows (rule C_2)."""
        with translated("add up the ledger"), self._begin() as transaction:
            return add_up(transaction.connection, window_id=window_id)

    @contextmanager
    def _begin(self) -> Iterator[RootTransaction]:
        """A transaction that commits at its end, or rolls back when an error leaves it."""
        if self._connection is None:
            raise StoreError("the store is not open; call open() first")
        with self._connection.begin() as transaction:
            yield transaction


def _insert(table: Table, *, replaces: bool, engine: Engine) -> Insert:
    """An insert that fails on a second row of the same key, or else replaces the first."""
    if not replaces:
        return insert(table)
    # The two dialects have the same clause, each with a class of its own.
    statement: sqlite.Insert | postgresql.Insert
    statement = (sqlite if engine.dialect.name == "sqlite" else postgresql).insert(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={
            column.name: statement.excluded[column.name]
            for column in table.c
            if not column.primary_key
        },
    )


def _next(number: int, *, after: int, what: str) -> int:
    if number != after + 1:
        raise StoreError(
            f"{what} {number} does not follow the last one, {after}; load the books again and go "
            "on from there"
        )
    return number
