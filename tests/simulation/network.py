"""Lines between devices and the coordinator: slow, broken, repeating."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.messages import Message
    from tests.simulation.device import Device
    from tests.simulation.world import World

LATENCY_MS_MAX = 40
DELAY_MS_MAX = 750


class Line:
    """One stream: in order both ways, until it breaks. It never comes back."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.incarnation = device.incarnation
        self.dialled_ms = device.world.now
        self.welcomed = False
        self.is_cut = False
        self.heartbeat_at = self.send_at = 0
        self.up_at = self.down_at = 0
        self.up_until = 1 << 62

    def cut(self, now: int, *, late_ms: int = 0) -> None:
        """It breaks; what goes up may be read for a moment longer, by a slow handler."""
        if not self.is_cut:
            self.is_cut = True
            self.up_until = now + late_ms
            if self.device.line is self:
                self.device.soon()


class Network:
    """Carries messages; faults are armed by the trace and hit the next messages."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world, self._rng = world, rng
        self.lose = self.repeat = self.delay = self.swap = 0

    def _latency(self) -> int:
        if self.delay:
            self.delay -= 1
            self._world.seen["message_delayed"] += 1
            return self._rng.randint(LATENCY_MS_MAX, DELAY_MS_MAX)
        return 1 + int(self._rng.random() * LATENCY_MS_MAX)

    def up(self, line: Line, kind: str, body: Any) -> None:
        """A device says something."""
        world = self._world
        if line.is_cut:
            return
        if self.lose:
            self._lose(line)
            return
        at = max(line.up_at, world.now + self._latency())
        line.up_at = at
        if self.swap and kind in ("wish", "heartbeat"):
            self.swap -= 1  # it overtakes what was said before, and is overtaken in turn
            at = world.now
            world.seen["message_reordered"] += 1
        times = 1
        if self.repeat and kind != "hello":
            self.repeat -= 1
            times = 2
            world.seen["message_repeated"] += 1
        for _ in range(times):
            world.at(at, None, lambda: world.centre.hear(line, kind, body))

    def down(self, line: Line, message: Message) -> None:
        """The coordinator says something."""
        world = self._world
        if line.is_cut:
            return
        if self.lose:
            self._lose(line)
            return
        at = max(line.down_at, world.now + self._latency())
        line.down_at = at
        times = 1
        if self.repeat and type(message).__name__ != "Welcomed":
            self.repeat -= 1
            times = 2
            world.seen["message_repeated"] += 1
        device = line.device
        for _ in range(times):
            world.at(at, device, lambda: device.take(line, message))

    def _lose(self, line: Line) -> None:
        """A message that is lost takes its line with it: a stream has no holes."""
        self.lose -= 1
        self._world.seen["message_lost"] += 1
        line.cut(self._world.now)
