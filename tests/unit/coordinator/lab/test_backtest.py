"""Backtests of the forecasters on recorded traces."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from coordinator.lab.backtest import backtest, read_counts
from shared.errors import ConfigError

DATA = Path(__file__).parents[5] / "shared" / "data" / "azure_llm_2023"


def test_rows_are_counted_per_bin_and_the_cut_last_bin_is_left_out(tmp_path: Path) -> None:
    """Five arrivals in bins 0, 0, 1, 3 and 4 of a second give [2, 1, 0, 1]."""
    trace = tmp_path / "trace.csv"
    trace.write_text("at_ms,tokens\n100,1\n900,1\n1200,1\n3500,1\n4200,1\n")
    assert [2.0, 1.0, 0.0, 1.0] == read_counts(trace, column="at_ms", bin_ms=1000).tolist()


def test_gzipped_iso_timestamps_are_read(tmp_path: Path) -> None:
    """Timestamps with seven digits after the point, as Azure writes them."""
    trace = tmp_path / "trace.csv.gz"
    with gzip.open(trace, "wt") as lines:
        lines.write("TIMESTAMP\n2023-11-16 18:17:03.9799600\n2023-11-16 18:17:14.0\n")
    assert [1.0] == read_counts(trace, column="TIMESTAMP", bin_ms=10_000).tolist()


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a\n1\n", "has no column 'at_ms'; its columns are: a"), ("at_ms\nx\n", "not a timestamp")],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    """The message says which file and which column or value."""
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_counts(trace, column="at_ms", bin_ms=1000)


def test_a_constant_series_is_forecast_without_error() -> None:
    """Every forecaster learns a constant."""
    for result in backtest(np.full(40, 7.0)):
        assert result.wape == pytest.approx(0.0, abs=1e-6), result.forecaster
        assert result.total_error == pytest.approx(0.0, abs=1e-6), result.forecaster


def test_too_short_a_series_is_refused() -> None:
    """One bin cannot be split in halves."""
    with pytest.raises(ConfigError, match="too few"):
        backtest(np.array([3.0]))


@pytest.mark.skipif(not DATA.exists(), reason="the public traces are not beside the project")
def test_the_known_reference_points_are_met() -> None:
    """Azure conversations in 10 s bins: last value 0.176 and mean so far 0.247.

    Those figures count the cut last bin, which makes them a little larger.
    """
    counts = read_counts(
        DATA / "AzureLLMInferenceTrace_conv.csv.gz", column="TIMESTAMP", bin_ms=10_000
    )
    found = {result.forecaster: result.wape for result in backtest(counts)}
    assert found["last_value"] == pytest.approx(0.176, abs=0.01)
    assert found["mean_so_far"] == pytest.approx(0.247, abs=0.01)
