"""What a client is told when no arm can answer: one place, each message with a remedy."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.candidates import BUDGET_REASONS, CONTEXT_REASON, KEY_BUDGET_REASON
from edge_agent.requests import RequestRefused
from shared.decision.types import Fallout


def refusal_for(
    fallouts: Sequence[Fallout],
    *,
    budget: str,
    why: str,
    key_tag: str = "",
    key_ends_s: int = 0,
) -> RequestRefused:
    """The error for a request without a candidate.

    Parameters
    ----------
    fallouts : sequence of Fallout
        Every arm of the row, and why it cannot answer.
    budget : str
        The name of the fleet's budget.
    why : str
        What the coordinator said when it last refused a lease; may be empty.
    key_tag : str
        Of the client's API key; empty without one.
    key_ends_s : int
        How long the present window of that key's budget goes on.
    """
    named = "; ".join(f"{fallout.arm}: {fallout.reason}" for fallout in fallouts)
    reasons = [fallout.reason for fallout in fallouts]
    if reasons and all(reason == KEY_BUDGET_REASON for reason in reasons):
        return RequestRefused(
            429,
            "budget_exceeded",
            f"the budget of key {key_tag} has no room for the worst case of this request: {named}. "
            f"Wait {max(1, key_ends_s)} s for its next window, send a smaller `max_tokens`, raise "
            "`budget_usd` of the key, or ask for a local model",
            retry_after_s=max(1, key_ends_s),
            fallouts=fallouts,
        )
    if reasons and all(reason in BUDGET_REASONS for reason in reasons):
        keys = f" nor does the budget of key {key_tag}" if KEY_BUDGET_REASON in reasons else ""
        return RequestRefused(
            429,
            "budget_exceeded",
            f"the budget {budget or 'of the fleet'!r} allows no paid call now "
            f"({why or 'no lease with room for the worst case'}){keys}: {named}. Wait for the next "
            "window, raise the budget, or ask for a local model",
            retry_after_s=5,
            fallouts=fallouts,
        )
    if reasons and all(reason == CONTEXT_REASON for reason in reasons):
        return RequestRefused(
            400,
            CONTEXT_REASON,
            f"the prompt is longer than the context of every arm ({named}); shorten it",
            param="messages",
            fallouts=fallouts,
        )
    if reasons and all(reason.startswith("field:") for reason in reasons):
        field = reasons[0].removeprefix("field:")
        return RequestRefused(
            400,
            "unsupported_field",
            f"the field {field!r} is not on the list of any arm that could answer ({named}); "
            "leave it out or add it to the arm's `fields`",
            param=field,
            fallouts=fallouts,
        )
    return RequestRefused(
        503,
        "no_candidate",
        f"no arm can answer: {named or 'the fleet has no arm for this device'}",
        retry_after_s=2,
        fallouts=fallouts,
    )
