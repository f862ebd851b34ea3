"""Requests under way: delivery, fallback, clients that leave, keys, and a full disk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from edge_agent.attempts import AttemptPlan
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BookEffect, BooksSnapshot, MetaKey, PutMeta, PutReservation
from edge_agent.engine import AgentEngine
from edge_agent.ports import (
    NOTHING_SENT,
    ArmFailed,
    ChatCall,
    ChatEvent,
    Chunk,
    Classifier,
    CloudClient,
    DeviceSensors,
    EmbedCall,
    Embedded,
    Finished,
    LocalModels,
    ModelState,
    ModelStatus,
    Timing,
    Usage,
)
from edge_agent.requests import Answer, ClientRequest, RequestKind, RequestRefused
from edge_agent.service import AgentService
from shared.decision.money import dollars
from shared.decision.types import (
    Arm,
    Attempt,
    DeviceState,
    OnAbort,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolBody,
)
from shared.errors import BooksFullError, StoreError
from tests.fakes.memory_books import MemoryBooks
from tests.fakes.samples import (
    WORST_CASE_NANOS,
    cloud_arm,
    device_config,
    granted,
    local_arm,
    table,
)

USAGE = Usage(prompt_tokens=20, completion_tokens=30)
USAGE_NANOS = (20 + 30) * 100


class StandingClock:
    """Time that does not pass."""

    def unix_ms(self) -> int:
        return 1_000

    def monotonic_ms(self) -> float:
        return 1_000.0

    def boot_ms(self) -> int:
        return 1_000

    def boot_id(self) -> str:
        return "b1"


@dataclass
class Play:
    """What a backend does with a call: words, perhaps a wait, then an end."""

    words: tuple[str, ...] = ("Hel", "lo")
    usage: Usage | None = USAGE
    failure: Exception | None = None
    until: asyncio.Event | None = None
    timing: Timing | None = None
    connects: bool = True


@dataclass
class Stage:
    """Plays a part for each call and remembers the call."""

    play: Play = field(default_factory=Play)
    calls: list[ChatCall] = field(default_factory=list)
    embed_calls: list[EmbedCall] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    key_problem: str = ""

    async def perform(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        play = self.play
        self.calls.append(call)
        self.called.set()
        for word in play.words if call.stream else ():
            yield Chunk({"model": "?", "choices": [{"index": 0, "delta": {"content": word}}]})
        if play.until is not None:
            try:
                await play.until.wait()
            except asyncio.CancelledError:
                if play.connects:
                    raise
                raise asyncio.CancelledError(NOTHING_SENT) from None
        if play.failure is not None:
            raise play.failure
        whole = {"choices": [{"message": {"content": "".join(play.words)}}]}
        yield Finished(play.usage, None if call.stream else whole, play.timing)

    def embed(self, call: EmbedCall) -> Embedded:
        """One vector."""
        self.embed_calls.append(call)
        if self.play.failure is not None:
            raise self.play.failure
        return Embedded(((0.5, 1.0),), Usage(7, 0))


class StagedCloud(CloudClient):
    """Paid answers from a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        return self._stage.perform(call)

    async def embed(self, call: EmbedCall) -> Embedded:
        return self._stage.embed(call)

    def key_problem(self, arm: Arm) -> str:
        return self._stage.key_problem if arm.cloud is not None else ""

    async def close(self) -> None:
        """Nothing to close."""


class StagedModels(LocalModels):
    """One loaded model whose answers come from a stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        return self._stage.perform(call)

    async def embed(self, call: EmbedCall) -> Embedded:
        return self._stage.embed(call)

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    def status(self) -> Sequence[ModelStatus]:
        return [ModelStatus("tiny", ModelState.LOADED)]

    async def keep_resident(self, arms: Sequence[str]) -> None:
        """All are resident."""


class NoSensors(DeviceSensors):
    """A machine that tells nothing."""

    def read(self) -> DeviceState:
        return DeviceState()


class Agent:
    """An agent with one local and one paid arm, a synced lease, and books in memory."""

    def __init__(
        self,
        arm: Arm | None = None,
        *,
        classifier: Classifier | None = None,
        books: MemoryBooks | None = None,
    ) -> None:
        self.books = books or MemoryBooks()
        self.cloud, self.local = Stage(), Stage(Play(words=("lo", "cal")))
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self.heard: list[SpoolBody] = []
        config = device_config(local_arm(), arm or cloud_arm())
        self.engine = AgentEngine(
            incarnation="i1",
            boot_id="b1",
            snapshot=BooksSnapshot(table=table(), config=config),
            fallback=config,
            unix_ms=0,
        )
        self.keeper = Bookkeeper(self.books, gate=self.engine.gate)
        self.service = AgentService(
            self.engine,
            bookkeeper=self.keeper,
            local=StagedModels(self.local),
            cloud=StagedCloud(self.cloud),
            sensors=NoSensors(),
            classifier=classifier,
            clock=StandingClock(),
            rng=random.Random(1),  # its first draws are below 0.9: the paid arm
            on_spooled=self._hear,
        )

    def _hear(self, body: SpoolBody) -> None:
        self.heard.append(body)
        if isinstance(body, Outcome):
            self.outcomes.put_nowait(body)

    async def lend(self, *, amount: int = 20 * WORST_CASE_NANOS) -> None:
        """Grant a lease and sync it."""
        lease = granted(amount=amount)
        effects = self.engine.gate.granted(lease, incarnation="i1", boot_ms=0)
        await self.keeper.commit([*self.engine.recover(), *effects], sync=True)
        self.engine.gate.synced(effects)

    async def chat(self, request: ClientRequest) -> Answer:
        """Ask, with a client that stays."""
        return await self.service.answer(request, asyncio.Future())

    @property
    def settled_nanos(self) -> int:
        """What the lease in the books has settled."""
        return self.books.disk.state.leases[1].settled_nanos

    def spooled(self) -> list[object]:
        """What the outbox on the disk holds."""
        return [record.body for record in self.books.disk.state.spool.values()]


async def an_agent(arm: Arm | None = None) -> Agent:
    """An agent with a lease."""
    agent = Agent(arm)
    await agent.lend()
    return agent


def ask(request_id: str = "r1", **changes: Any) -> ClientRequest:
    """A request for `auto`, streamed with usage unless told otherwise."""
    text = changes.pop("text", "Hello?")
    stream = changes.pop("stream", True)
    model = changes.pop("model", "auto")
    return ClientRequest(
        request_id=request_id,
        arrived_unix_ms=1_000,
        arrived_monotonic_ms=1_000.0,
        body={"model": model, "messages": [{"role": "user", "content": text}], "stream": stream},
        body_bytes=200,
        model=model,
        stream=stream,
        include_usage=stream,
        **changes,
    )


async def read(answer: Answer) -> list[Mapping[str, Any]]:
    """All chunks of an answer."""
    return [chunk async for chunk in answer.chunks()]


def words(chunks: Sequence[Mapping[str, Any]]) -> str:
    """The text of these chunks."""
    return "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"])


async def test_a_streamed_answer_ends_with_usage_and_cost() -> None:
    """The chunks are relayed under the arm's name, and the last one carries the cost."""
    agent = await an_agent()
    answer = await agent.chat(ask())
    chunks = await read(answer)
    assert (answer.head.arm, answer.head.table_version, answer.head.max_tokens) == ("cloud", 7, 100)
    assert words(chunks) == "Hello"
    assert {chunk["model"] for chunk in chunks} == {"cloud"}
    assert chunks[-1]["usage"] == {
        "cost_usd": dollars(USAGE_NANOS),
        "prompt_tokens": 20,
        "completion_tokens": 30,
        "total_tokens": 50,
    }
    assert (answer.cost_nanos, agent.settled_nanos) == (USAGE_NANOS, USAGE_NANOS)


async def test_a_whole_answer_carries_usage_and_cost() -> None:
    """Without streaming the response is complete when the answer is given out."""
    agent = await an_agent()
    answer = await agent.chat(ask(stream=False))
    assert answer.response is not None
    assert answer.response["choices"][0]["message"]["content"] == "Hello"
    assert answer.response["usage"]["cost_usd"] == dollars(USAGE_NANOS)
    assert [agent.outcomes.get_nowait()] == agent.spooled()


async def test_the_paid_call_names_the_provider_s_model_and_its_limit() -> None:
    """A paid arm gets its own model name and a `max_tokens`, whatever the client sent."""
    agent = await an_agent()
    await agent.chat(ask(stream=False))
    body = agent.cloud.calls[0].body
    assert (body["model"], body["max_tokens"]) == ("big-cloud", 100)
    assert set(body) == {"model", "max_tokens", "messages"}


async def test_an_arm_that_fails_before_its_first_token_is_replaced() -> None:
    """The client sees only the fallback's answer, and its reason names the failure."""
    agent = await an_agent()
    agent.cloud.play = Play(words=(), failure=ArmFailed("connect_failed", "no route"))
    answer = await agent.chat(ask())
    assert (answer.head.arm, answer.head.reason) == ("tiny", "fallback:cloud=connect_failed")
    assert words(await read(answer)) == "local"
    assert (answer.cost_nanos, agent.settled_nanos) == (0, 0)


async def test_an_error_after_the_first_token_goes_into_the_stream() -> None:
    """No other arm continues an answer; the broken call is booked at its reservation."""
    agent = await an_agent()
    failure = ArmFailed("broken_stream", "cut", settle=SettleKind.UNKNOWN)
    agent.cloud.play = Play(failure=failure)
    answer = await agent.chat(ask())
    got: list[Mapping[str, Any]] = []
    with pytest.raises(RequestRefused) as caught:
        async for chunk in answer.chunks():
            got.append(chunk)  # noqa: PERF401 - what came before the error counts
    assert (words(got), caught.value.status, caught.value.code) == ("Hello", 502, "broken_stream")
    assert (agent.local.calls, agent.settled_nanos) == ([], WORST_CASE_NANOS)
    assert agent.outcomes.get_nowait().status is RequestStatus.ERROR


async def test_a_request_at_fault_is_not_sent_to_another_arm() -> None:
    """A provider's 400 is the client's: it is passed on at once, with the field if it is known."""
    agent = await an_agent()
    failure = ArmFailed("invalid_request", "bad schema", client_error=True, param="response_format")
    agent.cloud.play = Play(words=(), failure=failure)
    with pytest.raises(RequestRefused, match="bad schema") as caught:
        await agent.chat(ask())
    assert (caught.value.status, caught.value.param) == (400, "response_format")
    assert [] == agent.local.calls


@pytest.mark.parametrize("stream", [True, False])
async def test_unknown_usage_is_settled_at_the_reservation(stream: bool) -> None:
    """An answer whose usage never came costs what was reserved for it."""
    agent = await an_agent()
    agent.cloud.play = Play(usage=None)
    answer = await agent.chat(ask(stream=stream))
    if stream:
        await read(answer)
    outcome = agent.outcomes.get_nowait()
    assert outcome.attempts == (
        Attempt("cloud", 0, "", 1, WORST_CASE_NANOS, WORST_CASE_NANOS, SettleKind.UNKNOWN),
    )
    assert (outcome.status, agent.settled_nanos) == (RequestStatus.OK, WORST_CASE_NANOS)


async def test_a_failure_that_reports_no_usage_is_settled_at_the_reservation() -> None:
    """`REPORTED` without numbers is as good as unknown: it must not be booked as free."""
    agent = await an_agent()
    failure = ArmFailed("bad_response", "odd", settle=SettleKind.REPORTED, usage=None)
    agent.cloud.play = Play(words=(), failure=failure)
    await read(await agent.chat(ask()))
    assert agent.settled_nanos == WORST_CASE_NANOS


async def test_what_a_provider_says_beside_its_counts_is_passed_on() -> None:
    """Cached and hidden tokens are the client's to see."""
    agent = await an_agent()
    details = {"prompt_tokens_details": {"cached_tokens": 16}}
    agent.cloud.play = Play(usage=Usage(20, 30, 16, details))
    answer = await agent.chat(ask(stream=False))
    assert answer.response is not None
    assert answer.response["usage"].items() >= details.items()
    assert answer.usage == answer.response["usage"]


async def test_a_pinned_endpoint_s_rate_limit_is_the_client_s() -> None:
    """429 with the time that the endpoint named; nothing was billed."""
    agent = await an_agent()
    failure = ArmFailed("http_429", "slow down", retry_after_s=9)
    agent.cloud.play = Play(words=(), failure=failure)
    with pytest.raises(RequestRefused) as caught:
        await agent.chat(ask(model="cloud"))
    assert (429, 9) == (caught.value.status, caught.value.retry_after_s)
    assert (agent.settled_nanos, agent.local.calls) == (0, [])


def ask_for_vectors(**changes: Any) -> ClientRequest:
    """A request for the embedding of one text."""
    body = {"model": "auto", "input": ["Hello"], "user": "me"}
    values: dict[str, Any] = {"model": "auto", "kind": RequestKind.EMBEDDINGS, **changes}
    return replace(ask(stream=False), body=body, **values)


EMBEDDER = frozenset({"embeddings"})


async def test_embeddings_pass_the_gate_and_cost_their_input() -> None:
    """One call with the listed fields, a reservation for the input alone, booked as reported."""
    agent = await an_agent(cloud_arm(capabilities=EMBEDDER, fields=frozenset({"user"})))
    answer = await agent.chat(ask_for_vectors())
    (call,) = agent.cloud.embed_calls
    assert (("Hello",), (), {"user": "me"}) == (call.inputs, call.token_inputs, call.fields)
    outcome = agent.outcomes.get_nowait()
    assert ("cloud", "pinned", True) == (outcome.arm, outcome.reason, outcome.forced)
    (attempt,) = outcome.attempts
    assert ((200 + 16 + 64) * 100, 700) == (attempt.reserved_nanos, attempt.cost_nanos)
    assert (answer.usage["prompt_tokens"], agent.settled_nanos) == (7, 700)
    assert answer.response is not None
    assert "cloud" == answer.response["model"]
    assert [(0, (0.5, 1.0))] == [(e["index"], e["embedding"]) for e in answer.response["data"]]


async def test_token_ids_go_to_an_arm_that_takes_them() -> None:
    """They are no texts, and are told apart."""
    arm = cloud_arm(capabilities=EMBEDDER | {"token_input"}, fields=frozenset({"user"}))
    agent = await an_agent(arm)
    body = {"model": "auto", "input": [[1, 2], [3]], "user": "me"}
    await agent.chat(replace(ask_for_vectors(), body=body))
    (call,) = agent.cloud.embed_calls
    assert ((), ((1, 2), (3,))) == (call.inputs, call.token_inputs)


async def test_embeddings_have_no_fallback() -> None:
    """The vectors of another model would be of no use."""
    agent = await an_agent(cloud_arm(capabilities=EMBEDDER, fields=frozenset({"user"})))
    agent.cloud.play = Play(failure=ArmFailed("http_503", "busy"))
    with pytest.raises(RequestRefused) as caught:
        await agent.chat(ask_for_vectors())
    assert (503, []) == (caught.value.status, agent.local.calls)


@pytest.mark.parametrize(("can", "asked"), [({"completions"}, "prompt"), (set(), "messages")])
async def test_a_bare_prompt_goes_to_arms_that_continue_it(can: set[str], asked: str) -> None:
    """To every other arm it is a user's message."""
    agent = await an_agent(cloud_arm(capabilities=frozenset(can)))
    await agent.chat(replace(ask(stream=False), prompt="Hello?"))
    body = agent.cloud.calls[0].body
    assert {"model", "max_tokens", asked} == set(body)
    assert "Hello?" in str(body[asked])


async def test_a_request_that_only_this_arm_cannot_serve_goes_to_another() -> None:
    """If no other can either, the client gets the arm's own words, and no breaker opens."""
    agent = await an_agent()
    failure = ArmFailed("unsupported", "`x` is not known here", param="x")
    agent.local.play = Play(words=(), failure=failure)
    for number in range(4):
        with pytest.raises(RequestRefused, match="`x` is not known here") as caught:
            await agent.chat(ask(f"r{number}", model="tiny"))
        told = caught.value
        assert (400, "unsupported", "x") == (told.status, told.code, told.param)


async def test_the_time_to_the_first_token_is_the_backend_s() -> None:
    """It measures where the token is made, also for an answer that comes in one piece."""
    agent = await an_agent()
    agent.local.play = Play(timing=Timing(ttft_ms=12.0, run_ms=20.0))
    await agent.chat(ask(model="tiny", stream=False))
    assert 12 == agent.outcomes.get_nowait().ttft_ms


async def leave_after_the_first_chunk(agent: Agent) -> None:
    """Take one chunk and go, while the provider still writes."""
    chunks = aiter((await agent.chat(ask())).chunks())
    await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]


async def test_a_drained_call_is_booked_as_reported() -> None:
    """The client has gone, the call is read to its end, and the true usage is booked (S_5)."""
    agent = await an_agent()
    agent.cloud.play.until = asyncio.Event()
    await leave_after_the_first_chunk(agent)
    agent.cloud.play.until.set()
    outcome = await agent.outcomes.get()
    assert (outcome.status, outcome.cost_nanos) == (RequestStatus.ABORTED, USAGE_NANOS)
    assert (agent.settled_nanos, agent.spooled()) == (USAGE_NANOS, [outcome])


@pytest.mark.parametrize(
    "arm",
    [cloud_arm(on_abort=OnAbort.CANCEL), cloud_arm(drain_timeout_ms=0)],
    ids=["cancel", "drain takes too long"],
)
async def test_a_call_that_is_cut_off_is_booked_at_the_reservation(arm: Arm) -> None:
    """Cancelled at once, or after the drain's time is over: nobody knows the usage (S_2)."""
    agent = await an_agent(arm)
    agent.cloud.play.until = asyncio.Event()
    await leave_after_the_first_chunk(agent)
    outcome = await agent.outcomes.get()
    assert (outcome.status, outcome.cost_nanos) == (RequestStatus.ABORTED, WORST_CASE_NANOS)
    assert outcome.attempts[0].error == "client_gone"
    assert (agent.settled_nanos, agent.spooled()) == (WORST_CASE_NANOS, [outcome])
    assert agent.books.disk.state.reservations == {}


class SlowBooks(MemoryBooks):
    """Books that take their time over reservations."""

    def __init__(self) -> None:
        super().__init__()
        self.reserving, self.go_on = asyncio.Event(), asyncio.Event()

    async def commit(self, effects: Sequence[BookEffect], **options: Any) -> None:
        await super().commit(effects, **options)
        if any(isinstance(effect, PutReservation) for effect in effects):
            self.reserving.set()
            await self.go_on.wait()


@pytest.mark.parametrize("on_abort", [OnAbort.CANCEL, OnAbort.DRAIN])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_its_call_is_made_pays_nothing(
    on_abort: OnAbort, stream: bool
) -> None:
    """The reservation is still being written: the call is not executed, and never is (S_2)."""
    books = SlowBooks()
    agent = Agent(cloud_arm(on_abort=on_abort), books=books)
    await agent.lend()
    gone: asyncio.Future[None] = asyncio.Future()
    asking = asyncio.create_task(agent.service.answer(ask(stream=stream), gone))
    await books.reserving.wait()
    gone.set_result(None)
    with pytest.raises(RequestRefused):
        await asking
    books.go_on.set()
    outcome = await agent.outcomes.get()
    (attempt,) = outcome.attempts
    assert (SettleKind.RELEASED, 0) == (attempt.settle, attempt.cost_nanos)
    assert (RequestStatus.ABORTED, "client_gone") == (outcome.status, attempt.error)
    assert [] == agent.cloud.calls
    assert (0, [outcome]) == (agent.settled_nanos, agent.spooled())
    assert {} == books.disk.state.reservations


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_its_call_connects_pays_nothing(stream: bool) -> None:
    """No byte of it was sent: as with a dead endpoint nothing can have been executed (S_2)."""
    agent = await an_agent(cloud_arm(on_abort=OnAbort.CANCEL))
    agent.cloud.play = Play(words=(), until=asyncio.Event(), connects=False)
    gone: asyncio.Future[None] = asyncio.Future()
    asking = asyncio.create_task(agent.service.answer(ask(stream=stream), gone))
    await agent.cloud.called.wait()
    gone.set_result(None)
    with pytest.raises(RequestRefused):
        await asking
    outcome = await agent.outcomes.get()
    (attempt,) = outcome.attempts
    assert (RequestStatus.ABORTED, "client_gone") == (outcome.status, attempt.error)
    assert (SettleKind.RELEASED, 0) == (attempt.settle, agent.settled_nanos)


async def test_a_client_that_leaves_before_the_first_token_stops_its_request() -> None:
    """The wait ends with 499, no fallback is tried, and the call is booked."""
    agent = await an_agent(cloud_arm(on_abort=OnAbort.CANCEL))
    agent.cloud.play = Play(words=(), until=asyncio.Event())
    gone: asyncio.Future[None] = asyncio.Future()
    asking = asyncio.create_task(agent.service.answer(ask(), gone))
    await agent.cloud.called.wait()
    gone.set_result(None)
    with pytest.raises(RequestRefused) as caught:
        await asking
    outcome = await agent.outcomes.get()
    assert (caught.value.status, outcome.cost_nanos) == (499, WORST_CASE_NANOS)
    assert agent.local.calls == []


async def test_a_defect_in_a_backend_does_not_keep_the_reservation_open() -> None:
    """Whatever ends a request, its reservation is settled and its outcome spooled."""
    agent = await an_agent()
    agent.cloud.play = Play(words=(), failure=ZeroDivisionError("a defect"))
    with pytest.raises(RequestRefused) as caught:
        await agent.chat(ask())
    outcome = agent.outcomes.get_nowait()
    assert (caught.value.status, outcome.status) == (500, RequestStatus.INTERRUPTED)
    assert (agent.settled_nanos, agent.spooled()) == (WORST_CASE_NANOS, [outcome])


@pytest.mark.parametrize("stream", [True, False])
async def test_a_key_gets_the_same_answer_and_pays_once(stream: bool) -> None:
    """A second request with the key is answered from memory, word for word (rule S_1)."""
    agent = await an_agent()
    first = await agent.chat(ask(idempotency_key="k", stream=stream))
    said = await read(first) if stream else []
    second = await agent.chat(ask("r2", idempotency_key="k", stream=stream))
    assert (second.head, second.response) == (first.head, first.response)
    assert await read(second) == said
    assert (len(agent.cloud.calls), agent.settled_nanos) == (1, USAGE_NANOS)
    assert second.cost_nanos == USAGE_NANOS


async def test_a_key_waits_for_the_answer_that_is_under_way() -> None:
    """Two requests with one key at the same time make one call."""
    agent = await an_agent()
    both = [agent.chat(ask(name, idempotency_key="k", stream=False)) for name in ("r1", "r2")]
    one, other = await asyncio.gather(*both)
    assert one.response == other.response
    assert len(agent.cloud.calls) == 1


async def test_a_key_with_another_body_is_a_conflict() -> None:
    """A key stands for one request; another one gets 409 and makes no call."""
    agent = await an_agent()
    await agent.chat(ask(idempotency_key="k", stream=False))
    with pytest.raises(RequestRefused) as caught:
        await agent.chat(ask("r2", idempotency_key="k", stream=False, text="Something else"))
    assert (caught.value.status, caught.value.code) == (409, "idempotency_key_reused")
    assert len(agent.cloud.calls) == 1


async def test_a_key_whose_request_failed_is_free_again() -> None:
    """Without an answer there is nothing to repeat: the next request is tried anew."""
    agent = await an_agent()
    agent.cloud.play = Play(words=(), failure=ArmFailed("http_503", "busy", client_error=True))
    with pytest.raises(RequestRefused):
        await agent.chat(ask(idempotency_key="k", stream=False))
    agent.cloud.play = Play()
    answer = await agent.chat(ask("r2", idempotency_key="k", stream=False))
    assert answer.head.request_id == "r2"


async def test_with_a_full_disk_the_local_arm_answers() -> None:
    """A reservation that cannot be written is not acted on; local answers go on (rule O_3)."""
    agent = await an_agent()
    agent.books.fail_with = BooksFullError("no space")
    answer = await agent.chat(ask())
    assert (answer.head.arm, words(await read(answer))) == ("tiny", "local")
    assert (agent.cloud.calls, agent.spooled()) == ([], [])
    assert "books_full: paid arms are closed; free some disk" in agent.service.readiness().problems
    second = await agent.chat(ask("r2"))
    assert second.head.reason == "table;without:cloud=books_full"


async def test_who_asks_for_health_hears_why_nobody_can_answer() -> None:
    """A paid arm's key is not there, and the fleet knows this device's model by no such name."""
    agent = await an_agent()
    agent.engine.configured(device_config(cloud_arm(), local_arm("other"), version=2))
    assert agent.service.readiness().ready
    agent.cloud.key_problem = "the key of arm cloud: the environment variable KEY is not set"
    found = agent.service.readiness()
    assert not found.ready
    assert [] == found.details["arms"]
    assert (
        "the key of arm cloud: the environment variable KEY is not set",
        "tiny: the fleet has no arm of this name for this device, so nothing is asked of it",
    ) == found.problems


async def test_with_broken_books_the_local_arm_answers() -> None:
    """They close the paid arms until the next start, and no client goes without (promise P2)."""
    agent = await an_agent()
    agent.cloud.play.until = asyncio.Event()
    paid = await agent.chat(ask())
    agent.books.fail_with = StoreError("the disk has a hole")
    agent.cloud.play.until.set()
    assert "Hello" == words(await read(paid))
    for number in (2, 3):
        answer = await agent.chat(ask(f"r{number}"))
        assert ("tiny", "local") == (answer.head.arm, words(await read(answer)))
        assert "table;without:cloud=books_broken" == answer.head.reason
    assert 1 == len(agent.cloud.calls)
    (problem,) = agent.service.readiness().problems
    assert "books_broken: paid arms are closed; restart the agent" == problem


async def test_a_reservation_that_broken_books_refuse_is_not_acted_on() -> None:
    """Nor is the arm taken for a bad one."""
    agent = await an_agent()
    agent.books.fail_with = StoreError("the disk has a hole")
    answer = await agent.chat(ask())
    assert ("tiny", "local") == (answer.head.arm, words(await read(answer)))
    assert "fallback:cloud=books_broken" == answer.head.reason
    assert [] == agent.cloud.calls


async def test_what_a_refused_paid_arm_left_to_write_does_not_fail_the_local_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk is found to be full only now: the local answer needs nothing of it (rule O_3)."""
    agent = Agent()
    attempt_next = agent.engine.next_attempt

    def with_changes(
        request_id: str, *, boot_ms: int
    ) -> tuple[AttemptPlan | None, list[BookEffect]]:
        plan, effects = attempt_next(request_id, boot_ms=boot_ms)
        return plan, [*effects, PutMeta(MetaKey.BOOT_ID, "changed")]

    monkeypatch.setattr(agent.engine, "next_attempt", with_changes)
    agent.books.fail_with = BooksFullError("no space")
    answer = await agent.chat(ask())
    assert ("tiny", "local") == (answer.head.arm, words(await read(answer)))
    agent.books.fail_with = None
    await agent.service.tidy()
    assert "changed" == agent.books.disk.state.meta[MetaKey.BOOT_ID]


async def test_what_a_full_disk_kept_back_is_written_later_in_order() -> None:
    """When there is room again every outcome is in the books, and paid arms open."""
    agent = await an_agent()
    agent.cloud.play.until = asyncio.Event()
    paid = await agent.chat(ask())
    agent.books.fail_with = BooksFullError("no space")
    agent.cloud.play.until.set()
    await read(paid)
    await read(await agent.chat(ask("r2")))
    await agent.service.tidy()
    assert (agent.settled_nanos, agent.spooled()) == (0, [])
    agent.books.fail_with = None
    await agent.service.tidy()
    assert agent.spooled() == [agent.outcomes.get_nowait(), agent.outcomes.get_nowait()]
    assert (agent.settled_nanos, agent.books.disk.state.reservations) == (USAGE_NANOS, {})
    assert (await agent.chat(ask("r3"))).head.arm == "cloud"


async def test_a_stream_that_a_defect_cut_off_ends_with_an_error() -> None:
    """Half an answer must not look like a whole one."""
    agent = await an_agent()
    agent.cloud.play = Play(failure=RuntimeError("a defect"))
    answer = await agent.chat(ask())
    with pytest.raises(RequestRefused, match="request id r1") as caught:
        await read(answer)
    assert (caught.value.status, caught.value.code) == (500, "internal_error")


async def test_a_defect_before_the_first_token_is_told_as_one() -> None:
    """The agent is not stopping, so it must not say so."""
    agent = await an_agent()
    agent.cloud.play = Play(words=(), failure=RuntimeError("a defect"))
    with pytest.raises(RequestRefused) as caught:
        await agent.chat(ask())
    assert (caught.value.status, caught.value.code) == (500, "internal_error")


async def test_a_stream_that_the_agent_s_end_cuts_off_ends_with_an_error() -> None:
    """The client knows that the answer is not whole, and that it may ask again."""
    agent = await an_agent()
    agent.cloud.play = Play(until=asyncio.Event())
    answer = await agent.chat(ask())
    reading = asyncio.create_task(read(answer))
    await asyncio.sleep(0)
    await agent.service.stop(grace_s=0.0)
    with pytest.raises(RequestRefused) as caught:
        await reading
    assert (caught.value.status, caught.value.code) == (503, "stopping")


async def test_a_key_is_free_again_after_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise whoever sends it again would wait for ever."""
    agent = await an_agent()
    monkeypatch.setattr(agent.engine, "begin", None)
    with pytest.raises(TypeError):
        await agent.chat(ask(idempotency_key="k"))
    monkeypatch.undo()
    answer = await agent.chat(ask("r2", idempotency_key="k", stream=False))
    assert "r2" == answer.head.request_id
