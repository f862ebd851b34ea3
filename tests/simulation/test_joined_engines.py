"""Both production engines, joined by a network that loses, delays and repeats, on two disks.

A provider bills every paid call when it is sent, and keeps its own account: the checker that
neither engine knows of.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.messages import (
    Acked,
    ConfigSent,
    HelloReceived,
    LeaseRecalled,
    LeaseRefused,
    LeaseSent,
    Message,
    TableSent,
    Welcomed,
)
from coordinator.records import BookedOutcome, JoinTokenRow
from coordinator.registry import digest
from coordinator.sessions import Reaction
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.engine import AgentEngine, AttemptEnd, AttemptPlan
from edge_agent.session import Credential, FleetSession
from shared.decision.lease import LeaseGranted
from shared.decision.types import Outcome, RequestStatus, SettleKind
from shared.errors import ProtocolError
from tests.fakes.memory_books import MemoryBooks, MemoryDisk
from tests.fakes.memory_store import MemoryDatabase, MemoryStore, book_batch
from tests.fakes.samples import READY, at_once, device_config, facts, fleet_toml, local_arm

BUDGET_NANOS = 2_000_000
STEPS = 900
DEVICES = ("ant", "bee", "cat")


@dataclass
class Line:
    """One connection: messages in order, both ways, until it breaks."""

    up: deque[tuple[str, Any]]
    down: deque[Message]
    welcomed: bool = False


@dataclass
class Call:
    """A paid call under way, and how it will end."""

    device: Device
    request_id: str
    end: AttemptEnd
    ends_ms: int


class Device:
    """A device: its disk stays, its engine comes and goes."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.disk = MemoryDisk()
        self.starts = self.boots = self.boot_began_ms = 0
        self.line: Line | None = None
        self.start()

    def unix_ms(self) -> int:
        return self.world.now

    def monotonic_ms(self) -> float:
        return float(self.world.now)

    def boot_ms(self) -> int:
        return self.world.now - self.boot_began_ms

    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def start(self) -> None:
        self.starts += 1
        self.incarnation = f"{self.name}-{self.starts}"
        books = MemoryBooks(self.disk)
        self.engine = AgentEngine(
            incarnation=self.incarnation,
            boot_id=self.boot_id(),
            snapshot=books.load(),
            fallback=device_config(local_arm()),
            unix_ms=self.world.now,
        )
        self.keeper = Bookkeeper(books, gate=self.engine.gate)
        at_once(self.keeper.commit(self.engine.recover(), sync=True))
        service: Any = SimpleNamespace(keep_resident=_nothing)
        self.session = FleetSession(
            self.engine,
            books=books,
            bookkeeper=self.keeper,
            service=service,
            clock=self,
            credential=Credential(self.name, ""),
            on_connected=lambda _: None,
        )

    def crash(self, *, power: bool) -> None:
        """End the process, or cut the power: some of what was not synced may survive."""
        self.world.hang_up(self)
        self.world.calls = [call for call in self.world.calls if call.device is not self]
        if power:
            self.disk.lose_power(survivors=self.world.rng.choice([0, 0, 1, 3]))
            self.boots += 1
            self.boot_began_ms = self.world.now
        self.disk.held = False
        self.start()

    def tidy(self) -> None:
        """One round of house-keeping, as the service does it."""
        engine = self.engine
        at_once(self.keeper.commit(engine.tick(boot_ms=self.boot_ms(), unix_ms=self.world.now)))
        raised = engine.gate.raised_watermarks()
        at_once(self.keeper.commit(raised, sync=True))
        engine.gate.synced(raised)

    def take(self, message: Message) -> None:
        """Take one message, as the link does."""
        session, line = self.session, self.line
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
                if line is not None:
                    line.welcomed = True
                    line.up.append(("token", message.resume_token))
            case Acked(sequence):
                at_once(session.acked(sequence))
            case ConfigSent(config):
                at_once(session.configured(config))
            case TableSent(table):
                at_once(session.table_pushed(table))
            case LeaseSent():
                lease = LeaseGranted(
                    number=message.lease_number,
                    window_id=message.window_id,
                    amount_nanos=message.amount_nanos,
                    duration_ms=message.duration_ms,
                    price_version=message.price_version,
                )
                at_once(session.granted(lease, incarnation=message.incarnation))
            case LeaseRefused():
                session.refused(message.reason, retry_after_ms=message.retry_after_ms)
            case LeaseRecalled(number, reason):
                at_once(session.recalled(number, reason=reason))
            case _:
                raise AssertionError(f"{self.name} was sent {message}")


class World:
    """Everything, driven by one seed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng, self.now = seed, random.Random(seed), 1_000_000
        self.database = MemoryDatabase()
        self.lines: dict[str, Line] = {}  # as the coordinator sees them
        self.stale: list[tuple[Device, tuple[str, Any]]] = []
        self.calls: list[Call] = []
        self.billed: Counter[int] = Counter()
        self.requests = self.paid = self.tokens = 0
        self.start_coordinator()
        self.do(
            self.engine.apply_config(
                fleet_toml(window="1m"), actor="ann", unix_ms=self.now, dry_run=False
            )[1]
        )
        for name in DEVICES:
            self.engine.registry.add_join_token(JoinTokenRow(digest(name), "edge", 0, 10**12))
            joined = self.engine.registry.join(
                device_id=name,
                name=name,
                device_class="edge",
                token=name,
                credential=f"secret-{name}",
                unix_ms=self.now,
            )
            self.store.commit(joined)
        self.devices = [Device(self, name) for name in DEVICES]

    # The coordinator.

    def start_coordinator(self) -> None:
        self.database.held = False
        self.store = MemoryStore(self.database)
        self.store.open()
        self.engine = CoordinatorEngine(self.store.load())
        self.lines.clear()
        self.stale.clear()

    def do(self, reaction: Reaction) -> None:
        """Commit, then send to whoever is connected."""
        self.store.commit(reaction.effects)
        for name, message in reaction.sends:
            if name in self.lines:
                self.lines[name].down.append(message)

    def hear(self, device: Device, kind: str, body: Any) -> None:
        """The coordinator takes one message."""
        engine, name = self.engine, device.name
        if kind == "token":
            self.do(engine.token_synced(name, body))
        elif kind == "batch":
            self.do(book_batch(engine, self.store, name, body, unix_ms=self.now))
        elif kind == "wish":
            self.do(engine.lease_requested(name, **asdict(body), unix_ms=self.now))
        else:
            assert device.line is not None
            self.lines[name] = device.line
            self.tokens += 1
            token = f"token-{self.tokens}"
            self.do(engine.hello(name, body, resume_token=token, unix_ms=self.now))

    # The network.

    def dial(self, device: Device) -> None:
        hello = HelloReceived(
            **vars(device.session.hello()), local_arms=("tiny",), software_version="1"
        )
        device.line = Line(deque([("hello", hello)]), deque())

    def hang_up(self, device: Device) -> None:
        """What is on its way arrives in part, or late, or never."""
        line, device.line = device.line, None
        if line is None:
            return
        for _ in range(self.rng.randint(0, len(line.down))):
            device.take(line.down.popleft())
        if self.lines.get(device.name) is not line:
            return
        for _ in range(self.rng.randint(0, len(line.up))):
            self.hear(device, *line.up.popleft())
        if self.rng.random() < 0.3:  # a handler of the old stream that is slow
            self.stale += [(device, said) for said in line.up if said[0] in ("batch", "wish")]
        if self.rng.random() < 0.5:
            self.lines.pop(device.name, None)
            self.engine.disconnected(device.name, incarnation=device.incarnation)

    def exchange(self, device: Device) -> None:
        """One message in one direction, or something new to say."""
        line = device.line
        if line is None:
            self.dial(device)
        elif line.up and self.rng.random() < 0.5:
            self.hear(device, *line.up.popleft())
        elif line.down and self.rng.random() < 0.8:
            device.take(line.down.popleft())
        elif line.welcomed:
            if records := at_once(device.session.next_batch()):
                line.up.append(("batch", records[: self.rng.choice([1, 512])]))
                device.session._sent_through = line.up[-1][1][-1].sequence
            if wish := device.session.lease_wish():
                line.up.append(("wish", wish))

    # Requests and the provider.

    def ask(self, device: Device) -> None:
        self.requests += 1
        request_id = f"q{self.requests}"
        request = facts(
            request_id,
            arrived_unix_ms=self.now,
            pinned_arm="cloud" if device.engine.config.arm("cloud") else "",
            max_tokens=self.rng.choice([None, 1, 40, 400]),
        )
        engine = device.engine
        engine.begin(request, conditions=READY, now_ms=self.now, uniform=self.rng.random())
        plan, effects = engine.next_attempt(request_id)
        at_once(device.keeper.commit(effects))
        if plan is None or plan.price is None:
            status = RequestStatus.REFUSED if plan is None else RequestStatus.OK
            end = None if plan is None else AttemptEnd(latency_ms=1)
            self.finish(device, request_id, status=status, end=end)
        else:
            if self.rng.random() < 0.97:
                self.bill(device, request_id, plan=plan)
            if self.rng.random() < 0.06:  # in the middle of the call, or before it was sent
                device.crash(power=self.rng.random() < 0.7)

    def bill(self, device: Device, request_id: str, *, plan: AttemptPlan) -> None:
        assert plan.price is not None
        used = {
            "prompt_tokens": self.rng.randint(0, 280),
            "completion_tokens": self.rng.randint(0, plan.max_tokens),
        }
        kind = self.rng.choice([*[SettleKind.REPORTED] * 4, *SettleKind])
        if kind is not SettleKind.RELEASED:
            lease = self.database.leases[device.name, plan.lease_number]
            self.billed[lease.window_id] += plan.price.cost_nanos(**used)
            self.paid += 1
        end = AttemptEnd(
            latency_ms=1,
            settle=kind,
            prompt_tokens=used["prompt_tokens"],
            completion_tokens=used["completion_tokens"],
        )
        ends_ms = self.now + self.rng.choice([10, 500, 40_000])
        self.calls.append(Call(device, request_id, end, ends_ms))

    def finish(
        self, device: Device, request_id: str, *, status: RequestStatus, end: AttemptEnd | None
    ) -> None:
        _, effects = device.engine.finish(
            request_id, status=status, end=end, ttft_ms=0, latency_ms=1
        )
        at_once(device.keeper.commit(effects))

    # Time.

    def advance(self, ms: int) -> None:
        self.now += ms
        for call in [call for call in self.calls if call.ends_ms <= self.now]:
            self.calls.remove(call)
            self.finish(call.device, call.request_id, status=RequestStatus.OK, end=call.end)
        for device in self.devices:
            device.tidy()
        self.do(self.engine.tick(unix_ms=self.now))

    def step(self) -> None:
        device = self.rng.choice(self.devices)
        chance = self.rng.random()
        if chance < 0.6:
            self.exchange(device)
        elif chance < 0.8:
            self.ask(device)
        elif chance < 0.96:
            self.advance(self.rng.choice([1, 50, 600, 3_000]))
        elif chance < 0.97:
            self.hang_up(device)
        elif chance < 0.975:
            device.crash(power=False)
        elif chance < 0.98:
            device.crash(power=True)
        elif chance < 0.985:
            self.start_coordinator()
            for each in self.devices:
                each.line = None
        elif self.stale:
            device, said = self.stale.pop(0)
            with suppress(ProtocolError):  # it ends a stream that is over anyway
                self.hear(device, *said)
        self.check()

    def heal(self) -> None:
        """No more faults and no more requests: everything is told."""
        for _ in range(120):
            self.advance(1_000)
            for device in self.devices:
                device.engine.gate.stopping = True  # it asks for no further lease
                line = device.line
                if line is not None and self.lines.get(device.name) is not line and not line.up:
                    device.line = None
                for _ in range(4):
                    self.exchange(device)

    # The checker.

    def check(self) -> None:
        for window in self.database.windows.values():
            note = f"seed {self.seed}, time {self.now}: {window}"
            assert self.billed[window.id] <= BUDGET_NANOS, note
            assert window.committed_nanos <= window.enforced_nanos == BUDGET_NANOS, note
            assert self.store.recomputed_window(window.id) == window, note
        for device in self.devices:
            for lease in device.engine.gate.leases():
                note = f"seed {self.seed}, time {self.now}: {device.name} {lease}"
                assert lease.settled_nanos + lease.reserved_nanos <= lease.amount_nanos, note
        assert {} == self.engine.alarms, f"seed {self.seed}, time {self.now}"

    def check_end(self) -> None:
        booked = Counter(
            (row.device_id, row.sequence)
            for row in self.database.learned
            if isinstance(row, BookedOutcome)
        )
        spooled = Counter(
            (device.name, record.sequence)
            for device in self.devices
            for record in device.disk.state.spool.values()
            if isinstance(record.body, Outcome)
        )
        assert spooled == booked, f"seed {self.seed}: {spooled - booked} / {booked - spooled}"
        for window in self.database.windows.values():
            note = f"seed {self.seed}: {window}"
            assert 0 == window.outstanding_nanos, note
            assert self.billed[window.id] <= window.committed_nanos, note


async def _nothing(*_: object) -> None:
    """A device without models."""


@pytest.mark.parametrize("seed", range(20))
def test_no_fault_overspends_loses_or_counts_twice(seed: int) -> None:
    """Whatever breaks, billed <= budget at all times, and in the end all is booked once."""
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    world.heal()
    world.check_end()
    assert world.paid >= 10, f"seed {seed} hardly spent: {world.paid} calls"
