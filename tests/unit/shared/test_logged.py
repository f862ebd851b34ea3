"""A logged decision as a line of JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shared.decision.logged import LoggedDecision
from shared.decision.types import RequestStatus

DECISION = LoggedDecision(
    request_id="r1",
    arrived_unix_ms=1_700_000_000_123,
    slot=4,
    device_class="pi",
    task_class="çode",
    candidates={"cloud": 300_000, "tiny": 0},
    drawn_arm="cloud",
    propensity_ppm=1_000_000,
    arm="tiny",
    status=RequestStatus.OK,
    reward=0.5,
    cost_nanos=70,
    latency_ms=12,
    hit=True,
    attempts=("cloud", "tiny"),
    grading_ppm=250_000,
    table_version=9,
)
LINE = (
    '{"request_id":"r1","arrived_unix_ms":1700000000123,"slot":4,"device_class":"pi",'
    '"task_class":"çode","candidates":{"cloud":300000,"tiny":0},"drawn_arm":"cloud",'
    '"propensity_ppm":1000000,"attempts":["cloud","tiny"],"arm":"tiny","status":"ok",'
    '"reward":0.5,"grading_ppm":250000,"cost_nanos":70,"latency_ms":12,"hit":true,'
    '"table_version":9}'
)


def test_a_decision_is_one_compact_line_and_comes_back_from_it() -> None:
    """Every key, nothing escaped that need not be: logs are large and people read them."""
    assert LINE == DECISION.to_line()
    assert DECISION == LoggedDecision.from_line(LINE)


def test_a_decision_that_was_only_observed_keeps_what_would_have_been_drawn() -> None:
    """Beside the fixed arm, which was certain; elsewhere the line says nothing of it."""
    aside = replace(DECISION, observed_arm="tiny", observed={"tiny": 400_000, "cloud": 0})
    line = aside.to_line()
    assert line.endswith(',"observed_arm":"tiny","observed":{"tiny":400000,"cloud":0}}')
    assert aside == LoggedDecision.from_line(line)
    with pytest.raises(ValueError, match="observed_arm is 'tiny', expected none"):
        replace(DECISION, observed_arm="tiny")
    with pytest.raises(ValueError, match="observed_arm is 'x', expected tiny, cloud"):
        replace(aside, observed_arm="x")
    with pytest.raises(ValueError, match=r"observed\.tiny is 1000001, expected 0 to 1000000"):
        replace(aside, observed={"tiny": 1_000_001})


def test_what_has_a_default_may_be_left_out() -> None:
    """Logs of older programs lack the attempts, the share that is graded and the table."""
    known = json.loads(LINE)
    for key in ("attempts", "grading_ppm", "table_version"):
        del known[key]
    found = LoggedDecision.from_line(json.dumps(known))
    assert replace(DECISION, attempts=(), grading_ppm=1_000_000, table_version=0) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"reward": None},
        {"reward": 0.0},
        {"reward": 1.0},
        {"reward": 1},
        {"cost_nanos": 0, "latency_ms": 0},
        {"grading_ppm": 1},
        {"grading_ppm": 1_000_000},
        {"propensity_ppm": 1},
        {"candidates": {"cloud": 0, "tiny": 1_000_000}},
        {"candidates": {}, "drawn_arm": "", "propensity_ppm": 0, "arm": "", "status": "refused"},
    ],
)
def test_values_up_to_the_ends_of_their_ranges_are_read(changes: dict[str, Any]) -> None:
    """A request without any candidate too: it has no draw and needs no propensity."""
    found = json.loads(LoggedDecision.from_line(_changed(**changes)).to_line())
    assert {**json.loads(LINE), **changes} == found


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"cost_nanos": -1}, "cost_nanos is -1, expected 0 or more"),
        ({"latency_ms": -1}, "latency_ms is -1, expected 0 or more"),
        ({"grading_ppm": 0}, "grading_ppm is 0, expected 1 to 1000000"),
        ({"grading_ppm": 1_000_001}, "grading_ppm is 1000001, expected 1 to 1000000"),
        ({"reward": -0.1}, "reward is -0.1, expected 0 to 1, or null"),
        ({"reward": 1.1}, "reward is 1.1, expected 0 to 1, or null"),
        ({"candidates": {"cloud": -1}}, "candidates.cloud is -1, expected 0 to 1000000"),
        ({"candidates": {"cloud": 1_000_001}}, "candidates.cloud is 1000001, expected 0 to"),
        ({"drawn_arm": ""}, "drawn_arm is '', expected one of the candidates"),
        ({"drawn_arm": "else"}, "drawn_arm is 'else', expected cloud, tiny"),
        ({"candidates": {}}, "drawn_arm is 'cloud', expected none"),
        ({"propensity_ppm": 0}, "propensity_ppm is 0, expected 1 to 1000000"),
        ({"propensity_ppm": 1_000_001}, "propensity_ppm is 1000001, expected 1 to 1000000"),
    ],
)
def test_a_value_out_of_range_or_at_odds_with_the_others_is_named(
    changes: dict[str, Any], problem: str
) -> None:
    """An estimator would divide by a propensity of zero; a typed log says so first."""
    with pytest.raises(ValueError, match=f"^{problem}"):
        LoggedDecision.from_line(_changed(**changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"request_id": 7}, "request_id is 7, expected text"),
        ({"slot": "a"}, "slot is 'a', expected an integer"),
        ({"slot": True}, "slot is True, expected an integer"),
        ({"hit": 1}, "hit is 1, expected a flag"),
        ({"attempts": "tiny"}, "attempts is 'tiny', expected a list"),
        ({"reward": "good"}, "reward is 'good', expected a number or null"),
        ({"reward": True}, "reward is True, expected a number or null"),
        ({"candidates": ["tiny"]}, r"candidates is \['tiny'\], expected an object"),
        ({"candidates": {"tiny": 0.5}}, "candidates.tiny is 0.5, expected an integer"),
        ({"candidates": {"tiny": True}}, "candidates.tiny is True, expected an integer"),
        ({"status": "fine"}, "status is 'fine', expected one of ok, error"),
        ({"colour": 1}, "has the unknown key 'colour'; known are request_id, arrived"),
    ],
)
def test_a_key_or_a_type_that_is_not_meant_is_named(changes: dict[str, Any], problem: str) -> None:
    """With the value that was found and what was expected."""
    with pytest.raises(ValueError, match=f"^{problem}"):
        LoggedDecision.from_line(_changed(**changes))


def test_a_missing_key_is_named() -> None:
    """The first one that has no default."""
    known = json.loads(LINE)
    del known["hit"]
    with pytest.raises(ValueError, match=r"^has no 'hit'"):
        LoggedDecision.from_line(json.dumps(known))


def test_what_is_no_object_of_json_is_refused() -> None:
    """With the place of the mistake, counted from one as editors count."""
    with pytest.raises(ValueError, match=r"^is no JSON: Expecting value at character 2$"):
        LoggedDecision.from_line("[")
    with pytest.raises(ValueError, match=r"^is no JSON object; every line is one decision"):
        LoggedDecision.from_line("[1]")


def _changed(**changes: Any) -> str:
    return json.dumps({**json.loads(LINE), **changes})
