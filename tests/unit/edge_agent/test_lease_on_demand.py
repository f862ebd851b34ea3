"""Requests that wait for a lease where money is scarce (rule L_6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edge_agent import answering, service
from edge_agent.attempts import AttemptEnd
from edge_agent.books import BookEffect, MetaKey, PutMeta
from edge_agent.candidates import ArmCondition
from edge_agent.engine import AgentEngine
from edge_agent.gate import HOARD_MS_MAX
from edge_agent.ports import Usage
from edge_agent.requests import RequestRefused
from shared.decision.lease import LeaseWish
from shared.decision.table import TableArm
from shared.decision.types import Fallout, LeaseStatus, RequestStatus, SettleKind
from shared.errors import BooksFullError, StoreError
from tests.fakes.samples import WORST_CASE_NANOS, cloud_arm, granted, local_arm
from tests.unit.edge_agent.test_request_flow import (
    an_engine,
    attempt,
    begin,
    finish,
    lend,
)
from tests.unit.edge_agent.test_running_requests import Agent, Play, ask, read, words


def a_connected_engine() -> AgentEngine:
    """An engine whose driver lets requests wait for leases, without one."""
    engine = an_engine(lease=False)
    engine.gate.on_demand = True
    return engine


def waiting_engine() -> AgentEngine:
    """An engine with one request that drew the paid arm and has no lease."""
    engine = a_connected_engine()
    begin(engine)
    assert (None, []) == engine.next_attempt("r1", boot_ms=0)
    return engine


def held(engine: AgentEngine) -> tuple[LeaseStatus, ...]:
    """The leases after the house-keeping of a moment when stores are given back."""
    engine.tick(boot_ms=HOARD_MS_MAX, unix_ms=HOARD_MS_MAX)
    return engine.gate.leases()


def test_a_request_waits_for_the_lease_that_it_lacks() -> None:
    """The wish asks for its worst case; with the lease the drawn arm is called."""
    engine = waiting_engine()
    assert engine.waits_for_lease("r1")
    assert LeaseWish(0, WORST_CASE_NANOS, WORST_CASE_NANOS, 7, 0) == engine.gate.wish(
        now_ms=0.0, boot_ms=7
    )
    lend(engine, amount=WORST_CASE_NANOS)
    assert "cloud" == attempt(engine).arm.id
    assert not engine.waits_for_lease("r1")


def test_requests_that_wait_together_are_asked_for_together() -> None:
    """Or the later ones would wait for one round trip after the other."""
    engine = waiting_engine()
    begin(engine, "r2")
    engine.next_attempt("r2", boot_ms=0)
    wish = engine.gate.wish(now_ms=0.0, boot_ms=7)
    assert LeaseWish(0, WORST_CASE_NANOS, 2 * WORST_CASE_NANOS, 7, 0) == wish


def test_a_request_that_waited_lost_no_candidate() -> None:
    """Its propensity is that of the whole row, which is what it was drawn from."""
    engine = waiting_engine()
    lend(engine, amount=WORST_CASE_NANOS)
    attempt(engine)
    outcome, _ = finish(engine)
    assert ((), 900_000) == (outcome.fallouts, outcome.propensity_ppm)


def test_a_wish_for_a_waiting_request_does_not_wait_itself() -> None:
    """Only one at a time; the gap between wishes is for those that fill a store."""
    engine = waiting_engine()
    assert engine.gate.wish(now_ms=0.0, boot_ms=7) is not None
    assert engine.gate.wish(now_ms=100.0, boot_ms=7) is None
    lend(engine, 1, amount=WORST_CASE_NANOS)
    attempt(engine)
    begin(engine, "r2")
    engine.next_attempt("r2", boot_ms=0)
    assert engine.gate.wish(now_ms=100.0, boot_ms=7) is not None


def test_a_refused_request_takes_the_next_arm_at_once() -> None:
    """And until the coordinator may be asked again, later ones do not wait either."""
    engine = waiting_engine()
    engine.gate.wish(now_ms=0.0, boot_ms=7)
    engine.gate.refused("it is spent", now_ms=0.0, retry_after_ms=2_000.0)
    assert "tiny" == attempt(engine).arm.id
    begin(engine, "r2")
    assert "tiny" == attempt(engine, "r2").arm.id


def test_nobody_waits_for_a_coordinator_that_is_not_heard() -> None:
    """One request has waited in vain; the next lease or refusal ends the silence."""
    engine = waiting_engine()
    engine.give_up_waiting("r1")
    assert "tiny" == attempt(engine).arm.id
    begin(engine, "r2")
    assert "tiny" == attempt(engine, "r2").arm.id
    lend(engine, amount=WORST_CASE_NANOS // 2)
    begin(engine, "r3")
    engine.next_attempt("r3", boot_ms=0)
    assert engine.waits_for_lease("r3")


def test_where_money_is_scarce_nothing_is_kept_in_store() -> None:
    """A lease of a single worst case that nobody uses goes back, and none is asked for ahead."""
    engine = waiting_engine()
    lend(engine, amount=WORST_CASE_NANOS)
    attempt(engine)
    finish(engine)
    assert () == held(engine)
    assert engine.gate.wish(now_ms=5_000.0, boot_ms=7) is None


def test_where_money_is_plenty_a_store_is_kept() -> None:
    """A lease with room for many requests stays, and is renewed ahead."""
    engine = waiting_engine()
    lend(engine, amount=20 * WORST_CASE_NANOS)
    attempt(engine)
    finish(engine)
    assert 1 == len(held(engine))
    for number in range(2, 12):
        begin(engine, f"r{number}")
        attempt(engine, f"r{number}")
        engine.gate.synced(engine.gate.raised_watermarks())
    assert engine.gate.wish(now_ms=5_000.0, boot_ms=7) is not None


def test_a_refused_store_is_no_refused_request() -> None:
    """A wish ahead of need that was refused leaves the next request free to ask."""
    engine = a_connected_engine()
    engine.gate.wish(now_ms=0.0, boot_ms=7)
    engine.gate.refused("nothing to spare", now_ms=0.0, retry_after_ms=60_000.0)
    begin(engine)
    engine.next_attempt("r1", boot_ms=0)
    assert engine.waits_for_lease("r1")


def test_a_fallback_may_wait_for_its_lease_too() -> None:
    """Once for each request: the first arm failed without having waited."""
    other = cloud_arm("other")
    engine = an_engine(
        cloud_arm(),
        other,
        local_arm(),
        rows=(TableArm("cloud", 900_000), TableArm("other", 90_000), TableArm("tiny", 10_000)),
    )
    engine.gate.on_demand = True
    ready = {"cloud": ArmCondition(), "other": ArmCondition(), "tiny": ArmCondition()}
    begin(engine, conditions=ready)
    attempt(engine)
    engine.gate.recalled(1, boot_ms=0, reason="a test")
    gone = AttemptEnd(10, SettleKind.RELEASED, error="connect_failed")
    engine.attempt_failed("r1", gone, now_ms=0.0)
    engine.next_attempt("r1", boot_ms=0)
    assert engine.waits_for_lease("r1")
    engine.give_up_waiting("r1")
    assert "tiny" == attempt(engine).arm.id


def test_a_client_that_leaves_no_longer_needs_a_lease() -> None:
    """The wish is forgotten with its request."""
    engine = waiting_engine()
    finish(engine, None)
    assert not engine.gate.is_needed("r1")


async def test_a_running_request_goes_on_when_its_lease_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The coordinator is heard, and the paid arm answers."""
    agent = Agent()
    agent.engine.gate.on_demand = True
    monkeypatch.setattr(agent.service.lease_news, "wait", agent.lend)
    answer = await agent.chat(ask())
    await read(answer)
    assert "cloud" == answer.head.arm


async def test_what_a_refusal_changed_is_committed_before_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kept back until the lease comes, a lease's row would overwrite a newer one."""
    agent = Agent()
    agent.engine.gate.on_demand = True
    attempt_next = agent.engine.next_attempt
    changes: list[BookEffect] = [PutMeta(MetaKey.BOOT_ID, "changed")]

    def refused_with_changes(request_id: str, *, boot_ms: int) -> tuple[Any, list[BookEffect]]:
        plan, effects = attempt_next(request_id, boot_ms=boot_ms)
        more, changes[:] = list(changes), []
        return plan, [*effects, *more]

    seen: list[str | None] = []

    async def wait() -> None:
        seen.append(agent.books.load().meta.get(MetaKey.BOOT_ID))
        await agent.lend()

    monkeypatch.setattr(agent.engine, "next_attempt", refused_with_changes)
    monkeypatch.setattr(agent.service.lease_news, "wait", wait)
    answer = await agent.chat(ask())
    await read(answer)
    assert ["changed"] == seen
    assert "cloud" == answer.head.arm


async def test_a_running_request_goes_on_when_another_one_leaves_room() -> None:
    """The reservation of the first one was larger than its cost: nobody has to be asked."""
    agent = Agent()
    agent.engine.gate.on_demand = True
    await agent.lend(amount=WORST_CASE_NANOS + 50)
    agent.cloud.play = Play(
        until=asyncio.Event(), usage=Usage(prompt_tokens=0, completion_tokens=0)
    )
    first = await agent.chat(ask())
    second = asyncio.create_task(agent.chat(ask("r2")))
    for _ in range(100):
        if agent.engine.gate.anybody_waits:
            break
        await asyncio.sleep(0)
    assert agent.engine.gate.anybody_waits
    assert agent.cloud.play.until is not None
    agent.cloud.play.until.set()
    await read(first)
    assert "cloud" == (await second).head.arm
    await read(await second)


async def test_a_running_request_does_not_wait_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without any news the local arm answers."""
    monkeypatch.setattr(answering, "LEASE_WAIT_S", 0.0)
    agent = Agent()
    agent.engine.gate.on_demand = True
    answer = await agent.chat(ask())
    assert "local" == words(await read(answer))


def behind_engine() -> AgentEngine:
    """An engine with a lease whose watermark does not cover a request yet; one request waits."""
    engine = a_connected_engine()
    effects = engine.gate.granted(granted(), incarnation="i1", boot_ms=0)
    assert effects
    begin(engine, pinned_arm="cloud")
    while engine.next_attempt("r1", boot_ms=0)[1]:
        pass
    return engine


def test_a_request_waits_for_a_watermark_that_is_behind() -> None:
    """There is money for it: the next sync lets it through (rule L_2)."""
    engine = behind_engine()
    assert engine.waits_for_lease("r1")
    assert engine.gate.wish(now_ms=0.0, boot_ms=7) is None
    engine.gate.synced(engine.gate.raised_watermarks())
    assert "cloud" == attempt(engine).arm.id
    assert not engine.waits_for_lease("r1")


def test_a_request_waits_once() -> None:
    """After its time is over it is refused, or the next arm answers."""
    engine = behind_engine()
    engine.give_up_waiting("r1")
    assert (None, []) == engine.next_attempt("r1", boot_ms=0)
    assert not engine.waits_for_lease("r1")
    outcome, _ = finish(engine, None, status=RequestStatus.REFUSED)
    assert (Fallout("cloud", "watermark_not_synced"),) == outcome.fallouts


@pytest.mark.parametrize("on_demand", [True, False])
async def test_a_running_request_goes_on_with_the_next_sync(on_demand: bool) -> None:
    """House-keeping syncs the watermark and wakes it; without a coordinator nobody waits."""
    agent = Agent()
    agent.engine.gate.on_demand = on_demand
    lent = agent.engine.gate.granted(granted(), incarnation="i1", boot_ms=0)
    await agent.books.commit(lent)  # not synced
    asking = asyncio.create_task(agent.chat(ask(model="cloud")))
    for _ in range(100):
        if agent.engine.gate.anybody_waits or asking.done():
            break
        await asyncio.sleep(0)
    assert on_demand is agent.engine.gate.anybody_waits
    if on_demand:
        await agent.service.tidy()
        assert "cloud" == (await asking).head.arm
    else:
        with pytest.raises(RequestRefused):
            await asking


@pytest.mark.parametrize("problem", [BooksFullError("no space"), StoreError("a hole")])
async def test_nobody_waits_for_books_that_take_nothing(
    problem: StoreError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a sync nor a lease will come: the next arm answers at once (rule O_3)."""
    monkeypatch.setattr(service, "HOUSE_KEEPING_S", 3_600.0)
    monkeypatch.setattr(answering, "SYNC_WAIT_S", 3_600.0)
    monkeypatch.setattr(answering, "LEASE_WAIT_S", 3_600.0)
    agent = Agent()
    agent.engine.gate.on_demand = True
    await agent.service.start()
    for_lease = asyncio.create_task(agent.chat(ask("r1", deadline_ms=7_200_000)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert agent.engine.gate.anybody_waits
    lent = agent.engine.gate.granted(granted(), incarnation="i1", boot_ms=0)
    await agent.books.commit(lent)  # not synced, and the first has not heard of it
    agent.books.fail_with = problem
    for_sync = asyncio.create_task(agent.chat(ask("r2", deadline_ms=7_200_000)))
    for asking in (for_lease, for_sync):
        assert "local" == words(await read(await asking))
    assert not agent.engine.gate.anybody_waits
    await agent.service.stop(grace_s=0.0)


async def test_a_wait_for_a_sync_ends_with_the_deadline_if_another_arm_can_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Late is better than never, and an answer in time is better than that."""
    monkeypatch.setattr(answering, "SYNC_WAIT_S", 3_600.0)
    agent = Agent()
    agent.engine.gate.on_demand = True
    lent = agent.engine.gate.granted(granted(), incarnation="i1", boot_ms=0)
    await agent.books.commit(lent)
    answer = await agent.chat(ask(deadline_ms=1))
    assert "local" == words(await read(answer))


async def test_many_requests_at_once_are_let_through_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The house-keeping is woken, and one sync does for all that the lease has room for."""
    monkeypatch.setattr(service, "HOUSE_KEEPING_S", 3_600.0)
    monkeypatch.setattr(answering, "SYNC_WAIT_S", 3_600.0)
    agent = Agent()
    agent.engine.gate.on_demand = True
    await agent.service.start()
    await agent.lend(amount=60 * WORST_CASE_NANOS)
    agent.cloud.play = Play(until=asyncio.Event())  # nothing is settled before all are let through
    asking = [asyncio.create_task(agent.chat(ask(f"r{n}", model="cloud"))) for n in range(50)]
    answers = await asyncio.gather(*asking)
    assert agent.cloud.play.until is not None
    agent.cloud.play.until.set()
    assert {"cloud"} == {answer.head.arm for answer in answers}
    for answer in answers:
        await read(answer)
    await agent.service.stop(grace_s=0.0)


async def test_news_wake_everybody_who_waits() -> None:
    """And nobody who comes later."""
    news = answering.LeaseNews()
    waiting = [asyncio.create_task(news.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    news.tell()
    await asyncio.gather(*waiting)
    later = asyncio.create_task(news.wait())
    await asyncio.sleep(0)
    assert not later.done()
    later.cancel()


def test_a_first_lease_covers_the_first_request_at_once() -> None:
    """Nothing is known of requests yet; the first one must not lack a sync."""
    engine = a_connected_engine()
    lend(engine, amount=2 * WORST_CASE_NANOS)
    begin(engine)
    assert "cloud" == attempt(engine).arm.id


def test_requests_at_once_do_not_lack_a_sync() -> None:
    """After each reservation the watermark is asked to have room for two more."""
    engine = a_connected_engine()
    begin(engine)
    engine.next_attempt("r1", boot_ms=0)
    lend(engine, amount=20 * WORST_CASE_NANOS)
    attempt(engine)
    engine.gate.synced(engine.gate.raised_watermarks())
    for name in ("r2", "r3"):
        begin(engine, name)
        assert "cloud" == attempt(engine, name).arm.id
