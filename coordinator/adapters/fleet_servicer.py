"""The fleet's gRPC service: joins, and one stream per device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog

from coordinator.adapters.grpc_errors import translated
from coordinator.messages import (
    Acked,
    ConfigSent,
    HeartbeatAnswered,
    HelloReceived,
    LeaseRecalled,
    LeaseRefused,
    LeaseSent,
    Message,
    ProviderKeysSent,
    QuarantineCommanded,
    SpendCommanded,
    TableSent,
    Welcomed,
)
from coordinator.outbox import Outbox
from coordinator.ports import KeySource
from coordinator.records import DeviceRow
from coordinator.service import UNKNOWN, CoordinatorService, bearer
from shared import wire
from shared.clock import Clock
from shared.decision.lease import LeaseGranted, LeaseWish
from shared.errors import (
    AuthenticationError,
    ConfigError,
    LimitError,
    ProtocolError,
    ProtocolVersionError,
    TidegateError,
)
from shared.limits import NAME_CHARS_MAX
from shared.pb.v1 import fleet_pb2, fleet_pb2_grpc
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION, ProtocolVersion

log = structlog.get_logger(__name__)
HELLO_TIMEOUT_S: Final = 10.0
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Sender:
    """Who is at the other end of a stream: one start of a device's agent."""

    device_id: str
    incarnation: str


class FleetServicer(fleet_pb2_grpc.FleetServicer):
    """Puts the engine's messages on the wire and the devices' messages before the service.

    Parameters
    ----------
    keys : KeySource, optional
        Of paid endpoints, for devices that have none of their own.
    keys_in_plaintext : bool
        Send them over a link without TLS too, which exists on loopback only.
    """

    def __init__(
        self,
        service: CoordinatorService,
        *,
        clock: Clock,
        protocol: ProtocolVersion = PROTOCOL_VERSION,
        keys: KeySource | None = None,
        keys_in_plaintext: bool = False,
    ) -> None:
        self._keys = keys
        self._keys_in_plaintext = keys_in_plaintext
        self._service = service
        self._clock = clock
        self._protocol = protocol

    async def Join(  # noqa: N802 - the name is gRPC's
        self, request: fleet_pb2.JoinRequest, context: Context
    ) -> fleet_pb2.JoinReply:
        """Exchange a join token for a credential."""
        async with translated(context):
            self._check_version(request.protocol)
            _check_name(request.device_name, what="name", chars_min=1)
            _check_name(request.device_class, what="class", chars_min=0)
            device_id, credential = await self._service.join(
                token=request.join_token,
                name=request.device_name,
                device_class=request.device_class,
            )
        return fleet_pb2.JoinReply(device_id=device_id, credential=credential)

    async def Greet(  # noqa: N802 - the name is gRPC's
        self, request: fleet_pb2.GreetRequest, context: Context
    ) -> fleet_pb2.GreetReply:
        """Say who is here, what time it is, and how a credential that is shown stands."""
        async with translated(context):
            self._check_version(request.protocol)
        return fleet_pb2.GreetReply(
            protocol=wire.version_to_pb(self._protocol),
            software_version=SOFTWARE_VERSION,
            now_unix_ms=self._clock.unix_ms(),
            standing=self._standing(context),
        )

    def _standing(self, context: Context) -> str:
        """How the device of a credential stands; empty if none was shown."""
        try:
            credential = bearer(context.invocation_metadata())
        except AuthenticationError:
            return ""
        return self._service.standing(credential)

    async def Connect(  # noqa: N802 - the name is gRPC's
        self, request_iterator: AsyncIterator[fleet_pb2.DeviceMessage], context: Context
    ) -> AsyncIterator[fleet_pb2.CoordinatorMessage]:
        """One device's session."""
        async with translated(context):
            device = await self._device(context)
            with _failure_logged(device):
                hello = await self._hello(request_iterator)
                outbox = await self._service.connect(device, hello)
                log.info("session_begun", device_id=device.id, name=device.name)
                sender = Sender(device.id, hello.incarnation)
                reading = asyncio.create_task(self._read(sender, request_iterator))
                reading.add_done_callback(lambda _: outbox.close())
                try:
                    secure = _is_over_tls(context)
                    async for message in self._outgoing(outbox, device_id=device.id, secure=secure):
                        yield message
                    if reading.done() and not reading.cancelled():
                        reading.result()
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                    await self._service.disconnect(device.id, outbox, incarnation=hello.incarnation)
                    log.info("session_ended", device_id=device.id, name=device.name)

    async def _device(self, context: Context) -> DeviceRow:
        """The device that calls."""
        credential = bearer(context.invocation_metadata())
        try:
            return self._service.authenticate(credential)
        except AuthenticationError:
            if self._service.standing(credential) == UNKNOWN:
                await self._service.stranger_called(credential, peer=context.peer())
            raise

    async def _outgoing(
        self, outbox: Outbox, *, device_id: str, secure: bool
    ) -> AsyncIterator[fleet_pb2.CoordinatorMessage]:
        while (message := await outbox.get()) is not None:
            if not isinstance(message, ProviderKeysSent):
                yield self._to_pb(message)
            elif secure or self._keys_in_plaintext:
                yield await asyncio.to_thread(self._provider_keys, message.names)
            else:
                log.error(
                    "provider_keys_withheld",
                    device_id=device_id,
                    problem="its link has no TLS: set tls.cert_file and tls.key_file",
                )

    def _provider_keys(self, names: frozenset[str]) -> fleet_pb2.CoordinatorMessage:
        """The keys, read now. What cannot be read is left out, and its arm stays closed."""
        reply = fleet_pb2.CoordinatorMessage()
        reply.provider_keys.SetInParent()
        for name in sorted(names):
            try:
                if self._keys is None or name not in self._keys.names:
                    raise ConfigError(f"provider_keys.{name}", "not in this configuration any more")
                reply.provider_keys.keys[name] = self._keys.read(name)
            except ConfigError as error:
                log.error("provider_key_unreadable", name=name, problem=str(error))
        return reply

    async def _hello(self, messages: AsyncIterator[fleet_pb2.DeviceMessage]) -> HelloReceived:
        first = await asyncio.wait_for(anext(aiter(messages), None), HELLO_TIMEOUT_S)
        if first is None or first.WhichOneof("body") != "hello":
            raise ProtocolError("the first message of a session must be a hello")
        hello = first.hello
        self._check_version(hello.protocol)
        return HelloReceived(
            incarnation=hello.incarnation,
            resume_token=hello.resume_token,
            acked_sequence=hello.acked_sequence,
            incarnations=wire.incarnations_from_pb(hello.incarnations, present=hello.incarnation),
            lease_number_max=wire.lease_number_max_from_pb(hello),
            leases=tuple(wire.lease_status_from_pb(lease) for lease in hello.leases),
            local_arms=tuple(hello.local_arms),
            speeds=wire.speeds_from_pb(hello.speeds),
            table_version=hello.table_version,
            config_version=hello.config_version,
            software_version=hello.software_version,
            copied=hello.copied,
        )

    def _check_version(self, theirs: Any) -> None:
        version = wire.version_from_pb(theirs)
        if not self._protocol.works_with(version):
            raise ProtocolVersionError(ours=self._protocol, theirs=version)

    async def _read(self, sender: Sender, messages: AsyncIterator[fleet_pb2.DeviceMessage]) -> None:
        async for message in messages:
            await self._take(sender, message)

    async def _take(self, sender: Sender, message: fleet_pb2.DeviceMessage) -> None:
        device_id = sender.device_id
        match message.WhichOneof("body"):
            case "batch":
                await self._service.batch(
                    device_id,
                    wire.batch_from_pb(message.batch),
                    incarnation=sender.incarnation,
                )
            case "heartbeat":
                beat = message.heartbeat
                self._service.heartbeat(
                    device_id,
                    state=wire.device_state_from_pb(beat.state),
                    leases=tuple(wire.lease_status_from_pb(lease) for lease in beat.leases),
                    spooled_records=beat.spooled_records,
                    table_version=beat.table_version,
                )
            case "lease_request":
                request = message.lease_request
                says = request.HasField("lease_number_max")
                wish = LeaseWish(
                    available_nanos=request.available_nanos,
                    worst_case_nanos=request.worst_case_nanos,
                    needed_nanos=request.needed_nanos,
                    asked_boot_ms=request.asked_boot_ms,
                    lease_number_max=wire.lease_number_max_from_pb(request) if says else None,
                )
                await self._service.lease_requested(device_id, wish)
            case "resume_token_synced":
                token = message.resume_token_synced.resume_token
                await self._service.token_synced(device_id, token)
            case "hello":
                raise ProtocolError("a session has one hello only")
            case other:
                log.info("message_ignored", body=other or "unknown to this version")

    def _to_pb(self, message: Message) -> fleet_pb2.CoordinatorMessage:
        reply = fleet_pb2.CoordinatorMessage()
        match message:
            case Welcomed():
                reply.welcome.CopyFrom(self._welcome(message))
            case Acked(sequence):
                reply.ack.sequence = sequence
            case ConfigSent(config, revision):
                reply.config.CopyFrom(wire.config_to_pb(config))
                reply.config.revision = revision
            case TableSent(table):
                reply.table.CopyFrom(wire.table_to_pb(table))
            case LeaseSent():
                granted = LeaseGranted(
                    number=message.lease_number,
                    window_id=message.window_id,
                    amount_nanos=message.amount_nanos,
                    duration_ms=message.duration_ms,
                    price_version=message.price_version,
                    asked_boot_ms=message.asked_boot_ms,
                )
                grant = wire.grant_to_pb(granted, incarnation=message.incarnation)
                reply.grant.CopyFrom(grant)
            case LeaseRefused(budget, reason, retry_after_ms):
                reply.refusal.budget = budget
                reply.refusal.reason = reason
                reply.refusal.retry_after_ms = retry_after_ms
            case LeaseRecalled(lease_number, reason):
                reply.recall.lease_number = lease_number
                reply.recall.reason = reason
            case SpendCommanded(paused):
                if paused:
                    reply.command.pause_spend.SetInParent()
                else:
                    reply.command.resume_spend.SetInParent()
            case HeartbeatAnswered(paused):
                reply.heartbeat_reply.spend_paused = paused
                reply.heartbeat_reply.now_unix_ms = self._clock.unix_ms()
            case QuarantineCommanded(reason):
                reply.command.quarantine.reason = reason
        return reply

    def _welcome(self, welcomed: Welcomed) -> fleet_pb2.Welcome:
        return fleet_pb2.Welcome(
            protocol=wire.version_to_pb(self._protocol),
            software_version=SOFTWARE_VERSION,
            resume_token=welcomed.resume_token,
            acked_sequence=welcomed.acked_sequence,
            heartbeat_ms=welcomed.heartbeat_ms,
            spend_paused=welcomed.spend_paused,
            now_unix_ms=self._clock.unix_ms(),
            quarantined=welcomed.quarantined,
        )


def _check_name(text: str, *, what: str, chars_min: int) -> None:
    """Refuse what the books cannot hold, or an operator cannot read."""
    if not chars_min <= len(text) <= NAME_CHARS_MAX or "\x00" in text:
        raise LimitError(
            f"a device's {what} has {chars_min} to {NAME_CHARS_MAX} characters, none a NUL; choose "
            f"another than {text[:NAME_CHARS_MAX]!r}"
        )


@contextmanager
def _failure_logged(device: DeviceRow) -> Iterator[None]:
    """Say which device's session failed, and why: an operator may have to look into it."""
    try:
        yield
    except Exception as error:
        problem = str(error) if isinstance(error, TidegateError) else type(error).__name__
        log.warning("session_failed", device_id=device.id, name=device.name, problem=problem)
        raise


def _is_over_tls(context: Context) -> bool:
    """Whether nobody can listen in; a link without TLS has a context that says `insecure`."""
    return b"ssl" in context.auth_context().get("transport_security_type", ())
