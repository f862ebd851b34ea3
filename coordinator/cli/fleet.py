"""Commands about the fleet as a whole: status, version, apply, diff."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from coordinator.cli.render import (
    NONE,
    console,
    facts,
    instant,
    interval,
    share,
    show_json,
    table,
    to_data,
    usd,
)
from coordinator.cli.session import (
    ExitCode,
    OutputFormat,
    Session,
    confirm,
    fail,
    is_interactive,
    session_of,
)
from shared.limits import CONFIG_BYTES_MAX
from shared.pb.v1 import admin_pb2
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION

FileOption = Annotated[
    Path, typer.Option("--file", "-f", help="The fleet's TOML file; '-' is standard input.")
]


def status(ctx: typer.Context) -> None:
    """Show the fleet, its budget, its SLA and what the arms have earned in this window."""
    session = session_of(ctx)
    reply: admin_pb2.FleetStatus = session.call("GetStatus", admin_pb2.GetStatusRequest())
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    out = console()
    out.print(facts(_status_facts(reply)))
    if reply.arm_shares:
        out.print()
        out.print(_arm_shares(reply))
    for alarm in reply.alarms:
        out.print(Text(f"ALARM  {alarm}", style="bold red"))


def _status_facts(reply: admin_pb2.FleetStatus) -> list[tuple[str, str]]:
    budget = reply.budget
    paused = "  PAUSED" if budget.spend_paused else ""
    balances = (
        f"{usd(budget.settled_nanos)} settled, {usd(budget.outstanding_nanos)} lent, "
        f"{usd(budget.free_nanos)} free"
    )
    within = share(reply.sla_share_window) if reply.HasField("sla_share_window") else NONE
    graded = reply.HasField("reward_mean_window")
    reward = f"{reply.reward_mean_window:.3f} on average" if graded else NONE
    answered = f"{reply.answered_window} of {reply.requests_window} answered"
    return [
        ("devices", f"{reply.devices_connected} of {reply.devices_known} connected"),
        ("configuration", _configuration(reply)),
        ("slot", f"{reply.slot} of {reply.slots_total}, {reply.slot_s:g} s each"),
        ("window ends", instant(budget.window_end_unix_ms)),
        (f"budget {budget.name}", f"{balances} of {usd(budget.enforced_nanos)}{paused}"),
        ("requests", f"{answered}, {reply.demand_last_slot} in the last slot"),
        ("forecast", f"{reply.forecast_remaining:.0f} more until the window ends"),
        ("within deadline", f"{within}, floor {share(reply.sla_floor)}"),
        ("reward", f"{reward}, {reply.graded_window} graded"),
        ("price of money", f"{reply.money_dual_per_dollar:.3f} reward per dollar"),
        *(
            (f"table {each.device_class}", f"pinned at version {each.version} by {each.actor}")
            for each in reply.pinned_tables
        ),
    ]


def _configuration(reply: admin_pb2.FleetStatus) -> str:
    if not reply.config_version:
        return "none yet: tidectl apply -f fleet.toml"
    return f"version {reply.config_version}, policy {reply.policy}"


def _arm_shares(reply: admin_pb2.FleetStatus) -> object:
    total = sum(arm.requests for arm in reply.arm_shares) or 1
    return table(
        ["ARM", "REQUESTS", "SHARE", "REWARD", "COST"],
        [
            [
                arm.arm,
                str(arm.requests),
                share(arm.requests / total),
                f"{arm.reward_mean:.3f}" if arm.HasField("reward_mean") else NONE,
                usd(arm.cost_nanos),
            ]
            for arm in reply.arm_shares
        ],
        right=["REQUESTS", "SHARE", "REWARD", "COST"],
    )


def version(ctx: typer.Context) -> None:
    """Show the versions of this program and of the coordinator."""
    session = session_of(ctx)
    as_json = session.format is OutputFormat.JSON
    if not as_json:
        typer.echo(f"tidectl      {SOFTWARE_VERSION}, protocol {PROTOCOL_VERSION}")
    reply: admin_pb2.VersionReply = session.call("GetVersion", admin_pb2.GetVersionRequest())
    if as_json:
        ours = {
            "software_version": SOFTWARE_VERSION,
            "protocol": {"major": PROTOCOL_VERSION.major, "minor": PROTOCOL_VERSION.minor},
        }
        show_json({"tidectl": ours, "coordinator": to_data(reply)})
        return
    theirs = f"{reply.protocol.major}.{reply.protocol.minor}"
    typer.echo(f"coordinator  {reply.software_version}, protocol {theirs}")


def diff(ctx: typer.Context, file: FileOption) -> None:
    """Show what applying a file would change. Exits with 3 if anything would."""
    session = session_of(ctx)
    reply = _changes(session, toml=_read(file))
    _show_changes(session, reply)
    for warning in reply.warnings:
        typer.echo(f"tidectl: warning: {warning}", err=True)
    if reply.changes:
        raise typer.Exit(ExitCode.DIFFERENT)


def apply(
    ctx: typer.Context,
    file: FileOption,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Apply without asking.")] = False,
) -> None:
    """Show what a file would change, ask, and apply it."""
    session = session_of(ctx)
    toml = _read(file)
    planned = _changes(session, toml=toml)
    if not planned.changes:
        _show_changes(session, planned)
        return
    if session.format is OutputFormat.TABLE:
        _show_changes(session, planned)
    for warning in planned.warnings:
        typer.echo(f"tidectl: warning: {warning}", err=True)
    interactive = is_interactive() and str(file) != "-"
    confirm(f"Apply {len(planned.changes)} changes?", yes=yes, interactive=interactive)
    request = admin_pb2.ApplyConfigRequest(toml=toml, actor=session.actor)
    reply: admin_pb2.ApplyConfigReply = session.call("ApplyConfig", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
    else:
        typer.echo(f"applied as version {reply.version}")


def _changes(session: Session, *, toml: str) -> admin_pb2.ApplyConfigReply:
    request = admin_pb2.ApplyConfigRequest(toml=toml, dry_run=True, actor=session.actor)
    reply: admin_pb2.ApplyConfigReply = session.call("ApplyConfig", request)
    return reply


def _show_changes(session: Session, reply: admin_pb2.ApplyConfigReply) -> None:
    if session.format is OutputFormat.JSON:
        show_json(reply)
    elif not reply.changes:
        typer.echo("no differences")
    else:
        rows = [[change.key, change.before, change.after] for change in reply.changes]
        console().print(table(["KEY", "BEFORE", "AFTER"], rows))


def _read(path: Path) -> str:
    """The file's text, checked for size only: the coordinator alone judges the content."""
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(CONFIG_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                content = file.read(CONFIG_BYTES_MAX + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(
            f"cannot read {path}: {error.strerror}", param_hint="--file"
        ) from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is no UTF-8 text", param_hint="--file") from None
    if len(content) > CONFIG_BYTES_MAX:
        fail(f"{path} is longer than {CONFIG_BYTES_MAX} bytes", code=ExitCode.USAGE)
    return text


def forecast_show(ctx: typer.Context) -> None:
    """Show the demand so far and what is expected until the window ends."""
    session = session_of(ctx)
    reply: admin_pb2.ForecastReply = session.call("GetForecast", admin_pb2.GetForecastRequest())
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    columns = ["DEVICE CLASS", "TASK CLASS", "FORECASTER", "SO FAR", "NEXT SLOT", "REMAINING"]
    rows = [
        [
            row.device_class,
            row.task_class,
            row.forecaster or NONE,
            str(row.demand_so_far),
            f"{row.next_slot:.1f}",
            interval(row.remaining, digits=0),
        ]
        for row in reply.rows
    ]
    console().print(table(columns, rows, right=columns[3:]))
