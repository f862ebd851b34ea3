"""The seams of the simulated world: disks and the network.

The lab's own are perfect: nothing is lost, repeated or torn. A driver that wants faults replaces
them; the devices and the coordinator only know these protocols.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from random import Random
from typing import Any, Protocol

from coordinator.lab.simulation.clock import EventQueue
from coordinator.records import (
    BookedFeedback,
    EarlierFacts,
    LeaseRecord,
    SpoolMark,
    StoreEffect,
    WindowRow,
)
from edge_agent.books import AppendSpool, BookEffect, BooksSnapshot, MetaKey, PutMeta
from shared.decision.types import SpoolRecord


class DeviceDisk(Protocol):
    """A device's books."""

    def load(self) -> BooksSnapshot:
        """What a process that starts finds."""
        ...

    def commit(self, effects: Sequence[BookEffect], *, sync: bool) -> None:
        """Apply effects in one transaction; `sync` also through a loss of power."""
        ...

    def spooled(self, *, after: int, limit: int) -> list[SpoolRecord]:
        """Records above a sequence, rising."""
        ...


class CoordinatorDisk(Protocol):
    """The coordinator's store."""

    def commit(self, effects: Sequence[StoreEffect]) -> None:
        """Apply effects in one transaction."""
        ...

    def earlier(
        self, device_id: str, *, request_ids: Sequence[str], lease_numbers: Sequence[int]
    ) -> EarlierFacts:
        """What the books hold of a batch's requests and leases, beyond the engine's memory."""
        ...

    def spool_marks(self, device_id: str, incarnations: Sequence[str]) -> dict[str, int]:
        """The highest booked sequence of each incarnation of a device that the books know."""
        ...


class Network(Protocol):
    """Carries messages one way, in order for each lane."""

    def carry(self, lane: str, deliver: Callable[..., None], *args: Any) -> None:
        """Deliver a message: call `deliver(*args)` when it arrives."""
        ...


class OutboxDisk:
    """A device's disk that never fails: it keeps what is not acked, and forgets the rest."""

    def __init__(self) -> None:
        self._records: deque[SpoolRecord] = deque()

    def load(self) -> BooksSnapshot:
        """Empty books: a device of the lab starts once."""
        return BooksSnapshot()

    def commit(self, effects: Sequence[BookEffect], *, sync: bool) -> None:
        """Keep spooled records; everything else lives in the engine's memory."""
        del sync
        for effect in effects:
            kind = type(effect)
            if kind is AppendSpool:
                self._records.append(effect.record)  # type: ignore[union-attr]
            elif kind is PutMeta and effect.key is MetaKey.SEQUENCE_ACKED:  # type: ignore[union-attr]
                acked = int(effect.value)  # type: ignore[union-attr]
                while self._records and self._records[0].sequence <= acked:
                    self._records.popleft()

    def spooled(self, *, after: int, limit: int) -> list[SpoolRecord]:
        """Records above a sequence, rising."""
        if not self._records:
            return []
        skip = max(0, after - self._records[0].sequence + 1)
        return list(islice(self._records, skip, skip + limit))


class LeaseStore:
    """A coordinator's store that never fails: it keeps what a later batch may be about."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, int], LeaseRecord] = {}
        self._windows: dict[int, WindowRow] = {}
        self._graded: set[tuple[str, str]] = set()
        self._marks: dict[tuple[str, str], int] = {}

    def commit(self, effects: Sequence[StoreEffect]) -> None:
        """Keep leases, windows, marks and which requests are graded; the engine has the rest."""
        for effect in effects:
            if isinstance(effect, LeaseRecord):
                self._leases[effect.device_id, effect.number] = effect
            elif isinstance(effect, SpoolMark):
                self._marks[effect.device_id, effect.incarnation] = effect.sequence
            elif isinstance(effect, WindowRow):
                self._windows[effect.id] = effect
            elif isinstance(effect, BookedFeedback):
                self._graded.add((effect.device_id, effect.feedback.request_id))

    def earlier(
        self, device_id: str, *, request_ids: Sequence[str], lease_numbers: Sequence[int]
    ) -> EarlierFacts:
        """What was committed of these requests and leases."""
        leases = tuple(
            self._leases[device_id, number]
            for number in lease_numbers
            if (device_id, number) in self._leases
        )
        return EarlierFacts(
            graded=frozenset(each for each in request_ids if (device_id, each) in self._graded),
            leases=leases,
            windows=tuple(self._windows[key] for key in {row.window_id for row in leases}),
        )

    def spool_marks(self, device_id: str, incarnations: Sequence[str]) -> dict[str, int]:
        """What was committed of these incarnations."""
        found = {name: self._marks.get((device_id, name), 0) for name in incarnations}
        return {name: mark for name, mark in found.items() if mark}


class DelayNetwork:
    """Every message arrives, in order, after a random delay.

    Parameters
    ----------
    delay_ms : float
        Mean one-way delay.
    jitter : float
        Its exponential share: 0 makes every delay alike, 1 makes it exponential.
    """

    def __init__(self, queue: EventQueue, *, delay_ms: float, jitter: float, rng: Random) -> None:
        self._queue = queue
        self._fixed = delay_ms * max(0.0, 1.0 - jitter)
        self._random = delay_ms * min(1.0, jitter)
        self._rng = rng
        self._last: dict[str, int] = {}

    def carry(self, lane: str, deliver: Callable[..., None], *args: Any) -> None:
        """Deliver a message after its delay, never before an earlier one of its lane."""
        delay = self._fixed + (self._rng.expovariate(1.0) * self._random if self._random else 0.0)
        arrives = max(self._queue.now_ms + round(delay), self._last.get(lane, 0))
        self._last[lane] = arrives
        self._queue.at(arrives, deliver, *args)
