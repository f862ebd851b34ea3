"""`tidegate-lab train-classifier`: from a CSV file to a model that a device can use."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from coordinator.lab.app import cli
from shared.errors import ConfigError
from shared.task_model import load_task_model
from tests.fakes.task_models import labelled


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Labelled rows under columns of their owner's naming."""
    path = tmp_path / "mine.csv"
    rows = labelled()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "kind", "talk"])
        writer.writerows(
            (text, label, at // 5)
            for at, (text, label) in enumerate(zip(rows.texts, rows.labels, strict=True))
        )
    return path


def run(table: Path, *more: str) -> Result:
    """Run the command on the table."""
    columns = ["--text-column", "prompt", "--label-column", "kind"]
    return CliRunner().invoke(cli, ["train-classifier", str(table), *columns, *more])


def report(table: Path, *more: str) -> Any:
    """The command's report."""
    result = run(table, "--format", "json", *more)
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


def test_a_model_is_trained_judged_and_written(table: Path, tmp_path: Path) -> None:
    """The file works, and the report speaks of rows that it has not learned from."""
    out = tmp_path / "mine.onnx"
    found = report(table, "--out", str(out))
    assert (72, 18) == (found["rows_learned"], found["holdout"]["rows"])
    assert found["holdout"]["accuracy"] >= 0.9
    assert len(out.read_bytes()) == found["bytes"]
    model = load_task_model(out.read_bytes(), source=str(out))
    assert tuple(found["classes"]) == model.classes == ("code", "math", "trips")
    taken = model.probabilities("please write a unit test").argmax()
    assert "code" == model.classes[taken]


def test_the_tables_tell_what_an_operator_needs_to_choose(table: Path, tmp_path: Path) -> None:
    """Precision, recall, confusions, thresholds, and where the file is."""
    result = run(table, "--out", str(tmp_path / "m.onnx"))
    assert 0 == result.exit_code, result.output
    for text in ("precision", "recall", "taken for", "threshold", "accuracy", "temperature"):
        assert text in result.output


def test_groups_make_the_judgement_harder(table: Path, tmp_path: Path) -> None:
    """Rows of one conversation are not on both sides."""
    out = str(tmp_path / "m.onnx")
    easy = report(table, "--out", out)["holdout"]
    hard = report(table, "--out", out, "--group-column", "talk")["holdout"]
    assert hard["accuracy"] < easy["accuracy"]


def test_without_a_holdout_every_row_is_learned_from(table: Path, tmp_path: Path) -> None:
    """Then there is nothing to report."""
    found = report(table, "--out", str(tmp_path / "m.onnx"), "--holdout", "0")
    assert (90, None) == (found["rows_learned"], found["holdout"])


def test_the_same_seed_writes_the_same_file(table: Path, tmp_path: Path) -> None:
    """And another one another."""
    files = [tmp_path / f"{at}.onnx" for at in range(3)]
    for file, seed in zip(files, ("5", "5", "6"), strict=True):
        report(table, "--out", str(file), "--seed", seed)
    first, second, third = (file.read_bytes() for file in files)
    assert first == second != third


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--out", "{folder}"], "--out"),
        (["--out", "{folder}/not/there.onnx"], "name a file in a folder that exists"),
        (["--out", "{folder}/m.onnx", "--text-column", "txt"], "has no column 'txt'"),
        (["--out", "{folder}/m.onnx", "--group-column", "chat"], "has no column 'chat'"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(
    table: Path, tmp_path: Path, options: list[str], problem: str
) -> None:
    """And no file is left behind."""
    result = run(table, *(text.format(folder=tmp_path) for text in options))
    assert isinstance(result.exception, ConfigError)
    assert problem in str(result.exception)
    assert [table] == list(tmp_path.iterdir())


@pytest.mark.parametrize("holdout", ["0.6", "-0.1", "nan"])
def test_a_holdout_out_of_range_is_a_wrong_use(table: Path, tmp_path: Path, holdout: str) -> None:
    """More than half held out would judge a model that has hardly learned."""
    result = run(table, "--out", str(tmp_path / "m.onnx"), "--holdout", holdout)
    assert 2 == result.exit_code
