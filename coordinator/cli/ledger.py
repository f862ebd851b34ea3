"""The append-only ledger: reading it, adding it up again, and the way back from a restore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from coordinator.cli.render import (
    NONE,
    console,
    instant,
    show_json,
    span,
    table,
    to_data,
    usd,
)
from coordinator.cli.session import (
    ExitCode,
    OutputFormat,
    Session,
    confirm,
    is_interactive,
    session_of,
)
from shared.pb.v1 import admin_pb2

PAGE_ROWS = 500

app = typer.Typer(no_args_is_help=True, help="Read, verify and recover the append-only ledger.")


@app.command("list")
def list_ledger(
    ctx: typer.Context,
    device: Annotated[str, typer.Option(help="Only this device's rows (id or name).")] = "",
    after: Annotated[int, typer.Option(min=0, help="Only rows with a higher id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many rows.")] = 50,
    every: Annotated[bool, typer.Option("--all", help="Every row, page by page.")] = False,
) -> None:
    """List ledger rows, oldest first."""
    session = session_of(ctx)
    rows: list[admin_pb2.LedgerRow] = []
    while True:
        reply: admin_pb2.ListLedgerReply = session.call(
            "ListLedger",
            admin_pb2.ListLedgerRequest(
                after_id=rows[-1].id if rows else after,
                limit=PAGE_ROWS if every else limit,
                device=device,
            ),
        )
        rows.extend(reply.rows)
        if not every or not reply.rows:
            break
    if session.format is OutputFormat.JSON:
        show_json({"rows": [to_data(row) for row in rows]})
        return
    columns = ["ID", "TIME", "KIND", "DEVICE", "LEASE", "AMOUNT", "REQUEST", "NOTE"]
    cells = [
        [
            str(row.id),
            instant(row.at_unix_ms),
            row.kind,
            row.device_id or NONE,
            str(row.lease_number) if row.lease_number else NONE,
            usd(row.amount_nanos),
            row.request_id or NONE,
            row.note or NONE,
        ]
        for row in rows
    ]
    console().print(table(columns, cells, right=["ID", "LEASE", "AMOUNT"]))
    if not every and len(rows) == limit:
        typer.echo(f"there may be more: --after {rows[-1].id}, or --all", err=True)


@app.command("verify")
def verify_ledger(ctx: typer.Context) -> None:
    """Add every row up again and compare with the balances. Exits with 1 if any differs.

    The fleet goes on meanwhile: the rows are read from one moment of the books.
    """
    session = session_of(ctx)
    last = admin_pb2.LedgerVerification()
    columns = (TextColumn("reading rows"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=None)
        for last in session.stream("VerifyLedger", admin_pb2.VerifyLedgerRequest()):
            bar.update(task, completed=last.rows_read, total=last.rows_total or None)
    if session.format is OutputFormat.JSON:
        show_json(last)
    elif last.differences:
        for difference in last.differences:
            typer.echo(difference)
    else:
        typer.echo(f"{last.rows_read} rows add up to the balances of every window and lease")
    if last.differences or not last.done:
        raise typer.Exit(ExitCode.REFUSED)


@app.command("recover")
def recover_ledger(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """After a restore: lend again once every known device was heard or is written off."""
    session = session_of(ctx)
    before: admin_pb2.LedgerRecovery = session.call("GetRecovery", admin_pb2.GetRecoveryRequest())
    if before.active:
        if session.format is OutputFormat.TABLE:
            _show_recovery(session, before)
        missing = len(before.missing)
        when = (
            f"as soon as {missing} missing devices have connected or are written off"
            if missing
            else "at once: every known device was heard"
        )
        confirm(f"Lend money again, {when}?", yes=yes, interactive=is_interactive())
    reply: admin_pb2.LedgerRecovery = session.call(
        "RecoverLedger", admin_pb2.RecoverLedgerRequest(actor=session.actor)
    )
    if session.format is OutputFormat.JSON:
        show_json(reply)
    elif reply.active:
        names = ", ".join(device.name for device in reply.missing)
        typer.echo(f"confirmed; nothing is lent before these are heard: {names}")
        typer.echo("a device that will not come back: tidectl budget write-off DEVICE")
    else:
        typer.echo("recovered; money is lent again")


@app.command("recovery")
def show_recovery(ctx: typer.Context) -> None:
    """Show whether restored books are being recovered, who was heard and who is missing."""
    session = session_of(ctx)
    reply: admin_pb2.LedgerRecovery = session.call("GetRecovery", admin_pb2.GetRecoveryRequest())
    if session.format is OutputFormat.JSON:
        show_json(reply)
    elif reply.active:
        _show_recovery(session, reply)
    else:
        typer.echo("these books are complete: there is nothing to recover")


def _show_recovery(session: Session, reply: admin_pb2.LedgerRecovery) -> None:
    typer.echo(reply.reason)
    if reply.confirmed_by:
        typer.echo(f"confirmed by {reply.confirmed_by}")
    else:
        _show_what_is_in_force(session)
    rows = [*_devices("heard", reply.heard), *_devices("missing", reply.missing)]
    console().print(table(["DEVICE", "ID", "STATE", "SILENT"], rows))


def _show_what_is_in_force(session: Session) -> None:
    """The operators' own settings may be those of a backup."""
    status: admin_pb2.FleetStatus = session.call("GetStatus", admin_pb2.GetStatusRequest())
    budget = status.budget
    paused = ", spending paused" if budget.spend_paused else ""
    typer.echo(
        f"in force is what these books knew: {usd(budget.target_nanos)} a window, "
        f"configuration {status.config_version}{paused}"
    )
    typer.echo(
        "if they were restored, what was changed after the backup is lost: compare `tidectl budget "
        "show`, `tidectl diff`, `tidectl arm list` and `tidectl audit list` first"
    )


def _devices(state: str, devices: Iterable[admin_pb2.RecoveringDevice]) -> Sequence[list[str]]:
    return [
        [device.name, device.id, state, span(device.silent_ms) if device.silent_ms else NONE]
        for device in devices
    ]
