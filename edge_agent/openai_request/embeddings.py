"""The body of `/v1/embeddings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edge_agent.openai_request.body import CheckedBody
from edge_agent.openai_request.checks import (
    Check,
    array,
    fields,
    integer,
    one_of,
    text,
    wrong_type,
)
from edge_agent.openai_request.json_text import measured, parse_object
from edge_agent.openai_request.messages import ID_CHARS
from shared.limits import EMBEDDING_INPUTS_MAX, NAME_CHARS_MAX

DIMENSIONS_MAX: Final = 65_536
TOKENS_MAX: Final = 1_000_000
_TOKENS: Final = array(integer(0, 2**31 - 1), low=1, high=TOKENS_MAX, of="token ids")
_TEXT: Final = text(chars_min=1)


@dataclass(frozen=True)
class CheckedEmbeddings:
    """A request for embeddings.

    Attributes
    ----------
    body : CheckedBody
        `input` is always an array; `encoding_format` is left out, since the agent sees to it.
    as_base64 : bool
        Whether the client wants each vector as base64 of little-endian float32.
    """

    body: CheckedBody
    as_base64: bool


def _input(value: Any, path: str) -> list[Any]:
    """Texts, or texts as token ids: one or several."""
    if isinstance(value, str):
        return [_TEXT(value, path)]
    if not isinstance(value, list):
        raise wrong_type(path, "a string or an array of strings", value)
    if value and all(isinstance(each, int) for each in value):
        return [_TOKENS(value, path)]
    of_tokens = bool(value) and isinstance(value[0], list)
    one = _TOKENS if of_tokens else _TEXT
    checked: list[Any] = array(one, low=1, high=EMBEDDING_INPUTS_MAX, of="texts")(value, path)
    return checked


_FIELDS: Final[Mapping[str, Check]] = {
    "dimensions": integer(1, DIMENSIONS_MAX),
    "encoding_format": one_of("float", "base64"),
    "input": _input,
    "model": text(chars_min=1, chars_max=NAME_CHARS_MAX),
    "user": ID_CHARS,
}
_BODY: Final = fields(_FIELDS, required=["model", "input"])


def parse_embeddings(raw: bytes) -> CheckedEmbeddings:
    """Check the body of a request for embeddings.

    Raises
    ------
    RequestRefused
        400 that names the field at fault and what would be right.
    """
    body: dict[str, Any] = _BODY(parse_object(raw), "")
    as_base64 = body.pop("encoding_format", "float") == "base64"
    return CheckedEmbeddings(
        CheckedBody(
            body=body,
            body_bytes=measured(body),
            model=body["model"],
            stream=False,
            include_usage=False,
        ),
        as_base64=as_base64,
    )
