"""The paper's workloads, the closed loop on them, and the `reproduce` command."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from coordinator.lab.app import cli
from coordinator.lab.paper import CLAIRVOYANT, NULL_ARM, PaperRun, play
from coordinator.lab.paper_workload import (
    COST_UNIT_NANOS,
    DemandForecast,
    PaperScenario,
    draw_demand,
    draw_workload,
    forecast_demand,
    load_scenario,
)
from coordinator.lab.reproduce import reproduce, score, summarise
from shared.errors import ConfigError

KEYS = [
    "regret_share",
    "regret_share_ci95_high",
    "regret_share_worst",
    "regret_mean",
    "realised_regret_mean",
    "violation_mean",
    "overrun_max",
    "halted_at_mean",
]


@pytest.fixture
def iid() -> PaperScenario:
    """The i.i.d. workload over 300 slots."""
    return load_scenario("paper-iid").resized(300)


def same_run(one: PaperRun, other: PaperRun) -> bool:
    """Two runs agree in every field."""
    return all(
        np.array_equal(
            np.asarray(getattr(one, field.name)),
            np.asarray(getattr(other, field.name)),
            equal_nan=field.name == "demand_estimate",
        )
        for field in fields(PaperRun)
    )


def test_the_arms_are_the_papers_table_in_units_of_the_dearest_arm(iid: PaperScenario) -> None:
    """Costs per task over llama's $1.87 per thousand; hits of a lognormal below 180 s."""
    np.testing.assert_allclose(iid.list_cost, [0.4500, 1.0, 0.1123, 0.2099], atol=1e-4)
    np.testing.assert_allclose(iid.hit, [0.2587, 0.9611, 0.9993, 0.8863], atol=1e-4)


@pytest.mark.parametrize("name", ["paper-iid", "paper-ar1"])
def test_the_stated_means_are_those_of_the_draws(name: str) -> None:
    """Reward, hits and cost (clipped to one unit) within four standard errors; demand as said."""
    scenario = load_scenario(name)
    workload = draw_workload(scenario, seed=5)
    draws = workload.success.shape[0] * workload.success.shape[2]
    for found, stated in (
        (workload.success.mean(axis=(0, 2)), scenario.reward),
        (workload.hit.mean(axis=(0, 2)), scenario.hit),
        (workload.cost_nanos.mean(axis=(0, 2)) / COST_UNIT_NANOS, scenario.cost),
    ):
        np.testing.assert_allclose(found, stated, atol=4.0 * 0.5 / np.sqrt(draws))
    assert int(workload.cost_nanos.max()) <= COST_UNIT_NANOS
    mean = {"paper-iid": 2.0, "paper-ar1": 4.0}[name]
    assert float(workload.demand.mean()) == pytest.approx(mean, abs=0.1)
    assert int(workload.demand.max()) <= scenario.demand.max


def test_ar1_demand_remembers_the_slot_before() -> None:
    """Its autocorrelation at lag one is the stated memory, less what rounding adds."""
    demand = draw_demand(load_scenario("paper-ar1"), seed=1).astype(np.float64)
    lagged = float(np.corrcoef(demand[:-1], demand[1:])[0, 1])
    assert lagged == pytest.approx(0.5, abs=0.06)


def test_another_horizon_keeps_the_budget_per_slot() -> None:
    """2,500 slots have a quarter of the budget of 10,000."""
    assert load_scenario("paper-iid").resized(2_500).budget_units == 2_000.0


def test_seeds_forecast_together_are_forecast_as_each_alone(iid: PaperScenario) -> None:
    """No series learns from another, and nothing is known of the slots to come."""
    short = iid.resized(40)
    together = forecast_demand(short, seeds=[3, 4])
    alone = forecast_demand(short, seeds=[4])[0]
    for field in fields(DemandForecast):
        np.testing.assert_allclose(
            getattr(together[1], field.name), getattr(alone, field.name), rtol=1e-9
        )
    assert float(together[0].total[0]) == pytest.approx(float(together[1].total[0]))


@pytest.mark.parametrize("name", ["copac_ucb", "ad_ucb", "pd_bwk", "sw_ucb", "greedy", "uniform"])
def test_no_policy_spends_more_than_the_budget_and_each_halts_for_good(
    iid: PaperScenario, name: str
) -> None:
    """With a tenth of the budget every one of them runs out; what is left is less than a task."""
    poor = iid.model_copy(update={"budget_units": 24.0})
    run = play(name, scenario=poor, seed=0)
    assert run.overrun_nanos == 0
    assert run.halted_at < 300
    assert 0 <= 24 * COST_UNIT_NANOS - run.spent_nanos < COST_UNIT_NANOS
    assert set(run.arm[run.halted_at :]) == {NULL_ARM}
    assert int(run.served[run.halted_at :].sum()) == 0


def test_what_was_booked_is_what_was_drawn_for_the_arms_played(iid: PaperScenario) -> None:
    """Reward, hits and money follow from the arms and the paired draws alone."""
    workload = draw_workload(iid, seed=2)
    run = play("uniform", scenario=iid, seed=2)
    spent = 0
    for slot, (arm, served) in enumerate(zip(run.arm, run.served, strict=True)):
        assert run.reward[slot] == workload.success[slot, arm, :served].sum()
        assert run.hits[slot] == workload.hit[slot, arm, :served].sum()
        spent += int(workload.cost_nanos[slot, arm, :served].sum())
    assert spent == run.spent_nanos
    assert run.halted_at == 300 or spent > 0.99 * workload.budget_nanos


def test_the_clairvoyant_is_at_the_optimum_and_keeps_the_floor() -> None:
    """Within what whole slots and drawn arms cost; nobody else has the truth."""
    scenario = load_scenario("paper-ar1").resized(1_000)
    workload = draw_workload(scenario, seed=0)
    found = score(play(CLAIRVOYANT, scenario=scenario, seed=0), workload=workload, seed=0)
    assert abs(found.regret_share) < 0.003
    assert found.violation < 0.003
    assert found.demand_error[0] == 0.0


def test_lp_ucb_is_close_to_the_optimum_and_copac_ucb_is_not(iid: PaperScenario) -> None:
    """The difference that the experiment is about, on a tenth of its horizon."""
    tenth = iid.resized(1_000)
    scores = reproduce(tenth, policies=["lp_ucb", "copac_ucb"], seeds=2, first_seed=2)
    ours, papers = (summarise(scores[name]) for name in ("lp_ucb", "copac_ucb"))
    assert ours.regret_share < 0.03
    assert ours.violation_mean < 0.02
    assert papers.regret_share > 0.15
    assert max(ours.overrun_max, papers.overrun_max) == 0.0


def test_equal_seeds_give_equal_runs_and_unequal_ones_do_not(iid: PaperScenario) -> None:
    """Also after the caches of another seed."""
    iid = iid.resized(60)
    first = play("copac_ucb", scenario=iid, seed=1)
    other = play("copac_ucb", scenario=iid, seed=2)
    assert same_run(first, play("copac_ucb", scenario=iid, seed=1))
    assert not same_run(first, other)


def test_regret_counts_expected_reward_and_the_summary_its_spread(iid: PaperScenario) -> None:
    """A run of arm 0 alone loses demand times (optimum - 0.77); two runs give Student's bound."""
    workload = draw_workload(iid, seed=0)
    slots = workload.demand.size
    run = PaperRun(
        policy="by_hand",
        arm=np.zeros(slots, dtype=np.int64),
        served=workload.demand,
        reward=np.zeros(slots),
        hits=np.zeros(slots, dtype=np.int64),
        spent_nanos=0,
        overrun_nanos=2 * COST_UNIT_NANOS,
        halted_at=slots,
        demand_estimate=np.full(slots, np.nan),
    )
    found = score(run, workload=workload, seed=0)
    total = float(workload.demand.sum())
    assert found.regret == pytest.approx((workload.optimum_rate - 0.77) * total)
    assert found.realised_regret == pytest.approx(workload.optimum_rate * total)
    assert found.violation == pytest.approx(0.8)
    assert found.overrun == 2.0
    twice = summarise([replace(found, regret_share=0.1), replace(found, regret_share=0.3)])
    # The mean's standard error is 0.1, and Student's quantile for one degree of freedom 12.706.
    assert twice.regret_share_ci95_high == pytest.approx(0.2 + 12.706 * 0.1, abs=1e-3)
    assert twice.regret_share_worst == 0.3


def test_the_command_prints_the_agreed_json_and_writes_csv_and_png(tmp_path: Path) -> None:
    """The clairvoyant is added; nothing but JSON is on standard output."""
    result = CliRunner().invoke(
        cli,
        "reproduce paper-iid --seeds 2 --horizon 60 --policies greedy,uniform --policies pd_bwk "
        f"--seed 3 --format json --out {tmp_path / 'new'}".split(),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found) == ["scenario", "seeds", "policies"]
    assert (found["scenario"], found["seeds"]) == ("paper-iid", 2)
    assert list(found["policies"]) == [CLAIRVOYANT, "greedy", "uniform", "pd_bwk"]
    for summary in found["policies"].values():
        assert list(summary) == KEYS
        assert summary["overrun_max"] == 0.0
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [
        "paper-iid-curves.csv",
        "paper-iid-runs.csv",
        "paper-iid-summary.csv",
        "paper-iid.png",
    ]
    runs = (tmp_path / "new" / "paper-iid-runs.csv").read_text().splitlines()
    assert len(runs) == 1 + 4 * 2
    assert (tmp_path / "new" / "paper-iid.png").read_bytes().startswith(b"\x89PNG")


def test_the_number_of_processes_does_not_change_the_result(iid: PaperScenario) -> None:
    """Two processes give what one gives."""
    short = iid.resized(30)
    alone = reproduce(short, policies=["greedy"], seeds=2, jobs=1)
    both = reproduce(short, policies=["greedy"], seeds=2, jobs=2)
    for name, scores in alone.items():
        assert [one.regret for one in scores] == [one.regret for one in both[name]]


def test_an_unknown_policy_or_scenario_is_named_with_what_is_known(
    iid: PaperScenario, tmp_path: Path
) -> None:
    """One line, before any work."""
    with pytest.raises(ConfigError, match="'best' is not a policy; known are clairvoyant, ad_ucb"):
        reproduce(iid, policies=["best"], seeds=1)
    with pytest.raises(ConfigError, match="paper-x is neither paper-iid, paper-ar1 nor a file"):
        load_scenario("paper-x")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = 'x'\nslotz = 3\n")
    with pytest.raises(ConfigError, match=r"slotz: unknown key"):
        load_scenario(str(broken))
