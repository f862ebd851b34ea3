"""Options that no command may take, whatever it would do with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.lab.app import cli
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["evaluate", "log.jsonl", "--budget-usd", "inf"], "--budget-usd"),
        (["evaluate", "log.jsonl", "--rho", "inf"], "--rho"),
        (["plan", "log.jsonl", "--budget-usd", "inf"], "--budget-usd"),
        (["plan", "log.jsonl", "--rho", "nan"], "--rho"),
        (["forecast", "trace.csv", "--prior", "inf"], "--prior"),
        (["forecast", "trace.csv", "--bin", "0s"], "--bin"),
    ],
)
def test_a_number_without_a_meaning_is_a_wrong_use(arguments: list[str], option: str) -> None:
    """Before any file is read; the message names the option."""
    result = CliRunner().invoke(cli, arguments)
    assert 2 == result.exit_code
    assert option in result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["plan", "{log}", "--budgets", "1e300"], "--budgets: '1e300' is not 0 to 1e"),
        (["simulate", "binding-budget", "--policy", "magic"], "--policy: is 'magic', expected one"),
    ],
)
def test_an_unusable_choice_is_named(arguments: list[str], problem: str, tmp_path: Path) -> None:
    """Also one that is seen only after the file has been read."""
    log = tmp_path / "m.csv"
    log.write_text("prompt_id,task_class,arm,reward,cost_usd\np,c,a,1,0\n")
    result = CliRunner().invoke(cli, [text.format(log=log) for text in arguments])
    assert isinstance(result.exception, ConfigError)
    assert problem in str(result.exception)


def test_counts_that_no_forecast_can_carry_are_refused(tmp_path: Path) -> None:
    """Their sums and squares would be infinite."""
    trace = tmp_path / "counts.csv"
    trace.write_text("n\n1e308\n1e308\n1e308\n")
    result = CliRunner().invoke(cli, ["forecast", str(trace), "--counts-column", "n"])
    assert "counts.csv:2: n is '1e308', not a count" in str(result.exception)
