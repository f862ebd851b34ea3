"""The simulated world: devices, the coordinator, the provider, requests and events.

Everything follows from the scenario and a seed. The draws of demand, network, choices and grades
come from generators of their own, so that what one consumes does not shift the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import process_time
from typing import Final

import numpy as np

from coordinator.engine import LATE_OUTCOMES_MS, CoordinatorEngine
from coordinator.lab.simulation.centre import Centre
from coordinator.lab.simulation.clock import EventQueue
from coordinator.lab.simulation.demand import make_demand
from coordinator.lab.simulation.device import TURN_MS, Device
from coordinator.lab.simulation.fleet_file import fleet_toml
from coordinator.lab.simulation.logbook import Logbook
from coordinator.lab.simulation.ports import (
    CoordinatorDisk,
    DelayNetwork,
    DeviceDisk,
    LeaseStore,
    Network,
    OutboxDisk,
)
from coordinator.lab.simulation.schema import EventTable, Scenario
from coordinator.lab.simulation.tally import Regime, Tally, WindowEnd
from coordinator.lab.simulation.truth import Truth
from coordinator.lab.simulation.workers import Ask
from coordinator.records import StoreSnapshot, WindowRow
from shared.decision.types import Outcome, RequestStatus

FIRST_WINDOW: Final = 1_000
"""Windows before the first one, so that times look like times."""
CONNECT_MS: Final = 2_000
"""Requests of the very first slot leave the fleet this long to connect."""
RECONNECT_MS: Final = 5_000
HEARTBEAT_MS: Final = 60_000
"""Just often enough for every device to count as alive (`UP_WITHIN_MS` of the engine)."""
OPERATOR: Final = "simulation"
LEASE_REASONS: Final = frozenset({"no_lease", "lease_too_small", "watermark_not_synced"})

Progress = Callable[[int], None]


class World:
    """One run of a scenario.

    Parameters
    ----------
    windows : int
        Windows to simulate; events happen in the last one, which is judged.
    folder : Path, optional
        Where a demand trace lies.
    logbook : Logbook, optional
        Collects the decisions of the judged window.
    network, store, disk : optional
        Replace the perfect ones; `disk` makes a device's.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        seed: int,
        windows: int = 1,
        folder: Path | None = None,
        logbook: Logbook | None = None,
        network: Network | None = None,
        store: CoordinatorDisk | None = None,
        disk: Callable[[str], DeviceDisk] | None = None,
    ) -> None:
        self.scenario = scenario
        self.windows = windows
        self.truth = Truth(scenario)
        self.demand = make_demand(scenario, windows=windows, seed=seed, folder=folder)
        self.arms = tuple(sorted(scenario.arms))
        self.tally = Tally(self.demand, self.arms, scenario.slots, windows)
        self._arm_index = {arm: at for at, arm in enumerate(self.arms)}
        self._slot_ms, self._length_ms = scenario.window.slot, scenario.window.length
        self.start_ms = FIRST_WINDOW * self._length_ms
        self.queue = EventQueue(now_ms=self.start_ms)
        self._logbook = logbook
        self._arrivals = Random(f"{seed} arrivals")
        self._choices = Random(f"{seed} choices")
        self._grades = Random(f"{seed} grades")
        self._absent = {name for name, arm in scenario.arms.items() if arm.absent}
        self._price_factor: dict[str, float] = {}
        self._factor = np.ones(len(self.demand.contexts))
        self._billed: Counter[int] = Counter()
        self._allowed: dict[int, int] = {}
        self._ended: list[tuple[int, int]] = []
        self._balances: dict[int, WindowRow] = {}
        self._requests = 0
        self.centre = Centre(
            CoordinatorEngine(StoreSnapshot(), seed=seed),
            queue=self.queue,
            network=network
            or DelayNetwork(
                self.queue,
                delay_ms=scenario.network.delay,
                jitter=scenario.network.jitter,
                rng=Random(f"{seed} network"),
            ),
            disk=store or LeaseStore(),
        )
        self.devices = self._make_devices(disk or (lambda _: OutboxDisk()))

    def _make_devices(self, disk: Callable[[str], DeviceDisk]) -> dict[str, list[Device]]:
        made: dict[str, list[Device]] = {}
        for name, found in self.scenario.device_classes.items():
            made[name] = []
            for number in range(found.devices):
                device_id = f"{name}-{number:05d}"
                device = Device(
                    device_id,
                    device_class=name,
                    scenario=self.scenario,
                    truth=self.truth,
                    queue=self.queue,
                    disk=disk(device_id),
                    uplink=self.centre,
                    rng=self._choices,
                    on_outcome=self._booked,
                )
                made[name].append(device)
                self.centre.join(device)
        return made

    def foreseen_regimes(self) -> list[Regime]:
        """The regimes of the judged window, without playing it; the world is used up by it."""
        self._apply_config()
        for slot in range(self.scenario.slots):
            self._play_events(slot)
        return self.tally.regimes

    # Time.

    def run(self, *, progress: Progress | None = None) -> Tally:
        """Play the whole run and let everything settle."""
        begun = process_time()
        scenario, slot_ms = self.scenario, self._slot_ms
        self._apply_config()
        for devices in self.devices.values():
            for device in devices:
                self.queue.after(self._arrivals.random() * TURN_MS, device.connect)
        judged = (self.windows - 1) * scenario.slots
        for slot in range(self.windows * scenario.slots):
            start_ms = self.start_ms + slot * slot_ms
            if slot % scenario.slots == 0 and slot:
                self._end_window()
            self.queue.run_until(start_ms)
            self.centre.tick()
            if slot >= judged:
                self._play_events(slot - judged)
            self.queue.at(start_ms + LATE_OUTCOMES_MS + TURN_MS, self.centre.tick)
            self._schedule_slot(slot)
            for at_ms in range(0, slot_ms, HEARTBEAT_MS):
                self.queue.at(start_ms + at_ms, self.centre.heartbeats)
            self.queue.run_until(start_ms + slot_ms - 1)
            self._note_balances()
            if progress is not None:
                progress(int(self.demand.counts[slot].sum()))
        self._end_window()
        self._settle_all()
        self.tally.cpu_s = process_time() - begun
        return self.tally

    def _schedule_slot(self, slot: int) -> None:
        """Draw the slot's requests: when each comes, to which device, how long its prompt is."""
        rng, start_ms, first_ms = self._arrivals, self.start_ms + slot * self._slot_ms, 0
        if slot == 0:
            first_ms = min(CONNECT_MS, self._slot_ms // 2)
        span_ms = self._slot_ms - first_ms
        for context, (device_class, task) in enumerate(self.demand.contexts):
            devices, prompt = self.devices[device_class], self.truth.prompt[task]
            for _ in range(int(self.demand.counts[slot, context])):
                arrived_ms = start_ms + first_ms + int(rng.random() * span_ms)
                device = devices[int(rng.random() * len(devices))]
                self._requests += 1
                ask = Ask(
                    id=f"q{self._requests}",
                    slot=slot,
                    context=context,
                    task_class=task,
                    arrived_ms=arrived_ms,
                    prompt_tokens=int(prompt.draw(rng)),
                )
                self.queue.at(arrived_ms, device.ask, ask)

    def _end_window(self) -> None:
        """The window is about to end: note what is lent out."""
        row = self.centre.engine.window
        if row is not None:
            self._ended.append((row.id, row.outstanding_nanos))
            self._balances[row.id] = row

    def _note_balances(self) -> None:
        """Keep the balances of windows that have ended: the books forget them in the end."""
        account = self.centre.engine.account
        for window_id, _ in self._ended:
            if account.has_window(window_id):
                self._balances[window_id] = account.window(window_id)

    def _settle_all(self) -> None:
        """No more requests: calls end, leases expire and close, every outcome is booked."""
        wait_ms = self.scenario.link.lease_duration + self.scenario.link.close_wait
        longest_ms = max(found.latency.values[-1] for found in self.truth.contexts.values())
        end_ms = self.queue.now_ms + wait_ms + 10 * int(longest_ms)
        for devices in self.devices.values():
            for device in devices:
                device.engine.gate.stopping = True
        self.queue.run_until(end_ms)
        self._note_balances()
        for window_id, outstanding in self._ended:
            row = self._balances[window_id]
            self.tally.ends.append(
                WindowEnd(
                    budget=row.target_nanos,
                    allowed=max(row.target_nanos, self._allowed.get(window_id, 0)),
                    billed=self._billed[window_id],
                    settled=row.settled_nanos,
                    unconfirmed=row.unconfirmed_nanos,
                    outstanding=outstanding,
                )
            )

    # Outcomes.

    def _booked(self, device: Device, ask: Ask, outcome: Outcome) -> None:
        """A request has ended: count it, and have it graded some time."""
        answered = outcome.status is RequestStatus.OK
        reward = hit_expected = 0.0
        arm = -1
        if answered:
            arm = self._arm_index[outcome.arm]
            reward = self.truth.reward_mean[ask.task_class, outcome.arm]
            truth = self.truth.contexts[device.device_class, ask.task_class, outcome.arm]
            hit_expected = truth.latency.share_up_to(outcome.deadline_ms - ask.waited_ms)
        cost = 0
        for attempt in outcome.attempts:
            if attempt.cost_nanos:
                cost += attempt.cost_nanos
                self._billed[device.window_of_lease[attempt.lease_number]] += attempt.cost_nanos
        lost = _lease_lost(device, outcome) if outcome.fallouts else 0.0
        refused = lost > 0.0 and not ask.exhausted
        self.tally.rows.append(
            (ask.slot, ask.context, arm, reward, hit_expected, outcome.hit, cost, lost, refused)
        )
        logged = self._logbook is not None and ask.slot >= (self.windows - 1) * self.scenario.slots
        if logged and self._logbook is not None:
            self._logbook.note(device, ask, outcome)
        grading = self.scenario.grading
        if answered and self._grades.random() < grading.share:
            value = self.truth.draw_reward(ask.task_class, outcome.arm, self._grades)
            delay_ms = grading.delay * self._grades.expovariate(1.0)
            self.queue.after(delay_ms, self._grade, device, ask, outcome.arm, value)
            if logged and self._logbook is not None:
                self._logbook.graded(ask.id, value)

    def _grade(self, device: Device, ask: Ask, arm: str, value: float) -> None:
        device.grade(ask, arm=arm, reward=value)

    # Events.

    def _play_events(self, slot: int) -> None:
        """What changes at the beginning of a slot of the judged window."""
        changed = slot == 0
        for event in self.scenario.events:
            if event.at_slot == slot:
                self._begin(event)
                changed = True
            if event.until_slot == slot:
                self._end(event)
                changed = True
        if changed:
            self.tally.regimes.append(self._regime(slot))

    def _begin(self, event: EventTable) -> None:
        engine, now_ms = self.centre.engine, self.queue.now_ms
        if event.kind == "price":
            self._price_factor[event.arm] = self._price_factor.get(event.arm, 1.0) * event.factor
            self._apply_config()
        elif event.kind == "new_arm":
            self._absent.discard(event.arm)
            self._apply_config()
        elif event.kind == "quality":
            self._set_quality(event, mean=event.reward or 0.0)
        elif event.kind == "budget":
            amount = event.amount_usd or 0
            self.centre.change(engine.set_budget(amount, actor=OPERATOR, unix_ms=now_ms))
            row = engine.window
            if row is not None:
                self._allowed[row.id] = row.enforced_nanos
        elif event.kind in ("dead_arm", "cloud_down"):
            self.truth.dead |= self._arms_of(event)
        elif event.kind == "demand":
            self._scale(event, factor=event.factor)
        else:
            self.centre.up = event.kind != "coordinator_down"
            for device in self._devices_of(event):
                self.centre.hang_up(device)

    def _end(self, event: EventTable) -> None:
        if event.kind == "price":
            self._price_factor[event.arm] /= event.factor
            self._apply_config()
        elif event.kind == "quality":
            self._set_quality(event, mean=None)
        elif event.kind in ("dead_arm", "cloud_down"):
            self.truth.dead -= self._arms_of(event)
        elif event.kind == "demand":
            self._scale(event, factor=1.0 / event.factor if event.factor else 0.0)
        elif event.kind in ("link_down", "coordinator_down"):
            self.centre.up = True
            for device in self._devices_of(event):
                self.queue.after(self._arrivals.random() * RECONNECT_MS, device.connect)

    def _set_quality(self, event: EventTable, *, mean: float | None) -> None:
        for task, usual in self.scenario.arms[event.arm].reward.items():
            if event.task_class in ("", task):
                self.truth.set_reward(task, event.arm, usual if mean is None else mean)

    def _scale(self, event: EventTable, *, factor: float) -> None:
        for at, (device_class, task) in enumerate(self.demand.contexts):
            if event.device_class in ("", device_class) and event.task_class in ("", task):
                self._factor[at] *= factor

    def _arms_of(self, event: EventTable) -> set[str]:
        if event.kind == "dead_arm":
            return {event.arm}
        return {name for name, arm in self.scenario.arms.items() if arm.kind == "cloud"}

    def _devices_of(self, event: EventTable) -> list[Device]:
        return [
            device
            for name, devices in self.devices.items()
            for device in devices
            if event.device_class in ("", name)
        ]

    def _apply_config(self) -> None:
        toml = fleet_toml(self.scenario, absent=self._absent, price_factor=self._price_factor)
        _, reaction = self.centre.engine.apply_config(
            toml, actor=OPERATOR, unix_ms=self.queue.now_ms, dry_run=False
        )
        self.centre.change(reaction)

    def _regime(self, slot: int) -> Regime:
        """What is true now, and where the run stands."""
        engine, scenario = self.centre.engine, self.scenario
        shape = (len(self.demand.contexts), len(self.arms))
        reward, cost = np.zeros(shape), np.zeros(shape)
        feasible = np.zeros(shape, dtype=np.bool_)
        for row, (device, task) in enumerate(self.demand.contexts):
            for column, arm in enumerate(self.arms):
                known = arm in scenario.device_classes[device].arms and arm not in self._absent
                private = scenario.task_classes[task].privacy == "local"
                cloud = scenario.arms[arm].kind == "cloud"
                feasible[row, column] = (
                    known and arm not in self.truth.dead and not (private and cloud)
                )
                reward[row, column] = self.truth.reward_mean[task, arm]
                if known and cloud and engine.config is not None:
                    price = engine.config.prices[arm]
                    cost[row, column] = self.truth.cost_mean(
                        device, task=task, arm=arm, price=price
                    )
        window = engine.window
        past = [r for r in self.tally.rows if r[0] >= (self.windows - 1) * scenario.slots]
        return Regime(
            slot=slot,
            reward=reward,
            cost=cost,
            feasible=feasible,
            factor=self._factor.copy(),
            budget_nanos=engine.budget_nanos,
            spent_nanos=window.settled_nanos + window.unconfirmed_nanos if window else 0,
            requests=float(len(past)),
            hits=float(sum(r[4] for r in past)),
        )


def _lease_lost(device: Device, outcome: Outcome) -> float:
    """The share of the table's weight on arms that no lease covered."""
    lost = {each.arm for each in outcome.fallouts if each.reason in LEASE_REASONS}
    table = device.engine.table
    row = table.row(outcome.task_class) if lost and table is not None else None
    if row is None:
        return 0.0
    total = sum(arm.weight_ppm for arm in row.arms)
    return sum(arm.weight_ppm for arm in row.arms if arm.arm in lost) / total if total else 0.0
