"""One device: the production engine on a simulated disk, clock and link."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from coordinator.messages import (
    Acked,
    ConfigSent,
    HeartbeatAnswered,
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
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BookEffect
from edge_agent.candidates import ArmCondition, RequestFacts
from edge_agent.engine import AgentEngine, AttemptEnd, AttemptPlan
from edge_agent.session import Credential, FleetSession
from shared.decision.lease import LeaseGranted
from shared.decision.types import (
    Arm,
    ArmKind,
    DeviceConfig,
    Feedback,
    OnAbort,
    RequestStatus,
    SettleKind,
    TaskClass,
)
from shared.errors import BooksFullError
from shared.limits import COMPACT_RECORDS_MAX
from tests.fakes.samples import at_once
from tests.simulation.disk import Died, Fuse, SimBooks, SimDisk
from tests.simulation.network import Line
from tests.simulation.provider import Bill, Fate

if TYPE_CHECKING:
    from tests.simulation.world import World

HOUSE_KEEPING_MS = 250
SEND_GAP_MS = 50
CONDITIONS = {"tiny": ArmCondition(), "large": ArmCondition(), "small": ArmCondition()}
ALONE = DeviceConfig(
    version=0,
    device_class="pi",
    arms=(
        Arm(
            id="tiny",
            kind=ArmKind.LOCAL,
            model="tiny",
            context_tokens_max=2_048,
            max_tokens_default=64,
        ),
    ),
    task_classes=(TaskClass("other", deadline_ms=0),),
    price_version=0,
    budget_name="",
    close_wait_ms=1_000,
)
"""What a device can do before it was configured (promise P2)."""


LEASE_WAIT_MS = 400
"""As `edge_agent.answering.LEASE_WAIT_S`."""


async def _nothing(_: object) -> None:
    """A device without models to load."""


_SERVICE: Any = SimpleNamespace(keep_resident=_nothing, local_arms=lambda: ("tiny",))


@dataclass
class Call:
    """A paid call under way."""

    request_id: str
    plan: AttemptPlan
    bill: Bill
    gone: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a client asks for."""

    request_id: str
    pinned: str
    max_tokens: int | None
    body_bytes: int
    judged: bool = False


class Device:
    """A device, or a clone of one: its disk stays, its engine comes and goes.

    Attributes
    ----------
    id : str
        What the coordinator knows it by; a clone's is the original's.
    name : str
        What this simulation knows it by.
    """

    def __init__(self, world: World, device_id: str, *, name: str, disk: SimDisk) -> None:
        self.world, self.id, self.name, self.disk = world, device_id, name, disk
        self.fuse = disk.fuse
        self.starts = self.boots = self.slept_ms = self.wall_ms = 0
        self.booted_ms = world.now
        self.asleep_until = self.cut_off_until = 0
        self.alive = False
        self.gone = False
        self.line: Line | None = None
        self.calls: dict[str, Call] = {}
        self.wanted: dict[str, Wanted] = {}
        self.waiting: dict[str, list[BookEffect]] = {}
        self.grants: list[LeaseSent] = []
        self.redial_at = 0
        self.full = False

    # Clocks.

    def unix_ms(self) -> int:
        """The wall clock, which may step."""
        return self.world.now + self.wall_ms

    def monotonic_ms(self) -> float:
        """Stands still in suspend."""
        return float(self.world.now - self.slept_ms)

    def boot_ms(self) -> int:
        """Runs on in suspend (rule L_3)."""
        return self.world.now - self.booted_ms

    def boot_id(self) -> str:
        """Another after every boot."""
        return f"{self.name}/{self.boots}"

    # The process.

    def start(self) -> None:
        """A fresh process on the same disk."""
        self.starts += 1
        self.incarnation = f"{self.name}.{self.starts}"
        self.disk.held = False
        self.books = SimBooks(self.disk)
        if self.full:
            self.books.fail_with = BooksFullError("no space")
        self.engine = AgentEngine(
            incarnation=self.incarnation,
            boot_id=self.boot_id(),
            snapshot=self.books.load(),
            fallback=ALONE,
            unix_ms=self.unix_ms(),
        )
        self.keeper = Bookkeeper(self.books, gate=self.engine.gate)
        self.session = FleetSession(
            self.engine,
            books=self.books,
            bookkeeper=self.keeper,
            service=_SERVICE,
            clock=self,
            credential=Credential(self.id, ""),
            on_connected=lambda _: None,
            on_lease_news=self.heard_of_lease,
        )
        self.alive = True
        self.redial_at = self.world.now + self.world.rng.randint(0, 300)
        at_once(self.keeper.commit_or_keep(self.engine.recover(), sync=True))

    def kill(self, *, power: bool = False) -> None:
        """End the process, or cut the power: what was not synced is lost, but for some of it."""
        self.alive = False
        self.hang_up()
        for request_id in self.wanted:
            self.world.interrupted(request_id)
        self.calls.clear()
        self.wanted.clear()
        self.waiting.clear()
        if power:
            self.disk.lose_power(survivors=self.world.rng.choice([0, 0, 1, 3]))
            self.world.checker.disk_lost(self.disk)
            self.reboot()

    def reboot(self) -> None:
        """The boot clock and the boot id begin anew."""
        self.boots += 1
        self.booted_ms = self.world.now

    def guard(self, act: Callable[[], None]) -> None:
        """Do something, and come back after a death in the middle of it."""
        if not self.alive:
            return
        try:
            act()
        except Died:
            self.fuse.put_out()
            self.kill(power=self.world.rng.random() < 0.5)
            self.world.revive(self)

    def hang_up(self) -> None:
        """The line is dead, as this device sees it."""
        if self.line is not None:
            self.line.cut(self.world.now, late_ms=self.world.rng.choice([0, 0, 100, 400]))
            self.line = None
        self.redial_at = self.world.now + self.world.rng.randint(100, 800)

    # House-keeping and the link.

    def tidy(self) -> None:
        """One round of house-keeping, as `AgentService.tidy` does it."""
        engine, keeper = self.engine, self.keeper
        at_once(keeper.retry())
        effects = engine.tick(boot_ms=self.boot_ms(), unix_ms=self.unix_ms())
        if effects:
            at_once(keeper.commit_or_keep(effects))
        after = engine.outbox.overfull_after()
        if after is not None:
            records = at_once(self.books.spooled(after=after, limit=COMPACT_RECORDS_MAX))
            at_once(keeper.commit_or_keep(engine.outbox.compact(records)))
            self.world.seen["spool_compacted"] += 1
        raised = engine.gate.raised_watermarks()
        if raised and not engine.gate.books_problem:
            try:
                at_once(keeper.commit(raised, sync=True))
            except BooksFullError:
                return
            engine.gate.synced(raised)

    def talk(self) -> None:
        """Dial, or say what there is to say."""
        line, world = self.line, self.world
        if line is not None and line.is_cut:
            self.hang_up()
            return
        if line is None:
            if world.now >= max(self.redial_at, self.cut_off_until) and not self.gone:
                self.line = Line(self)
                facts = self.session.hello()
                hello = HelloReceived(
                    **vars(facts), local_arms=("tiny",), software_version="simulated"
                )
                world.network.up(self.line, "hello", hello)
            return
        if not line.welcomed:
            if world.now - line.dialled_ms > 3_000:
                self.hang_up()
            return
        while self.engine.outbox.waiting and (records := at_once(self.session.next_batch())):
            world.checker.sends(self.id, self.disk, records)
            world.network.up(line, "batch", tuple(records))
        wish = self.session.lease_wish()
        if wish is not None:
            world.network.up(line, "wish", wish)
        if world.now >= line.heartbeat_at:
            line.heartbeat_at = world.now + 2_000
            world.network.up(line, "heartbeat", self.engine.gate.leases())

    def take(self, line: Line, message: Message) -> None:
        """A message has arrived."""
        if self.line is not line:
            return
        try:
            self._obey(line, message)
        except BooksFullError:
            self.hang_up()

    def _obey(self, line: Line, message: Message) -> None:
        session, world = self.session, self.world
        match message:
            case Welcomed():
                at_once(
                    session.welcomed(
                        resume_token=message.resume_token,
                        acked_sequence=message.acked_sequence,
                        spend_paused=message.spend_paused,
                        quarantined=message.quarantined,
                    )
                )
                line.welcomed = True
                world.network.up(line, "token", message.resume_token)
            case Acked(sequence):
                at_once(session.acked(sequence))
            case ConfigSent(config):
                at_once(session.configured(config))
            case TableSent(table):
                at_once(session.table_pushed(table))
            case LeaseSent():
                self._granted(message)
            case LeaseRefused():
                session.refused(message.reason, retry_after_ms=message.retry_after_ms)
            case LeaseRecalled(number, reason):
                at_once(session.recalled(number, reason=reason))
            case SpendCommanded(paused) | HeartbeatAnswered(paused):
                at_once(session.spend_commanded(paused=paused))
            case QuarantineCommanded(reason):
                at_once(session.quarantined(reason))

    def _granted(self, message: LeaseSent) -> None:
        self.grants.append(message)
        granted = LeaseGranted(
            number=message.lease_number,
            window_id=message.window_id,
            amount_nanos=message.amount_nanos,
            duration_ms=message.duration_ms,
            price_version=message.price_version,
        )
        at_once(self.session.granted(granted, incarnation=message.incarnation))
        seen = self.world.checker.granted.get((self.id, message.lease_number))
        if seen is not None and seen.delivered_ms < 0:
            seen.delivered_ms = self.world.now

    # Requests.

    def ask(self, wanted: Wanted) -> None:
        """A client's request arrives."""
        self.wanted[wanted.request_id] = wanted
        known = not wanted.pinned or self.engine.config.arm(wanted.pinned) is not None
        facts = RequestFacts(
            request_id=wanted.request_id,
            task_class="other",
            arrived_unix_ms=self.unix_ms(),
            deadline_ms=0,
            body_bytes=wanted.body_bytes,
            messages=1,
            pinned_arm=wanted.pinned if known else "",
            max_tokens=wanted.max_tokens,
        )
        self.world.admitted(self, wanted)
        self.engine.begin(
            facts,
            conditions=CONDITIONS,
            now_ms=self.monotonic_ms(),
            uniform=self.world.rng.random(),
        )
        self.attempt(wanted)

    def heard_of_lease(self) -> None:
        """A lease has come, or was refused: whoever waits for one looks again."""
        for request_id in list(self.waiting):
            self.world.at(self.world.now, self, partial(self.look_again, request_id))

    def look_again(self, request_id: str, *, in_vain: bool = False) -> None:
        """A request that waits for a lease tries again, for the last time if it was in vain."""
        if request_id not in self.waiting:
            return
        if in_vain:
            self.engine.give_up_waiting(request_id)
        self.attempt(self.wanted[request_id], earlier=self.waiting.pop(request_id))

    def attempt(self, wanted: Wanted, *, earlier: Sequence[BookEffect] = ()) -> None:
        """The next arm that may answer: a paid one once its reservation is committed."""
        request_id, begun = wanted.request_id, not earlier
        effects = list(earlier)
        while True:
            plan, more = self.engine.next_attempt(request_id)
            effects += more
            if self.engine.waits_for_lease(request_id):
                self.waiting[request_id] = effects
                if begun:
                    when = self.world.now + LEASE_WAIT_MS
                    self.world.at(when, self, lambda: self.look_again(request_id, in_vain=True))
                    self.world.at(self.world.now + SEND_GAP_MS, self, self.talk)
                return
            if plan is None:
                at_once(self.keeper.commit_or_keep(effects))
                refused = self.engine.refusal(request_id, unix_ms=self.unix_ms())
                status = RequestStatus.ERROR if refused.status >= 500 else RequestStatus.REFUSED
                self.finish(request_id, status=status, end=None)
                return
            if plan.arm.cloud is None:
                at_once(self.keeper.commit_or_keep(effects))
                self.finish(request_id, status=RequestStatus.OK, end=AttemptEnd(latency_ms=1))
                return
            try:
                at_once(self.keeper.commit(effects))
            except BooksFullError:
                end = AttemptEnd(latency_ms=1, settle=SettleKind.RELEASED, error="books_full")
                self.failed(request_id, end)
                effects = []
                continue
            self.call(wanted, plan)
            return

    def call(self, wanted: Wanted, plan: AttemptPlan) -> None:
        """Send it to the provider, which bills at once whatever comes back."""
        world = self.world
        bill = world.buy(self, wanted, plan)
        call = Call(wanted.request_id, plan, bill)
        self.calls[wanted.request_id] = call
        world.at(world.now + world.duration_of(bill.fate), self, lambda: self.ended(call))

    def ended(self, call: Call) -> None:
        """The provider's answer is over, in whichever way."""
        if self.calls.get(call.request_id) is not call:
            return
        del self.calls[call.request_id]
        bill, settle = call.bill, call.bill.settle
        end = AttemptEnd(
            latency_ms=10,
            settle=settle,
            prompt_tokens=bill.prompt_tokens if settle is SettleKind.REPORTED else 0,
            completion_tokens=bill.completion_tokens if settle is SettleKind.REPORTED else 0,
            error="" if settle is SettleKind.REPORTED or bill.fate is Fate.SILENT else "failed",
        )
        self.world.checker.learned(bill, settle)
        first = bill.prompt_tokens % 2 == 0  # whether the client has seen a part of the answer
        if end.error and not call.gone and (settle is SettleKind.RELEASED or not first):
            self.failed(call.request_id, end)
            self.attempt(self.wanted[call.request_id])
            return
        status = RequestStatus.ERROR if end.error else RequestStatus.OK
        self.finish(call.request_id, status=RequestStatus.ABORTED if call.gone else status, end=end)

    def client_gone(self, rng: random.Random) -> None:
        """The client of some request goes away: the arm decides what becomes of the call (S_5)."""
        if not self.calls:
            return
        call = self.calls[rng.choice(sorted(self.calls))]
        cloud = call.plan.arm.cloud
        call.gone = True
        if cloud is not None and cloud.on_abort is OnAbort.CANCEL:
            del self.calls[call.request_id]
            self.world.checker.learned(call.bill, SettleKind.UNKNOWN)
            end = AttemptEnd(latency_ms=5, settle=SettleKind.UNKNOWN, error="client_gone")
            self.finish(call.request_id, status=RequestStatus.ABORTED, end=end)

    def failed(self, request_id: str, end: AttemptEnd) -> None:
        """An attempt failed before the client saw any of it."""
        effects = self.engine.attempt_failed(request_id, end, now_ms=self.monotonic_ms())
        at_once(self.keeper.commit_or_keep(effects))

    def finish(self, request_id: str, *, status: RequestStatus, end: AttemptEnd | None) -> None:
        """Settle and spool."""
        outcome, effects = self.engine.finish(
            request_id, status=status, end=end, ttft_ms=1, latency_ms=10
        )
        at_once(self.keeper.commit_or_keep(effects))
        wanted = self.wanted.pop(request_id)
        self.world.finished(self, wanted, outcome)
        if outcome.arm and self.world.rng.random() < 0.05:
            grade = Feedback(request_id, "other", outcome.arm, 500_000, "user", self.unix_ms())
            effects = self.engine.graded(grade, earlier=None)[1]
            at_once(self.keeper.commit_or_keep(effects))

    def keeper_commit(self, effects: Sequence[BookEffect]) -> None:
        """Commit what the engine asks for."""
        at_once(self.keeper.commit_or_keep(effects))

    def fill_disk(self, full: bool) -> None:
        """The disk has no room any more, or again."""
        self.full = full
        self.books.fail_with = BooksFullError("no space") if full else None


def new_device(world: World, device_id: str) -> Device:
    """A device with an empty disk."""
    disk = SimDisk(world.checker.device_commit, fuse=Fuse(), owner=device_id)
    return Device(world, device_id, name=device_id, disk=disk)
