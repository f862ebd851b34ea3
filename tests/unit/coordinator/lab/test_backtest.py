"""Backtests of the forecasters on recorded traces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from coordinator.lab.app import cli
from coordinator.lab.backtest import Setup, backtest, candidates, chooser_ratio
from coordinator.lab.demand_trace import read_binned, read_counts
from coordinator.lab.forecast import SHIPPED_MODEL
from shared.errors import ConfigError

DATA = Path(__file__).parents[5] / "shared" / "data" / "azure_llm_2023"
SINGLE = {"ar", "last_value", "level", "mean_so_far", "smoothing"}


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


def test_counts_that_are_binned_already_are_taken_as_they_are(tmp_path: Path) -> None:
    """A row per slot, in order, the last one included."""
    trace = tmp_path / "counts.csv"
    trace.write_text("hour,requests\n1,4\n2,0\n3,7\n")
    assert [4.0, 0.0, 7.0] == read_binned(trace, column="requests").tolist()


def test_only_the_rows_asked_for_count(tmp_path: Path) -> None:
    """A file may hold several traces."""
    trace = tmp_path / "trace.csv"
    trace.write_text("trace,at_s\na,0\nb,0.5\na,1\na,1.5\na,2\n")
    assert [1.0, 2.0] == read_counts(
        trace, column="at_s", bin_ms=1000, where=("trace", "a")
    ).tolist()
    with pytest.raises(ConfigError, match="has no rows with trace=c"):
        read_counts(trace, column="at_s", bin_ms=1000, where=("trace", "c"))


def test_a_negative_count_is_refused_with_its_line(tmp_path: Path) -> None:
    """The message says which line and which value."""
    trace = tmp_path / "counts.csv"
    trace.write_text("n\n4\n-1\n")
    with pytest.raises(ConfigError, match=r"counts.csv:3: n is '-1', not a count"):
        read_binned(trace, column="n")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(ConfigError, match=r"missing.csv: cannot be read: No such file"):
        read_counts(tmp_path / "missing.csv", column="at_ms", bin_ms=1000)


def test_bins_too_small_for_the_trace_are_refused(tmp_path: Path) -> None:
    """A year in milliseconds would fill the memory."""
    trace = tmp_path / "trace.csv"
    trace.write_text("at_s\n0\n31536000\n")
    with pytest.raises(ConfigError, match="--bin: makes 31536000000 bins"):
        read_counts(trace, column="at_s", bin_ms=1)


def test_a_constant_series_is_forecast_without_error() -> None:
    """Every forecaster learns a constant."""
    results = backtest(np.full(40, 7.0), setup=Setup(prior=7.0, period=4))
    assert SINGLE | {"seasonal", "chooser"} == {result.forecaster for result in results}
    for result in results:
        assert result.wape == pytest.approx(0.0, abs=1e-6), result.forecaster
        assert result.coverage == 1.0, result.forecaster
        for error in result.total_error.values():
            assert error == pytest.approx(0.0, abs=1e-6), result.forecaster


def test_totals_are_forecast_before_slots_that_are_powers_of_two() -> None:
    """Before the first slot nothing but the prior is known: (4 x 10 - 80) / 80."""
    (result,) = backtest(np.full(10, 8.0), setup=Setup(prior=4.0), forecasters=["mean_so_far"])
    assert [1, 2, 4, 8] == list(result.total_error)
    assert 0.5 == result.total_error[1]
    assert pytest.approx(2.0 * 9 / 80) == result.total_error[2]


def test_settings_are_chosen_on_the_first_half_alone() -> None:
    """The second half, whatever it holds, changes nothing about them."""
    rng = np.random.default_rng(12)
    first = rng.poisson(20.0, 60).astype(np.float64)
    for second in (rng.poisson(20.0, 60).astype(np.float64), np.arange(60.0) * 50):
        chosen = backtest(np.concatenate([first, second]), forecasters=["smoothing"])
        assert (
            chosen[0].settings
            == backtest(np.concatenate([first, first]), forecasters=["smoothing"])[0].settings
        )


def test_the_chooser_works_with_its_members_settings() -> None:
    """So that what it is compared with is what it chooses from."""
    rng = np.random.default_rng(13)
    found = {r.forecaster: r for r in backtest(rng.poisson(9.0, 60).astype(np.float64))}
    assert {
        **found["ar"].settings,
        **found["smoothing"].settings,
    } == found["chooser"].settings


def test_progress_is_told_per_candidate() -> None:
    """As many as were announced."""
    told: list[int] = []
    backtest(np.full(12, 3.0), advance=told.append)
    assert candidates(Setup()) == len(told)


def test_too_short_a_series_is_refused() -> None:
    """One bin cannot be split in halves."""
    with pytest.raises(ConfigError, match="too few"):
        backtest(np.array([3.0]))


def test_the_command_prints_json_and_writes_its_files(tmp_path: Path) -> None:
    """Every forecaster, the trained model among them; CSV and PNG in the folder."""
    trace = tmp_path / "counts.csv"
    counts = np.random.default_rng(14).poisson(6.0, 40)
    trace.write_text("n\n" + "".join(f"{count}\n" for count in counts))
    arguments = ["forecast", str(trace), "--counts-column", "n", "--bin", "1m", "--period", "8m"]
    ran = CliRunner().invoke(cli, [*arguments, "--format", "json", "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert SINGLE | {"seasonal", "onnx", "chooser"} == set(found["forecasters"])
    assert (60.0, 40, 20) == (found["bin_s"], found["bins"], found["scored_bins"])
    assert ["1", "2", "4", "8", "16", "32"] == list(found["forecasters"]["chooser"]["total_error"])
    assert {"forecast.csv", "forecast_slots.csv", "forecast.png"} == {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_a_broken_model_ends_the_command_with_its_path(tmp_path: Path) -> None:
    """Missing, or no model at all."""
    trace = tmp_path / "counts.csv"
    trace.write_text("n\n1\n2\n3\n4\n")
    arguments = ["forecast", str(trace), "--counts-column", "n", "--model"]
    missing = CliRunner().invoke(cli, [*arguments, str(tmp_path / "none.onnx")])
    assert "none.onnx cannot be read" in str(missing.exception)
    broken = CliRunner().invoke(cli, [*arguments, str(trace)])
    assert isinstance(broken.exception, ConfigError)
    assert broken.exception.key == str(trace)
    assert SHIPPED_MODEL.exists()


@pytest.mark.skipif(not DATA.exists(), reason="the public traces are not beside the project")
def test_the_known_reference_points_are_met() -> None:
    """Azure conversations in 10 s bins: last value 0.176, mean so far 0.247, AR(1) 0.164.

    Those figures count the cut last bin, which makes them a little larger. The chooser is within
    4 % of the best.
    """
    counts = read_counts(
        DATA / "AzureLLMInferenceTrace_conv.csv.gz", column="TIMESTAMP", bin_ms=10_000
    )
    results = backtest(counts)
    found = {result.forecaster: result.wape for result in results}
    assert found["last_value"] == pytest.approx(0.176, abs=0.01)
    assert found["mean_so_far"] == pytest.approx(0.247, abs=0.01)
    assert chooser_ratio(results) <= 1.04
