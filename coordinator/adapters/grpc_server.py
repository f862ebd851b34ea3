"""The coordinator's gRPC server: fleet and admin services, health and reflection."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from coordinator.adapters.admin_servicer import AdminServicer
from coordinator.adapters.fleet_servicer import FleetServicer
from coordinator.ports import KeySource
from coordinator.service import CoordinatorService
from shared.clock import Clock
from shared.errors import ConfigError
from shared.limits import GRPC_MESSAGE_BYTES_MAX
from shared.pb.v1 import admin_pb2, admin_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from shared.version import PROTOCOL_VERSION, ProtocolVersion

SERVICES: Final = (
    fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name,
    admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name,
)


class AddressTakenError(ConfigError):
    """Another process listens where this one should."""


class GrpcServer:
    """A server that listens; leaving it drains the sessions."""

    def __init__(self, server: grpc.aio.Server, *, port: int, checks: health.aio.HealthServicer):
        self._server = server
        self._checks = checks
        self.port = port

    async def stop(self, *, grace_s: float) -> None:
        """Say that it is going, let calls end within the grace, then cut them."""
        await self._checks.enter_graceful_shutdown()
        await self._server.stop(grace_s)


async def start_grpc(
    service: CoordinatorService,
    *,
    clock: Clock,
    host: str,
    port: int,
    keepalive_ms: int,
    keepalive_timeout_ms: int,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    protocol: ProtocolVersion = PROTOCOL_VERSION,
    keys: KeySource | None = None,
    keys_in_plaintext: bool = False,
) -> GrpcServer:
    """Start serving.

    Raises
    ------
    AddressTakenError
        If the address cannot be bound.
    ConfigError
        If the certificate cannot be read.
    """
    server = grpc.aio.server(
        options=(
            ("grpc.max_send_message_length", GRPC_MESSAGE_BYTES_MAX),
            ("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES_MAX),
            ("grpc.keepalive_time_ms", keepalive_ms),
            ("grpc.keepalive_timeout_ms", keepalive_timeout_ms),
            # Devices ping as often as they like: refusing them is what makes a fleet unable to
            # rejoin ("too many pings").
            ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.so_reuseport", 0),
        )
    )
    fleet_pb2_grpc.add_FleetServicer_to_server(
        FleetServicer(
            service,
            clock=clock,
            protocol=protocol,
            keys=keys,
            keys_in_plaintext=keys_in_plaintext,
        ),
        server,
    )
    admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(service, clock=clock), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    address = f"{host}:{port}"
    try:
        if cert_file is not None and key_file is not None:
            bound = server.add_secure_port(address, _credentials(cert_file, key_file))
        else:
            bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressTakenError(
            "listen", f"{address} cannot be bound: is another coordinator running? ({error})"
        ) from error
    await server.start()
    for name in ("", *SERVICES):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    return GrpcServer(server, port=bound, checks=checks)


def _credentials(cert_file: Path, key_file: Path) -> grpc.ServerCredentials:
    try:
        pair = (key_file.read_bytes(), cert_file.read_bytes())
    except OSError as error:
        raise ConfigError("tls", f"a certificate file cannot be read: {error}") from error
    return grpc.ssl_server_credentials([pair])
