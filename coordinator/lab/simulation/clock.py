"""Simulated time: events in order of time, ties in order of scheduling."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class EventQueue:
    """A discrete-event clock in Unix milliseconds. Deterministic."""

    def __init__(self, *, now_ms: int) -> None:
        self.now_ms = now_ms
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def at(self, unix_ms: int, call: Callable[..., None], *args: Any) -> None:
        """Call something at a time, or now if that is over."""
        self.events += 1
        heapq.heappush(self._heap, (max(self.now_ms, unix_ms), self.events, call, args))

    def after(self, delay_ms: float, call: Callable[..., None], *args: Any) -> None:
        """Call something after a delay."""
        self.at(self.now_ms + max(0, round(delay_ms)), call, *args)

    def run_until(self, unix_ms: int) -> None:
        """Play every event up to and including a time."""
        heap = self._heap
        while heap and heap[0][0] <= unix_ms:
            self.now_ms, _, call, args = heapq.heappop(heap)
            call(*args)
        self.now_ms = max(self.now_ms, unix_ms)
