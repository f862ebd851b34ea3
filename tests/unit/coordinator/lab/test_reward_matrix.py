"""Recorded rewards, prices in their several forms, and the best choices in hindsight."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from coordinator.lab.arm_prices import read_prices
from coordinator.lab.reward_matrix import best_in_hindsight, read_matrix
from shared.errors import ConfigError

COLUMNS = ("id", "source", "model", "score", "usd")
HEADER = "id,source,model,score,usd\n"
ROWS = """p1,math,a,0.5,0.000001
p1,math,b,1.0,0.0000035
p2,code,a,0.25,1e-6
p2,code,b,0.75,2e-6
p3,math,b,0.5,0.0000000015
p3,math,a,0.0,0
"""

MODELS = """{"models": [
{"model_id": "a", "input_cost_per_m": 0.1, "output_cost_per_m": 0.1},
{"model_id": "b", "input_cost_per_m": 0.5, "output_cost_per_m": 1.5}]}"""


def written(folder: Path, text: str, *, name: str = "rewards.csv") -> Path:
    """A file with this text."""
    path = folder / name
    path.write_text(text)
    return path


def test_a_gzipped_file_is_read_by_its_own_column_names(tmp_path: Path) -> None:
    """Rows in any order; prompts as they come, arms and classes by name."""
    path = tmp_path / "rewards.csv.gz"
    with gzip.open(path, "wt") as lines:
        lines.write(HEADER + ROWS)
    matrix = read_matrix(path, columns=COLUMNS)
    assert (("p1", "p2", "p3"), ("a", "b")) == (matrix.prompts, matrix.arms)
    assert ["math", "code", "math"] == [matrix.classes[index] for index in matrix.class_of]
    assert [[0.5, 1.0], [0.25, 0.75], [0.0, 0.5]] == matrix.reward.tolist()


def test_costs_are_whole_nano_dollars_rounded_up(tmp_path: Path) -> None:
    """A cost and a half nano-dollars counts as two."""
    matrix = read_matrix(written(tmp_path, HEADER + ROWS), columns=COLUMNS)
    assert [[1_000, 3_500], [1_000, 2_000], [0, 2]] == matrix.cost_nanos.tolist()


def test_small_classes_are_merged(tmp_path: Path) -> None:
    """A class below the minimum becomes part of `other`."""
    path = written(tmp_path, HEADER + ROWS)
    assert ("math", "other") == read_matrix(path, columns=COLUMNS, class_size_min=2).classes


def test_answers_up_to_the_deadline_are_in_time(tmp_path: Path) -> None:
    """The sixth column is the latency in ms."""
    path = written(tmp_path, "i,c,a,r,u,ms\n1,x,a,0.5,0,200\n1,x,b,0.5,0,201\n")
    matrix = read_matrix(path, columns=(*"icaru", "ms"), deadline_ms=200.0)
    assert matrix.hit is not None
    assert [[True, False]] == matrix.hit.tolist()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,source,model,score\n", "no column 'usd'; its columns are: id, source, model, score"),
        (HEADER, "has no rows"),
        (HEADER + "p,c,a,1.5,0\n", "score is '1.5', expected 0 to 1"),
        (HEADER + "p,c,a,nan,0\n", "score is 'nan', not a number"),
        (HEADER + "p,c,a,1,-1\n", "usd is '-1', expected dollars, 0 or more"),
        (HEADER + "p,c,a,1,free\n", "usd is 'free', expected dollars, 0 or more"),
        (HEADER + "p,c,a,1,0\np,c,a,1,0\n", "prompt p has a second row for arm a"),
        (HEADER + "p,c,a,1,0\np,d,b,1,0\n", "prompt p has several classes: ['c', 'd']"),
        (HEADER + "p,c,a,1,0\nq,c,b,1,0\n", "prompt p has no row for arm b"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    """The message names the file and what is wrong in it."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refusal:
        read_matrix(path, columns=COLUMNS)
    assert str(path) in str(refusal.value)
    assert problem in str(refusal.value)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    """A bit flipped in a compressed file, and a cell beyond what CSV readers take."""
    path = tmp_path / "rewards.csv.gz"
    damaged = bytearray(gzip.compress((HEADER + ROWS).encode()))
    damaged[30] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"rewards.csv.gz: cannot be read"):
        read_matrix(path, columns=COLUMNS)
    with pytest.raises(ConfigError, match="field larger than field limit"):
        read_matrix(written(tmp_path, HEADER + "p" * 200_000 + ",c,a,1,0\n"), columns=COLUMNS)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    """Spreadsheets write one."""
    matrix = read_matrix(written(tmp_path, "\ufeff" + HEADER + ROWS), columns=COLUMNS)
    assert ("a", "b") == matrix.arms


def test_a_column_has_one_meaning(tmp_path: Path) -> None:
    """A reward read as a cost as well is a slip of the pen."""
    with pytest.raises(ConfigError, match=r"--columns: .* names a column twice"):
        read_matrix(written(tmp_path, HEADER + ROWS), columns=(*COLUMNS[:4], "score"))


def test_a_deadline_needs_a_latency_column(tmp_path: Path) -> None:
    """Without a sixth name there is nothing to compare it with."""
    with pytest.raises(ConfigError, match="needs a sixth name in --columns"):
        read_matrix(written(tmp_path, HEADER + ROWS), columns=COLUMNS, deadline_ms=1.0)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prices.json", '{"a": 0.1, "b": 1.5}'),
        ("prices.toml", 'a = 0.1\n"b" = 1.5\n'),
        ("prices.csv", "arm,usd_per_mtok\na,0.1\nb,1.5\n"),
        ("models.json", MODELS),
    ],
)
def test_prices_come_in_several_forms(tmp_path: Path, name: str, text: str) -> None:
    """Exact nano-dollars per million tokens; of an input and an output price the higher one."""
    path = written(tmp_path, text, name=name)
    assert (100_000_000, 1_500_000_000) == read_prices(path, arms=("a", "b"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1}', "has no price for arm b"),
        ('{"a": 1, "b": -1}', "the price of b is"),
        ('{"a": 1, "b": "cheap"}', "the price of b is 'cheap'"),
        ('{"a": 1, "b": {"per_token": 1}}', "b has none of usd_per_mtok"),
        ('{"models": [{"a": 1}]}', "has an entry without any of arm"),
        ('[{"id": "a", "price": 1}, {"id": "a", "price": 2}]', "has two prices for a"),
        ("3", "neither a mapping"),
        ("{", "cannot be parsed"),
    ],
)
def test_prices_that_cannot_be_used_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    """The message names the file and the arm."""
    with pytest.raises(ConfigError, match=problem):
        read_prices(written(tmp_path, text, name="prices.json"), arms=("a", "b"))


def test_hindsight_gains_with_the_detail_it_may_decide_by(tmp_path: Path) -> None:
    """Four prompts and money for two calls of the paid arm: 3/8, 1/2 and 3/4, by hand.

    In class x each arm is right once; in class z only the paid arm is right, once.
    """
    rows = [("1", "x", 0.0, 1.0), ("2", "x", 1.0, 0.0), ("3", "z", 0.0, 1.0), ("4", "z", 0.0, 0.0)]
    text = "i,c,a,r,u\n" + "".join(
        f"{i},{c},free,{free},0\n{i},{c},paid,{paid},1\n" for i, c, free, paid in rows
    )
    matrix = read_matrix(written(tmp_path, text), columns=tuple("icaru"))
    best = best_in_hindsight(matrix, budget_nanos=2 * 10**9)
    # One mixture: half of the prompts on the paid arm: (1/4 + 2/4) / 2. By class: all of z.
    assert 0.375 == pytest.approx(best.mixture)
    assert 0.5 == pytest.approx(best.per_class)
    assert 0.75 == pytest.approx(best.per_prompt)
