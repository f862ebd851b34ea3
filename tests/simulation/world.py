"""Everything there is, driven by one seed: clock, network, disks, provider, clients, faults."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import coordinator.state
import edge_agent.outbox
from edge_agent.engine import AttemptPlan
from shared.decision.types import Outcome, RequestStatus
from shared.errors import InvariantError, TidegateError
from tests.simulation.centre import FLEET, Centre, fleet_config
from tests.simulation.checker import Checker, Violated
from tests.simulation.device import HOUSE_KEEPING_MS, Device, Wanted, new_device
from tests.simulation.disk import Died
from tests.simulation.faults import Faults
from tests.simulation.network import Network
from tests.simulation.provider import Bill, Fate, Provider
from tests.simulation.trace import DEVICES, Op, make_trace

EPOCH_MS = 1_000_000_000_000
WINDOW_MS = 20_000
WORST_NANOS = 1_700_000
SPOOL_MAX = 25
TICK_MS = 500
BUDGETS = (150, 110, 80)
PRICES = {"large": (2_500_000_000, 10_000_000_000), "small": (1_000_000_000, 4_000_000_000)}
REST_MS_MAX = 120_000


@dataclass
class Result:
    """What a run came to."""

    seed: int
    requests: int = 0
    paid: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    candidates: int = 0
    served: int = 0
    spendable_nanos: int = 0
    spent_nanos: int = 0
    violation: Violated | None = None

    @property
    def counts(self) -> bool:
        """Whether enough was paid, and enough went wrong."""
        n = max(1, self.requests)
        return self.paid / n >= 0.5 and sum(self.faults.values()) / n >= 0.2


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
        self.healthy = False
        self.fates: list[Fate] = []
        self.paid_requests: set[str] = set()
        self.lossy = self.checker.lossy
        self.budget_nanos = BUDGETS[0] * WORST_NANOS
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
            self._keep_house(device)
        self._tick()
        self._supervise()

    def toml(self, *, valid_until: str = "") -> str:
        """The fleet's configuration as it stands."""
        return FLEET.format(
            window_s=WINDOW_MS // 1000,
            usd=f"{BUDGETS[0] * WORST_NANOS / 1e9:.9f}",
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
                if device.asleep_until > self.now:
                    self.at(device.asleep_until, device, act)
                else:
                    device.guard(act)
        self.now = self.checker.now_ms = until

    def _keep_house(self, device: Device) -> None:
        def keep() -> None:
            if device.gone:
                return
            if device.asleep_until <= self.now:
                device.guard(device.tidy)
                device.guard(device.talk)
            self.at(self.now + HOUSE_KEEPING_MS, None, keep)

        self.at(self.now + self.rng.randint(0, HOUSE_KEEPING_MS), None, keep)

    def _tick(self) -> None:
        self.centre.tick()
        self.at(self.now + TICK_MS, None, self._tick)

    def _supervise(self) -> None:
        """An operator looks at the alarms from time to time."""
        if self.centre.up and not self.centre.cannot_write:
            self.faults.mend()
        self.at(self.now + self.rng.randint(1_500, 4_000), None, self._supervise)

    def add(self, device: Device) -> None:
        """One more device: a clone."""
        self.devices.append(device)
        device.start()
        self._keep_house(device)

    def revive(self, device: Device) -> None:
        """A supervisor starts a dead process again."""

        def start() -> None:
            if device.gone or device.alive:
                return
            try:
                device.start()
            except Died:
                device.fuse.put_out()
                device.kill(power=True)
                self.revive(device)

        self.at(self.now + self.rng.randint(50, 600), None, start)

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

    def ask(self, device: Device, rng: random.Random, *, pinned: bool = False) -> None:
        """A client's request; now and then a judge's after it."""
        if not device.alive or device.asleep_until > self.now:
            device = next(
                (d for d in self.devices if d.alive and d.asleep_until <= self.now), device
            )
        if not device.alive or device.asleep_until > self.now:
            return
        self.result.requests += 1
        chance = rng.random()
        arm = "large" if pinned or chance < 0.65 else ("small" if chance < 0.93 else "")
        wanted = Wanted(
            request_id=f"q{self.result.requests}",
            pinned=arm,
            max_tokens=rng.choice([None, None, 100, 40, 5]),
            body_bytes=rng.choice([200, 200, 120]),
            judged=rng.random() < 0.03,
        )
        device.guard(device.tidy)
        device.guard(lambda: device.ask(wanted))

    def admitted(self, device: Device, wanted: Wanted) -> None:
        """A request has reached an agent."""
        if self.healthy and wanted.pinned:
            self.result.candidates += 1

    def interrupted(self, request_id: str) -> None:
        """Its agent ended: the client sees the connection break."""

    def finished(self, device: Device, wanted: Wanted, outcome: Outcome) -> None:
        """A request has its answer or a clean refusal (promise P2)."""
        self.checker.checked["P2"] += 1
        if not wanted.pinned and outcome.status is RequestStatus.REFUSED:
            raise Violated("P2", f"{wanted} is refused though the local model could answer")
        paid = any(a.lease_number and not a.error for a in outcome.attempts)
        if self.healthy and wanted.pinned and paid:
            self.result.served += 1
        if wanted.judged and paid:
            self.result.requests += 1
            judge = Wanted(f"j-{wanted.request_id}", "small", 20, 300)
            device.ask(judge)

    def buy(self, device: Device, wanted: Wanted, plan: AttemptPlan) -> Bill:
        """A paid call arrives at the provider."""
        fate = self.fates.pop() if self.fates else Fate.ANSWERED
        if fate is not Fate.ANSWERED:
            self.seen[str(fate)] += 1
        tokens = (wanted.body_bytes + 16 + 64, plan.max_tokens)
        bill = self.provider.execute(
            self.rng,
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
        if self.healthy:
            self.result.spent_nanos += bill.nanos
        return bill

    def duration_of(self, fate: Fate) -> int:
        """How long a call takes."""
        if fate is Fate.SLOW:
            return self.rng.randint(1_500, 7_000)
        return self.rng.randint(10, 400)

    # A run.

    def play(self, trace: Sequence[Op]) -> None:
        """Play operations in order."""
        for op in trace:
            self.run(op.wait_ms)
            rng = random.Random(op.seed)
            if op.kind == "ask":
                self.ask(self.devices[op.device], rng)
            else:
                self.faults.play(op.kind, self.devices[op.device], rng)

    def heal(self, *, briefly: bool = False) -> None:
        """No more faults: a healthy window, and then everything is told and given back."""
        self.faults.end()
        rng = random.Random(f"heal {self.seed}")
        for _ in range(1_000):
            self.run(500)
            self.faults.mend()
            self._warm_up(rng)
            if self._is_well():
                break
        else:
            raise Violated("liveness", "the fleet does not recover")
        if not briefly:
            self._healthy_window()
        self._rest()

    def _is_well(self) -> bool:
        engine = self.centre.engine
        return (
            engine.recovery is None
            and len(engine.sessions) == DEVICES
            and all(s.may_spend for s in engine.sessions.values())
            and not self.faults.rising
            and all(d.alive and d.engine.gate.available_nanos for d in self.present())
        )

    def present(self) -> list[Device]:
        """The devices that are really there: no clone that was shut down."""
        return [device for device in self.devices if not device.gone]

    def _healthy_window(self) -> None:
        tight = self.seed % 3 == 0
        self.budget_nanos = (40 if tight else 400) * WORST_NANOS
        self.order(self.budget_nanos)
        self._wait_for_window()
        rng = random.Random(f"healthy {self.seed}")
        self.run(1_500)
        self._warm_up(rng)
        self.run(1_500)
        window = self.centre.engine.window
        end = window.end_unix_ms if window is not None else 0
        self.healthy = True
        while self.centre.unix_ms() < end - 1_500:
            self.run(rng.choice([20, 50, 90, 140]))
            self.ask(rng.choice(self.present()), rng, pinned=True)
        self.healthy = False
        self._judge_liveness(window_id=window.id if window is not None else 0, tight=tight)

    def _wait_for_window(self) -> None:
        before = self.centre.engine.window_id
        for _ in range(200):
            self.run(250)
            if self.centre.engine.window_id != before:
                return
        raise Violated("liveness", "no new window opens")

    def _warm_up(self, rng: random.Random) -> None:
        for device in self.present():
            if device.alive and not device.engine.gate.available_nanos:
                self.ask(device, rng, pinned=True)

    def _judge_liveness(self, *, window_id: int, tight: bool) -> None:
        result = self.result
        billed = self.checker.billed[window_id]
        self.checker.checked["liveness"] += 1
        if tight:
            result.candidates = result.served = 0
            result.spendable_nanos, result.spent_nanos = self.budget_nanos, billed
            if billed < 0.9 * self.budget_nanos:
                raise Violated("liveness", f"{billed} of {self.budget_nanos} nanos are spent")
        else:
            result.spendable_nanos = result.spent_nanos
            if result.served < 0.95 * result.candidates:
                raise Violated("liveness", f"{result.served} of {result.candidates} are served")

    def _rest(self) -> None:
        for device in self.present():
            device.engine.gate.stopping = True
        for second in range(REST_MS_MAX // 1_000):
            self.run(1_000)
            self.faults.mend()
            if second % 15 == 10:
                self.faults.write_off_stranded()
            quiet = not any(d.engine.outbox.waiting or d.calls for d in self.present())
            if quiet and not self.centre.engine.account.open_leases():
                break
            for device in self.present():
                if device.alive:
                    device.engine.gate.stopping = True
        else:
            waiting = {d.name: d.engine.outbox.waiting for d in self.present()}
            leases = self.centre.engine.account.open_leases()
            raise Violated("liveness", f"no rest: {waiting} wait, {leases[:2]} are open")
        disks = [(device.id, device.disk) for device in self.present()]
        self.checker.at_rest(self.centre.database, disks=disks)

    def finish(self) -> Result:
        """What it came to."""
        result = self.result
        result.paid = len(self.paid_requests)
        result.faults, result.checked = self.seen, self.checker.checked
        return result


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
            world.heal(briefly=until_well)
        except Violated as violated:
            world.result.violation = violated
        except InvariantError as error:
            world.result.violation = Violated("invariant", str(error))
        except (TidegateError, AssertionError, KeyError, ValueError, TypeError) as error:
            world.result.violation = Violated("exception", f"{type(error).__name__}: {error}")
        return world.finish()
