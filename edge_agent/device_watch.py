"""Reads the machine's sensors from time to time, and holds its limits against them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from edge_agent.device_limits import DeviceLimits, LimitWatch
from edge_agent.ports import DeviceSensors
from shared.decision.types import ArmKind, DeviceState

log = structlog.get_logger(__name__)
READ_S: Final = 2.0


class DeviceWatch:
    """The machine's condition, from memory."""

    def __init__(self, sensors: DeviceSensors, *, limits: DeviceLimits) -> None:
        self._sensors = sensors
        self._limits = LimitWatch(limits)
        self._state = DeviceState()
        # One thread for all readings: psutil measures the processor's work per calling thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sensors")

    @property
    def state(self) -> DeviceState:
        """The last reading."""
        return self._state

    @property
    def limits(self) -> LimitWatch:
        """What the limits close now."""
        return self._limits

    def closed(self, kind: ArmKind) -> str:
        """The limit that closes a kind of arms; empty if none does."""
        return self._limits.closed(kind)

    def set_limits(self, limits: DeviceLimits) -> None:
        """New limits, judged by the last reading at once."""
        self._limits = LimitWatch(limits)
        self._judge(self._state)

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await self.look()
            await asyncio.sleep(READ_S)

    async def look(self) -> None:
        """Read once; sensors may be slow, so not in the event loop."""
        loop = asyncio.get_running_loop()
        self._judge(await loop.run_in_executor(self._thread, self._sensors.read))

    def _judge(self, state: DeviceState) -> None:
        before = set(self._limits.fallouts)
        self._state = state
        self._limits.look(state)
        now = set(self._limits.fallouts)
        for fallout in sorted(now - before, key=str):
            log.warning("arms_closed", arms=fallout.arm, limit=fallout.reason)
        for fallout in sorted(before - now, key=str):
            log.info("arms_open_again", arms=fallout.arm, limit=fallout.reason)
