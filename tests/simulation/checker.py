"""What must hold at every moment, judged from the outside.

The checker sees the provider's bills, the messages on the wire, the clients' requests, and durable
rows. It never asks an engine: every sum here is its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.records import BookedCounts, BookedOutcome
from tests.fakes.memory_store import MemoryDatabase
from tests.simulation.books_side import SIGNS, BooksSide
from tests.simulation.device_side import DeviceSide
from tests.simulation.disk import SimDisk


@dataclass
class Checker(DeviceSide, BooksSide):
    """Checks both sides as they go, and what all of it came to."""

    def at_rest(self, database: MemoryDatabase, *, disks: Iterable[tuple[str, SimDisk]]) -> None:
        """All has been told: the books cover every bill, each outcome is there once (P5)."""
        sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        for row in database.ledger:
            settled, unconfirmed, outstanding = SIGNS[row.kind]
            of_window, amount = sums[row.window_id], row.amount_nanos
            of_window[0] += settled * amount
            of_window[1] += unconfirmed * amount
            of_window[2] += outstanding * amount
        for window in database.windows.values():
            have = [window.settled_nanos, window.unconfirmed_nanos, window.outstanding_nanos]
            self.holds(have == sums[window.id], "C_2", "{}: its rows {}", (window, sums[window.id]))
            self.holds(0 == have[2], "L_5", "{}: money is still out", (window,))
        for key, nanos in self.provider.on_lease.items():
            lease = database.leases.get(key)
            known = lease.booked_nanos + lease.unconfirmed_nanos if lease is not None else 0
            # What comes beyond a closed lease and is never reported is nobody's to know.
            covered = known >= nanos - self.provider.beyond_on_lease.get(key, 0)
            self.holds(covered, "I5", "{} were billed on lease {}: {}", (nanos, key, lease))
        self._each_once(database, disks)

    def _each_once(self, database: MemoryDatabase, disks: Iterable[tuple[str, SimDisk]]) -> None:
        booked = Counter(
            row.outcome.request_id for row in database.learned if isinstance(row, BookedOutcome)
        )
        counted = Counter[str]()
        for told in database.learned:
            if isinstance(told, BookedCounts):
                counted[told.device_id] += told.requests
        spooled: dict[str, set[str]] = defaultdict(set)
        for device, disk in disks:
            spooled[device].update(disk.outcomes)
        for device, requests in spooled.items():
            missing = [request for request in requests if not booked[request]]
            # Some that a summary speaks of were on a disk that is lost, or are told by a copy too.
            more = device in self.lossy and len(missing) < counted[device]
            said = "{}: of {} spooled outcomes {} are not booked, summaries speak of {}: {}"
            self.holds(
                len(missing) == counted[device] or more,
                "P5",
                said,
                (device, len(requests), len(missing), counted[device], missing[:3]),
            )
        twice = [request for request, times in booked.items() if times > 1]
        self.holds(not twice, "P5", "booked twice: {}", (twice[:3],))
