"""A chat request as the worker takes it: checked once, at the agent's side of the pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from edge_agent.adapters.llama_cpp.sampling import SamplingSettings, invalid, parse_sampling
from edge_agent.ports import ArmFailed
from shared.limits import MAX_TOKENS_MAX, MESSAGES_MAX, N_MAX

STOP_STRINGS_MAX: Final = 16
STOP_CHARS_MAX: Final = 256

_ROLES: Final = {
    "system": "system",
    # Chat templates know no developer; OpenAI defines it as the system role's successor.
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_WITHOUT_EFFECT: Final = frozenset(
    {
        "metadata",
        "model",
        "parallel_tool_calls",
        "prompt_cache_key",
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
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "min_p",
        "n",
        "presence_penalty",
        "repeat_penalty",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_p",
    }
)
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([], ()),
    "functions": ([], ()),
    "tool_choice": ("none", "auto"),
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
    max_tokens : int or None
        None means as much as fits the context.
    n : int
        How many answers; they share the prompt.
    """

    messages: tuple[Mapping[str, Any], ...]
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
        return ChatSpec(
            messages=tuple(data["messages"]),
            sampling=SamplingSettings(**sampling),
            stop=tuple(data["stop"]),
            max_tokens=data["max_tokens"],
            n=data["n"],
        )


def parse_chat(body: Mapping[str, Any]) -> ChatSpec:
    """Check a chat-completions body.

    Raises
    ------
    ArmFailed
        `invalid_request`. A wrong value is the client's error; a field that only this backend
        cannot serve is not, so that another arm may be tried.
    """
    for name, value in body.items():
        if name in _USED or name in _WITHOUT_EFFECT or value is None:
            continue
        if value not in _NEUTRAL.get(name, ()):
            raise ArmFailed(
                "invalid_request",
                f"`{name}` is not supported by local models: leave it out, "
                "or choose a cloud arm that supports it",
            )
    return ChatSpec(
        messages=_messages(body.get("messages")),
        sampling=parse_sampling(body),
        stop=_stop(body.get("stop")),
        max_tokens=_max_tokens(body),
        n=_count("n", body.get("n"), N_MAX) or 1,
    )


def _messages(value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise invalid("messages", value, "it must be a list with at least one message")
    if len(value) > MESSAGES_MAX:
        remedy = f"at most {MESSAGES_MAX} messages are allowed"
        raise invalid("messages", f"a list of {len(value)}", remedy)
    return tuple(_message(f"messages[{index}]", item) for index, item in enumerate(value))


def _message(field: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise invalid(field, value, "a message must be an object")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"{field}.role", role, f"it must be one of {', '.join(_ROLES)}")
    content = value.get("content")
    if content is None and role == "assistant":
        content = ""
    message = {"role": _ROLES[role], "content": _content(f"{field}.content", content)}
    name = value.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise invalid(f"{field}.name", name, "it must be a string")
        message["name"] = name
    if value.get("tool_calls"):
        raise ArmFailed(
            "invalid_request",
            f"`{field}.tool_calls` is not supported by local models: choose a cloud arm",
        )
    return message


def _content(field: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        raise invalid(field, value, "it must be a string or a list of text parts")
    return "".join(_part(f"{field}[{index}]", part) for index, part in enumerate(value))


def _part(field: str, part: object) -> str:
    if not isinstance(part, Mapping):
        raise invalid(field, part, "a content part must be an object")
    kind = part.get("type")
    if kind != "text":
        raise ArmFailed(
            "invalid_request",
            f"`{field}.type` is {kind!r}: local models take parts of type `text` only; "
            "choose a cloud arm for others",
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise invalid(f"{field}.text", text, "it must be a string")
    return text


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
