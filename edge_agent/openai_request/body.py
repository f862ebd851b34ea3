"""The body of `/v1/chat/completions`: every field of the API with its check."""

from __future__ import annotations

from typing import Any, Final

from edge_agent.openai_request.checks import (
    Check,
    array,
    fields,
    flag,
    free_object,
    integer,
    missing_field,
    number,
    one_of,
    refusal,
    text,
    unknown_field,
    wrong_type,
    wrong_value,
)
from edge_agent.openai_request.json_text import measured, parse_object
from edge_agent.openai_request.messages import ID_CHARS, MESSAGES, NAME_CHARS
from shared.limits import MAX_TOKENS_MAX, N_MAX, NAME_CHARS_MAX
from shared.rows import quick_dataclass

TOOLS_MAX: Final = 128
STOPS_MAX: Final = 4
STOP_CHARS_MAX: Final = 256
METADATA_PAIRS_MAX: Final = 16
LOGIT_BIASES_MAX: Final = 1_024
TOKEN_ID_DIGITS_MAX: Final = 10
TOP_LOGPROBS_MAX: Final = 20
TOP_K_MAX: Final = 1_000_000
GRAMMAR_CHARS_MAX: Final = 64 * 1024
_SEED_MAX: Final = 2**63 - 1


@quick_dataclass(frozen=True)
class CheckedBody:
    """A chat request's body, checked field by field.

    Attributes
    ----------
    body : dict
        Without nulls, and with `max_completion_tokens` under its older name `max_tokens`.
    body_bytes : int
        Length of the body as it is sent, which goes into the worst case (rule A_2).
    """

    body: dict[str, Any]
    body_bytes: int
    model: str
    stream: bool
    include_usage: bool


def _stop(value: Any, path: str) -> str | list[Any]:
    """One text or up to four that end an answer."""
    one = text(chars_min=1, chars_max=STOP_CHARS_MAX)
    if isinstance(value, str):
        return str(one(value, path))
    if not isinstance(value, list):
        raise wrong_type(path, f"a string or an array of up to {STOPS_MAX} strings", value)
    checked: list[Any] = array(one, low=0, high=STOPS_MAX, of="strings")(value, path)
    return checked


def _logit_bias(value: Any, path: str) -> dict[str, Any]:
    """Token ids with a bias from -100 to 100."""
    if not isinstance(value, dict):
        raise wrong_type(path, "an object of token ids and biases", value)
    if len(value) > LOGIT_BIASES_MAX:
        raise wrong_value(path, f"an object of at most {LOGIT_BIASES_MAX} token ids", value)
    for token in value:
        if not (token.isascii() and token.isdigit() and len(token) <= TOKEN_ID_DIGITS_MAX):
            raise wrong_value(path, "an object whose names are token ids such as '50256'", token)
    return {token: number(-100, 100)(bias, f"{path}.{token}") for token, bias in value.items()}


def _metadata(value: Any, path: str) -> dict[str, Any]:
    """Up to 16 pairs of short texts."""
    if not isinstance(value, dict):
        raise wrong_type(path, "an object of strings", value)
    if len(value) > METADATA_PAIRS_MAX or any(len(name) > 64 for name in value):
        expected = f"at most {METADATA_PAIRS_MAX} strings with names of at most 64 characters"
        raise wrong_value(path, expected, value)
    return {name: text(chars_max=512)(each, f"{path}.{name}") for name, each in value.items()}


_FUNCTION: Final = fields(
    {
        "name": NAME_CHARS,
        "description": text(),
        "parameters": free_object,
        "strict": flag,
    },
    required=["name"],
)
_CUSTOM: Final = fields(
    {"name": NAME_CHARS, "description": text(), "format": free_object}, required=["name"]
)


def _tool(value: Any, path: str) -> dict[str, Any]:
    """A function or a custom tool."""
    checked: dict[str, Any] = fields(
        {"type": one_of("function", "custom"), "function": _FUNCTION, "custom": _CUSTOM},
        required=["type"],
    )(value, path)
    if checked["type"] not in checked:
        raise missing_field(f"{path}.{checked['type']}")
    return checked


def _tool_choice(value: Any, path: str) -> str | dict[str, Any]:
    """A word, or the tool that has to be called."""
    if isinstance(value, str):
        return str(one_of("none", "auto", "required")(value, path))
    if not isinstance(value, dict):
        raise wrong_type(path, "'none', 'auto', 'required' or an object that names a tool", value)
    one_of("function", "custom", "allowed_tools")(value.get("type"), f"{path}.type")
    return free_object(value, path)


def _response_format(value: Any, path: str) -> dict[str, Any]:
    """Text, any JSON object, or JSON of a given schema."""
    checked: dict[str, Any] = fields(
        {
            "type": one_of("text", "json_object", "json_schema"),
            "json_schema": fields(
                {"name": NAME_CHARS, "description": text(), "schema": free_object, "strict": flag},
                required=["name"],
            ),
        },
        required=["type"],
    )(value, path)
    if (checked["type"] == "json_schema") != ("json_schema" in checked):
        raise refusal(
            "invalid_value",
            f"'{path}.json_schema' goes with the type 'json_schema' and with no other",
            param=f"{path}.json_schema",
        )
    return checked


_MAX_TOKENS: Final = integer(1, MAX_TOKENS_MAX)
FIELDS: Final[dict[str, Check]] = {
    "model": text(chars_min=1, chars_max=NAME_CHARS_MAX),
    "messages": MESSAGES,
    "audio": free_object,
    "frequency_penalty": number(-2, 2),
    "logit_bias": _logit_bias,
    "logprobs": flag,
    "max_completion_tokens": _MAX_TOKENS,
    "max_tokens": _MAX_TOKENS,
    "metadata": _metadata,
    "modalities": array(one_of("text", "audio"), low=1, high=2, of="words"),
    "moderation": free_object,
    "n": integer(1, N_MAX),
    "parallel_tool_calls": flag,
    "prediction": free_object,
    "presence_penalty": number(-2, 2),
    "prompt_cache_key": ID_CHARS,
    "prompt_cache_options": free_object,
    "prompt_cache_retention": one_of("in_memory", "24h"),
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "response_format": _response_format,
    "safety_identifier": ID_CHARS,
    "seed": integer(-_SEED_MAX - 1, _SEED_MAX),
    "service_tier": one_of("auto", "default", "flex", "scale", "priority", "fast"),
    "stop": _stop,
    "store": flag,
    "stream": flag,
    "stream_options": fields({"include_usage": flag, "include_obfuscation": flag}),
    "temperature": number(0, 2),
    "tool_choice": _tool_choice,
    "tools": array(_tool, low=0, high=TOOLS_MAX, of="tools"),
    "top_logprobs": integer(0, TOP_LOGPROBS_MAX),
    "top_p": number(0, 1),
    "user": ID_CHARS,
    "verbosity": one_of("low", "medium", "high"),
    "web_search_options": free_object,
    # Not OpenAI's: llama.cpp's own, by the names that its server and others gave them.
    "grammar": text(chars_min=1, chars_max=GRAMMAR_CHARS_MAX),
    "min_p": number(0, 1),
    "repeat_penalty": number(0.01, 10),
    "top_k": integer(0, TOP_K_MAX),
}
_SUPERSEDED: Final = {"functions": "tools", "function_call": "tool_choice"}


def parse_body(raw: bytes) -> CheckedBody:
    """Check the body of a chat request.

    Raises
    ------
    RequestRefused
        400 that names the field at fault and what would be right.
    """
    parsed = parse_object(raw)
    body: dict[str, Any] = {}
    for name, value in parsed.items():
        if name in _SUPERSEDED:
            message = f"'{name}' is no longer supported: use '{_SUPERSEDED[name]}'"
            raise refusal("unsupported_parameter", message, param=name)
        if name not in FIELDS:
            raise unknown_field(name, FIELDS)
        if value is not None:
            body[name] = FIELDS[name](value, name)
    for name in ("model", "messages"):
        if name not in body:
            raise missing_field(name)
    return checked_body(body)


def checked_body(body: dict[str, Any]) -> CheckedBody:
    """Fields that were checked one by one, checked against each other and measured.

    Raises
    ------
    RequestRefused
        400 that names the field at fault.
    """
    _settle_pairs(body)
    return CheckedBody(
        body=body,
        body_bytes=measured(body),
        model=body["model"],
        stream=body.get("stream", False),
        include_usage=body.get("stream_options", {}).get("include_usage", False),
    )


def _settle_pairs(body: dict[str, Any]) -> None:
    """Check the fields that depend on each other, and keep one spelling of each."""
    newer = body.pop("max_completion_tokens", None)
    if newer is not None and body.setdefault("max_tokens", newer) != newer:
        raise refusal(
            "invalid_value",
            f"'max_completion_tokens' ({newer}) and 'max_tokens' ({body['max_tokens']}) are two "
            "names of one limit: send one of them",
            param="max_completion_tokens",
        )
    if "stream_options" in body and not body.get("stream", False):
        raise _needs("stream_options", "'stream' to be true")
    if body.get("top_logprobs", 0) > 0 and not body.get("logprobs", False):
        raise _needs("top_logprobs", "'logprobs' to be true")
    if not body.get("tools", True):
        del body["tools"]
    if "tools" not in body and body.get("tool_choice") in ("none", "auto"):
        del body["tool_choice"]
    if "tool_choice" in body and "tools" not in body:
        raise _needs("tool_choice", "'tools'")


def _needs(name: str, other: str) -> Exception:
    """The 400 for a field that makes no sense without another."""
    return refusal("invalid_value", f"'{name}' needs {other}", param=name)
