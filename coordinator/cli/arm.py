"""`tidectl arm`: the ways to answer, what has been learned of them, and whether they are open."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import (
    NONE,
    console,
    enum_word,
    facts,
    instant,
    interval,
    show_json,
    table,
    usd,
)
from coordinator.cli.session import ExitCode, OutputFormat, Session, fail, session_of
from shared.decision.money import NANOS_PER_DOLLAR
from shared.pb.v1 import admin_pb2, types_pb2

app = typer.Typer(no_args_is_help=True, help="Show arms and their estimates; close and open them.")

ArmArgument = Annotated[str, typer.Argument(metavar="ARM", help="The arm's id.")]


@app.command("list")
def list_arms(ctx: typer.Context) -> None:
    """List every arm with its price."""
    session = session_of(ctx)
    reply: admin_pb2.ListArmsReply = session.call("ListArms", admin_pb2.ListArmsRequest())
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    columns = ["ARM", "KIND", "STATE", "IN $/MTOK", "OUT $/MTOK", "PER REQUEST", "REQUESTS"]
    rows = [
        [arm.id, _kind(arm), _state(arm), *_price(arm), str(arm.requests)] for arm in reply.arms
    ]
    console().print(table(columns, rows, right=columns[3:]))


@app.command("show")
def show_arm(ctx: typer.Context, arm: ArmArgument) -> None:
    """Show an arm's estimates per context: means with their lower and upper bounds."""
    session = session_of(ctx)
    request = admin_pb2.ListArmsRequest(arm=arm)
    reply: admin_pb2.ListArmsReply = session.call("ListArms", request)
    if not reply.arms:
        fail(f"no arm {arm!r}; see `tidectl arm list`", code=ExitCode.REFUSED)
    _show(session, reply.arms[0])


@app.command("disable")
def disable_arm(ctx: typer.Context, arm: ArmArgument) -> None:
    """Close an arm on every device."""
    _set_enabled(session_of(ctx), arm=arm, enabled=False)


@app.command("enable")
def enable_arm(ctx: typer.Context, arm: ArmArgument) -> None:
    """Open an arm again."""
    _set_enabled(session_of(ctx), arm=arm, enabled=True)


def _set_enabled(session: Session, *, arm: str, enabled: bool) -> None:
    request = admin_pb2.SetArmEnabledRequest(arm=arm, enabled=enabled, actor=session.actor)
    reply: admin_pb2.ArmSummary = session.call("SetArmEnabled", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
    else:
        typer.echo(f"{reply.id} is {_state(reply)}")


def _show(session: Session, arm: admin_pb2.ArmSummary) -> None:
    if session.format is OutputFormat.JSON:
        show_json(arm)
        return
    price_in, price_out, per_request = _price(arm)
    pairs = [("arm", arm.id), ("kind", _kind(arm)), ("state", _state(arm))]
    if arm.HasField("price"):
        pairs += [
            ("price", f"{price_in} in, {price_out} out per Mtok, {per_request} per request"),
            ("price version", str(arm.price.version)),
            ("price valid until", instant(arm.price.valid_until_unix_ms)),
        ]
    out = console()
    out.print(facts([*pairs, ("requests", str(arm.requests))]))
    out.print()
    columns = ["CONTEXT", "GRADED", "REWARD", "HIT RATE", "$ PER 1000", "P50", "P90"]
    rows = [_estimates(context) for context in arm.contexts]
    out.print(table(columns, rows, right=["GRADED", "P50", "P90"]))
    out.print(
        "Means with [lower, upper] bounds; dollars per 1000 requests; latency in ms.",
        style="dim",
        markup=False,
    )


def _estimates(context: admin_pb2.ContextEstimate) -> list[str]:
    ungraded = context.sent and not context.graded
    reward, cost = context.reward, context.cost_nanos
    return [
        f"{context.device_class}/{context.task_class}",
        f"{context.graded} of {context.sent}",
        f"{reward.mean:.2f} ungraded" if ungraded else interval(reward, digits=2),
        interval(context.hit, digits=2),
        interval(cost, scale=1_000 / NANOS_PER_DOLLAR, digits=3) if cost.upper else "0",
        str(context.latency_p50_ms),
        str(context.latency_p90_ms),
    ]


def _kind(arm: admin_pb2.ArmSummary) -> str:
    return enum_word(arm.kind, kind=types_pb2.ArmKind.DESCRIPTOR)


def _state(arm: admin_pb2.ArmSummary) -> str:
    return "enabled" if arm.enabled else "disabled"


def _price(arm: admin_pb2.ArmSummary) -> tuple[str, str, str]:
    if not arm.HasField("price"):
        return NONE, NONE, NONE
    price = arm.price
    return (
        usd(price.input_nanos_per_mtok),
        usd(price.output_nanos_per_mtok),
        usd(price.request_nanos),
    )
