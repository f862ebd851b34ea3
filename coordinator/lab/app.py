"""`tidegate-lab`: offline questions about traces, before money is spent."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from coordinator.lab.backtest import backtest, read_counts
from shared.errors import TidegateError
from shared.units import duration_ms
from shared.version import SOFTWARE_VERSION

cli = typer.Typer(
    name="tidegate-lab",
    help="Ask a trace before you spend money: nothing here needs a coordinator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@cli.command()
def forecast(
    trace: Annotated[Path, typer.Argument(help="CSV file, gzipped or not, a row per request.")],
    bin_: Annotated[str, typer.Option("--bin", help="Slot length, such as 10s.")] = "10s",
    column: Annotated[str, typer.Option(help="The column with the timestamps.")] = "TIMESTAMP",
    format_: Annotated[Format, typer.Option("--format")] = Format.TABLE,
) -> None:
    """Backtest every forecaster on a recorded trace; its second half is scored."""
    try:
        bin_ms = duration_ms(bin_)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bin") from None
    counts = read_counts(trace, column=column, bin_ms=bin_ms)
    results = backtest(counts)
    if format_ is Format.JSON:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
        return
    table = Table(title=f"{counts.size} slots of {bin_}, {counts.mean():.1f} requests each")
    for heading in ("forecaster", "WAPE, one slot ahead", "error of the total at half time"):
        table.add_column(heading, justify="left" if heading == "forecaster" else "right")
    for result in results:
        table.add_row(result.forecaster, f"{result.wape:.3f}", f"{result.total_error:.3f}")
    Console().print(table)


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
