"""Rows with some fields other, and rows made many at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from shared.decision.types import Candidate
from shared.rows import changed, many, quick_dataclass
from tests.contract.books_suite import LEASE


@quick_dataclass(frozen=True)
class Quick:
    """Two fields, one of them with a default."""

    name: str
    size: int = 1


@dataclass(frozen=True)
class Usual:
    """The same, as `dataclass` makes it."""

    name: str
    size: int = 1


def test_a_changed_row_is_what_replace_makes() -> None:
    """Equal, of the same type, and as hashable; the row itself stays as it was."""
    before = replace(LEASE)
    later = changed(LEASE, settled_nanos=7, close_reason="a test")
    assert replace(LEASE, settled_nanos=7, close_reason="a test") == later
    assert (type(LEASE), before) == (type(later), LEASE)
    assert hash(replace(LEASE, settled_nanos=7)) == hash(changed(LEASE, settled_nanos=7))


def test_a_field_that_is_not_there_is_an_error() -> None:
    """A misspelt one must not become an attribute that nobody reads."""
    with pytest.raises(TypeError, match="LeaseRow has no field settled"):
        changed(LEASE, settled=7)


def test_a_quick_dataclass_is_a_value_as_the_usual_one() -> None:
    """Complete when constructed, equal and as hashable by its fields, and replaced, not changed."""
    quick, usual = Quick("a"), Usual("a")
    assert vars(usual) == vars(quick)
    assert hash(usual) == hash(quick)
    assert {Quick("a"), Quick("a", 2)} == {quick, changed(quick, size=2)}
    assert Quick("b") == replace(quick, name="b")
    with pytest.raises(TypeError, match="name"):
        Quick()  # type: ignore[call-arg]


def test_many_rows_are_what_their_constructor_makes() -> None:
    """In their order, equal and of the same type."""
    made = list(many(Candidate, [("small", 1), ("large", 2)]))
    assert [Candidate("small", 1), Candidate("large", 2)] == made
    assert {Candidate} == set(map(type, made))
