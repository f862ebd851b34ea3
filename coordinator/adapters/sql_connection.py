"""One connection to SQLite or PostgreSQL, its schema, and the writer's epoch (rule C_5)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    insert,
    make_url,
    update,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from coordinator.adapters.sql_schema import EPOCH, SETTING
from coordinator.records import SettingKey
from coordinator.recovery import Recovery
from shared.errors import LostLeadershipError, StoreError
from shared.file_lock import FileLock

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS: Final = 5_000
# Any fixed number will do, as long as nothing else in the database uses it.
_ADVISORY_LOCK: Final = 0x7469_6465_6761_7465
# A writer that fell off the network loses its lock after half a minute, not after two hours.
_KEEPALIVES: Final = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 4,
}
_IN_USE: Final = "another coordinator is the writer of this database; stop it, or wait for its end"


class WriterBusyError(StoreError):
    """Another coordinator is the one writer: to be waited for, or stopped."""


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
    try:
        held = FileLock(path.with_name(path.name + ".lock"), protects=path)
    except StoreError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise WriterBusyError(str(error)) from error
        raise
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


def make_reader(url: URL) -> Engine:
    """An engine for reading beside the writer; each transaction shows one moment of the books."""
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url, poolclass=NullPool, hide_parameters=True, isolation_level="REPEATABLE READ"
        )
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "connect", _set_up_reader)
    event.listen(engine, "begin", _begin_deferred)
    return engine


def _set_up_reader(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")


def _begin_deferred(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


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
        for name, value in _KEEPALIVES.items():
            cursor.execute(f"SET {name} = {value}")
        (held,) = cursor.execute("SELECT pg_try_advisory_lock(%s)", (_ADVISORY_LOCK,)).fetchone()
    connection.commit()
    if not held:
        connection.close()
        raise WriterBusyError(_IN_USE)


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


@dataclass(frozen=True)
class Mark:
    """How far the books had come, kept in a file outside the database (rule C_5)."""

    epoch: int = 0
    ledger_id: int = 0


def raise_epoch(connection: Connection, *, mark_file: Path | None, ledger_id: int) -> int:
    """Begin a new epoch in the open transaction; every earlier writer loses its right.

    If the database is behind the mark, it was restored from a backup, and a recovery begins in the
    same transaction: it cannot be forgotten by a crash.
    """
    before = _read_epoch(connection)
    known = read_mark(mark_file) if mark_file is not None else Mark()
    if before < known.epoch or ledger_id < known.ledger_id:
        reason = (
            f"the database is at epoch {before} and ledger row {ledger_id}, but {mark_file} says "
            f"epoch {known.epoch} and row {known.ledger_id}: it was restored from a backup"
        )
        begin_recovery(connection, reason=reason)
    epoch = max(before, known.epoch) + 1
    connection.execute(update(EPOCH).values(epoch=epoch))
    return epoch


def begin_recovery(connection: Connection, *, reason: str) -> None:
    """Let the next start lend nothing before everybody was heard (rule C_5)."""
    key = SettingKey.RECOVERY.value
    connection.execute(delete(SETTING).where(SETTING.c.key == key))
    connection.execute(insert(SETTING).values(key=key, value=Recovery(reason).to_json()))


def check_epoch(connection: Connection, *, epoch: int) -> None:
    """Refuse to write once another process has become the writer, and keep it so until commit."""
    _compare_epoch(_read_epoch(connection), epoch=epoch)


def check_not_deposed(url: URL, *, epoch: int) -> None:
    """Tell who holds the lock while our session is lost: the next writer, or still that session.

    The server may take it for alive for a while; that passes.

    Raises
    ------
    LostLeadershipError
        If another process has become the writer.
    """
    with make_reader(url).connect() as reader:
        _compare_epoch(_read_epoch(reader, kept=False), epoch=epoch)


def _compare_epoch(now: int, *, epoch: int) -> None:
    if now != epoch:
        raise LostLeadershipError(
            f"another coordinator took over: the database is at epoch {now}, this process began "
            f"at {epoch}; nothing was written. Stop this one"
        )


def _read_epoch(connection: Connection, *, kept: bool = True) -> int:
    """The epoch, which nobody raises before the end of the transaction if it is to be kept."""
    locked = " FOR UPDATE" if kept and connection.dialect.name == "postgresql" else ""
    found = connection.exec_driver_sql(f"SELECT epoch FROM epoch{locked}")  # noqa: S608
    epoch: int | None = found.scalar()
    if epoch is None:
        raise StoreError("the database has lost its epoch row; restore a backup")
    return epoch


def read_mark(path: Path) -> Mark:
    """How far the books had come; nowhere, if nobody has noted it yet.

    Raises
    ------
    StoreError
        If the file holds anything else: that might have been a higher mark.
    """
    try:
        numbers = [int(word) for word in path.read_text(encoding="ascii").split()]
        return Mark(*numbers)
    except FileNotFoundError:
        return Mark()
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(
            f"cannot read how far the books had come from {path}: {error}; it holds two whole "
            "numbers, the epoch and the last ledger row"
        ) from error


def write_mark(path: Path, mark: Mark) -> None:
    """Keep outside the database how far it has come, durably."""
    draft = path.with_name(path.name + ".new")
    try:
        with draft.open("w", encoding="ascii") as file:
            file.write(f"{mark.epoch} {mark.ledger_id}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot write the epoch to {path}: {error.strerror}; make its folder writable"
        ) from error
