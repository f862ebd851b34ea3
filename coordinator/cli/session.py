"""One run of `tidectl`: whom it talks to, as whom, and how errors become exit codes."""

from __future__ import annotations

import enum
import getpass
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
import typer

from shared.limits import GRPC_MESSAGE_BYTES_MAX
from shared.pb.v1 import admin_pb2_grpc
from shared.units import Address, duration_ms, parse_address

_TOKEN_BYTES_MAX: Final = 16 * 1024


class ExitCode(enum.IntEnum):
    """What the exit status says; part of the interface."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    DIFFERENT = 3
    UNREACHABLE = 4
    UNAUTHORISED = 5


class OutputFormat(enum.StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"


def fail(message: str, *, code: ExitCode) -> NoReturn:
    """End the command with a line on standard error."""
    typer.echo(f"tidectl: {message}", err=True)
    raise typer.Exit(code)


@dataclass(frozen=True)
class Session:
    """The global options. Nothing is read or connected before the first call.

    Attributes
    ----------
    address : str
        `host:port` of the coordinator.
    token : str
        From the environment; `token_file` goes over it.
    ca_file : Path or None
        The authority that signed the coordinator's certificate; None means the system's.
    """

    address: str
    token: str
    token_file: Path | None
    ca_file: Path | None
    format: OutputFormat
    timeout: str

    @property
    def actor(self) -> str:
        """Who is acting, for the audit log."""
        try:
            return getpass.getuser()
        except (KeyError, OSError):
            return "unknown"

    def call(self, method: str, request: object) -> Any:
        """Call one method of the admin service; any error ends the command.

        Returns
        -------
        message
            The reply of `method` in `admin.proto`.
        """
        address = self._parsed_address()
        timeout_ms = duration_of(self.timeout, option="--timeout")
        metadata = self._metadata()
        with self._channel(address) as channel:
            try:
                # The names of the methods are only known to the generated stub.
                return getattr(admin_pb2_grpc.AdminStub(channel), method)(
                    request, timeout=timeout_ms / 1_000, metadata=metadata
                )
            except grpc.RpcError as error:
                explain(error, address=address, timeout=self.timeout, has_token=bool(metadata))

    def stream(self, method: str, request: object) -> Iterator[Any]:
        """Call a method that answers with a stream; any error ends the command.

        It may take as long as it takes: only a connection that cannot be made, or a dead one, ends
        it.
        """
        address = self._parsed_address()
        metadata = self._metadata()
        with self._channel(address) as channel:
            try:
                yield from getattr(admin_pb2_grpc.AdminStub(channel), method)(
                    request, metadata=metadata
                )
            except grpc.RpcError as error:
                explain(error, address=address, timeout=self.timeout, has_token=bool(metadata))

    def _parsed_address(self) -> Address:
        try:
            return parse_address(self.address)
        except ValueError as error:
            raise typer.BadParameter(f"{self.address!r} {error}", param_hint="--address") from None

    def _metadata(self) -> list[tuple[str, str]]:
        token = self.token
        if self.token_file is not None:
            token = _read(self.token_file, option="--token-file").decode("utf-8", "replace")
        token = token.strip()
        if not (token.isascii() and (token.isprintable() or not token)):
            raise typer.BadParameter(
                "holds characters that no token has", param_hint="--token-file"
            )
        return [("authorization", f"Bearer {token}")] if token else []

    @contextmanager
    def _channel(self, address: Address) -> Iterator[grpc.Channel]:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", GRPC_MESSAGE_BYTES_MAX),
        ]
        # A stream notices a coordinator that is gone.
        options += [("grpc.keepalive_time_ms", 20_000), ("grpc.keepalive_timeout_ms", 10_000)]
        if address.is_loopback:
            options.append(("grpc.enable_http_proxy", 0))
        if address.is_loopback and self.ca_file is None:
            channel = grpc.insecure_channel(str(address), options=options)
        else:
            roots = _read(self.ca_file, option="--ca-file") if self.ca_file else None
            credentials = grpc.ssl_channel_credentials(root_certificates=roots)
            channel = grpc.secure_channel(str(address), credentials, options=options)
        with channel:
            yield channel


def session_of(ctx: typer.Context) -> Session:
    """The session that the global options have made."""
    session = ctx.find_object(Session)
    if session is None:
        fail("started without its global options", code=ExitCode.USAGE)
    return session


def duration_of(text: str, *, option: str) -> int:
    """An option's duration in milliseconds."""
    try:
        ms = duration_ms(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=option) from None
    if ms <= 0:
        raise typer.BadParameter("should be longer than 0", param_hint=option)
    return ms


def is_interactive() -> bool:
    """Whether somebody sits at standard input."""
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool, interactive: bool) -> None:
    """Go on only if the operator agrees; `--yes` agrees beforehand."""
    if yes:
        return
    if not interactive:
        fail(f"{question} Nobody can be asked here; pass --yes.", code=ExitCode.USAGE)
    if not typer.confirm(question, err=True):
        fail("nothing was changed", code=ExitCode.REFUSED)


def explain(error: grpc.RpcError, *, address: Address, timeout: str, has_token: bool) -> NoReturn:
    """End the command with what went wrong and what to do about it."""
    status, details = error.code(), error.details() or ""
    if status is grpc.StatusCode.UNAVAILABLE:
        fail(
            f"cannot reach the coordinator at {address} ({_short(details)}); is it running? "
            f"Name another with --address or TIDEGATE_ADDRESS. {_tls_hint(address)}",
            code=ExitCode.UNREACHABLE,
        )
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        fail(
            f"no answer from {address} within {timeout}; raise --timeout or look at its log",
            code=ExitCode.UNREACHABLE,
        )
    if status is grpc.StatusCode.UNAUTHENTICATED:
        given = "the admin token was not accepted" if has_token else "an admin token is needed"
        fail(
            f"{given} ({_short(details)}); put one into TIDEGATE_ADMIN_TOKEN or name a file that "
            "holds one with --token-file",
            code=ExitCode.UNAUTHORISED,
        )
    if status is grpc.StatusCode.PERMISSION_DENIED:
        fail(
            f"this token does not allow it ({_short(details)}); use an admin token, made with "
            "`tidectl token create --kind admin`",
            code=ExitCode.UNAUTHORISED,
        )
    if status is grpc.StatusCode.UNIMPLEMENTED:
        fail(
            f"the coordinator at {address} does not know this command; compare `tidectl version`",
            code=ExitCode.REFUSED,
        )
    lines = [line for line in details.splitlines() if line.strip()]
    if status is grpc.StatusCode.INVALID_ARGUMENT and lines:
        fail("refused:\n" + "\n".join(f"  {line}" for line in lines), code=ExitCode.REFUSED)
    fail(f"refused: {details or status.name.lower()}", code=ExitCode.REFUSED)


def _short(details: str) -> str:
    """gRPC's details without the chain of addresses that it tried."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "its certificate was not signed by that authority or names another host"
    text = re.sub(r"^.*last error: (?:[A-Z_]+: )?", "", " ".join(details.split()))
    return text if len(text) <= 160 else f"{text[:157]}..."


def _tls_hint(address: Address) -> str:
    if address.is_loopback:
        return "If it uses TLS, name its authority with --ca-file."
    return (
        "The connection uses TLS: if your own authority signed the certificate, name it with "
        "--ca-file."
    )


def _read(path: Path, *, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_TOKEN_BYTES_MAX * 64)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot read {path}: {error.strerror}", param_hint=option
        ) from None
