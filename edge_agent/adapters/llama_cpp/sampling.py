"""How the next token is drawn: the request's fields, checked and with defaults filled in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from edge_agent.ports import ArmFailed

LOGIT_BIAS_TOKENS_MAX: Final = 1024
GRAMMAR_CHARS_MAX: Final = 64 * 1024
TOP_LOGPROBS_MAX: Final = 20
_SEED_BITS: Final = 0xFFFF_FFFF

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repeat_penalty": (0.01, 10.0),
}


@dataclass(frozen=True)
class SamplingSettings:
    """The parameters of one sampler; llama.cpp's own defaults.

    Penalties look at the generated tokens only, not at the prompt.

    Attributes
    ----------
    temperature : float
        0 always takes the likeliest token.
    top_k : int
        0 means no limit.
    seed : int or None
        None draws a fresh one. Choice number `i` of a request uses `seed + i`.
    logit_bias : tuple of (int, float)
        Token id and what is added to its logit.
    grammar : str
        GBNF that the answer must follow; empty for none.
    json_schema : str
        JSON schema, as JSON, that the answer must follow; empty for none.
    logprobs : int or None
        How many of the likeliest tokens to tell with each token, and its own probability; None
        tells nothing. Probabilities are the model's own, before any other setting.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""
    json_schema: str = ""
    logprobs: int | None = None

    @property
    def penalises(self) -> bool:
        """Whether any penalty does something."""
        return (
            self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or self.repeat_penalty != 1.0
        )

    def for_choice(self, index: int) -> SamplingSettings:
        """The settings of one of several choices."""
        if self.seed is None or index == 0:
            return self
        return replace(self, seed=(self.seed + index) & _SEED_BITS)


def invalid(field: str, value: object, remedy: str) -> ArmFailed:
    """The failure of a request whose field no arm could accept."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    message = f"`{field}` is {shown}: {remedy}"
    return ArmFailed("invalid_request", message, client_error=True, param=field)


def unsupported(field: str, why: str) -> ArmFailed:
    """The failure of a request that asks local models for too much; another arm may take it."""
    return ArmFailed(
        "unsupported",
        f"`{field}`: {why}; leave it out, or choose an arm that supports it",
        param=field,
    )


def parse_sampling(body: Mapping[str, Any]) -> SamplingSettings:
    """The sampling fields of a chat request.

    Raises
    ------
    ArmFailed
        `invalid_request`, naming the first field that is wrong.
    """
    values: dict[str, Any] = {
        name: _number(name, body[name], low, high)
        for name, (low, high) in _RANGES.items()
        if body.get(name) is not None
    }
    if body.get("top_k") is not None:
        values["top_k"] = _integer("top_k", body["top_k"], low=0)
    if body.get("seed") is not None:
        values["seed"] = _integer("seed", body["seed"]) & _SEED_BITS
    if body.get("logit_bias"):
        values["logit_bias"] = _logit_bias(body["logit_bias"])
    if body.get("logprobs"):
        values["logprobs"] = _logprobs(body)
    values |= _shape(body)
    return SamplingSettings(**values)


def _number(field: str, value: object, low: float, high: float) -> float:
    remedy = f"it must be a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(field, value, remedy)
    if not math.isfinite(value) or not low <= value <= high:
        raise invalid(field, value, remedy)
    return float(value)


def _integer(field: str, value: object, *, low: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(field, value, "it must be a whole number")
    if low is not None and value < low:
        raise invalid(field, value, f"it must be at least {low}")
    return min(value, 2**31 - 1) if low is not None else value


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, Mapping) or len(value) > LOGIT_BIAS_TOKENS_MAX:
        remedy = f"it must map at most {LOGIT_BIAS_TOKENS_MAX} token ids to numbers"
        raise invalid("logit_bias", value, remedy)
    pairs = []
    for key, bias in value.items():
        if not str(key).isascii() or not str(key).isdigit():
            raise invalid("logit_bias", key, "its keys must be token ids")
        pairs.append((int(key), _number(f"logit_bias.{key}", bias, -100.0, 100.0)))
    return tuple(pairs)


def _logprobs(body: Mapping[str, Any]) -> int:
    if body["logprobs"] is not True:
        raise invalid("logprobs", body["logprobs"], "it must be true or false")
    top = _integer("top_logprobs", body.get("top_logprobs") or 0, low=0)
    if top > TOP_LOGPROBS_MAX:
        raise invalid("top_logprobs", top, f"it must be at most {TOP_LOGPROBS_MAX}")
    return top


def _shape(body: Mapping[str, Any]) -> dict[str, str]:
    """What the answer must look like: `grammar`, or `response_format`."""
    grammar, wanted = body.get("grammar"), body.get("response_format")
    if grammar is not None:
        if not isinstance(grammar, str) or len(grammar) > GRAMMAR_CHARS_MAX:
            remedy = f"it must be GBNF text of at most {GRAMMAR_CHARS_MAX} characters"
            raise invalid("grammar", grammar, remedy)
        return {"grammar": grammar}
    if wanted is None:
        return {}
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": '{"type":"object"}'}
    if kind == "json_schema":
        return {"json_schema": _schema(wanted)}
    remedy = "its `type` must be `text`, `json_object` or `json_schema`"
    raise invalid("response_format", wanted, remedy)


def _schema(wanted: Mapping[str, Any]) -> str:
    named = wanted.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    if not isinstance(schema, Mapping):
        raise invalid("response_format.json_schema.schema", schema, "it must be a JSON schema")
    text = json.dumps(schema)
    if len(text) > GRAMMAR_CHARS_MAX:
        remedy = f"the schema must have at most {GRAMMAR_CHARS_MAX} characters"
        raise invalid("response_format.json_schema.schema", schema, remedy)
    return text
