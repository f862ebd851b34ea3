"""Who joins over the wire, and with what names."""

from __future__ import annotations

import grpc
import pytest

from coordinator.adapters.grpc_server import start_grpc
from coordinator.service import CoordinatorService
from shared import wire
from shared.clock import SystemClock, SystemIds
from shared.limits import NAME_CHARS_MAX
from shared.pb.v1 import fleet_pb2, fleet_pb2_grpc
from shared.version import PROTOCOL_VERSION
from tests.fakes.memory_store import MemoryStore


@pytest.mark.parametrize("said", ["a\0", "a" * (NAME_CHARS_MAX + 1)])
@pytest.mark.parametrize("field", ["device_name", "device_class"])
async def test_names_that_the_books_cannot_hold_are_refused(field: str, said: str) -> None:
    """Before the token is used: a class goes into every row of the device's outcomes."""
    store, clock = MemoryStore(), SystemClock()
    store.open()
    service = CoordinatorService(store, clock=clock, ids=SystemIds())
    token, _ = await service.create_join_token(device_class="", valid_for_s=60, actor="op")
    server = await start_grpc(
        service,
        clock=clock,
        host="127.0.0.1",
        port=0,
        keepalive_ms=10_000,
        keepalive_timeout_ms=10_000,
    )
    options = (("grpc.enable_http_proxy", 0),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        stub = fleet_pb2_grpc.FleetStub(channel)
        asked = {"device_name": "pi", "device_class": "edge", "join_token": token}
        version = wire.version_to_pb(PROTOCOL_VERSION)
        with pytest.raises(grpc.aio.AioRpcError, match=field.removeprefix("device_")) as caught:
            await stub.Join(fleet_pb2.JoinRequest(protocol=version, **{**asked, field: said}))
        assert grpc.StatusCode.INVALID_ARGUMENT is caught.value.code()
        assert (await stub.Join(fleet_pb2.JoinRequest(protocol=version, **asked))).device_id
    await server.stop(grace_s=0.1)
    await service.stop()
