"""What a client is told when no arm can answer: one place, each message with a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_agent.candidates import (
    BUDGET_REASONS,
    CONTEXT_REASON,
    KEY_BUDGET_REASON,
    MAX_COST_REASON,
)
from edge_agent.requests import RequestRefused
from shared.decision.money import dollars
from shared.decision.types import Fallout

MAX_COST_HEADER: Final = "x-tidegate-max-cost-usd"
EXPECTED_HEADER: Final = "x-tidegate-expected"
PRIVACY_HEADER: Final = "x-tidegate-privacy"
UNSUPPORTED: Final = "unsupported"
RATE_LIMITED: Final = "http_429"
RETRY_AFTER_S: Final = 2
RETRY_AFTER_BUDGET_S: Final = 5
RETRY_AFTER_S_MAX: Final = 3_600

_FIELD_OF_CAPABILITY: Final = {
    "audio": "messages",
    "chat": "model",
    "embeddings": "model",
    "file": "messages",
    "json_schema": "response_format",
    "logprobs": "logprobs",
    "token_input": "input",
    "tools": "tools",
    "vision": "messages",
}
_PRIVACY: Final = "privacy"
_MEDIA: Final = "media_has_no_worst_case"
_OWN_FAULT: Final = (
    "capability:",
    "field:",
    _MEDIA,
    _PRIVACY,
    CONTEXT_REASON,
    MAX_COST_REASON,
    UNSUPPORTED,
)
"""Reasons that lie in the request itself: sent again as it is, it fails again."""


def refusal_for(
    fallouts: Sequence[Fallout],
    *,
    budget: str,
    why: str,
    worst_case_nanos: int = 0,
    retry_after_s: int = 0,
    problem: str = "",
    param: str | None = None,
    key_tag: str = "",
    key_ends_s: int = 0,
) -> RequestRefused:
    """The error for a request without a candidate.

    Arms that the request itself rules out decide nothing while another arm could answer it, only
    not now.

    Parameters
    ----------
    fallouts : sequence of Fallout
        Every arm of the row, and why it cannot answer.
    budget : str
        The name of the fleet's budget.
    why : str
        What the coordinator said when it last refused a lease; may be empty.
    worst_case_nanos : int
        The least that the client's cap on the cost would have to be.
    retry_after_s : int
        How long an endpoint wants to be left alone; 0 if none said so.
    problem : str
        What the arm said that was tried last.
    param : str or None
        The field that it spoke of.
    key_tag : str
        Of the client's API key; empty without one.
    key_ends_s : int
        How long the present window of that key's budget goes on.
    """
    named = "; ".join(f"{fallout.arm}: {fallout.reason}" for fallout in fallouts)
    passing = {each.reason for each in fallouts if not each.reason.startswith(_OWN_FAULT)}
    if fallouts and not passing:
        return _own_fault(
            fallouts, named=named, worst_case_nanos=worst_case_nanos, said=problem, spoken_of=param
        )
    if passing == {KEY_BUDGET_REASON}:
        return _key_budget(fallouts, named=named, tag=key_tag, ends_s=max(1, key_ends_s))
    if passing and passing <= BUDGET_REASONS:
        keys = f" nor does the budget of key {key_tag}" if KEY_BUDGET_REASON in passing else ""
        return RequestRefused(
            429,
            "budget_exceeded",
            f"the budget {budget or 'of the fleet'!r} allows no paid call now "
            f"({why or 'no lease with room for the worst case'}){keys}: {named}. Try again later, "
            "or ask for a local model",
            retry_after_s=RETRY_AFTER_BUDGET_S,
            fallouts=fallouts,
        )
    wait_s = min(retry_after_s or RETRY_AFTER_S, RETRY_AFTER_S_MAX)
    if passing == {RATE_LIMITED}:
        return RequestRefused(
            429,
            "rate_limit_exceeded",
            f"the endpoint takes no more requests now ({named}); try again in {wait_s} s",
            retry_after_s=wait_s,
            fallouts=fallouts,
        )
    return RequestRefused(
        503,
        "no_candidate",
        f"no arm can answer: {named or 'the fleet has no arm for this device'}",
        retry_after_s=wait_s,
        fallouts=fallouts,
    )


def _own_fault(
    fallouts: Sequence[Fallout],
    *,
    named: str,
    worst_case_nanos: int,
    said: str,
    spoken_of: str | None,
) -> RequestRefused:
    """The 400 for a request that no arm could ever answer as it is."""
    reasons = [fallout.reason for fallout in fallouts]
    kind, _, what = next((each for each in reasons if ":" in each), "").partition(":")
    code, param = "no_candidate", None
    problem = f"no arm may answer such a request: {named}"
    if MAX_COST_REASON in reasons:
        code, param = "max_cost_exceeded", MAX_COST_HEADER
        problem = (
            f"no arm is sure to cost no more than {MAX_COST_HEADER!r} allows ({named}): the "
            f"cheapest may cost ${dollars(worst_case_nanos)}. Allow that much, shorten the "
            "request, or lower 'max_tokens'"
        )
    elif all(reason == CONTEXT_REASON for reason in reasons):
        code, param = CONTEXT_REASON, "messages"
        problem = f"the prompt is longer than the context of every arm ({named}); shorten it"
    elif UNSUPPORTED in reasons:
        code, param, problem = "unsupported", spoken_of, f"{said} ({named})"
    elif kind == "field":
        code, param = "unsupported_field", what
        problem = (
            f"the field {what!r} is not on the list of any arm that could answer ({named}); "
            "leave it out or add it to the arm's `fields`"
        )
    elif kind == "capability":
        code, param = "unsupported_capability", _FIELD_OF_CAPABILITY.get(what)
        problem = (
            f"no arm of this device offers {what!r} ({named}); leave it out, or add "
            f"{what!r} to the `capabilities` of an arm that can"
        )
    elif _PRIVACY in reasons:
        param = PRIVACY_HEADER
        problem = (
            f"the request may not leave the device, by {PRIVACY_HEADER!r} or by its task class "
            f"({named}): ask for a local model or 'auto'"
        )
    elif _MEDIA in reasons:
        param = "messages"
        problem = (
            f"what pictures and sounds cost is not known beforehand, so no paid arm gets them "
            f"({named}): leave them out, or ask for a local model"
        )
    return RequestRefused(400, code, problem, param=param, fallouts=fallouts)


def embedder_refusal(arms: Sequence[str]) -> RequestRefused:
    """The 400 for embeddings of `auto` where no single arm offers them."""
    if not arms:
        return RequestRefused(
            400,
            "unsupported_capability",
            "no arm of this device offers embeddings: add 'embeddings' to the `capabilities` of "
            "an arm whose model makes them",
            param="model",
        )
    return RequestRefused(
        400,
        "ambiguous_model",
        f"embeddings of different models cannot be compared, so 'auto' draws none of "
        f"{', '.join(arms)}: name one of them",
        param="model",
    )


def _key_budget(
    fallouts: Sequence[Fallout], *, named: str, tag: str, ends_s: int
) -> RequestRefused:
    """An API key's own budget has no room."""
    return RequestRefused(
        429,
        "budget_exceeded",
        f"the budget of key {tag} has no room for the worst case of this request: {named}. Wait "
        f"{ends_s} s for its next window, send a smaller `max_tokens`, raise `budget_usd` of the "
        "key, or ask for a local model",
        retry_after_s=ends_s,
        fallouts=fallouts,
    )


def expectation_refusal(task_class: str, *, expected: str) -> RequestRefused:
    """An expected answer that the class's grader could never find."""
    return RequestRefused(
        400,
        "invalid_value",
        f"{EXPECTED_HEADER!r} must be {expected}: the grader of task class {task_class!r} looks "
        "for that",
        param=EXPECTED_HEADER,
    )


def internal_error(request_id: str) -> RequestRefused:
    """What a client is told of a defect: the id under which the log has the rest."""
    return RequestRefused(
        500, "internal_error", f"the agent failed; its log says more under request id {request_id}"
    )
