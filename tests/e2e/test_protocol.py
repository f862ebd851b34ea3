"""Peers of different versions: one minor apart works both ways, two apart is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.adapters import grpc_server
from coordinator.adapters.fleet_servicer import FleetServicer
from coordinator.adapters.sql_store import SqlStore
from coordinator.service import CoordinatorService
from shared.clock import SystemClock, SystemIds
from shared.pb.v1 import fleet_pb2, fleet_pb2_grpc, types_pb2
from shared.version import PROTOCOL_VERSION, ProtocolVersion
from tests.e2e.fleet import POLL_S, WAIT_S, Agent, Fleet, fleet_toml

pytestmark = pytest.mark.e2e

NEXT = ProtocolVersion(PROTOCOL_VERSION.major, PROTOCOL_VERSION.minor + 1)
TOO_FAR = ProtocolVersion(PROTOCOL_VERSION.major, PROTOCOL_VERSION.minor + 2)
UNKNOWN_FIELD = bytes([0xFA, 0x7F, 0x03]) + b"new"
"""Field 2047, length-delimited: what a newer peer may add to a message or to its oneof."""


def hello_of(version: ProtocolVersion) -> fleet_pb2.DeviceMessage:
    """A hello, with a field that this version does not know."""
    hello = fleet_pb2.Hello.FromString(UNKNOWN_FIELD)
    hello.protocol.CopyFrom(types_pb2.ProtocolVersion(major=version.major, minor=version.minor))
    hello.incarnation = f"inc-{version}"
    hello.incarnations.add(incarnation=hello.incarnation)
    hello.software_version = "9.9.9"
    return fleet_pb2.DeviceMessage(hello=hello)


@pytest.fixture
def stub(fleet: Fleet) -> Iterator[fleet_pb2_grpc.FleetStub]:
    """A device's view of the real coordinator."""
    with grpc.insecure_channel(fleet.address, [("grpc.enable_http_proxy", 0)]) as channel:
        yield fleet_pb2_grpc.FleetStub(channel)


def join(stub: Any, fleet: Fleet, version: ProtocolVersion) -> tuple[tuple[str, str], ...]:
    """Join with a protocol version; the metadata of a session."""
    reply = stub.Join(
        fleet_pb2.JoinRequest(
            protocol=types_pb2.ProtocolVersion(major=version.major, minor=version.minor),
            join_token=fleet.join_token("edge"),
            device_name=f"peer-{version}",
        ),
        timeout=10,
    )
    fleet.secrets.append(reply.credential)
    return (("authorization", f"Bearer {reply.credential}"),)


def log_of(fleet: Fleet) -> list[dict[str, Any]]:
    """What the coordinator has logged."""
    assert fleet.coordinator is not None
    return [json.loads(line) for line in fleet.coordinator.log.read_text().splitlines()]


def test_a_newer_device_works_with_this_coordinator(fleet: Fleet, stub: Any) -> None:
    """Unknown fields and an unknown kind of message are passed over; the session goes on."""
    metadata = join(stub, fleet, NEXT)
    heartbeat = fleet_pb2.DeviceMessage(heartbeat=fleet_pb2.Heartbeat(table_version=1))
    unknown = fleet_pb2.DeviceMessage.FromString(UNKNOWN_FIELD)
    call = stub.Connect(iter([hello_of(NEXT), unknown, heartbeat]), metadata=metadata, timeout=20)
    bodies = []
    for message in call:
        bodies.append(message.WhichOneof("body"))
        if bodies[-1] == "heartbeat_reply":
            break
    call.cancel()
    assert "welcome" == bodies[0]
    assert {"config", "table"} <= set(bodies)
    assert "session_failed" not in {line["event"] for line in log_of(fleet)}


def test_a_device_two_versions_apart_is_refused_by_name(fleet: Fleet, stub: Any) -> None:
    """Both the join and the session are refused with both versions in the message.

    The coordinator's log says which device that was.
    """
    with pytest.raises(grpc.RpcError) as joined:
        join(stub, fleet, TOO_FAR)
    metadata = join(stub, fleet, PROTOCOL_VERSION)
    with pytest.raises(grpc.RpcError) as connected:
        list(stub.Connect(iter([hello_of(TOO_FAR)]), metadata=metadata, timeout=20))
    for caught in (joined, connected):
        error: Any = caught.value
        assert grpc.StatusCode.FAILED_PRECONDITION == error.code()
        assert str(TOO_FAR) in error.details()
        assert str(PROTOCOL_VERSION) in error.details()
    (failed,) = [line for line in log_of(fleet) if line["event"] == "session_failed"]
    assert f"peer-{PROTOCOL_VERSION}" == failed["name"]
    assert str(TOO_FAR) in failed["problem"]


class _NewerServicer(FleetServicer):
    """Sends messages of a kind that this version does not know."""

    async def _outgoing(
        self, outbox: Any, **link: Any
    ) -> AsyncIterator[fleet_pb2.CoordinatorMessage]:
        async for message in super()._outgoing(outbox, **link):
            yield fleet_pb2.CoordinatorMessage.FromString(
                message.SerializeToString() + UNKNOWN_FIELD
            )
            yield fleet_pb2.CoordinatorMessage.FromString(UNKNOWN_FIELD)


@asynccontextmanager
async def newer_coordinator(
    folder: Path, *, port: int, version: ProtocolVersion
) -> AsyncIterator[CoordinatorService]:
    """A coordinator of another version inside this process."""
    store = SqlStore(f"sqlite:///{folder / 'newer.db'}", mark_file=folder / "epoch")
    store.open()
    clock = SystemClock()
    service = CoordinatorService(store, clock=clock, ids=SystemIds())
    await service.start()
    server = await grpc_server.start_grpc(
        service,
        clock=clock,
        host="127.0.0.1",
        port=port,
        keepalive_ms=30_000,
        keepalive_timeout_ms=10_000,
        protocol=version,
    )
    try:
        yield service
    finally:
        await server.stop(grace_s=0.2)
        await service.stop()
        store.close()


async def until(happened: Callable[[], Awaitable[bool]]) -> None:
    """Wait, bounded, without holding up the coordinator that runs on the same loop."""
    async with asyncio.timeout(WAIT_S):
        while not await happened():  # noqa: ASYNC110 - another process makes it happen
            await asyncio.sleep(POLL_S)


async def _booked(service: CoordinatorService, request_id: str) -> bool:
    return bool(await service.decisions(limit=1, device_id="", request_id=request_id))


async def _logged(agent: Agent, text: str) -> bool:
    return text in agent.log()


@pytest.mark.parametrize("version", [NEXT, TOO_FAR], ids=["one-apart", "two-apart"])
async def test_this_agent_meets_a_newer_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: ProtocolVersion
) -> None:
    """One version apart the agent joins, gets its table, is booked; two apart it says why not."""
    monkeypatch.setattr(grpc_server, "FleetServicer", _NewerServicer)
    fleet = Fleet(tmp_path)
    port = int(fleet.address.rsplit(":", 1)[1])
    try:
        async with newer_coordinator(tmp_path, port=port, version=version) as service:
            toml = fleet_toml({}, classes={"edge": ["tiny"]}, policy="always_local")
            await service.apply_config(toml, actor="e2e", dry_run=False)
            token, _ = await service.create_join_token(
                device_class="edge", valid_for_s=60, actor="e2e"
            )
            near = version == NEXT
            agent = await asyncio.to_thread(
                fleet.start_agent, "peer", device_class="edge", join_token=token, wait=near
            )
            reply = await asyncio.to_thread(agent.chat, "hello", max_tokens=4)
            assert 200 == reply.status
            if near:
                await until(lambda: _booked(service, reply.request_id))
            else:
                refusal = f"protocol {PROTOCOL_VERSION} does not work with protocol {version}"
                await until(lambda: _logged(agent, refusal))
    finally:
        fleet.close()
