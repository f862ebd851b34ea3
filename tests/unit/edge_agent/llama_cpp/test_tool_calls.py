"""Calls of tools in a model's text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.llama_cpp.tool_calls import CallPart, ToolCallReader
from edge_agent.adapters.llama_cpp.tools import ToolFormat

HERMES = ToolFormat("<tool_call>", "</tool_call>")
MISTRAL = ToolFormat("[TOOL_CALLS]", listed=True)
LLAMA = ToolFormat(arguments="parameters")

CASES = [
    (HERMES, "Just <text> and {a: 1}.", ("Just <text> and {a: 1}.", [])),
    (
        HERMES,
        'Well.\n<tool_call>\n{"name": "f", "arguments": {"a": "}\\""}}\n</tool_call>',
        ("Well.", [("f", '{"a": "}\\""}')]),
    ),
    (
        HERMES,
        (
            '<tool_call>{"name":"f","arguments":{}}</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {"x": [1, {"y": 2}]}}\n</tool_call>\n'
        ),
        ("", [("f", "{}"), ("g", '{"x": [1, {"y": 2}]}')]),
    ),
    (
        MISTRAL,
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
        ("", [("f", '{"a": 1}'), ("g", "{}")]),
    ),
    (LLAMA, '{"name": "f", "parameters": {"a": 1}}', ("", [("f", '{"a": 1}')])),
    (LLAMA, "No call at all.", ("No call at all.", [])),
    (LLAMA, '{"answer": 42}', ('{"answer": 42}', [])),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1', ("", [("f", '{"a": 1')])),
    (HERMES, "<tool_call>nonsense", ("nonsense", [])),
    (HERMES, "it ends in <tool", ("it ends in <tool", [])),
]


def _read(format_: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    reader = ToolCallReader(format_)
    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallPart) and part.name:
            assert len(calls) == part.call
            calls.append((part.name, part.arguments))
        elif isinstance(part, CallPart):
            name, arguments = calls[part.call]
            calls[part.call] = (name, arguments + part.arguments)
    assert reader.calls == len(calls)
    return "".join(part for part in parts if isinstance(part, str)), calls


@pytest.mark.parametrize(("format_", "text", "wanted"), CASES, ids=range(len(CASES)))
@given(cuts=st.lists(st.integers(0, 150), max_size=12))
def test_calls_are_found_however_the_text_is_cut(
    format_: ToolFormat, text: str, wanted: tuple[str, list[tuple[str, str]]], cuts: list[int]
) -> None:
    """Tokens end anywhere, also within a marker."""
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(bounds)]
    assert wanted == _read(format_, pieces)


def test_arguments_are_passed_on_as_they_come() -> None:
    """A client sees them grow."""
    reader = ToolCallReader(HERMES)
    assert [CallPart(0, name="f"), CallPart(0, arguments='{"te')] == reader.push(
        '<tool_call>{"name": "f", "arguments": {"te'
    )
    assert [CallPart(0, arguments='xt": "long')] == reader.push('xt": "long')
