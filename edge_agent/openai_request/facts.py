"""What a checked body asks of an arm."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edge_agent.candidates import CHAT, EMBEDDINGS, RequestFacts
from edge_agent.openai_request.json_text import serialise
from edge_agent.requests import (
    MODEL_AUTO,
    NO_ORIGIN,
    ClientRequest,
    RequestKind,
    TaskOrigin,
)
from shared.decision.types import TaskClass

ALWAYS_SENT: Final = frozenset(
    {"model", "messages", "input", "stream", "stream_options", "max_tokens"}
)
"""Fields that every arm takes: what the API cannot do without, and what the agent sets itself."""
SYSTEM_CHARS_READ: Final = 512

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
    "service_tier": "auto",
    "stop": [],
    "store": False,
    "temperature": 1,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1,
    "verbosity": "medium",
}
_CAPABILITY_OF_PART: Final = {"image_url": "vision", "input_audio": "audio", "file": "file"}


def facts_of(
    request: ClientRequest,
    *,
    task: TaskClass,
    origin: TaskOrigin = NO_ORIGIN,
    only_embedder: str = "",
) -> RequestFacts:
    """Everything about a request that matters for the choice of an arm.

    Parameters
    ----------
    task : TaskClass
        The request's, or `other`; `origin` says how it was found.
    only_embedder : str
        The arm that embeddings come from where the client named none. Vectors of different models
        have nothing in common, so such an arm is never drawn.
    """
    deadline_ms = request.deadline_ms if request.deadline_ms is not None else task.deadline_ms
    common: dict[str, Any] = {
        "request_id": request.request_id,
        "task_class": task.id,
        "arrived_unix_ms": request.arrived_unix_ms,
        "deadline_ms": deadline_ms,
        "body_bytes": request.body_bytes,
        "pinned_arm": "" if request.model == MODEL_AUTO else request.model,
        "privacy_local": request.privacy_local or task.privacy_local,
        "fields": fields_of(request.body),
        "tag": request.tag,
        "key_tag": request.key_tag,
        "expected": request.expected,
        "max_cost_nanos": request.max_cost_nanos,
        "origin": origin,
    }
    if request.kind is RequestKind.EMBEDDINGS:
        common["pinned_arm"] = common["pinned_arm"] or only_embedder
        return RequestFacts(**common, **_embeddings_facts(request.body))
    facts = _chat_facts(request.body)
    if request.model == MODEL_AUTO:
        facts["turn"], facts["goes_on_from"] = turns_of(request.body["messages"])
    return RequestFacts(**common, **facts)


def _chat_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    messages = body["messages"]
    return {
        "messages": len(messages),
        "prompt_bytes": sum([_text_bytes(message.get("content")) for message in messages]),
        "media_parts": media_parts(body),
        "capabilities": required_capabilities(body) | {CHAT},
        "max_tokens": body.get("max_tokens"),
        "n": body.get("n", 1),
    }


def _embeddings_facts(body: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing is generated, so the worst case is that of the input alone (rule A_2)."""
    texts = body["input"]
    as_tokens = isinstance(texts[0], list)
    return {
        "messages": len(texts),
        "prompt_bytes": max(map(_text_bytes, texts)),
        "capabilities": frozenset({EMBEDDINGS, "token_input"} if as_tokens else {EMBEDDINGS}),
        "max_tokens": 0,
    }


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What tells of which class a chat is: how its instructions begin, and what was asked last."""
    system = [each for each in messages if each["role"] in ("system", "developer")]
    asked = [each for each in messages if each["role"] == "user"]
    head = "\n".join(_texts(system[0].get("content")))[:SYSTEM_CHARS_READ] if system else ""
    last = "\n".join(_texts(asked[-1].get("content"))) if asked else ""
    return "\n\n".join(filter(None, (head, last)))


def _text_bytes(content: object) -> int:
    """Length of a text, or of a message's text parts, in UTF-8."""
    if isinstance(content, str):
        return len(content.encode())
    return sum(len(text.encode()) for text in _texts(content))


def _texts(content: object) -> list[str]:
    """A text, or the text parts of a message."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and "text" in part]


def fields_of(body: Mapping[str, Any]) -> frozenset[str]:
    """The top-level fields that an arm has to know to answer a request.

    Left out are the fields of `ALWAYS_SENT` and those at the API's own default: an arm that does
    not list these answers the same without them.
    """
    return frozenset(
        [
            name
            for name, value in body.items()
            if name not in ALWAYS_SENT and (name not in _NEUTRAL or value != _NEUTRAL[name])
        ]
    )


def required_capabilities(body: Mapping[str, Any]) -> frozenset[str]:
    """What an arm has to be able to do: tools, json_schema, vision, audio, file, logprobs."""
    needed = {_CAPABILITY_OF_PART[kind] for kind in _media_kinds(body)}
    if body.get("tools") or any(map(_speaks_of_tools, body["messages"])):
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
    return len(_media_kinds(body))


def _media_kinds(body: Mapping[str, Any]) -> list[str]:
    """The type of every content part that is more than text."""
    contents = [message.get("content") for message in body["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part["type"] for part in parts if part["type"] in _CAPABILITY_OF_PART]


def _speaks_of_tools(message: Mapping[str, Any]) -> bool:
    """Whether a message is a tool call or a tool's result."""
    return message["role"] in ("tool", "function") or "tool_calls" in message


def turns_of(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The ids of a conversation's present turn and of the one before, if it is not the first.

    A turn's id is a hash of all its messages. The turn before ended with the assistant's last
    message, so it consists of what comes ahead of that.
    """
    last = max([i for i, each in enumerate(messages) if each["role"] == "assistant"], default=0)
    hashed, before = hashlib.blake2b(digest_size=16), ""
    for index, message in enumerate(messages):
        if index == last and index:
            before = hashed.hexdigest()
        content = message.get("content")
        plain = isinstance(content, str) and len(message) == 2
        hashed.update(f"{message['role']} {content}".encode() if plain else serialise(message))
        hashed.update(b"\0")
    return hashed.hexdigest(), before
