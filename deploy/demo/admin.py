"""The operator's side of a run: `tidectl` for what is done, gRPC for what is watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

import grpc

from deploy.demo.processes import DemoError
from deploy.demo.settings import ROOT
from shared.limits import GRPC_MESSAGE_BYTES_MAX
from shared.pb.v1 import admin_pb2, admin_pb2_grpc

CALL_S_MAX: Final = 5.0
COMMAND_S_MAX: Final = 30.0
ACTOR: Final = "demo"


class CoordinatorAwayError(Exception):
    """The coordinator does not answer; expected while it is stopped."""


class Admin:
    """An operator with an admin token.

    Parameters
    ----------
    address : str
        Host and port of the coordinator's gRPC face.
    token : str
        The admin token.
    """

    def __init__(self, address: str, *, token: str) -> None:
        self.address = address
        self._token = token
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES_MAX),
                # After the outage the sampler should see the coordinator soon.
                ("grpc.max_reconnect_backoff_ms", 1_000),
            ],
        )
        self._stub = admin_pb2_grpc.AdminStub(self._channel)

    @property
    def environment(self) -> Mapping[str, str]:
        """What `tidectl` needs to know."""
        return {"TIDEGATE_ADDRESS": self.address, "TIDEGATE_ADMIN_TOKEN": self._token}

    def tidectl(self, *arguments: str) -> Any:
        """Run `tidectl --format json ...`; what it printed, parsed.

        Raises
        ------
        DemoError
            When it ends with an error.
        """
        return run_json(
            "coordinator.cli", "--format", "json", *arguments, environment=self.environment
        )

    def status(self) -> admin_pb2.FleetStatus:
        """The state of the fleet."""
        reply: admin_pb2.FleetStatus = self._call(
            self._stub.GetStatus, admin_pb2.GetStatusRequest()
        )
        return reply

    def devices(self) -> list[admin_pb2.Device]:
        """Every device that ever joined."""
        reply = self._call(self._stub.ListDevices, admin_pb2.ListDevicesRequest())
        return list(reply.devices)

    def decisions(self, *, limit: int) -> list[admin_pb2.Decision]:
        """The latest booked requests."""
        request = admin_pb2.ListDecisionsRequest(limit=limit)
        return list(self._call(self._stub.ListDecisions, request).decisions)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: Any, request: Any) -> Any:
        metadata = (("authorization", f"Bearer {self._token}"),)
        try:
            return method(request, timeout=CALL_S_MAX, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise CoordinatorAwayError(str(error.code())) from error
            raise DemoError(f"the coordinator refused a call: {error}") from error


def run_text(module: str, *arguments: str, environment: Mapping[str, str]) -> str:
    """Run one of the project's commands; what it printed.

    Raises
    ------
    DemoError
        When it ends with an error; the message holds what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise DemoError(
            f"`{module} {' '.join(arguments)}` ended with status {done.returncode}:\n"
            f"{done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def run_json(module: str, *arguments: str, environment: Mapping[str, str]) -> Any:
    """Run one of the project's commands and parse the JSON that it prints."""
    text = run_text(module, *arguments, environment=environment)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DemoError(f"`{module} {' '.join(arguments)}` printed no JSON: {error}") from error
