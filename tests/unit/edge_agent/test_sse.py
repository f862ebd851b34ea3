"""Server-sent events as they go out."""

from __future__ import annotations

import json

import pytest

from edge_agent.adapters.sse import EventParser, comment, event

TEXTS = [
    "a line\nand another\r\nand \x0b \x0c \x1c \x1d \x1e more",
    "next line \x85, line \u2028 and paragraph \u2029 separators",
    "naïve 中文 😀",
    "half of \ud83d a pair",
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_event_is_one_line_for_clients_that_know_more_ends_of_lines_than_the_standard(
    text: str,
) -> None:
    """Many split what they have decoded, at separators that JSON leaves as they are."""
    line, empty = event({"text": text}).decode().splitlines()
    assert (text, "") == (json.loads(line.removeprefix("data: "))["text"], empty)
    assert 2 == len(comment({"text": text}).decode().splitlines())


@pytest.mark.parametrize("text", TEXTS)
def test_our_own_parser_reads_what_we_write(text: str) -> None:
    """Whatever the text, and past comments."""
    parser = EventParser(event_bytes_max=1_000)
    (data,) = parser.feed(comment({"text": text}) + event({"text": text}))
    assert text == json.loads(data)["text"]
