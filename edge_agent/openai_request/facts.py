"""What a checked body asks of an arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

ALWAYS_SENT: Final = frozenset({"model", "messages", "stream", "stream_options", "max_tokens"})
"""Fields that every arm takes: what the API cannot do without, and what the agent sets itself."""

_NEUTRAL: Final[dict[str, Any]] = {
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "metadata": {},
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "stop": [],
    "store": False,
    "temperature": 1,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1,
}
_CAPABILITY_OF_PART: Final = {"image_url": "vision", "input_audio": "audio", "file": "file"}


def fields_of(body: Mapping[str, Any]) -> frozenset[str]:
    """The top-level fields that an arm has to know to answer a request.

    Left out are the fields of `ALWAYS_SENT` and those at the API's own default: an arm that does
    not list these answers the same without them.
    """
    return frozenset(
        name
        for name, value in body.items()
        if name not in ALWAYS_SENT and (name not in _NEUTRAL or value != _NEUTRAL[name])
    )


def required_capabilities(body: Mapping[str, Any]) -> frozenset[str]:
    """What an arm has to be able to do: tools, json_schema, vision, audio, file, logprobs."""
    needed = {_CAPABILITY_OF_PART[kind] for kind in _part_kinds(body) if kind != "text"}
    if body.get("tools") or any(_speaks_of_tools(message) for message in body["messages"]):
        needed.add("tools")
    if body.get("response_format", {}).get("type", "text") != "text":
        needed.add("json_schema")
    if "audio" in body.get("modalities", ()) or "audio" in body:
        needed.add("audio")
    if body.get("logprobs", False):
        needed.add("logprobs")
    return frozenset(needed)


def media_parts(body: Mapping[str, Any]) -> int:
    """How many images, sounds and files the messages hold.

    Their price does not follow from their bytes (an image behind a short address can cost
    thousands of tokens), so the worst case of rule A_2 does not cover them.
    """
    return sum(1 for kind in _part_kinds(body) if kind in _CAPABILITY_OF_PART)


def _part_kinds(body: Mapping[str, Any]) -> Iterator[str]:
    """The type of every content part that is not plain text of the client's."""
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                yield part["type"] if part["type"] in _CAPABILITY_OF_PART else "text"


def _speaks_of_tools(message: Mapping[str, Any]) -> bool:
    """Whether a message is a tool call or a tool's result."""
    return message["role"] in ("tool", "function") or "tool_calls" in message
