"""Recorded answers streamed under a hard budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from coordinator.lab.app import cli
from coordinator.lab.arm_prices import read_prices
from coordinator.lab.replay import replay, summarise
from coordinator.lab.replay_purse import KNOWN_AFTER, WORST_PER_PRIOR, Purse
from coordinator.lab.replay_run import ReplaySettings, run_order
from coordinator.lab.reward_matrix import RewardMatrix, best_in_hindsight, read_matrix
from coordinator.policy import policy_names
from shared.decision.money import TOKENS_PER_MTOK
from shared.errors import ConfigError

DATA = Path(__file__).parents[5] / "shared" / "data" / "paretobandit_rewards"
MEANS_NANOS = np.array([20.0, 500.0, 10_000.0])
PRIORS = (25, 400, 8_000)


def made(prompts: int = 400, *, seed: int = 5, latencies: bool = False) -> RewardMatrix:
    """Two classes and three arms whose prices differ 500 times; cheap is good in the first class.

    With latencies only the cheap arm is always in time.
    """
    rng = np.random.default_rng(seed)
    class_of = rng.integers(0, 2, prompts)
    mean = np.array([[0.8, 0.85, 0.85], [0.3, 0.9, 0.95]])[class_of]
    hit = rng.random((prompts, 3)) < np.array([1.0, 0.3, 0.5])
    return RewardMatrix(
        prompts=tuple(f"p{n}" for n in range(prompts)),
        classes=("easy", "hard"),
        arms=("cheap", "dear", "middle"),
        class_of=class_of,
        reward=np.clip(mean + rng.normal(0.0, 0.1, mean.shape), 0.0, 1.0)[:, [0, 2, 1]],
        cost_nanos=rng.lognormal(np.log(MEANS_NANOS), 0.4, mean.shape).astype(np.int64)[
            :, [0, 2, 1]
        ],
        hit=hit[:, [0, 2, 1]] if latencies else None,
    )


def settings_of(matrix: RewardMatrix, *, nanos_per_prompt: int = 200) -> ReplaySettings:
    """The default policy and this budget."""
    return ReplaySettings(
        budget_nanos=nanos_per_prompt * len(matrix.prompts),
        prior_nanos=(PRIORS[0], PRIORS[2], PRIORS[1]),
    )


def test_before_it_is_known_an_arm_may_cost_many_times_its_prior() -> None:
    """The gate asks for the worst case beside the hold, to the nano-dollar."""
    worst, hold = WORST_PER_PRIOR * 400, Purse(10**9, prior_nanos=PRIORS).hold_nanos(100)
    short = Purse(hold + worst - 1, prior_nanos=PRIORS)
    enough = Purse(hold + worst, prior_nanos=PRIORS)
    assert 0 == short.limit_nanos(1, prompts_after=100)
    assert worst == enough.limit_nanos(1, prompts_after=100)


def test_the_worst_case_follows_what_was_paid_once_an_arm_is_known() -> None:
    """After enough payments it is twice the largest of them."""
    purse = Purse(10**9, prior_nanos=PRIORS)
    for cost in range(501, 501 + KNOWN_AFTER):
        purse.pay(1, cost_nanos=cost, limit_nanos=10**6)
    assert 2 * (500 + KNOWN_AFTER) == purse.worst_case_nanos(1)


def test_what_is_held_approaches_the_cheapest_arms_true_cost() -> None:
    """A prior four times too high is unlearned; equal payments leave the prior's doubt alone."""
    purse = Purse(10**9, prior_nanos=(40, 400))
    before = purse.hold_nanos(1_000)
    for _ in range(5_000):
        purse.pay(0, cost_nanos=10, limit_nanos=100)
    held = purse.hold_nanos(1_000)
    assert before >= 40_000
    assert 10_000 <= held <= 11_000
    assert 0 == purse.hold_nanos(0)


def test_a_call_is_cut_where_its_limit_ends() -> None:
    """The purse pays the limit, never the cost beyond it."""
    purse = Purse(100, prior_nanos=PRIORS)
    assert 100 == purse.pay(0, cost_nanos=101, limit_nanos=100)
    assert 0 == purse.left_nanos


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(0, 10**6),
    calls=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10**6)), max_size=40),
)
def test_no_cost_whatever_takes_the_purse_below_zero(
    budget: int, calls: list[tuple[int, int]]
) -> None:
    """For any costs, payments add up to at most the budget and the limit is there to pay."""
    purse = Purse(budget, prior_nanos=PRIORS)
    paid = 0
    for number, (arm, cost) in enumerate(calls):
        limit = purse.limit_nanos(arm, prompts_after=len(calls) - number - 1)
        assert 0 <= limit <= purse.left_nanos
        if limit:
            paid += purse.pay(arm, cost_nanos=cost, limit_nanos=limit)
    assert budget - paid == purse.left_nanos
    assert purse.left_nanos >= 0


@pytest.mark.parametrize("policy", policy_names())
@pytest.mark.parametrize("nanos_per_prompt", [40, 2_000])
def test_every_policy_answers_every_prompt_within_the_budget(
    policy: str, nanos_per_prompt: int
) -> None:
    """The hold and the gate stand whatever a policy wants."""
    matrix = made(80)
    asked = replace(settings_of(matrix, nanos_per_prompt=nanos_per_prompt), policy=policy)
    found = run_order(matrix, settings=asked, order=0, seed=1)
    assert (80, 0) == (found.answered, found.cut)
    assert found.spent_nanos <= asked.budget_nanos
    paid = matrix.cost_nanos[np.arange(80), found.arms]
    assert int(paid.sum()) == found.spent_nanos


def test_only_the_played_cells_are_read() -> None:
    """Other rewards and costs of arms that were not played change nothing."""
    matrix = made(200)
    asked = settings_of(matrix)
    found = run_order(matrix, settings=asked, order=3, seed=1)
    unplayed = np.arange(3) != found.arms[:, None]
    other = replace(
        matrix,
        reward=np.where(unplayed, 1.0 - matrix.reward, matrix.reward),
        cost_nanos=np.where(unplayed, 7 * matrix.cost_nanos + 3, matrix.cost_nanos),
    )
    again = run_order(other, settings=asked, order=3, seed=1)
    assert found.arms.tolist() == again.arms.tolist()
    assert (found.reward_mean, found.spent_nanos) == (again.reward_mean, again.spent_nanos)


def test_the_money_goes_where_it_earns_most() -> None:
    """The middle arm serves the class in which the cheap one fails; close to the best per class."""
    matrix = made(1_500)
    asked = settings_of(matrix, nanos_per_prompt=230)
    found = run_order(matrix, settings=asked, order=0, seed=1)
    best = best_in_hindsight(matrix, budget_nanos=asked.budget_nanos)
    middle = found.chosen[:, 2] / found.chosen.sum(axis=1)
    assert middle[1] > 3 * middle[0]
    assert best.mixture < found.reward_mean
    assert found.reward_mean > best.per_class - 0.04


def test_money_that_not_even_the_cheapest_arm_can_live_on_is_spent_and_no_more() -> None:
    """With half of what is needed about half of the prompts are answered, and one call is cut."""
    matrix = made(200)
    asked = settings_of(matrix, nanos_per_prompt=10)
    found = run_order(matrix, settings=asked, order=0, seed=1)
    assert asked.budget_nanos == found.spent_nanos
    assert 60 <= found.answered <= 140


def test_a_floor_on_answers_in_time_is_heeded() -> None:
    """With a latency column the share in time follows the floor."""
    matrix = made(800, latencies=True)
    asked = settings_of(matrix, nanos_per_prompt=400)
    free = run_order(matrix, settings=replace(asked, sla_floor=0.0), order=0, seed=1)
    bound = run_order(matrix, settings=replace(asked, sla_floor=0.75), order=0, seed=1)
    assert free.hits < 0.7 * 800
    assert bound.hits > 0.72 * 800


def test_the_summary_is_of_all_orders_and_of_the_worst() -> None:
    """Means over orders, the worst order's reward and spend, in dollars."""
    matrix = made(100)
    asked = settings_of(matrix, nanos_per_prompt=1_000)
    results = replay(matrix, settings=asked, orders=2, seed=1)
    best = best_in_hindsight(matrix, budget_nanos=asked.budget_nanos)
    report = summarise(results, matrix=matrix, settings=asked, best=best)
    rewards = [result.reward_mean for result in results]
    assert results[0].arms.tolist() != results[1].arms.tolist()
    assert (min(rewards), 1.0, None) == (
        report["reward_worst_order"],
        report["answered_share"],
        report["sla_share"],
    )
    assert sum(rewards) / 2 == pytest.approx(report["reward_mean"])
    assert max(r.spent_nanos for r in results) / 1e9 == report["spent_usd_max"]


def written(folder: Path) -> list[str]:
    """A small file of rewards and one of prices, as arguments of the command."""
    matrix = made(60)
    lines = ["prompt_id,task_class,arm,reward,cost_usd"]
    for row, prompt in enumerate(matrix.prompts):
        for column, arm in enumerate(matrix.arms):
            name = matrix.classes[int(matrix.class_of[row])]
            cost = f"{matrix.cost_nanos[row, column]}e-9"
            lines.append(f"{prompt},{name},{arm},{matrix.reward[row, column]},{cost}")
    (folder / "rewards.csv").write_text("\n".join(lines) + "\n")
    (folder / "prices.json").write_text('{"cheap": 0.00006, "middle": 0.001, "dear": 0.02}')
    return [
        "replay",
        str(folder / "rewards.csv"),
        *("--prices", str(folder / "prices.json"), "--class-size-min", "1"),
    ]


def test_the_command_prints_json_and_writes_files(tmp_path: Path) -> None:
    """The figures, and nothing else, on standard output; tables and a picture in the folder."""
    arguments = [*written(tmp_path), "--budget-per-prompt", "0.0000002", "--orders", "2"]
    arguments += ["--format", "json", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    report = json.loads(result.stdout)
    assert 0 == result.exit_code
    assert 60 * 2e-7 == pytest.approx(report["budget_usd"])
    assert report["spent_usd_max"] <= report["budget_usd"]
    assert report["best_mixture"] <= report["best_per_class"] <= report["best_per_prompt"]
    assert ["choices.csv", "curves.csv", "orders.csv", "replay.png"] == sorted(
        path.name for path in (tmp_path / "out").iterdir()
    )
    assert 3 == len((tmp_path / "out" / "orders.csv").read_text().splitlines())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--budget-per-prompt", "nothing"], "--budget-per-prompt: is 'nothing'"),
        (["--budget-per-prompt", "0"], "--budget-per-prompt: is '0'"),
        (["--budget-per-prompt", "1", "--policy", "best"], "--policy: is 'best', expected one of"),
        (["--budget-per-prompt", "1", "--sla-floor", "0.5"], "needs --deadline-ms"),
        (["--budget-per-prompt", "1", "--columns", "a,b"], "a,b names 2, expected 5 or 6"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    tmp_path: Path, options: list[str], problem: str
) -> None:
    """One line that names the option and the remedy."""
    with pytest.raises(ConfigError) as refusal:
        CliRunner().invoke(cli, [*written(tmp_path), *options], catch_exceptions=False)
    assert problem in str(refusal.value)


@pytest.mark.skipif(not DATA.exists(), reason="needs the public reward matrix")
def test_recorded_cloud_answers_are_chosen_better_than_by_any_fixed_mixture() -> None:
    """One order at $0.0002 a prompt: 1.5 points above the best mixture in hindsight."""
    matrix = read_matrix(
        DATA / "rewards_long.csv.gz",
        columns=("prompt_id", "source", "model", "reward", "cost_usd"),
        class_size_min=60,
    )
    prices = read_prices(DATA / "models_k4.json", arms=matrix.arms)
    asked = ReplaySettings(
        budget_nanos=200_000 * len(matrix.prompts),
        prior_nanos=tuple(-(-price * 400 // TOKENS_PER_MTOK) for price in prices),
    )
    found = run_order(matrix, settings=asked, order=0, seed=0)
    assert (3_559, 14) == (found.answered, len(matrix.classes))
    assert found.spent_nanos <= asked.budget_nanos
    assert found.reward_mean > 0.840 + 0.015
