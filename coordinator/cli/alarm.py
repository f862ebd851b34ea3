"""Alarms that stand."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import console, instant, show_json, table
from coordinator.cli.session import OutputFormat, Session, session_of
from shared.pb.v1 import admin_pb2

app = typer.Typer(no_args_is_help=True, help="See and clear the alarms that stand.")


@app.command("list")
def list_alarms(ctx: typer.Context) -> None:
    """List what stands, since when, and what ends it."""
    session = session_of(ctx)
    _show(session, session.call("ListAlarms", admin_pb2.ListAlarmsRequest()))


@app.command("clear")
def clear_alarm(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="The alarm's key, as `alarm list` shows it.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the audit.")] = "",
) -> None:
    """Clear an alarm that you have seen to. One whose cause lasts is refused."""
    session = session_of(ctx)
    request = admin_pb2.ClearAlarmRequest(key=key, reason=reason, actor=session.actor)
    _show(session, session.call("ClearAlarm", request))


def _show(session: Session, reply: admin_pb2.ListAlarmsReply) -> None:
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    if not reply.alarms:
        typer.echo("no alarm stands")
        return
    rows = [
        [
            alarm.key,
            instant(alarm.since_unix_ms),
            alarm.text,
            alarm.resolved_by or f"tidectl alarm clear {alarm.key}",
        ]
        for alarm in reply.alarms
    ]
    console().print(table(["KEY", "SINCE", "WHAT", "ENDS WITH"], rows))
