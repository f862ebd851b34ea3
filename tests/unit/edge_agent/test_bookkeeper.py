"""One writer, in order, also across a full disk (rule O_3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BookEffect, BooksSnapshot, DropLease, MetaKey, PutMeta
from edge_agent.gate import Gate
from edge_agent.outbox import Outbox
from shared.decision.types import Feedback, LeaseClose, Outcome, SettleKind, SpoolSummary
from shared.errors import BooksCorruptError, BooksFullError, StoreError
from shared.limits import UNWRITTEN_RECORDS_MAX
from tests.fakes.memory_books import MemoryBooks
from tests.unit.edge_agent.test_outbox import paid

BODY = LeaseClose(1, 0, clean=True, reason="")
LARGE = Feedback("r", "other", "x" * 60_000, 1, "user", 0)
FULL = BooksFullError("no room")


class Desk:
    """A bookkeeper with its outbox, on books in memory."""

    def __init__(self, books: Any = None) -> None:
        self.books = books or MemoryBooks()
        self.outbox = Outbox(incarnation="i", snapshot=BooksSnapshot())
        self.gate = Gate(
            incarnation="i",
            boot_id="b",
            snapshot=BooksSnapshot(),
            outbox=self.outbox,
            unix_ms=0,
        )
        self.keeper = Bookkeeper(self.books, gate=self.gate)

    async def spool(self) -> None:
        await self.keeper.commit_or_keep(self.outbox.spool(BODY))

    @property
    def written(self) -> list[int]:
        return sorted(self.books.disk.state.spool)


async def test_a_full_disk_closes_the_paid_arms_and_keeps_what_it_could_not_write() -> None:
    """Whoever needs the commit is told; whoever does not goes on."""
    desk = Desk()
    desk.books.fail_with = FULL
    with pytest.raises(BooksFullError):
        await desk.keeper.commit(desk.outbox.spool(BODY))
    await desk.spool()
    assert ("books_full", []) == (desk.gate.books_problem, desk.written)
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert ("", [1, 2]) == (desk.gate.books_problem, desk.written)


async def test_nothing_overtakes_what_is_kept() -> None:
    """While something waits for room, later effects wait behind it, even if they would fit."""
    desk = Desk()
    desk.books.fail_with = FULL
    await desk.spool()
    desk.books.fail_with = None
    await desk.spool()
    assert [] == desk.written
    await desk.keeper.retry()
    assert [1, 2] == desk.written


@pytest.mark.parametrize("real", [False, True], ids=["memory", "sqlite"])
async def test_a_disk_may_stay_full_for_long(tmp_path: Path, real: bool) -> None:
    """What waits does not grow with the requests, and every cost is written in the end (O_2)."""
    path = tmp_path / "books.db"
    desk = Desk(SqliteBooks(path, page_count_max=14) if real else None)
    if real:
        await desk.keeper.commit_or_keep(desk.outbox.spool(LARGE))
    else:
        desk.books.fail_with = FULL
    for _ in range(10):
        for _ in range(500):
            outcome = paid("r", lease=1, cost=3, settle=SettleKind.REPORTED)
            await desk.keeper.commit_or_keep(desk.outbox.spool(outcome))
        await desk.keeper.retry()
        kept = sum(len(effects) for effects in desk.keeper._unwritten.values())
        assert kept <= UNWRITTEN_RECORDS_MAX
    assert "books_full" == desk.gate.books_problem
    if real:
        await desk.books.close()
        desk.books = desk.keeper._books = SqliteBooks(path)
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert ("", desk.outbox.last) == (desk.gate.books_problem, desk.books.load().spool_last)
    records = await desk.books.spooled(after=0, limit=10_000)
    nanos = 0
    for body in (record.body for record in records):
        nanos += body.cost_nanos if isinstance(body, Outcome) else 0
        nanos += dict(body.costs)[1] if isinstance(body, SpoolSummary) else 0
    assert 3 * 5_000 == nanos
    await desk.books.close()


async def test_what_comes_during_a_retry_is_written_after_it() -> None:
    """Also when that retry fails, and the disk has room right behind it."""

    class Narrow(MemoryBooks):
        """Books that have an outcome spooled while they are at it."""

        async def commit(
            self, effects: Sequence[BookEffect], *, after_full: bool = False, **options: Any
        ) -> None:
            if after_full and desk.outbox.last < 3:
                await desk.spool()
                raise FULL
            await super().commit(effects, after_full=after_full, **options)

    desk = Desk(Narrow())
    desk.books.fail_with = FULL
    await desk.spool()
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert ("books_full", []) == (desk.gate.books_problem, desk.written)
    await desk.keeper.retry()
    await desk.keeper.retry()
    assert ("", [1, 2, 3]) == (desk.gate.books_problem, desk.written)


async def test_a_caller_that_goes_away_loses_nothing(tmp_path: Path) -> None:
    """Its commit meets a full disk after it has gone; the effects are kept all the same."""
    desk = Desk(SqliteBooks(tmp_path / "books.db", page_count_max=14))
    first = asyncio.create_task(desk.keeper.commit(desk.outbox.spool(LARGE)))
    second = asyncio.create_task(desk.keeper.commit(desk.outbox.spool(BODY)))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(BooksFullError):
        await second
    assert "books_full" == desk.gate.books_problem
    assert [] == list(await desk.books.spooled(after=0, limit=9))
    await desk.books.close()
    roomy = SqliteBooks(tmp_path / "books.db")
    desk.keeper._books = roomy
    await desk.keeper.retry()
    assert [1, 2] == [record.sequence for record in await roomy.spooled(after=0, limit=9)]
    await roomy.close()


async def test_books_that_fail_otherwise_close_the_paid_arms_for_good() -> None:
    """The engine is ahead of such books; only a start from them mends that."""
    desk = Desk()
    desk.books.fail_with = StoreError("the disk could not be synced")
    with pytest.raises(StoreError, match="synced"):
        await desk.keeper.commit(desk.outbox.spool(BODY))
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert "books_broken" == desk.gate.books_problem


async def test_broken_books_stay_broken_when_the_disk_has_room_again() -> None:
    """What failed for good is missing in them, whatever fits later (rule O_3)."""
    desk = Desk()
    desk.books.fail_with = StoreError("the disk has a hole")
    with pytest.raises(StoreError, match="hole"):
        await desk.keeper.commit([PutMeta(MetaKey.PLACE, "lost")])
    desk.books.fail_with = FULL
    await desk.keeper.commit_or_keep([PutMeta(MetaKey.COPIED, "")])
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert "books_broken" == desk.gate.books_problem


async def test_books_that_cannot_be_read_any_more_close_the_paid_arms(tmp_path: Path) -> None:
    """What was spent by them cannot be told: writing may go well for long (rule O_3)."""
    path = tmp_path / "books.db"
    desk = Desk(SqliteBooks(path))
    await desk.spool()
    for file in (path, path.with_name("books.db-wal")):
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(BooksCorruptError):
        await desk.keeper.spool_after(0, limit=9)
    assert "books_broken" == desk.gate.books_problem
    await desk.books.close()


async def test_a_close_survives_a_loss_of_power() -> None:
    """It is synced in any case, and with it what was committed before (rule L_5)."""
    desk = Desk()
    await desk.spool()
    await desk.keeper.commit([*desk.outbox.spool(BODY), DropLease(1)])
    await desk.spool()
    desk.books.disk.lose_power()
    assert [1, 2] == desk.written


async def test_a_spooled_fact_wakes_the_link() -> None:
    """Not before it is in the books."""
    desk = Desk()
    desk.books.fail_with = FULL
    await desk.spool()
    assert not desk.keeper.spooled.is_set()
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert desk.keeper.spooled.is_set()
