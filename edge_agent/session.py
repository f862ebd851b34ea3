"""What a session with the coordinator does to the agent: the link calls, the engine decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BookEffect, MetaKey, PutMeta
from edge_agent.engine import AgentEngine, HelloFacts
from edge_agent.provider_keys import ProviderKeys
from edge_agent.service import AgentService
from shared.clock import Clock
from shared.decision.lease import LeaseGranted, LeaseWish
from shared.decision.table import SelectionTable
from shared.decision.types import ArmSpeed, DeviceConfig, DeviceState, LeaseStatus, SpoolRecord
from shared.errors import BooksFullError
from shared.limits import BATCH_RECORDS_MAX, UNACKED_RECORDS_MAX

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class HeartbeatFacts:
    """What a device tells of itself from time to time."""

    state: DeviceState
    leases: tuple[LeaseStatus, ...]
    spooled_records: int
    table_version: int


@dataclass(frozen=True)
class Credential:
    """A device's identity. The secret is kept in the books only."""

    device_id: str
    secret: str


class FleetSession:
    """The agent's side of the session, free of gRPC.

    Parameters
    ----------
    credential : Credential or None
        From the books; None until the device has joined.
    on_connected : callable
        Told whether a session stands, for metrics.
    on_lease_news : callable, optional
        Told when a lease has come or was refused. With it requests may wait for one.
    speeds : callable, optional
        What was measured of the local arms, told with every hello.
    provider_keys : ProviderKeys, optional
        Where the keys go that the coordinator delivers.
    keep_identity : callable, optional
        Notes a new credential beside the books.
    """

    def __init__(
        self,
        engine: AgentEngine,
        *,
        bookkeeper: Bookkeeper,
        service: AgentService,
        clock: Clock,
        credential: Credential | None,
        on_connected: Callable[[bool], None],
        on_lease_news: Callable[[], None] | None = None,
        speeds: Callable[[], Sequence[ArmSpeed]] = tuple,
        provider_keys: ProviderKeys | None = None,
        keep_identity: Callable[[Credential], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._keep_identity = keep_identity
        self._bookkeeper = bookkeeper
        self._service = service
        self._clock = clock
        self._sent_through = self._config_revision = 0
        self._token_kept = ""  # by the bookkeeper, until the disk has room
        self.credential = credential
        self.on_connected = on_connected
        self._on_lease_news = on_lease_news
        self.speeds = speeds
        self._provider_keys = provider_keys or ProviderKeys()
        self.spooled = bookkeeper.spooled

    def dials(self) -> None:
        """The coordinator is being called: from now on a request may wait for a lease."""
        self._engine.gate.on_demand = self._on_lease_news is not None

    async def joined(self, credential: Credential) -> None:
        """Keep the identity that the coordinator gave."""
        self.credential = credential
        await self._bookkeeper.commit(
            [
                PutMeta(MetaKey.DEVICE_ID, credential.device_id),
                PutMeta(MetaKey.CREDENTIAL, credential.secret),
            ],
            sync=True,
        )
        await asyncio.to_thread(self._keep_identity, credential)

    def hello(self) -> HelloFacts:
        """How the device introduces itself: with the token that a restart would find."""
        if self._token_kept and not self._bookkeeper.keeps_any:
            self._engine.token_synced(self._token_kept)
            self._token_kept = ""
        return self._engine.hello()

    def local_arms(self) -> tuple[str, ...]:
        """The arms that this device has models for."""
        return self._service.local_arms()

    async def welcomed(
        self, *, resume_token: str, acked_sequence: int, spend_paused: bool, quarantined: bool
    ) -> None:
        """A session stands; returns once the resume token is synced (rule D_2)."""
        self._sent_through, self._config_revision = acked_sequence, 0
        effects = self._engine.welcomed(
            resume_token=resume_token,
            spend_paused=spend_paused,
            quarantined="the coordinator holds this device for a clone" if quarantined else "",
        )
        try:
            await self._bookkeeper.commit(effects, sync=True)
        except BooksFullError:
            self._token_kept = resume_token
            raise
        self._engine.token_synced(resume_token)
        self._token_kept = ""
        await self.acked(acked_sequence)

    async def acked(self, sequence: int) -> None:
        """Records up to a sequence are booked."""
        effects = self._engine.outbox.ack(sequence, boot_ms=self._clock.boot_ms())
        await self._bookkeeper.commit_or_keep(effects)

    async def configured(self, config: DeviceConfig, *, revision: int = 0) -> None:
        """A new configuration, unless this session has brought a newer one.

        The first of a session counts whatever was known before: a coordinator restored from a
        backup says what is true now, though it counts from further back.
        """
        if revision < self._config_revision:
            log.info("configuration_overtaken", revision=revision, known=self._config_revision)
            return
        self._config_revision = revision
        self._provider_keys.keep(config.provider_keys)
        await self._bookkeeper.commit_or_keep(self._engine.configured(config))
        await self._service.follow_classes()

    def keys_received(self, keys: Mapping[str, str]) -> None:
        """Keys of paid endpoints: for this process's memory only."""
        self._provider_keys.replace(keys)

    async def table_pushed(self, table: SelectionTable) -> None:
        """A new selection table."""
        await self._bookkeeper.commit_or_keep(self._engine.table_pushed(table))
        await self._service.keep_resident(table.resident_arms)

    async def granted(self, granted: LeaseGranted, *, incarnation: str) -> None:
        """A lease: its number and first watermark are synced before it can be used (L_1)."""
        effects = self._engine.gate.granted(
            granted, incarnation=incarnation, boot_ms=self._clock.boot_ms()
        )
        try:
            await self._bookkeeper.commit(effects, sync=True)
            self._engine.gate.synced(effects)
        finally:
            self._tell_lease_news()  # also if the disk is full: then nobody has to wait for it

    def refused(self, reason: str, *, retry_after_ms: float) -> None:
        """No lease now."""
        now_ms = self._clock.monotonic_ms()
        self._engine.gate.refused(reason, now_ms=now_ms, retry_after_ms=retry_after_ms)
        self._tell_lease_news()

    def _tell_lease_news(self) -> None:
        if self._on_lease_news is not None:
            self._on_lease_news()

    async def recalled(self, number: int, *, reason: str) -> None:
        """Give a lease back."""
        await self._keep(
            self._engine.gate.recalled(number, boot_ms=self._clock.boot_ms(), reason=reason)
        )

    async def spend_commanded(self, *, paused: bool) -> None:
        """Stop or allow paid calls."""
        await self._keep(self._engine.gate.pause(paused))

    async def quarantined(self, reason: str) -> None:
        """Spend nothing any more; keys are given up too."""
        self._provider_keys.replace({})
        await self._keep(self._engine.gate.quarantine(reason))

    def lease_wish(self) -> LeaseWish | None:
        """Whether the device wants a lease now."""
        return self._engine.gate.wish(
            now_ms=self._clock.monotonic_ms(), boot_ms=self._clock.boot_ms()
        )

    def heartbeat(self) -> HeartbeatFacts:
        """The device's condition."""
        table = self._engine.table
        return HeartbeatFacts(
            state=self._service.device_state(),
            leases=self._engine.gate.leases(),
            spooled_records=self._engine.outbox.waiting,
            table_version=table.version if table else 0,
        )

    async def next_batch(self) -> Sequence[SpoolRecord]:
        """The next records to send in this session; empty when there are none."""
        outbox = self._engine.outbox
        if self._sent_through - outbox.acked >= UNACKED_RECORDS_MAX:
            return ()
        async with self._bookkeeper.spool_held:
            found = await self._bookkeeper.spool_after(self._sent_through, limit=BATCH_RECORDS_MAX)
            records = outbox.identified(found)
            if not records:
                return records
            through = records[-1].sequence
            try:
                await self._bookkeeper.commit(outbox.sending(through), sync=True)
            except BooksFullError:
                return ()  # what cannot be synced is not sent; it goes on when there is room
            outbox.sent(through)
        self._sent_through = through
        return records

    async def _keep(self, effects: Sequence[BookEffect]) -> None:
        await self._bookkeeper.commit_or_keep(effects)
