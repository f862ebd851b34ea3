"""`tidegate-lab`: offline questions about traces, before money is spent.

Each command lives in a module of its own; here they only get their names.
"""

from __future__ import annotations

import sys

import typer

from coordinator.lab import (
    evaluate,
    forecast,
    replay,
    reproduce,
    simulate,
    tradeoff,
    train_classifier,
)
from shared.errors import TidegateError
from shared.version import SOFTWARE_VERSION

cli = typer.Typer(
    name="tidegate-lab",
    help="Ask a trace before you spend money: nothing here needs a coordinator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
cli.command("evaluate")(evaluate.command)
cli.command("forecast")(forecast.command)
cli.command("plan")(tradeoff.command)
cli.command("replay")(replay.command)
cli.command("reproduce")(reproduce.command)
cli.command("simulate")(simulate.command)
cli.command("train-classifier")(train_classifier.command)


@cli.command()
def version() -> None:
    """Print the software's version."""
    typer.echo(f"tidegate-lab {SOFTWARE_VERSION}")


def main() -> None:
    """The console script: errors that were foreseen become one line and exit code 1."""
    try:
        cli()
    except TidegateError as error:
        typer.echo(f"tidegate-lab: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
