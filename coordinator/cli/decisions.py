"""`tidectl decision`: what devices chose, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from coordinator.cli.output import output
from coordinator.cli.render import NONE, console, enum_word, instant, ppm, show_json, table, usd
from coordinator.cli.session import OutputFormat, Session, session_of
from shared.decision.logged import LoggedDecision
from shared.decision.money import PPM
from shared.decision.types import RequestStatus
from shared.pb.v1 import admin_pb2, types_pb2

PAGE_ROWS: Final = 1_000

decisions = typer.Typer(no_args_is_help=True, help="Read logged decisions.")


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


@decisions.command("export")
def export(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="File to write, gzipped if it ends in .gz; else stdout.")
    ] = None,
    device: Annotated[str, typer.Option(help="Only this device's (id or name).")] = "",
    after: Annotated[int, typer.Option(min=0, help="Only those booked after this position.")] = 0,
) -> None:
    """Write all decisions, oldest first, as JSON lines: the log of `tidegate-lab evaluate`."""
    session = session_of(ctx)
    with output(out) as file:
        for page in _pages(session, device=device, after=after):
            file.writelines(_logged(decision).to_line() + "\n" for decision in page)


def _pages(session: Session, *, device: str, after: int) -> Iterator[Sequence[admin_pb2.Decision]]:
    """Every page of decisions above a position."""
    while True:
        request = admin_pb2.ListDecisionsRequest(
            limit=PAGE_ROWS, device=device, after_position=after
        )
        reply: admin_pb2.ListDecisionsReply = session.call("ListDecisions", request)
        if not reply.decisions:
            return
        yield reply.decisions
        after = reply.decisions[-1].position


def _logged(decision: admin_pb2.Decision) -> LoggedDecision:
    """A decision as a line of the log.

    Without its candidates (an interrupted request, or nothing was left to draw from) a draw says
    nothing about other policies: it is written as none.
    """
    outcome = decision.outcome
    drawn = bool(outcome.candidates)
    status = enum_word(outcome.status, kind=types_pb2.RequestStatus.DESCRIPTOR)
    return LoggedDecision(
        request_id=outcome.request_id,
        arrived_unix_ms=outcome.arrived_unix_ms,
        slot=decision.slot,
        device_class=decision.device_class,
        task_class=outcome.task_class,
        candidates={each.arm: each.weight_ppm for each in outcome.candidates},
        drawn_arm=outcome.drawn_arm if drawn else "",
        propensity_ppm=outcome.propensity_ppm if drawn else 0,
        attempts=tuple(attempt.arm for attempt in outcome.attempts),
        arm=outcome.arm,
        status=RequestStatus(status),
        reward=decision.reward_ppm / PPM if decision.graded else None,
        cost_nanos=sum(attempt.cost_nanos for attempt in outcome.attempts),
        latency_ms=outcome.latency_ms,
        hit=outcome.hit,
        table_version=outcome.table_version,
        grading_ppm=outcome.grading_ppm or PPM,
        observed_arm=outcome.observed.arm,
        observed={each.arm: each.weight_ppm for each in outcome.observed.candidates},
    )


def _row(decision: admin_pb2.Decision) -> list[str]:
    outcome = decision.outcome
    return [
        instant(outcome.arrived_unix_ms),
        outcome.request_id,
        decision.device_class,
        outcome.task_class,
        outcome.arm or NONE,
        ppm(outcome.propensity_ppm),
        _reason(outcome),
        usd(sum(attempt.cost_nanos for attempt in outcome.attempts)),
        str(outcome.latency_ms),
        f"{decision.reward_ppm / 1e6:.3f}" if decision.graded else NONE,
    ]


def _reason(outcome: types_pb2.Outcome) -> str:
    """Why an arm answered; where a fixed one was told to, also what would have been drawn."""
    if not outcome.HasField("observed"):
        return outcome.reason or NONE
    observed = outcome.observed
    would = f"{observed.arm} ({ppm(observed.propensity_ppm)})" if observed.arm else "none"
    return f"{outcome.reason}, else {would}"
