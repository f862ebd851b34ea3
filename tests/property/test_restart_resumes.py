"""A coordinator that restarts goes on exactly where it stopped: same tables, grants and ledger."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.engine import CoordinatorEngine
from coordinator.messages import HelloReceived, Message
from coordinator.records import DeviceRow, LeaseEnd
from coordinator.registry import digest
from coordinator.sessions import Reaction
from shared.decision.lease import LeaseWish
from shared.decision.types import (
    Attempt,
    CostAdjustment,
    Feedback,
    IncarnationRange,
    LeaseClose,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolBody,
    SpoolRecord,
)
from tests.fakes.memory_store import MemoryDatabase, MemoryStore

Event = Callable[[CoordinatorEngine], Reaction]
DEVICES = ("dev-a", "dev-b")
WORST = 1_500_000
FLEET = """
[fleet]
name = "test"
[window]
length = "60s"
slot = "5s"
anchor = 0
[budget]
name = "cloud"
amount_usd = "0.05"
[policy]
kind = "lp_ucb"
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
[task_classes.sort]
demand_prior = 1.5
"""


class Process:
    """One coordinator on its own store."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.store = MemoryStore(database)
        self.store.open()
        self.engine = CoordinatorEngine(self.store.load())

    def does(self, event: Event) -> Reaction:
        """Let an event happen and commit what follows."""
        reaction = event(self.engine)
        self.store.commit(reaction.effects)
        return reaction

    def successor(self) -> Process:
        """Another process on a copy of the database as it is now."""
        database = deepcopy(self.store.database)
        database.held = False
        return Process(database)


class Script:
    """Random events; what they are depends on the seed and on what a process has booked."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = 1_000_000
        self.sequences = dict.fromkeys(DEVICES, 0)
        self.tokens = 0
        self.held = dict.fromkeys(DEVICES, "")

    def beginning(self) -> list[Event]:
        """A configured fleet with every device in session."""
        rows = [DeviceRow(name, name, "pi", digest(f"secret of {name}"), 0) for name in DEVICES]
        now = self.now
        return [
            lambda e: Reaction(effects=[e.registry.put(row) for row in rows]),
            lambda e: e.apply_config(FLEET, actor="op", unix_ms=now, dry_run=False)[1],
            *self.sessions(numbers=dict.fromkeys(DEVICES, 0)),
        ]

    def sessions(self, *, numbers: dict[str, int]) -> list[Event]:
        """Every device connects anew and syncs its token."""
        events: list[Event] = []
        for name in DEVICES:
            self.tokens += 1
            token, before, self.held[name] = f"t{self.tokens}", self.held[name], f"t{self.tokens}"
            last = self.sequences[name]
            spool = (IncarnationRange(f"inc-{token}", last, last),)
            hello = HelloReceived(
                f"inc-{token}", before, 0, spool, numbers[name], (), (), 0, 0, "1"
            )
            events += [
                _hello(name, hello, token=token, unix_ms=self.now),
                _synced(name, token),
            ]
        return events

    def next(self, engine: CoordinatorEngine) -> Event:
        """The next event; the engine only tells which leases there are."""
        self.now += self.rng.randrange(4_000)
        name, now = self.rng.choice(DEVICES), self.now
        draw = self.rng.random()
        if draw < 0.4:
            return lambda e: e.tick(unix_ms=now)
        if draw < 0.55:
            return lambda e: e.lease_requested(name, LeaseWish(0, WORST), unix_ms=now)
        if draw < 0.6:
            budget = self.rng.choice((20_000_000, 50_000_000))
            return lambda e: e.set_budget(budget, actor="op", unix_ms=now)
        if draw < 0.63:
            enabled = self.rng.random() < 0.7
            return lambda e: e.set_arm_enabled("large", enabled, actor="op", unix_ms=now)
        if draw < 0.66:
            paused = self.rng.random() < 0.3
            return lambda e: e.set_spend_paused(paused, actor="op", unix_ms=now)
        records = [self.record(name, engine) for _ in range(self.rng.randint(1, 5))]
        sender = records[0].incarnation
        return lambda e: e.batch(name, records, incarnation=sender, unix_ms=now)

    def record(self, name: str, engine: CoordinatorEngine) -> SpoolRecord:
        self.sequences[name] += 1
        return SpoolRecord(self.sequences[name], f"inc-{self.held[name]}", self.body(name, engine))

    def body(self, name: str, engine: CoordinatorEngine) -> SpoolBody:
        rng, request = self.rng, f"{name}.{self.sequences[name]}"
        task = rng.choice(("sort", "other"))
        leases = [lease for (owner, _), lease in sorted(engine.account._leases.items())
                  if owner == name and lease.window_id == engine.window_id]  # fmt: skip
        lease = rng.choice(leases) if leases else None
        draw = rng.random()
        if draw < 0.2:
            arm = rng.choice(("tiny", "large"))
            return Feedback(request, task, arm, rng.randrange(1_000_001), "user", self.now)
        if draw < 0.3 and lease is not None and lease.end is LeaseEnd.OPEN:
            final = min(lease.amount_nanos, lease.booked_nanos + rng.randrange(3) * 1_000)
            return LeaseClose(lease.number, final, rng.random() < 0.5, "test")
        if draw < 0.35 and lease is not None:
            return CostAdjustment(request, lease.number, -rng.randrange(100), "late")
        arm, attempt = "tiny", Attempt("tiny", rng.randrange(400))
        if lease is not None and lease.end is LeaseEnd.OPEN and rng.random() < 0.6:
            left = max(0, lease.amount_nanos - lease.booked_nanos)
            cost = rng.randrange(1 + min(left, WORST))
            kind = rng.choice((SettleKind.REPORTED, SettleKind.UNKNOWN))
            arm, attempt = "large", Attempt("large", 90, "", lease.number, WORST, cost, kind)
        return Outcome(request, task, self.now - rng.randrange(3_000), RequestStatus.OK, arm, arm,
                       500_000, 1, "table", forced=False, attempts=(attempt,),
                       hit=rng.random() < 0.8)  # fmt: skip


def _hello(name: str, hello: HelloReceived, *, token: str, unix_ms: int) -> Event:
    return lambda engine: engine.hello(name, hello, marks={}, resume_token=token, unix_ms=unix_ms)


def _synced(name: str, token: str) -> Event:
    return lambda engine: engine.token_synced(name, token)


def by_device(reaction: Reaction) -> list[tuple[str, Message]]:
    """What is sent, in the order that each device sees."""
    return sorted(reaction.sends, key=lambda send: send[0])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), before=st.integers(0, 50), after=st.integers(1, 30))
def test_a_restart_resumes_exactly_where_it_stopped(seed: int, before: int, after: int) -> None:
    """From a restart on, both processes react alike to whatever happens, to the last byte."""
    script = Script(seed)
    stayed = Process(MemoryDatabase())
    for event in script.beginning():
        stayed.does(event)
    for _ in range(before):
        stayed.does(script.next(stayed.engine))

    resumed = stayed.successor()
    stayed.engine.sessions.clear()
    numbers = {row.id: row.lease_number_max for row in stayed.engine.registry.devices}
    events = script.sessions(numbers=numbers)
    for number in range(len(events) + after):
        event = events[number] if number < len(events) else script.next(stayed.engine)
        expected, actual = stayed.does(event), resumed.does(event)
        assert by_device(expected) == by_device(actual)
        assert expected.effects == actual.effects

    assert stayed.engine.tables == resumed.engine.tables
    assert stayed.store.database.ledger == resumed.store.database.ledger
    assert stayed.store.database.windows == resumed.store.database.windows
