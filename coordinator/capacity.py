"""What the fleet's devices can do and are asked to do, and which models they keep loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np

from coordinator.fleet_config import DeviceClassConfig, FleetConfig
from coordinator.lessons import Lessons, was_executed
from coordinator.planned import Context, PlannedSlot
from coordinator.policy import Capacity
from coordinator.policy.base import BoolArray, FloatArray, IntArray
from coordinator.policy.measured_speeds import MeasuredSpeeds
from coordinator.policy.service_times import ForcedShare, ServiceTimes
from shared.decision.types import ArmKind, Attempt

_ARMS_ENUMERATED_MAX: Final = 12
UNREACHED_RUN: Final = 8
"""Calls in a row that were not executed until an arm counts as out of reach of a device class."""
TRIAL_SHARE_MAX: Final = 0.05


class Reach:
    """Which arms a device class cannot reach at present.

    A call that was not executed (rule S_2: no connection, an unbilled status) says nothing of the
    arm's quality. After a run of them the arm has no place in the plan, only trials; the first
    call that is executed ends the run.
    """

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], int] = {}

    def count(self, attempt: Attempt, *, device_class: str) -> None:
        """Take in one attempt; local ones do not count."""
        if attempt.settle is None:
            return
        if not was_executed(attempt):
            key = (device_class, attempt.arm)
            self._runs[key] = self._runs.get(key, 0) + 1
        elif self._runs:
            self._runs.pop((device_class, attempt.arm), None)

    def lost(
        self, feasible: BoolArray, *, contexts: Sequence[Context], arms: Sequence[str]
    ) -> BoolArray:
        """Feasible arms that are out of reach, shape (X, A); a context keeps its last arms."""
        lost = np.array(
            [
                [self._runs.get((device_class, arm), 0) >= UNREACHED_RUN for arm in arms]
                for device_class, _ in contexts
            ],
            dtype=np.bool_,
        ).reshape(feasible.shape)
        lost &= feasible
        return lost & (feasible & ~lost).any(axis=1, keepdims=True)

    def to_state(self) -> list[list[object]]:
        """Plain data; `from_state` restores it exactly."""
        return [[*key, run] for key, run in self._runs.items()]

    @classmethod
    def from_state(cls, state: Iterable[Sequence[Any]]) -> Reach:
        """Restore from `to_state`'s data."""
        reach = cls()
        reach._runs = {(device_class, arm): run for device_class, arm, run in state}
        return reach


def with_trials(weights: FloatArray, *, lost: BoolArray, next_slot: FloatArray) -> FloatArray:
    """Give arms that are out of reach about one request of each context in the coming slot.

    Parameters
    ----------
    weights : ndarray, shape (X, A)
        Of a plan without these arms.
    lost : ndarray of bool, shape (X, A)
    next_slot : ndarray, shape (X,)
        Requests.
    """
    share = np.minimum(1.0 / np.maximum(next_slot, 1.0), TRIAL_SHARE_MAX)[:, None] * lost
    tried: FloatArray = weights * (1.0 - share.sum(axis=1, keepdims=True)) + share
    return tried


class FleetLoad:
    """What is known of the work on devices: how long it takes, who may place it, who is there."""

    def __init__(self) -> None:
        self.service_times = ServiceTimes()
        self.forced = ForcedShare()
        self.reach = Reach()
        self.devices_up: dict[str, int] = {}
        self.speeds = MeasuredSpeeds()

    def learn(self, lessons: Lessons) -> None:
        """Take in who placed the requests, what was reached, and how long answers took."""
        for (device_class, task, _, _, _, _, forced), requests in lessons.kinds.items():
            self.forced.count((device_class, task), arm=forced, requests=requests)
        for device_class, attempt in lessons.calls:
            self.reach.count(attempt, device_class=device_class)
        self.service_times.record(lessons.answers, cells=lessons.cells)

    def slot_closed(self) -> None:
        """A slot is over."""
        self.forced.fade()

    def heard_of(self, devices_up: Mapping[str, int]) -> None:
        """Take over how many devices are alive; a class without any keeps its last number."""
        self.devices_up.update({name: up for name, up in devices_up.items() if up > 0})

    def capacity(
        self, config: FleetConfig, *, contexts: Sequence[Context], arms: Sequence[str]
    ) -> Capacity:
        """The capacity rows of the fleet as it is now."""
        priors = self._latency_priors(config, contexts=contexts, arms=arms)
        return capacity_of(
            config,
            contexts=contexts,
            arms=arms,
            service_s=self.service_times.service_s(contexts, arms=arms, prior_ms=priors),
            devices_up=self.devices_up,
        )

    def measured_latencies(self, config: FleetConfig) -> dict[Context, float]:
        """What devices have measured of local arms, in ms, by device class and arm."""
        return self.speeds.latencies(
            {
                name: (arm.prompt_tokens, arm.completion_tokens)
                for name, arm in config.arms.items()
                if arm.arm.kind is ArmKind.LOCAL
            }
        )

    def _latency_priors(
        self, config: FleetConfig, *, contexts: Sequence[Context], arms: Sequence[str]
    ) -> FloatArray:
        """What a request takes by measurement, else by statement, in ms, shape (X, A)."""
        priors = np.tile([config.arms[arm].latency_ms for arm in arms], (len(contexts), 1))
        classes = np.array([device_class for device_class, _ in contexts])
        for (device_class, arm), ms in self.measured_latencies(config).items():
            if arm in arms:
                priors[classes == device_class, arms.index(arm)] = ms
        return priors

    def in_flight(self, last: PlannedSlot, *, config: FleetConfig) -> IntArray:
        """Requests that were sent by the last plan and have not come back, shape (X, A).

        Nobody reports them by arm; by Little's law there are as many as come in during an answer.
        """
        priors = self._latency_priors(config, contexts=last.contexts, arms=last.arms)
        latency = self.service_times.latency_ms(last.contexts, arms=last.arms, prior_ms=priors)
        rate = last.plan.weights * last.forecast.next_slot[:, None] / config.window.slot_ms
        return np.floor(rate * latency).astype(np.int64)

    def to_state(self) -> dict[str, Any]:
        """Plain data; `from_state` restores it exactly."""
        return {
            "service_times": self.service_times.to_state(),
            "forced": self.forced.to_state(),
            "reach": self.reach.to_state(),
            "devices_up": self.devices_up,
            "speeds": self.speeds.to_state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FleetLoad:
        """Restore from `to_state`'s data."""
        load = cls()
        load.service_times = ServiceTimes.from_state(state["service_times"])
        load.forced = ForcedShare.from_state(state["forced"])
        load.reach = Reach.from_state(state.get("reach", ()))
        load.devices_up = dict(state["devices_up"])
        load.speeds = MeasuredSpeeds.from_state(state.get("speeds", ()))
        return load


def resident_arms(
    planned: PlannedSlot, *, device_class: str, config: FleetConfig
) -> tuple[str, ...]:
    """The local arms that a plan keeps loaded on a class, in the order of the configuration."""
    found = config.device_classes[device_class]
    local = tuple(arm for arm in found.arms if config.arms[arm].arm.kind is ArmKind.LOCAL)
    if planned.plan.resident is None:
        return local
    chosen = int(planned.plan.resident[sorted(config.device_classes).index(device_class)])
    if chosen < 0:
        return local
    choices = resident_choices(found, config=config, arms=planned.arms)
    kept = {planned.arms[column] for column in np.flatnonzero(choices[chosen])}
    return tuple(arm for arm in local if arm in kept)


def capacity_of(
    config: FleetConfig,
    *,
    contexts: Sequence[Context],
    arms: Sequence[str],
    service_s: FloatArray,
    devices_up: Mapping[str, int],
) -> Capacity:
    """Build the capacity rows of a fleet.

    Parameters
    ----------
    config : FleetConfig
    contexts : sequence of (device class, task class), length X
    arms : sequence of str, length A
    service_s : ndarray, shape (X, A)
        Mean worker-seconds of a request.
    devices_up : mapping of str to int
        Devices per class; a class that is missing, or has none, has no limit: nothing is known.

    Returns
    -------
    Capacity
        Device classes in the order of their names.
    """
    names = sorted(config.device_classes)
    slot_s = config.window.slot_ms / 1_000.0
    up = np.array([float(devices_up.get(name, 0)) for name in names])
    per_device = np.array(
        [
            config.device_classes[name].utilisation * config.device_classes[name].parallel * slot_s
            for name in names
        ]
    )
    return Capacity(
        device_class=np.array([names.index(context[0]) for context in contexts], dtype=np.int64),
        local=np.array([config.arms[arm].arm.kind is ArmKind.LOCAL for arm in arms], np.bool_),
        service_s=service_s,
        per_slot_s=np.where(up > 0.0, up * per_device, np.inf),
        resident_choices=tuple(
            resident_choices(config.device_classes[name], config=config, arms=arms)
            for name in names
        ),
        load_s=np.array([config.arms[arm].load_ms / 1_000.0 for arm in arms]),
        devices=np.maximum(up, 1.0),
    )


def resident_choices(
    device_class: DeviceClassConfig, *, config: FleetConfig, arms: Sequence[str]
) -> BoolArray:
    """Return the largest sets of local arms that fit into a device's memory, shape (R, A).

    No rows where everything fits, so that there is nothing to choose. Beyond twelve local arms
    only single ones are considered.
    """
    local = [arm for arm in device_class.arms if arm in arms and config.arms[arm].arm.cloud is None]
    size = {arm: config.arms[arm].memory_gb for arm in local}
    memory = device_class.memory_gb
    if not memory or sum(size.values()) <= memory:
        return np.zeros((0, len(arms)), dtype=np.bool_)
    largest = len(local) if len(local) <= _ARMS_ENUMERATED_MAX else 1
    sets: list[set[str]] = []
    for count in range(largest, 0, -1):
        for chosen in combinations(local, count):
            fits = sum(size[arm] for arm in chosen) <= memory
            if fits and not any(set(chosen) <= larger for larger in sets):
                sets.append(set(chosen))
    return np.array([[arm in chosen for arm in arms] for chosen in sets], dtype=np.bool_).reshape(
        -1, len(arms)
    )
