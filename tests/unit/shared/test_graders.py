"""Grading an answer's text by rule."""

from __future__ import annotations

import pytest

from shared.decision.graders import AnswerGrader
from shared.decision.grading import Grader, GraderKind

PERSON = '{"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}'


def grade(text: str, expected: str | None = None, **grader: object) -> float | None:
    """What a grader says of a text."""
    made = Grader(name="g", **grader)  # type: ignore[arg-type]
    return AnswerGrader(made).grade(text, expected=expected)


@pytest.mark.parametrize(
    ("text", "expected", "ignore_case", "score"),
    [
        ("Paris", "Paris", False, 1.0),
        ("  Paris\n", "Paris", False, 1.0),
        ("paris", "Paris", False, 0.0),
        ("PARIS", "paris", True, 1.0),
        ("Straße", "STRASSE", True, 1.0),
        ("Paris.", "Paris", False, 0.0),
    ],
)
def test_exact_is_the_whole_text(text: str, expected: str, ignore_case: bool, score: float) -> None:
    """But for the white space around it."""
    assert score == grade(text, expected, kind=GraderKind.EXACT, ignore_case=ignore_case)


def test_contains_is_a_part_of_the_text() -> None:
    """Anywhere in it."""
    assert 1.0 == grade("It is Paris, of course.", "Paris", kind=GraderKind.CONTAINS)
    assert 0.0 == grade("It is paris.", "Paris", kind=GraderKind.CONTAINS)
    assert 1.0 == grade("It is paris.", "Paris", kind=GraderKind.CONTAINS, ignore_case=True)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("2 + 40 is 42", 1.0),
        ("The answer is 42.", 1.0),
        ("42.0", 1.0),
        ("first 42, then 41", 0.0),
        ("about 4.2e1", 1.0),
        ("no number", 0.0),
        ("", 0.0),
    ],
)
def test_numeric_is_the_last_number(text: str, score: float) -> None:
    """Where answers to sums end."""
    assert score == grade(text, "42", kind=GraderKind.NUMERIC)


@pytest.mark.parametrize(
    ("text", "expected", "tolerances", "score"),
    [
        ("1,234.5", "1234.5", {}, 1.0),
        ("-3", "3", {}, 0.0),
        ("3.1", "3", {"tolerance": 0.2}, 1.0),
        ("3.3", "3", {"tolerance": 0.2}, 0.0),
        ("101", "100", {"relative_tolerance": 0.01}, 1.0),
        ("-101", "-100", {"relative_tolerance": 0.01}, 1.0),
        ("102", "100", {"relative_tolerance": 0.01}, 0.0),
        ("102", "100", {"relative_tolerance": 0.01, "tolerance": 2.0}, 1.0),
        ("1e999", "1", {}, 0.0),
    ],
)
def test_numeric_has_tolerances(
    text: str, expected: str, tolerances: dict[str, float], score: float
) -> None:
    """The wider of the two counts; a number beyond all bounds is none."""
    assert score == grade(text, expected, kind=GraderKind.NUMERIC, **tolerances)


def test_a_regex_is_looked_for_anywhere() -> None:
    """Unless it says where; no request has to say what it expects."""
    assert 1.0 == grade("so: yes", kind=GraderKind.REGEX, pattern="yes|no")
    assert 0.0 == grade("so: yes", kind=GraderKind.REGEX, pattern="^(yes|no)$")
    assert 1.0 == grade("YES", kind=GraderKind.REGEX, pattern="^(yes|no)$", ignore_case=True)


def test_a_regex_takes_linear_time() -> None:
    """The classic trap for backtracking, on a text that a client can have a model write."""
    grader = AnswerGrader(Grader("g", GraderKind.REGEX, pattern="^(a+)+$"))
    assert 0.0 == grader.grade("a" * 50_000 + "b", expected=None), "backtracking would not end"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"name": "Ann"}', 1.0),
        ('```json\n{"name": "Ann"}\n```', 1.0),
        ('```\n{"name": "Ann"}\n```', 1.0),
        ('{"name": 7}', 0.0),
        ("{}", 0.0),
        ('Here: {"name": "Ann"}', 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_json_must_fit_its_schema(text: str, score: float) -> None:
    """Alone, or in the fence that models like to put around it."""
    assert score == grade(text, kind=GraderKind.JSON_SCHEMA, schema=PERSON)


@pytest.mark.parametrize(
    ("grader", "problem"),
    [
        (Grader("g", GraderKind.REGEX, pattern="(a"), "linear time"),
        (Grader("g", GraderKind.REGEX, pattern=r"(a)\1"), "back-references"),
        (Grader("g", GraderKind.JSON_SCHEMA, schema="{"), "is no JSON"),
        (Grader("g", GraderKind.JSON_SCHEMA, schema='{"type": "thing"}'), "thing"),
        (Grader("g", GraderKind.JSON_SCHEMA, schema='{"$ref": "file:///etc/passwd"}'), "write the"),
    ],
)
def test_what_cannot_be_used_is_said_at_once(grader: Grader, problem: str) -> None:
    """Nothing is loaded from anywhere."""
    with pytest.raises(ValueError, match=problem):
        AnswerGrader(grader)


@pytest.mark.parametrize("kind", [GraderKind.EXACT, GraderKind.CONTAINS, GraderKind.NUMERIC])
def test_without_an_expected_answer_nothing_can_be_told(kind: GraderKind) -> None:
    """It is no wrong answer."""
    assert grade("42", None, kind=kind) is None


@pytest.mark.parametrize(
    ("kind", "expected", "problem"),
    [
        (GraderKind.NUMERIC, "many", "a number"),
        (GraderKind.NUMERIC, "42", ""),
        (GraderKind.EXACT, "  ", "not empty"),
        (GraderKind.CONTAINS, "", "not empty"),
        (GraderKind.EXACT, "x", ""),
    ],
)
def test_an_expectation_that_nothing_could_meet_is_told(
    kind: GraderKind, expected: str, problem: str
) -> None:
    """Before the answer is paid for: everything would contain the empty text."""
    assert problem == AnswerGrader(Grader("g", kind)).problem(expected)
