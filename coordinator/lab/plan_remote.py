"""The inputs of `tidegate-lab plan --from`: read from a running coordinator's admin service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from coordinator.lab.tradeoff_curve import PlanInputs
from shared.errors import ConfigError
from shared.limits import GRPC_MESSAGE_BYTES_MAX
from shared.pb.v1 import admin_pb2, admin_pb2_grpc
from shared.units import Address, parse_address

TOKEN_VARIABLE: Final = "TIDEGATE_ADMIN_TOKEN"  # noqa: S105 - the name, not a secret
_REMEDY: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNAVAILABLE: "cannot be reached; is it running, and does it use TLS "
    "(--ca-file)?",
    grpc.StatusCode.DEADLINE_EXCEEDED: "gave no answer in time",
    grpc.StatusCode.UNAUTHENTICATED: f"needs an admin token: set {TOKEN_VARIABLE} or name a file "
    "with --token-file",
    grpc.StatusCode.PERMISSION_DENIED: "does not allow it; use an admin token",
    grpc.StatusCode.UNIMPLEMENTED: "is of a version that gives no plan inputs; upgrade it",
}


def admin_token(token_file: Path | None) -> str:
    """The admin token: from the file if one is named, else from the environment.

    Raises
    ------
    ConfigError
        When the file cannot be read.
    """
    if token_file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        return token_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            "--token-file", f"{token_file} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError("--token-file", f"{token_file} holds no token") from error


def from_coordinator(
    text: str, *, token: str, ca_file: Path | None = None, timeout_s: float = 10.0
) -> PlanInputs:
    """Demand, means and limits of the present window, as the coordinator last planned with them.

    The demand is that of the whole window: what came so far and what is forecast.

    Parameters
    ----------
    text : str
        `host:port`.
    ca_file : Path, optional
        Authority of the coordinator's certificate. Without it a loopback address is taken to
        speak plain text, as `tidectl` does.

    Raises
    ------
    ConfigError
        When it cannot be reached, refuses, or has not planned yet.
    """
    try:
        address = parse_address(text)
    except ValueError as error:
        raise ConfigError("--from", f"{text!r} {error}") from None
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with _channel(address, ca_file=ca_file) as channel:
        try:
            reply: admin_pb2.PlanInputs = admin_pb2_grpc.AdminStub(channel).GetPlanInputs(
                admin_pb2.GetPlanInputsRequest(), timeout=timeout_s, metadata=metadata
            )
        except grpc.RpcError as error:
            # Every error of a call is a Call as well; gRPC's types do not say so.
            found: Any = error
            why = _REMEDY.get(found.code()) or f"refused: {found.details()}"
            raise ConfigError("--from", f"the coordinator at {address} {why}") from error
    if not reply.rows:
        raise ConfigError(
            "--from", f"the coordinator at {address} has not planned yet; is a fleet applied?"
        )
    return inputs_of(reply, source=f"the coordinator at {address}")


def inputs_of(reply: admin_pb2.PlanInputs, *, source: str) -> PlanInputs:
    """A reply as arrays."""
    arms = tuple(sorted({each.arm for row in reply.rows for each in row.arms}))
    column_of = {arm: column for column, arm in enumerate(arms)}
    shape = (len(reply.rows), len(arms))
    reward, cost, hit = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    feasible = np.zeros(shape, dtype=np.bool_)
    for index, row in enumerate(reply.rows):
        for each in row.arms:
            at = (index, column_of[each.arm])
            feasible[at] = True
            reward[at], cost[at], hit[at] = each.reward, each.cost_nanos, each.hit
    demand = [float(row.demand_so_far) + row.demand_remaining for row in reply.rows]
    return PlanInputs(
        contexts=tuple(f"{row.device_class}/{row.task_class}" for row in reply.rows),
        arms=arms,
        demand=np.array(demand),
        reward=reward,
        cost_nanos=cost,
        hit=hit,
        feasible=feasible,
        sla_floor=reply.sla_floor,
        rho=reply.rho,
        budget_nanos=float(reply.budget_nanos),
        source=source,
    )


def _channel(address: Address, *, ca_file: Path | None) -> grpc.Channel:
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES_MAX)]
    if address.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))
    if address.is_loopback and ca_file is None:
        return grpc.insecure_channel(str(address), options=options)
    try:
        roots = ca_file.read_bytes() if ca_file else None
    except OSError as error:
        raise ConfigError("--ca-file", f"{ca_file} cannot be read: {error.strerror}") from error
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return grpc.secure_channel(str(address), credentials, options=options)
