"""Pieces of text as OpenAI objects."""

from __future__ import annotations

from typing import Any

from edge_agent.adapters.llama_cpp.answers import AnswerBuilder
from edge_agent.ports import Chunk, Finished, Timing, Usage

TIMING = Timing(ttft_ms=5.0, run_ms=9.0)


def _builder(*, stream: bool, choices: int = 1) -> AnswerBuilder:
    return AnswerBuilder(
        request_id="r-1",
        arm="arm-1",
        created_unix_s=1_700_000_000,
        choices=choices,
        stream=stream,
        new_call_id=lambda: "call-1",
    )


def _parts(chunks: list[Chunk]) -> list[tuple[int, Any, Any]]:
    return [
        (part["index"], part["delta"], part["finish_reason"])
        for chunk in chunks
        for part in chunk.data["choices"]
    ]


def test_chunks_have_the_form_of_openai() -> None:
    """Clients read these fields."""
    (chunk,) = _builder(stream=True).text(0, "Hi", None)
    assert {
        "id": "chatcmpl-r-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "arm-1",
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "Hi"},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
    } == chunk.data


def test_each_choice_opens_with_its_role_and_ends_with_its_reason() -> None:
    """The reason comes in a chunk of its own, after the last text."""
    builder = _builder(stream=True, choices=2)
    chunks = builder.text(0, "a", None) + builder.text(1, "b", "length")
    chunks += builder.text(0, "c", "stop")
    assert [
        (0, {"role": "assistant", "content": "a"}, None),
        (1, {"role": "assistant", "content": "b"}, None),
        (1, {}, "length"),
        (0, {"content": "c"}, None),
        (0, {}, "stop"),
    ] == _parts(chunks)


def test_an_empty_answer_still_has_a_role() -> None:
    """A model may end at once."""
    chunks = _builder(stream=True).text(0, "", "stop")
    assert [(0, {"role": "assistant", "content": ""}, None), (0, {}, "stop")] == _parts(chunks)


def test_a_streamed_answer_finishes_with_usage_alone() -> None:
    """The chunks were relayed already."""
    builder = _builder(stream=True)
    finished = builder.finished(
        prompt_tokens=3, completion_tokens=2, cached_tokens=1, timing=TIMING
    )
    assert Finished(Usage(3, 2, cached_tokens=1), timing=TIMING) == finished


def test_a_whole_answer_holds_every_choice_and_the_usage() -> None:
    """The text of a choice may come in several pieces."""
    builder = _builder(stream=False, choices=2)
    assert [] == builder.text(1, "one ", None) + builder.text(0, "x", "length")
    assert [] == builder.text(1, "two", "stop")
    finished = builder.finished(
        prompt_tokens=3, completion_tokens=9, cached_tokens=1, timing=TIMING
    )
    assert Usage(3, 9, cached_tokens=1) == finished.usage
    assert finished.response is not None
    response = dict(finished.response)
    assert [
        {
            "index": index,
            "message": {"role": "assistant", "content": content},
            "logprobs": None,
            "finish_reason": reason,
        }
        for index, content, reason in [(0, "x", "length"), (1, "one two", "stop")]
    ] == response.pop("choices")
    assert {
        "id": "chatcmpl-r-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "arm-1",
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 9,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 1},
        },
    } == response
