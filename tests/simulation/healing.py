"""After the faults: the fleet gets well, serves and spends, and comes to rest (liveness)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.decision.types import Outcome
from tests.simulation.dice import Dice
from tests.simulation.facts import Violated
from tests.simulation.provider import PRICES
from tests.simulation.result import SERVED_SHARE_MIN, SPENT_SHARE_MIN

if TYPE_CHECKING:
    from tests.simulation.world import World

WELL_MS_MAX = 500_000
REST_MS_MAX = 120_000
WARM_MS = 1_500
BEFORE_END_MS = 2_000
AFTERWARDS_MS = 1_200
BURSTS = (1, 2)
GAPS_MS = (30, 70, 110, 190)
GAPS_IN_BURST_MS = (0, 0, 5, 30)
TIGHT_WORST_CASES, AMPLE_WORST_CASES = 75, 400
FOR_WANT_OF_A_LEASE = ("no_lease", "lease_too_small", "watermark_not_synced")


class Health:
    """The account of a healthy window: who asked for a paid answer, and who got one.

    Attributes
    ----------
    watched : dict of str to bool
        Requests of the window; True for those that came while budget was left: until what nobody
        has borrowed, by the checker's account, does not suffice for a worst case of each device.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.watched: dict[str, bool] = {}
        self._demand_nanos: list[int] = []
        self._unserved = 0

    def finished(self, outcome: Outcome, *, paid: bool) -> None:
        """A request has ended."""
        has_budget = self.watched.pop(outcome.request_id, None)
        if has_budget is None:
            return
        result = self._world.result
        result.candidates += has_budget
        if paid:
            result.served += has_budget
            bills = self._world.provider.bills[outcome.request_id]
            self._demand_nanos.append(sum(bill.nanos for bill in bills))
            return
        self._unserved += 1
        lacks = any(fallout.reason in FOR_WANT_OF_A_LEASE for fallout in outcome.fallouts)
        result.refused_for_lease += has_budget and lacks

    def demand_nanos(self) -> int:
        """What all of it would have cost; a request that was not served as much as others."""
        served = len(self._demand_nanos)
        mean = sum(self._demand_nanos) // max(1, served)
        return sum(self._demand_nanos) + mean * self._unserved


def heal(world: World, *, briefly: bool = False) -> None:
    """No more faults: a healthy window, and then everything is told and given back.

    With `briefly` there is no such window.

    Raises
    ------
    Violated
        If the fleet does not recover, does not serve or spend, or does not come to rest.
    """
    world.faults.end()
    dice = Dice(world.seed)
    for _ in range(WELL_MS_MAX // 500):
        world.run(500)
        world.faults.mend()
        _warm_up(world, dice)
        if _is_well(world):
            break
    else:
        raise Violated("liveness", "the fleet does not recover")
    if not briefly:
        _healthy_window(world)
    _rest(world)


def _is_well(world: World) -> bool:
    engine = world.centre.engine
    ids = {device.id for device in world.present()}
    return (
        engine.recovery is None
        and set(engine.sessions) == ids
        and all(session.may_spend for session in engine.sessions.values())
        and not world.faults.rising
        and all(d.is_awake and d.engine.gate.available_nanos for d in world.present())
        and not any(
            d.engine.health.resting_ms(arm, now_ms=d.monotonic_ms())
            for d in world.present()
            for arm in PRICES
        )
    )


def _warm_up(world: World, dice: Dice) -> None:
    for device in world.present():
        if device.alive and not device.engine.gate.available_nanos:
            world.ask(device, dice, pinned=True)


def _healthy_window(world: World) -> None:
    tight = world.seed % 3 == 0
    worst_nanos = world.provider.worst_nanos
    world.budget_nanos = (TIGHT_WORST_CASES if tight else AMPLE_WORST_CASES) * worst_nanos
    world.order(world.budget_nanos)
    _wait_for_window(world)
    dice = Dice(world.seed)
    world.run(WARM_MS)
    _warm_up(world, dice)
    world.run(WARM_MS)
    window = world.centre.engine.window
    if window is None:
        raise Violated("liveness", "there is no window")
    checker = world.checker
    billed_before = checker.billed[window.id]
    enough, has_budget = len(world.present()) * worst_nanos, True
    while world.centre.unix_ms() < window.end_unix_ms - BEFORE_END_MS:
        world.run(dice.choice(GAPS_MS))
        device = dice.choice(world.present())
        for _ in range(dice.choice(BURSTS)):
            has_budget &= world.budget_nanos - sum(checker.sums[window.id]) >= enough
            name = f"h{world.result.requests + 1}"
            world.health.watched[name] = has_budget
            world.ask(device, Dice(dice.below(1 << 32)), request_id=name, pinned=True)
            world.run(dice.choice(GAPS_IN_BURST_MS))
    world.run(AFTERWARDS_MS)
    _judge(world, window_id=window.id, billed_before=billed_before)


def _wait_for_window(world: World) -> None:
    before = world.centre.engine.window_id
    for _ in range(200):
        world.run(250)
        if world.centre.engine.window_id != before:
            return
    raise Violated("liveness", "no new window opens")


def _judge(world: World, *, window_id: int, billed_before: int) -> None:
    result = world.result
    world.checker.checked["liveness"] += 1
    result.spent_nanos = world.checker.billed[window_id]
    demand_nanos = billed_before + world.health.demand_nanos()
    result.spendable_nanos = min(world.budget_nanos, demand_nanos)
    if world.health.watched:
        raise Violated("P2", f"{len(world.health.watched)} requests of a healthy window hang")
    if result.served_share < SERVED_SHARE_MIN:
        said = f"{result.served} of {result.candidates} paid candidates are served"
        raise Violated("liveness", said)
    if result.spent_share < SPENT_SHARE_MIN:
        said = f"{result.spent_nanos} of {result.spendable_nanos} nanos are spent"
        raise Violated("liveness", said)


def _rest(world: World) -> None:
    for second in range(REST_MS_MAX // 1_000):
        for device in world.present():
            if device.alive:
                device.engine.gate.stopping = True
        world.run(1_000)
        world.faults.mend()
        if second % 15 == 10:
            world.faults.write_off_stranded()
        present = world.present()
        quiet = not any(d.engine.outbox.waiting or d.answering.wanted for d in present)
        if quiet and not world.centre.engine.account.open_leases():
            break
    else:
        waiting = {d.name: d.engine.outbox.waiting for d in world.present()}
        leases = world.centre.engine.account.open_leases()
        world.result.records_left = sum(waiting.values())
        world.result.leases_left = len(leases)
        raise Violated("liveness", f"no rest: {waiting} wait, {leases[:2]} are open")
    world.clients.at_rest()
    disks = [(device.id, device.disk) for device in world.devices]
    world.checker.at_rest(world.centre.database, disks=disks)
