"""`tidegate-lab`: offline questions about traces, before money is spent.

Each command lives in a module of its own; here they only get their names.
"""

from __future__ import annotations

from typing import ClassVar

import typer

from shared.console import HELP, run_command
from shared.on_demand import CommandsOnDemand
from shared.version import SOFTWARE_VERSION


class Commands(CommandsOnDemand):
    """Each of them loads more than the others need."""

    places: ClassVar = {
        "evaluate": "coordinator.lab.evaluate:command",
        "forecast": "coordinator.lab.forecast:command",
        "plan": "coordinator.lab.tradeoff:command",
        "replay": "coordinator.lab.replay:command",
        "reproduce": "coordinator.lab.reproduce:command",
        "simulate": "coordinator.lab.simulate:command",
        "train-classifier": "coordinator.lab.train_classifier:command",
    }


cli = typer.Typer(
    name="tidegate-lab",
    cls=Commands,
    help="Ask a trace before you spend money: nothing here needs a coordinator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


@cli.callback()
def lab() -> None:
    """Keeps `version` a command, though it is the only one that is there at once."""


@cli.command()
def version() -> None:
    """Print the software's version."""
    typer.echo(f"tidegate-lab {SOFTWARE_VERSION}")


def main() -> None:
    """The console script."""
    run_command(cli, name="tidegate-lab", extra="lab")


if __name__ == "__main__":
    main()
