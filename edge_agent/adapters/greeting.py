"""One short call to the coordinator, without a session: who is there, and what time it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import grpc

from edge_agent.adapters.coordinator_link import LinkTarget, open_channel
from shared import wire
from shared.clock import Clock
from shared.errors import TidegateError
from shared.pb.v1 import fleet_pb2, fleet_pb2_grpc
from shared.version import PROTOCOL_VERSION, ProtocolVersion

TIMEOUT_S: Final = 8.0


class NotGreeted(TidegateError):
    """Nobody answered, or not as a coordinator does.

    Attributes
    ----------
    is_older : bool
        A coordinator is there and does not know this call.
    """

    code = "not_greeted"

    def __init__(self, problem: str, *, is_older: bool = False) -> None:
        super().__init__(problem)
        self.is_older = is_older


@dataclass(frozen=True)
class Greeting:
    """What the coordinator said.

    Attributes
    ----------
    clock_ahead_ms : float
        How far this machine's clock is ahead of the coordinator's, to within `round_trip_ms / 2`.
    standing : str
        Of this device; empty if it showed no credential.
    """

    software_version: str
    protocol: ProtocolVersion
    standing: str
    clock_ahead_ms: float
    round_trip_ms: float


async def greet(target: LinkTarget, *, credential: str, clock: Clock) -> Greeting:
    """Greet the coordinator; a credential may be empty.

    Raises
    ------
    NotGreeted
        If nobody answers, or refuses.
    ConfigError
        If the authority's file cannot be read.
    """
    metadata = (("authorization", f"Bearer {credential}"),) if credential else ()
    async with open_channel(target) as channel:
        stub = fleet_pb2_grpc.FleetStub(channel)
        request = fleet_pb2.GreetRequest(protocol=wire.version_to_pb(PROTOCOL_VERSION))
        try:
            # The first call opens the connection; the second one's time is the network's.
            await stub.Greet(request, metadata=metadata, timeout=TIMEOUT_S)
            asked_ms, asked_unix_ms = clock.monotonic_ms(), clock.unix_ms()
            reply = await stub.Greet(request, metadata=metadata, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            older = error.code() is grpc.StatusCode.UNIMPLEMENTED
            raise NotGreeted(str(error.details()), is_older=older) from error
    round_trip_ms = clock.monotonic_ms() - asked_ms
    return Greeting(
        software_version=reply.software_version,
        protocol=wire.version_from_pb(reply.protocol),
        standing=reply.standing,
        clock_ahead_ms=asked_unix_ms + round_trip_ms / 2 - reply.now_unix_ms,
        round_trip_ms=round_trip_ms,
    )
