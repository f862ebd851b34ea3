"""A quiet world for scenarios: everybody connected, nothing wrong until the test says so."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.records import LeaseRecord, LedgerRow, WindowRow
from edge_agent.books import MetaKey, PutMeta
from shared.decision.types import Outcome, SpoolRecord
from tests.simulation.answering import Wanted
from tests.simulation.device import Device
from tests.simulation.dice import Dice
from tests.simulation.disk import SimDisk
from tests.simulation.provider import Fate
from tests.simulation.world import World

CONNECTED_MS = 2_500


class Scene(World):
    """A world with a few handles. Every invariant is checked all the time."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self._asked = 0
        self.run(CONNECTED_MS)
        self.pay(self.device)
        self.run(CONNECTED_MS)

    def _supervise(self) -> None:
        """No operator looks on: what a test wants done, it does."""

    @property
    def device(self) -> Device:
        """The device that most scenarios look at."""
        return self.devices[0]

    def pay(
        self,
        device: Device,
        *,
        fate: Fate = Fate.ANSWERED,
        arm: str = "large",
        max_tokens: int | None = None,
        wait_ms: int = 1_000,
    ) -> str:
        """Ask for a paid answer and let it come; returns the request's id."""
        self._asked += 1
        request_id = f"s{self._asked}"
        if fate is not Fate.ANSWERED:
            self.fates.append(fate)
        wanted = Wanted(request_id, arm, max_tokens, 200, dice=Dice(self._asked))
        device.guard(lambda: device.answering.ask(wanted))
        self.run(wait_ms)
        return request_id

    def outcome(self, device: Device, request_id: str) -> Outcome:
        """What the device has spooled of a request."""
        return device.disk.outcomes[request_id]

    def window(self) -> WindowRow:
        """The present window, from the database."""
        return self.centre.database.windows[max(self.centre.database.windows)]

    def lease(self, device: Device) -> LeaseRecord:
        """The newest lease of a device, from the database."""
        found = [row for (name, _), row in self.centre.database.leases.items() if name == device.id]
        return max(found, key=lambda row: row.number)

    def rows(self, kind: str) -> list[LedgerRow]:
        """Ledger rows of one kind."""
        return [row for row in self.centre.database.ledger if row.kind == kind]

    def spooled(self, device: Device, kind: type) -> list[SpoolRecord]:
        """Spool records whose body is of a type."""
        spool = device.disk.state.spool
        return [spool[n] for n in sorted(spool) if isinstance(spool[n].body, kind)]

    def cut_off(self, device: Device, *, ms: int) -> None:
        """Nobody reaches the device, and it reaches nobody."""
        device.hang_up()
        device.cut_off_until = self.now + ms

    def until(self, holds: Callable[[], bool], *, ms: int = 60_000) -> None:
        """Let time pass until something holds.

        Raises
        ------
        AssertionError
            If it does not in time.
        """
        for _ in range(ms // 100):
            if holds():
                return
            self.run(100)
        raise AssertionError("it never came to be")

    def empty_disk(self, device: Device) -> SimDisk:
        """What takes the place of lost books, as `adapters/books_opening.py` begins them."""
        disk = SimDisk(self.checker.device_commit, fuse=device.fuse, owner=device.id)
        disk.commit([PutMeta(MetaKey.COPIED, "1"), PutMeta(MetaKey.BOOKS_LOST, "?")], sync=True)
        self.lossy.add(device.id)
        return disk

    def restart(self, device: Device, *, power: bool = False) -> None:
        """End a device's process, or its power, and start it again."""
        device.kill(power=power)
        device.start()
