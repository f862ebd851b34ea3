"""What every lab command shares: its common options, how it prints, writes and parallelises."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from shared.errors import ConfigError, TidegateError

BUDGET_USD_MAX: Final = 1e9
RHO_MAX: Final = 1e6
"""Ends of options that are money or a price; infinity, which numbers accept, is beyond them."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How results are printed.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the CSV and PNG files; made if missing.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="First seed of every random draw.")]
JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Processes to spread the work on.")]


def show(payload: object, *, format_: Format, table: Table) -> None:
    """Print the result on standard output, as JSON or as a table; nothing else goes there."""
    if format_ is Format.JSON:
        typer.echo(json.dumps(payload, indent=2, allow_nan=False))
        return
    Console().print(table)


def make_table(title: str, *, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table: the first column is text, the others are right-aligned figures."""
    table = Table(title=title)
    for index, heading in enumerate(columns):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def percent(share: float, *, digits: int = 2) -> str:
    """A share as a percentage, for tables."""
    return f"{100.0 * share:.{digits}f} %"


def make_folder(path: Path | None) -> Path | None:
    """Make the folder of ``--out``, before hours of work are spent on what goes into it.

    Raises
    ------
    ConfigError
        When it cannot be made.
    """
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", f"{path} cannot be made: {error.strerror}") from error
    return path


def write_csv(path: Path, *, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write one CSV file with a header.

    Raises
    ------
    ConfigError
        When it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    try:
        path.write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise ConfigError("--out", f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def progress(description: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error; the yielded function advances it.

    Without a terminal nothing is drawn until the end, so that logs stay short.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(description, total=total)

        def advance(steps: int) -> None:
            bar.advance(task, steps)

        yield advance


def run_jobs(
    work: Callable[[Task], Result],
    *,
    tasks: Sequence[Task],
    jobs: int,
    description: str,
) -> list[Result]:
    """Do independent pieces of work, several at once; the result does not depend on how many.

    Parameters
    ----------
    work : callable
        A module-level function of one task (it travels to other processes by name). It must take
        all its randomness from the task.
    tasks : sequence
        Put the longest first when they differ much.
    jobs : int
        Processes; 1 works in this one.
    description : str
        Beside the progress bar.

    Returns
    -------
    list
        One result per task, in the tasks' order.

    Raises
    ------
    TidegateError
        The first error that a task raised on purpose.
    """
    with progress(description, total=len(tasks)) as advance:
        if jobs == 1 or len(tasks) < 2:
            done = []
            for task in tasks:
                done.append(work(task))
                advance(1)
            return done
        # A fresh interpreter per process: a fork would inherit the libraries' threads and locks.
        fresh = multiprocessing.get_context("spawn")
        before = set(multiprocessing.active_children())
        with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=fresh) as pool:
            found: dict[int, Any] = {}
            try:
                with _interrupts_blocked():
                    waiting = {
                        pool.submit(_guarded, work, task): at for at, task in enumerate(tasks)
                    }
                for future in as_completed(waiting):
                    result, problem = future.result()
                    if problem is not None:
                        raise TidegateError(problem)
                    found[waiting[future]] = result
                    advance(1)
            except BaseException:
                # They do not hear of Ctrl-C themselves, and their work may take minutes.
                for process in set(multiprocessing.active_children()) - before:
                    process.terminate()
                raise
        return [found[at] for at in range(len(tasks))]


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started here inherit that Ctrl-C is not for them: this one ends them instead."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _guarded(work: Callable[[Task], Result], task: Task) -> tuple[Result | None, str | None]:
    """Foreseen errors travel as text: with arguments of their own they could not be unpickled."""
    try:
        return work(task), None
    except TidegateError as error:
        return None, str(error)
