"""Provider keys on the wire: read when they are sent, and never without TLS by mistake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from coordinator.adapters.grpc_server import start_grpc
from coordinator.adapters.provider_keys import ReferredKeys
from coordinator.service import CoordinatorService
from shared import wire
from shared.clock import SystemClock, SystemIds
from shared.errors import ProtocolError
from shared.pb.v1 import fleet_pb2, fleet_pb2_grpc
from shared.version import PROTOCOL_VERSION
from tests.fakes.memory_store import MemoryStore
from tests.fakes.samples import fleet_toml

KEYED = fleet_toml().replace('model = "big"', 'model = "big"\napi_key = "coordinator:big"')
SECRET = "sk-very-secret"


class Device:
    """A device's side of a session, message by message."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def next(self, kind: str) -> Any:
        """The next message of a kind."""
        async for message in self._call:
            if message.WhichOneof("body") == kind:
                return getattr(message, kind)
        raise AssertionError(f"the session ended before a {kind}")


@asynccontextmanager
async def connected(
    folder: Path, *, in_plaintext: bool
) -> AsyncIterator[tuple[CoordinatorService, Device, Path]]:
    """A coordinator without TLS, and a device that has said hello; the file of the key."""
    store, clock, ids = MemoryStore(), SystemClock(), SystemIds()
    store.open()
    key_file = folder / "key"
    key_file.write_text(SECRET)
    keys = ReferredKeys({"big": f"file:{key_file}"})
    service = CoordinatorService(store, clock=clock, ids=ids, provider_keys=keys.names)
    await service.apply_config(KEYED, actor="op", dry_run=False)
    token, _ = await service.create_join_token(device_class="edge", valid_for_s=60, actor="op")
    _, credential = await service.join(token=token, name="pi-1", device_class="edge")
    server = await start_grpc(
        service,
        clock=clock,
        host="127.0.0.1",
        port=0,
        keepalive_ms=10_000,
        keepalive_timeout_ms=10_000,
        keys=keys,
        keys_in_plaintext=in_plaintext,
    )
    options = (("grpc.enable_http_proxy", 0),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        stub = fleet_pb2_grpc.FleetStub(channel)
        call = stub.Connect(metadata=(("authorization", f"Bearer {credential}"),))
        hello = fleet_pb2.Hello(
            protocol=wire.version_to_pb(PROTOCOL_VERSION),
            incarnation="inc-1",
            incarnations=[fleet_pb2.IncarnationRange(incarnation="inc-1")],
        )
        await call.write(fleet_pb2.DeviceMessage(hello=hello))
        try:
            yield service, Device(call), key_file
        finally:
            call.cancel()
            await server.stop(grace_s=0.1)
            await service.stop()


async def test_keys_are_withheld_from_a_link_without_tls(tmp_path: Path) -> None:
    """Everything else is sent; the log says what to do, and does not say the key."""
    with capture_logs() as logs:
        async with connected(tmp_path, in_plaintext=False) as (_, device, _file):
            await device.next("config")
            await device.next("table")
    (withheld,) = [entry for entry in logs if entry["event"] == "provider_keys_withheld"]
    assert "tls.cert_file" in withheld["problem"]
    assert SECRET not in str(logs)


async def test_keys_are_read_when_they_are_sent(tmp_path: Path) -> None:
    """A changed file counts at once; a file that is gone closes its arm and is named."""
    with capture_logs() as logs:
        async with connected(tmp_path, in_plaintext=True) as (service, device, file):
            assert {"big": SECRET} == dict((await device.next("provider_keys")).keys)
            file.write_text("sk-rotated")
            await service.renew_keys()
            assert {"big": "sk-rotated"} == dict((await device.next("provider_keys")).keys)
            file.unlink()
            await service.renew_keys()
            assert {} == dict((await device.next("provider_keys")).keys)
    (unreadable,) = [entry for entry in logs if entry["event"] == "provider_key_unreadable"]
    assert "provider_keys.big" in unreadable["problem"]
    assert not any(secret in str(logs) for secret in (SECRET, "sk-rotated"))


@pytest.mark.parametrize("key", ["", "with space", "line\nbreak", "schlüssel"])
def test_what_no_header_can_carry_is_refused_unseen(key: str) -> None:
    """The error names the key's name, not the key."""
    message = fleet_pb2.ProviderKeys(keys={"big": key})
    with pytest.raises(ProtocolError, match="'big' is no key") as caught:
        wire.provider_keys_from_pb(message)
    assert not key or key not in str(caught.value)
