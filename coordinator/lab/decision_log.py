"""Reading and writing decision logs: JSON lines, gzipped or not, a decision each.

The keys are those of `shared.decision.logged.LoggedDecision`; `tidectl decision export` and the
simulator write the same.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from shared.decision.logged import LoggedDecision
from shared.errors import ConfigError

__all__ = ["LoggedDecision", "iterate_log", "read_log", "write_log"]


def iterate_log(path: Path) -> Iterator[LoggedDecision]:
    """The decisions of a log, one by one.

    Parameters
    ----------
    path : Path
        Its lines are JSON objects; empty lines are passed over. Gzipped if it ends in `.gz`.

    Raises
    ------
    ConfigError
        Naming the file, the line and the key at fault.
    """
    number = 0
    try:
        with _opened(path, mode="rt") as lines:
            for line in lines:
                number += 1  # also needed when a line cannot be read
                if line.strip():
                    yield LoggedDecision.from_line(line)
    except ValueError as error:
        # A file that is no text fails while a line is being read, before it has a number.
        what = "is no text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"{path}:{max(1, number)}", what) from error
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(str(path), f"cannot be read: {why}") from error


def read_log(path: Path) -> list[LoggedDecision]:
    """All decisions of a log.

    Raises
    ------
    ConfigError
        As `iterate_log`, and when there is none.
    """
    decisions = list(iterate_log(path))
    if not decisions:
        raise ConfigError(str(path), "holds no decision; a line each is expected")
    return decisions


def write_log(path: Path, *, decisions: Iterable[LoggedDecision]) -> int:
    """Write a log, gzipped if its name ends in `.gz`; returns how many decisions it holds.

    Raises
    ------
    ConfigError
        When the file cannot be written.
    """
    count = 0
    try:
        with _opened(path, mode="wt") as out:
            for decision in decisions:
                out.write(decision.to_line() + "\n")
                count += 1
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}") from error
    return count


def _opened(path: Path, *, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, mode, encoding="utf-8"))
    return path.open(mode.rstrip("t"), encoding="utf-8")
