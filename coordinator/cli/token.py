"""`tidectl token`: rights to join the fleet and to administer it."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import typer

from coordinator.cli.render import instant, show_json
from coordinator.cli.session import OutputFormat, duration_of, session_of
from shared.pb.v1 import admin_pb2

app = typer.Typer(no_args_is_help=True, help="Create tokens.")

_SECONDS_MAX: Final = 2**32 - 1


class TokenKind(enum.StrEnum):
    """What a token allows."""

    JOIN = "join"
    ADMIN = "admin"


_KINDS: Final = {
    TokenKind.JOIN: admin_pb2.TOKEN_KIND_JOIN,
    TokenKind.ADMIN: admin_pb2.TOKEN_KIND_ADMIN,
}


@app.command("create")
def create_token(
    ctx: typer.Context,
    kind: Annotated[
        TokenKind, typer.Option(help="join: one device, once; admin: use the admin service.")
    ],
    device_class: Annotated[
        str, typer.Option("--class", help="join: the class that the device will belong to.")
    ] = "",
    valid_for: Annotated[str, typer.Option(help='How long, such as "1h" or "30d".')] = "1h",
    name: Annotated[str, typer.Option(help="admin: whose it is, for the audit log.")] = "",
) -> None:
    """Create a token. It is shown this once, alone on standard output."""
    session = session_of(ctx)
    if device_class and kind is not TokenKind.JOIN:
        raise typer.BadParameter("only a join token has a class", param_hint="--class")
    seconds = -(-duration_of(valid_for, option="--valid-for") // 1_000)
    if seconds > _SECONDS_MAX:
        raise typer.BadParameter("is too long", param_hint="--valid-for")
    request = admin_pb2.CreateTokenRequest(
        kind=_KINDS[kind],
        device_class=device_class,
        valid_for_s=seconds,
        actor=session.actor,
        name=name,
    )
    reply: admin_pb2.CreateTokenReply = session.call("CreateToken", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    typer.echo(reply.token)
    expires = instant(reply.expires_unix_ms)
    typer.echo(f"{kind.value} token, valid until {expires}", err=True)
