"""A session with the coordinator: what is on the disk before a word is said."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import MetaKey
from edge_agent.engine import AgentEngine
from edge_agent.session import FleetSession
from shared.clock import SystemClock
from shared.decision.types import Feedback, SpoolRecord, SpoolSummary
from shared.errors import BooksFullError
from shared.limits import RETAIN_ACKED_MS
from tests.fakes.memory_books import MemoryBooks, MemoryDisk
from tests.fakes.samples import device_config, granted

GRADE = Feedback("r1", "other", "cloud", 1_000_000, "user", 0)


class Agent:
    """An agent's session on a disk that can lose power."""

    def __init__(
        self,
        disk: MemoryDisk | None = None,
        *,
        incarnation: str = "inc-1",
        on_lease_news: Callable[[], None] | None = None,
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.books = MemoryBooks(self.disk)
        self.engine = AgentEngine(
            incarnation=incarnation,
            boot_id="boot-1",
            snapshot=self.books.load(),
            fallback=device_config(),
            unix_ms=0,
        )
        self.keeper = Bookkeeper(self.books, gate=self.engine.gate)
        service: Any = SimpleNamespace()
        self.session = FleetSession(
            self.engine,
            bookkeeper=self.keeper,
            service=service,
            clock=SystemClock(),
            credential=None,
            on_connected=lambda _: None,
            on_lease_news=on_lease_news,
        )

    async def spool(self, records: int) -> None:
        for _ in range(records):
            await self.keeper.commit(self.engine.outbox.spool(GRADE))

    async def welcomed(self, token: str = "t1", *, acked: int = 0) -> None:
        await self.session.welcomed(
            resume_token=token, acked_sequence=acked, spend_paused=False, quarantined=False
        )


async def test_what_is_sent_survives_a_loss_of_power() -> None:
    """Were a sent record lost, its sequence would be given to another one, taken for a copy."""
    agent = Agent()
    await agent.spool(3)
    assert [1, 2, 3] == [record.sequence for record in await agent.session.next_batch()]
    agent.disk.lose_power()
    outbox = Agent(agent.disk).engine.outbox
    assert (3, 3) == (outbox.last, outbox.sent_max)


@pytest.mark.parametrize("waits", [True, False])
def test_requests_may_wait_for_a_lease_as_soon_as_the_coordinator_is_called(waits: bool) -> None:
    """The first one of a start as well, if there is somebody to tell it of the lease."""
    agent = Agent(on_lease_news=(lambda: None) if waits else None)
    assert not agent.engine.gate.may_come("no_lease", now_ms=0.0)
    agent.session.dials()
    assert waits is agent.engine.gate.may_come("no_lease", now_ms=0.0)


async def test_a_record_that_cannot_be_read_does_not_stop_those_behind_it() -> None:
    """It is told of as what it is, of the process that wrote it, and never compacted."""
    disk = MemoryDisk()
    before = Agent(disk)
    await before.keeper.commit(before.engine.recover(), sync=True)
    await before.spool(2)
    await before.books.close()
    agent = Agent(disk, incarnation="inc-2")
    await agent.keeper.commit(agent.engine.recover(), sync=True)
    await agent.spool(4)
    outbox = agent.engine.outbox
    for sequence in (2, 3, 4):
        lost = SpoolSummary(sequence, sequence, (), (), unreadable=1)
        disk.state.spool[sequence] = SpoolRecord(sequence, "", lost)
    summary = SpoolRecord(5, "inc-2", SpoolSummary(5, 5, (), ()))
    disk.state.spool[5] = summary
    kept = outbox.identified(list(await agent.books.spooled(after=0, limit=9)))
    assert {2, 3, 4} == outbox.unreadable
    assert summary is kept[4]
    assert [] == outbox.compact(kept[1:4])
    told = await agent.session.next_batch()
    names = [record.incarnation for record in told]
    assert ["inc-1", "inc-1", "inc-2", "inc-2", "inc-2", "inc-2"] == names
    assert [1, 2, 3, 4, 5, 6] == [record.sequence for record in told]
    for through, left in ((3, {4}), (5, set())):
        outbox.ack(through, boot_ms=0)
        outbox.trim(boot_ms=RETAIN_ACKED_MS)
        assert left == outbox.unreadable


@pytest.mark.parametrize("full", [False, True])
async def test_whoever_waits_is_told_of_a_lease_also_if_it_could_not_be_written(full: bool) -> None:
    """With a full disk there is nothing to wait for: the next arm answers at once."""
    told: list[str] = []
    agent = Agent(on_lease_news=lambda: told.append(agent.engine.gate.books_problem))
    if full:
        agent.books.fail_with = BooksFullError("no space")
        with pytest.raises(BooksFullError):
            await agent.session.granted(granted(), incarnation="inc-1")
    else:
        await agent.session.granted(granted(), incarnation="inc-1")
    assert ["books_full" if full else ""] == told


async def test_a_record_is_sent_once_in_a_session() -> None:
    """The next session sends again what was not acked."""
    agent = Agent()
    await agent.spool(2)
    await agent.session.next_batch()
    assert [] == list(await agent.session.next_batch())
    await agent.welcomed(acked=1)
    assert [2] == [record.sequence for record in await agent.session.next_batch()]


async def test_a_session_goes_on_where_the_books_are() -> None:
    """Also if another disk has brought them there: a copy of this one."""
    agent = Agent()
    await agent.spool(4)
    await agent.welcomed("t2", acked=3)
    batch = await agent.session.next_batch()
    assert ([4], 3) == ([record.sequence for record in batch], agent.engine.outbox.acked)


async def test_with_a_full_disk_nothing_new_is_sent() -> None:
    """What cannot be synced waits; it is sent when there is room."""
    agent = Agent()
    await agent.spool(2)
    agent.books.fail_with = BooksFullError("no room")
    assert () == await agent.session.next_batch()
    assert () == await agent.session.next_batch()
    agent.books.fail_with = None
    await agent.keeper.retry()
    assert [1, 2] == [record.sequence for record in await agent.session.next_batch()]


async def test_a_token_is_presented_once_it_is_synced() -> None:
    """Else a restart would come with an older one than the session before (rule D_2)."""
    agent = Agent()
    agent.books.fail_with = BooksFullError("no room")
    with pytest.raises(BooksFullError):
        await agent.welcomed("t1")
    assert "" == agent.session.hello().resume_token
    agent.books.fail_with = None
    await agent.keeper.retry()
    await agent.welcomed("t2")
    assert "t2" == agent.session.hello().resume_token
    agent.disk.lose_power()
    assert "t2" == agent.disk.state.meta[MetaKey.RESUME_TOKEN]


async def test_a_token_that_was_kept_back_is_presented_once_it_is_written() -> None:
    """A restart comes with what the disk has: never with a token that was passed over (D_2)."""
    agent = Agent()
    await agent.welcomed("t0")
    agent.books.fail_with = BooksFullError("no room")
    with pytest.raises(BooksFullError):
        await agent.welcomed("t1")
    assert "t0" == agent.session.hello().resume_token
    agent.books.fail_with = None
    await agent.keeper.retry()
    assert "t1" == agent.disk.state.meta[MetaKey.RESUME_TOKEN]
    assert "t1" == agent.session.hello().resume_token
    await agent.welcomed("t2")
    assert "t2" == agent.session.hello().resume_token


async def test_a_lease_can_be_used_once_it_is_synced() -> None:
    """A grant that could not be written is used when it has been."""
    agent = Agent()
    agent.books.fail_with = BooksFullError("no room")
    with pytest.raises(BooksFullError):
        await agent.session.granted(granted(), incarnation="inc-1")
    assert [] != agent.engine.gate.raised_watermarks()
    agent.books.fail_with = None
    await agent.keeper.retry()
    await agent.session.granted(granted(2), incarnation="inc-1")
    agent.disk.lose_power()
    assert [1, 2] == sorted(agent.disk.state.leases)


async def test_an_ack_is_kept() -> None:
    """The next hello names it."""
    agent = Agent()
    await agent.spool(2)
    await agent.session.acked(2)
    assert (2, 2) == (
        agent.session.hello().acked_sequence,
        int(agent.disk.state.meta[MetaKey.SEQUENCE_ACKED]),
    )
