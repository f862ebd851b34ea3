"""The budget, and the switch that stops all spending."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import (
    NONE,
    console,
    facts,
    instant,
    show_json,
    span,
    table,
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
from shared.decision.money import nanos_from_dollars
from shared.limits import AMOUNT_NANOS_MAX
from shared.pb.v1 import admin_pb2

budget = typer.Typer(no_args_is_help=True, help="Show and set the budget of a window.")


@budget.command("show")
def show_budget(ctx: typer.Context) -> None:
    """Show where every cent of the present window is, lease by lease, and what was refused."""
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


@budget.command("write-off")
def write_off(
    ctx: typer.Context,
    device: Annotated[str, typer.Argument(help="A silent device, by id or name.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger and the audit.")],
    assume_unspent: Annotated[
        bool,
        typer.Option(
            "--assume-unspent",
            help="Give the money back instead of booking it as spent. Promise P1 ends here.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask the first time.")] = False,
    confirm_name: Annotated[
        str,
        typer.Option(
            "--confirm", help="With --assume-unspent: the device again, instead of being asked."
        ),
    ] = "",
) -> None:
    """End the leases of a silent device: what it has not reported is booked as spent.

    If it comes back after all, its final figure may lower that. A connected device is refused.
    """
    session = session_of(ctx)
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    found: admin_pb2.Device = session.call("GetDevice", admin_pb2.GetDeviceRequest(device=device))
    balances: admin_pb2.Budget = session.call("GetBudget", admin_pb2.GetBudgetRequest())
    held = [lease for lease in balances.holdings if lease.device_id == found.id]
    unreported = sum(lease.outstanding_nanos for lease in held)
    silent = span(max((lease.silent_ms for lease in held), default=0))
    what = "count as unspent" if assume_unspent else "book as spent"
    confirm(
        f"{found.name} was last heard {instant(found.seen_unix_ms)} ({silent} ago) and has not "
        f"reported on {usd(unreported)}. End its leases and {what} what it did not report?",
        yes=yes,
        interactive=is_interactive(),
    )
    if assume_unspent:
        _confirm_unspent(found.name, given=confirm_name, amount=usd(unreported))
    request = admin_pb2.WriteOffRequest(
        device=found.id, assume_unspent=assume_unspent, reason=reason, actor=session.actor
    )
    reply: admin_pb2.WriteOffReply = session.call("WriteOff", request)
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    how = "counted as unspent" if reply.assumed_unspent else "booked as spent"
    typer.echo(f"{usd(reply.amount_nanos)} of {found.name} {how}")


@budget.command("rewind")
def rewind(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option(help="Why; kept in the audit.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Leave a window that begins in the future, after the coordinator's clock was ahead.

    The window that is true now begins. What was spent and lent in the later ones counts against
    it, and once more against a window that begins in their own time: nothing is spent twice.
    """
    session = session_of(ctx)
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    now: admin_pb2.Budget = session.call("GetBudget", admin_pb2.GetBudgetRequest())
    is_ahead = now.window_start_unix_ms > now.now_unix_ms
    confirm(
        f"The coordinator's clock says {instant(now.now_unix_ms)}, and the present window begins "
        f"at {instant(now.window_start_unix_ms)}. Is the clock right now? Then the window that is "
        f"true now begins, and {usd(_committed(now))} of the later one count against it.",
        yes=yes or not is_ahead,  # then the coordinator refuses, in its own words
        interactive=is_interactive(),
    )
    request = admin_pb2.RewindBudgetRequest(reason=reason, actor=session.actor)
    _show_budget(session, session.call("RewindBudget", request))


def _committed(reply: admin_pb2.Budget) -> int:
    return reply.settled_nanos + reply.unconfirmed_nanos + reply.outstanding_nanos


def _confirm_unspent(name: str, *, given: str, amount: str) -> None:
    """The second question: whoever agrees writes the device's name."""
    if not given:
        question = (
            f"If {name} has spent any of the {amount}, the provider may bill more than the budget, "
            "and the window says so from now on."
        )
        if not is_interactive():
            fail(
                f"{question} Nobody can be asked here; pass --confirm {name}.",
                code=ExitCode.USAGE,
            )
        given = typer.prompt(f"{question} Write the device's name to go on", err=True)
    if given != name:
        fail(f"{given!r} is not {name!r}: nothing was changed", code=ExitCode.REFUSED)


def _show_budget(session: Session, reply: admin_pb2.Budget) -> None:
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    out = console()
    out.print(facts(_budget_facts(reply)))
    if reply.holdings:
        out.print()
        out.print(_holdings(reply))


def _budget_facts(reply: admin_pb2.Budget) -> list[tuple[str, str]]:
    start, end = instant(reply.window_start_unix_ms), instant(reply.window_end_unix_ms)
    silent = {
        lease.device_id
        for lease in reply.holdings
        if _is_silent(lease) and lease.window_id == reply.window_id
    }
    lent = usd(reply.outstanding_nanos)
    if reply.unreported_nanos:
        lent += f", {usd(reply.unreported_nanos)} of it to {len(silent)} silent devices"
    enforced = usd(reply.enforced_nanos)
    if reply.settled_nanos + reply.unconfirmed_nanos > reply.target_nanos:
        enforced += "; more than the target is spent"
    elif reply.enforced_nanos > reply.target_nanos:
        enforced += "; falls to the target as leases come back"
    marks = ", ".join(f"{percent} %" for percent in reply.passed_percents)
    pairs = [
        ("budget", reply.name),
        ("window", f"{start} to {end}"),
        ("target", usd(reply.target_nanos)),
        ("enforced", enforced),
        ("settled", usd(reply.settled_nanos)),
        ("unconfirmed", usd(reply.unconfirmed_nanos)),
        ("lent to devices", lent),
        ("free", usd(reply.free_nanos)),
        ("marks passed", marks or NONE),
        ("spending", "paused" if reply.spend_paused else "allowed"),
        ("refused", _refusals(reply)),
    ]
    if reply.unspent_note:
        pairs.append(("NOT COVERED", f"counted as unspent: {reply.unspent_note}"))
    return pairs


def _refusals(reply: admin_pb2.Budget) -> str:
    if not reply.HasField("refusals"):
        return "nothing in this window"
    last = reply.refusals
    return (
        f"{last.count} leases, {last.exhausted} for want of free money; last to {last.device_id} "
        f"at {instant(last.at_unix_ms)}: {last.reason}"
    )


def _is_silent(lease: admin_pb2.LeaseHolding) -> bool:
    return bool(lease.outstanding_nanos) and not lease.connected


def _holdings(reply: admin_pb2.Budget) -> object:
    """Every lease that holds money; what its device says of it stands beside the books."""
    columns = ["DEVICE", "LEASE", "STATE", "AMOUNT", "BOOKED", "OUT", "UNCONFIRMED", "TOLD"]
    rows = [
        [
            lease.device_name,
            str(lease.lease_number),
            _state(lease, window_id=reply.window_id),
            usd(lease.amount_nanos),
            usd(lease.booked_nanos),
            usd(lease.outstanding_nanos),
            usd(lease.unconfirmed_nanos),
            _told(lease),
        ]
        for lease in reply.holdings
    ]
    return table(columns, rows, right=columns[3:7])


def _state(lease: admin_pb2.LeaseHolding, *, window_id: int) -> str:
    if lease.end != "open":
        state = lease.end.replace("_", " ")
    elif not lease.connected:
        state = f"silent {span(lease.silent_ms)}"
    else:
        state = "closing" if lease.closing else "open"
    return state if lease.window_id == window_id else f"{state}, earlier window"


def _told(lease: admin_pb2.LeaseHolding) -> str:
    if not lease.HasField("told"):
        return NONE
    told = lease.told
    return f"{usd(told.settled_nanos)} settled, {usd(told.reserved_nanos)} reserved"


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
