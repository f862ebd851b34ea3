"""The text of an answer, for whoever grades it."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.answer_text import AnswerText
from shared.limits import GRADED_CHARS_MAX


def chunk(content: Any, *, index: int = 0) -> dict[str, Any]:
    """A piece of a streamed answer."""
    return {"choices": [{"index": index, "delta": {"content": content}}]}


def whole(content: Any) -> dict[str, Any]:
    """An answer that came at once."""
    return {"choices": [{"message": {"content": content}}]}


def test_a_streamed_text_is_put_together() -> None:
    """Of the first choice; what has no text adds none."""
    text = AnswerText(wanted=True)
    pieces = [chunk("4"), chunk(None), chunk("x", index=1), {"choices": []}, {}, chunk("2")]
    for piece in pieces:
        text.take(piece)
    assert "42" == text.of(None)


def test_a_whole_text_is_taken_from_the_response() -> None:
    """A call of tools has none."""
    assert "42" == AnswerText(wanted=True).of(whole("42"))
    assert AnswerText(wanted=True).of(whole(None)) is None
    assert AnswerText(wanted=True).of({"choices": []}) is None


def test_nothing_is_kept_that_nobody_wants() -> None:
    """Texts stay with the client otherwise."""
    text = AnswerText()
    assert text.of(whole("42")) is None
    assert AnswerText(wanted=True).of(None) is None, "there was no text"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_text_that_is_too_long_is_not_graded(streamed: bool) -> None:
    """Its beginning alone might be right."""
    text, long = AnswerText(wanted=True), "a" * (GRADED_CHARS_MAX + 1)
    if streamed:
        text.take(chunk(long))
    assert text.of(None if streamed else whole(long)) is None


def test_halves_of_a_character_are_put_together() -> None:
    """A model may give them one by one; a half that stays alone is no text to grade or send."""
    text = AnswerText(wanted=True)
    for piece in ("\ud83d", "\ude00", "\ud83d"):
        text.take(chunk(piece))
    assert "\U0001f600\ufffd" == text.of(None)
    assert "a\ufffd" == AnswerText(wanted=True).of(whole("a\ud83d"))
