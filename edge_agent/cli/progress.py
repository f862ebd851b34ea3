"""The bar of a long piece of work, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as RichProgress,
)

from edge_agent.adapters.model_library import Progress
from edge_agent.cli.output import OutputFormat


class Silence(Progress):
    """Nobody looks."""

    def begin(self, what: str, *, done: int, total: int | None) -> None:
        """Nothing is shown."""

    def advance(self, done: int) -> None:
        """Nothing is shown."""


class Bar(Progress):
    """A bar with amount, speed and time left; each step has its own."""

    def __init__(self) -> None:
        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._rich.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rich.stop()

    def begin(self, what: str, *, done: int, total: int | None) -> None:
        if self._task is not None:
            self._rich.remove_task(self._task)
        self._task = self._rich.add_task(what, completed=done, total=total)

    def advance(self, done: int) -> None:
        if self._task is not None:
            self._rich.advance(self._task, done)


@contextmanager
def showing(output: OutputFormat) -> Iterator[Progress]:
    """A bar on a terminal; nothing elsewhere, and nothing beside JSON."""
    if output is OutputFormat.JSON or not sys.stderr.isatty():
        yield Silence()
        return
    with Bar() as bar:
        yield bar
