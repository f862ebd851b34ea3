"""`tidectl audit`: who changed what."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import NONE, console, instant, show_json, table
from coordinator.cli.session import OutputFormat, session_of
from shared.pb.v1 import admin_pb2

app = typer.Typer(no_args_is_help=True, help="See who changed what.")


@app.command("list")
def list_audit(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 20,
) -> None:
    """List the operators' latest commands with their reasons, newest first."""
    session = session_of(ctx)
    request = admin_pb2.ListAuditRequest(limit=limit)
    reply: admin_pb2.ListAuditReply = session.call("ListAudit", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    rows = [
        [instant(entry.at_unix_ms), entry.actor, entry.action, entry.detail or NONE]
        for entry in reply.entries
    ]
    console().print(table(["TIME", "WHO", "DID", "WHAT"], rows))
