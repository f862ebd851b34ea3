"""Everything there is, driven by one seed: clock, network, disks, provider, clients, faults."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import coordinator.state
import edge_agent.outbox
from edge_agent.attempts import AttemptPlan
from shared.decision.types import Outcome, RequestStatus
from shared.errors import InvariantError, TidegateError
from tests.simulation.answering import Wanted
from tests.simulation.centre import FLEET, Centre, fleet_config
from tests.simulation.checker import Checker
from tests.simulation.clients import Clients
from tests.simulation.device import Device, new_device
from tests.simulation.dice import Dice
from tests.simulation.disk import Died
from tests.simulation.facts import Violated
from tests.simulation.faults import Faults
from tests.simulation.healing import Health, heal
from tests.simulation.network import Network
from tests.simulation.provider import PRICES, WORST_NANOS, Bill, Fate, Provider
from tests.simulation.result import Result
from tests.simulation.trace import DEVICES, Op, make_trace

ANSWERED = Fate.ANSWERED
EPOCH_MS = 1_000_000_000_000
WINDOW_MS = 20_000
SPOOL_MAX = 35
TICK_MS = 500
BUDGET_WORST_CASES = 200
LARGE_SHARE, SMALL_SHARE, LOCAL_SHARE = 0.63, 0.28, 0.06
"""What requests pin; the others leave the choice to the device."""
JUDGED_SHARE = 0.03
MAX_TOKENS = (None, None, 100, 40, 5)
BODY_BYTES = (200, 200, 120)


class World:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(f"world {seed}")
        self.now = EPOCH_MS
        self.seen: Counter[str] = Counter()
        self.provider = Provider(dict(PRICES))
        self.checker = Checker(self.provider, now_ms=self.now)
        self.network = Network(self, random.Random(f"network {seed}"))
        self._events: list[tuple[int, int, Device | None, int, Callable[[], None]]] = []
        self._count = 0
        self.result = Result(seed)
        self.played = 0
        self.noted: Counter[str] = Counter()
        self.clients = Clients(self.checker.checked)
        self.health = Health(self)
        self.fates: list[Fate] = []
        self.paid_requests: set[str] = set()
        self.lossy = self.checker.lossy
        self.budget_nanos = BUDGET_WORST_CASES * WORST_NANOS
        self.checker.ordered = {self.budget_nanos}
        self.price_usd = "2.50"
        self.toml_now = self.toml()
        self.centre = Centre(self)
        self.centre.start()
        names = [f"d{n}" for n in range(DEVICES)]
        self.centre.register(names, self.toml_now)
        self.devices = [new_device(self, name) for name in names]
        self.faults = Faults(self)
        for device in self.devices:
            device.start()
        self._tick()
        self._supervise()

    def toml(self, *, valid_until: str = "") -> str:
        """The fleet's configuration as it stands."""
        return FLEET.format(
            window_s=WINDOW_MS // 1000,
            usd=f"{BUDGET_WORST_CASES * WORST_NANOS / 1e9:.9f}",
            price=self.price_usd,
            valid=f'valid_until = "{valid_until}"' if valid_until else "",
        )

    # Time.

    def at(self, when: int, device: Device | None, act: Callable[[], None]) -> None:
        """Do something later; what belongs to a process ends with it."""
        self._count += 1
        life = device.starts if device is not None else 0
        heapq.heappush(self._events, (when, self._count, device, life, act))

    def run(self, ms: int) -> None:
        """Let time pass."""
        until = self.now + ms
        events = self._events
        while events and events[0][0] <= until:
            when, _, device, life, act = heapq.heappop(events)
            if when > self.now:
                self.now = self.checker.now_ms = when
            if device is None:
                act()
            elif device.alive and device.starts == life:
                if device.asleep_until > when:
                    self.at(device.asleep_until, device, act)
                    continue
                try:
                    act()
                except Died:
                    device.died()
        self.now = self.checker.now_ms = until

    def _tick(self) -> None:
        self.centre.tick()
        self.at(self.now + TICK_MS, None, self._tick)

    def _supervise(self) -> None:
        """An operator looks at the alarms from time to time."""
        if self.centre.up and not self.centre.cannot_write:
            self.faults.mend()
        self.at(self.now + self.rng.randint(400, 1_000), None, self._supervise)

    def add(self, device: Device) -> None:
        """One more device: a clone."""
        self.devices.append(device)
        device.start()

    def revive(self, device: Device) -> None:
        """A supervisor starts a dead process again."""

        def start() -> None:
            if device.gone or device.alive:
                return
            try:
                device.start()
            except Died:
                device.fuse.put_out()
                self.seen["device_dies_in_commit"] += 1
                device.kill(power=True)
                self.revive(device)

        self.at(self.now + device.rng.randint(15, 200), None, start)

    def order(self, budget_nanos: int) -> bool:
        """The operator sets the budget; a coordinator that dies meanwhile may have heard."""
        self.checker.ordered.add(budget_nanos)
        done = self.centre.operate(
            lambda e, now: e.set_budget(budget_nanos, actor="op", unix_ms=now)
        )
        if done:
            self.checker.ordered = {budget_nanos}
        return done

    # Clients and the provider.

    def ask(self, device: Device, dice: Dice, *, request_id: str = "", pinned: bool = False) -> str:
        """A client asks this device, or another one if it is off; returns the request's id."""
        if not device.is_awake:
            awake = [other for other in self.devices if other.is_awake]
            if not awake:
                return ""
            device = dice.choice(awake)
        self.result.requests += 1
        chance = dice.random()
        wanted = Wanted(
            request_id or f"h{self.result.requests}",
            "large" if pinned else _pinned(chance),
            max_tokens=dice.choice(MAX_TOKENS),
            body_bytes=dice.choice(BODY_BYTES),
            judged=dice.random() < JUDGED_SHARE,
            dice=dice,
        )
        try:
            device.answering.ask(wanted)
        except Died:
            device.died()
        return wanted.request_id

    def finished(self, device: Device, wanted: Wanted, outcome: Outcome, *, refused: bool) -> None:
        """A request has ended; who pins no arm is never refused (promise P2)."""
        if refused and not wanted.pinned and outcome.status is not RequestStatus.ABORTED:
            raise Violated("P2", f"{wanted} is refused though the local model could answer")
        paid = bool([a for a in outcome.attempts if a.lease_number and not a.error])
        self.health.finished(outcome, paid=paid)
        if wanted.judged and paid:
            self.result.requests += 1
            judge = Wanted(f"j-{wanted.request_id}", "small", 20, 300, dice=wanted.dice)
            device.answering.ask(judge)

    def buy(self, device: Device, wanted: Wanted, plan: AttemptPlan) -> Bill:
        """A paid call arrives at the provider."""
        fate = self.fates.pop() if self.fates else ANSWERED
        if fate is not ANSWERED:
            self.seen[str(fate)] += 1
        tokens = (wanted.body_bytes + 16 + 64, plan.max_tokens)
        bill = self.provider.execute(
            wanted.dice,
            fate=fate,
            device=device.id,
            request_id=wanted.request_id,
            plan=plan,
            tokens_max=tokens,
        )
        self.checker.paid_call(
            bill, disk=device.disk, incarnation=device.incarnation, name=device.name
        )
        if bill.nanos:
            self.paid_requests.add(wanted.request_id)
        return bill

    # A run.

    def play(self, trace: Sequence[Op]) -> None:
        """Play operations in order."""
        for op in trace:
            self.run(op.wait_ms)
            self.played += 1
            device = self.devices[op.device]
            if op.kind == "ask":
                self.ask(device, Dice(op.seed), request_id=f"q{op.seed}.{self.result.requests}")
            else:
                self.faults.play(op.kind, device, Dice(op.seed))

    def present(self) -> list[Device]:
        """The devices that are really there: no clone that was shut down."""
        return [device for device in self.devices if not device.gone]

    def finish(self) -> Result:
        """What it came to."""
        result = self.result
        result.paid = len(self.paid_requests)
        result.faults, result.noted = self.seen, self.noted
        result.checked, result.played = Counter(self.checker.checked), self.played
        return result

    def let_go(self) -> None:
        """Its parts know each other, so that nothing would be freed before a search for cycles."""
        for device in self.devices:
            vars(device.answering).clear()
        parts = (self.centre, self.checker, self.faults, self.health, self.network, self)
        for part in (*self.devices, *parts):
            vars(part).clear()


def _pinned(chance: float) -> str:
    """The arm that a client names, if any."""
    if chance < LARGE_SHARE:
        return "large"
    if chance < LARGE_SHARE + SMALL_SHARE:
        return "small"
    return "tiny" if chance < LARGE_SHARE + SMALL_SHARE + LOCAL_SHARE else ""


@contextmanager
def small_spools() -> Iterator[None]:
    """Spools overflow early, so that compaction is played; a known text is not parsed again."""
    with (
        patch.object(edge_agent.outbox, "SPOOL_RECORDS_MAX", SPOOL_MAX),
        patch.object(coordinator.state, "parse_fleet", fleet_config),
    ):
        yield


def simulate(
    seed: int,
    *,
    steps: int = 500,
    trace: Sequence[Op] | None = None,
    until_well: bool = False,
) -> Result:
    """One run, from the first hello to rest; a violation ends it and is part of the result.

    With `until_well` there is no healthy window: liveness is not measured.
    """
    with small_spools():
        world = World(seed)
        try:
            world.run(2_000)
            world.play(make_trace(seed, steps=steps) if trace is None else trace)
            heal(world, briefly=until_well)
        except Violated as violated:
            world.result.violation = violated
        except InvariantError as error:
            world.result.violation = Violated("invariant", str(error))
        except (TidegateError, AssertionError, KeyError, ValueError, TypeError) as error:
            world.result.violation = Violated("exception", f"{type(error).__name__}: {error}")
        result = world.finish()
        world.let_go()
        return result
