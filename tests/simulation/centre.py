"""The coordinator's side: the production engine on a simulated database, and its operator."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from coordinator.booking import NOTHING_NAMED
from coordinator.engine import CoordinatorEngine
from coordinator.fleet_config import FleetConfig, parse_fleet
from coordinator.group_commit import Change
from coordinator.messages import HeartbeatAnswered
from coordinator.records import DeviceRow, DeviceStanding, StoreEffect
from coordinator.registry import digest
from coordinator.sessions import Reaction
from shared.errors import TidegateError
from tests.fakes.memory_store import MemoryDatabase, book_batch, say_hello
from tests.simulation.books_side import Decided
from tests.simulation.disk import Died, Fuse, Mark, SimStore
from tests.simulation.network import Line
from tests.simulation.transactions import Transactions

if TYPE_CHECKING:
    from tests.simulation.world import World

FLEET = """
[fleet]
name = "simulated"
[window]
length = "{window_s}s"
slot = "20s"
anchor = 0
[budget]
name = "cloud"
amount_usd = "{usd}"
[policy]
kind = "ad_ucb"
forecaster = "mean_so_far"
[link]
lease_duration = "8s"
close_wait = "1s"
[arms.tiny]
kind = "local"
[arms.large]
kind = "cloud"
model = "large"
base_url = "http://127.0.0.1:9000/v1/"
fields = ["max_tokens"]
max_tokens_default = 100
[arms.large.price]
input_usd_per_mtok = "{price}"
output_usd_per_mtok = "10"
request_usd = "0"
{valid}
[arms.small]
kind = "cloud"
model = "small"
base_url = "http://127.0.0.1:9001/v1/"
fields = ["max_tokens"]
max_tokens_default = 60
on_abort = "cancel"
[arms.small.price]
input_usd_per_mtok = "1"
output_usd_per_mtok = "4"
request_usd = "0"
[device_classes.pi]
arms = ["tiny", "large", "small"]
"""


@lru_cache(maxsize=512)
def fleet_config(toml: str, **options: Any) -> FleetConfig:
    """`parse_fleet`, which depends on nothing else, remembered: a restart reads the same text."""
    return parse_fleet(toml, **options)


class Centre:
    """The coordinator as its devices see it: present or not, and after a takeover another.

    Attributes
    ----------
    slow : int
        So many of the next transactions take their time.
    zombie : tuple or None
        A writer that was taken over and does not know it yet (rule C_5).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._rng = random.Random(f"centre {world.seed}")
        self.changes = Transactions(self, self._rng)
        self.database = MemoryDatabase()
        self.mark = Mark()
        self.fuse = Fuse()
        self.lines: dict[str, Line] = {}
        self.zombie: tuple[CoordinatorEngine, SimStore] | None = None
        self.wall_ms = self.slow = 0
        self.up = False
        self.cannot_write = False
        self.tokens = 0
        self.backups: list[tuple[MemoryDatabase, int]] = []

    def unix_ms(self) -> int:
        """The coordinator's wall clock, which may step."""
        return self.world.now + self.wall_ms

    def start(self) -> None:
        """A fresh process on the database."""
        self.stop()
        self.database.held = False
        self.store = SimStore(
            self.database, mark=self.mark, watch=self.world.checker.store_commit, fuse=self.fuse
        )
        self.store.open()
        self.begin_anew()
        self.changes = Transactions(self, self._rng)
        self.up = True

    def begin_anew(self) -> None:
        """What is stored is what counts; every session ends."""
        for line in self.lines.values():
            line.cut(self.world.now)
        self.lines.clear()
        self.engine = CoordinatorEngine(self.store.load())

    def stop(self) -> None:
        """The process is gone."""
        self.up = False
        self.changes.end()
        for line in self.lines.values():
            line.cut(self.world.now)
        self.lines.clear()

    def register(self, device_ids: list[str], toml: str) -> None:
        """A fleet of known devices."""
        rows = [DeviceRow(name, name, "pi", digest(f"secret-{name}"), 0) for name in device_ids]
        self.change("join", lambda e: Reaction(effects=[e.registry.put(row) for row in rows]))
        self.configure(toml)

    def configure(self, toml: str) -> None:
        """Apply a configuration."""
        self.change(
            "apply",
            lambda e: e.apply_config(toml, actor="op", unix_ms=self.unix_ms(), dry_run=False)[1],
        )

    # Decide, commit, send.

    def change(self, cause: str, decide: Change, *, hears: str = "") -> bool:
        """Put an event through at once, with all before it; False if it was refused.

        `hears` names the device that has told of all its leases with this event, or is given up.
        """
        return self.up and self.changes.make(cause, decide, hears=hears)

    def write(self, decided: Sequence[Decided], rows: Sequence[StoreEffect]) -> None:
        """Make rows durable before anybody is told."""
        self.world.checker.decided = decided
        self.store.commit(rows)

    def died(self) -> None:
        """The process ended in a transaction."""
        self.fuse.put_out()
        self.stop()
        self.world.seen["coordinator_dies_in_commit"] += 1
        self.world.at(self.world.now + 300, None, self.start_again)

    def send(self, reaction: Reaction) -> None:
        """Tell the devices."""
        world = self.world
        for device_id, message in reaction.sends:
            line = self.lines.get(device_id)
            world.checker.told(device_id, message, self.database)
            if line is not None:
                world.network.down(line, message)

    def start_again(self) -> None:
        """Come back, unless somebody did before."""
        if self.up:
            return
        self.start()
        if self.stored_toml != self.world.toml_now:
            self.configure(self.world.toml_now)  # restored books know an older one

    @property
    def stored_toml(self) -> str:
        """The configuration in the books."""
        return self.database.configs[max(self.database.configs)].toml

    def hear(self, line: Line, kind: str, body: Any) -> None:
        """A message has come up."""
        if not self.up or self.world.now > line.up_until:
            return
        device_id = line.device.id
        if kind == "heartbeat":
            self.engine.heartbeat(
                device_id,
                leases=body,
                spooled_records=0,
                table_version=0,
                unix_ms=self.unix_ms(),
            )
            if self.lines.get(device_id) is line:
                self.world.network.down(line, HeartbeatAnswered(self.engine.spend_paused))
            return
        if kind == "wish" and self.zombie is not None:
            self._zombie_hears(device_id, body)
        self.changes.ask(
            kind,
            self._change_of(line, kind, body),
            hears=device_id if kind == "hello" else "",
            heard=lambda made: None if made else line.cut(self.world.now),
        )  # a stream whose message was refused ends

    def _change_of(self, line: Line, kind: str, body: Any) -> Change:
        """What a message asks of the engine, as `CoordinatorService` asks it."""
        device_id, incarnation = line.device.id, line.incarnation

        async def hello(engine: CoordinatorEngine) -> Reaction:
            old = self.lines.get(device_id)
            if old is not None:
                old.cut(self.world.now)
            self.lines[device_id] = line
            self.tokens += 1
            self.world.checker.hello(device_id, body, self.database)
            token = f"token-{self.tokens}"
            return say_hello(
                engine, self.store, device_id, body, resume_token=token, unix_ms=self.unix_ms()
            )

        def book(engine: CoordinatorEngine) -> Reaction:
            now = self.unix_ms()
            return book_batch(
                engine, self.store, device_id, body, incarnation=incarnation, unix_ms=now
            )

        async def look_up_and_book(engine: CoordinatorEngine) -> Reaction:
            return book(engine)

        def batch(engine: CoordinatorEngine) -> Reaction | Coroutine[Any, Any, Reaction]:
            reads = engine.unremembered(device_id, body) != NOTHING_NAMED
            return look_up_and_book(engine) if reads else book(engine)

        match kind:
            case "hello":
                return hello
            case "batch":
                return batch
            case "token":
                return lambda e: e.token_synced(device_id, body)
            case _:
                return lambda e: e.lease_requested(device_id, body, unix_ms=self.unix_ms())

    def _zombie_hears(self, device_id: str, body: Any) -> None:
        """A writer that lost its place may be the one who hears that a device asks for money."""
        assert self.zombie is not None
        engine, store = self.zombie
        try:
            reaction = engine.lease_requested(device_id, body, unix_ms=self.unix_ms())
            if reaction.effects:
                self.world.checker.decided = [Decided("wish", "", reaction)]
                store.commit(reaction.effects)
                self.send(reaction)
        except (TidegateError, Died):
            self.zombie = None

    def noticed(self, line: Line) -> None:
        """A broken stream's end reaches the coordinator."""
        device_id = line.device.id
        if self.lines.get(device_id) is line and line.is_cut:
            del self.lines[device_id]
            self.engine.disconnected(device_id, incarnation=line.incarnation)

    def tick(self) -> None:
        """Time passes."""
        if self.up:
            for line in [line for line in self.lines.values() if line.is_cut]:
                self.noticed(line)
            self.changes.ask("tick", lambda e: e.tick(unix_ms=self.unix_ms()), heard=_nobody)

    # Databases and writers.

    def take_over(self) -> None:
        """The lock was lost unnoticed: a standby is the writer now, the old one still talks."""
        old = (self.engine, self.store)
        self.start()
        self.zombie = old

    def backup(self) -> None:
        """Copy the books."""
        self.backups = [*self.backups[-2:], (copied(self.database), self.world.now)]

    def restore(self, backup: MemoryDatabase) -> None:
        """Put a backup in the place of the books, while no coordinator runs."""
        self.stop()
        self.zombie = None
        self.mark.epoch += 1
        self.database = copied(backup)
        everybody = [row.id for row in self.database.devices.values() if row.standing is _ACTIVE]
        self.world.checker.database_restored(self.database, everybody)

    # The operator.

    def operate(
        self, decide: Callable[[CoordinatorEngine, int], Reaction], *, hears: str = ""
    ) -> bool:
        """A command; what it refuses, it refuses."""
        return self.change("command", lambda e: decide(e, self.unix_ms()), hears=hears)

    def write_off(self, device_id: str) -> bool:
        """Count what a silent device has not reported as spent."""
        return self.operate(
            lambda e, now: e.write_off(device_id, assume_unspent=False, actor="op", unix_ms=now)[1],
            hears=device_id,
        )

    def knows_token(self, device_id: str, token: str) -> bool:
        """Whether the books would still take this resume token."""
        row = self.database.devices[device_id]
        return digest(token) in (row.resume_digest, row.resume_digest_next)

    @property
    def quarantined(self) -> list[str]:
        """Devices that are shut out for a clone or a restored disk."""
        return [row.id for row in self.database.devices.values() if row.standing is _QUARANTINED]


_ACTIVE, _QUARANTINED = DeviceStanding.ACTIVE, DeviceStanding.QUARANTINED


def _nobody(made: bool) -> None:
    """Nobody waits for it."""


def copied(database: MemoryDatabase) -> MemoryDatabase:
    """The same rows, which never change, in a database of their own."""
    twin = copy(database)
    for name, value in vars(database).items():
        if isinstance(value, list | dict | set):
            setattr(twin, name, value.copy())
    twin.held = False
    return twin
