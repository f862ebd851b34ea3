"""A device's local models: which are loaded, who waits for a worker, how long that may take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from coordinator.lab.simulation.schema import Scenario
from edge_agent.attempts import AttemptPlan

SERVICE_MEMORY: Final = 0.1
"""Weight of the latest service time in what a device expects of the next."""


@dataclass(slots=True)
class Ask:
    """One request of the world.

    Attributes
    ----------
    exhausted : bool
        The coordinator has just said that the budget cannot lend any more.
    """

    id: str
    slot: int
    context: int
    task_class: str
    arrived_ms: int
    prompt_tokens: int
    started_ms: int = 0
    waited_ms: int = 0
    first_ms: int = 0
    exhausted: bool = False


class Workers:
    """The local models of a device: which are loaded, and who waits.

    Requests are served in order by ``parallel`` workers, whatever model they need; loading a model
    keeps its first request waiting.
    """

    def __init__(self, scenario: Scenario, *, device_class: str) -> None:
        found = scenario.device_classes[device_class]
        arms = {name: scenario.arms[name] for name in found.arms}
        local = {name: arm for name, arm in arms.items() if arm.kind == "local"}
        self._load_ms = {name: arm.load_time for name, arm in local.items()}
        self._size_gb = {name: arm.memory_gb for name, arm in local.items()}
        self._memory_gb = found.memory_gb or sum(self._size_gb.values())
        self._ready_ms: dict[str, int] = {}
        self._wanted: tuple[str, ...] = ()
        self.parallel = found.parallel
        self.busy = 0
        self.waiting: deque[tuple[Ask, AttemptPlan]] = deque()
        self._service_ms = 0.0
        for name in local:
            if self._fits(name):
                self._ready_ms[name] = 0

    def begin(self, service_ms: float) -> None:
        """A worker starts on a request."""
        self.busy += 1
        if self._service_ms:
            self._service_ms += SERVICE_MEMORY * (service_ms - self._service_ms)
        else:
            self._service_ms = service_ms

    def queue_ms(self, arm: str, *, now_ms: int) -> float:
        """Expected wait of a request that came now, estimated as the agent's worker does."""
        ahead = max(0, self.busy + len(self.waiting) - self.parallel + 1)
        wait_ms = self._service_ms * ahead / self.parallel
        ready_ms = self._ready_ms.get(arm)
        if ready_ms is None:
            return wait_ms + self._load_ms[arm]
        return wait_ms + max(0, ready_ms - now_ms)

    def keep(self, arms: tuple[str, ...], *, now_ms: int) -> None:
        """Load what the table wants resident, as far as memory goes."""
        if arms == self._wanted:
            return
        self._wanted = arms
        for arm in arms:
            if arm in self._load_ms:
                self.load(arm, now_ms=now_ms)

    def load(self, arm: str, *, now_ms: int) -> int:
        """Have a model in memory, in the place of others; returns in how many ms it is there."""
        if arm not in self._ready_ms:
            spare = sorted(self._ready_ms, key=lambda name: name in self._wanted)
            while spare and not self._fits(arm):
                del self._ready_ms[spare.pop(0)]
            self._ready_ms[arm] = now_ms + self._load_ms[arm]
        return max(0, self._ready_ms[arm] - now_ms)

    def _fits(self, arm: str) -> bool:
        used_gb = sum(self._size_gb[name] for name in self._ready_ms)
        return used_gb + self._size_gb[arm] <= self._memory_gb + 1e-9
