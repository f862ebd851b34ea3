"""Backtests of the forecasters on a recorded demand trace."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from coordinator.forecast import make_forecaster
from coordinator.policy.base import FloatArray
from shared.errors import ConfigError

FORECASTERS: Final = ("mean_so_far", "last_value", "ar1", "chooser")
FRACTION_DIGITS: Final = 6


@dataclass(frozen=True)
class Backtest:
    """How a forecaster did on the second half of a series.

    Attributes
    ----------
    wape : float
        Weighted absolute percentage error, one slot ahead: sum |forecast - count| / sum count.
    total_error : float
        |Qhat - Q| / Q of the whole series' total, predicted at its middle.
    """

    forecaster: str
    wape: float
    total_error: float


def read_counts(path: Path, *, column: str, bin_ms: int) -> FloatArray:
    """Arrivals per bin from a CSV file, gzipped or not.

    Parameters
    ----------
    column : str
        Holds a timestamp a row: ISO 8601 or, if its name ends in `_ms`, milliseconds.
    bin_ms : int
        Length of a bin.

    Returns
    -------
    ndarray, shape (bins,)
        The last bin, which the trace may have cut, is left out.

    Raises
    ------
    ConfigError
        Naming the file and the column or value at fault.
    """
    times = np.fromiter(_times(path, column=column), dtype=np.float64)
    if times.size == 0:
        raise ConfigError(str(path), "has no rows")
    bins = ((times - times.min()) // bin_ms).astype(np.int64)
    return np.bincount(bins)[:-1].astype(np.float64)


def backtest(counts: FloatArray, *, forecasters: Iterable[str] = FORECASTERS) -> list[Backtest]:
    """Run forecasters over a series of counts, shape (bins,); the second half is scored."""
    half = counts.size // 2
    if half < 1 or counts[half:].sum() == 0:
        raise ConfigError("bin", f"{counts.size} bins are too few, or their second half is empty")
    results = []
    for name in forecasters:
        forecaster = make_forecaster(name, prior=np.array([counts[0]]))
        missed, total = 0.0, 0.0
        for slot, count in enumerate(counts):
            if slot == half:
                total = float(
                    counts[:half].sum() + forecaster.remaining(counts.size - half).mean[0]
                )
            if slot >= half:
                missed += abs(float(forecaster.remaining(1).mean[0]) - count)
            forecaster.update(slot, counts=np.array([count]))
        results.append(
            Backtest(
                forecaster=name,
                wape=missed / float(counts[half:].sum()),
                total_error=abs(total - float(counts.sum())) / float(counts.sum()),
            )
        )
    return results


def _times(path: Path, *, column: str) -> Iterator[float]:
    """Milliseconds of each row."""
    with _opened(path) as lines:
        rows = csv.DictReader(lines)
        if column not in (rows.fieldnames or ()):
            have = ", ".join(rows.fieldnames or ()) or "none"
            raise ConfigError(str(path), f"has no column {column!r}; its columns are: {have}")
        for row in rows:
            text = row[column]
            try:
                yield float(text) if column.endswith("_ms") else _iso_ms(text)
            except ValueError:
                raise ConfigError(
                    f"{path}:{rows.line_num}", f"{column} is {text!r}, not a timestamp"
                ) from None


def _iso_ms(text: str) -> float:
    """Milliseconds of an ISO time; digits finer than a microsecond are dropped."""
    whole, _, fraction = text.partition(".")
    time = datetime.fromisoformat(f"{whole}.{fraction[:FRACTION_DIGITS].ljust(6, '0')}")
    return time.replace(tzinfo=time.tzinfo or UTC).timestamp() * 1000


def _opened(path: Path) -> io.TextIOBase:
    try:
        if path.suffix == ".gz":
            return io.TextIOWrapper(gzip.open(path), encoding="utf-8", newline="")
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
