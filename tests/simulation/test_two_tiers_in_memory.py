"""Both production engines joined in memory, under a seeded network, clock and disk.

Everything that may go wrong does: sessions end and lose what was on its way, batches come twice or
late, agents die and reboot without their unsynced commits, the coordinator dies before or after a
commit. A provider of its own counts what it bills; the checks trust nobody else's sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar

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
    SpendCommanded,
    TableSent,
    Welcomed,
)
from coordinator.records import BookedOutcome, DeviceRow, WindowRow
from coordinator.registry import digest
from coordinator.sessions import Reaction
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BookEffect
from edge_agent.candidates import ArmCondition, RequestFacts
from edge_agent.engine import AgentEngine, AttemptEnd, AttemptPlan
from shared.decision.lease import LeaseGranted
from shared.decision.types import DeviceConfig, Outcome, RequestStatus, SettleKind
from shared.errors import ProtocolError
from tests.fakes.memory_books import MemoryBooks, MemoryDisk
from tests.fakes.memory_store import MemoryStore, book_batch

T = TypeVar("T")
SEEDS: Final = 25
STEPS: Final = 200
DEVICES: Final = 3
BUDGETS: Final = (50_000_000, 35_000_000, 20_000_000)
PROMPT_TOKENS_MAX: Final = 200 + 16 + 64
COMPLETION_TOKENS_MAX: Final = 100
FLEET: Final = """
[fleet]
name = "simulated"
[window]
length = "20s"
slot = "5s"
anchor = 0
[budget]
name = "cloud"
amount_usd = "0.05"
[link]
lease_duration = "6s"
close_wait = "1s"
[arms.tiny]
kind = "local"
context_tokens_max = 512
max_tokens_default = 32
[arms.large]
kind = "cloud"
model = "large"
base_url = "http://127.0.0.1:9000/v1/"
fields = ["max_tokens"]
[arms.large.price]
input_usd_per_mtok = "2.50"
output_usd_per_mtok = "10"
request_usd = "0"
[device_classes.pi]
arms = ["tiny", "large"]
"""
NO_CONFIG: Final = DeviceConfig(0, "pi", (), (), 0, "", 1_000)
CONDITIONS: Final = {"tiny": ArmCondition(), "large": ArmCondition()}


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("books in memory have nothing to wait for")


@dataclass
class Call:
    """A paid call under way."""

    request_id: str
    plan: AttemptPlan
    end: AttemptEnd
    ends_ms: int


class Device:
    """One agent: its engine, its disk, and its end of the link."""

    def __init__(self, number: int, world: World) -> None:
        self.id = f"dev-{number}"
        self.world = world
        self.disk = MemoryDisk()
        self.boots = self.starts = self.requests = 0
        self.booted_ms = 0
        self.up: list[Callable[[CoordinatorEngine], Reaction]] = []
        self.down: list[Message] = []
        self.start()

    @property
    def boot_ms(self) -> int:
        return self.world.now_ms - self.booted_ms

    def start(self) -> None:
        """A fresh process on the same disk."""
        self.starts += 1
        self.disk.held = False
        self.books = MemoryBooks(self.disk)
        self.engine = AgentEngine(
            incarnation=f"{self.id}.{self.starts}",
            boot_id=f"boot-{self.boots}",
            snapshot=self.books.load(),
            fallback=NO_CONFIG,
            unix_ms=self.world.now_ms,
        )
        self.keeper = Bookkeeper(self.books, gate=self.engine.gate)
        self.calls: list[Call] = []
        self.connected = self.welcome_read = False
        self.commit(self.engine.recover(), sync=True)

    def reboot(self) -> None:
        """The power fails; the disk keeps what was synced and some commits after it."""
        self.disk.lose_power(survivors=self.world.rng.randrange(3))
        self.boots += 1
        self.booted_ms = self.world.now_ms
        self.start()

    def commit(self, effects: Sequence[BookEffect], *, sync: bool = False) -> None:
        done(self.keeper.commit(effects, sync=sync))

    def connect(self) -> None:
        """Say hello; what the last session still had on its way up may come late."""
        rng, facts = self.world.rng, self.engine.hello()
        late, self.up, self.down = self.up if rng.random() < 0.5 else [], [], []
        self.connected, self.welcome_read = True, False
        self.sent_through = 0
        hello = HelloReceived(
            facts.incarnation, facts.resume_token, facts.acked_sequence, facts.last_sequence,
            facts.lease_number_max, facts.leases, (), facts.table_version, facts.config_version, "",
        )  # fmt: skip
        token, now = f"token-{rng.getrandbits(64)}", self.world.now_ms
        self.world.change(
            lambda engine: engine.hello(self.id, hello, resume_token=token, unix_ms=now)
        )
        self.up = late

    def disconnect(self) -> None:
        if self.connected:
            self.connected, self.down = False, []
            self.world.engine.disconnected(self.id, incarnation=self.world.incarnation(self))

    def read(self, message: Message) -> None:
        """What the session does with a message of the coordinator."""
        gate, now = self.engine.gate, self.world.now_ms
        match message:
            case Welcomed():
                assert not message.quarantined, f"{self.id} is no clone"
                token = message.resume_token
                effects = self.engine.welcomed(
                    resume_token=token, spend_paused=message.spend_paused, quarantined=""
                )
                self.commit(effects, sync=True)
                self.engine.token_synced(token)
                self.commit(self.engine.outbox.ack(message.acked_sequence, unix_ms=now))
                self.sent_through, self.welcome_read = message.acked_sequence, True
                self.up.append(lambda engine: engine.token_synced(self.id, token))
            case Acked(sequence):
                self.commit(self.engine.outbox.ack(sequence, unix_ms=now))
            case ConfigSent(config):
                self.commit(self.engine.configured(config))
            case TableSent(table):
                self.commit(self.engine.table_pushed(table))
            case LeaseSent():
                granted = LeaseGranted(
                    message.lease_number, message.window_id, message.amount_nanos,
                    message.duration_ms, message.price_version,
                )  # fmt: skip
                effects = gate.granted(
                    granted, incarnation=message.incarnation, boot_ms=self.boot_ms
                )
                self.commit(effects, sync=True)
                gate.synced(effects)
            case LeaseRefused():
                gate.refused(message.reason, now_ms=now, retry_after_ms=message.retry_after_ms)
            case LeaseRecalled(number, reason):
                self.commit(gate.recalled(number, boot_ms=self.boot_ms, reason=reason))
            case SpendCommanded(paused):
                self.commit(gate.pause(paused))
            case _:
                raise AssertionError(f"unexpected: {message}")

    def write(self) -> None:
        """Send what waits, and ask for money."""
        if not self.welcome_read:
            return
        records = list(done(self.books.spooled(after=self.sent_through, limit=4)))
        if records:
            self.sent_through = records[-1].sequence
            self.commit(self.engine.outbox.sending(self.sent_through), sync=True)
            self.engine.outbox.sent(self.sent_through)
            for _ in range(1 + (self.world.rng.random() < 0.1)):
                self.up.append(
                    lambda e: book_batch(
                        e, self.world.store, self.id, records, unix_ms=self.world.now_ms
                    )
                )
        wish = self.engine.gate.wish(now_ms=self.world.now_ms)
        if wish is not None:
            self.up.append(
                lambda engine: engine.lease_requested(
                    self.id,
                    available_nanos=wish.available_nanos,
                    worst_case_nanos=wish.worst_case_nanos,
                    unix_ms=self.world.now_ms,
                )
            )

    def tidy(self) -> None:
        """One round of house-keeping."""
        self.commit(self.engine.tick(boot_ms=self.boot_ms, unix_ms=self.world.now_ms))
        raised = self.engine.gate.raised_watermarks()
        if raised:
            self.commit(raised, sync=True)
            self.engine.gate.synced(raised)

    def ask(self) -> None:
        """A client's request, to the paid arm if there is one."""
        self.requests += 1
        request_id = f"{self.id}.{self.starts}.{self.requests}"
        pinned = "large" if self.engine.config.arm("large") else ""
        facts = RequestFacts(
            request_id, "other", self.world.now_ms, 0, body_bytes=200, messages=1,
            pinned_arm=pinned if self.world.rng.random() < 0.7 else "",
            max_tokens=COMPLETION_TOKENS_MAX,
        )  # fmt: skip
        uniform = self.world.rng.random()
        self.engine.begin(facts, conditions=CONDITIONS, now_ms=self.world.now_ms, uniform=uniform)
        self.attempt(request_id)

    def attempt(self, request_id: str) -> None:
        """The next arm: a paid call is sent once its reservation is committed, never before."""
        plan, effects = self.engine.next_attempt(request_id)
        self.commit(effects)
        if plan is None:
            self.finish(request_id, RequestStatus.REFUSED, None)
        elif plan.arm.cloud is None:
            self.finish(request_id, RequestStatus.OK, AttemptEnd(latency_ms=10))
        else:
            end, slow_ms = self.world.provider_answers(self, plan)
            self.calls.append(Call(request_id, plan, end, self.world.now_ms + slow_ms))

    def end_calls(self) -> None:
        """Book the calls that have ended."""
        ended = [call for call in self.calls if call.ends_ms <= self.world.now_ms]
        self.calls = [call for call in self.calls if call.ends_ms > self.world.now_ms]
        for call in ended:
            if call.end.settle is SettleKind.RELEASED:
                now = self.world.now_ms
                self.commit(self.engine.attempt_failed(call.request_id, call.end, now_ms=now))
                self.attempt(call.request_id)
            else:
                failed = call.end.settle is SettleKind.UNKNOWN
                status = RequestStatus.ERROR if failed else RequestStatus.OK
                self.finish(call.request_id, status, call.end)

    def finish(self, request_id: str, status: RequestStatus, end: AttemptEnd | None) -> None:
        _, effects = self.engine.finish(
            request_id, status=status, end=end, ttft_ms=5, latency_ms=10
        )
        self.commit(effects)


class World:
    """The coordinator, its devices, the network between them, the provider and the checks."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now_ms = 1_000_000
        self.seen: Counter[str] = Counter()
        self.billed: Counter[tuple[str, int]] = Counter()
        self.target_max: dict[int, int] = {}
        self.faults = False
        self.store = MemoryStore()
        self.store.open()
        self.engine = CoordinatorEngine(self.store.load())
        self.devices: list[Device] = []
        rows = [DeviceRow(f"dev-{n}", f"pi-{n}", "pi", digest(f"secret-{n}"), 0)
                for n in range(DEVICES)]  # fmt: skip
        self.change(lambda e: Reaction(effects=[e.registry.put(row) for row in rows]))
        self.change(
            lambda e: e.apply_config(FLEET, actor="op", unix_ms=self.now_ms, dry_run=False)[1]
        )
        self.devices = [Device(number, self) for number in range(DEVICES)]
        self.faults = True

    def incarnation(self, device: Device) -> str:
        session = self.engine.sessions.get(device.id)
        return session.incarnation if session else ""

    def change(self, change: Callable[[CoordinatorEngine], Reaction]) -> None:
        """Decide, commit, send: and die in between now and then."""
        reaction = change(self.engine)
        dies = self.rng.random() if self.faults else 1.0
        if dies < 0.005:
            self.restart("coordinator died before its commit")
            return
        self.store.commit(reaction.effects)
        self.check()
        if dies < 0.01:
            self.restart("coordinator died after its commit")
            return
        for device_id, message in reaction.sends:
            device = self.devices[int(device_id.removeprefix("dev-"))]
            if device.connected:
                device.down.append(message)

    def restart(self, why: str) -> None:
        self.seen[why] += 1
        for device in self.devices:
            device.connected, device.up, device.down = False, [], []
            device.welcome_read = False
        self.engine = CoordinatorEngine(self.store.load())

    def provider_answers(self, device: Device, plan: AttemptPlan) -> tuple[AttemptEnd, int]:
        """The provider bills at once, whatever the device will come to know of it."""
        kind = self.rng.choice(
            [SettleKind.REPORTED] * 4 + [SettleKind.UNKNOWN, SettleKind.RELEASED]
        )
        prompt = self.rng.randint(1, PROMPT_TOKENS_MAX)
        completion = self.rng.randint(0, COMPLETION_TOKENS_MAX)
        if kind is not SettleKind.RELEASED:
            self.billed[device.id, plan.lease_number] += prompt * 2_500 + completion * 10_000
        slow_ms = self.rng.choice([0, 0, 200, 1_000, 4_000])
        self.seen[f"call {kind}"] += 1
        self.seen["slow call"] += slow_ms > 1_000
        self.check()
        error = "" if kind is SettleKind.REPORTED else "failed"
        return AttemptEnd(10, kind, prompt, completion, error), slow_ms

    def step(self) -> None:
        """A moment of everybody's life."""
        self.now_ms += self.rng.randrange(600)
        self.change(lambda engine: engine.tick(unix_ms=self.now_ms))
        if self.faults:
            self.operate()
        for device in self.devices:
            if self.faults:
                self.hurt(device)
            if not device.connected and (not self.faults or self.rng.random() < 0.3):
                device.connect()
            device.end_calls()
            if self.faults:
                device.ask()
            device.tidy()
            device.write()
            self.carry(device)

    def operate(self) -> None:
        """Now and then an operator pauses, resumes, or sets the budget."""
        draw, now = self.rng.random(), self.now_ms
        if draw < 0.03:
            paused = draw < 0.01
            self.seen["paused"] += paused
            self.change(lambda e: e.set_spend_paused(paused, actor="op", unix_ms=now))
        elif draw < 0.06:
            budget = self.rng.choice(BUDGETS)
            self.seen["budget set"] += 1
            self.change(lambda e: e.set_budget(budget, actor="op", unix_ms=now))

    def hurt(self, device: Device) -> None:
        draw = self.rng.random()
        if draw < 0.01:
            self.seen["rebooted"] += 1
            device.disconnect()
            device.reboot()
        elif draw < 0.02:
            self.seen["killed in a call"] += bool(device.calls)
            device.disconnect()
            device.start()
        elif draw < 0.06:
            self.seen["disconnected"] += device.connected
            device.disconnect()

    def carry(self, device: Device) -> None:
        """Carry some messages, in order, in both directions."""
        for _ in range(self.rng.randrange(5)):
            if device.connected and device.up:
                try:
                    self.change(device.up.pop(0))
                except ProtocolError:
                    self.seen["session refused"] += 1
                    device.disconnect()
            if device.connected and device.down:
                device.read(device.down.pop(0))

    def heal(self) -> None:
        """No more faults: devices stop, give their leases back and empty their outboxes."""
        self.faults = False
        for _ in range(100):
            for device in self.devices:
                device.engine.gate.stopping = True
                device.commit(device.engine.gate.recalled(0, boot_ms=device.boot_ms, reason="over"))
            self.step()
            quiet = all(
                d.welcome_read and not (d.calls or d.up or d.down or d.engine.outbox.waiting)
                for d in self.devices
            )
            if quiet and not self.engine.account.open_leases():
                return
        raise AssertionError("the fleet did not come to rest")

    def check(self) -> None:
        """P1, I1 and I2, of what is committed."""
        database = self.store.database
        for window in database.windows.values():
            most = max(self.target_max.get(window.id, 0), window.target_nanos)
            self.target_max[window.id] = most
            billed = sum(nanos for key, nanos in self.billed.items()
                         if database.leases[key].window_id == window.id)  # fmt: skip
            assert billed <= most, f"P1: the provider billed {billed} of {most}"
            assert window.committed_nanos <= most, f"I1: {window}, of {most}"
        for device in self.devices:
            for lease in device.disk.state.leases.values():
                reserved = sum(row.amount_nanos for row in device.disk.state.reservations.values()
                               if row.lease_number == lease.number)  # fmt: skip
                assert lease.settled_nanos + reserved <= lease.amount_nanos, f"I2: {lease}"
            for lease in device.disk._synced.leases.values():
                assert self.billed[device.id, lease.number] <= lease.watermark_nanos, (
                    f"L_2: {lease}"
                )

    def check_at_rest(self) -> None:
        """What holds once every device has said all it knows."""
        database = self.store.database
        assert self.engine.alarms == {}
        balances = {w.id: WindowRow(w.id, w.start_unix_ms, w.end_unix_ms, w.target_nanos)
                    for w in database.windows.values()}  # fmt: skip
        for row in database.ledger:
            balances[row.window_id] = row.applied_to(balances[row.window_id])
        assert balances == database.windows, "the ledger's rows do not add up to the balances"
        assert {w.outstanding_nanos for w in balances.values()} == {0}
        for key, nanos in self.billed.items():
            lease = database.leases[key]
            booked = lease.booked_nanos + lease.unconfirmed_nanos
            assert booked >= nanos, f"{nanos} were billed on {lease}"
        for device in self.devices:
            spooled = [(record.sequence, record.body.request_id)
                       for _, record in sorted(device.disk.state.spool.items())
                       if isinstance(record.body, Outcome)]  # fmt: skip
            booked_rows = [(row.sequence, row.outcome.request_id) for row in database.learned
                           if isinstance(row, BookedOutcome)
                           and row.device_id == device.id]  # fmt: skip
            assert spooled == booked_rows, f"outcomes of {device.id}"


def simulate(seed: int) -> World:
    """One run, from the first hello to rest."""
    world = World(seed)
    try:
        for _ in range(STEPS):
            world.step()
        world.heal()
        world.check_at_rest()
    except Exception as error:
        raise AssertionError(f"seed {seed} at {world.now_ms} ms: {error}") from error
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_fault_overspends_or_loses_an_outcome(seed: int) -> None:
    """Bills stay within the budget, books cover the bills, every outcome is booked once."""
    world = simulate(seed)

    assert sum(world.billed.values()) > 0, f"seed {seed}: no paid call was made"


def test_every_fault_is_played() -> None:
    """The simulation would be worth nothing if the faults and the paid calls did not happen."""
    seen: Counter[str] = Counter()
    for seed in range(SEEDS, SEEDS + 5):
        seen += simulate(seed).seen

    assert set(seen) >= {
        "budget set", "call released", "call reported", "call unknown",
        "coordinator died after its commit", "coordinator died before its commit", "disconnected",
        "killed in a call", "paused", "rebooted", "slow call",
    }  # fmt: skip
