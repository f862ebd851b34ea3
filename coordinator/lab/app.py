"""`tidegate-lab`: offline questions about traces, before money is spent.

Each command lives in a module of its own; here they only get their names.
"""

from __future__ import annotations

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
from shared.console import HELP, run_command
from shared.version import SOFTWARE_VERSION

cli = typer.Typer(
    name="tidegate-lab",
    help="Ask a trace before you spend money: nothing here needs a coordinator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
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
    """The console script."""
    run_command(cli, name="tidegate-lab")


if __name__ == "__main__":
    main()
