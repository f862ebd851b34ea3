"""Checks of the `messages` of a chat request, role by role."""

from __future__ import annotations

from typing import Any, Final

from edge_agent.openai_request.checks import (
    Check,
    array,
    fields,
    free_object,
    missing_field,
    one_of,
    refusal,
    text,
    unknown_field,
    wrong_type,
    wrong_value,
)
from shared.limits import MESSAGES_MAX

PARTS_MAX: Final = 1_024
TOOL_CALLS_MAX: Final = 128
NAME_CHARS: Final = text(chars_min=1, chars_max=64)
ID_CHARS: Final = text(chars_min=1, chars_max=256)


def _url(value: Any, path: str) -> str:
    """An address that a vision model can load."""
    checked: str = text(chars_min=1)(value, path)
    if not checked.startswith(("data:", "http://", "https://")):
        raise wrong_value(path, "a data:, http: or https: address", value)
    return checked


_IMAGE: Final = fields(
    {"url": _url, "detail": one_of("auto", "low", "high", "original")}, required=["url"]
)
_AUDIO: Final = fields(
    {"data": text(chars_min=1), "format": one_of("wav", "mp3")}, required=["data", "format"]
)
_FILE: Final = fields({"file_data": text(), "file_id": text(), "filename": text()})

_PARTS: Final[dict[str, tuple[str, Check]]] = {
    "text": ("text", text()),
    "image_url": ("image_url", _IMAGE),
    "input_audio": ("input_audio", _AUDIO),
    "file": ("file", _FILE),
    "refusal": ("refusal", text()),
}
_PARTS_OF_ROLE: Final[dict[str, tuple[str, ...]]] = {
    "developer": ("text",),
    "system": ("text",),
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
    "function": (),
}

_TOOL_CALL: Final = fields(
    {
        "id": ID_CHARS,
        "type": one_of("function", "custom"),
        "function": fields({"name": NAME_CHARS, "arguments": text()}, required=["name"]),
        "custom": fields({"name": NAME_CHARS, "input": text()}, required=["name"]),
    },
    required=["id", "type"],
)


def _content(role: str) -> Check:
    """A text, or an array of the parts that a role may have."""
    allowed = _PARTS_OF_ROLE[role]
    kind_of = one_of(*allowed)

    def part(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong_type(path, "an object such as {'type': 'text', 'text': '...'}", value)
        kind = kind_of(value.get("type"), f"{path}.type")
        name, check = _PARTS[kind]
        checked: dict[str, Any] = fields({"type": text(), name: check}, required=[name])(
            value, path
        )
        return checked

    parts = array(part, low=1, high=PARTS_MAX, of="content parts")

    def check(value: Any, path: str) -> str | list[Any]:
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not allowed:
            raise wrong_type(path, "a string or an array of content parts", value)
        checked: list[Any] = parts(value, path)
        return checked

    return check


def _tool_call(value: Any, path: str) -> dict[str, Any]:
    """A call that the assistant made earlier, with the part that its type names."""
    checked: dict[str, Any] = _TOOL_CALL(value, path)
    if checked["type"] not in checked:
        raise missing_field(f"{path}.{checked['type']}")
    return checked


_COMMON: Final[dict[str, Check]] = {"role": text(), "name": NAME_CHARS}
_SENT_BACK: Final[dict[str, Check]] = {
    "annotations": array(free_object, low=0, high=PARTS_MAX, of="annotations"),
    "reasoning": text(),
    "reasoning_content": text(),
    "reasoning_details": array(free_object, low=0, high=PARTS_MAX, of="reasoning details"),
}
"""Parts of answers that clients send back with the next turn: no model reads them again, some
endpoints refuse them, and so they are left out."""
_FIELDS_OF_ROLE: Final[dict[str, dict[str, Check]]] = {
    "developer": {**_COMMON, "content": _content("developer")},
    "system": {**_COMMON, "content": _content("system")},
    "user": {**_COMMON, "content": _content("user")},
    "assistant": {
        **_COMMON,
        "content": _content("assistant"),
        "refusal": text(),
        "tool_calls": array(_tool_call, low=0, high=TOOL_CALLS_MAX, of="tool calls"),
        "function_call": fields({"name": NAME_CHARS, "arguments": text()}, required=["name"]),
        "audio": fields({"id": ID_CHARS}, required=["id"]),
        **_SENT_BACK,
    },
    # Its name is in no specification and in many examples: OpenAI takes it, some templates read it.
    "tool": {**_COMMON, "content": _content("tool"), "tool_call_id": ID_CHARS},
    "function": {**_COMMON, "content": _content("function")},
}
_ROLE: Final = one_of(*_FIELDS_OF_ROLE)
_REQUIRED_OF_ROLE: Final[dict[str, tuple[str, ...]]] = {
    "developer": ("content",),
    "system": ("content",),
    "user": ("content",),
    "assistant": (),
    "tool": ("content", "tool_call_id"),
    "function": ("name", "content"),
}
_ASSISTANT_SAYS: Final = ("content", "refusal", "tool_calls", "function_call", "audio")


def _message(value: Any, path: str) -> dict[str, Any]:
    """One message, checked by the rules of its role."""
    if not isinstance(value, dict):
        raise wrong_type(path, "an object with 'role' and 'content'", value)
    if value.get("role") is None:
        raise missing_field(f"{path}.role")
    role = _ROLE(value["role"], f"{path}.role")
    known = _FIELDS_OF_ROLE[role]
    checked: dict[str, Any] = {}
    for name, each in value.items():
        if name not in known:
            raise unknown_field(f"{path}.{name}", known)
        if each is not None:
            checked[name] = known[name](each, f"{path}.{name}")
    for name in _REQUIRED_OF_ROLE[role]:
        if name not in checked:
            raise missing_field(f"{path}.{name}")
    if role == "assistant":
        _tidy_assistant(checked, path)
    return checked


def _tidy_assistant(message: dict[str, Any], path: str) -> None:
    """Leave out what is empty, and refuse an assistant that says nothing at all."""
    for name in _SENT_BACK:
        message.pop(name, None)
    if not message.get("tool_calls", True):
        del message["tool_calls"]
    if not any(name in message for name in _ASSISTANT_SAYS):
        raise refusal(
            "missing_required_parameter",
            f"set '{path}.content' or '{path}.tool_calls': this message says nothing",
            param=f"{path}.content",
        )


MESSAGES: Final = array(_message, low=1, high=MESSAGES_MAX, of="messages")
