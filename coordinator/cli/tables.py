"""`tidectl table`: what devices choose from, kept as it is or put back."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import NONE, console, instant, ppm, show_json, table, usd
from coordinator.cli.session import OutputFormat, Session, confirm, is_interactive, session_of
from shared.pb.v1 import admin_pb2, types_pb2

app = typer.Typer(
    no_args_is_help=True, help="Read the selection tables; pin them, or put an earlier one back."
)

ClassArgument = Annotated[
    str, typer.Argument(metavar="CLASS", help="The device class, such as pi.")
]


@app.command("show")
def show_table(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id or name.")],
    version: Annotated[
        int, typer.Option(min=0, help="An earlier version of its class's table, from `list`.")
    ] = 0,
) -> None:
    """Show from which arms a device draws, per task class."""
    session = session_of(ctx)
    request = admin_pb2.GetTableRequest(device=device, version=version)
    reply: types_pb2.SelectionTable = session.call("GetTable", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    out = console()
    resident = ", ".join(reply.resident_arms) or "none"
    out.print(
        f"version {reply.version} of {instant(reply.created_unix_ms)} for class "
        f"{reply.device_class}, configuration {reply.config_version}, resident: {resident}",
        markup=False,
    )
    columns = ["TASK CLASS", "ARM", "WEIGHT", "REWARD", "COST", "P50", "P90", "P99"]
    rows = [
        [
            row.task_class if place == 0 else "",
            arm.arm,
            ppm(arm.weight_ppm),
            f"{arm.expected_reward_ppm / 1e6:.3f}",
            usd(arm.expected_cost_nanos),
            f"{arm.latency_p50_ms} ms",
            f"{arm.latency_p90_ms} ms",
            f"{arm.latency_p99_ms} ms",
        ]
        for row in reply.rows
        for place, arm in enumerate(row.arms)
    ]
    out.print(table(columns, rows, right=columns[2:]))


@app.command("list")
def list_tables(
    ctx: typer.Context,
    device_class: Annotated[
        str, typer.Argument(metavar="[CLASS]", help="Only this device class.")
    ] = "",
) -> None:
    """List the tables in force, which of them are pinned, and the earlier ones that are kept."""
    session = session_of(ctx)
    request = admin_pb2.ListTablesRequest(device_class=device_class)
    reply: admin_pb2.ListTablesReply = session.call("ListTables", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    rows = [row for each in reply.classes for row in _rows(each)]
    columns = ["CLASS", "VERSION", "MADE", "STATE"]
    console().print(table(columns, rows, right=["VERSION"]))


@app.command("pin")
def pin_table(
    ctx: typer.Context,
    device_class: ClassArgument,
    version: Annotated[
        int | None,
        typer.Argument(metavar="[VERSION]", min=1, help="A version that is kept, from `list`."),
    ] = None,
) -> None:
    """Keep the table of a device class as it is. Planning goes on, pushes do not."""
    session = session_of(ctx)
    _show(session, _pin(session, device_class, version=version or 0))


@app.command("rollback")
def roll_back_table(
    ctx: typer.Context,
    device_class: ClassArgument,
    version: Annotated[
        int, typer.Argument(metavar="VERSION", min=1, help="A version that is kept, from `list`.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Roll back without asking.")] = False,
) -> None:
    """Put an earlier table of a device class back, and pin it."""
    session = session_of(ctx)
    confirm(
        f"Let every device of class {device_class} decide by version {version}, until `unpin`?",
        yes=yes,
        interactive=is_interactive(),
    )
    _show(session, _pin(session, device_class, version=version))


@app.command("unpin")
def unpin_table(ctx: typer.Context, device_class: ClassArgument) -> None:
    """Let the latest plan, and those to come, decide again."""
    session = session_of(ctx)
    request = admin_pb2.UnpinTableRequest(device_class=device_class, actor=session.actor)
    _show(session, session.call("UnpinTable", request))


def _pin(session: Session, device_class: str, *, version: int) -> admin_pb2.TablesOfClass:
    request = admin_pb2.PinTableRequest(
        device_class=device_class, version=version, actor=session.actor
    )
    reply: admin_pb2.TablesOfClass = session.call("PinTable", request)
    return reply


def _show(session: Session, reply: admin_pb2.TablesOfClass) -> None:
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    state = f"pinned by {reply.pinned.actor}" if reply.HasField("pinned") else "not pinned"
    typer.echo(f"class {reply.device_class} decides by version {reply.version}, {state}")


def _rows(tables: admin_pb2.TablesOfClass) -> list[list[str]]:
    pinned = tables.pinned
    state = "in force"
    if tables.HasField("pinned"):
        state = f"pinned since {instant(pinned.since_unix_ms)} by {pinned.actor}"
    made = instant(tables.created_unix_ms) if tables.version else NONE
    first = [tables.device_class, str(tables.version or NONE), made, state]
    earlier = [
        ["", str(each.version), instant(each.created_unix_ms), "kept"] for each in tables.earlier
    ]
    return [first, *earlier]
