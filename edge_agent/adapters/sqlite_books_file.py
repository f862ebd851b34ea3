"""The books' file: created whole or not at all, checked when opened, set aside when corrupt."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from shared.clock import Clock
from shared.errors import BooksCorruptError, BooksFullError, StoreError
from shared.file_lock import FileLock

SCHEMA_VERSION: Final = 2
# Checkpoints run in the background; a writer does one by itself only if they fall this far behind.
_CHECKPOINT_PAGES: Final = 4_096
_JOURNAL_BYTES_KEPT: Final = 16 * 1024 * 1024

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE counter (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE lease (
    number INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    window_id INTEGER NOT NULL,
    amount_nanos INTEGER NOT NULL,
    price_version INTEGER NOT NULL,
    expires_boot_ms INTEGER NOT NULL,
    settled_nanos INTEGER NOT NULL,
    watermark_nanos INTEGER NOT NULL,
    state TEXT NOT NULL,
    closing_since_boot_ms INTEGER NOT NULL,
    close_reason TEXT NOT NULL
) STRICT;
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,
    arm TEXT NOT NULL,
    lease_number INTEGER NOT NULL,
    amount_nanos INTEGER NOT NULL,
    task_class TEXT NOT NULL,
    arrived_unix_ms INTEGER NOT NULL,
    key_tag TEXT NOT NULL,
    key_window INTEGER NOT NULL,
    judge INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE key_budget (
    tag TEXT PRIMARY KEY,
    start_unix_ms INTEGER NOT NULL,
    end_unix_ms INTEGER NOT NULL,
    settled_nanos INTEGER NOT NULL,
    watermark_nanos INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE spool (
    sequence INTEGER PRIMARY KEY,
    request_id TEXT,
    kind TEXT NOT NULL,
    record BLOB NOT NULL,
    checksum INTEGER
) STRICT;
CREATE INDEX spool_request ON spool (request_id) WHERE request_id IS NOT NULL;
CREATE TABLE document (key TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""

_UPGRADES: Final = ("ALTER TABLE spool ADD COLUMN checksum INTEGER",)
"""What takes books of version 1 to 2, and so on."""

_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def store_error(error: Exception, *, path: Path, operation: str) -> StoreError:
    """What an error of SQLite means for the books (rule O_3)."""
    code = getattr(error, "sqlite_errorcode", 0)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or code in _FULL or code & 0xFF in _FULL:
        return BooksFullError(
            f"cannot {operation}: the disk of {path} is full; free some space, the agent goes on "
            "by itself"
        )
    if code & 0xFF in _CORRUPT:
        return corrupt(path, str(error))
    return StoreError(f"cannot {operation} in {path}: {error}")


def corrupt(path: Path, problem: str) -> BooksCorruptError:
    """Corrupt books are kept as evidence, never reset silently."""
    return BooksCorruptError(
        f"the books {path} cannot be trusted: {problem}; set them aside with "
        "SqliteBooks.set_aside and start with new ones"
    )


def lock(path: Path) -> FileLock:
    """The exclusive right to these books (rule D_1)."""
    return FileLock(path.with_name(path.name + ".lock"), protects=path)


def wal_path(path: Path) -> Path:
    """SQLite's write-ahead log beside its database."""
    return path.with_name(path.name + "-wal")


def connect(path: Path) -> sqlite3.Connection:
    """A connection in write-ahead mode that commits without waiting for the disk.

    The log is synced by `Syncer` instead, so that no request waits for it (rule L_2).
    """
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=10.0
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES_KEPT}")
    return connection


def prepare(path: Path) -> None:
    """Create the books if there are none, else check them.

    Raises
    ------
    BooksCorruptError
        If the file is damaged, empty, or gone while its log is still there.
    StoreError
        If it is of a newer version, or cannot be opened.
    """
    try:
        if path.exists():
            _check(path)
        elif wal_path(path).exists():
            raise corrupt(path, f"it is gone while its log {wal_path(path)} is still there")
        else:
            _create(path)
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path=path, operation="open the books") from error


def _create(path: Path) -> None:
    """Make new books under another name first: a crash in the middle leaves none."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        # Nobody relies on the draft before it is synced as a whole.
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    sync_path(draft)
    draft.rename(path)
    sync_path(path.parent)


def _check(path: Path) -> None:
    """Open existing books: right version, or one that can be made so, and right structure."""
    if path.stat().st_size == 0:
        raise corrupt(path, "the file is empty")
    path.chmod(0o600)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the books {path} are of version {version}, this agent knows up to version "
                f"{SCHEMA_VERSION}; start the newer agent again"
            )
        if version < 1:
            raise corrupt(path, "it is no books file of this agent")
        (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise corrupt(path, result)
        for number, statement in enumerate(_UPGRADES[version - 1 :], version + 1):
            connection.executescript(f"BEGIN; {statement}; PRAGMA user_version = {number}; COMMIT")
    finally:
        connection.close()


def sync_path(path: Path) -> None:
    """Make a file's contents, or a folder's new names, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def set_aside(path: Path, *, clock: Clock) -> Path:
    """Rename the books to `*.corrupt-<unix_ms>` and their log alike; the new name of the books.

    SQLite's own tools can still read them together under that name. The main file goes
    first: left without its log it would silently be an older state.
    """
    held = lock(path)
    try:
        stamp = clock.unix_ms()
        while path.with_name(f"{path.name}.corrupt-{stamp}").exists():
            stamp += 1
        for suffix in ("", "-wal", "-shm"):
            old = path.with_name(path.name + suffix)
            if old.exists():
                old.rename(path.with_name(f"{path.name}.corrupt-{stamp}{suffix}"))
        sync_path(path.parent)
    except OSError as error:
        raise store_error(error, path=path, operation="set the books aside") from error
    finally:
        held.release()
    return path.with_name(f"{path.name}.corrupt-{stamp}")
