"""Parsing of legacy completions and of requests for embeddings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.openai_request import CheckedCompletion, parse_completion, parse_embeddings
from edge_agent.requests import RequestRefused
from shared.limits import EMBEDDING_INPUTS_MAX, PROMPTS_MAX


def completion(**body: Any) -> CheckedCompletion:
    """A checked completion."""
    return parse_completion(json.dumps({"model": "auto", "prompt": "Once", **body}).encode())


def embeddings(**body: Any) -> Any:
    """Checked embeddings."""
    return parse_embeddings(json.dumps({"model": "e", "input": "x", **body}).encode())


def test_each_prompt_becomes_a_chat_request() -> None:
    """The other fields go to all of them, and sixteen tokens are OpenAI's default here."""
    found = completion(prompt=["a", "b"], temperature=0.5, n=2, stop=["x"], max_tokens=None)
    assert [
        {
            "model": "auto",
            "temperature": 0.5,
            "n": 2,
            "stop": ["x"],
            "max_tokens": 16,
            "messages": [{"role": "user", "content": prompt}],
        }
        for prompt in ("a", "b")
    ] == [chat.body for chat in found.chats]
    assert (("a", "b"), 2, False) == (found.prompts, found.n, found.echo)


def test_log_probabilities_are_asked_for_in_the_chat_api_s_way() -> None:
    """A number becomes a flag and a number; none at all stays none."""
    assert (
        completion(logprobs=3).chats[0].body.items()
        >= {"logprobs": True, "top_logprobs": 3}.items()
    )
    assert "logprobs" not in completion().chats[0].body


def test_a_stream_is_one_stream() -> None:
    """Streaming and its usage are the chat API's."""
    chat = completion(stream=True, stream_options={"include_usage": True}).chats[0]
    assert (True, True) == (chat.stream, chat.include_usage)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": ["x"] * (PROMPTS_MAX + 1)}, "prompt"),
        ({"prompt": [None]}, "prompt[0]"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 6}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"max_completion_tokens": 3}, "max_completion_tokens"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_what_a_completion_cannot_have_is_named(body: dict[str, Any], param: str) -> None:
    """Nothing is passed over in silence."""
    with pytest.raises(RequestRefused) as caught:
        completion(**body)
    assert (400, param) == (caught.value.status, caught.value.param)


def test_what_asks_for_nothing_is_accepted() -> None:
    """Clients send every field that they know."""
    found = completion(n=2, best_of=2, suffix=None, echo=False, user="me")
    assert {"model", "n", "user", "max_tokens", "messages"} == set(found.chats[0].body)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_an_input_is_always_an_array(given: Any, expected: list[Any]) -> None:
    """One text or many, as text or as token ids."""
    assert expected == embeddings(input=given).body.body["input"]


def test_the_encoding_is_the_agent_s_business() -> None:
    """It is not sent on; floats are the default."""
    assert (False, True) == (embeddings().as_base64, embeddings(encoding_format="base64").as_base64)
    assert {"model", "input"} == set(embeddings(encoding_format="base64").body.body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", [1]]}, "input[1]"),
        ({"input": [[1], "a"]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": ["a"] * (EMBEDDING_INPUTS_MAX + 1)}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"stream": True}, "stream"),
    ],
)
def test_what_embeddings_cannot_have_is_named(body: dict[str, Any], param: str) -> None:
    """Each wrong value with its place."""
    with pytest.raises(RequestRefused) as caught:
        embeddings(**body)
    assert (400, param) == (caught.value.status, caught.value.param)
