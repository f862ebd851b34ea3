"""The agent's service beside the requests: keys that wait, grades at once, house-keeping."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.ports import ArmFailed
from edge_agent.requests import RequestRefused
from shared.decision.types import Feedback
from shared.errors import BooksFullError, ConflictError, NotFoundError, StoreError
from tests.fakes.samples import granted
from tests.unit.edge_agent.test_running_requests import Agent, Play, an_agent, ask, read

FULL = BooksFullError("no room")


async def settled() -> None:
    """Let every task go as far as it can without an event."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_of_those_who_wait_for_a_key_one_asks_again() -> None:
    """When the first request fails, the next one pays; the others wait for its answer."""
    agent = await an_agent()
    fault = asyncio.Event()
    failure = ArmFailed("invalid_request", "no", client_error=True)
    agent.cloud.play = Play(words=(), failure=failure, until=fault)
    asks = [
        asyncio.create_task(agent.chat(ask(f"r{number}", idempotency_key="k", stream=False)))
        for number in range(4)
    ]
    await settled()
    assert 1 == len(agent.cloud.calls)
    agent.cloud.play = Play()
    fault.set()
    first, *others = await asyncio.gather(*asks, return_exceptions=True)
    assert isinstance(first, RequestRefused)
    assert 2 == len(agent.cloud.calls)
    assert {"r1"} == {
        other.head.request_id for other in others if not isinstance(other, BaseException)
    }


async def test_of_two_grades_at_once_one_is_spooled() -> None:
    """A second grade for a request would have to be refused by the coordinator's books."""
    agent = await an_agent()
    await read(await agent.chat(ask()))
    await agent.outcomes.get()
    grades = [agent.service.feedback(request_id="r1", score=1.0, source="user") for _ in range(2)]
    assert [True, False] == await asyncio.gather(*grades)
    assert 1 == sum(isinstance(body, Feedback) for body in agent.spooled())


async def test_the_first_grade_counts() -> None:
    """Another one is a conflict; one for a request that nobody knows is not found."""
    agent = await an_agent()
    await read(await agent.chat(ask()))
    await agent.outcomes.get()
    await agent.service.feedback(request_id="r1", score=1.0, source="user")
    with pytest.raises(ConflictError, match="already graded 1"):
        await agent.service.feedback(request_id="r1", score=0.5, source="user")
    with pytest.raises(NotFoundError, match="r2"):
        await agent.service.feedback(request_id="r2", score=1.0, source="user")


async def test_house_keeping_outlives_a_full_disk() -> None:
    """A watermark that could not be synced is synced by a later round."""
    agent = Agent()
    grant = agent.engine.gate.granted(granted(), incarnation="i1", boot_ms=0)
    await agent.keeper.commit(grant)
    agent.books.fail_with = FULL
    await agent.service.tidy()
    assert "books_full" == agent.engine.gate.books_problem
    agent.books.fail_with = None
    await agent.service.tidy()
    await agent.service.tidy()
    await read(await agent.chat(ask()))
    assert ("", 1) == (agent.engine.gate.books_problem, len(agent.cloud.calls))


async def test_house_keeping_outlives_books_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are recalled later come to their end, and local answers go on."""
    monkeypatch.setattr("edge_agent.service.HOUSE_KEEPING_S", 0.0)
    agent = await an_agent()
    await agent.service.start()
    try:
        agent.books.fail_with = StoreError("the disk has a hole")
        agent.engine.gate.recalled(0, boot_ms=0, reason="first")
        await settled()
        assert () == agent.engine.gate.leases()
        agent.books.fail_with = None
        await agent.keeper.commit(
            agent.engine.gate.granted(granted(2), incarnation="i1", boot_ms=0)
        )
        agent.engine.gate.recalled(0, boot_ms=0, reason="second")
        await settled()
        assert () == agent.engine.gate.leases()
        assert "books_broken" == agent.engine.gate.books_problem
    finally:
        await agent.service.stop(grace_s=0.0)


async def test_a_defect_of_the_house_keeping_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it leases would neither close nor get their watermarks: the agent has to end."""
    monkeypatch.setattr("edge_agent.service.HOUSE_KEEPING_S", 0.0)
    agent = await an_agent()
    await agent.service.start()
    try:
        monkeypatch.setattr(agent.engine, "tick", None)
        with pytest.raises(TypeError):
            await asyncio.wait_for(agent.service.wait_failed(), 5)
    finally:
        monkeypatch.undo()
        await agent.service.stop(grace_s=0.0)


async def test_an_agent_starts_on_a_full_disk() -> None:
    """Local models answer; paid arms are closed until there is room (rule O_3)."""
    agent = Agent()
    agent.books.fail_with = FULL
    await agent.service.start()
    try:
        answer = await agent.chat(ask())
        await read(answer)
        assert "tiny" == answer.head.arm
    finally:
        await agent.service.stop(grace_s=0.0)
