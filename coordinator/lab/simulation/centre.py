"""The coordinator's end of the simulated link: it hears, decides, commits and sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.engine import CoordinatorEngine
from coordinator.lab.simulation.clock import EventQueue
from coordinator.lab.simulation.device import Device
from coordinator.lab.simulation.ports import CoordinatorDisk, Network
from coordinator.messages import HelloReceived, Message
from coordinator.records import DeviceRow, EarlierFacts
from coordinator.registry import digest
from coordinator.sessions import Reaction
from shared.decision.lease import LeaseWish
from shared.decision.types import SpoolRecord


class Centre:
    """Drives the production engine as `coordinator/service.py` does, without waiting.

    Attributes
    ----------
    up : bool
        False while the coordinator is down: nothing is heard, no slot is closed.
    """

    def __init__(
        self,
        engine: CoordinatorEngine,
        *,
        queue: EventQueue,
        network: Network,
        disk: CoordinatorDisk,
    ) -> None:
        self.engine = engine
        self.up = True
        self._queue = queue
        self._network = network
        self._disk = disk
        self._devices: dict[str, Device] = {}
        self._tokens = 0

    def join(self, device: Device) -> None:
        """Make a device known, as its join token did long ago."""
        row = DeviceRow(
            id=device.id,
            name=device.id,
            device_class=device.device_class,
            credential_digest=digest(f"credential of {device.id}"),
            joined_unix_ms=self._queue.now_ms,
        )
        self._devices[device.id] = device
        self._disk.commit([self.engine.registry.put(row)])

    def tick(self) -> None:
        """Time has passed."""
        if self.up:
            self.change(self.engine.tick(unix_ms=self._queue.now_ms))

    def heartbeats(self) -> None:
        """Every connected device shows that it is alive; kept in the engine's memory only.

        They come at once and without delay: per device it would be most of all messages, and
        nothing but the number of living devices follows from them.
        """
        for device in self._devices.values():
            if self.up and device.connected:
                engine = device.engine
                self.engine.heartbeat(
                    device.id,
                    leases=engine.gate.leases(),
                    spooled_records=engine.outbox.waiting,
                    table_version=engine.table.version if engine.table else 0,
                    unix_ms=self._queue.now_ms,
                )

    def change(self, reaction: Reaction) -> None:
        """Commit, then send to whoever is connected."""
        if reaction.effects:
            self._disk.commit(reaction.effects)
        for device_id, message in reaction.sends:
            device = self._devices[device_id]
            if device.connected:
                lane = f"{device_id}<{device.epoch}"
                self._network.carry(lane, self._arrive, device, device.epoch, message)

    def _arrive(self, device: Device, epoch: int, message: Message) -> None:
        if device.connected and device.epoch == epoch:
            device.take(message)

    # What devices say.

    def hello(self, device: Device, hello: HelloReceived) -> None:
        """A device dials."""
        self._say(device, self._hear_hello, hello)

    def token_synced(self, device: Device, token: str) -> None:
        """A device has its resume token on its disk."""
        self._say(device, self._hear_token, token)

    def batch(self, device: Device, records: list[SpoolRecord]) -> None:
        """A device sends records."""
        self._say(device, self._hear_batch, records)

    def lease_wish(self, device: Device, wish: LeaseWish) -> None:
        """A device asks for an allowance."""
        self._say(device, self._hear_wish, wish)

    def hang_up(self, device: Device) -> None:
        """The link of a device breaks at both ends."""
        if device.connected:
            device.disconnect()
            self.engine.disconnected(device.id, incarnation=device.incarnation)

    def _say(self, device: Device, hear: Callable[..., None], *args: Any) -> None:
        lane = f"{device.id}>{device.epoch}"
        self._network.carry(lane, self._hear, device, device.epoch, hear, args)

    def _hear(
        self, device: Device, epoch: int, hear: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        if self.up and device.connected and device.epoch == epoch:
            hear(device, *args)

    def _hear_hello(self, device: Device, hello: HelloReceived) -> None:
        self._tokens += 1
        token = f"token-{self._tokens}"
        now_ms = self._queue.now_ms
        names = [each.incarnation for each in hello.incarnations]
        marks = self._disk.spool_marks(device.id, names)
        self.change(
            self.engine.hello(device.id, hello, marks=marks, resume_token=token, unix_ms=now_ms)
        )

    def _hear_token(self, device: Device, token: str) -> None:
        self.change(self.engine.token_synced(device.id, token))

    def _hear_batch(self, device: Device, records: list[SpoolRecord]) -> None:
        named = self.engine.unremembered(device.id, records)
        earlier = EarlierFacts()
        if named.graded or named.leases:
            earlier = self._disk.earlier(
                device.id, request_ids=named.graded, lease_numbers=named.leases
            )
        now_ms = self._queue.now_ms
        self.change(
            self.engine.batch(
                device.id,
                records,
                incarnation=device.incarnation,
                earlier=earlier,
                unix_ms=now_ms,
            )
        )

    def _hear_wish(self, device: Device, wish: LeaseWish) -> None:
        now_ms = self._queue.now_ms
        self.change(self.engine.lease_requested(device.id, wish, unix_ms=now_ms))
