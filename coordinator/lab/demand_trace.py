"""Recorded demand: arrivals with timestamps, or counts per slot, from a CSV file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from coordinator.lab.csv_rows import read_columns
from coordinator.policy.base import FloatArray
from shared.errors import ConfigError

BINS_MAX: Final = 1_000_000
COUNT_MAX: Final = 1e12

_FRACTION_DIGITS: Final = 6
_UNITS_MS: Final = {"_ms": 1.0, "_s": 1_000.0}
"""Endings of a column's name that make its numbers times."""


def read_counts(
    path: Path, *, column: str, bin_ms: int, where: tuple[str, str] | None = None
) -> FloatArray:
    """Arrivals per bin from a CSV file, gzipped or not.

    Parameters
    ----------
    column : str
        Holds a timestamp a row: ISO 8601 or, if its name ends in `_ms` or `_s`, a number of
        milliseconds or seconds. Rows may be in any order.
    bin_ms : int
        Length of a bin.
    where : (column, value), optional
        Only rows with this value count.

    Returns
    -------
    ndarray, shape (bins,)
        From the first arrival on; the last bin, which the trace may have cut, is left out.

    Raises
    ------
    ConfigError
        Naming the file and the column or value at fault.
    """
    rows = _rows(path, column=column, where=where)
    times = np.fromiter((_time_ms(*row, column=column) for row in rows), dtype=np.float64)
    if times.size == 0:
        raise ConfigError(str(path), "has no rows" + (f" with {'='.join(where)}" if where else ""))
    bins = (times - times.min()) // bin_ms
    if bins.max() >= BINS_MAX:
        raise ConfigError("--bin", f"makes {bins.max():.0f} bins of {path}; {BINS_MAX} at most")
    return np.bincount(bins.astype(np.int64))[:-1].astype(np.float64)


def read_binned(path: Path, *, column: str, where: tuple[str, str] | None = None) -> FloatArray:
    """Counts that are binned already: a row per slot, in order; see `read_counts`.

    Raises
    ------
    ConfigError
        Naming the file and the column or value at fault.
    """
    rows = _rows(path, column=column, where=where)
    counts = np.fromiter((_count(*row, column=column) for row in rows), dtype=np.float64)
    if counts.size == 0:
        raise ConfigError(str(path), "has no rows" + (f" with {'='.join(where)}" if where else ""))
    return counts


def _rows(path: Path, *, column: str, where: tuple[str, str] | None) -> Iterator[tuple[str, str]]:
    """Each row's place, as "file:line", and its text in the column."""
    columns = [column] if where is None else [column, where[0]]
    for place, (text, *value) in read_columns(path, columns=columns):
        if where is None or value == [where[1]]:
            yield place, text


def _time_ms(place: str, text: str, *, column: str) -> float:
    unit = next((size for end, size in _UNITS_MS.items() if column.endswith(end)), None)
    try:
        time_ms = _iso_ms(text) if unit is None else float(text) * unit
    except ValueError:
        time_ms = math.nan
    if not math.isfinite(time_ms):
        raise ConfigError(place, f"{column} is {text!r}, not a timestamp")
    return time_ms


def _count(place: str, text: str, *, column: str) -> float:
    try:
        count = float(text)
    except ValueError:
        count = math.nan
    if not 0.0 <= count <= COUNT_MAX:
        raise ConfigError(place, f"{column} is {text!r}, not a count of 0 to {COUNT_MAX:.0e}")
    return count


def _iso_ms(text: str) -> float:
    """Milliseconds of an ISO time; digits finer than a microsecond are dropped."""
    head, point, tail = text.partition(".")
    if point:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        fraction = tail[:digits][:_FRACTION_DIGITS].ljust(_FRACTION_DIGITS, "0")
        text = f"{head}.{fraction}{tail[digits:]}"
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1_000.0
