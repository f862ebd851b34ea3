"""What the Python scripts share: where the agent is, what is asked, how results are printed."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

BASE_URL = os.environ["BASE_URL"]
POOR_BASE_URL = os.environ["POOR_BASE_URL"]
API_KEY = os.environ["API_KEY"]

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SHAPE: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "schema": {
            "type": "object",
            "properties": {"good": {"type": "boolean"}},
            "required": ["good"],
            "additionalProperties": False,
        },
    },
}


def ask(text: str) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def failure(call: Callable[[], object]) -> dict[str, Any]:
    """The type of the error that a call ends with, and what is in it."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever a client raises is what is looked at
        response = getattr(error, "response", None)
        headers = getattr(response, "headers", None) or {}
        return {
            "types": [each.__name__ for each in type(error).__mro__],
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None),
            "param": getattr(error, "param", None),
            "retry_after": headers.get("retry-after"),
        }
    return {"types": []}


def print_found(checks: Mapping[str, Callable[[], object]]) -> None:
    """Run each check and print one JSON object with what they found."""
    found: dict[str, object] = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception:  # noqa: BLE001 - a check that fails must not hide the others
            found[name] = {"failed": traceback.format_exc()}
    json.dump(found, sys.stdout)
