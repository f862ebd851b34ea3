"""The budget, the ledger and the switch that stops all spending."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import NONE, console, facts, instant, show_json, table, to_data, usd
from coordinator.cli.session import OutputFormat, Session, session_of
from shared.decision.money import nanos_from_dollars
from shared.limits import AMOUNT_NANOS_MAX
from shared.pb.v1 import admin_pb2

PAGE_ROWS = 500

budget = typer.Typer(no_args_is_help=True, help="Show and set the budget of a window.")
ledger = typer.Typer(no_args_is_help=True, help="Read the append-only ledger.")


@budget.command("show")
def show_budget(ctx: typer.Context) -> None:
    """Show the present window's budget and balances."""
    session = session_of(ctx)
    _show_budget(session, session.call("GetBudget", admin_pb2.GetBudgetRequest()))


@budget.command("set")
def set_budget(
    ctx: typer.Context,
    amount: Annotated[
        str, typer.Argument(metavar="AMOUNT_USD", help="Dollars for one window, such as 12.50.")
    ],
) -> None:
    """Set what a window may cost. A cut takes effect as lent money comes back."""
    session = session_of(ctx)
    try:
        nanos = nanos_from_dollars(amount)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="AMOUNT_USD") from None
    if not 0 <= nanos <= AMOUNT_NANOS_MAX:
        raise typer.BadParameter(
            f"should be from 0 to {usd(AMOUNT_NANOS_MAX)}", param_hint="AMOUNT_USD"
        )
    request = admin_pb2.SetBudgetRequest(amount_nanos=nanos, actor=session.actor)
    _show_budget(session, session.call("SetBudget", request))


def _show_budget(session: Session, reply: admin_pb2.Budget) -> None:
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    start, end = instant(reply.window_start_unix_ms), instant(reply.window_end_unix_ms)
    console().print(
        facts(
            [
                ("budget", reply.name),
                ("window", f"{start} to {end}"),
                ("target", usd(reply.target_nanos)),
                ("enforced", usd(reply.enforced_nanos)),
                ("settled", usd(reply.settled_nanos)),
                ("unconfirmed", usd(reply.unconfirmed_nanos)),
                ("lent to devices", usd(reply.outstanding_nanos)),
                ("free", usd(reply.free_nanos)),
                ("spending", "paused" if reply.spend_paused else "allowed"),
            ]
        )
    )


def pause_spend(ctx: typer.Context) -> None:
    """Stop all paid calls: no grants, and every device is told to close its paid arms."""
    session = session_of(ctx)
    _spend(session, session.call("PauseSpend", admin_pb2.PauseSpendRequest(actor=session.actor)))


def resume_spend(ctx: typer.Context) -> None:
    """Allow paid calls again."""
    session = session_of(ctx)
    _spend(session, session.call("ResumeSpend", admin_pb2.ResumeSpendRequest(actor=session.actor)))


def _spend(session: Session, reply: admin_pb2.SpendState) -> None:
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    state = "paused" if reply.paused else "allowed"
    unreached = f"{reply.devices_unreached} unreached" if reply.devices_unreached else "all reached"
    typer.echo(f"spending is {state}: {reply.devices_told} devices told, {unreached}")
    if reply.paused and reply.devices_unreached:
        typer.echo("an unreached device can still spend what it has been lent")


@ledger.command("list")
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
