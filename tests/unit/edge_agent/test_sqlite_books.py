"""The books' file: damage, locks, versions, full disks, kills and syncs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.adapters.sqlite_books_file import SCHEMA_VERSION
from edge_agent.books import (
    AppendSpool,
    BooksSnapshot,
    CompactSpool,
    MetaKey,
    PutLease,
    PutMeta,
    PutReservation,
)
from shared.clock import SystemClock
from shared.decision.types import Outcome, SpoolRecord, SpoolSummary
from shared.errors import BooksCorruptError, BooksFullError, StoreError
from tests.contract.books_suite import LEASE, RESERVATION, append, contents


class FixedClock(SystemClock):
    """A clock that stands."""

    def unix_ms(self) -> int:
        return 1_700_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the books are."""
    return tmp_path / "books.db"


@pytest.fixture
async def books(path: Path) -> AsyncIterator[SqliteBooks]:
    """Open, empty books."""
    books = SqliteBooks(path)
    yield books
    await books.close()


async def closed_books(path: Path, *, records: int = 3) -> None:
    """Books with some records that no process holds."""
    books = SqliteBooks(path)
    await books.commit([PutLease(LEASE), *(append(n) for n in range(1, records + 1))])
    await books.close()


def outcome_of(effect: AppendSpool) -> Outcome:
    """What a record tells of a request."""
    body = effect.record.body
    assert isinstance(body, Outcome)
    return body


class TestKill:
    """The end of the process by force."""

    def test_commits_survive_a_kill(self, path: Path) -> None:
        """What was acknowledged before `kill -9` is in the books, whole and in order."""
        script = (
            "import asyncio, sys\n"
            "from pathlib import Path\n"
            "from edge_agent.adapters.sqlite_books import SqliteBooks\n"
            "from edge_agent.books import PutLease\n"
            "from tests.contract.books_suite import LEASE, append\n"
            "async def main():\n"
            f"    books = SqliteBooks(Path({str(path)!r}))\n"
            "    await books.commit([PutLease(LEASE)])\n"
            "    for number in range(1, 10**9):\n"
            "        await books.commit([append(number)])\n"
            "        print(number, flush=True)\n"
            "asyncio.run(main())\n"
        )
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= 50:
                    process.send_signal(signal.SIGKILL)
                    break
            acknowledged = max([int(line), *(int(rest) for rest in process.stdout)])
        assert -signal.SIGKILL == process.returncode
        books = SqliteBooks(path)
        loaded = books.load()
        asyncio.run(books.close())
        assert (LEASE,) == loaded.leases
        assert 1 == loaded.spool_first
        assert acknowledged <= loaded.spool_last


class TestDamage:
    """Corrupt books are reported and set aside, never reset (rule O_3)."""

    def test_a_file_that_is_no_database_is_corrupt(self, path: Path) -> None:
        """The error says how to go on, and the file is left as it is."""
        path.write_bytes(b"these are no books" * 1_000)
        with pytest.raises(BooksCorruptError, match="set_aside"):
            SqliteBooks(path)
        assert path.read_bytes().startswith(b"these are no books")

    def test_a_damaged_page_is_noticed_when_the_books_are_opened(self, path: Path) -> None:
        """The structure is checked before anything is trusted."""
        asyncio.run(closed_books(path, records=500))
        content = bytearray(path.read_bytes())
        content[8 * 4096 : 12 * 4096] = b"\xa5" * (4 * 4096)
        path.write_bytes(content)
        with pytest.raises(BooksCorruptError):
            SqliteBooks(path)

    def test_an_empty_file_is_not_taken_for_new_books(self, path: Path) -> None:
        """New books appear whole; an empty file has lost what it held."""
        path.touch()
        with pytest.raises(BooksCorruptError, match="empty"):
            SqliteBooks(path)

    def test_a_log_without_its_books_is_corrupt(self, path: Path) -> None:
        """New books under an old log would take over its pages."""
        path.with_name("books.db-wal").write_bytes(b"left over")
        with pytest.raises(BooksCorruptError, match=r"books\.db-wal"):
            SqliteBooks(path)

    def test_another_programs_database_is_refused(self, path: Path) -> None:
        """A database without our version mark is not ours to write."""
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
        with pytest.raises(BooksCorruptError, match="no books file"):
            SqliteBooks(path)

    @pytest.mark.parametrize(
        "damage",
        [
            "record = x'ffff', checksum = NULL",
            "record = CAST(substr(record, 1, length(record) - 1) || x'01' AS BLOB)",
            "record = (SELECT record FROM spool WHERE sequence = 1), checksum = NULL",
        ],
        ids=["no record at all", "a byte of it", "another one's"],
    )
    async def test_a_damaged_record_stays_where_it_is_and_the_others_are_read(
        self, books: SqliteBooks, path: Path, damage: str
    ) -> None:
        """SQLite's own check passes; in its place comes a word that it cannot be read."""
        await books.commit([append(number) for number in (1, 2, 3)])
        found = sqlite3.connect(path)
        found.execute(f"UPDATE spool SET {damage} WHERE sequence = 2")
        found.commit()
        assert [("ok",)] == found.execute("PRAGMA quick_check").fetchall()
        (kept,) = found.execute("SELECT record FROM spool WHERE sequence = 2").fetchone()
        with capture_logs() as logs:
            first, second, third = await books.spooled(after=0, limit=9)
            await books.spooled(after=1, limit=9)
        assert (append(1).record, append(3).record) == (first, third)
        assert SpoolRecord(2, "", SpoolSummary(2, 2, (), (), unreadable=1)) == second
        assert [("record_unreadable", 2)] == [(e["event"], e["sequence"]) for e in logs]
        assert (None, None) == await books.find(outcome_of(append(2)).request_id)
        assert [(kept,)] == found.execute("SELECT record FROM spool WHERE sequence = 2").fetchall()
        found.close()

    async def test_a_damaged_summary_stands_for_all_that_it_stood_for(
        self, books: SqliteBooks, path: Path
    ) -> None:
        """From the record before it on."""
        await books.commit([append(number) for number in range(1, 6)])
        summary = SpoolRecord(4, "inc", SpoolSummary(2, 4, (), ()))
        await books.commit([CompactSpool(2, summary)])
        found = sqlite3.connect(path)
        found.execute("UPDATE spool SET record = x'ffff' WHERE sequence = 4")
        found.commit()
        found.close()
        lost = SpoolRecord(4, "", SpoolSummary(2, 4, (), (), unreadable=1))
        assert lost == (await books.spooled(after=0, limit=9))[1]
        assert lost == (await books.spooled(after=1, limit=9))[0]

    async def test_books_of_the_first_version_go_on(self, path: Path) -> None:
        """They have no checksums; what is written from now on has."""
        await closed_books(path, records=2)
        old = sqlite3.connect(path)
        old.execute("ALTER TABLE spool DROP COLUMN checksum")
        old.execute("PRAGMA user_version = 1")
        old.commit()
        old.close()
        books = SqliteBooks(path)
        await books.commit([append(3)])
        assert [append(n).record for n in (1, 2, 3)] == await books.spooled(after=0, limit=9)
        await books.close()
        again = SqliteBooks(path)
        assert 3 == again.load().spool_last
        await again.close()

    def test_corrupt_books_are_set_aside_with_their_log(self, path: Path) -> None:
        """The evidence keeps its bytes under a name with the time; new books can start."""
        path.write_bytes(b"damaged")
        path.with_name("books.db-wal").write_bytes(b"log")
        aside = SqliteBooks.set_aside(path, clock=FixedClock())
        assert path.with_name("books.db.corrupt-1700000000000") == aside
        assert b"damaged" == aside.read_bytes()
        assert b"log" == aside.with_name(aside.name + "-wal").read_bytes()
        books = SqliteBooks(path)
        assert BooksSnapshot() == contents(books)
        asyncio.run(books.close())

    def test_evidence_is_never_overwritten(self, path: Path) -> None:
        """Books that are set aside in the same millisecond get a name of their own."""
        for content in (b"first", b"second"):
            path.write_bytes(content)
            SqliteBooks.set_aside(path, clock=FixedClock())
        kept = sorted(path.parent.glob("*.corrupt-*"))
        assert [b"first", b"second"] == [file.read_bytes() for file in kept]

    async def test_books_in_use_must_not_be_set_aside(self, books: SqliteBooks, path: Path) -> None:
        """A running agent keeps its books."""
        with pytest.raises(StoreError, match="in use"):
            SqliteBooks.set_aside(path, clock=FixedClock())
        await books.commit([append(1)])


class TestPlace:
    """Books know when they are no longer where they were."""

    async def test_books_that_are_opened_again_are_where_they_were(self, tmp_path: Path) -> None:
        """Also after their folder was renamed."""
        folder, renamed = tmp_path / "old", tmp_path / "new"
        folder.mkdir()
        books = SqliteBooks(folder / "books.db")
        place = books.load().place
        await books.close()
        folder.rename(renamed)
        again = SqliteBooks(renamed / "books.db")
        assert place == again.load().place != ""
        await again.close()

    async def test_a_copied_folder_is_another_place(self, path: Path, tmp_path: Path) -> None:
        """Whatever the copy keeps: modes, owners, times."""
        books = SqliteBooks(path)
        await books.close()
        shutil.copytree(path.parent, tmp_path / "copy", copy_function=shutil.copy2)
        original, copy = SqliteBooks(path), SqliteBooks(tmp_path / "copy" / path.name)
        assert original.load().place != copy.load().place
        await original.close()
        await copy.close()


class TestHolder:
    """One process at a time, and the right one."""

    def test_another_process_is_locked_out_by_name(self, path: Path) -> None:
        """The second process gets an error with the path of the books (rule D_1)."""
        books = SqliteBooks(path)
        script = (
            "from pathlib import Path\n"
            "from edge_agent.adapters.sqlite_books import SqliteBooks\n"
            "from shared.errors import StoreError\n"
            "try:\n"
            f"    SqliteBooks(Path({str(path)!r}))\n"
            "except StoreError as error:\n"
            "    print(error)\n"
        )
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        asyncio.run(books.close())
        assert f"{path} is in use by another process" in ended.stdout

    def test_a_newer_version_must_not_be_opened(self, path: Path) -> None:
        """Both versions are named, and the books stay free for the newer agent."""
        asyncio.run(closed_books(path))
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 41}")
        connection.close()
        with pytest.raises(StoreError, match=f"version {SCHEMA_VERSION + 41}.*{SCHEMA_VERSION}"):
            SqliteBooks(path)
        with pytest.raises(StoreError, match="version"):
            SqliteBooks(path)

    async def test_the_files_are_private(self, books: SqliteBooks, path: Path) -> None:
        """The credential is for the agent's user alone."""
        await books.commit([PutMeta(MetaKey.CREDENTIAL, "secret")])
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert {"books.db", "books.db-wal", "books.db-shm", "books.db.lock"} == set(modes)
        assert {0o600} == set(modes.values())

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        """The folder is the operator's to make."""
        with pytest.raises(StoreError, match="none"):
            SqliteBooks(tmp_path / "none" / "books.db")

    def test_a_crash_while_the_books_are_made_leaves_none(self, path: Path) -> None:
        """An unfinished draft of new books is thrown away."""
        path.with_name("books.db.new").write_bytes(b"half")
        books = SqliteBooks(path)
        assert BooksSnapshot() == contents(books)
        asyncio.run(books.close())
        assert not path.with_name("books.db.new").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False, timeout=10)
    except FileNotFoundError:
        pytest.skip("there is no mount program")
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not permitted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


class TestFullDisk:
    """A full disk refuses commits whole and does no damage (rule O_3)."""

    async def test_a_commit_that_does_not_fit_is_refused_whole(self, path: Path) -> None:
        """Nothing of it is applied, and the books go on when there is room."""
        books = SqliteBooks(path, page_count_max=40)
        await books.commit([append(number) for number in range(1, 101)])
        before = books.load()
        with pytest.raises(BooksFullError, match="free some space"):
            await books.commit([PutLease(LEASE), *(append(n) for n in range(101, 3_000))])
        assert before == books.load()
        with pytest.raises(BooksFullError):
            await books.commit([append(101)])  # it must not overtake what was refused
        await books.commit([append(101)], after_full=True)
        assert 101 == books.load().spool_last
        await books.close()

    async def test_a_full_file_system_is_survived(self, small_disk: Path) -> None:
        """Commits fail while it is full; those before it stay, those after it go on."""
        books = SqliteBooks(small_disk / "books.db")
        await books.commit([append(1)], sync=True)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
            while True:
                file.write(b"\x00" * 4096)
        sequence = 1
        with pytest.raises(BooksFullError, match="is full"):
            while True:
                await books.commit([append(number + sequence) for number in range(1, 101)])
                sequence += 100
        assert sequence == books.load().spool_last
        ballast.unlink()
        await books.commit([append(sequence + 1)], sync=True, after_full=True)
        await books.close()
        again = SqliteBooks(small_disk / "books.db")
        assert sequence + 1 == again.load().spool_last
        await again.close()


class TestGroups:
    """Commits that share a transaction."""

    async def test_values_that_sqlite_refuses_fail_alone(self, books: SqliteBooks) -> None:
        """An amount of more than 64 bits fails its own commit, not its neighbours."""
        wide = replace(LEASE, number=4, settled_nanos=2**63)
        results = await asyncio.gather(
            books.commit([append(1), PutReservation(RESERVATION)]),
            books.commit([PutLease(wide), PutMeta(MetaKey.BOOT_ID, "bad")]),
            books.commit([append(2), PutLease(LEASE)]),
            books.commit([PutReservation(RESERVATION)]),
            return_exceptions=True,
        )
        assert [False, True, False, True] == [isinstance(r, StoreError) for r in results]
        await books.commit([append(3)])
        loaded = books.load()
        assert ((LEASE,), (RESERVATION,), 3) == (
            loaded.leases,
            loaded.reservations,
            loaded.spool_last,
        )
        assert {} == loaded.meta

    async def test_a_cancelled_caller_does_not_take_its_commit_back(
        self, books: SqliteBooks
    ) -> None:
        """What was asked for is committed, whoever still waits for it."""
        task = asyncio.ensure_future(books.commit([append(1)]))
        await asyncio.wait([task], timeout=0)
        task.cancel()
        await books.commit([append(2)])
        assert 2 == books.load().spool_last

    async def test_commits_do_not_wait_for_anothers_sync(self, path: Path) -> None:
        """While one commit waits for the disk, others go on (rule L_2)."""
        entered, released = threading.Event(), threading.Event()

        def held_up(fd: int) -> None:
            entered.set()
            assert released.wait(timeout=30)
            os.fdatasync(fd)

        books = SqliteBooks(path, sync=held_up)
        synced = asyncio.ensure_future(books.commit([append(1)], sync=True))
        await asyncio.to_thread(entered.wait, 30)
        await books.commit([append(2)])
        assert not synced.done()
        released.set()
        await synced
        assert 2 == books.load().spool_last
        await books.close()

    async def test_a_failed_sync_is_reported_and_never_trusted_again(self, path: Path) -> None:
        """Once the disk failed to hold the log, no later sync claims that it does."""
        outcomes = [OSError(5, "Input/output error"), None]

        def broken_once(_fd: int) -> None:
            outcome = outcomes.pop(0)
            if outcome is not None:
                raise outcome

        books = SqliteBooks(path, sync=broken_once)
        await books.commit([append(1)])
        for number in (2, 3):
            with pytest.raises(StoreError, match=r"could not be synced.*Input/output error"):
                await books.commit([append(number)], sync=True)
        assert 3 == books.load().spool_last
        await books.close()

    async def test_damage_found_by_a_checkpoint_refuses_the_next_commit(
        self, books: SqliteBooks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failure in the background reaches a caller before more is written."""

        class Damaged:
            def execute(self, _sql: str) -> None:
                error = sqlite3.DatabaseError("database disk image is malformed")
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error

        monkeypatch.setattr(books._syncer, "_connection", Damaged())
        books._syncer.checkpoint()
        # The first one may share a turn with the checkpoint; the second comes after it, or fails.
        with pytest.raises(BooksCorruptError, match="malformed"):
            for number in (1, 2, 3):
                await books.commit([append(number)], sync=True)
        assert books.load().spool_last in (0, 1, 2)

    async def test_the_log_stays_short_under_many_commits(
        self, books: SqliteBooks, path: Path
    ) -> None:
        """Checkpoints in the background move pages on, so the log is written over again."""

        async def write(commits: int) -> int:
            for _ in range(commits):  # 60 pages each
                await books.commit([PutMeta(MetaKey.CREDENTIAL, "x" * 240_000)])
            return path.with_name("books.db-wal").stat().st_size

        grown = await write(100)
        books._syncer.checkpoint()
        for _ in range(2):  # the second one comes after the checkpoint
            await books.commit([PutMeta(MetaKey.BOOT_ID, "b")], sync=True)
        assert grown == await write(50)
