"""What devices choose from and what they chose: selection tables and logged decisions."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import NONE, console, instant, ppm, show_json, table, usd
from coordinator.cli.session import OutputFormat, session_of
from shared.pb.v1 import admin_pb2, types_pb2

tables = typer.Typer(no_args_is_help=True, help="Read the selection table of a device.")
decisions = typer.Typer(no_args_is_help=True, help="Read logged decisions.")


@tables.command("show")
def show_table(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id or name.")],
) -> None:
    """Show from which arms a device draws, per task class."""
    session = session_of(ctx)
    request = admin_pb2.GetTableRequest(device=device)
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


@decisions.command("list")
def list_decisions(
    ctx: typer.Context,
    device: Annotated[str, typer.Option(help="Only this device's (id or name).")] = "",
    request_id: Annotated[str, typer.Option(help="Only the decision for this request.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 20,
) -> None:
    """List the latest decisions, newest first; `--format json` has every detail."""
    session = session_of(ctx)
    request = admin_pb2.ListDecisionsRequest(limit=limit, device=device, request_id=request_id)
    reply: admin_pb2.ListDecisionsReply = session.call("ListDecisions", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    columns = ["TIME", "REQUEST", "CLASS", "TASK", "ARM", "P", "REASON", "COST", "MS", "REWARD"]
    out = console()
    rows = [_row(decision) for decision in reply.decisions]
    out.print(table(columns, rows, right=["P", "COST", "MS", "REWARD"]))
    if request_id:
        for decision in reply.decisions:
            for fallout in decision.outcome.fallouts:
                out.print(f"no candidate: {fallout.arm}: {fallout.reason}", markup=False)


def _row(decision: admin_pb2.Decision) -> list[str]:
    outcome = decision.outcome
    return [
        instant(outcome.arrived_unix_ms),
        outcome.request_id,
        decision.device_class,
        outcome.task_class,
        outcome.arm or NONE,
        ppm(outcome.propensity_ppm),
        outcome.reason or NONE,
        usd(sum(attempt.cost_nanos for attempt in outcome.attempts)),
        str(outcome.latency_ms),
        f"{decision.reward_ppm / 1e6:.3f}" if decision.graded else NONE,
    ]
