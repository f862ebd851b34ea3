"""The bar of a long piece of work, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edge_agent.adapters.model_library import Progress
from edge_agent.cli.output import OutputFormat


class Silence(Progress):
    """Nobody looks."""

    def begin(self, what: str, *, done: int, total: int | None) -> None:
        """Nothing is shown."""

    def advance(self, done: int) -> None:
        """Nothing is shown."""


@contextmanager
def showing(output: OutputFormat) -> Iterator[Progress]:
    """A bar on a terminal; nothing elsewhere, and nothing beside JSON."""
    if output is OutputFormat.JSON or not sys.stderr.isatty():
        yield Silence()
        return
    from edge_agent.cli.bar import Bar  # noqa: PLC0415 - it says why

    with Bar() as bar:
        yield bar
