"""The device's books in one SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import structlog

from edge_agent.adapters.sqlite_books_file import connect, corrupt, lock, prepare, store_error
from edge_agent.adapters.sqlite_books_file import set_aside as _set_aside
from edge_agent.adapters.sqlite_books_group import (
    KEY_BUDGET_COLUMNS,
    LEASE_COLUMNS,
    RESERVATION_COLUMNS,
    SPOOL_LAST,
    Standing,
    change_of,
)
from edge_agent.adapters.sqlite_books_writer import Job, Syncer, Writer, sync_file
from edge_agent.books import BookEffect, BooksSnapshot, MetaKey
from edge_agent.ports import Books, Told, nobody
from shared.clock import Clock
from shared.decision.key_budget import KeyBudgetRow
from shared.decision.lease import LeaseRow, LeaseState, ReservationRow
from shared.decision.types import Feedback, Outcome, SpoolRecord, SpoolSummary
from shared.errors import ProtocolError, StoreError, TidegateError
from shared.wire import decode_config, decode_table, record_from_bytes

log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class SqliteBooks(Books):
    """Books that one process holds, with group commit.

    A commit is queued; a thread applies everything queued in one transaction. Without `sync` it
    then survives the end of the process. With `sync` the log is synced too, by a second thread
    while the first goes on, so that a commit never waits for another one's sync.

    Parameters
    ----------
    path : Path
        The file; created with mode 0600 if there is none. Its folder must exist.
    page_count_max : int
        At most so many pages of 4 KiB; 0 for SQLite's own limit.
    sync : callable
        How a file descriptor is synced.

    Raises
    ------
    BooksCorruptError
        If the file is damaged; see `set_aside`.
    StoreError
        If another process holds the books, or a newer agent wrote them.
    """

    def __init__(
        self, path: Path, *, page_count_max: int = 0, sync: Callable[[int], None] = sync_file
    ) -> None:
        self._path = path
        self._closed = False
        self._unreadable: set[int] = set()
        self._pending: list[Job] = []
        self._connections: list[sqlite3.Connection] = []
        self._lock = lock(path)
        try:
            prepare(path)
            self._open(page_count_max, sync=sync)
        except sqlite3.Error as error:
            self._disconnect()
            raise store_error(error, path=path, operation="open the books") from error
        except BaseException:
            self._disconnect()
            raise
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="books-read")

    @staticmethod
    def set_aside(path: Path, *, clock: Clock) -> Path:
        """Keep corrupt books under another name, so that new ones can be started (rule O_3).

        Returns
        -------
        Path
            The new name, `*.corrupt-<unix_ms>`; the log keeps its place beside it.

        Raises
        ------
        StoreError
            If a process still holds the books.
        """
        return _set_aside(path, clock=clock)

    def _open(self, page_count_max: int, *, sync: Callable[[int], None]) -> None:
        for _ in range(3):
            self._connections.append(connect(self._path))
        self._reader, written, checkpointed = self._connections
        self._reader.execute("PRAGMA query_only = ON")
        if page_count_max:
            written.execute(f"PRAGMA max_page_count = {page_count_max}")
        last = _spool_last(written)
        reserved = {key for (key,) in written.execute("SELECT id FROM reservation")}
        self._syncer = Syncer(self._path, connection=checkpointed, sync=sync)
        self._writer = Writer(
            self._path,
            connection=written,
            standing=Standing(spool_last=last, reserved=reserved),
            syncer=self._syncer,
        )

    def load(self) -> BooksSnapshot:
        """Everything that was committed; `spool_last` counts trimmed records as well."""
        self._refuse_if_closed()
        return self._reading.submit(self._read, self._load).result()

    async def commit(
        self,
        effects: Sequence[BookEffect],
        *,
        sync: bool = False,
        after_full: bool = False,
        told: Told = nobody,
    ) -> None:
        """Apply effects in one transaction, in order with every earlier commit.

        Raises
        ------
        StoreError
            If a spool record does not follow the last one, if a reservation is already there,
            or if the books are closed.
        """
        try:
            self._refuse_if_closed()
            change = change_of(effects)
        except TidegateError as error:
            told(error)
            raise
        loop = asyncio.get_running_loop()
        job = Job(change, sync, loop.create_future(), after_full=after_full, told=told)
        if not self._pending:
            # The writer is woken once for all that this turn of the event loop brings.
            loop.call_soon(self._flush)
        self._pending.append(job)
        await job.done

    def _flush(self) -> None:
        jobs, self._pending = self._pending, []
        if jobs:
            self._writer.put(jobs)

    async def spooled(self, *, after: int, limit: int) -> Sequence[SpoolRecord]:
        """Up to `limit` committed records with a sequence above `after`, in order.

        A record that is damaged stays in the file, and comes as a summary that says so.
        """
        return await self._in_reader(lambda: self._spooled(after, limit))

    async def find(self, request_id: str) -> tuple[Outcome | None, Feedback | None]:
        """The spooled outcome of a request and its first grade, as far as still kept."""
        return await self._in_reader(lambda: self._find(request_id))

    async def size_bytes(self) -> int:
        """Bytes of the database with its log and index."""
        return await self._in_reader(self._size_bytes)

    async def close(self) -> None:
        """Finish pending commits and syncs, close the file, let others have it."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._writer.stop()
        self._syncer.stop()
        self._reading.shutdown()
        self._disconnect()

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.close()
        self._lock.release()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreError(f"the books {self._path} are closed; open them again first")

    async def _in_reader(self, read: Callable[[], _T]) -> _T:
        self._refuse_if_closed()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self._read, read)

    def _read(self, read: Callable[[], _T]) -> _T:
        """Run a read; what cannot be decoded was not written by us."""
        try:
            return read()
        except (sqlite3.Error, OSError) as error:
            raise store_error(error, path=self._path, operation="read") from error
        except (ProtocolError, ValueError) as error:
            raise corrupt(self._path, str(error)) from error

    def _load(self) -> BooksSnapshot:
        execute = self._reader.execute
        execute("BEGIN")
        try:
            documents = dict(execute("SELECT key, record FROM document").fetchall())
            leases = execute(f"SELECT {LEASE_COLUMNS} FROM lease ORDER BY number")  # noqa: S608
            reservations = execute(
                f"SELECT {RESERVATION_COLUMNS} FROM reservation ORDER BY id"  # noqa: S608
            )
            budgets = execute(f"SELECT {KEY_BUDGET_COLUMNS} FROM key_budget ORDER BY tag")  # noqa: S608
            (first,) = execute("SELECT min(sequence) FROM spool").fetchone()
            return BooksSnapshot(
                meta=_meta(execute("SELECT key, value FROM meta").fetchall()),
                leases=tuple(_lease(row) for row in leases.fetchall()),
                reservations=tuple(_reservation(row) for row in reservations.fetchall()),
                key_budgets=tuple(KeyBudgetRow(*row) for row in budgets.fetchall()),
                table=decode_table(documents["table"]) if "table" in documents else None,
                config=decode_config(documents["config"]) if "config" in documents else None,
                spool_first=first or 0,
                spool_last=_spool_last(self._reader),
                place=str(self._lock.made_ns),
            )
        finally:
            execute("COMMIT")

    def _spooled(self, after: int, limit: int) -> Sequence[SpoolRecord]:
        rows = self._reader.execute(
            "SELECT sequence, kind, record, checksum FROM spool WHERE sequence > ? "
            "ORDER BY sequence LIMIT ?",
            (after, limit),
        ).fetchall()
        records: list[SpoolRecord] = []
        for sequence, kind, data, checksum in rows:
            record = _record(sequence, data, checksum)
            if record is None:
                first = sequence
                if kind == SpoolSummary.__name__:
                    first = (records[-1].sequence if records else after) + 1
                record = SpoolRecord(sequence, "", SpoolSummary(first, sequence, (), (), 1))
                self._note_unreadable(sequence, kind)
            records.append(record)
        return records

    def _note_unreadable(self, sequence: int, kind: str) -> None:
        """Once a record, however often it is met."""
        if sequence not in self._unreadable:
            self._unreadable.add(sequence)
            log.error(
                "record_unreadable",
                sequence=sequence,
                kind=kind,
                path=str(self._path),
                remedy="it stays in the file and the others go on; look at the disk",
            )

    def _find(self, request_id: str) -> tuple[Outcome | None, Feedback | None]:
        outcome: Outcome | None = None
        grade: Feedback | None = None
        rows = self._reader.execute(
            "SELECT sequence, record, checksum FROM spool WHERE request_id = ? ORDER BY sequence",
            (request_id,),
        ).fetchall()
        for row in rows:
            record = _record(*row)
            body = record.body if record is not None else None
            if isinstance(body, Outcome):
                outcome = outcome or body
            elif isinstance(body, Feedback) and not body.is_weak:
                grade = grade or body
        return outcome, grade

    def _size_bytes(self) -> int:
        files = (self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())


def _record(sequence: int, data: bytes, checksum: int | None) -> SpoolRecord | None:
    """A spool record from its row, or None if the row is damaged.

    SQLite checks the structure of its file, and not what is in a row. Rows of the first version
    have no checksum.
    """
    if checksum is not None and crc32(data) != checksum:
        return None
    try:
        record = record_from_bytes(data)
    except (ProtocolError, ValueError):
        return None
    return record if record.sequence == sequence else None


def _spool_last(connection: sqlite3.Connection) -> int:
    """The last sequence ever appended: of a record, or kept when all were trimmed."""
    (last,) = connection.execute("SELECT max(sequence) FROM spool").fetchone()
    kept = connection.execute("SELECT value FROM counter WHERE key = ?", (SPOOL_LAST,)).fetchone()
    return max(last or 0, kept[0] if kept else 0)


def _meta(rows: Sequence[tuple[str, str]]) -> dict[MetaKey, str]:
    """Known facts; one that only a newer agent knows stays in the file for it."""
    names = {key.value: key for key in MetaKey}
    return {names[key]: value for key, value in rows if key in names}


def _lease(row: tuple[Any, ...]) -> LeaseRow:
    *_, state, _, _ = row
    return replace(LeaseRow(*row), state=LeaseState(state))


def _reservation(row: tuple[Any, ...]) -> ReservationRow:
    *_, judge = row
    return replace(ReservationRow(*row), judge=bool(judge))
