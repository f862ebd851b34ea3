"""A chat request as the worker takes it: checked once, at the agent's side of the pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from edge_agent.adapters.llama_cpp.chat_messages import parse_messages
from edge_agent.adapters.llama_cpp.sampling import (
    SamplingSettings,
    invalid,
    parse_sampling,
    unsupported,
)
from edge_agent.adapters.llama_cpp.tools import ToolRequest, parse_tools
from shared.limits import MAX_TOKENS_MAX, N_MAX

STOP_STRINGS_MAX: Final = 16
STOP_CHARS_MAX: Final = 256

_WITHOUT_EFFECT: Final = frozenset(
    {
        "metadata",
        "model",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)
_USED: Final = frozenset(
    {
        "frequency_penalty",
        "grammar",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "min_p",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt",
        "repeat_penalty",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "functions": ([], ()),
    "function_call": ("none", "auto"),
    "modalities": (["text"], ("text",)),
}
"""Values of fields that are not supported here with which they ask for nothing."""


@dataclass(frozen=True)
class ChatSpec:
    """One checked chat request.

    Attributes
    ----------
    messages : tuple of mapping
        As the chat template takes them; every `content` is a string.
    prompt : str or None
        Text to continue as it is, without a template; there are no messages then.
    tools : ToolRequest or None
        What may be called.
    max_tokens : int or None
        None means as much as fits the context.
    n : int
        How many answers; they share the prompt.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    tools: ToolRequest | None = None
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    n: int = 1

    def to_json(self) -> dict[str, Any]:
        """The request as a frame carries it."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ChatSpec:
        """The inverse of `to_json`."""
        sampling = dict(data["sampling"])
        sampling["logit_bias"] = tuple((token, bias) for token, bias in sampling["logit_bias"])
        tools = data["tools"]
        return ChatSpec(
            messages=tuple(data["messages"]),
            prompt=data["prompt"],
            tools=None
            if tools is None
            else ToolRequest(**{**tools, "tools": tuple(tools["tools"])}),
            sampling=SamplingSettings(**sampling),
            stop=tuple(data["stop"]),
            max_tokens=data["max_tokens"],
            n=data["n"],
        )


def parse_chat(body: Mapping[str, Any]) -> ChatSpec:
    """Check a chat-completions body; with `prompt` instead of `messages`, text is continued.

    Raises
    ------
    ArmFailed
        `invalid_request` for a wrong value, which is the client's error, and `unsupported` for
        what only this backend cannot serve, so that another arm may be tried.
    """
    for name, value in body.items():
        if name in _USED or name in _WITHOUT_EFFECT or value is None:
            continue
        if value not in _NEUTRAL.get(name, ()):
            raise unsupported(name, "local models do not know it")
    tools = parse_tools(body)
    if tools is not None and body.get("grammar") is not None:
        raise unsupported("grammar", "it cannot hold beside `tools`")
    prompt = body.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise invalid("prompt", prompt, "it must be a string")
    return ChatSpec(
        messages=parse_messages(body.get("messages")) if prompt is None else (),
        prompt=prompt,
        tools=tools,
        sampling=parse_sampling(body),
        stop=_stop(body.get("stop")),
        max_tokens=_max_tokens(body),
        n=_count("n", body.get("n"), N_MAX) or 1,
    )


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, Sequence) or len(words) > STOP_STRINGS_MAX:
        remedy = f"it must be a string or a list of at most {STOP_STRINGS_MAX} strings"
        raise invalid("stop", value, remedy)
    for word in words:
        if not isinstance(word, str) or not 0 < len(word) <= STOP_CHARS_MAX:
            remedy = f"a stop string must have 1 to {STOP_CHARS_MAX} characters"
            raise invalid("stop", word, remedy)
    return tuple(words)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    newer = _count("max_completion_tokens", body.get("max_completion_tokens"), MAX_TOKENS_MAX)
    older = _count("max_tokens", body.get("max_tokens"), MAX_TOKENS_MAX)
    limits = [limit for limit in (newer, older) if limit is not None]
    return min(limits) if limits else None


def _count(field: str, value: object, high: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise invalid(field, value, f"it must be a whole number from 1 to {high}")
    return value
