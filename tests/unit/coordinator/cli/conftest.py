"""A real gRPC server on a loopback port whose admin service gives prepared replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from typer.testing import CliRunner, Result

from coordinator.cli.app import app
from shared.pb.v1 import admin_pb2, admin_pb2_grpc

Reply = Message | tuple[grpc.StatusCode, str]


class FakeCoordinator(admin_pb2_grpc.AdminServicer):
    """Answers each method with what a test has put in; remembers what it was asked.

    `replies` maps a method to one reply for every call, or to a list of replies for one call
    each, or for a stream to all of its messages. A pair of status and details is an error.
    """

    def __init__(self) -> None:
        self.replies: dict[str, Reply | list[Reply]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.metadata: dict[str, str] = {}
        for method in admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods:
            answer = self._stream if method.server_streaming else self._answer
            setattr(self, method.name, partial(answer, method.name))

    def _answer(self, method: str, request: Message, context: grpc.ServicerContext) -> Message:
        self.calls.append((method, request))
        self.metadata = {key: str(value) for key, value in context.invocation_metadata()}
        prepared = self.replies.get(method, (grpc.StatusCode.UNIMPLEMENTED, "not prepared"))
        reply = prepared.pop(0) if isinstance(prepared, list) else prepared
        if isinstance(reply, tuple):
            context.abort(*reply)
        return reply

    def _stream(
        self, method: str, request: Message, context: grpc.ServicerContext
    ) -> Iterator[Message]:
        self.calls.append((method, request))
        prepared = self.replies.get(method, (grpc.StatusCode.UNIMPLEMENTED, "not prepared"))
        for reply in prepared if isinstance(prepared, list) else [prepared]:
            if isinstance(reply, tuple):
                context.abort(*reply)
            yield reply

    def asked(self, method: str) -> Any:
        """The only request that `method` got."""
        (request,) = [request for name, request in self.calls if name == method]
        return request


class Tidectl:
    """Runs commands against the fake."""

    def __init__(self, *, address: str) -> None:
        self.address = address

    def __call__(
        self, *args: str, env: dict[str, str | None] | None = None, stdin: str | None = None
    ) -> Result:
        """Run one command with `--address` set."""
        return CliRunner().invoke(app, ["--address", self.address, *args], env=env, input=stdin)

    def json(self, *args: str) -> Result:
        """Run one command with `--format json`."""
        return self("--format", "json", *args)


@pytest.fixture(scope="session")
def _server() -> Iterator[tuple[grpc.Server, FakeCoordinator, int]]:
    fake = FakeCoordinator()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    admin_pb2_grpc.add_AdminServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield server, fake, port
    server.stop(grace=None).wait()


@pytest.fixture
def coordinator(_server: tuple[grpc.Server, FakeCoordinator, int]) -> FakeCoordinator:
    """The fake, with nothing prepared."""
    fake = _server[1]
    fake.replies.clear()
    fake.calls.clear()
    fake.metadata.clear()
    return fake


@pytest.fixture
def tidectl(
    _server: tuple[grpc.Server, FakeCoordinator, int],
    coordinator: FakeCoordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> Tidectl:
    """The command line, pointed at the fake and free of the caller's environment."""
    for name in ("TIDEGATE_ADDRESS", "TIDEGATE_ADMIN_TOKEN", "TIDEGATE_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    return Tidectl(address=f"127.0.0.1:{_server[2]}")


def lines(result: Result) -> Sequence[str]:
    """Standard output without trailing blanks."""
    return [line.rstrip() for line in result.stdout.splitlines()]
