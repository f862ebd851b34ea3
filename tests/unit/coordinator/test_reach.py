"""Arms that cannot be reached: what is learned of them, and how they come back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coordinator.capacity import UNREACHED_RUN, Reach, with_trials
from coordinator.planner import Planner
from shared.decision.types import Attempt, SettleKind
from tests.unit.coordinator.test_planner import CONTEXT, learn, outcome, plan, planner, taught

REFUSED = Attempt("cloud", 9, "connect_failed", 1, 100, 0, SettleKind.RELEASED)


def unreached(one: Planner, times: int) -> None:
    """That many requests whose paid call was not executed; the local arm answered."""
    answer = outcome("tiny", attempts=(REFUSED, Attempt("tiny", 200)), drawn_arm="cloud")
    for _ in range(times):
        learn(one, answer, slot=3)


def weight(one: Planner, arm: str) -> float:
    """An arm's weight in the next plan."""
    planned = plan(one)
    return float(planned.plan.weights[planned.contexts.index(CONTEXT), planned.arms.index(arm)])


@pytest.mark.parametrize("error", ["connect_failed", "http_429"])
def test_a_call_that_was_not_executed_says_nothing_of_its_arm(error: str) -> None:
    """Neither a grade nor a miss nor a cost."""
    one, other = taught(), taught()
    attempt = Attempt("cloud", 9, error, 1, 100, 0, SettleKind.RELEASED)
    answer = outcome("tiny", attempts=(attempt, Attempt("tiny", 200)))
    learn(one, answer, slot=3)
    learn(other, outcome("tiny"), slot=3)
    found, expected = (each.estimates.estimates([CONTEXT], arms=["cloud"]) for each in (one, other))
    assert expected.reward.mean == found.reward.mean
    assert expected.covering[0].mean == found.covering[0].mean
    assert expected.packing[0].mean == found.packing[0].mean


def test_an_arm_out_of_reach_is_only_tried() -> None:
    """After a run of failures the plan does without it, but for a trial now and then."""
    one = taught()
    unreached(one, UNREACHED_RUN - 1)
    assert weight(one, "cloud") > 0.3
    unreached(one, 1)
    assert 0.0 < weight(one, "cloud") <= 0.05


def test_an_arm_comes_back_with_its_first_executed_call() -> None:
    """As good as it was: nothing was learned against it."""
    one = taught()
    before = weight(one, "cloud")
    unreached(one, 10 * UNREACHED_RUN)
    learn(one, outcome(), slot=3)
    assert weight(one, "cloud") == pytest.approx(before, abs=0.02)


def test_a_failure_of_the_provider_ends_the_run() -> None:
    """Whoever answers with an error can be reached; its grade of 0 is learned."""
    reach = Reach()
    for _ in range(UNREACHED_RUN):
        reach.count(REFUSED, device_class="edge")
    failed = Attempt("cloud", 9, "http_500", 1, 100, 100, SettleKind.UNKNOWN)
    reach.count(failed, device_class="edge")
    assert not reach.lost(np.ones((1, 1), np.bool_), contexts=[CONTEXT], arms=["cloud"]).any()


def test_reach_is_known_for_each_device_class() -> None:
    """Others may well have a connection."""
    reach = Reach()
    for _ in range(UNREACHED_RUN):
        reach.count(REFUSED, device_class="edge")
    feasible = np.ones((2, 2), np.bool_)
    lost = reach.lost(feasible, contexts=[CONTEXT, ("pi", "other")], arms=["cloud", "tiny"])
    assert [[True, False], [False, False]] == lost.tolist()


def test_a_context_keeps_its_last_arms() -> None:
    """Without any other arm the plan goes on with what it has."""
    reach = Reach()
    for _ in range(UNREACHED_RUN):
        reach.count(REFUSED, device_class="edge")
    assert not reach.lost(np.ones((1, 1), np.bool_), contexts=[CONTEXT], arms=["cloud"]).any()


def test_trials_are_about_one_request_of_a_slot() -> None:
    """The others make room in proportion; a quiet context tries a twentieth."""
    weights = np.array([[0.0, 0.6, 0.4], [0.0, 1.0, 0.0]])
    lost = np.array([[True, False, False], [True, False, False]])
    found = with_trials(weights, lost=lost, next_slot=np.array([100.0, 0.5]))
    assert found == pytest.approx(np.array([[0.01, 0.594, 0.396], [0.05, 0.95, 0.0]]))


def test_reach_survives_a_restart() -> None:
    """A snapshot carries it through JSON; one of an earlier version has none."""
    one = taught()
    unreached(one, UNREACHED_RUN)
    later = planner()
    later.restore(one.to_payload())
    assert weight(one, "cloud") == weight(later, "cloud")
    payload = json.loads(one.to_payload())
    del payload["load"]["reach"]
    later.restore(json.dumps(payload))
    assert weight(later, "cloud") > 0.3
