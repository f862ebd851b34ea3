"""Grading an answer's text by rule: right or wrong, from the text and what was expected.

Patterns and schemas come from the fleet's configuration and the text from a model, so both go
through jsonschema-rs, whose regular expressions take linear time whatever they are held against.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from shared.decision.grading import Grader, GraderKind

_NUMBER: Final = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?\.?\d+(?:[eE][-+]?\d+)?")
Rule = Callable[[str, str], bool]
"""Whether a text, held against what was expected, is right."""


class AnswerGrader:
    """A grader, ready for one answer after the other.

    Raises
    ------
    ValueError
        When its pattern or its schema cannot be used; says why.
    """

    def __init__(self, grader: Grader) -> None:
        self.name = grader.name
        self._kind = grader.kind
        self._rule = _rule_of(grader)

    def problem(self, expected: str) -> str:
        """Why no answer could ever be held against this; empty if it can be."""
        if self._kind is GraderKind.NUMERIC and _last_number(expected) is None:
            return "a number"
        return "" if expected.strip() or not self._kind.needs_expected else "not empty"

    def can_grade(self, expected: str | None) -> bool:
        """Whether a request says all that is needed."""
        return expected is not None or not self._kind.needs_expected

    def grade(self, text: str, *, expected: str | None) -> float | None:
        """1 for a right answer, 0 for a wrong one, None where it cannot be told."""
        if not self.can_grade(expected):
            return None
        return float(self._rule(text, expected or ""))


def _rule_of(grader: Grader) -> Rule:
    def plain(text: str) -> str:
        return text.strip().casefold() if grader.ignore_case else text.strip()

    match grader.kind:
        case GraderKind.EXACT:
            return lambda text, expected: plain(text) == plain(expected)
        case GraderKind.CONTAINS:
            return lambda text, expected: plain(expected) in plain(text)
        case GraderKind.NUMERIC:
            return lambda text, expected: _near(grader, _last_number(text), _last_number(expected))
        case GraderKind.REGEX:
            found = _pattern(grader.pattern, ignore_case=grader.ignore_case)
            return lambda text, expected: bool(found.is_valid(text))
        case GraderKind.JSON_SCHEMA:
            fits = _validator(_json_schema(grader.schema))
            return lambda text, expected: _is_json(text, fits)


def _near(grader: Grader, found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return False
    allowed = max(grader.tolerance, grader.relative_tolerance * abs(expected))
    return abs(found - expected) <= allowed


def _last_number(text: str) -> float | None:
    """The last number of a text: where answers to sums end."""
    found = _NUMBER.findall(text)
    value = float(found[-1].replace(",", "")) if found else math.nan
    return value if math.isfinite(value) else None


def _pattern(text: str, *, ignore_case: bool) -> Any:
    flags = "(?i)" if ignore_case else ""
    try:
        return _validator({"type": "string", "pattern": flags + text})
    except ValueError:
        raise ValueError(
            f"{text!r} is no regular expression that takes linear time: check its brackets, and "
            "leave out look-around and back-references"
        ) from None


def _json_schema(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from None


def _validator(schema: Any) -> Any:
    """A validator that loads nothing from anywhere."""
    import jsonschema_rs  # noqa: PLC0415 - only where a task class has such a grader

    try:
        return jsonschema_rs.validator_for(
            schema, pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def _refuse(uri: str) -> NoReturn:
    raise ValueError(f"refers to {uri!r}; write the schema out")


def _is_json(text: str, fits: Any) -> bool:
    """Whether a text is JSON of a schema, perhaps within the fence that models like to put."""
    plain = text.strip()
    if plain.startswith("```") and plain.endswith("```"):
        plain = plain[3:-3].removeprefix("json")
    try:
        return bool(fits.is_valid(json.loads(plain)))
    except (ValueError, RecursionError):
        return False
