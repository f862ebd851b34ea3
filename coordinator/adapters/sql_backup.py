"""Backing the books up while the coordinator runs, and putting a backup in their place."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL

from coordinator.adapters.sql_connection import (
    Mark,
    begin_recovery,
    lock_file,
    make_engine,
    parse_url,
    read_mark,
    sqlite_path,
    write_mark,
)
from coordinator.adapters.sql_errors import translated
from coordinator.records import SettingKey
from coordinator.recovery import Recovery
from shared.errors import StoreError

_PAGES_PER_STEP = 1_000
Progress = Callable[[int, int], None]
"""Told how many pages of how many are copied."""


def backup(url: str, out: Path, *, progress: Progress) -> None:
    """Copy the books, complete and consistent, into a file; the coordinator may go on writing.

    Raises
    ------
    StoreError
        If the file exists already, or the database is not there or cannot be read.
    """
    parsed = parse_url(url)
    if out.exists():
        raise StoreError(f"{out} exists already; name a file that does not")
    path = sqlite_path(parsed)
    if path is not None and not path.exists():
        raise StoreError(
            f"there are no books at {path.absolute()}; name the coordinator's file with --config"
        )
    draft = out.with_name(out.name + ".part")
    try:
        if path is None:
            _run(["pg_dump", "--format=custom", f"--file={draft}"], url=parsed)
        else:
            _copy_sqlite(path, draft, progress=progress)
        draft.replace(out)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"cannot back {parsed.render_as_string()} up: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def restore(url: str, source: Path, *, mark_file: Path, progress: Progress) -> None:
    """Put a backup in the place of the books, while no coordinator runs.

    The coordinator begins with a recovery: what was lent after the backup is known to the devices
    alone (rule C_5). The restored books say so themselves, as a standby elsewhere has a mark of its
    own; the mark outside the database rises too, before anything changes.

    Raises
    ------
    StoreError
        If a coordinator is running, or the file is no backup.
    """
    parsed = parse_url(url)
    if not source.is_file():
        raise StoreError(f"there is no file {source}")
    path = sqlite_path(parsed)
    if path is None:
        with translated("restore"), make_engine(parsed).connect() as writer:  # holds its lock
            _raise_mark(mark_file)
            command = ["pg_restore", "--clean", "--if-exists", "--single-transaction"]
            _run([*command, "--no-owner", str(source)], url=parsed, database_option=True)
            with writer.begin():
                begin_recovery(writer, reason=_reason(source))
        return
    held = lock_file(path)
    try:
        _check_sqlite(source)
        draft = path.with_name(path.name + ".part")
        _copy_sqlite(source, draft, progress=progress)
        _begin_sqlite_recovery(draft, reason=_reason(source))
        _raise_mark(mark_file)
        _put_in_place(draft, path)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"cannot restore {source}: {error}") from error
    finally:
        held.release()


def _reason(source: Path) -> str:
    return f"the database was restored from a backup, {source.name}"


def _begin_sqlite_recovery(path: Path, *, reason: str) -> None:
    """As `begin_recovery`, in a file that is not in its place yet."""
    row = (SettingKey.RECOVERY.value, Recovery(reason).to_json())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?, ?)", row)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _put_in_place(draft: Path, path: Path) -> None:
    """New books for old ones. The old log must never lie beside the new file: SQLite would write
    the one into the other. So for a moment there are no books at all.
    """
    aside = path.with_name(path.name + ".replaced")
    for suffix in ("", "-wal"):
        old = path.with_name(path.name + suffix)
        if old.exists():
            old.replace(aside.with_name(aside.name + suffix))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    draft.replace(path)
    for suffix in ("", "-wal"):
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)


def _raise_mark(mark_file: Path) -> None:
    """Before anything changes: the next start knows that something did."""
    known = read_mark(mark_file)
    write_mark(mark_file, Mark(known.epoch + 1, known.ledger_id))


def _copy_sqlite(source: Path, target: Path, *, progress: Progress) -> None:
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as read,
        closing(sqlite3.connect(target)) as written,
    ):
        read.backup(
            written,
            pages=_PAGES_PER_STEP,
            progress=lambda _, left, total: progress(total - left, total),
        )
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _check_sqlite(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT epoch FROM epoch").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path} is no backup of a coordinator's books: {error}") from error
    if verdict != "ok":
        raise StoreError(f"{path} is damaged: {verdict}")


def _run(command: list[str], *, url: URL, database_option: bool = False) -> None:
    """Run one of PostgreSQL's programs; the password goes through the environment."""
    program = shutil.which(command[0])
    if program is None:
        raise StoreError(f"{command[0]} is not installed; it comes with PostgreSQL's client")
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    place = [f"--dbname={plain}"] if database_option else [plain]
    environment = {**os.environ}
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    done = subprocess.run(
        [program, *command[1:], *place],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StoreError(f"{command[0]} failed: {done.stderr.strip()}")
