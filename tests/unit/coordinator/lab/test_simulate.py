"""The command `tidegate-lab simulate`."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from coordinator.lab.app import cli
from coordinator.lab.decision_log import read_log
from shared.errors import ConfigError
from tests.unit.coordinator.lab.simulation_cases import write_small


def test_check_prints_the_optimum_and_whether_it_can_judge(tmp_path: Path) -> None:
    """`--check` plays nothing and tells shares and prices."""
    result = CliRunner().invoke(
        cli, ["simulate", str(write_small(tmp_path)), "--check", "--format", "json"]
    )

    found = json.loads(result.stdout)
    assert 0 == result.exit_code
    assert found["admissible"]
    assert found["prices"]["budget"] > 0.0
    assert 1.0 == round(sum(found["arm_shares"].values()), 6)


def test_an_inadmissible_scenario_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Before any time is spent on it."""
    path = write_small(tmp_path, **{"arms_min = 2": "arms_min = 3"})

    result = CliRunner().invoke(cli, ["simulate", str(path)])

    assert isinstance(result.exception, ConfigError)
    assert "3 arms are wanted" in str(result.exception)


def test_a_run_prints_its_figures_and_writes_its_files(tmp_path: Path) -> None:
    """JSON on standard output; CSV, a picture and the decisions in the folder."""
    out = tmp_path / "out"

    options = ["--seeds", "2", "--warm-windows", "1", "--format", "json", "--out", str(out)]
    result = CliRunner().invoke(cli, ["simulate", str(write_small(tmp_path)), *options])

    found = json.loads(result.stdout)
    assert 0 == result.exit_code
    assert ["small", 2, 1] == [found[key] for key in ("scenario", "seeds", "warm_windows")]
    assert 0 == found["overrun_nanos_max"]
    assert [0, 1] == [run["seed"] for run in found["runs"]]
    names = {"decisions.jsonl", "runs.csv", "simulation.png", "slots.csv"}
    assert names == {path.name for path in out.iterdir()}
    assert found["runs"][0]["requests"] == len(read_log(out / "decisions.jsonl"))
