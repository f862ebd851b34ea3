"""From token bytes to text: characters stay whole, stop strings stay hidden."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.llama_cpp.text import TextAssembler


def _pushed(data: bytes, sizes: list[int], stop: list[str]) -> tuple[list[str], TextAssembler]:
    """Push the bytes in pieces of the given sizes, again and again."""
    text = TextAssembler(stop=stop)
    pieces, start, turn = [], 0, 0
    while start < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(text.push(data[start : start + size]))
        start, turn = start + size, turn + 1
    pieces.append(text.finish())
    return pieces, text


def _until_stop(whole: str, stop: list[str]) -> str:
    for end in range(len(whole) + 1):
        hits = [end - len(word) for word in stop if whole[:end].endswith(word)]
        if hits:
            return whole[: min(hits)]
    return whole


@given(
    whole=st.text(alphabet="abcé漢🙂", max_size=30),
    stop=st.lists(st.text(alphabet="abcé漢🙂", min_size=1, max_size=4), max_size=3),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_the_text_ends_before_the_first_stop_string_however_it_is_cut(
    whole: str, stop: list[str], sizes: list[int]
) -> None:
    """Nothing of a stop string is shown, and nothing else is lost."""
    pieces, _ = _pushed(whole.encode(), sizes, stop)
    assert _until_stop(whole, stop) == "".join(pieces)


@given(whole=st.text(), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_characters_are_never_shown_in_part(whole: str, sizes: list[int]) -> None:
    """Every piece is text on its own: no replacement characters at the cuts."""
    pieces, _ = _pushed(whole.encode(), sizes, [])
    assert whole == "".join(pieces)
    assert whole.count("\ufffd") == sum(piece.count("\ufffd") for piece in pieces)


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    """Only a possible beginning of a stop string is held back."""
    text = TextAssembler(stop=["END"])
    assert ["so ", "", "Ea", "sy", ""] == [
        text.push(data) for data in (b"so ", b"E", b"a", b"sy", b"EN")
    ]
    assert "EN" == text.finish()
    assert not text.stopped


@pytest.mark.parametrize(
    ("data", "shown"), [(b"a\xffb", "a\ufffdb"), (b"a\xe2\x82", "a\ufffd"), (b"\xe2a", "\ufffda")]
)
def test_bytes_that_are_no_text_are_replaced(data: bytes, shown: str) -> None:
    """A model may say broken UTF-8; the client gets valid text."""
    pieces, _ = _pushed(data, [1], [])
    assert shown == "".join(pieces)


def test_nothing_is_shown_after_a_stop_string() -> None:
    """Later tokens of the same step are ignored."""
    text = TextAssembler(stop=["."])
    assert "one" == text.push(b"one. two")
    assert text.stopped
    assert "" == text.push(b"three") + text.finish()
