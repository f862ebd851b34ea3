"""Named columns of a CSV file, gzipped or not: the lab's traces and matrices."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.errors import ConfigError


def read_columns(path: Path, *, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Read the wanted columns row by row; a byte order mark is passed over.

    Parameters
    ----------
    path : Path
        Gzipped if it ends in ``.gz``.
    columns : sequence of str
        The file's own names.

    Yields
    ------
    (str, list of str)
        The row's place, as "file:line", and its texts in the order of `columns`; what a short
        row lacks is empty.

    Raises
    ------
    ConfigError
        When the file cannot be read, or has no such column.
    """
    try:
        with _opened(path) as lines:
            rows = csv.DictReader(lines)
            have = rows.fieldnames or ()
            for name in columns:
                if name not in have:
                    known = ", ".join(have) or "none"
                    raise ConfigError(
                        str(path), f"has no column {name!r}; its columns are: {known}"
                    )
            for row in rows:
                yield f"{path}:{rows.line_num}", [row[name] or "" for name in columns]
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "is not UTF-8 text; name a CSV file or a .csv.gz") from error
    except (OSError, EOFError, csv.Error, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(str(path), f"cannot be read: {why}") from error


def _opened(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
