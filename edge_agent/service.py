"""Drives the agent's engine: the facade behind HTTP, and the house-keeping beside it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from edge_agent.answering import LeaseNews, RequestRun, RunningAnswer
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BOOKS_FULL, BookEffect
from edge_agent.candidates import ArmCondition, RequestFacts, capabilities_of
from edge_agent.device_limits import DeviceLimits
from edge_agent.device_watch import DeviceWatch
from edge_agent.engine import AgentEngine
from edge_agent.feedback import ClientFeedback
from edge_agent.idempotency import IdempotentAnswers, Kept, KeptAnswer
from edge_agent.judging import JudgeRun, Order
from edge_agent.openai_request import facts_of, prompt_text
from edge_agent.ports import (
    Classifier,
    CloudClient,
    DeviceSensors,
    LocalModels,
    ModelState,
)
from edge_agent.provider_keys import ProviderKeys
from edge_agent.requests import (
    MODEL_AUTO,
    NO_ORIGIN,
    AgentFacade,
    Answer,
    AnswerHead,
    ClientRequest,
    ListedModel,
    Readiness,
    RequestKind,
    RequestRefused,
    RouteDecision,
    TaskOrigin,
    TaskSource,
)
from shared.clock import Clock
from shared.decision.types import (
    ArmKind,
    CloudSettings,
    DeviceState,
    Fallout,
    SpoolBody,
)
from shared.errors import BooksFullError, StoreError
from shared.limits import COMPACT_RECORDS_MAX, REQUESTS_IN_FLIGHT_MAX

log = structlog.get_logger(__name__)
HOUSE_KEEPING_S = 0.1
NO_LIMITS = DeviceLimits()
NO_KEY = "no_provider_key"


class AgentService(AgentFacade):
    """The agent at work.

    Parameters
    ----------
    rng : random.Random
        For the draws from the selection table.
    on_spooled : callable
        Told every outcome, grade and judge's call, for metrics.
    limits : DeviceLimits
        What closes arms when the sensors say so.

    Attributes
    ----------
    watch : DeviceWatch
        The machine's condition.
    provider_keys : ProviderKeys
        What the coordinator has delivered.
    lease_news : LeaseNews
        Whoever brings the coordinator's word on a lease tells it.
    """

    def __init__(
        self,
        engine: AgentEngine,
        *,
        bookkeeper: Bookkeeper,
        local: LocalModels,
        cloud: CloudClient,
        sensors: DeviceSensors,
        classifier: Classifier | None,
        clock: Clock,
        rng: random.Random,
        on_spooled: Callable[[SpoolBody], None],
        limits: DeviceLimits = NO_LIMITS,
        provider_keys: ProviderKeys | None = None,
    ) -> None:
        self._engine = engine
        self._bookkeeper = bookkeeper
        self._local = local
        self._cloud = cloud
        self._classifier = classifier
        self._clock = clock
        self._rng = rng
        self._on_spooled = on_spooled
        self.watch = DeviceWatch(sensors, limits=limits)
        self.provider_keys = provider_keys or ProviderKeys()
        self.lease_news = LeaseNews()
        self._idempotent = IdempotentAnswers()
        self._runs: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._house_keeping: list[asyncio.Task[None]] = []
        self._tidy = asyncio.Lock()
        self._untidy = False
        self._feedback = ClientFeedback(
            engine, bookkeeper=bookkeeper, clock=clock, on_spooled=on_spooled
        )

    async def start(self) -> None:
        """Recover from the last run, start the models and the house-keeping."""
        await self._bookkeeper.commit_or_keep(self._engine.recover(), sync=True)
        await self.tidy()  # the budgets of keys open before the first request
        await self.watch.look()
        await self._local.start()
        self._note_capabilities()
        await self.follow_table()
        await self.follow_classes()
        self._house_keeping = [
            asyncio.create_task(self._keep_house(), name="house-keeping"),
            asyncio.create_task(self.watch.run(), name="device-watch"),
        ]

    async def wait_failed(self) -> None:
        """Return only by raising what made the house-keeping stop."""
        if self._house_keeping:
            await asyncio.shield(self._house_keeping[0])

    async def stop(self, *, grace_s: float) -> None:
        """Finish running answers, give leases back, stop the models."""
        self._take_no_more()
        if self._runs:
            await asyncio.wait(self._runs, timeout=grace_s)
        self.interrupt()
        if self._runs:
            await asyncio.wait(self._runs)
        for task in self._house_keeping:
            task.cancel()
        await asyncio.gather(*self._house_keeping, return_exceptions=True)
        effects = self._engine.gate.recalled(
            0, boot_ms=self._clock.boot_ms(), reason="agent stopped"
        )
        await self.tidy_if_possible(first=effects)
        await self._local.stop()
        await self._cloud.close()

    def interrupt(self) -> None:
        """End the answers under way; each tells its client that the agent is stopping."""
        self._take_no_more()
        for task in self._runs:
            task.cancel()

    def _take_no_more(self) -> None:
        self._stopping = True
        self._engine.gate.stopping = True

    async def answer(self, request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        self._refuse_when_unable()
        facts = self._facts(request)
        keep: Callable[[Kept | None], None] | None = None
        if request.idempotency_key:
            now_ms = self._clock.monotonic_ms()
            while (earlier := self._idempotent.find(request, now_ms=now_ms)) is not None:
                waiting: set[asyncio.Future[Any]] = {earlier, gone}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if not earlier.done():
                    raise _client_gone()
                if not earlier.cancelled():
                    return KeptAnswer(earlier.result())
            keep = self._idempotent.claim(request, now_ms=now_ms)
        now_ms = self._clock.monotonic_ms()
        try:
            self._engine.begin(
                facts,
                conditions=self.conditions(),
                now_ms=now_ms,
                uniform=self._rng.random(),
                sample=self._rng.random(),
            )
        except BaseException:
            if keep is not None:
                keep(None)  # else whoever sends the key again waits for ever
            raise
        run = RequestRun(
            request,
            engine=self._engine,
            bookkeeper=self._bookkeeper,
            local=self._local,
            cloud=self._cloud,
            clock=self._clock,
            on_spooled=self._on_spooled,
            lease_news=self.lease_news,
            keep=keep,
            on_judge=self._judge,
        )
        self._began(run.start())
        return RunningAnswer(run, await _first(run, gone))

    def models(self) -> Sequence[ListedModel]:
        conditions = self.conditions()
        return [
            ListedModel(
                id=arm.id,
                kind=str(arm.kind),
                available=arm.enabled and _usable(conditions.get(arm.id)),
                capabilities=capabilities_of(arm),
            )
            for arm in self._engine.config.arms
        ]

    def route(self, request: ClientRequest) -> RouteDecision:
        return self._engine.route(
            self._facts(request),
            conditions=self.conditions(),
            now_ms=self._clock.monotonic_ms(),
            uniform=self._rng.random(),
        )

    def _began(self, task: asyncio.Task[None]) -> None:
        self._runs.add(task)
        task.add_done_callback(self._run_ended)

    def _judge(self, order: Order) -> None:
        """Ask a judge about an answer, beside the requests of clients."""
        if self._stopping:
            return
        run = JudgeRun(
            order,
            engine=self._engine,
            bookkeeper=self._bookkeeper,
            cloud=self._cloud,
            clock=self._clock,
            graded_already=self._feedback.is_graded,
            grading=self._feedback.lock,
            on_spooled=self._on_spooled,
        )
        self._began(asyncio.create_task(run.run(), name=run.call_id))

    async def feedback(
        self, *, request_id: str, score: float, source: str, key_tag: str = ""
    ) -> bool:
        return await self._feedback.give(request_id, score=score, source=source, key_tag=key_tag)

    def readiness(self) -> Readiness:
        engine, classifier = self._engine, self._classifier
        config, table, conditions = engine.config, engine.table, self.conditions()
        keyless = {
            arm.id: problem for arm in config.arms if (problem := self._cloud.key_problem(arm))
        }
        usable = [
            arm.id
            for arm in config.arms
            if arm.enabled and arm.id not in keyless and _usable(conditions.get(arm.id))
        ]
        problems = [f"{each.arm}: {each.problem}" for each in self._local.status() if each.problem]
        problems += keyless.values()
        problems += [
            f"{arm}: the fleet has no arm of this name for this device, so nothing is asked of it"
            for arm in self.local_arms()
            if config.arm(arm) is None
        ]
        problems += self._books_problems()
        problems += [
            f"{closed.arm} arms are closed by a limit of this device: {closed.reason}"
            for closed in self.watch.limits.fallouts
        ]
        problems += [
            f"task class {name}: its grader cannot be used here: {why}"
            for name, why in engine.grading.problems.items()
        ]
        if classifier is not None and classifier.problem:
            problems.append(f"requests without a task class are `other`: {classifier.problem}")
        return Readiness(
            ready=bool(usable) and not self._stopping,
            problems=tuple(problems),
            details={
                "arms": usable,
                "classifier_classes": list(classifier.classes) if classifier else [],
                "table_version": table.version if table else 0,
                "config_version": config.version,
                "requests_in_flight": engine.requests_in_flight,
                "spool_waiting": engine.outbox.waiting,
                "lease_available_nanos": engine.gate.available_nanos,
            },
        )

    def _books_problems(self) -> list[str]:
        """Why money is not spent, and what is wrong with the books."""
        gate, unreadable, problems = self._engine.gate, self._engine.outbox.unreadable, []
        if gate.books_problem:
            remedy = "free some disk" if gate.books_problem == BOOKS_FULL else "restart the agent"
            problems.append(f"{gate.books_problem}: paid arms are closed; {remedy}")
        if unreadable:
            problems.append(
                f"{len(unreadable)} records of the books cannot be read, the last one is "
                f"{max(unreadable)}: look at the disk"
            )
        if gate.books_lost:
            problems.append(gate.books_lost)
        if gate.quarantined:
            problems.append(f"quarantined: {gate.quarantined}")
        if gate.spend_paused:
            problems.append("spending is paused: paid arms are closed")
        return problems

    def conditions(self) -> dict[str, ArmCondition]:
        """What can be said of every arm now, from memory."""
        limit = self.watch.closed(ArmKind.CLOUD)
        conditions = {
            arm.id: ArmCondition(self._key_problem(arm.cloud), limit=limit)
            for arm in self._engine.config.arms
            if arm.cloud is not None
        }
        limit = self.watch.closed(ArmKind.LOCAL)
        for status in self._local.status():
            usable = status.state not in (ModelState.BROKEN, ModelState.ABSENT)
            problem = "" if usable else f"model_{status.state}"
            conditions[status.arm] = ArmCondition(problem, status.queue_ms, limit)
        return conditions

    def _key_problem(self, cloud: CloudSettings) -> str:
        """A key that has not come yet closes its arm, before money is reserved for it."""
        name = cloud.provider_key
        return NO_KEY if name and name not in self.provider_keys else ""

    def device_state(self) -> DeviceState:
        """The machine's and the agent's condition, for heartbeats."""
        statuses = self._local.status()
        return replace(
            self.watch.state,
            requests_in_flight=self._engine.requests_in_flight,
            loaded_arms=tuple(s.arm for s in statuses if s.state is ModelState.LOADED),
            broken_arms=tuple(Fallout(s.arm, s.problem) for s in statuses if s.problem),
            books_state=self._engine.gate.books_problem or "ok",
            limited=self.watch.limits.fallouts,
        )

    def local_arms(self) -> tuple[str, ...]:
        """The arms that this device has models for."""
        return tuple(status.arm for status in self._local.status())

    async def follow_table(self) -> None:
        """Load what the present table wants resident; without one, what there is."""
        table = self._engine.table
        await self.keep_resident(table.resident_arms if table else self.local_arms())

    async def follow_classes(self) -> None:
        """Let the classifier know the fleet's task classes."""
        if self._classifier is not None:
            await self._classifier.prepare([each.id for each in self._engine.config.task_classes])

    async def use_classifier(self, classifier: Classifier | None) -> None:
        """Another classifier, as soon as it is ready; until then the one before goes on."""
        if classifier is not None:
            await classifier.prepare([each.id for each in self._engine.config.task_classes])
        self._classifier = classifier
        await self.follow_classes()  # they may have changed meanwhile

    async def keep_resident(self, arms: Sequence[str]) -> None:
        """Load what the table wants resident."""
        mine = set(self.local_arms())
        await self._local.keep_resident([arm for arm in arms if arm in mine])

    async def tidy(self) -> None:
        """One round of house-keeping: expire, close, trim, raise watermarks."""
        async with self._tidy:
            self._note_capabilities()
            await self._bookkeeper.retry()
            effects = self._engine.tick(
                boot_ms=self._clock.boot_ms(), unix_ms=self._clock.unix_ms()
            )
            await self._bookkeeper.commit_or_keep(effects)
            await self._compact()
            raised = self._engine.gate.raised_watermarks()
            if raised and not self._engine.gate.books_problem:
                try:
                    await self._bookkeeper.commit(raised, sync=True)
                except BooksFullError:
                    return  # paid arms are closed now; the next round tries again
                self._engine.gate.synced(raised)
                self._tell_who_waits()

    def _note_capabilities(self) -> None:
        """A model file may have been put into another's place."""
        self._engine.models_can({each.arm: each.capabilities for each in self._local.status()})

    async def _compact(self) -> None:
        """Make room in an overfull spool, a piece at a time (rule O_2)."""
        outbox = self._engine.outbox
        async with self._bookkeeper.spool_held:
            after = outbox.overfull_after()
            if after is None:
                return
            records = await self._bookkeeper.spool_after(after, limit=COMPACT_RECORDS_MAX)
            await self._bookkeeper.commit_or_keep(outbox.compact(outbox.identified(records)))
        log.warning("spool_compacted", records=len(records), after=after)

    async def _keep_house(self) -> None:
        while True:
            await self.lease_news.sync_wanted(within_s=HOUSE_KEEPING_S)
            await self.tidy_if_possible()

    async def tidy_if_possible(self, *, first: Sequence[BookEffect] = ()) -> None:
        """Books that fail have closed the paid arms; all else goes on (promise P2)."""
        try:
            await self._bookkeeper.commit_or_keep(first)
            await self.tidy()
            self._untidy = False
        except StoreError as error:
            if not self._untidy:  # once a trouble, not ten times a second
                log.error("house_not_kept", problem=str(error))
            self._untidy = True
        if self._engine.gate.books_problem:
            self._tell_who_waits()  # neither a sync nor a lease will come

    def _tell_who_waits(self) -> None:
        if self._engine.gate.anybody_waits:
            self.lease_news.tell()

    def _facts(self, request: ClientRequest) -> RequestFacts:
        name, origin = self._class_of(request)
        task, embedder = self._engine.task_class(name), ""
        if request.kind is RequestKind.EMBEDDINGS and request.model == MODEL_AUTO:
            embedder = self._engine.embedder()
        return facts_of(request, task=task, origin=origin, only_embedder=embedder)

    def _class_of(self, request: ClientRequest) -> tuple[str | None, TaskOrigin]:
        """The client's word, else the classifier's."""
        if request.task_class is not None:
            return request.task_class, TaskOrigin(request.task_source)
        if self._classifier is None or request.kind is RequestKind.EMBEDDINGS:
            return None, NO_ORIGIN
        guess = self._classifier.classify(prompt_text(request.body["messages"]))
        if guess is None:
            return None, NO_ORIGIN
        origin = TaskOrigin(TaskSource.CLASSIFIER, guess.likeliest, guess.confidence)
        return guess.task_class, origin

    def _refuse_when_unable(self) -> None:
        if self._stopping:
            raise RequestRefused(503, "stopping", "the agent is stopping", retry_after_s=2)
        if self._engine.requests_in_flight >= REQUESTS_IN_FLIGHT_MAX:
            raise RequestRefused(
                429,
                "overloaded",
                f"{REQUESTS_IN_FLIGHT_MAX} requests are under way already; try again shortly",
                retry_after_s=1,
            )

    def _run_ended(self, task: asyncio.Task[None]) -> None:
        self._runs.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("request_crashed", request_id=task.get_name(), exc_info=error)


async def _first(run: RequestRun, gone: asyncio.Future[None]) -> AnswerHead:
    """Wait for the first chunk, or for the client to go."""
    try:
        waiting: set[asyncio.Future[Any]] = {run.first, gone}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        run.client_gone()
        raise
    if not run.first.done():
        run.client_gone()
        run.first.add_done_callback(lambda first: first.cancelled() or first.exception())
        raise _client_gone()
    return run.first.result()


def _client_gone() -> RequestRefused:
    return RequestRefused(499, "client_gone", "the client went away")


def _usable(condition: ArmCondition | None) -> bool:
    return condition is not None and not (condition.problem or condition.limit)
