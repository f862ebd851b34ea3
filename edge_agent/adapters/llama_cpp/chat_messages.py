"""The messages of a chat request, in the form that chat templates take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edge_agent.adapters.llama_cpp.sampling import invalid, unsupported
from shared.limits import MESSAGES_MAX

ARGUMENTS_DEPTH_MAX: Final = 48
_ROLES: Final = {
    "system": "system",
    # Chat templates know no developer; OpenAI defines it as the system role's successor.
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def parse_messages(value: object) -> tuple[Mapping[str, Any], ...]:
    """Check the messages of a chat-completions body; every `content` becomes a string.

    Raises
    ------
    ArmFailed
        `invalid_request` or `unsupported`, naming the field.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise invalid("messages", value, "it must be a list with at least one message")
    if len(value) > MESSAGES_MAX:
        remedy = f"at most {MESSAGES_MAX} messages are allowed"
        raise invalid("messages", f"a list of {len(value)}", remedy)
    called: dict[str, str] = {}
    return tuple(_message(f"messages[{index}]", item, called) for index, item in enumerate(value))


def _message(field: str, value: object, called: dict[str, str]) -> Mapping[str, Any]:
    """One message; `called` has the names of the functions called so far, by the call's id."""
    if not isinstance(value, Mapping):
        raise invalid(field, value, "a message must be an object")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"{field}.role", role, f"it must be one of {', '.join(_ROLES)}")
    content = value.get("content")
    if content is None and role == "assistant":
        content = ""
    message: dict[str, Any] = {
        "role": _ROLES[role],
        "content": _content(f"{field}.content", content),
    }
    name = value.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise invalid(f"{field}.name", name, "it must be a string")
        message["name"] = name
    if value.get("tool_calls"):
        message["tool_calls"] = _tool_calls(f"{field}.tool_calls", value["tool_calls"], called)
    if role == "tool":
        # Some templates want the call's id, others the function's name.
        call_id = value.get("tool_call_id")
        if not isinstance(call_id, str):
            raise invalid(f"{field}.tool_call_id", call_id, "it must be a string")
        message["tool_call_id"] = call_id
        message.setdefault("name", called.get(call_id, ""))
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
        raise unsupported(f"{field}.type", f"local models take text only, not {kind!r}")
    text = part.get("text")
    if not isinstance(text, str):
        raise invalid(f"{field}.text", text, "it must be a string")
    return text


def _tool_calls(field: str, value: object, called: dict[str, str]) -> list[dict[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise invalid(field, value, "it must be a list of calls")
    return [_tool_call(f"{field}[{index}]", call, called) for index, call in enumerate(value)]


def _tool_call(field: str, value: object, called: dict[str, str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise invalid(field, value, "a call must be an object")
    function, call_id = value.get("function"), value.get("id")
    if not isinstance(function, Mapping):
        raise unsupported(field, "local models know calls of functions only")
    name, arguments = function.get("name"), function.get("arguments", "{}")
    if not isinstance(name, str) or not name:
        raise invalid(f"{field}.function.name", name, "it must be a function's name")
    if not isinstance(call_id, str):
        raise invalid(f"{field}.id", call_id, "it must be a string")
    called[call_id] = name
    if isinstance(arguments, str):
        try:
            # Templates write them as JSON themselves.
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise invalid(f"{field}.function.arguments", arguments, f"no JSON: {error}") from error
    if _is_deeper(arguments, than=ARGUMENTS_DEPTH_MAX):
        remedy = f"it must be nested at most {ARGUMENTS_DEPTH_MAX} levels deep"
        raise invalid(f"{field}.function.arguments", "an object", remedy)
    return {
        "type": "function",
        "id": call_id,
        "function": {"name": name, "arguments": arguments},
    }


def _is_deeper(value: object, *, than: int) -> bool:
    """Whether lists and objects are nested deeper than that."""
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return than == 0 or any(_is_deeper(each, than=than - 1) for each in inside)
