"""How commands write what they found: tables for the eye, JSON with stable keys for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

NONE = "-"


class OutputFormat(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"


Format = Annotated[OutputFormat, typer.Option("--format", help="How results are written.")]


def console() -> Console:
    """Standard output; as wide as it is, so that a pipe gets whole lines."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def show_json(data: Any) -> None:
    """Print plain data."""
    typer.echo(json.dumps(data, indent=2))


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> Table:
    """A table without lines; what is in it is text, never markup."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def is_interactive() -> bool:
    """Whether somebody sits at standard input."""
    return sys.stdin.isatty()
