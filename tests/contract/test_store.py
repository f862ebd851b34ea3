"""`StoreSuite` on memory, SQLite and PostgreSQL, and what is particular to each database."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from coordinator.adapters.sql_connection import WriterBusyError, make_engine, migrate, parse_url
from coordinator.adapters.sql_schema import METADATA
from coordinator.adapters.sql_store import SqlStore
from coordinator.ports import Store
from coordinator.records import SettingKey, Snapshot
from shared.errors import LostLeadershipError, StoreError
from shared.wire import encode_run
from tests.contract.hostile_suite import HostileSuite
from tests.contract.store_suite import (
    WINDOW,
    StoreBench,
    StoreSuite,
    booked,
    graded,
    ledger_row,
)
from tests.fakes.memory_store import MemoryDatabase, MemoryStore
from tests.fakes.postgres_server import postgres_programs, running_postgres


class MemoryBench(StoreBench):
    """A database in memory."""

    def __init__(self) -> None:
        self._database = MemoryDatabase()

    def store(self) -> Store:
        return MemoryStore(self._database)

    def depose(self) -> None:
        self._database.epoch += 1


class SqlBench(StoreBench):
    """A database behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stores: list[SqlStore] = []

    def store(self) -> SqlStore:
        store = SqlStore(self.url)
        self._stores.append(store)
        return store

    def depose(self) -> None:
        self.execute("UPDATE epoch SET epoch = epoch + 1")

    def engine(self) -> Engine:
        """A way to the database past the store."""
        url = make_url(self.url)
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        return create_engine(url, poolclass=NullPool)

    def execute(self, *statements: str) -> None:
        """Change the database behind the store's back."""
        with self.engine().begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def empty(self) -> None:
        """Leave what the migrations leave."""
        tables = [table for table in METADATA.tables if table != "epoch"]
        deletes = [f"DELETE FROM {table}" for table in tables]
        self.execute(*deletes, "UPDATE epoch SET epoch = 0")

    def close(self) -> None:
        """Let go of every store that was made."""
        for store in self._stores:
            store.close()


class TestMemoryStore(StoreSuite):
    """The fake keeps the contract that the real stores keep."""

    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


class SqlSuite(StoreSuite, HostileSuite):
    """What both databases must do besides."""

    def test_the_migrations_lead_to_the_declared_schema(self, bench: SqlBench) -> None:
        """The tables that the queries are written for are those that the migrations make."""
        bench.store().open()
        with bench.engine().connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert [] == compare_metadata(context, METADATA)

    def test_outcomes_that_came_together_are_kept_as_they_came(self, bench: SqlBench) -> None:
        """Once, and as long as one of them is left; grades and other runs may lie in between."""
        store = bench.store()
        store.open()
        apart = [booked(number) for number in (1, 2, 3, 5, 6, 7)]
        run = encode_run([each.outcome for each in apart[2:]])
        came = [each._replace(run=run, place=at) for at, each in enumerate(apart[2:])]
        store.commit([*apart[:2], *came[:1], graded(4, request=1), *came[1:3]])
        store.commit([came[3], booked(8), Snapshot(8, 1, 1, "{}")])
        found = [record.outcome for record in store.decisions(limit=9, after=0)]
        assert [*apart, booked(8)] == found
        kept = "SELECT position FROM outcome_run ORDER BY position"
        for upto, left in ((0, [1, 3, 7, 8]), (1, [1, 3, 7, 8]), (5, [3, 7, 8]), (8, [])):
            store.prune(position=upto, before_unix_ms=0, limit=9)
            with bench.engine().connect() as connection:
                assert left == list(connection.scalars(text(kept)))

    def test_a_newer_schema_must_not_be_opened(self, bench: SqlBench) -> None:
        """An older program leaves a newer database alone and names the version."""
        store = bench.store()
        store.open()
        store.close()
        bench.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(StoreError, match="9999"):
            bench.store().open()
        bench.execute("UPDATE alembic_version SET version_num = '0001'")

    def test_opening_again_begins_a_new_epoch(self, bench: SqlBench) -> None:
        """Each writer has an epoch of its own, above all earlier ones."""
        first, second = bench.store(), bench.store()
        first.open()
        assert 1 == first.epoch
        first.close()
        second.open()
        assert 2 == second.epoch

    def test_a_restored_backup_is_noticed_by_the_mark_file(
        self, bench: SqlBench, tmp_path: Path
    ) -> None:
        """A database behind the file begins a recovery that no crash can make it forget."""
        mark_file = tmp_path / "epoch"
        for _ in range(3):
            store = SqlStore(bench.url, mark_file=mark_file)
            store.open()
            assert {} == store.load().settings
            store.close()
        assert "3 0\n" == mark_file.read_text()
        bench.execute("UPDATE epoch SET epoch = 1")
        for epoch in (4, 5):
            store = SqlStore(bench.url, mark_file=mark_file)
            store.open()
            assert epoch == store.epoch
            said = store.load().settings[SettingKey.RECOVERY]
            assert "epoch 1 " in said
            assert "says epoch 3 " in said
            store.close()

    def test_a_backup_of_the_same_epoch_is_noticed_by_its_ledger(
        self, bench: SqlBench, tmp_path: Path
    ) -> None:
        """Every slot notes how far the ledger has come."""
        mark_file = tmp_path / "epoch"
        store = SqlStore(bench.url, mark_file=mark_file)
        store.open()
        store.commit([ledger_row(1), ledger_row(2), Snapshot(0, 0, 1, "{}")])
        store.close()
        bench.execute("DELETE FROM ledger WHERE id = 2")
        store = SqlStore(bench.url, mark_file=mark_file)
        store.open()
        assert "ledger row 1, " in store.load().settings[SettingKey.RECOVERY]
        store.close()

    def test_a_damaged_mark_file_is_not_taken_for_none(
        self, bench: SqlBench, tmp_path: Path
    ) -> None:
        """What cannot be read might have been a higher epoch."""
        mark_file = tmp_path / "epoch"
        mark_file.write_text("three")
        with pytest.raises(StoreError, match="three"):
            SqlStore(bench.url, mark_file=mark_file).open()

    def test_a_refused_store_can_be_opened_later(self, bench: SqlBench, tmp_path: Path) -> None:
        """A failed open holds nothing back."""
        mark_file = tmp_path / "epoch"
        mark_file.write_text("nine")
        store = SqlStore(bench.url, mark_file=mark_file)
        with pytest.raises(StoreError):
            store.open()
        mark_file.unlink()
        store.open()
        store.commit([ledger_row(1)])
        store.close()


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database of the newest schema, to be copied: migrating takes its time."""
    path = tmp_path_factory.mktemp("migrated") / "books.db"
    bench = SqlBench(f"sqlite:///{path}")
    bench.store().open()
    bench.close()
    bench.empty()
    return path


class TestSqliteStore(SqlSuite):
    """SQLite in write-ahead mode."""

    @pytest.fixture
    def bench(self, tmp_path: Path, migrated: Path) -> Iterator[SqlBench]:
        shutil.copy(migrated, tmp_path)
        bench = SqlBench(f"sqlite:///{tmp_path}/books.db")
        yield bench
        bench.close()

    def test_commits_outlive_a_kill(self, tmp_path: Path) -> None:
        """What was committed is there after the process was killed, and the lock is free."""
        url = f"sqlite:///{tmp_path}/killed.db"
        script = (
            "import os, signal\n"
            "from coordinator.adapters.sql_store import SqlStore\n"
            "from tests.contract.store_suite import booked, ledger_row\n"
            f"store = SqlStore({url!r})\n"
            "store.open()\n"
            "store.commit([ledger_row(1), booked(1)])\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
        assert -9 == ended.returncode
        store = SqlStore(url)
        store.open()
        assert (booked(1),) == store.load().learned_since
        assert 1 == store.load().ledger_id_max
        store.close()

    def test_commits_wait_for_the_disk(self, bench: SqlBench) -> None:
        """An ack follows a durable commit (P5): write-ahead log, synced at every commit."""
        store = bench.store()
        store.open()
        connection = store._connection
        assert connection is not None
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        full = connection.exec_driver_sql("PRAGMA synchronous").scalar()
        connection.rollback()
        assert ("wal", 2) == (journal, full)

    def test_a_new_file_is_private(self, tmp_path: Path) -> None:
        """Digests of credentials are for the service's user alone."""
        store = SqlStore(f"sqlite:///{tmp_path}/new.db")
        store.open()
        store.close()
        assert 0o600 == (tmp_path / "new.db").stat().st_mode & 0o777

    def test_a_full_disk_names_the_remedy(self, bench: SqlBench) -> None:
        """The error says what to free; the commit has no effect and a later one works."""
        store = bench.store()
        store.open()
        assert store._connection is not None
        store._connection.exec_driver_sql("PRAGMA max_page_count = 1")
        store._connection.commit()
        many = [booked(number) for number in range(1, 400)]
        with pytest.raises(StoreError, match="disk is full"):
            store.commit([*many, WINDOW])
        store._connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        store._connection.commit()
        assert 0 == store.load().position_max
        store.commit(many)
        assert 399 == store.load().position_max

    def test_a_file_of_another_kind_names_the_remedy(self, bench: SqlBench, tmp_path: Path) -> None:
        """A damaged file is reported, not replaced."""
        (tmp_path / "books.db").write_bytes(b"no database at all" * 100)
        with pytest.raises(StoreError, match="restore a backup"):
            bench.store().open()
        assert (tmp_path / "books.db").read_bytes().startswith(b"no database")

    def test_a_missing_folder_names_the_remedy(self, tmp_path: Path) -> None:
        """The folder is the operator's to make."""
        with pytest.raises(StoreError, match="must exist"):
            SqlStore(f"sqlite:///{tmp_path}/none/books.db").open()

    def test_a_database_held_by_another_program_names_the_remedy(
        self, bench: SqlBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A tool that keeps a transaction open is named as the cause."""
        monkeypatch.setattr("coordinator.adapters.sql_connection._BUSY_TIMEOUT_MS", 1)
        store = bench.store()
        store.open()
        other = sqlite3.connect(tmp_path / "books.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program"):
            store.commit([ledger_row(1)])
        other.execute("ROLLBACK")
        other.close()
        store.commit([ledger_row(1)])

    def test_the_migration_runs_in_one_transaction(self, tmp_path: Path) -> None:
        """A migration that is not committed leaves an empty database behind."""
        engine = SqlStore(f"sqlite:///{tmp_path}/half.db")._engine
        with engine.connect() as connection:
            transaction = connection.begin()
            migrate(connection)
            transaction.rollback()
            assert 0 == connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar()


class TestUrls:
    """What a URL may be."""

    def test_an_unsupported_database_is_refused(self) -> None:
        """The kinds that work are named."""
        with pytest.raises(StoreError, match="sqlite or postgresql"):
            SqlStore("oracle://scott:tiger@db/x")

    def test_a_password_is_never_repeated(self) -> None:
        """Errors about a URL or a connection hold no credentials."""
        for url in ("not a url hunter2", "postgresql://ada:hunter2@/x?host=/nonexistent"):
            with pytest.raises(StoreError) as raised:
                SqlStore(url).open()
            assert "hunter2" not in str(raised.value)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server: the one that the environment names, or a private one."""
    named = os.environ.get("TIDEGATE_TEST_POSTGRES_URL")
    if named:
        yield named
        return
    programs = postgres_programs()
    if programs is None:
        pytest.skip(
            "no PostgreSQL: set TIDEGATE_TEST_POSTGRES_URL, or install the server's programs under "
            "/usr/lib/postgresql"
        )
    with running_postgres(programs) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a database of our own on that server."""
    name = f"tidegate_test_{os.getpid()}"
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    server = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.mark.postgres
class TestPostgresStore(SqlSuite):
    """PostgreSQL through psycopg."""

    @pytest.fixture
    def bench(self, postgres_database: str) -> Iterator[SqlBench]:
        bench = SqlBench(postgres_database)
        yield bench
        bench.close()
        bench.empty()

    def test_a_lost_connection_is_reported_and_then_replaced(self, bench: SqlBench) -> None:
        """A commit on a dead session fails; the next one has a new session and the lock."""
        store = bench.store()
        store.open()
        bench.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        with pytest.raises(StoreError):
            store.commit([ledger_row(1)])
        store.commit([ledger_row(1)])
        with pytest.raises(StoreError, match="another coordinator"):
            bench.store().open()

    def test_a_lock_that_nobody_writes_by_is_waited_for(self, bench: SqlBench) -> None:
        """It may be that of the session that was lost, which the server takes for alive."""
        store = bench.store()
        store.open()
        bench.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        with make_engine(parse_url(bench.url)).connect():  # it has the lock, and no epoch
            with pytest.raises(StoreError):
                store.commit([ledger_row(1)])
            with pytest.raises(WriterBusyError):
                store.commit([ledger_row(1)])
        store.commit([ledger_row(1)])

    def test_a_session_lost_to_a_rival_must_not_write(self, bench: SqlBench) -> None:
        """Whoever lost the lock with the session has lost the writer's role."""
        store, rival = bench.store(), bench.store()
        store.open()
        bench.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        rival.open()
        with pytest.raises(StoreError):
            store.commit([ledger_row(1)])
        with pytest.raises(LostLeadershipError):  # though the rival has the lock
            store.commit([ledger_row(1)])
        rival.close()
        with pytest.raises(LostLeadershipError):
            store.commit([ledger_row(1)])
