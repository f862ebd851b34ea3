"""The two threads behind the books: one writes and commits groups, one waits for the disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from edge_agent.adapters.sqlite_books_file import store_error, wal_path
from edge_agent.adapters.sqlite_books_group import Change, Group, Standing, Statement
from edge_agent.ports import Told, nobody
from shared.errors import BooksFullError, StoreError

_GROUP_MAX: Final = 1_024
_GROUPS_PER_CHECKPOINT: Final = 200
_BEGIN: Final[Statement] = ("BEGIN IMMEDIATE", ())
_COMMIT: Final[Statement] = ("COMMIT", ())
# What one commit's own values can do wrong, unlike a full disk or a damaged file.
_VALUE_ERRORS: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)


@dataclass(slots=True)
class Job:
    """One commit on its way; `error` is set when it failed."""

    change: Change
    sync: bool
    done: asyncio.Future[None]
    after_full: bool = False
    told: Told = nobody
    error: Exception | None = None


def sync_file(fd: int) -> None:
    """Have the disk itself hold what was written to a file."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - the constant exists on macOS alone

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def resolve(jobs: Iterable[Job]) -> None:
    """Wake the commits' callers, each in the event loop it waits in."""
    for loop, mine in groupby(jobs, key=_loop):
        if not loop.is_closed():  # else nobody is left to be told
            loop.call_soon_threadsafe(_tell, list(mine))


def _loop(job: Job) -> asyncio.AbstractEventLoop:
    return job.done.get_loop()


def _tell(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.told(job.error)
        if job.done.done():  # its caller was cancelled; the commit stands all the same
            continue
        if job.error is None:
            job.done.set_result(None)
        else:
            job.done.set_exception(job.error)


class Syncer:
    """Syncs the write-ahead log and runs checkpoints, so that no commit waits for the disk.

    SQLite's `synchronous = FULL` syncs the log inside the commit, and every commit behind it
    would wait (rule L_2 forbids that). Syncing the same file after the commit gives the same
    promise to those who asked, and to all commits before theirs.

    Parameters
    ----------
    sync : callable
        Syncs the file of a descriptor; raises OSError.
    """

    def __init__(
        self, path: Path, *, connection: sqlite3.Connection, sync: Callable[[int], None]
    ) -> None:
        self._path = path
        self._connection = connection
        self._sync = sync
        self._queue: SimpleQueue[Sequence[Job] | None] = SimpleQueue()
        self._checkpoint_wanted = threading.Event()
        self._sync_failed: OSError | None = None
        self._checkpoint_failed: sqlite3.Error | None = None
        self._thread = threading.Thread(target=self._run, name="books-sync", daemon=True)
        self._thread.start()

    def sync_then_resolve(self, jobs: Sequence[Job]) -> None:
        """Sync what is committed, then wake these callers."""
        self._queue.put(jobs)

    def checkpoint(self) -> None:
        """Move committed pages from the log into the database, soon."""
        self._checkpoint_wanted.set()
        self._queue.put(())

    def stop(self) -> None:
        """Finish what was asked for and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            jobs, stopped = _drain(self._queue)
            waiting = [job for batch in jobs for job in batch]
            if waiting:
                self._sync_log(waiting)
            if self._checkpoint_wanted.is_set():
                self._checkpoint_wanted.clear()
                self._run_checkpoint()
            if stopped:
                return

    def raise_checkpoint_failure(self) -> None:
        """Raise what stopped the last checkpoint, once, where a commit can still be refused."""
        failed, self._checkpoint_failed = self._checkpoint_failed, None
        if failed is not None:
            raise failed

    def _sync_log(self, jobs: Sequence[Job]) -> None:
        """Sync once for all.

        After a failure the system may have dropped what it could not write, and a second try
        would succeed without it: from then on every sync fails.
        """
        if self._sync_failed is None:
            try:
                self._sync_once()
            except OSError as error:
                self._sync_failed = error
        if self._sync_failed is not None:
            for job in jobs:
                job.error = StoreError(
                    f"committed to {self._path}, but the disk could not be synced: "
                    f"{self._sync_failed}; restart the agent when the disk is well"
                )
        resolve(jobs)

    def _sync_once(self) -> None:
        fd = os.open(wal_path(self._path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._sync(fd)
        finally:
            os.close(fd)

    def _run_checkpoint(self) -> None:
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            self._checkpoint_failed = error


class Writer:
    """Applies commits in order, a group of them in each transaction.

    Parameters
    ----------
    connection : sqlite3.Connection
        In write-ahead mode, used by this thread alone from now on.
    standing : Standing
        The books as loaded.
    """

    def __init__(
        self, path: Path, *, connection: sqlite3.Connection, standing: Standing, syncer: Syncer
    ) -> None:
        self._path = path
        self._connection = connection
        self._standing = standing
        self._syncer = syncer
        self._groups = 0
        self._full: BooksFullError | None = None
        self._queue: SimpleQueue[Sequence[Job] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="books-write", daemon=True)
        self._thread.start()

    def put(self, jobs: Sequence[Job]) -> None:
        """Queue commits; their futures are resolved when they are in the books, or failed."""
        self._queue.put(jobs)

    def stop(self) -> None:
        """Finish what is queued and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            batches, stopped = _drain(self._queue)
            jobs = [job for batch in batches for job in batch]
            for start in range(0, len(jobs), _GROUP_MAX):
                self._commit(jobs[start : start + _GROUP_MAX])
            if stopped:
                return

    def _commit(self, jobs: Sequence[Job]) -> None:
        start = next((at for at, job in enumerate(jobs) if job.after_full), len(jobs))
        if start:
            self._commit_group(jobs[:start])
        if start < len(jobs):
            self._full = None
            self._commit_group(jobs[start:])

    def _commit_group(self, jobs: Sequence[Job]) -> None:
        try:
            if self._full is not None:
                raise self._full
            self._syncer.raise_checkpoint_failure()
            try:
                self._commit_together(jobs)
            except _VALUE_ERRORS:
                self._roll_back()
                self._commit_one_by_one(jobs)
        except Exception as error:  # noqa: BLE001 - handed to every caller, the thread lives on
            self._roll_back()
            failed = error
            if isinstance(error, sqlite3.Error):
                failed = store_error(error, path=self._path, operation="commit")
            if isinstance(failed, BooksFullError):
                self._full = failed
            for job in jobs:
                job.error = job.error or failed
        self._hand_on(jobs)

    def _hand_on(self, jobs: Sequence[Job]) -> None:
        to_sync = [job for job in jobs if job.sync and job.error is None]
        if to_sync:
            self._syncer.sync_then_resolve(to_sync)
        resolve([job for job in jobs if not job.sync or job.error is not None])
        self._groups += 1
        if self._groups % _GROUPS_PER_CHECKPOINT == 0:
            self._syncer.checkpoint()

    def _commit_together(self, jobs: Sequence[Job]) -> None:
        """One transaction with the net change of all; a misplaced commit fails alone."""
        group = Group(self._standing)
        for job in jobs:
            job.error = _try_add(group, job)
        statements = group.statements()
        if len(statements) > 1:  # one is a transaction by itself
            statements = [_BEGIN, *statements, _COMMIT]
        for statement in statements:
            self._connection.execute(*statement)
        group.accept()

    def _commit_one_by_one(self, jobs: Sequence[Job]) -> None:
        """One transaction with a savepoint per commit, after a value that SQLite refused."""
        standing = Standing(self._standing.spool_last, set(self._standing.reserved))
        execute = self._connection.execute
        execute(*_BEGIN)
        for job in jobs:
            group = Group(standing)
            job.error = _try_add(group, job)
            if job.error is not None:
                continue
            execute("SAVEPOINT one")
            try:
                for statement in group.statements():
                    execute(*statement)
                group.accept()
            except _VALUE_ERRORS as error:
                execute("ROLLBACK TO one")
                job.error = store_error(error, path=self._path, operation="commit these values")
            execute("RELEASE one")
        execute(*_COMMIT)
        self._standing.spool_last = standing.spool_last
        self._standing.reserved = standing.reserved

    def _roll_back(self) -> None:
        # SQLite rolls back by itself when the disk is full.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _try_add(group: Group, job: Job) -> Exception | None:
    try:
        group.add(job.change)
    except Exception as error:  # noqa: BLE001 - fails its own commit, not its neighbours
        return error
    return None


def _drain(queue: SimpleQueue[Sequence[Job] | None]) -> tuple[list[Sequence[Job]], bool]:
    """Wait for work and take all there is; whether the end was asked for."""
    batches: list[Sequence[Job]] = []
    while not batches or not queue.empty():  # nobody else takes anything out
        item = queue.get()
        if item is None:
            return batches, True
        batches.append(item)
    return batches, False
