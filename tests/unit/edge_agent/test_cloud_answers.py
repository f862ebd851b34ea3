"""What endpoints send that is JSON and yet no answer."""

from __future__ import annotations

import json
from struct import pack
from typing import Any

import pytest

from edge_agent.adapters.cloud_answers import (
    AnswerError,
    StreamTally,
    embeddings_answer,
    whole_answer,
)

MALFORMED = [
    "text",
    {"index": []},
    {"index": "0"},
    {"index": 7},
    {"index": -1},
    {"index": 0, "delta": "text", "message": "text"},
]


@pytest.mark.parametrize("choice", MALFORMED)
def test_a_malformed_choice_is_a_bad_response(choice: Any) -> None:
    """The next arm may answer then, and what the endpoint reports is booked."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    with pytest.raises(AnswerError, match="choice") as caught:
        whole_answer(json.dumps({"choices": [choice], "usage": usage}).encode())
    assert ("bad_response", True) == (caught.value.reason, caught.value.usage is not None)
    with pytest.raises(AnswerError, match="choice"):
        StreamTally(choices=2).take(json.dumps({"choices": [choice]}).encode())


def test_a_choice_without_an_index_is_the_first() -> None:
    """Small servers leave it out."""
    answer, _ = whole_answer(b'{"choices": [{"message": {"content": "a"}}]}')
    chunk = StreamTally(choices=1).take(b'{"choices": [{"index": null, "delta": null}]}')
    assert answer["choices"]
    assert chunk is not None


def test_numbers_that_json_does_not_have_become_null() -> None:
    """A client's parser would refuse the whole answer, which is paid for."""
    raw = b'{"choices": [{"message": {}, "logprobs": {"content": [{"logprob": -Infinity}]}}]}'
    answer, _ = whole_answer(raw)
    assert answer["choices"][0]["logprobs"] == {"content": [{"logprob": None}]}


@pytest.mark.parametrize("value", ["1e39", "-1e39", "1" + "0" * 400, "NaN", "null", "true"])
def test_a_vector_that_32_bits_cannot_hold_is_a_bad_response(value: str) -> None:
    """Clients ask for vectors as base64 of such numbers; the largest of them are no problem."""
    reply = '{"data": [{"index": 0, "embedding": [0.5, %s]}]}'
    with pytest.raises(AnswerError, match="not one array of numbers") as caught:
        embeddings_answer((reply % value).encode(), inputs=1)
    assert "bad_response" == caught.value.reason
    ((vector,), _) = embeddings_answer((reply % "3.4028234663852886e38").encode(), inputs=1)
    assert pack("<2f", *vector)
