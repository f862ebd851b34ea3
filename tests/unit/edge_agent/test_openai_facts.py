"""What a checked request asks of an arm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.candidates import RequestFacts
from edge_agent.openai_request import (
    client_request,
    facts_of,
    parse_body,
    parse_embeddings,
    parse_headers,
    prompt_text,
    turns_of,
)
from edge_agent.requests import RequestKind
from shared.decision.types import TaskClass

OTHER = TaskClass("other", deadline_ms=5_000)
SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "Hello?"}
REPLY = {"role": "assistant", "content": "Hi."}
MORE = {"role": "user", "content": "And then?"}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "3"}


def facts(*, task: TaskClass = OTHER, headers: dict[str, str] | None = None, **body: Any) -> Any:
    """The facts of a chat request, or of one for embeddings if it has an `input`."""
    embeds = "input" in body
    raw = json.dumps({"model": "auto", **({} if embeds else {"messages": [ASK]}), **body}).encode()
    request = client_request(
        parse_embeddings(raw).body if embeds else parse_body(raw),
        steering=parse_headers(headers or {}),
        request_id="r1",
        arrived_unix_ms=1,
        arrived_monotonic_ms=1.0,
        kind=RequestKind.EMBEDDINGS if embeds else RequestKind.CHAT,
    )
    found: RequestFacts = facts_of(request, task=task, only_embedder="embed" if embeds else "")
    return found


def test_the_next_turn_goes_on_from_the_one_before() -> None:
    """It repeats the earlier messages, then the assistant's reply, then something new."""
    first, before_first = turns_of([SYSTEM, ASK])
    second, before_second = turns_of([SYSTEM, ASK, REPLY, MORE])
    third, before_third = turns_of([SYSTEM, ASK, REPLY, MORE, REPLY, MORE])
    assert ("", first, second) == (before_first, before_second, before_third)
    assert 3 == len({first, second, third})


def test_a_tool_s_result_goes_on_from_the_turn_that_called_it() -> None:
    """The model that asked for a tool gets its result."""
    assert turns_of([SYSTEM, ASK])[0] == turns_of([SYSTEM, ASK, CALL, RESULT])[1]


@pytest.mark.parametrize(
    "edited",
    [
        [{"role": "system", "content": "Be long."}, ASK, REPLY, MORE],
        [ASK, REPLY, MORE],
        [{"role": "developer", "content": "Be brief."}, ASK, REPLY, MORE],
        [SYSTEM, {**ASK, "name": "ada"}, REPLY, MORE],
    ],
)
def test_an_edited_history_goes_on_from_another_turn(edited: list[dict[str, Any]]) -> None:
    """No cache holds it, so no arm is kept for it."""
    assert turns_of([SYSTEM, ASK])[0] != turns_of(edited)[1]


def test_only_auto_takes_part_in_conversations() -> None:
    """A pinned arm was not drawn, and needs no memory."""
    assert facts().turn
    assert ("", "") == (facts(model="tiny").turn, facts(model="tiny").goes_on_from)


def test_a_chat_asks_for_chat_and_what_its_fields_need() -> None:
    """Capabilities follow from the body; the cap and the class's deadline from elsewhere."""
    found = facts(
        response_format={"type": "json_object"},
        temperature=0.5,
        n=2,
        headers={"x-tidegate-max-cost-usd": "0.5"},
    )
    assert {"chat", "json_schema"} == found.capabilities
    assert {"response_format", "temperature", "n"} == found.fields
    assert (2, 500_000_000, 5_000) == (found.n, found.max_cost_nanos, found.deadline_ms)
    assert 6 == found.prompt_bytes


@pytest.mark.parametrize(("model", "pinned"), [("auto", "embed"), ("other-embed", "other-embed")])
def test_embeddings_are_bounded_by_their_input_alone(model: str, pinned: str) -> None:
    """Nothing is generated, each text is a message, and the longest must fit the context."""
    found = facts(model=model, input=["Grüße", "b"], dimensions=8)
    assert (0, 2, 7) == (found.max_tokens, found.messages, found.prompt_bytes)
    assert pinned == found.pinned_arm
    assert ({"embeddings"}, {"dimensions"}) == (found.capabilities, found.fields)


def test_token_ids_need_an_arm_that_takes_them() -> None:
    """They mean something to one tokeniser only."""
    assert {"embeddings", "token_input"} == facts(input=[1, 2]).capabilities
    assert 1 == facts(input=[1, 2]).messages


def test_the_classifier_reads_the_instructions_and_the_last_question() -> None:
    """Neither earlier turns nor what the model said."""
    assert "Be brief.\n\nAnd then?" == prompt_text([SYSTEM, ASK, REPLY, MORE])
    assert "Hello?" == prompt_text([ASK, REPLY])
    assert "" == prompt_text([REPLY])


def test_the_classifier_reads_text_parts_and_the_head_of_long_instructions() -> None:
    """Pictures tell it nothing."""
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    parts = [{"type": "text", "text": "Sum"}, picture, {"type": "text", "text": "this up"}]
    long = {"role": "developer", "content": "a" * 9_000}
    found = prompt_text([long, {"role": "user", "content": parts}])
    assert f"{'a' * 512}\n\nSum\nthis up" == found
