"""A simulated device: the production engine, its disk, its workers and its end of the link."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from coordinator.lab.simulation.clock import EventQueue
from coordinator.lab.simulation.ports import DeviceDisk
from coordinator.lab.simulation.schema import Scenario
from coordinator.lab.simulation.truth import Truth
from coordinator.lab.simulation.workers import Ask, Workers
from coordinator.messages import (
    Acked,
    ConfigSent,
    HelloReceived,
    LeaseRecalled,
    LeaseRefused,
    LeaseSent,
    Message,
    QuarantineCommanded,
    SpendCommanded,
    TableSent,
    Welcomed,
)
from edge_agent.attempts import AttemptEnd, AttemptPlan
from edge_agent.books import BookEffect
from edge_agent.candidates import ArmCondition, RequestFacts
from edge_agent.engine import AgentEngine
from shared.decision.lease import LeaseGranted, LeaseWish
from shared.decision.reward import reward_ppm
from shared.decision.types import (
    Arm,
    ArmKind,
    DeviceConfig,
    Feedback,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolRecord,
    TaskClass,
)
from shared.limits import BATCH_RECORDS_MAX, UNACKED_RECORDS_MAX

TURN_MS: Final = 100
"""The period of the agent's house-keeping and of its link's sending."""
BYTES_PER_TOKEN: Final = 4
BODY_BYTES: Final = 200
FAILS_AFTER_MS: Final = 200
LEASE_WAIT_MS: Final = 400
"""How long a request waits for a lease, as in the agent's service."""
SOFTWARE: Final = "simulated"
READY: Final = ArmCondition()
BROKEN: Final = ArmCondition(problem="model_broken")


class Uplink(Protocol):
    """What a device says to the coordinator; each call is one message on its way."""

    def hello(self, device: Device, hello: HelloReceived) -> None:
        """The session's first message."""
        ...

    def token_synced(self, device: Device, token: str) -> None:
        """The resume token is on the disk."""
        ...

    def batch(self, device: Device, records: list[SpoolRecord]) -> None:
        """Records of the spool."""
        ...

    def lease_wish(self, device: Device, wish: LeaseWish) -> None:
        """A request for an allowance."""
        ...


Finished = Callable[["Device", Ask, Outcome], None]


class Device:
    """One device of the fleet.

    Parameters
    ----------
    truth : Truth
        Shared by the world: what arms are worth, how long they take, which are dead.
    on_outcome : callable
        Told of every outcome.
    """

    def __init__(
        self,
        device_id: str,
        *,
        device_class: str,
        scenario: Scenario,
        truth: Truth,
        queue: EventQueue,
        disk: DeviceDisk,
        uplink: Uplink,
        rng: Random,
        on_outcome: Finished,
    ) -> None:
        self.id = device_id
        self.device_class = device_class
        self._scenario = scenario
        self._truth = truth
        self._queue = queue
        self._disk = disk
        self._uplink = uplink
        self._rng = rng
        self._on_outcome = on_outcome
        self.incarnation = f"{device_id}.1"
        self.connected = self._welcomed = False
        self.epoch = 0
        self._sent_through = 0
        self._turn_due = False
        self.window_of_lease: dict[int, int] = {}
        self._waiting: dict[str, Ask] = {}
        self._exhausted_until_ms = 0
        self._workers = Workers(scenario, device_class=device_class)
        self.engine = AgentEngine(
            incarnation=self.incarnation,
            boot_id=device_id,
            snapshot=disk.load(),
            fallback=_own_models(scenario, device_class=device_class),
            unix_ms=queue.now_ms,
        )
        self._commit(self.engine.recover(), sync=True)

    # Requests.

    def ask(self, ask: Ask) -> None:
        """A client's request arrives."""
        ask.exhausted = self._queue.now_ms < self._exhausted_until_ms
        self.engine.begin(
            self._facts(ask),
            conditions=self._conditions(),
            now_ms=self._queue.now_ms,
            uniform=self._rng.random(),
        )
        self._attempt(ask)
        self._soon()

    def _facts(self, ask: Ask) -> RequestFacts:
        return RequestFacts(
            request_id=ask.id,
            task_class=ask.task_class,
            arrived_unix_ms=ask.arrived_ms,
            deadline_ms=self._scenario.task_classes[ask.task_class].deadline,
            body_bytes=BODY_BYTES + BYTES_PER_TOKEN * ask.prompt_tokens,
            messages=1,
            prompt_bytes=BYTES_PER_TOKEN * ask.prompt_tokens,
            privacy_local=self.engine.task_class(ask.task_class).privacy_local,
        )

    def _attempt(self, ask: Ask) -> None:
        plan, effects = self.engine.next_attempt(ask.id, boot_ms=self._queue.now_ms)
        if effects:
            self._commit(effects)
        if self.engine.waits_for_lease(ask.id):
            if ask.id not in self._waiting:
                self._waiting[ask.id] = ask
                self._queue.after(LEASE_WAIT_MS, self._wait_is_over, ask)
            return
        self._waiting.pop(ask.id, None)
        ask.started_ms = self._queue.now_ms
        if plan is None:
            self._finish(ask, RequestStatus.REFUSED, None)
        elif plan.arm.cloud is None:
            self._workers.waiting.append((ask, plan))
            self._work()
        else:
            self._call(ask, plan)

    def _lease_news(self) -> None:
        """A lease has come, was refused, or has room again: who waits for one tries again."""
        for ask in list(self._waiting.values()):
            self._attempt(ask)
            self._soon()

    def _wait_is_over(self, ask: Ask) -> None:
        if ask.id in self._waiting:
            self.engine.give_up_waiting(ask.id)
            self._attempt(ask)
            self._soon()

    def _call(self, ask: Ask, plan: AttemptPlan) -> None:
        if plan.arm.id in self._truth.dead:
            self._queue.after(FAILS_AFTER_MS, self._call_failed, ask)
            return
        ask.waited_ms = self._queue.now_ms - ask.arrived_ms
        truth = self._truth.contexts[self.device_class, ask.task_class, plan.arm.id]
        service_ms = truth.latency.draw(self._rng)
        ask.first_ms = ask.waited_ms + int(service_ms * truth.first_share)
        self._queue.after(service_ms, self._answered, ask, plan)

    def _call_failed(self, ask: Ask) -> None:
        end = AttemptEnd(
            latency_ms=FAILS_AFTER_MS, settle=SettleKind.RELEASED, error="connect_failed"
        )
        now_ms = self._queue.now_ms
        self._commit(self.engine.attempt_failed(ask.id, end, now_ms=now_ms))
        self._attempt(ask)
        self._lease_news()
        self._soon()

    def _work(self) -> None:
        """Start what waits for a worker, if one is free."""
        workers = self._workers
        while workers.waiting and workers.busy < workers.parallel:
            ask, plan = workers.waiting.popleft()
            now_ms = self._queue.now_ms
            loading_ms = workers.load(plan.arm.id, now_ms=now_ms)
            ask.waited_ms = now_ms + loading_ms - ask.arrived_ms
            truth = self._truth.contexts[self.device_class, ask.task_class, plan.arm.id]
            service_ms = truth.latency.draw(self._rng)
            ask.first_ms = ask.waited_ms + int(service_ms * truth.first_share)
            workers.begin(service_ms)
            self._queue.after(loading_ms + service_ms, self._local_answered, ask, plan)

    def _local_answered(self, ask: Ask, plan: AttemptPlan) -> None:
        self._workers.busy -= 1
        self._answered(ask, plan)
        if self._workers.waiting:
            self._work()

    def _answered(self, ask: Ask, plan: AttemptPlan) -> None:
        truth = self._truth.contexts[self.device_class, ask.task_class, plan.arm.id]
        end = AttemptEnd(
            latency_ms=self._queue.now_ms - ask.started_ms,
            settle=SettleKind.REPORTED,
            prompt_tokens=ask.prompt_tokens,
            completion_tokens=int(truth.completion.draw(self._rng)),
        )
        self._finish(ask, RequestStatus.OK, end)

    def _finish(self, ask: Ask, status: RequestStatus, end: AttemptEnd | None) -> None:
        latency_ms = self._queue.now_ms - ask.arrived_ms
        outcome, effects = self.engine.finish(
            ask.id, status=status, end=end, ttft_ms=ask.first_ms, latency_ms=latency_ms
        )
        self._commit(effects)
        self._lease_news()
        self._on_outcome(self, ask, outcome)
        self._soon()

    def grade(self, ask: Ask, *, arm: str, reward: float) -> None:
        """A grade for an answer arrives."""
        feedback = Feedback(
            request_id=ask.id,
            task_class=ask.task_class,
            arm=arm,
            reward_ppm=reward_ppm(reward),
            source="simulated",
            at_unix_ms=self._queue.now_ms,
        )
        _, effects = self.engine.graded(feedback, earlier=None)
        self._commit(effects)
        self._soon()

    def _conditions(self) -> dict[str, ArmCondition]:
        """What the device knows of its arms, as the agent's service tells the engine."""
        dead, workers, now_ms = self._truth.dead, self._workers, self._queue.now_ms
        found: dict[str, ArmCondition] = {}
        for arm in self.engine.config.arms:
            if arm.kind is ArmKind.CLOUD:
                found[arm.id] = READY
            elif arm.id in dead:
                found[arm.id] = BROKEN
            else:
                queue_ms = workers.queue_ms(arm.id, now_ms=now_ms)
                found[arm.id] = ArmCondition(queue_ms=queue_ms) if queue_ms else READY
        return found

    # The link.

    def connect(self) -> None:
        """Dial and say hello."""
        self.connected, self._welcomed = True, False
        self.epoch += 1
        hello = self.engine.hello()
        local = tuple(arm.id for arm in self.engine.config.arms if arm.kind is ArmKind.LOCAL)
        self._uplink.hello(
            self, HelloReceived(**vars(hello), local_arms=local, software_version=SOFTWARE)
        )

    def disconnect(self) -> None:
        """The link breaks; what is on its way is lost."""
        self.connected = self._welcomed = False

    def take(self, message: Message) -> None:
        """One message of the coordinator, as the agent's session takes it."""
        engine, now_ms = self.engine, self._queue.now_ms
        match message:
            case Acked(sequence):
                self._commit(engine.outbox.ack(sequence, boot_ms=now_ms))
                if engine.outbox.last > self._sent_through:
                    self._soon()
            case TableSent(table):
                self._commit(engine.table_pushed(table))
                self._workers.keep(table.resident_arms, now_ms=now_ms)
            case LeaseSent():
                self._granted(message)
            case LeaseRefused():
                engine.gate.refused(
                    message.reason, now_ms=now_ms, retry_after_ms=message.retry_after_ms
                )
                poll_ms = max(message.retry_after_ms, self._scenario.network.poll)
                self._queue.after(poll_ms, self._turn)
                if message.exhausted:
                    self._exhausted_until_ms = now_ms + message.retry_after_ms
                    for ask in self._waiting.values():
                        ask.exhausted = True
                self._lease_news()
            case LeaseRecalled(number, reason):
                self._commit(engine.gate.recalled(number, boot_ms=now_ms, reason=reason))
                self._soon()
                self._queue.after(engine.config.close_wait_ms + 1, self._turn)
            case ConfigSent(config):
                self._commit(engine.configured(config))
            case Welcomed():
                self._welcome(message)
            case SpendCommanded(paused):
                self._commit(engine.gate.pause(paused))
            case QuarantineCommanded(reason):
                self._commit(engine.gate.quarantine(reason))
            case _:
                raise TypeError(f"{self.id} was sent {message}")

    def _welcome(self, message: Welcomed) -> None:
        quarantined = "held for a clone" if message.quarantined else ""
        effects = self.engine.welcomed(
            resume_token=message.resume_token,
            spend_paused=message.spend_paused,
            quarantined=quarantined,
        )
        outbox, acked = self.engine.outbox, message.acked_sequence
        self._commit(effects, sync=True)
        self.engine.token_synced(message.resume_token)
        self.engine.gate.on_demand = True
        self._commit(outbox.ack(acked, boot_ms=self._queue.now_ms))
        self._sent_through, self._welcomed = acked, True
        self._uplink.token_synced(self, message.resume_token)
        self._soon()

    def _granted(self, message: LeaseSent) -> None:
        now_ms = self._queue.now_ms
        granted = LeaseGranted(
            number=message.lease_number,
            window_id=message.window_id,
            amount_nanos=message.amount_nanos,
            duration_ms=message.duration_ms,
            price_version=message.price_version,
            asked_boot_ms=message.asked_boot_ms,
        )
        self.window_of_lease[message.lease_number] = message.window_id
        effects = self.engine.gate.granted(granted, incarnation=message.incarnation, boot_ms=now_ms)
        self._commit(effects, sync=True)
        self.engine.gate.synced(effects)
        self._queue.after(message.duration_ms + 1, self._expired)
        self._lease_news()
        self._soon()

    def _expired(self) -> None:
        """A lease is over: give it back, at the latest when its open calls are given up."""
        self._turn()
        self._queue.after(self.engine.config.close_wait_ms + 1, self._turn)

    def _soon(self) -> None:
        """The next round of house-keeping and sending, if none is due."""
        if not self._turn_due:
            self._turn_due = True
            self._queue.after(TURN_MS, self._due_turn)

    def _due_turn(self) -> None:
        self._turn_due = False
        self._turn()

    def _turn(self) -> None:
        """One round: what the service's house-keeping and the link's sender do every 100 ms."""
        engine, now_ms = self.engine, self._queue.now_ms
        effects = engine.tick(boot_ms=now_ms, unix_ms=now_ms)
        if effects:
            self._commit(effects, sync=True)
        raised = engine.gate.raised_watermarks()
        if raised:
            self._commit(raised, sync=True)
            engine.gate.synced(raised)
            if engine.gate.anybody_waits:
                self._lease_news()
        if self._welcomed:
            self._send()

    def _send(self) -> None:
        outbox = self.engine.outbox
        while self._sent_through - outbox.acked < UNACKED_RECORDS_MAX:
            records = self._disk.spooled(after=self._sent_through, limit=BATCH_RECORDS_MAX)
            if not records:
                break
            through = records[-1].sequence
            self._commit(outbox.sending(through), sync=True)
            outbox.sent(through)
            self._sent_through = through
            self._uplink.batch(self, records)
        now_ms = self._queue.now_ms
        wish = self.engine.gate.wish(now_ms=now_ms, boot_ms=now_ms)
        if wish is not None:
            self._uplink.lease_wish(self, wish)

    def _commit(self, effects: list[BookEffect], *, sync: bool = False) -> None:
        if effects:
            self._disk.commit(effects, sync=sync)


def _own_models(scenario: Scenario, *, device_class: str) -> DeviceConfig:
    """What a device knows before any coordinator: its models and the task classes."""
    local = [
        name
        for name in scenario.device_classes[device_class].arms
        if scenario.arms[name].kind == "local"
    ]
    return DeviceConfig(
        version=0,
        device_class=device_class,
        arms=tuple(
            Arm(
                id=name,
                kind=ArmKind.LOCAL,
                model=name,
                context_tokens_max=1_000_000,
                max_tokens_default=scenario.arms[name].max_tokens,
            )
            for name in local
        ),
        task_classes=tuple(
            TaskClass(id=name, deadline_ms=task.deadline, privacy_local=task.privacy == "local")
            for name, task in scenario.task_classes.items()
        ),
        price_version=0,
        budget_name="",
        close_wait_ms=30_000,
    )
