"""One device: the production engine on a simulated disk, clock and link."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from edge_agent.engine import AgentEngine
from edge_agent.provider_keys import ProviderKeys
from edge_agent.session import Credential, FleetSession
from shared.decision.lease import LeaseGranted
from shared.decision.types import Arm, ArmKind, DeviceConfig, TaskClass
from shared.errors import BooksFullError
from shared.limits import BATCH_RECORDS_MAX, COMPACT_RECORDS_MAX
from tests.fakes.samples import at_once, run_at_once
from tests.simulation.answering import SEND_GAP_MS, Answering
from tests.simulation.disk import Died, Fuse, SimBooks, SimDisk
from tests.simulation.network import Line

if TYPE_CHECKING:
    from tests.simulation.world import World

ROUND_MS = 100
"""As `edge_agent.service.HOUSE_KEEPING_S`."""
HEARTBEAT_MS = 5_000
IDLE_ROUND_MS = 1_500
"""What a device does that has nothing to do can wait for so long."""
NOTHING_TO_DO = (Acked, HeartbeatAnswered)
"""What asks for no house-keeping."""
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


async def _nothing(*_: object) -> None:
    """A device without models to load, or a classifier."""


_SERVICE: Any = SimpleNamespace(
    keep_resident=_nothing,
    follow_classes=_nothing,
    local_arms=lambda: ("tiny",),
    provider_keys=ProviderKeys(),
)


@dataclass(frozen=True)
class Boot:
    """One boot of a machine, and when its clock began."""

    id: str
    began_ms: int


class Device:
    """A device, or a clone of one: its disk stays, its engine comes and goes.

    Attributes
    ----------
    id : str
        What the coordinator knows it by; a clone's is the original's.
    name : str
        What this simulation knows it by.
    rng : random.Random
        Its own, so that what happens to one device does not change what another one draws.
    """

    def __init__(self, world: World, device_id: str, *, name: str, disk: SimDisk) -> None:
        self.world, self.id, self.name, self.disk = world, device_id, name, disk
        self.fuse = disk.fuse
        self.rng = random.Random(f"{name} {world.seed}")
        self.starts = self.slept_ms = self.wall_ms = 0
        self.boot = Boot(f"{name}/0", world.now)
        self._boots = self._round_at = 0
        self.asleep_until = self.cut_off_until = 0
        self.alive = False
        self.gone = False
        self.line: Line | None = None
        self.grants: list[LeaseSent] = []
        self.redial_at = 0
        self.full = False

    @property
    def is_awake(self) -> bool:
        """Whether its process runs now."""
        return self.alive and self.asleep_until <= self.world.now

    # Clocks.

    def unix_ms(self) -> int:
        """The wall clock, which may step."""
        return self.world.now + self.wall_ms

    def monotonic_ms(self) -> float:
        """Stands still in suspend."""
        return float(self.world.now - self.slept_ms)

    def boot_ms(self) -> int:
        """Runs on in suspend (rule L_3)."""
        return self.world.now - self.boot.began_ms

    def boot_id(self) -> str:
        """Another after every boot."""
        return self.boot.id

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
        self.answering = Answering(self)
        self.session = FleetSession(
            self.engine,
            bookkeeper=self.keeper,
            service=_SERVICE,
            clock=self,
            credential=Credential(self.id, ""),
            on_connected=lambda _: None,
            on_lease_news=self.answering.heard_of_lease,
        )
        self.session.dials()
        self.alive = True
        self.redial_at = self.world.now + self.rng.randint(0, 150)
        run_at_once(self.keeper.commit_or_keep(self.engine.recover(), sync=True))
        self._next_round(1 + int(self.rng.random() * ROUND_MS))
        self.world.at(self.redial_at, self, self.soon)

    def kill(self, *, power: bool = False) -> None:
        """End the process, or cut the power: what was not synced is lost, but for some of it."""
        self.alive = False
        self.asleep_until = self.world.now
        self.hang_up()
        self.world.clients.process_ended(self.name)
        if power:
            self.disk.lose_power(survivors=self.rng.choice([0, 0, 1, 3]))
            self.world.checker.disk_lost(self.disk)
            self.reboot()

    def reboot(self) -> None:
        """The boot clock and the boot id begin anew."""
        self._boots += 1
        self.boot = Boot(f"{self.name}/{self._boots}", self.world.now)

    def suspend(self, ms: int) -> None:
        """The machine sleeps, and with it the monotonic clock."""
        self.asleep_until = self.world.now + ms
        self.slept_ms += ms

    def guard(self, act: Callable[[], None]) -> None:
        """Do something if it can, and come back after a death in the middle of it."""
        if not self.is_awake:
            return
        try:
            act()
        except Died:
            self.died()

    def died(self) -> None:
        """The process ended, in the middle of something or for the lack of power."""
        self.fuse.put_out()
        self.world.seen["device_dies_in_commit"] += 1
        self.kill(power=self.rng.random() < 0.5)
        self.world.revive(self)

    def hang_up(self) -> None:
        """The line is dead, as this device sees it."""
        if self.line is not None:
            self.line.cut(self.world.now, late_ms=self.rng.choice([0, 0, 100, 400]))
            self.line = None
        self.redial_at = self.world.now + self.rng.randint(50, 350)
        if self.alive:
            self.world.at(self.redial_at, self, self.soon)

    # House-keeping and the link.

    def soon(self, *, within_ms: int = ROUND_MS) -> None:
        """The next round is no further away, since something has happened.

        By default as in production; what is only to be told may wait until others have joined it.
        """
        if self._round_at > self.world.now + within_ms:
            self._next_round(1 + int(self.rng.random() * within_ms))

    def _next_round(self, in_ms: int) -> None:
        self._round_at = self.world.now + in_ms
        self.world.at(self._round_at, self, self._round)

    def _round(self) -> None:
        if self.world.now < self._round_at:
            return  # another one has taken its place
        self.tidy()
        self.talk()
        line = self.line
        if self.keeper.keeps_any:
            self._next_round(ROUND_MS)
        elif line is not None and line.welcomed and self.keeper.spooled.is_set():
            self._next_round(max(ROUND_MS, line.send_at - self.world.now))
        else:
            self._next_round(IDLE_ROUND_MS)

    def tidy(self) -> None:
        """One round of house-keeping, as `AgentService.tidy` does it."""
        engine, keeper = self.engine, self.keeper
        if keeper.keeps_any or engine.gate.books_problem:
            run_at_once(keeper.retry())
        effects = engine.tick(boot_ms=self.boot_ms(), unix_ms=self.unix_ms())
        if effects:
            run_at_once(keeper.commit_or_keep(effects))
        after = engine.outbox.overfull_after()
        if after is not None:
            records = at_once(self.books.spooled(after=after, limit=COMPACT_RECORDS_MAX))
            effects = engine.outbox.compact(engine.outbox.identified(records))
            run_at_once(keeper.commit_or_keep(effects))
            self.world.noted["spool_compacted"] += 1
        raised = engine.gate.raised_watermarks()
        if raised and not engine.gate.books_problem:
            try:
                run_at_once(keeper.commit(raised, sync=True))
            except BooksFullError:
                return
            engine.gate.synced(raised)
            if engine.gate.anybody_waits:
                self.answering.heard_of_lease()

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
        if self.keeper.spooled.is_set() and world.now >= line.send_at:
            line.send_at = world.now + SEND_GAP_MS
            self._send(line)
        wish = self.session.lease_wish()
        if wish is not None:
            world.network.up(line, "wish", wish)
        if world.now >= line.heartbeat_at:
            line.heartbeat_at = world.now + HEARTBEAT_MS
            world.network.up(line, "heartbeat", self.engine.gate.leases())

    def _send(self, line: Line) -> None:
        """What was spooled since; with a full disk nothing goes out, and it is tried again."""
        while records := at_once(self.session.next_batch()):
            self.world.checker.sends(self.id, self.disk, records)
            self.world.network.up(line, "batch", tuple(records))
            if len(records) < BATCH_RECORDS_MAX:
                break
        if not self.engine.gate.books_problem:
            self.keeper.spooled.clear()

    def take(self, line: Line, message: Message) -> None:
        """A message has arrived."""
        if self.line is not line:
            return
        if type(message) not in NOTHING_TO_DO:
            self.soon()
        try:
            self._obey(line, message)
        except BooksFullError:
            self.hang_up()

    def _obey(self, line: Line, message: Message) -> None:
        session, world = self.session, self.world
        match message:
            case Welcomed():
                run_at_once(
                    session.welcomed(
                        resume_token=message.resume_token,
                        acked_sequence=message.acked_sequence,
                        spend_paused=message.spend_paused,
                        quarantined=message.quarantined,
                    )
                )
                line.welcomed = True
                self.keeper.spooled.set()  # what the last session has not got through
                world.network.up(line, "token", message.resume_token)
            case Acked(sequence):
                run_at_once(session.acked(sequence))
            case ConfigSent(config, revision):
                run_at_once(session.configured(config, revision=revision))
            case TableSent(table):
                run_at_once(session.table_pushed(table))
            case LeaseSent():
                self._granted(message)
            case LeaseRefused():
                world.clients.heard(self.name)
                session.refused(message.reason, retry_after_ms=message.retry_after_ms)
            case LeaseRecalled(number, reason):
                run_at_once(session.recalled(number, reason=reason))
            case SpendCommanded(paused) | HeartbeatAnswered(paused):
                run_at_once(session.spend_commanded(paused=paused))
            case QuarantineCommanded(reason):
                run_at_once(session.quarantined(reason))

    def _granted(self, message: LeaseSent) -> None:
        self.world.clients.heard(self.name)
        self.grants.append(message)
        granted = LeaseGranted(
            number=message.lease_number,
            window_id=message.window_id,
            amount_nanos=message.amount_nanos,
            duration_ms=message.duration_ms,
            price_version=message.price_version,
            asked_boot_ms=message.asked_boot_ms,
        )
        run_at_once(self.session.granted(granted, incarnation=message.incarnation))
        seen = self.world.checker.granted.get((self.id, message.lease_number))
        if seen is not None:
            seen.delivered = True

    def keeper_commit(self, effects: Sequence[BookEffect]) -> None:
        """Commit what the engine asks for."""
        run_at_once(self.keeper.commit_or_keep(effects))

    def fill_disk(self, full: bool) -> None:
        """The disk has no room any more, or again."""
        self.full = full
        self.books.fail_with = BooksFullError("no space") if full else None


def new_device(world: World, device_id: str) -> Device:
    """A device with an empty disk."""
    disk = SimDisk(world.checker.device_commit, fuse=Fuse(), owner=device_id)
    return Device(world, device_id, name=device_id, disk=disk)
