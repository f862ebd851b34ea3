"""JSON as bytes, by two libraries."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.json_bytes import parsed, written

READER = json.JSONDecoder()
WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
IN_ASCII = json.JSONEncoder(separators=(",", ":"))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    # The two libraries write the exponent of a number in two ways.
    | st.floats(-1e15, 1e15).filter(lambda x: x == 0 or abs(x) > 1e-4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_both_libraries_write_the_same_bytes(value: Any) -> None:
    """So a body has one length, whichever of them writes it."""
    assert WRITER.encode(value).encode() == written(value, otherwise=WRITER)


@given(VALUES)
def test_what_was_written_is_read_back(value: Any) -> None:
    """Also where only the standard library could write it."""
    for writer in (WRITER, IN_ASCII):
        assert value == parsed(written(value, otherwise=writer), otherwise=READER)


@pytest.mark.parametrize("text", ["half of \ud83d a pair", "\udfff"])
def test_half_a_surrogate_pair_goes_out_in_ascii_and_in_no_other_way(text: str) -> None:
    """A model may make one; no client may send one."""
    assert text == json.loads(written({"a": text}, otherwise=IN_ASCII))["a"]
    with pytest.raises(UnicodeEncodeError):
        written({"a": text}, otherwise=WRITER)


def test_numbers_beyond_64_bits_are_written_exactly_and_read_as_doubles() -> None:
    """As in a schema's bounds; the largest and the smallest of 64 bits are still read exactly."""
    assert f'{{"maximum":{2**64}}}'.encode() == written({"maximum": 2**64}, otherwise=WRITER)
    found = parsed(f"[{2**64 - 1},{-(2**63)},{2**64}]".encode(), otherwise=READER)
    assert [2**64 - 1, -(2**63), float(2**64)] == found
    assert [int, int, float] == list(map(type, found))


def test_a_byte_order_mark_is_passed_over() -> None:
    """Some editors and servers put one before what they write; a second one is no JSON."""
    assert [1] == parsed(b"\xef\xbb\xbf[1]", otherwise=READER)
    assert [float("inf")] == parsed(b"\xef\xbb\xbf[Infinity]", otherwise=READER)
    with pytest.raises(ValueError, match="char 0"):
        parsed(b"\xef\xbb\xbf\xef\xbb\xbf[1]", otherwise=READER)


def test_a_number_that_is_none_is_written_as_null() -> None:
    """JSON has no other word for it."""
    assert b"[null,null]" == written([float("nan"), float("inf")], otherwise=WRITER)


def test_constants_that_json_does_not_have_are_for_the_other_reader() -> None:
    """Some servers write NaN, as in log probabilities."""
    lenient = json.JSONDecoder(parse_constant=lambda name: f"<{name}>")
    assert {"logprob": "<NaN>"} == parsed(b'{"logprob": NaN}', otherwise=lenient)


@pytest.mark.parametrize("raw", [b"", b"{", b"{'a': 1}", b'"\xff"', b"[1,]"])
def test_what_is_no_json_is_an_error_of_the_standard_library(raw: bytes) -> None:
    """Its messages say where."""
    with pytest.raises(ValueError, match=r"char \d|byte"):
        parsed(raw, otherwise=READER)
