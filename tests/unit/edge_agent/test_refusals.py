"""What a client is told when no arm can answer."""

from __future__ import annotations

import pytest

from edge_agent.candidates import COMPLETIONS
from edge_agent.refusals import _FIELD_OF_CAPABILITY, refusal_for
from shared.decision.types import CAPABILITIES, Fallout


@pytest.mark.parametrize(
    ("reasons", "status", "code"),
    [
        (["no_lease", "lease_too_small"], 429, "budget_exceeded"),
        (["spend_paused"], 429, "budget_exceeded"),
        (["no_lease", "model_broken"], 503, "no_candidate"),
        (["watermark_not_synced"], 503, "no_candidate"),
        (["watermark_not_synced", "lease_too_small"], 503, "no_candidate"),
        (["context_length_exceeded", "context_length_exceeded"], 400, "context_length_exceeded"),
        (["field:logit_bias", "field:user"], 400, "unsupported_field"),
        (["http_503"], 503, "no_candidate"),
        (["capability:tools", "no_lease"], 429, "budget_exceeded"),
        (["capability:tools", "field:tools"], 400, "unsupported_capability"),
        (["capability:tools", "model_broken"], 503, "no_candidate"),
        (["privacy", "media_has_no_worst_case"], 400, "no_candidate"),
        (["max_cost", "capability:tools"], 400, "max_cost_exceeded"),
        (["max_cost", "model_broken"], 503, "no_candidate"),
        (["http_429", "field:user"], 429, "rate_limit_exceeded"),
        (["http_429", "http_500"], 503, "no_candidate"),
        ([], 503, "no_candidate"),
    ],
)
def test_the_reasons_decide_the_status(reasons: list[str], status: int, code: str) -> None:
    """Money alone is 429, the request's own fault is 400, everything else may pass: 503."""
    fallouts = [Fallout(f"arm{n}", reason) for n, reason in enumerate(reasons)]
    refused = refusal_for(fallouts, budget="monthly", why="")
    assert (status, code, tuple(fallouts)) == (refused.status, refused.code, refused.fallouts)
    assert all(fallout.arm in str(refused) for fallout in fallouts)
    assert (status != 400) == (refused.retry_after_s is not None)


def test_a_refusal_for_money_names_the_budget_and_the_coordinators_reason() -> None:
    """The client learns which budget, and why."""
    text = str(refusal_for([Fallout("big", "no_lease")], budget="monthly", why="it is spent"))
    assert "'monthly'" in text
    assert "it is spent" in text


def test_an_unsupported_field_is_the_parameter_at_fault() -> None:
    """The envelope points at the field."""
    refused = refusal_for([Fallout("big", "field:logit_bias")], budget="", why="")
    assert "logit_bias" == refused.param


@pytest.mark.parametrize(
    ("reason", "param"),
    [("privacy", "x-tidegate-privacy"), ("media_has_no_worst_case", "messages")],
)
def test_what_rules_a_paid_arm_out_is_named(reason: str, param: str) -> None:
    """The header or the field at fault, and what would do."""
    refused = refusal_for([Fallout("big", reason)], budget="", why="")
    assert (400, param) == (refused.status, refused.param)
    assert "ask for a local model" in str(refused)


def test_a_keys_budget_is_named_with_the_time_until_its_next_window() -> None:
    """429 that names the key, and when it is worth to ask again."""
    refused = refusal_for(
        [Fallout("gpt", "key_budget")], budget="cloud", why="", key_tag="shop", key_ends_s=7_200
    )
    assert (429, "budget_exceeded", 7_200) == (
        refused.status,
        refused.code,
        refused.retry_after_s,
    )
    assert "the budget of key shop" in str(refused)
    assert "budget 'cloud'" not in str(refused)


def test_both_budgets_are_named_where_both_stand_in_the_way() -> None:
    """The key's for one arm, the fleet's for another."""
    fallouts = [Fallout("dear", "key_budget"), Fallout("gpt", "no_lease")]
    refused = refusal_for(fallouts, budget="cloud", why="", key_tag="shop", key_ends_s=7_200)
    assert (429, 5) == (refused.status, refused.retry_after_s)
    assert "'cloud'" in str(refused)
    assert "budget of key shop" in str(refused)


def test_a_capability_that_no_arm_has_is_named_by_its_field() -> None:
    """The envelope points at what the client can leave out."""
    refused = refusal_for([Fallout("tiny", "capability:json_schema")], budget="", why="")
    assert "response_format" == refused.param
    assert "'json_schema'" in str(refused)


def test_what_requests_ask_for_can_be_written_in_a_fleet_file() -> None:
    """The fleet file refuses other words, so it has to know these; bare prompts may do without."""
    assert {*_FIELD_OF_CAPABILITY, COMPLETIONS} == CAPABILITIES


def test_a_cap_that_rules_out_every_arm_is_named_with_the_least_that_would_do() -> None:
    """The client learns which header to change, and to how much."""
    refused = refusal_for(
        [Fallout("big", "max_cost")], budget="", why="", worst_case_nanos=1_250_000
    )
    assert "x-tidegate-max-cost-usd" == refused.param
    assert "$0.001250000" in str(refused)


@pytest.mark.parametrize(("said_s", "told_s"), [(0, 2), (7, 7), (10**9, 3_600)])
def test_an_endpoint_that_wants_to_be_left_alone_is_heard(said_s: int, told_s: int) -> None:
    """Its `Retry-After` becomes the client's, within an hour."""
    refused = refusal_for([Fallout("big", "http_429")], budget="", why="", retry_after_s=said_s)
    assert told_s == refused.retry_after_s
