"""The notation of llama.cpp's grammars."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.llama_cpp.gbnf import (
    GrammarError,
    check_grammar,
    integers_between,
    literal,
    pattern,
    repeated,
)


def _as_regex(grammar: str) -> str:
    """Digits, groups and repetitions mean the same there, without quotes and spaces."""
    return re.sub(r'["\s]', "", grammar)


@given(
    low=st.integers(-2_000, 2_000), width=st.integers(0, 3_000), probe=st.integers(-6_000, 6_000)
)
def test_integers_between_two_bounds_and_no_others(low: int, width: int, probe: int) -> None:
    """Digit by digit, and without leading zeros."""
    high = low + width
    regex = _as_regex(integers_between(low, high))
    for number in (probe, low, high, low - 1, high + 1):
        assert (low <= number <= high) == bool(re.fullmatch(regex, str(number)))
    assert re.fullmatch(regex, "00") is None


@given(bound=st.integers(-500, 500), probe=st.integers(-5_000, 5_000))
def test_a_missing_bound_is_none(bound: int, probe: int) -> None:
    """On either side."""
    above, below = integers_between(bound, None), integers_between(None, bound)
    assert (probe >= bound) == bool(re.fullmatch(_as_regex(above), str(probe)))
    assert (probe <= bound) == bool(re.fullmatch(_as_regex(below), str(probe)))


def test_bounds_that_exclude_everything_are_refused() -> None:
    """There is nothing to say."""
    with pytest.raises(GrammarError, match="at least 3 and at most 2"):
        integers_between(3, 2)


def test_literals_escape_what_would_end_them() -> None:
    """Quotes, backslashes and line ends."""
    assert r'"a\"b\\c\nd"' == literal('a"b\\c\nd')


def test_repetitions_stay_within_what_llama_takes() -> None:
    """And an empty range is an error."""
    assert ("x*", "x{2,}", "x{0,3}") == (
        repeated("x", 0, None),
        repeated("x", 2, None),
        repeated("x", 0, 3),
    )
    with pytest.raises(GrammarError, match="1999"):
        repeated("x", 0, 2_000)
    with pytest.raises(GrammarError, match="at least 3"):
        repeated("x", 3, 2)


def test_deep_groups_are_refused_before_llama_recurses_into_them() -> None:
    """Parentheses within texts and character classes do not count."""
    check_grammar('root ::= "((((" [(] ' + "(" * 100 + ")" * 100 + ' "' + "(" * 500 + '"')
    with pytest.raises(GrammarError, match="nested more than 100"):
        check_grammar("root ::= " + "(" * 101 + ")" * 101)
    with pytest.raises(GrammarError, match="nested"):
        pattern("(" * 120 + "a" + ")" * 120)
