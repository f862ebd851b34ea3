"""JSON as bytes: by orjson, and by the standard library what orjson does not take."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any

import orjson


def parsed(raw: bytes, *, otherwise: json.JSONDecoder) -> Any:
    """A value from UTF-8; a byte-order mark before it is passed over.

    A whole number beyond 64 bits becomes the nearest double, as for most readers of JSON.

    Parameters
    ----------
    otherwise : json.JSONDecoder
        Reads what is no strict JSON: constants such as NaN, half a surrogate pair, and whatever is
        refused, so that the error is the standard library's.

    Raises
    ------
    ValueError
        If it is no UTF-8 (`UnicodeDecodeError`) or no JSON.
    RecursionError
        If it is nested too deeply.
    """
    raw = raw.removeprefix(BOM_UTF8)
    try:
        return orjson.loads(raw)
    except ValueError:
        return otherwise.decode(raw.decode("utf-8"))


def written(data: object, *, otherwise: json.JSONEncoder) -> bytes:
    """A value as UTF-8, without spaces; a number that is none, such as NaN, becomes null.

    Parameters
    ----------
    otherwise : json.JSONEncoder
        Writes what orjson does not: half a surrogate pair, and numbers beyond 64 bits.

    Raises
    ------
    UnicodeEncodeError
        If `otherwise` leaves half a surrogate pair as it is, for which UTF-8 has no bytes.
    """
    try:
        return orjson.dumps(data)
    except TypeError:
        return otherwise.encode(data).encode()
