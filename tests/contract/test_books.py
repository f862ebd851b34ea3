"""`BooksSuite` on memory and on SQLite."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.ports import Books
from tests.contract.books_suite import BooksBench, BooksSuite
from tests.fakes.memory_books import MemoryBooks, MemoryDisk


class MemoryBench(BooksBench):
    """A disk in memory."""

    def __init__(self) -> None:
        self._disk = MemoryDisk()

    def books(self) -> Books:
        return MemoryBooks(self._disk)

    async def lose_power(self) -> Books:
        self._disk.lose_power()
        return self.books()


class SqliteBench(BooksBench):
    """A file, with a copy of what the disk is known to hold since the last sync."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "books.db"
        self._held = folder / "held"
        self._open: list[SqliteBooks] = []

    def books(self) -> Books:
        return self._at(self._path)

    def _at(self, path: Path) -> SqliteBooks:
        books = SqliteBooks(path, sync=self._sync)
        self._open.append(books)
        return books

    def _sync(self, fd: int) -> None:
        """Instead of a sync: what would be on the disk after it is copied."""
        os.fstat(fd)
        shutil.rmtree(self._held, ignore_errors=True)
        self._held.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{self._path}{suffix}", self._held)

    async def lose_power(self) -> Books:
        await self._open[-1].close()
        return self._at(self._held / self._path.name)

    async def close(self) -> None:
        """Let go of every file."""
        for books in self._open:
            await books.close()


class TestMemoryBooks(BooksSuite):
    """The fake keeps the contract that the real books keep."""

    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


class TestSqliteBooks(BooksSuite):
    """One SQLite file with group commit."""

    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[SqliteBench]:
        bench = SqliteBench(tmp_path)
        yield bench
        await bench.close()
