"""The link to the coordinator: one stream, dialled by the device, again and again.

Every session uses a channel of its own, so that nothing of a dead one (its back-off, its TLS
session, its ping budget) can keep the device from coming back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import stamina
import structlog

from edge_agent.session import Credential, FleetSession
from shared import wire
from shared.errors import ConfigError, ProtocolError, StoreError
from shared.limits import GRPC_MESSAGE_BYTES_MAX
from shared.pb.v1 import fleet_pb2, fleet_pb2_grpc
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION, ProtocolVersion

log = structlog.get_logger(__name__)
WELCOME_TIMEOUT_S: Final = 10.0
SEND_GAP_S: Final = 0.1
SESSION_LASTED_S: Final = 5.0
"""A session that ends sooner counts as a failed attempt, so that there is a back-off."""
REFUSED_WAIT_S: Final = 15.0
CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", GRPC_MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
)
REFUSED_FOR_GOOD: Final = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)


class LinkDown(Exception):
    """No session could be begun."""


@dataclass(frozen=True)
class LinkTarget:
    """Where the coordinator is and how this device joins.

    Attributes
    ----------
    plaintext : bool
        Without TLS; the configuration allows it on loopback only.
    ca_file : Path or None
        Of the authority that signed the coordinator's certificate; None for the system's.
    device_class : str
        May be empty where the join token names it.
    join_token : callable
        Reads the token when it is needed; only the first join needs one.
    """

    address: str
    plaintext: bool
    ca_file: Path | None
    device_name: str
    device_class: str
    join_token: Callable[[], str]


def open_channel(target: LinkTarget) -> grpc.aio.Channel:
    """A channel of its own, over TLS unless the target says otherwise.

    Raises
    ------
    ConfigError
        If the authority's file cannot be read.
    """
    if target.plaintext:
        return grpc.aio.insecure_channel(target.address, options=CHANNEL_OPTIONS)
    roots = None
    if target.ca_file is not None:
        try:
            roots = target.ca_file.read_bytes()
        except OSError as error:
            raise ConfigError("coordinator.ca_file", f"cannot be read: {error}") from error
    return grpc.aio.secure_channel(
        target.address,
        grpc.ssl_channel_credentials(root_certificates=roots),
        options=CHANNEL_OPTIONS,
    )


class CoordinatorLink:
    """Keeps a session with the coordinator for as long as the agent runs."""

    def __init__(
        self,
        target: LinkTarget,
        *,
        session: FleetSession,
        protocol: ProtocolVersion = PROTOCOL_VERSION,
    ) -> None:
        self._target = target
        self._session = session
        self._protocol = protocol
        self._away = False
        self._begin_anew = asyncio.Event()

    def reconnect(self) -> None:
        """Begin a new session: the device has something else to say in its hello."""
        self._begin_anew.set()

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        self._session.dials()
        while True:
            try:
                async for attempt in stamina.retry_context(
                    on=LinkDown,
                    attempts=None,
                    timeout=None,
                    wait_initial=0.1,
                    wait_max=5.0,
                    wait_jitter=0.5,
                ):
                    with attempt:
                        await self._one_session()
            except grpc.aio.AioRpcError as error:
                log.error(
                    "coordinator_refused",
                    address=self._target.address,
                    problem=error.details(),
                    again_in_s=REFUSED_WAIT_S,
                )
                await asyncio.sleep(REFUSED_WAIT_S)

    async def _one_session(self) -> None:
        """Hold one session until it ends.

        Raises
        ------
        LinkDown
            If it could not begin; it is worth trying again soon.
        AioRpcError
            If the coordinator refused the device; an operator has to act.
        """
        begun_s = asyncio.get_running_loop().time()
        try:
            async with open_channel(self._target) as channel:
                stub = fleet_pb2_grpc.FleetStub(channel)
                if self._session.credential is None:
                    await self._join(stub)
                call = stub.Connect(metadata=self._metadata())
                await call.write(fleet_pb2.DeviceMessage(hello=self._hello()))
                heartbeat_s = await self._welcome(call)
                self._session.on_connected(True)
                await self._exchange(call, heartbeat_s=heartbeat_s)
            if asyncio.get_running_loop().time() - begun_s < SESSION_LASTED_S:
                # In order, and soon: a copy of this device may have taken its place.
                raise LinkDown("the coordinator ended the session")
        except grpc.aio.AioRpcError as error:
            if error.code() in REFUSED_FOR_GOOD:
                raise
            self._say_away(str(error.details()))
            if asyncio.get_running_loop().time() - begun_s < SESSION_LASTED_S:
                raise LinkDown(error.details()) from error
        except (ProtocolError, TimeoutError, StoreError, asyncio.InvalidStateError) as error:
            # A full disk and a call that ended under a write are outages like any other.
            self._say_away(str(error) or "it does not answer")
            raise LinkDown(str(error)) from error
        finally:
            self._session.on_connected(False)

    def _say_away(self, problem: str) -> None:
        """Once an outage, not once an attempt."""
        if not self._away:
            self._away = True
            log.warning("coordinator_away", address=self._target.address, problem=problem)

    async def _join(self, stub: Any) -> None:
        reply = await stub.Join(
            fleet_pb2.JoinRequest(
                protocol=wire.version_to_pb(self._protocol),
                join_token=self._target.join_token(),
                device_name=self._target.device_name,
                device_class=self._target.device_class,
            ),
            timeout=WELCOME_TIMEOUT_S,
        )
        await self._session.joined(Credential(reply.device_id, reply.credential))
        log.info("joined", device_id=reply.device_id)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        credential = self._session.credential
        secret = credential.secret if credential else ""
        return (("authorization", f"Bearer {secret}"),)

    def _hello(self) -> fleet_pb2.Hello:
        facts = self._session.hello()
        return fleet_pb2.Hello(
            protocol=wire.version_to_pb(self._protocol),
            software_version=SOFTWARE_VERSION,
            incarnation=facts.incarnation,
            resume_token=facts.resume_token,
            acked_sequence=facts.acked_sequence,
            lease_number_max=facts.lease_number_max,
            leases=[wire.lease_status_to_pb(lease) for lease in facts.leases],
            local_arms=self._session.local_arms(),
            speeds=[wire.speed_to_pb(speed) for speed in self._session.speeds()],
            table_version=facts.table_version,
            config_version=facts.config_version,
            incarnations=[wire.incarnation_to_pb(each) for each in facts.incarnations],
            copied=facts.copied,
        )

    async def _welcome(self, call: Any) -> float:
        """Take the first message down; returns the heartbeat's period in seconds."""
        message = await asyncio.wait_for(call.read(), WELCOME_TIMEOUT_S)
        if message is grpc.aio.EOF:
            raise ProtocolError("the coordinator ended the session before it welcomed the device")
        if message.WhichOneof("body") != "welcome":
            raise ProtocolError(f"expected a welcome, got {message.WhichOneof('body')}")
        welcome = message.welcome
        await self._session.welcomed(
            resume_token=welcome.resume_token,
            acked_sequence=welcome.acked_sequence,
            spend_paused=welcome.spend_paused,
            quarantined=welcome.quarantined,
        )
        synced = fleet_pb2.ResumeTokenSynced(resume_token=welcome.resume_token)
        await call.write(fleet_pb2.DeviceMessage(resume_token_synced=synced))
        self._away = False
        log.info("session_begun", coordinator=welcome.software_version)
        return float(max(100, welcome.heartbeat_ms)) / 1000

    async def _exchange(self, call: Any, *, heartbeat_s: float) -> None:
        """Send and receive until either side ends."""
        self._begin_anew.clear()
        tasks: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._send(call, heartbeat_s=heartbeat_s)),
            asyncio.create_task(self._receive(call)),
            asyncio.create_task(self._begin_anew.wait()),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, call: Any, *, heartbeat_s: float) -> None:
        loop = asyncio.get_running_loop()
        heartbeat_at = loop.time()
        while True:
            self._session.spooled.clear()
            while records := await self._session.next_batch():
                batch = wire.batch_to_pb(records)
                await call.write(fleet_pb2.DeviceMessage(batch=batch))
            wish = self._session.lease_wish()
            if wish is not None:
                request = fleet_pb2.LeaseRequest(
                    available_nanos=wish.available_nanos,
                    worst_case_nanos=wish.worst_case_nanos,
                    needed_nanos=wish.needed_nanos,
                    asked_boot_ms=wish.asked_boot_ms,
                    lease_number_max=wish.lease_number_max,
                )
                await call.write(fleet_pb2.DeviceMessage(lease_request=request))
            if loop.time() >= heartbeat_at:
                heartbeat_at = loop.time() + heartbeat_s
                await call.write(fleet_pb2.DeviceMessage(heartbeat=self._heartbeat()))
            await asyncio.sleep(SEND_GAP_S)

    def _heartbeat(self) -> fleet_pb2.Heartbeat:
        facts = self._session.heartbeat()
        return fleet_pb2.Heartbeat(
            state=wire.device_state_to_pb(facts.state),
            leases=[wire.lease_status_to_pb(lease) for lease in facts.leases],
            spooled_records=facts.spooled_records,
            table_version=facts.table_version,
        )

    async def _receive(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            await self._take(message)

    async def _take(self, message: fleet_pb2.CoordinatorMessage) -> None:
        session = self._session
        match message.WhichOneof("body"):
            case "ack":
                await session.acked(message.ack.sequence)
            case "config":
                config = wire.config_from_pb(message.config)
                await session.configured(config, revision=message.config.revision)
            case "provider_keys":
                session.keys_received(wire.provider_keys_from_pb(message.provider_keys))
            case "table":
                await session.table_pushed(wire.table_from_pb(message.table))
            case "grant":
                incarnation, granted = wire.grant_from_pb(message.grant)
                await session.granted(granted, incarnation=incarnation)
            case "refusal":
                refusal = message.refusal
                session.refused(refusal.reason, retry_after_ms=refusal.retry_after_ms)
            case "recall":
                recall = message.recall
                await session.recalled(recall.lease_number, reason=recall.reason)
            case "heartbeat_reply":
                await session.spend_commanded(paused=message.heartbeat_reply.spend_paused)
            case "command":
                await self._obey(message.command)
            case other:
                log.info("message_ignored", body=other or "unknown to this version")

    async def _obey(self, command: fleet_pb2.Command) -> None:
        match command.WhichOneof("body"):
            case "pause_spend":
                await self._session.spend_commanded(paused=True)
            case "resume_spend":
                await self._session.spend_commanded(paused=False)
            case "quarantine":
                await self._session.quarantined(command.quarantine.reason)
            case other:
                log.info("command_ignored", body=other or "unknown to this version")
