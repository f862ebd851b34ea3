"""One writer, in order, also across a full disk (rule O_3)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BookEffect, BooksSnapshot
from edge_agent.gate import Gate
from edge_agent.outbox import Outbox
from shared.decision.types import LeaseClose
from shared.errors import BooksFullError
from tests.fakes.memory_books import MemoryBooks

BODY = LeaseClose(1, 0, clean=True, reason="")
FULL = BooksFullError("no room")


class Desk:
    """A bookkeeper with its outbox, on books in memory."""

    def __init__(self, books: MemoryBooks | None = None) -> None:
        self.books = books or MemoryBooks()
        self.outbox = Outbox(incarnation="i", snapshot=BooksSnapshot(), unix_ms=0)
        self.gate = Gate(incarnation="i", boot_id="b", snapshot=BooksSnapshot(), outbox=self.outbox)
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


async def test_what_comes_during_a_retry_is_written_after_it() -> None:
    """Also when that retry fails, and the disk has room right behind it."""

    class Narrow(MemoryBooks):
        """Books that have an outcome spooled while they are at it."""

        async def commit(self, effects: Sequence[BookEffect], *, sync: bool = False) -> None:
            if sync and desk.outbox.last < 3:
                await desk.spool()
                raise FULL
            await super().commit(effects, sync=sync)

    desk = Desk(Narrow())
    desk.books.fail_with = FULL
    await desk.spool()
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert ("books_full", []) == (desk.gate.books_problem, desk.written)
    await desk.keeper.retry()
    await desk.keeper.retry()
    assert ("", [1, 2, 3]) == (desk.gate.books_problem, desk.written)


async def test_a_spooled_fact_wakes_the_link() -> None:
    """Not before it is in the books."""
    desk = Desk()
    desk.books.fail_with = FULL
    await desk.spool()
    assert not desk.keeper.spooled.is_set()
    desk.books.fail_with = None
    await desk.keeper.retry()
    assert desk.keeper.spooled.is_set()
