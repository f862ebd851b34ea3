"""The commands of `tidectl` and its global options."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from coordinator.cli import (
    alarm,
    arm,
    audit,
    decisions,
    device,
    fleet,
    ledger,
    money,
    spend,
    tables,
    token,
)
from coordinator.cli.session import OutputFormat, Session

EXIT_CODES = """
Exit codes:

- 0: done
- 1: the coordinator refused, the operator did not agree, or `ledger verify` found differences
- 2: wrong usage
- 3: `diff` found differences
- 4: the coordinator cannot be reached
- 5: not authorised
"""

GLOBAL_OPTIONS: Final = frozenset(
    {"--address", "--token-file", "--ca-file", "--format", "--timeout"}
)

app = typer.Typer(
    name="tidectl",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Administer a Tidegate fleet through its coordinator.\n{EXIT_CODES}",
)
forecast = typer.Typer(no_args_is_help=True, help="Read the demand forecast.")

app.command()(fleet.status)
app.command()(fleet.version)
app.command()(fleet.diff)
app.command()(fleet.apply)
app.command()(spend.export)
app.command("pause-spend")(money.pause_spend)
app.command("resume-spend")(money.resume_spend)
app.add_typer(device.app, name="device")
app.add_typer(arm.app, name="arm")
app.add_typer(money.budget, name="budget")
app.add_typer(ledger.app, name="ledger")
app.add_typer(alarm.app, name="alarm")
app.add_typer(audit.app, name="audit")
app.add_typer(tables.app, name="table")
app.add_typer(forecast, name="forecast")
forecast.command("show")(fleet.forecast_show)
app.add_typer(decisions.decisions, name="decision")
app.add_typer(token.app, name="token")


@app.callback()
def options(
    ctx: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="TIDEGATE_ADDRESS", help="host:port of the coordinator.")
    ] = "127.0.0.1:7481",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the admin token; else TIDEGATE_ADMIN_TOKEN holds it."),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TIDEGATE_CA_FILE",
            help="PEM file of the authority that signed the coordinator's certificate.",
        ),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="How results are written.")
    ] = OutputFormat.TABLE,
    timeout: Annotated[str, typer.Option(help="How long one call may take.")] = "10s",
) -> None:
    """Keep the global options for the command that follows."""
    ctx.obj = Session(
        address=address,
        token=os.environ.get("TIDEGATE_ADMIN_TOKEN", ""),
        token_file=token_file,
        ca_file=ca_file,
        format=output,
        timeout=timeout,
    )


def hoisted(args: Sequence[str]) -> list[str]:
    """The arguments with global options moved to the front, where Typer looks for them.

    So `tidectl status --format json` means the same as `tidectl --format json status`. What
    follows `--` stays where it is.
    """
    front: list[str] = []
    rest: list[str] = []
    left = iter(args)
    for arg in left:
        if arg == "--":
            rest += [arg, *left]
        elif arg in GLOBAL_OPTIONS:
            front += [arg, *itertools.islice(left, 1)]
        elif arg.partition("=")[0] in GLOBAL_OPTIONS:
            front.append(arg)
        else:
            rest.append(arg)
    return front + rest


def main() -> None:
    """Run `tidectl`."""
    app(args=hoisted(sys.argv[1:]), prog_name="tidectl")
