"""The coordinator's durable state in SQLite or PostgreSQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, RootTransaction

from coordinator.adapters import sql_rows as rows
from coordinator.adapters.sql_connection import (
    Mark,
    WriterBusyError,
    check_epoch,
    check_not_deposed,
    lock_file,
    make_engine,
    make_reader,
    migrate,
    parse_url,
    raise_epoch,
    sqlite_path,
    write_mark,
)
from coordinator.adapters.sql_errors import translated
from coordinator.adapters.sql_insert import Insert
from coordinator.adapters.sql_load import (
    add_up,
    load_all,
    load_audit,
    load_decisions,
    load_earlier,
    load_ledger,
    load_spend,
    load_spool_marks,
    load_table,
    load_windows,
    maxima,
)
from coordinator.adapters.sql_schema import METADATA
from coordinator.adapters.sql_upkeep import add_everything_up, prune_dated, prune_learned
from coordinator.ports import DecisionRecord, Progress, Store
from coordinator.records import (
    AuditRow,
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    EarlierFacts,
    LedgerRow,
    Snapshot,
    SpendRow,
    StoreEffect,
    StoreSnapshot,
    WindowRow,
)
from shared.decision.table import SelectionTable
from shared.errors import StoreError
from shared.file_lock import FileLock

_row_id: Final = attrgetter("id")
_position: Final = attrgetter("position")


class SqlStore(Store):
    """A store with one writer, named by an epoch that every commit checks.

    Parameters
    ----------
    url : str
        `sqlite:///path` or `postgresql://...`.
    mark_file : Path or None
        Where it is kept outside the database how far the books have come, so that a restored
        backup is noticed (rule C_5); None to do without.

    Raises
    ------
    StoreError
        If the URL is of no supported database.
    """

    def __init__(self, url: str, *, mark_file: Path | None = None) -> None:
        self._url = parse_url(url)
        self._mark_file = mark_file
        self._engine: Engine = make_engine(self._url)
        self._connection: Connection | None = None
        self._lock: FileLock | None = None
        self._epoch = 0
        self._ledger_id_max = 0
        self._position_max = 0
        self._inserts = {
            table: Insert(
                table, replaces=table not in rows.APPEND_ONLY, dialect=self._engine.dialect
            )
            for table in METADATA.sorted_tables
        }

    @property
    def epoch(self) -> int:
        """The epoch that this process began; 0 while closed."""
        return self._epoch

    def open(self) -> None:
        """Connect, migrate to the newest schema and become the one writer.

        Raises
        ------
        WriterBusyError
            If another coordinator is the writer.
        StoreError
            If the schema is of a newer version, or the database cannot be reached.
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
            self._ledger_id_max, self._position_max = maxima(connection)
            epoch = raise_epoch(
                connection, mark_file=self._mark_file, ledger_id=self._ledger_id_max
            )
        self._epoch = epoch
        self._write_mark()

    def _write_mark(self) -> None:
        if self._mark_file is not None:
            write_mark(self._mark_file, Mark(self._epoch, self._ledger_id_max))

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
        by_type: defaultdict[type[StoreEffect], list[Any]] = defaultdict(list)
        for kind, run in groupby(effects, key=type):
            by_type[kind] += run
        ledger_ids = map(_row_id, by_type[LedgerRow])
        ledger_id_max = _last(ledger_ids, after=self._ledger_id_max, what="ledger row")
        position_max = _last_position(by_type, after=self._position_max)
        with translated("commit"), self._begin() as transaction:
            connection = transaction.connection
            check_epoch(connection, epoch=self._epoch)
            # No table refers to another, so only the order within each of them counts.
            for kind, found in by_type.items():
                for table, columns in rows.WRITES[kind](found) if found else ():
                    self._inserts[table].put(columns, connection=connection)
        self._ledger_id_max, self._position_max = ledger_id_max, position_max
        if by_type[Snapshot]:  # once a slot
            self._write_mark()

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

    def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """Who changed what, newest first."""
        with translated("read the audit"), self._begin() as transaction:
            return load_audit(transaction.connection, limit=limit)

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

    def table(self, device_class: str, *, version: int) -> SelectionTable | None:
        """A selection table that is in force or kept; None if it is neither."""
        with translated("read a selection table"), self._begin() as transaction:
            return load_table(transaction.connection, device_class, version=version)

    def spend(self, *, from_unix_ms: int) -> Sequence[SpendRow]:
        """What was spent on the first day, from a time on, that has any; empty after the last."""
        with translated("add up what was spent"), self._begin() as transaction:
            return load_spend(transaction.connection, from_unix_ms=from_unix_ms)

    def spool_marks(self, device_id: str, incarnations: Sequence[str]) -> dict[str, int]:
        """The highest booked sequence of each incarnation of a device that the books know."""
        with translated("look up how far a spool is booked"), self._begin() as transaction:
            return load_spool_marks(transaction.connection, device_id, incarnations=incarnations)

    def windows(self, *, ending_after_unix_ms: int) -> Sequence[WindowRow]:
        """The windows that end after a time, by their ids."""
        with translated("read budget windows"), self._begin() as transaction:
            return load_windows(transaction.connection, ending_after_unix_ms=ending_after_unix_ms)

    def recomputed_window(self, window_id: int) -> WindowRow:
        """A window with its balances added up from the ledger rows (rule C_2)."""
        with translated("add up the ledger"), self._begin() as transaction:
            return add_up(transaction.connection, window_id=window_id)

    def differences(self, *, progress: Progress) -> Sequence[str]:
        """Where the ledger's rows and the running balances disagree, in words (rule C_2).

        It reads on a connection of its own, so that commits go on.
        """
        if self._connection is None:
            raise StoreError("the store is not open; call open() first")
        with (
            translated("add up the ledger"),
            make_reader(self._url).connect() as reader,
            reader.begin(),
        ):
            return add_everything_up(reader, progress=progress)

    def prune(self, *, position: int, before_unix_ms: int, limit: int) -> int:
        """Delete what has had its time: learned rows, audit, join tokens; how many rows went."""
        with translated("prune the books"), self._begin() as transaction:
            check_epoch(transaction.connection, epoch=self._epoch)
            gone = prune_learned(transaction.connection, position=position, limit=limit)
            return gone + prune_dated(
                transaction.connection, before_unix_ms=before_unix_ms, limit=limit
            )

    @contextmanager
    def _begin(self) -> Iterator[RootTransaction]:
        """A transaction that commits at its end, or rolls back when an error leaves it."""
        if self._connection is None:
            raise StoreError("the store is not open; call open() first")
        try:
            with self._connection.begin() as transaction:
                yield transaction
        except WriterBusyError:
            check_not_deposed(self._url, epoch=self._epoch)
            raise


def _last_position(by_type: Mapping[type[StoreEffect], Sequence[Any]], *, after: int) -> int:
    """Outcomes, grades and counts share their numbers."""
    kinds = (BookedOutcome, BookedFeedback, BookedCounts)
    learned = chain.from_iterable(by_type.get(kind, ()) for kind in kinds)
    return _last(map(_position, learned), after=after, what="position")


def _last(numbers: Iterable[int], *, after: int, what: str) -> int:
    """The last of numbers that must rise by one."""
    found = sorted(numbers)
    expected = range(after + 1, after + 1 + len(found))
    if found != list(expected):
        number, before = next(
            pair for pair in zip(found, expected, strict=True) if len({*pair}) > 1
        )
        raise StoreError(
            f"{what} {number} does not follow the last one, {before - 1}; load the books "
            "again and go on from there"
        )
    return after + len(found)
