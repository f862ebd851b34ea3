"""Rows with some fields other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.rows import changed
from tests.contract.books_suite import LEASE


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
