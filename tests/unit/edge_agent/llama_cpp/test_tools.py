"""What requests say of tools, and the grammars that hold models to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from edge_agent.adapters.llama_cpp.gbnf import GrammarError
from edge_agent.adapters.llama_cpp.tools import (
    ToolFormat,
    ToolRequest,
    call_grammar,
    parse_tools,
    tool_format,
)
from edge_agent.ports import ArmFailed
from tests.unit.edge_agent.llama_cpp.grammars import GrammarAsker


def _tool(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


WEATHER = _tool(
    "weather",
    parameters={
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
    },
)
CLOCK = _tool("clock")
HERMES = ToolFormat("<tool_call>", "</tool_call>")


@pytest.fixture(scope="module")
def asker() -> Iterator[GrammarAsker]:
    """The vocabulary of the smallest demo model."""
    asking = GrammarAsker()
    yield asking
    asking.close()


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{% if tools %}... <tool_call></tool_call>", HERMES),
        (
            "{% if tools %}[AVAILABLE_TOOLS]... [TOOL_CALLS]",
            ToolFormat("[TOOL_CALLS]", listed=True),
        ),
        (
            "{% if tools %}<|tool_call|>...<|/tool_call|>",
            ToolFormat("<|tool_call|>", "<|/tool_call|>", listed=True),
        ),
        (
            '{{ tools }} {"name": function name, "parameters": dictionary of argument name and ...',
            ToolFormat(arguments="parameters"),
        ),
        ("{% for message in messages %}", None),
        ("{% if tools %}<tool_call><function=", None),
        ("{% if tools %}in a way that nobody knows", None),
    ],
)
def test_the_chat_template_tells_how_calls_are_written(
    template: str, wanted: ToolFormat | None
) -> None:
    """A format that is not JSON is not guessed at."""
    assert wanted == tool_format(template)


def test_tools_are_read_with_the_choice() -> None:
    """A named function is the only one, and has to be called."""
    both = {"tools": [WEATHER, CLOCK]}
    assert ToolRequest((WEATHER, CLOCK)) == parse_tools(both)
    assert parse_tools({}) is None
    assert parse_tools({**both, "tool_choice": "none"}) is None
    assert ToolRequest((WEATHER, CLOCK), required=True) == parse_tools(
        {**both, "tool_choice": "required"}
    )
    named = {"type": "function", "function": {"name": "clock"}}
    assert ToolRequest((CLOCK,), required=True, parallel=False) == parse_tools(
        {**both, "tool_choice": named, "parallel_tool_calls": False}
    )
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
    assert ToolRequest((CLOCK,)) == parse_tools({**both, "tool_choice": allowed})


@pytest.mark.parametrize(
    ("body", "named", "client_error"),
    [
        ({"tools": "x"}, "tools", True),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name", True),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", False),
        ({"tools": [CLOCK], "tool_choice": "maybe"}, "tool_choice", True),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            True,
        ),
    ],
)
def test_wrong_tools_are_refused_by_name(
    body: dict[str, Any], named: str, client_error: bool
) -> None:
    """What only local models lack is no error of the client."""
    with pytest.raises(ArmFailed) as caught:
        parse_tools(body)
    assert named in str(caught.value)
    assert client_error == caught.value.client_error


def test_a_required_call_is_all_that_can_be_said(asker: GrammarAsker) -> None:
    """With a tool that exists and arguments of its schema."""
    grammar = call_grammar(ToolRequest((WEATHER, CLOCK), required=True), HERMES)
    assert "" == grammar.after
    says = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert asker.follows(grammar.text, says)
    assert asker.follows(grammar.text, says + "\n" + says)
    assert asker.follows(
        grammar.text, '<tool_call>{"name":"clock","arguments":{"x":1}}</tool_call>'
    )
    for wrong in ("Hello", says.replace("Rome", "Paris"), says.replace("weather", "wether")):
        assert not asker.follows(grammar.text, wrong)


def test_calls_one_after_the_other_may_be_ruled_out(asker: GrammarAsker) -> None:
    """`parallel_tool_calls: false` means one."""
    grammar = call_grammar(ToolRequest((CLOCK,), required=True, parallel=False), HERMES).text
    says = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
    assert asker.follows(grammar, says)
    assert not asker.follows(grammar, says + says)


def test_a_call_that_may_be_made_is_held_from_its_beginning_on(asker: GrammarAsker) -> None:
    """Before that any text may be said."""
    grammar = call_grammar(ToolRequest((CLOCK,)), HERMES)
    assert "<tool_call>" == grammar.after
    assert asker.follows(grammar.text, '\n{"name": "clock", "arguments": {}}\n</tool_call>')


def test_a_call_may_stand_beside_a_schema_for_the_answer(asker: GrammarAsker) -> None:
    """Either a call, or JSON as `response_format` wants it."""
    grammar = call_grammar(ToolRequest((CLOCK,)), HERMES, otherwise='{"type":"integer"}')
    assert asker.follows(grammar.text, "42")
    assert asker.follows(grammar.text, '<tool_call>{"name": "clock", "arguments": {}}</tool_call>')
    assert not asker.follows(grammar.text, "text")


@pytest.mark.parametrize(
    ("format_", "text"),
    [
        (
            ToolFormat("[TOOL_CALLS]", listed=True),
            '[TOOL_CALLS] [{"name": "clock", "arguments": {}}]',
        ),
        (ToolFormat(arguments="parameters"), '{"name": "clock", "parameters": {}}'),
    ],
)
def test_every_format_has_its_grammar(asker: GrammarAsker, format_: ToolFormat, text: str) -> None:
    """As the model was taught to write it."""
    assert asker.follows(call_grammar(ToolRequest((CLOCK,), required=True), format_).text, text)


def test_a_strict_function_whose_schema_cannot_be_held_is_refused(asker: GrammarAsker) -> None:
    """One that is not strict may get any object."""
    schema = {"type": "object", "minProperties": 1}
    loose = call_grammar(ToolRequest((_tool("f", parameters=schema),), required=True), HERMES)
    assert asker.follows(loose.text, '<tool_call>{"name": "f", "arguments": {}}</tool_call>')
    strict = ToolRequest((_tool("f", parameters=schema, strict=True),))
    with pytest.raises(GrammarError, match="minProperties"):
        call_grammar(strict, HERMES)
