"""The agent's service beside the requests: keys that wait, grades at once, house-keeping."""

from __future__ import annotations

import asyncio
from typing import Any

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


async def test_a_key_grades_the_requests_of_its_own_application_only() -> None:
    """Another's are as unknown to it as those that never were; a refined tag is its own."""
    agent = await an_agent()
    for name, tag in (("r1", "shop"), ("r2", "shop/day"), ("r3", "shopping"), ("r4", "")):
        await read(await agent.chat(ask(name, tag=tag)))
        await agent.outcomes.get()
        if name in ("r3", "r4"):
            with pytest.raises(NotFoundError, match=f"no finished request '{name}' is kept here"):
                await agent.service.feedback(
                    request_id=name, score=1.0, source="user", key_tag="shop"
                )
        else:
            assert await agent.service.feedback(
                request_id=name, score=1.0, source="user", key_tag="shop"
            )
    assert await agent.service.feedback(request_id="r3", score=1.0, source="user")


async def test_a_grade_of_several_prompts_is_one_of_each() -> None:
    """Of all or of none: the id that the client got is in no book."""
    agent = await an_agent()
    for number in (1, 2):
        await read(await agent.chat(ask(f"r1.{number}", tag="shop")))
        await agent.outcomes.get()
    grade: dict[str, Any] = {"request_id": "r1", "score": 0.5, "source": "user"}
    with pytest.raises(NotFoundError):
        await agent.service.feedback(**grade, key_tag="lab")
    assert await agent.service.feedback(**grade)
    graded = [body.request_id for body in agent.spooled() if isinstance(body, Feedback)]
    assert ["r1.1", "r1.2"] == graded
    assert not await agent.service.feedback(**grade)
    with pytest.raises(ConflictError, match=r"r1\.1 was already graded"):
        await agent.service.feedback(**{**grade, "score": 1.0})
    assert 2 == sum(isinstance(body, Feedback) for body in agent.spooled())


async def test_a_grade_that_one_of_several_prompts_refuses_is_none_of_any() -> None:
    """Nothing is spooled, and the books go on."""
    agent = await an_agent()
    for number in (1, 2):
        await read(await agent.chat(ask(f"r1.{number}")))
        await agent.outcomes.get()
    assert await agent.service.feedback(request_id="r1.2", score=0.0, source="user")
    with pytest.raises(ConflictError, match=r"r1\.2 was already graded"):
        await agent.service.feedback(request_id="r1", score=1.0, source="user")
    assert await agent.service.feedback(request_id="r1", score=0.0, source="user")
    graded = [body.request_id for body in agent.spooled() if isinstance(body, Feedback)]
    assert ["r1.2", "r1.1"] == graded
    assert "" == agent.engine.gate.books_problem


async def test_who_waits_for_a_keys_answer_and_leaves_no_longer_waits() -> None:
    """The first request goes on, and is there for whoever asks again."""
    agent = await an_agent()
    agent.cloud.play = Play(until=asyncio.Event())
    first = asyncio.create_task(agent.chat(ask(idempotency_key="k", stream=False)))
    await agent.cloud.called.wait()
    gone: asyncio.Future[None] = asyncio.Future()
    again = ask("r2", idempotency_key="k", stream=False)
    waiting = asyncio.create_task(agent.service.answer(again, gone))
    await settled()
    gone.set_result(None)
    with pytest.raises(RequestRefused) as caught:
        await waiting
    assert (499, "client_gone") == (caught.value.status, caught.value.code)
    assert agent.cloud.play.until is not None
    agent.cloud.play.until.set()
    assert "r1" == (await first).head.request_id
    assert "r1" == (await agent.chat(again)).head.request_id
    assert 1 == len(agent.cloud.calls)


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
