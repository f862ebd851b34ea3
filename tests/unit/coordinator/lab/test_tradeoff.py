"""`tidegate-lab plan`: the curve by hand, its marks, its sources, its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from coordinator.lab import tradeoff as lab_tradeoff
from coordinator.lab.decision_log import write_log
from coordinator.lab.tradeoff import _mark, _marks, parse_budgets
from coordinator.lab.tradeoff_curve import (
    PlanInputs,
    knee_usd,
    point_at,
    sla_minimum_nanos,
    tradeoff,
)
from shared.errors import ConfigError
from tests.bench.evaluating import make_world, simulate_log
from tests.fakes.samples import fleet_toml

# One context, three arms: free and poor, cheap and good, dear and slightly better.
INPUTS = PlanInputs(
    contexts=("pi/other",),
    arms=("dear", "free", "cheap"),
    demand=np.array([100.0]),
    reward=np.array([[0.9, 0.3, 0.8]]),
    cost_nanos=np.array([[1e7, 0.0, 2e6]]),
    hit=np.array([[0.9, 0.5, 0.9]]),
    feasible=np.ones((1, 3), dtype=np.bool_),
    sla_floor=0.0,
    rho=1.0,
    budget_nanos=1e8,
    source="by hand",
)
app = typer.Typer()
app.command()(lab_tradeoff.command)


def _run(*args: str) -> dict[str, Any]:
    """One run as JSON; foreseen errors are raised."""
    result = CliRunner().invoke(app, [*args, "--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_each_segment_has_the_price_of_its_swap() -> None:
    """First free requests become cheap ones (0.5 for $0.002), then cheap ones dear."""
    curve = tradeoff(INPUTS, budgets_usd=(0.0, 0.1, 0.3, 2.0))
    assert [p.reward_mean for p in curve.points] == pytest.approx([0.3, 0.55, 0.8125, 0.9])
    assert [p.spend_usd for p in curve.points] == pytest.approx([0.0, 0.1, 0.3, 1.0])
    prices = [p.reward_per_dollar for p in curve.points]
    assert prices[1:] == pytest.approx([0.5 / 0.002, 0.1 / 0.008, 0.0])
    assert [p.cloud_share for p in curve.points] == pytest.approx([0.0, 0.5, 1.0, 1.0])


def test_the_knee_is_where_the_cheap_arm_has_everything() -> None:
    """From there on a dollar earns less than the average one: $0.002 for each of 100."""
    curve = tradeoff(INPUTS)
    assert curve.unconstrained_usd == pytest.approx(1.0)
    assert curve.knee_usd == pytest.approx(0.2, rel=1e-6)
    assert curve.present_usd == pytest.approx(0.1)


def test_without_paid_arms_the_knee_is_at_zero() -> None:
    """There is nothing to buy."""
    free = replace(INPUTS, feasible=np.array([[False, True, False]]))
    assert (0.0, 0.0) == (knee_usd(free, most_usd=0.0), tradeoff(free).unconstrained_usd)


def test_the_least_spend_that_meets_the_floor() -> None:
    """0.7 in time needs half of the requests on the cheap arm."""
    floor = replace(INPUTS, sla_floor=0.7)
    least = sla_minimum_nanos(floor)
    assert least is not None
    assert least == pytest.approx(50 * 2e6, rel=1e-4)
    assert point_at(floor, budget_nanos=least * 1.001).sla_met
    assert not point_at(floor, budget_nanos=least * 0.9).sla_met


def test_a_floor_beyond_every_arm_has_no_minimum() -> None:
    """Nothing reaches 95 % here; the curve says so and still stands."""
    curve = tradeoff(replace(INPUTS, sla_floor=0.95))
    assert curve.sla_minimum_usd is None
    assert not any(point.sla_met for point in curve.points)


def test_a_floor_that_can_be_met_and_is_not_worth_it_is_told_apart() -> None:
    """What it needs is one thing, what the optimum does another; a missed floor is marked."""
    quick_and_poor = replace(
        INPUTS,
        reward=np.array([[0.9, 0.8, 0.1]]),
        cost_nanos=np.array([[1e7, 0.0, 0.0]]),
        hit=np.array([[0.9, 0.5, 1.0]]),
        sla_floor=0.8,
        rho=0.1,
    )
    curve = tradeoff(quick_and_poor)
    assert 0.0 == curve.sla_minimum_usd
    assert not curve.points[0].sla_met
    assert "SLA can be met" in _mark(curve.points[0], curve=curve, floor=0.8)
    words = _marks(curve, inputs=quick_and_poor)
    assert "the SLA floor needs at least $0" in words
    assert words[-1].startswith("!: the floor is missed")


def test_the_curve_is_concave_and_its_slope_is_the_dual_price() -> None:
    """Random fleets: the value rises, its price falls, and predicts the next step."""
    rng = np.random.default_rng(7)
    for _ in range(10):
        shape = (4, 5)
        inputs = replace(
            INPUTS,
            contexts=("a", "b", "c", "d"),
            arms=tuple("vwxyz"),
            demand=rng.uniform(10.0, 100.0, 4),
            reward=rng.uniform(0.2, 0.9, shape),
            cost_nanos=np.where(np.arange(5) < 2, 0.0, rng.uniform(1e5, 1e7, shape)),
            hit=rng.uniform(0.5, 1.0, shape),
            feasible=np.ones(shape, dtype=np.bool_),
            sla_floor=0.0,
        )
        points = tradeoff(inputs).points
        value = np.array([p.reward_mean * inputs.requests for p in points])
        budget = np.array([p.budget_usd for p in points])
        price = np.array([p.reward_per_dollar for p in points])
        assert (np.diff(price) <= 1e-6 * price[0]).all()
        slope = np.diff(value) / np.diff(budget)
        assert (slope <= price[:-1] + 1e-6 * price[0]).all()
        assert (slope >= price[1:] - 1e-6 * price[0]).all()


def test_no_demand_and_no_arm_are_errors() -> None:
    """There is nothing to plan."""
    with pytest.raises(ConfigError, match="by hand: has no demand"):
        replace(INPUTS, demand=np.zeros(1))
    with pytest.raises(ConfigError, match="no arm"):
        replace(INPUTS, feasible=np.zeros((1, 3), dtype=np.bool_))


def test_a_decision_log_is_a_source(tmp_path: Path) -> None:
    """Its present budget is what it spent; files are written."""
    log = simulate_log(make_world(2), seed=2, slots=20)
    path, out = tmp_path / "log.jsonl", tmp_path / "out"
    write_log(path, decisions=log)
    report = _run(str(path), "--sla-floor", "0.6", "--out", str(out))
    assert report["present_usd"] == pytest.approx(sum(d.cost_nanos for d in log) / 1e9)
    assert report["requests"] == len(log)
    rewards = [point["reward_mean"] for point in report["points"]]
    assert rewards == sorted(rewards)
    assert sorted(each.name for each in out.iterdir()) == ["tradeoff.csv", "tradeoff.png"]


def test_a_reward_matrix_is_a_source(tmp_path: Path) -> None:
    """Means per class and arm; budgets may be listed."""
    path = tmp_path / "rewards.csv"
    rows = ["id,kind,model,score,usd"]
    for prompt in range(10):
        rows += [f"{prompt},a,big,0.9,0.01", f"{prompt},a,small,0.5,0.001"]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    report = _run(
        str(path), "--columns", "id,kind,model,score,usd", "--class-size-min", "1",
        "--budgets", "0.01,0.055,0.1",
    )  # fmt: skip
    rewards = [point["reward_mean"] for point in report["points"]]
    assert rewards == pytest.approx([0.5, 0.7, 0.9])


def test_a_fleet_file_with_demand_is_a_source(tmp_path: Path) -> None:
    """Before the first request: priors, the configured budget and the stated demand."""
    fleet, demand = tmp_path / "fleet.toml", tmp_path / "demand.csv"
    fleet.write_text(fleet_toml(usd="0.05"), encoding="utf-8")
    demand.write_text(
        "device_class,task_class,requests\nedge,other,40\nedge,other,2\n", encoding="utf-8"
    )
    report = _run(str(fleet), "--demand", str(demand))
    assert (report["present_usd"], report["requests"]) == (pytest.approx(0.05), 42.0)
    demand.write_text("device_class,task_class,requests\nmoon,other,40\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"demand\.csv:2: the fleet has no task class"):
        _run(str(fleet), "--demand", str(demand))
    demand.write_text("device_class,requests\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no column 'task_class'"):
        _run(str(fleet), "--demand", str(demand))


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ([], "name either a trace or a running coordinator"),
        (["x.jsonl", "--from", "127.0.0.1:1"], "name either"),
        (["x.parquet"], "is none of .jsonl"),
        (["absent.jsonl"], "absent.jsonl: cannot be read"),
        (["absent.toml"], "--demand: is needed"),
        (["absent.toml", "--demand", "d.csv"], "absent.toml: cannot be read"),
        (["x.jsonl", "--demand", "d.csv"], "goes with a fleet file"),
        (["x.csv", "--sla-floor", "0.5"], "needs --deadline-ms"),
    ],
)
def test_wrong_calls_say_what_would_be_right(args: list[str], problem: str) -> None:
    """One line each."""
    with pytest.raises(ConfigError) as error:
        _run(*args)
    assert problem in str(error.value)


def test_budgets_are_dollars() -> None:
    """Anything else is named."""
    assert (0.0, 1.5, 2.0) == parse_budgets("0, 1.5,2")
    assert parse_budgets("") == ()
    for text in ("1,many", "-1", "inf", "1,,2"):
        with pytest.raises(ConfigError, match="--budgets"):
            parse_budgets(text)
