"""JSON as clients send it and as it is sent on."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from edge_agent.json_bytes import parsed, written
from edge_agent.openai_request.checks import refusal


def _no_constant(name: str) -> NoReturn:
    """Refuse what Python's parser accepts and JSON does not have."""
    raise ValueError(f"{name} is not a JSON number")


# Made once: `json.loads` and `json.dumps` with settings of one's own make theirs at every call.
_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Bytes as a JSON object.

    Raises
    ------
    RequestRefused
        400 if they are no UTF-8, no JSON, or JSON of another type.
    """
    try:
        found = parsed(raw, otherwise=_DECODER)
    except UnicodeDecodeError as error:
        raise refusal(
            "invalid_json",
            f"the body is not UTF-8 (byte {error.start}): send JSON encoded as UTF-8",
            param=None,
        ) from None
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise refusal("invalid_json", f"the body is not JSON: {problem}", param=None) from None
    if not isinstance(found, dict):
        raise refusal("invalid_type", "the body must be a JSON object", param=None)
    return found


def serialise(body: object) -> bytes:
    """JSON without spaces, as UTF-8: the form in which a body is measured and sent."""
    return written(body, otherwise=_ENCODER)


def measured(body: object) -> int:
    """The length of a body as it is sent, in bytes.

    Raises
    ------
    RequestRefused
        400 if it cannot be sent.
    """
    try:
        return len(serialise(body))
    except UnicodeEncodeError:
        raise refusal(
            "invalid_json", "the body holds half of a surrogate pair, which is no text", param=None
        ) from None
