"""Drives the coordinator's engine: every event is committed before anything is sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog

from coordinator.alerts import Alert, AlertKind
from coordinator.booking import NOTHING_NAMED, Named
from coordinator.engine import CoordinatorEngine
from coordinator.fleet_config import ConfigChange
from coordinator.forecast import PathModel
from coordinator.group_commit import GroupCommit
from coordinator.messages import HeartbeatAnswered, HelloReceived
from coordinator.outbox import Outbox
from coordinator.ports import DecisionRecord, Notifier, Progress, Store
from coordinator.records import (
    AdminTokenRow,
    AuditRow,
    DeviceRow,
    EarlierFacts,
    JoinTokenRow,
    LedgerRow,
    SpendRow,
    StoreEffect,
    StoreSnapshot,
)
from coordinator.registry import digest
from coordinator.retention import NOTHING_OUTLIVED
from coordinator.sessions import Reaction
from shared.clock import Clock, IdSource
from shared.decision.lease import LeaseWish
from shared.decision.table import SelectionTable
from shared.decision.types import DeviceState, LeaseStatus, Outcome, SpoolRecord
from shared.errors import (
    AuthenticationError,
    LostLeadershipError,
    NotFoundError,
    StoreError,
)

log = structlog.get_logger(__name__)
T = TypeVar("T")
UNKNOWN = "unknown"  # the standing of a credential that is nobody's
TICK_S = 0.1
RESTART_WAIT_S = 2.0
STORE_WAIT_S = 1.0
PRUNE_CHECK_S = 60.0
PRUNE_WAIT_S = 0.1
PRUNE_ROWS = 1_000


class CoordinatorService:
    """The coordinator at work.

    Every change goes through `_changes`: the engine decides, the store commits, then the messages
    go out. If a commit fails, the engine is ahead of the store and is made anew from it.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        ids: IdSource,
        notifier: Notifier | None = None,
        seed: int = 0,
        demand_model: PathModel | None = None,
        provider_keys: frozenset[str] = frozenset(),
    ) -> None:
        self._store = store
        self._provider_keys = provider_keys
        self._demand_model = demand_model
        self._notifier = notifier
        self._clock = clock
        self._ids = ids
        self._seed = seed
        self._changes = GroupCommit(
            engine=lambda: self.engine,
            commit=self._commit,
            tell=self._tell,
            begin_anew=self._begin_anew,
        )
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._outboxes: dict[str, Outbox] = {}
        self._states: dict[str, DeviceState] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.engine = self._new_engine(store.load())
        self.alerts: Counter[tuple[AlertKind, bool]] = Counter()

    async def start(self) -> None:
        """Begin to plan.

        After a restart the devices get a moment to resend what they spooled meanwhile, so that
        the slots in between are closed with their demand.
        """
        wait_s = RESTART_WAIT_S if self.engine.config is not None else 0.0
        self._tasks = [
            asyncio.create_task(self._tick_for_ever(wait_s), name="tick"),
            asyncio.create_task(self._prune_for_ever(), name="prune"),
        ]

    async def stop(self) -> None:
        """End every session, keep what was learned, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for outbox in self._outboxes.values():
            outbox.close()
        await self._changes.finish()
        if self.engine.planner is not None and not self._changes.stale:
            await self._changes.make(lambda engine: Reaction(effects=[engine.snapshot()]))
        self._writer.shutdown()

    async def wait_failed(self) -> None:
        """Return only by raising what made the planning stop."""
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    # Devices.

    async def join(self, *, token: str, name: str, device_class: str) -> tuple[str, str]:
        """Exchange a join token for a device id and its credential."""
        device_id, credential = self._ids.new_id("dev"), self._ids.new_secret("tdc")

        def change(engine: CoordinatorEngine) -> Reaction:
            device, used = engine.registry.join(
                device_id=device_id,
                name=name,
                device_class=device_class,
                token=token,
                credential=credential,
                unix_ms=self._clock.unix_ms(),
            )
            return Reaction(effects=[device, used])

        await self._changes.make(change)
        log.info("device_joined", device_id=device_id, name=name)
        return device_id, credential

    def authenticate(self, credential: str) -> DeviceRow:
        """The device that a credential belongs to."""
        return self.engine.registry.authenticate(credential)

    async def stranger_called(self, credential: str, *, peer: str) -> None:
        """Note a credential that nobody has, if the books were restored from a backup."""
        if self.engine.recovery is None:
            return
        await self._changes.make(
            lambda engine: engine.stranger_called(
                digest(credential), peer=peer, unix_ms=self._clock.unix_ms()
            )
        )

    def standing(self, credential: str) -> str:
        """How the device of a credential stands; `unknown` if it is nobody's."""
        device = self.engine.registry.owner(credential)
        return str(device.standing) if device is not None else UNKNOWN

    async def connect(self, device: DeviceRow, hello: HelloReceived) -> Outbox:
        """Begin a session; an older one of the same device ends."""
        outbox = Outbox()
        token = self._ids.new_secret("tdr")

        names = [each.incarnation for each in hello.incarnations]
        presented = [status.lease_number for status in hello.leases]

        async def change(engine: CoordinatorEngine) -> Reaction:
            named = Named((), engine.unremembered_leases(device.id, presented), ())

            def look_up() -> tuple[dict[str, int], EarlierFacts]:
                marks = self._store.spool_marks(device.id, names)
                return marks, self._earlier(device.id, named)

            marks, earlier = await self._read(look_up)
            older = self._outboxes.get(device.id)
            if older is not None:
                older.close()
            self._outboxes[device.id] = outbox  # from here on, so that the welcome comes first
            return engine.hello(
                device.id,
                hello,
                marks=marks,
                earlier=earlier,
                resume_token=token,
                unix_ms=self._clock.unix_ms(),
            )

        try:
            await self._changes.make(change)
        except BaseException:
            if self._outboxes.get(device.id) is outbox:
                del self._outboxes[device.id]
            raise
        return outbox

    async def disconnect(self, device_id: str, outbox: Outbox, *, incarnation: str) -> None:
        """A session has ended."""
        if self._outboxes.get(device_id) is outbox:
            del self._outboxes[device_id]
            self.engine.disconnected(device_id, incarnation=incarnation)

    async def end_session(self, device_id: str) -> None:
        """Make a device connect anew, after what is queued for it was sent."""
        outbox = self._outboxes.get(device_id)
        if outbox is not None:
            outbox.close()

    async def token_synced(self, device_id: str, token: str) -> None:
        """The device has synced its resume token."""
        await self._changes.make(lambda engine: engine.token_synced(device_id, token))

    async def batch(
        self, device_id: str, records: Iterable[SpoolRecord], *, incarnation: str
    ) -> None:
        """Book a batch that an incarnation of a device has sent."""
        kept = tuple(records)

        def change(engine: CoordinatorEngine) -> Reaction | Coroutine[Any, Any, Reaction]:
            named = engine.unremembered(device_id, kept)
            book = partial(engine.batch, device_id, kept, incarnation=incarnation, named=named)

            async def look_up_and_book() -> Reaction:
                earlier = await self._read(lambda: self._earlier(device_id, named))
                return book(earlier=earlier, unix_ms=self._clock.unix_ms())

            if named == NOTHING_NAMED:  # as nearly always
                return book(unix_ms=self._clock.unix_ms())
            return look_up_and_book()

        await self._changes.make(change)

    def _earlier(self, device_id: str, named: Named) -> EarlierFacts:
        """What the books hold of what a batch names."""
        earlier = EarlierFacts()
        if named.graded or named.leases:
            earlier = self._store.earlier(
                device_id, request_ids=named.graded, lease_numbers=named.leases
            )
        if named.outcomes:
            earlier = replace(earlier, outcomes=self._outcomes(device_id, named.outcomes))
        return earlier

    def _outcomes(self, device_id: str, request_ids: Iterable[str]) -> tuple[Outcome, ...]:
        found = (
            self._store.decisions(limit=1, device_id=device_id, request_id=request_id)
            for request_id in request_ids
        )
        return tuple(decision.outcome.outcome for page in found for decision in page)

    async def lease_requested(self, device_id: str, wish: LeaseWish) -> None:
        """Grant or refuse a lease."""
        await self._changes.make(
            lambda engine: engine.lease_requested(device_id, wish, unix_ms=self._clock.unix_ms())
        )

    def heartbeat(
        self,
        device_id: str,
        *,
        state: DeviceState,
        leases: tuple[LeaseStatus, ...],
        spooled_records: int,
        table_version: int,
    ) -> None:
        """A device is alive."""
        self._states[device_id] = state
        self.engine.heartbeat(
            device_id,
            leases=leases,
            spooled_records=spooled_records,
            table_version=table_version,
            unix_ms=self._clock.unix_ms(),
        )
        outbox = self._outboxes.get(device_id)
        if outbox is not None:
            outbox.put(HeartbeatAnswered(self.engine.spend_paused))

    def device_state(self, device_id: str) -> DeviceState | None:
        """What a device last said of itself."""
        return self._states.get(device_id)

    # The operator.

    def authenticate_admin(self, token: str) -> AdminTokenRow:
        """The operator that a token belongs to."""
        return self.engine.registry.authenticate_admin(token, unix_ms=self._clock.unix_ms())

    async def apply_config(
        self, toml: str, *, actor: str, dry_run: bool
    ) -> tuple[int, tuple[ConfigChange, ...]]:
        """Take a new fleet configuration, or tell what it would change."""
        version, found = 0, tuple[ConfigChange, ...]()

        def change(engine: CoordinatorEngine) -> Reaction:
            nonlocal version, found
            found, reaction = engine.apply_config(
                toml, actor=actor, unix_ms=self._clock.unix_ms(), dry_run=dry_run
            )
            version = engine.config_version  # of this change: another may go with it
            return reaction

        await self._changes.make(change)
        return version, found

    def config_warnings(self, toml: str) -> tuple[str, ...]:
        """What an operator should know before a configuration is applied."""
        return self.engine.config_warnings(toml, unix_ms=self._clock.unix_ms())

    async def renew_keys(self) -> None:
        """Send the devices their keys anew: the files behind them may have changed."""
        await self._changes.make(lambda engine: engine.renewed_keys())

    async def command(self, change: Callable[[CoordinatorEngine, int], Reaction]) -> None:
        """Run an operator's command, given the engine and the time in Unix milliseconds."""
        await self._changes.make(lambda engine: change(engine, self._clock.unix_ms()))

    async def rewind_budget(self, *, actor: str, reason: str) -> None:
        """Leave a budget window that begins in the future for the one that is true now.

        Raises
        ------
        ConflictError
            If the present window does not begin in the future.
        """

        async def change(engine: CoordinatorEngine) -> Reaction:
            now = self._clock.unix_ms()
            start, _ = engine.true_window(unix_ms=now)
            windows = await self._read(lambda: self._store.windows(ending_after_unix_ms=start))
            return engine.rewind_budget(windows, actor=actor, reason=reason, unix_ms=now)

        await self._changes.make(change)

    async def pin_table(self, device_class: str, *, version: int, actor: str) -> None:
        """Keep the table of a device class: the one in force, or an earlier version.

        Raises
        ------
        NotFoundError
            If the class has no table, or the version is not kept.
        """

        async def change(engine: CoordinatorEngine) -> Reaction:
            table = await self.table(device_class, version=version) if version else None
            return engine.pin_table(
                device_class, table=table, actor=actor, unix_ms=self._clock.unix_ms()
            )

        await self._changes.make(change)

    async def table(self, device_class: str, *, version: int) -> SelectionTable:
        """A table of a device class that is in force or kept.

        Raises
        ------
        NotFoundError
            If it is neither.
        """
        table = await self._read(lambda: self._store.table(device_class, version=version))
        if table is None:
            kept = ", ".join(str(each.version) for each in self.engine.shelf.earlier(device_class))
            raise NotFoundError(
                f"no version {version} of the table of class {device_class!r} is kept; "
                f"earlier ones are: {kept or 'none'}"
            )
        return table

    async def create_join_token(
        self, *, device_class: str, valid_for_s: int, actor: str
    ) -> tuple[str, int]:
        """A single-use token for one device; returned once, kept as a digest."""
        token = self._ids.new_secret("tdj")
        now = self._clock.unix_ms()
        row = JoinTokenRow(
            digest=digest(token),
            device_class=device_class,
            created_unix_ms=now,
            expires_unix_ms=now + valid_for_s * 1000,
        )
        audit = AuditRow(now, actor, "token create", f"join {device_class or 'any class'}")
        await self._changes.make(
            lambda engine: Reaction(effects=[engine.registry.add_join_token(row), audit])
        )
        return token, row.expires_unix_ms

    async def create_admin_token(
        self, *, name: str, valid_for_s: int, actor: str
    ) -> tuple[str, int]:
        """A token for an operator; returned once, kept as a digest. 0 seconds: for good."""
        token = self._ids.new_secret("tda")
        now = self._clock.unix_ms()
        expires = now + valid_for_s * 1000 if valid_for_s else 0
        row = AdminTokenRow(digest(token), name, now, expires)
        audit = AuditRow(now, actor, "token create", f"admin {name}")
        await self._changes.make(
            lambda engine: Reaction(effects=[engine.registry.add_admin_token(row), audit])
        )
        return token, expires

    async def ledger(self, *, after_id: int, limit: int, device_id: str) -> list[LedgerRow]:
        """Ledger rows, rising."""
        return await self._read(
            lambda: list(self._store.ledger(after_id=after_id, limit=limit, device_id=device_id))
        )

    async def audit(self, *, limit: int) -> list[AuditRow]:
        """Who changed what, newest first."""
        return await self._read(lambda: list(self._store.audit(limit=limit)))

    async def spend(self, *, from_unix_ms: int) -> list[SpendRow]:
        """What was spent on the first day, from a time on, that has any; empty after the last."""
        return await self._read(lambda: list(self._store.spend(from_unix_ms=from_unix_ms)))

    async def differences(self, *, progress: Progress) -> tuple[str, ...]:
        """Where the ledger's rows and the balances disagree; `progress` is called in a thread."""
        return tuple(await asyncio.to_thread(self._store.differences, progress=progress))

    async def decisions(
        self, *, limit: int, device_id: str, request_id: str, after: int | None = None
    ) -> list[DecisionRecord]:
        """Booked decisions, newest first; those above the position `after` rising."""
        return await self._read(
            lambda: list(
                self._store.decisions(
                    limit=limit, device_id=device_id, request_id=request_id, after=after
                )
            )
        )

    # Inside.

    async def _tick_for_ever(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        while True:
            try:
                await self._changes.make(lambda engine: engine.tick(unix_ms=self._clock.unix_ms()))
            except LostLeadershipError:
                raise
            except StoreError as error:
                log.warning("slot_not_stored", problem=str(error), again_in_s=STORE_WAIT_S)
                await asyncio.sleep(STORE_WAIT_S)
            await asyncio.sleep(TICK_S)

    async def _prune_for_ever(self) -> None:
        """Let old rows go, in small transactions between those of the fleet."""
        while True:
            try:
                wait_s = PRUNE_WAIT_S if await self._prune() else PRUNE_CHECK_S
            except LostLeadershipError:
                raise
            except StoreError as error:
                log.warning("books_not_pruned", problem=str(error), again_in_s=PRUNE_CHECK_S)
                wait_s = PRUNE_CHECK_S
            await asyncio.sleep(wait_s)

    async def _prune(self) -> int:
        old = self.engine.outlived(unix_ms=self._clock.unix_ms())
        if old == NOTHING_OUTLIVED:
            return 0
        gone = await self._read(
            lambda: self._store.prune(
                position=old.position, before_unix_ms=old.before_unix_ms, limit=PRUNE_ROWS
            )
        )
        self.engine.registry.forget_join_tokens(before_unix_ms=old.before_unix_ms)
        if gone:
            log.info("books_pruned", rows=gone, up_to_position=old.position)
        return gone

    def _tell(self, reaction: Reaction) -> None:
        """What follows from a change that is durable now."""
        for alert in reaction.alerts:
            self._announce(alert)
        for device_id, message in reaction.sends:
            outbox = self._outboxes.get(device_id)
            if outbox is not None and not outbox.put(message):
                log.warning("device_too_slow", device_id=device_id)
                outbox.close()

    def _announce(self, alert: Alert) -> None:
        self.alerts[alert.kind, alert.cleared] += 1
        write = log.info if alert.cleared else log.warning
        name = "alarm_cleared" if alert.cleared else "alert"
        write(name, kind=str(alert.kind), key=alert.key, text=alert.text)
        if self._notifier is not None:
            self._notifier.tell(alert)

    async def _commit(self, effects: list[StoreEffect]) -> None:
        if effects:
            await self._read(lambda: self._store.commit(effects))

    async def _begin_anew(self) -> None:
        """The engine is ahead of the store: go back to what is stored; devices reconnect."""
        for outbox in self._outboxes.values():
            outbox.close()
        self._outboxes.clear()
        self.engine = self._new_engine(await self._read(self._store.load))

    def _new_engine(self, snapshot: StoreSnapshot) -> CoordinatorEngine:
        return CoordinatorEngine(
            snapshot,
            seed=self._seed,
            demand_model=self._demand_model,
            provider_keys=self._provider_keys,
        )

    async def _read(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)


def bearer(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The secret of an `authorization: Bearer ...` entry.

    Raises
    ------
    AuthenticationError
        If there is none.
    """
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ")
    raise AuthenticationError("a credential is required: authorization: Bearer ...")
