"""Checks of JSON values, put together from small ones; each names the field that it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from edge_agent.requests import RequestRefused

DEPTH_MAX: Final = 48
_SHOWN_CHARS_MAX: Final = 40

Check = Callable[[Any, str], Any]
"""Takes a value and its path; returns the value to use, or raises `RequestRefused`."""


def refusal(code: str, message: str, *, param: str | None) -> RequestRefused:
    """The 400 that a request at fault gets."""
    return RequestRefused(400, code, message, param=param)


def wrong_value(path: str, expected: str, value: object) -> RequestRefused:
    """The 400 for a value of the right type that is not allowed."""
    return refusal("invalid_value", f"'{path}' must be {expected}, not {_shown(value)}", param=path)


def wrong_type(path: str, expected: str, value: object) -> RequestRefused:
    """The 400 for a value of the wrong type."""
    return refusal("invalid_type", f"'{path}' must be {expected}, not {_shown(value)}", param=path)


def _shown(value: object) -> str:
    """A value as a client may see it: never a long text, which may be a prompt."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)[:_SHOWN_CHARS_MAX]
    if isinstance(value, str):
        if len(value) <= _SHOWN_CHARS_MAX:
            return repr(value)
        return f"a string of {len(value)} characters"
    if isinstance(value, list):
        return f"an array of {len(value)} items"
    return "an object"


def integer(low: int, high: int) -> Check:
    """A whole number from `low` to `high`."""
    expected = f"an integer from {low} to {high}"

    def check(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(path, expected, value)
        if not low <= value <= high:
            raise wrong_value(path, expected, value)
        return value

    return check


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`."""
    expected = f"a number from {low:g} to {high:g}"

    def check(value: Any, path: str) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(path, expected, value)
        if not low <= value <= high:
            raise wrong_value(path, expected, value)
        return value

    return check


def flag(value: Any, path: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong_type(path, "true or false", value)
    return value


def text(*, chars_min: int = 0, chars_max: int | None = None) -> Check:
    """A string whose length is within bounds."""
    expected = "a string"
    if chars_max is not None:
        expected += f" of {chars_min} to {chars_max} characters"
    elif chars_min > 0:
        expected += " that is not empty"

    def check(value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise wrong_type(path, expected, value)
        if len(value) < chars_min or (chars_max is not None and len(value) > chars_max):
            raise wrong_value(path, expected, value)
        return value

    return check


def one_of(*words: str) -> Check:
    """One of a few words."""
    expected = "one of " + ", ".join(repr(word) for word in words)

    def check(value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise wrong_type(path, expected, value)
        if value not in words:
            raise wrong_value(path, expected, value)
        return value

    return check


def array(item: Check, *, low: int, high: int, of: str) -> Check:
    """An array of `low` to `high` values that pass `item`."""
    expected = f"an array of {low} to {high} {of}"

    def check(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise wrong_type(path, expected, value)
        if not low <= len(value) <= high:
            raise wrong_value(path, expected, value)
        return [item(each, f"{path}[{index}]") for index, each in enumerate(value)]

    return check


def fields(known: Mapping[str, Check], *, required: Sequence[str] = ()) -> Check:
    """An object with no fields but the known ones; a null counts as absent and is left out."""

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong_type(path, "an object", value)
        checked: dict[str, Any] = {}
        for name, each in value.items():
            part = f"{path}.{name}" if path else name
            if name not in known:
                raise unknown_field(part, known)
            if each is not None:
                checked[name] = known[name](each, part)
        for name in required:
            if name not in checked:
                raise missing_field(f"{path}.{name}" if path else name)
        return checked

    return check


def unknown_field(path: str, known: Mapping[str, object]) -> RequestRefused:
    """The 400 for a field that the API does not have there."""
    shown = path if len(path) <= 2 * _SHOWN_CHARS_MAX else path[: 2 * _SHOWN_CHARS_MAX] + "..."
    return refusal(
        "unknown_parameter",
        f"'{shown}' is not a field of this API: remove it; known here are "
        + ", ".join(sorted(known)),
        param=shown,
    )


def missing_field(path: str) -> RequestRefused:
    """The 400 for a field that has to be there."""
    return refusal("missing_required_parameter", f"'{path}' is missing: set it", param=path)


def free_object(value: Any, path: str) -> dict[str, Any]:
    """An object whose inside is the business of whoever answers, such as a JSON schema."""
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    _check_inside(value, path, depth=1)
    return value


def _check_inside(value: Any, path: str, *, depth: int) -> None:
    """Refuse what could not be written as JSON again."""
    if depth > DEPTH_MAX:
        raise refusal(
            "invalid_value", f"'{path}' is nested deeper than {DEPTH_MAX} levels", param=path
        )
    if isinstance(value, dict):
        for each in value.values():
            _check_inside(each, path, depth=depth + 1)
    elif isinstance(value, list):
        for each in value:
            _check_inside(each, path, depth=depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise wrong_value(path, "free of numbers beyond a double's range", value)
