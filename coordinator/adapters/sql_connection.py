"""One connection to SQLite or PostgreSQL, its schema, and the writer's epoch (rule C_5)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, update
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from coordinator.adapters.sql_schema import EPOCH
from shared.errors import LostLeadershipError, StoreError
from shared.file_lock import FileLock

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS: Final = 5_000
# Any fixed number will do, as long as nothing else in the database uses it.
_ADVISORY_LOCK: Final = 0x7469_6465_6761_7465
_IN_USE: Final = "another coordinator is the writer of this database; stop it, or wait for its end"


def parse_url(text: str) -> URL:
    """A database's URL; the psycopg 3 driver is chosen for PostgreSQL.

    Raises
    ------
    StoreError
        If it is none, or of a database that is not supported. Its text is not repeated, as it
        may hold a password.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise StoreError(
            "the database's URL cannot be parsed; it looks like sqlite:///path or "
            "postgresql://role@host/name"
        ) from error
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"databases of kind {backend} are not supported; use sqlite or postgresql")
    return url.set(drivername="sqlite+pysqlite")


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite database; None for PostgreSQL and for a database in memory."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def lock_file(path: Path) -> FileLock:
    """The exclusive right to write a SQLite database; the file is made private on the way."""
    held = FileLock(path.with_name(path.name + ".lock"), protects=path)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        held.release()
        raise StoreError(
            f"cannot open the database {path}: {error.strerror}; make it writable"
        ) from error
    return held


def make_engine(url: URL) -> Engine:
    """An engine whose every connection is set up for durable commits by one writer."""
    if url.get_backend_name() == "postgresql":
        engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
        event.listen(engine, "connect", _become_writer)
        return engine
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions by itself, and not before DDL: `begin` does it for all.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _become_writer(connection: Any, _record: object) -> None:
    """Hold the lock as long as the session lives, also after the driver had to reconnect."""
    with connection.cursor() as cursor:
        (held,) = cursor.execute("SELECT pg_try_advisory_lock(%s)", (_ADVISORY_LOCK,)).fetchone()
    connection.commit()
    if not held:
        connection.close()
        raise StoreError(_IN_USE)


def migrate(connection: Connection) -> None:
    """Bring the schema to the newest version, inside the connection's open transaction.

    Raises
    ------
    StoreError
        If the database is of a version that this program does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    present = set(MigrationContext.configure(connection).get_current_heads())
    if not present <= known:
        raise StoreError(
            f"the database is of schema version {', '.join(sorted(present - known))}, this "
            f"coordinator knows up to {scripts.get_current_head()}; start the newer one again"
        )
    if present != set(scripts.get_heads()):
        command.upgrade(config, "head")


def raise_epoch(connection: Connection, *, epoch_file: Path | None) -> int:
    """Begin a new epoch in the open transaction; every earlier writer loses its right.

    Raises
    ------
    StoreError
        If the database is behind the epoch file: it was restored from a backup.
    """
    before = _read_epoch(connection)
    known = _read_epoch_file(epoch_file) if epoch_file is not None else 0
    if before < known:
        raise StoreError(
            f"the database is at epoch {before}, but {epoch_file} says {known}: it looks restored "
            "from a backup. Put the newer database back; if the backup is meant to be used, "
            f"remove {epoch_file} and start again: leases it does not know are booked as their "
            "devices present them"
        )
    connection.execute(update(EPOCH).values(epoch=before + 1))
    return before + 1


def check_epoch(connection: Connection, *, epoch: int) -> None:
    """Refuse to write once another process has become the writer, and keep it so until commit."""
    now = _read_epoch(connection)
    if now != epoch:
        raise LostLeadershipError(
            f"another coordinator took over: the database is at epoch {now}, this process began "
            f"at {epoch}; nothing was written. Stop this one"
        )


def _read_epoch(connection: Connection) -> int:
    epoch: int | None = connection.scalar(select(EPOCH.c.epoch).with_for_update())
    if epoch is None:
        raise StoreError("the database has lost its epoch row; restore a backup")
    return epoch


def _read_epoch_file(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii").strip()
        return int(text)
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot read the epoch from {path}: {error}; it holds one whole number"
        ) from error


def write_epoch_file(path: Path, *, epoch: int) -> None:
    """Keep the epoch outside the database, durably."""
    draft = path.with_name(path.name + ".new")
    try:
        with draft.open("w", encoding="ascii") as file:
            file.write(f"{epoch}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot write the epoch to {path}: {error.strerror}; make its folder writable"
        ) from error
