"""`tidegate-lab evaluate`: coverage of its intervals, missing grades, overlap, errors, outputs."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from coordinator.lab import evaluate as lab_evaluate
from coordinator.lab.decision_log import read_log, write_log
from coordinator.lab.evaluation import evaluate
from coordinator.lab.log_arrays import arrays_of, clusters_of, folds_of, grading_of
from coordinator.lab.target_policy import Question, Target, estimates_of, planned_target
from shared.decision.logged import LoggedDecision
from shared.decision.money import PPM
from shared.decision.types import RequestStatus
from shared.errors import ConfigError
from tests.bench.evaluating import (
    ARMS,
    CONTEXTS,
    coverage,
    evaluated,
    fixed_target,
    make_world,
    simulate_log,
)

WORLD = make_world(11)
LOG = simulate_log(WORLD, seed=11)
app = typer.Typer()
app.command()(lab_evaluate.command)


def _run(*args: str) -> dict[str, Any]:
    """One run as JSON; foreseen errors are raised."""
    result = CliRunner().invoke(app, [*args, "--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated log as a file."""
    path = tmp_path_factory.mktemp("log") / "log.jsonl.gz"
    assert len(LOG) == write_log(path, decisions=LOG)
    return path


def test_intervals_hold_the_truth_on_simulated_logs() -> None:
    """Over 30 logs, 3 targets and 3 measures, at least 90 % per estimator and per target.

    Grades are sampled, slots share shocks, arms fail and fall out, and one target gives nine of
    ten requests to an arm that the logger draws in 3 %. `python -m tests.bench` runs 200 logs.
    """
    grouped: dict[str, list[float]] = defaultdict(list)
    for (kind, _, estimator), held in coverage(range(30), per_slot=25.0).items():
        grouped[kind].append(held)
        grouped[estimator].append(held)
    assert dict.fromkeys(grouped, True) == {
        name: float(np.mean(held)) >= 0.9 for name, held in grouped.items()
    }


def test_ignoring_propensities_would_miss_the_truth() -> None:
    """The mean of what was logged is outside of the far target's interval."""
    log = arrays_of(LOG)
    found, target, shares = evaluated(log, kind="far", seed=11)
    truth = WORLD.mean_of("reward_mean", target, fold_shares=shares)
    assert found.reward_mean.dr.low <= truth <= found.reward_mean.dr.high
    assert found.reward_mean.logged.high < truth


def test_the_logged_policy_evaluates_to_what_was_logged() -> None:
    """With fully graded answers, no target but the logger's mean: weights of 1, difference 0."""
    decisions = [
        replace(d, candidates={d.drawn_arm: 1}, propensity_ppm=PPM, reward=0.25, grading_ppm=PPM)
        for d in LOG[:500]
    ]
    log = arrays_of(decisions)
    ones = np.ones((1, len(log.contexts), len(log.arms)))
    fold = folds_of(np.arange(500), folds=2, rng=np.random.default_rng(0))
    found = evaluate(log, target=Target(weights=ones, expected_reward=ones), fold=fold)
    assert found.overlap == pytest.approx(1.0)
    assert found.reward_mean.ips.value == pytest.approx(0.25)
    assert found.spend_usd.ips.value == pytest.approx(sum(d.cost_nanos for d in decisions) / 1e9)
    assert found.spend_usd.difference.value == pytest.approx(0.0, abs=1e-12)


def test_no_overlap_is_an_error_and_no_number() -> None:
    """Less than 1 % of shared choices."""
    rare = [
        replace(d, candidates={"a": 5_000, "b": 995_000}, drawn_arm="b", propensity_ppm=995_000)
        for d in LOG[:300]
    ]
    log = arrays_of(rare)
    weights = np.zeros((1, len(log.contexts), 2))
    weights[:, :, 0] = 1.0
    fold = folds_of(np.arange(300), folds=2, rng=np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"0\.5 % of its choices"):
        evaluate(log, target=Target(weights=weights, expected_reward=weights), fold=fold)


def test_draws_that_decide_but_did_not_happen_are_told() -> None:
    """Half of the target's choices are an arm that had 2 % and was never drawn."""
    decisions = [
        replace(
            _plain(at, arm="poor", reward=float(at % 2)),
            candidates={"good": 20_000, "poor": 980_000},
            propensity_ppm=980_000,
        )
        for at in range(100)
    ]
    even = np.full((1, 1, 2), 0.5)
    fold = folds_of(np.arange(100), folds=2, rng=np.random.default_rng(0))
    log = arrays_of(decisions)
    found = evaluate(log, target=Target(weights=even, expected_reward=even), fold=fold)
    assert any("add up to 51 %" in warning for warning in found.warnings)
    assert found.reward_mean.dr.high - found.reward_mean.dr.low > 0.3


def test_grades_that_did_not_come_are_made_good_per_context_and_arm() -> None:
    """If one arm's users grade three times as often, the mean over both stays right."""
    rng = np.random.default_rng(1)
    decisions = []
    for at in range(4_000):
        arm = "good" if rng.random() < 0.5 else "poor"
        graded = rng.random() < (0.9 if arm == "good" else 0.3)
        mean = 0.9 if arm == "good" else 0.1
        decisions.append(_plain(at, arm=arm, reward=float(rng.random() < mean) if graded else None))
    log = arrays_of(decisions)
    grading = grading_of(log)
    assert grading.missing == pytest.approx(0.4, abs=0.03)
    even = np.full((1, 1, 2), 0.5)
    fold = folds_of(np.arange(4_000), folds=5, rng=rng)
    found = evaluate(log, target=Target(weights=even, expected_reward=even), fold=fold)
    for estimate in (found.reward_mean.dr, found.reward_mean.snips, found.reward_mean.ips):
        assert estimate.low < 0.5 < estimate.high
    known = [d.reward for d in decisions if d.reward is not None]
    assert np.mean(known) > found.reward_mean.dr.high
    assert any("missing at random" in warning for warning in found.warnings)


def test_sampled_grades_are_not_taken_for_missing() -> None:
    """What the logged probabilities explain is chance."""
    assert grading_of(arrays_of(LOG)).missing == 0.0


def test_refused_requests_earn_nothing_and_aborted_ones_do_not_count() -> None:
    """The SLA's denominator is every admitted request."""
    decisions = [
        _plain(0, arm="good", reward=1.0),
        replace(_plain(1, arm="poor", reward=None), status=RequestStatus.REFUSED, hit=False),
        replace(_plain(2, arm="poor", reward=None), status=RequestStatus.ABORTED, hit=False),
    ]
    log = arrays_of(decisions)
    even = np.full((1, 1, 2), 0.5)
    found = evaluate(
        log, target=Target(weights=even, expected_reward=even), fold=np.array([0, 1, 1])
    )
    assert found.admitted == 2
    assert found.reward_mean.ips.value == pytest.approx(0.5)
    assert found.sla_share.ips.value == pytest.approx(0.5)


def test_a_plan_does_not_know_the_requests_it_is_evaluated_on() -> None:
    """Other rewards in a fold leave that fold's plan as it was."""
    log = arrays_of(LOG)
    fold = folds_of(log.slot, folds=3, rng=np.random.default_rng(0))
    question = Question(budget_nanos=1e8, sla_floor=0.0, rho=1.0)
    changed = replace(log, reward=np.where(fold == 1, 1.0 - log.reward, log.reward))
    before, after = (
        planned_target(each, policy="greedy", question=question, fold=fold, seed=0).expected_reward
        for each in (log, changed)
    )
    assert before[1] == pytest.approx(after[1])
    assert np.abs(before[0] - after[0]).max() > 0.01


def test_planning_meets_its_budget_though_candidates_fall_out() -> None:
    """The expected spend of the plan's draws, failures included, is at most the budget."""
    log = arrays_of(LOG)
    fold = folds_of(log.slot, folds=3, rng=np.random.default_rng(0))
    budget_nanos = 1e5 * log.requests
    question = Question(budget_nanos=budget_nanos, sla_floor=0.0, rho=1.0)
    target = planned_target(log, policy="lp_ucb", question=question, fold=fold, seed=0)
    true = WORLD.mean_of("spend_usd", target, fold_shares=np.bincount(fold) / fold.size)
    assert 0.6 * budget_nanos < true * log.requests < 1.1 * budget_nanos


def test_free_arms_are_free_though_a_paid_one_stood_in_for_them() -> None:
    """As in production, where every attempt is booked to its own arm."""
    log = arrays_of(LOG)
    assert [name.startswith("local") for name in ARMS] == log.free.tolist()
    estimates = estimates_of(log, use=np.ones(log.requests, dtype=np.bool_))
    assert estimates.free[:, log.free].all()
    assert not estimates.free[:, ~log.free].any()


def test_few_slots_do_not_serve_as_clusters() -> None:
    """Below twenty each request stands for itself, unless slots are asked for."""
    log = arrays_of([d for d in LOG if d.slot < 10])
    assert np.unique(clusters_of(log, by="auto")).size == log.requests
    assert np.unique(clusters_of(log, by="slot")).size == 10


def test_the_command_reports_every_measure_with_its_interval(
    log_file: Path, tmp_path: Path
) -> None:
    """JSON, CSV and picture; equal seeds give equal results."""
    report = _run(str(log_file), "--policy", "uniform", "--out", str(tmp_path))
    assert report == _run(str(log_file), "--policy", "uniform")
    for name in ("reward_mean", "spend_usd", "sla_share"):
        for estimator in ("dr", "snips", "ips", "logged", "difference"):
            found = report[name][estimator]
            assert found["ci95_low"] <= found["value"] <= found["ci95_high"]
    assert report["clusters"] == {"by": "slot", "count": 60}
    assert 0.5 < report["overlap"] < 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evaluation.csv",
        "evaluation.png",
        "policy.csv",
    ]


def test_more_money_earns_more(log_file: Path) -> None:
    """The question the command is for."""
    poor = _run(str(log_file), "--budget-usd", "0.2")
    rich = _run(str(log_file), "--budget-usd", "0.9")
    assert rich["reward_mean"]["dr"]["value"] > poor["reward_mean"]["dr"]["value"] + 0.03
    assert rich["spend_usd"]["dr"]["value"] > poor["spend_usd"]["dr"]["value"] + 0.2


def test_another_deadline_changes_what_counts_as_in_time(log_file: Path) -> None:
    """Answers take 0.5 or 5 seconds in this log."""
    for deadline, share in (("100", 0.0), ("10000", 1.0)):
        report = _run(str(log_file), "--policy", "uniform", "--deadline-ms", deadline)
        assert report["sla_share"]["logged"]["value"] == pytest.approx(share)


def test_a_saved_table_is_a_policy(log_file: Path, tmp_path: Path) -> None:
    """The form that `tidectl table show --format json` prints, one for each device class."""
    tables = [
        {
            "device_class": device,
            "rows": [
                {
                    "task_class": "other",
                    "arms": [{"arm": arm, "weight_ppm": PPM // len(ARMS)} for arm in ARMS],
                }
            ],
        }
        for device in sorted({device for device, _ in CONTEXTS})
    ]
    path = tmp_path / "tables.json"
    path.write_text(json.dumps(tables), encoding="utf-8")
    saved = _run(str(log_file), "--policy", str(path))
    fold_free = ("reward_mean", "spend_usd", "sla_share", "overlap")
    uniform = _run(str(log_file), "--policy", "uniform")
    assert [saved[name] for name in fold_free] == [uniform[name] for name in fold_free]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no decision"),
        ("{}\n", ":1: has no 'request_id'"),
        ("[1]\n", ":1: is no JSON object"),
        ("{\n", ":1: is no JSON"),
        (LOG[0].to_line() + "\n\n" + '{"colour":1}\n', ":3: has the unknown key 'colour'"),
        (LOG[0].to_line().replace('"ok"', '"fine"'), "status is 'fine'"),
        (LOG[0].to_line().replace('"hit":', '"hit":1,"hot":'), "unknown key 'hot'"),
        (LOG[0].to_line().replace('"slot":0', '"slot":"a"'), "slot is 'a', expected an integer"),
    ],
)
def test_a_bad_log_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    """One line that says where and what."""
    path = tmp_path / "log.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_log(path)
    assert problem in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Absent, no gzip, cut gzip, no text."""
    whole = gzip.compress((LOG[0].to_line() + "\n").encode() * 50)
    for name, content in (
        ("absent.jsonl", None),
        ("plain.jsonl.gz", b"{}"),
        ("cut.jsonl.gz", whole[:-20]),
        ("binary.jsonl", b"\xff\xfe\x00"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            read_log(path)


def test_a_propensity_that_contradicts_its_weights_is_refused() -> None:
    """The log would be weighted wrongly."""
    wrong = replace(LOG[0], propensity_ppm=max(1, LOG[0].propensity_ppm // 2))
    with pytest.raises(ConfigError, match="'r0': propensity_ppm"):
        arrays_of([wrong])


def test_unknown_policies_are_refused(log_file: Path, tmp_path: Path) -> None:
    """Names, files that are no table, tables that lack a class or use an unknown arm."""
    with pytest.raises(ConfigError, match="'copac_ucb' is none of lp_ucb"):
        _run(str(log_file), "--policy", "copac_ucb")
    path = tmp_path / "table.json"
    arms = [{"arm": "moon", "weight_ppm": 1}]
    for content, problem in (
        ("{", "is no JSON"),
        ("{}", "is no selection table"),
        (json.dumps({"device_class": "pi", "rows": []}), "has no row for task class 'code'"),
        (
            json.dumps(
                [
                    {"device_class": name, "rows": [{"task_class": "other", "arms": arms}]}
                    for name in ("pi", "jetson")
                ]
            ),
            "gives weight to 'moon'",
        ),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=problem):
            _run(str(log_file), "--policy", str(path))


def test_a_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Plain and gzipped; every key."""
    for name in ("log.jsonl", "log.jsonl.gz"):
        assert 50 == write_log(tmp_path / name, decisions=LOG[:50])
        assert LOG[:50] == read_log(tmp_path / name)


def test_near_and_far_targets_differ_in_overlap() -> None:
    """As their names say."""
    log = arrays_of(LOG)
    near, far = (evaluated(log, kind=kind, seed=0)[0].overlap for kind in ("near", "far"))
    assert near > 0.8
    assert 0.01 < far < 0.2
    assert fixed_target("far").weights.sum(axis=2) == pytest.approx(1.0)


def _plain(at: int, *, arm: str, reward: float | None) -> LoggedDecision:
    """A request on one context with two arms at even chances."""
    return LoggedDecision(
        request_id=f"p{at}",
        arrived_unix_ms=at,
        slot=at,
        device_class="pi",
        task_class="other",
        candidates={"good": 500_000, "poor": 500_000},
        drawn_arm=arm,
        propensity_ppm=500_000,
        arm=arm,
        status=RequestStatus.OK,
        reward=reward,
        cost_nanos=0,
        latency_ms=1,
        hit=True,
    )


def _observed(at: int, *, would: str) -> LoggedDecision:
    """The fixed arm `good` has answered, rightly; half and half would have been drawn."""
    return replace(
        _plain(at, arm="good", reward=1.0),
        candidates={"good": PPM, "poor": 0},
        propensity_ppm=PPM,
        observed_arm=would,
        observed={"good": 500_000, "poor": 500_000},
    )


def test_what_was_only_observed_tells_of_the_arm_that_answered_and_of_no_other(
    tmp_path: Path,
) -> None:
    """The would-be draws are a target; the rewards are those of the fixed arm alone."""
    decisions = [_observed(at, would=("good", "poor")[at % 2]) for at in range(200)]
    path = tmp_path / "log.jsonl"
    write_log(path, decisions=decisions)
    assert decisions == read_log(path)
    found = _run(str(path), "--policy", "observed")
    assert 0.5 == pytest.approx(found["overlap"]) == pytest.approx(found["support"])
    assert 0.5 == pytest.approx(found["reward_mean"]["ips"]["value"]), "nothing of `poor` is known"
    assert any("200 decisions were only observed" in note for note in found["warnings"])
    log = arrays_of(decisions)
    weights = np.zeros((1, len(log.contexts), 2))
    weights[:, :, log.arms.index("poor")] = 1.0
    fold = folds_of(np.arange(200), folds=2, rng=np.random.default_rng(0))
    with pytest.raises(ConfigError, match="of its choices"):
        evaluate(log, target=Target(weights=weights, expected_reward=weights), fold=fold)


def test_a_log_without_observed_decisions_has_no_such_policy(log_file: Path) -> None:
    """The error says which agents log them."""
    with pytest.raises(ConfigError, match='mode = "observe"'):
        _run(str(log_file), "--policy", "observed")
