"""One request under way: attempts, fallback, delivery, settlement.

The request runs in a task of its own, so that a paid call whose client has gone can be read to its
end (rule S_5) and every way out settles and spools exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from edge_agent.answer_text import AnswerText
from edge_agent.attempts import AttemptEnd, AttemptPlan
from edge_agent.bookkeeper import Bookkeeper, problem_of
from edge_agent.books import spooled_in
from edge_agent.candidates import COMPLETIONS
from edge_agent.engine import AgentEngine
from edge_agent.idempotency import Kept
from edge_agent.judging import Order
from edge_agent.ports import (
    NOTHING_SENT,
    ArmFailed,
    ChatCall,
    Chunk,
    CloudClient,
    EmbedCall,
    Finished,
    LocalModels,
    Usage,
)
from edge_agent.refusals import internal_error
from edge_agent.requests import Answer, AnswerHead, ClientRequest, RequestKind, RequestRefused
from shared.clock import Clock
from shared.decision.money import dollars
from shared.decision.types import OnAbort, Outcome, RequestStatus, SettleKind, SpoolBody
from shared.errors import StoreError

log = structlog.get_logger(__name__)
_ALWAYS_SENT: Final = frozenset({"model", "messages", "max_tokens", "input"})
_END: Final = object()
LEASE_WAIT_S: Final = 0.4
"""How long a request waits for a lease: the link's sending gap, a round trip, and a sync."""
SYNC_WAIT_S: Final = 0.25
"""How long for a watermark that is behind: the sync under way, and the one that is asked for."""


class LeaseNews:
    """Wakes the requests that wait for a lease, or its sync, when one may have room for them.

    And the house-keeping, when one of them waits for a sync.
    """

    def __init__(self) -> None:
        self._heard = asyncio.Event()
        self._wanted = asyncio.Event()

    def tell(self) -> None:
        """A lease has come, was refused, or has room again."""
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    async def wait(self) -> None:
        """Return at the next news."""
        await self._heard.wait()

    def want_sync(self) -> None:
        """A request waits for a watermark that a sync would let it use."""
        self._wanted.set()

    async def sync_wanted(self, *, within_s: float) -> None:
        """Return when a sync is wanted, or after so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._wanted.wait()
        self._wanted.clear()


class RunningAnswer(Answer):
    """The client's side of a request under way."""

    def __init__(self, run: RequestRun, head: AnswerHead) -> None:
        self._run = run
        self.head = head
        self.response = run.response

    async def chunks(self) -> AsyncIterator[Mapping[str, Any]]:
        try:
            while (item := await self._run.delivered.get()) is not _END:
                if isinstance(item, RequestRefused):
                    raise item
                yield item
        finally:
            self._run.client_gone()

    @property
    def usage(self) -> Mapping[str, Any]:
        return self._run.usage

    @property
    def cost_nanos(self) -> int:
        return self._run.cost_nanos


class RequestRun:
    """Runs one admitted request to its outcome.

    Attributes
    ----------
    first : Future of AnswerHead
        Done when the first chunk or the whole response is there, or with `RequestRefused`.
    delivered : Queue
        Chunks for the client, an error that came after the first one, and the end mark.
    """

    def __init__(
        self,
        request: ClientRequest,
        *,
        engine: AgentEngine,
        bookkeeper: Bookkeeper,
        local: LocalModels,
        cloud: CloudClient,
        clock: Clock,
        on_spooled: Callable[[SpoolBody], None],
        lease_news: LeaseNews | None = None,
        keep: Callable[[Kept | None], None] | None = None,
        on_judge: Callable[[Order], None] | None = None,
    ) -> None:
        self._request = request
        self._on_judge = on_judge
        self._text = AnswerText()
        self._keep = keep
        self._sent: list[Mapping[str, Any]] = []
        self._engine = engine
        self._bookkeeper = bookkeeper
        self._local = local
        self._cloud = cloud
        self._clock = clock
        self._on_spooled = on_spooled
        self._lease_news = lease_news or LeaseNews()
        self._plan: AttemptPlan | None = None
        self._called = False
        self._attempt_started_ms = 0.0
        self._ttft_ms = 0
        self._gone = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        self.first: asyncio.Future[AnswerHead] = asyncio.get_running_loop().create_future()
        self.delivered: asyncio.Queue[Any] = asyncio.Queue()
        self.response: Mapping[str, Any] | None = None
        self.usage: Mapping[str, Any] = {}
        self.cost_nanos = 0

    def start(self) -> asyncio.Task[None]:
        """Run in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=self._request.request_id)
        return self._task

    def client_gone(self) -> None:
        """Nobody waits any more: the arm's `on_abort` decides what becomes of a paid call."""
        if self._ended or self._gone or self._task is None:
            return
        self._gone = True
        cloud = self._plan.arm.cloud if self._plan else None
        if cloud is not None and cloud.on_abort is OnAbort.DRAIN:
            loop = asyncio.get_running_loop()
            loop.call_later(cloud.drain_timeout_ms / 1000, self._task.cancel)
        else:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while not self._gone:
                plan, effects = await self._next_attempt()
                self._plan = plan
                if plan is None:
                    await self._bookkeeper.commit_if_possible(effects)
                    await self._refuse()
                    return
                if await self._attempt(plan, reserved=effects):
                    return
            await self._finish(RequestStatus.ABORTED, end=None)
        except asyncio.CancelledError:
            await self._cut_off()
            if not self._gone:
                self._tell(_stopping())  # else half an answer would look like a whole one
                raise
        except Exception:
            await self._cut_off()  # a defect, which must not keep the reservation open
            self._tell(internal_error(self._request.request_id))
            raise
        finally:
            self._ended = True
            if self._keep is not None:
                self._keep(None)
            if not self.first.done():
                self.first.set_exception(_stopping())
                self.first.exception()
            self.delivered.put_nowait(_END)

    async def _next_attempt(self) -> tuple[AttemptPlan | None, list[Any]]:
        """The next arm that may answer; where only a lease is missing, wait for it once (L_6)."""
        request_id = self._request.request_id
        plan, effects = self._pass_the_gate()
        if not self._engine.waits_for_lease(request_id):
            return plan, effects
        try:
            async with asyncio.timeout(self._wait_s()):
                while self._engine.waits_for_lease(request_id):
                    if effects:  # at once: a row that is kept back would overwrite newer ones
                        await self._bookkeeper.commit_if_possible(effects)
                    else:
                        if self._engine.gate.sync_would_help:
                            self._lease_news.want_sync()
                        await self._lease_news.wait()
                    plan, effects = self._pass_the_gate()
        except TimeoutError:
            self._engine.give_up_waiting(request_id)
            plan, effects = self._pass_the_gate()
        return plan, effects

    def _wait_s(self) -> float:
        """How long it may wait; for a sync not beyond the deadline, if another arm may meet it."""
        request_id = self._request.request_id
        if not self._engine.gate.needs_sync(request_id):
            return LEASE_WAIT_S
        deadline_ms = self._engine.facts(request_id).deadline_ms
        if not deadline_ms or not self._engine.can_fall_back(request_id):
            return SYNC_WAIT_S
        return min(SYNC_WAIT_S, max(0.0, (deadline_ms - self._elapsed_ms()) / 1000))

    def _pass_the_gate(self) -> tuple[AttemptPlan | None, list[Any]]:
        return self._engine.next_attempt(self._request.request_id, boot_ms=self._clock.boot_ms())

    async def _attempt(self, plan: AttemptPlan, *, reserved: list[Any]) -> bool:
        """Try one arm; True when the request has ended with it."""
        self._attempt_started_ms = self._clock.monotonic_ms()
        self._text = AnswerText(self._engine.wants_text(self._request.request_id))
        self._called = False
        try:
            await self._bookkeeper.commit(reserved)
        except StoreError as error:
            if plan.arm.cloud is not None:  # a local answer needs nothing of the disk (rule O_3)
                why = "the reservation could not be written"
                await self._failed(ArmFailed(problem_of(error), why))
                return False
        if self._gone:  # there is nothing yet that could be drained (rule S_5)
            await self._cut_off()
            return True
        self._called = True
        try:
            if self._request.kind is RequestKind.EMBEDDINGS:
                finished = await self._embed(plan)
            else:
                finished = await self._chat(plan)
        except ArmFailed as failure:
            if self.first.done() or failure.client_error:
                await self._fail_for_good(failure)
                return True
            await self._failed(failure)
            return False
        except asyncio.CancelledError as cut:
            self._called = NOTHING_SENT not in cut.args  # else nobody can have executed it (S_2)
            raise
        await self._answered(finished, plan=plan)
        return True

    async def _embed(self, plan: AttemptPlan) -> Finished:
        """Have texts embedded; the vectors as the API's list."""
        body = self._body_for(plan)
        texts = body.pop("input")
        as_tokens = isinstance(texts[0], list)
        del body["model"]
        backend = self._local if plan.arm.cloud is None else self._cloud
        embedded = await backend.embed(
            EmbedCall(
                request_id=self._request.request_id,
                arm=plan.arm,
                inputs=() if as_tokens else tuple(texts),
                token_inputs=tuple(map(tuple, texts)) if as_tokens else (),
                fields=body,
            )
        )
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(embedded.vectors)
        ]
        return Finished(embedded.usage, {"object": "list", "data": data}, embedded.timing)

    async def _chat(self, plan: AttemptPlan) -> Finished:
        """Call the arm, hand its chunks on as they come, and return its last word."""
        call = ChatCall(
            request_id=self._request.request_id,
            arm=plan.arm,
            body=self._body_for(plan),
            stream=self._request.stream,
        )
        backend = self._local if plan.arm.cloud is None else self._cloud
        finished: Finished | None = None
        async with aclosing(backend.chat(call)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Chunk):
                    self._deliver(event, plan=plan)
                else:
                    finished = event
        if finished is None:
            raise ArmFailed(
                "no_answer", "the answer ended without a result", settle=SettleKind.UNKNOWN
            )
        return finished

    def _body_for(self, plan: AttemptPlan) -> dict[str, Any]:
        body = dict(self._request.body)
        if plan.arm.cloud is not None:
            allowed = plan.arm.cloud.fields | _ALWAYS_SENT
            body = {name: value for name, value in body.items() if name in allowed}
        if self._request.prompt is not None and COMPLETIONS in plan.arm.capabilities:
            del body["messages"]
            body["prompt"] = self._request.prompt
        body["model"] = plan.arm.model if plan.arm.cloud is not None else plan.arm.id
        if self._request.kind is RequestKind.CHAT:
            body["max_tokens"] = plan.max_tokens
        return body

    def _head(self, plan: AttemptPlan) -> AnswerHead:
        table, facts = self._engine.table, self._engine.facts(self._request.request_id)
        return AnswerHead(
            request_id=self._request.request_id,
            arm=plan.arm.id,
            reason=self._engine.reason(self._request.request_id),
            table_version=table.version if table else 0,
            max_tokens=plan.max_tokens,
            task_class=facts.task_class,
            origin=facts.origin,
        )

    def _deliver(self, chunk: Chunk, *, plan: AttemptPlan) -> None:
        if not self.first.done():
            self._ttft_ms = self._elapsed_ms()
            self.first.set_result(self._head(plan))
        self._send({**chunk.data, "model": plan.arm.id})

    def _send(self, chunk: Mapping[str, Any]) -> None:
        if self._text.wanted:
            self._text.take(chunk)
        if self._keep is not None:
            self._sent.append(chunk)
        if not self._gone:
            self.delivered.put_nowait(chunk)

    async def _answered(self, finished: Finished, *, plan: AttemptPlan) -> None:
        usage, timing = finished.usage, finished.timing
        if timing is not None:
            # Measured where the token was made; what went before is our own.
            waited_ms = self._attempt_started_ms - self._request.arrived_monotonic_ms
            self._ttft_ms = round(waited_ms + timing.ttft_ms)
        end = self._end(SettleKind.REPORTED if usage else SettleKind.UNKNOWN, usage=usage)
        head = self._head(plan)
        status = RequestStatus.ABORTED if self._gone else RequestStatus.OK
        judge = self._engine.judge_of(self._request.request_id)
        text = self._text.of(finished.response)
        outcome = await self._finish(status, end=end, text=text)
        if judge is not None and text is not None and outcome.arm and self._on_judge is not None:
            self._on_judge(Order(outcome, judge, self._request.body["messages"], text))
        counted = self.usage = _usage_json(usage, cost_nanos=outcome.cost_nanos)
        if finished.response is not None:
            self.response = {**finished.response, "model": plan.arm.id, "usage": counted}
        elif self._request.include_usage:
            self._send(self._usage_chunk(plan, usage=counted))
        if not self.first.done():
            self.first.set_result(head)
        if self._keep is not None:
            kept = Kept(head, self.response, tuple(self._sent), counted, self.cost_nanos)
            self._keep(kept)

    def _usage_chunk(self, plan: AttemptPlan, *, usage: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._request.request_id}",
            "object": "chat.completion.chunk",
            "created": self._clock.unix_ms() // 1000,
            "model": plan.arm.id,
            "choices": [],
            "usage": usage,
        }

    async def _failed(self, failure: ArmFailed) -> None:
        log.info(
            "attempt_failed",
            request_id=self._request.request_id,
            arm=self._plan.arm.id if self._plan else "",
            reason=failure.reason,
            problem=str(failure),
        )
        end = self._end_of(failure)
        effects = self._engine.attempt_failed(
            self._request.request_id, end, now_ms=self._clock.monotonic_ms()
        )
        self._plan = None
        self._tell_who_waits()
        await self._bookkeeper.commit_if_possible(effects)

    async def _fail_for_good(self, failure: ArmFailed) -> None:
        end = self._end_of(failure)
        status = 400 if failure.client_error else 502
        refused = RequestRefused(status, failure.reason, str(failure), param=failure.param)
        await self._finish(RequestStatus.ERROR, end=end)
        self._tell(refused)

    async def _refuse(self) -> None:
        refused = self._engine.refusal(self._request.request_id, unix_ms=self._clock.unix_ms())
        status = RequestStatus.ERROR if refused.status >= 500 else RequestStatus.REFUSED
        await self._finish(status, end=None)
        self._tell(refused)

    def _tell(self, refused: RequestRefused) -> None:
        if self.first.done():
            self.delivered.put_nowait(refused)
        else:
            self.first.set_exception(refused)
            self.first.exception()  # whoever waited may have gone

    async def _cut_off(self) -> None:
        """The request ends here: nobody will know the usage of a call under way (rule I5).

        A call that was still to be made costs nothing (rule S_2).
        """
        if self._engine.knows(self._request.request_id):
            end = None
            if self._plan is not None:
                error = "client_gone" if self._gone else "interrupted"
                settle = SettleKind.UNKNOWN if self._called else SettleKind.RELEASED
                end = self._end(settle, usage=None, error=error)
            status = RequestStatus.ABORTED if self._gone else RequestStatus.INTERRUPTED
            await self._finish(status, end=end)

    async def _finish(
        self, status: RequestStatus, *, end: AttemptEnd | None, text: str | None = None
    ) -> Outcome:
        outcome, effects = self._engine.finish(
            self._request.request_id,
            status=status,
            end=end,
            ttft_ms=self._ttft_ms,
            latency_ms=self._elapsed_ms(),
            text=text,
        )
        self._plan = None
        self.cost_nanos = outcome.cost_nanos
        for body in spooled_in(effects):
            self._on_spooled(body)
        self._tell_who_waits()
        await self._bookkeeper.commit_if_possible(effects)
        return outcome

    def _tell_who_waits(self) -> None:
        """What was reserved here beyond its cost may do for another request."""
        if self._engine.gate.anybody_waits:
            self._lease_news.tell()

    def _end_of(self, failure: ArmFailed) -> AttemptEnd:
        end = self._end(failure.settle, usage=failure.usage, error=failure.reason)
        return replace(
            end,
            retry_after_s=failure.retry_after_s,
            problem=str(failure),
            param=failure.param,
        )

    def _end(self, settle: SettleKind, *, usage: Usage | None, error: str = "") -> AttemptEnd:
        now_ms = self._clock.monotonic_ms()
        if settle is SettleKind.REPORTED and usage is None:
            settle = SettleKind.UNKNOWN  # a report without numbers must not be booked as free
        return AttemptEnd(
            latency_ms=round(now_ms - self._attempt_started_ms),
            settle=settle,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            error=error,
        )

    def _elapsed_ms(self) -> int:
        return round(self._clock.monotonic_ms() - self._request.arrived_monotonic_ms)


def _usage_json(usage: Usage | None, *, cost_nanos: int) -> dict[str, Any]:
    counted: dict[str, Any] = {"cost_usd": dollars(cost_nanos)}
    if usage is not None:
        if usage.cached_tokens:
            counted["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
        counted |= usage.details
        counted["prompt_tokens"] = usage.prompt_tokens
        counted["completion_tokens"] = usage.completion_tokens
        counted["total_tokens"] = usage.prompt_tokens + usage.completion_tokens
    return counted


def _stopping() -> RequestRefused:
    return RequestRefused(
        503, "stopping", "the agent is stopping; send the request again", retry_after_s=2
    )
