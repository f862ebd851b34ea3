"""What a chat request may hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.adapters.llama_cpp.request import ChatSpec, parse_chat
from edge_agent.adapters.llama_cpp.sampling import SamplingSettings
from edge_agent.ports import ArmFailed

HELLO = [{"role": "user", "content": "hello"}]


def _failure(reason: str = "invalid_request", **fields: Any) -> ArmFailed:
    with pytest.raises(ArmFailed) as caught:
        parse_chat({"messages": HELLO} | fields)
    assert reason == caught.value.reason
    return caught.value


def test_a_bare_request_gets_defaults() -> None:
    """Messages are enough."""
    assert ChatSpec(messages=({"role": "user", "content": "hello"},)) == parse_chat(
        {"messages": HELLO}
    )


def test_every_field_that_is_used_arrives() -> None:
    """Nothing that the client asked for is dropped on the way to the worker."""
    spec = parse_chat(
        {
            "messages": HELLO,
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 7,
            "min_p": 0.1,
            "seed": -1,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "repeat_penalty": 1.1,
            "logit_bias": {"12": -100, "13": 0.5},
            "grammar": 'root ::= "x"',
            "stop": "END",
            "max_tokens": 9,
            "max_completion_tokens": 8,
            "n": 2,
        }
    )
    assert spec.sampling == SamplingSettings(
        temperature=0.0,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        seed=0xFFFF_FFFF,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repeat_penalty=1.1,
        logit_bias=((12, -100.0), (13, 0.5)),
        grammar='root ::= "x"',
    )
    assert (("END",), 8, 2) == (spec.stop, spec.max_tokens, spec.n)
    assert spec == ChatSpec.from_json(json.loads(json.dumps(spec.to_json())))


def test_text_parts_are_joined_and_the_developer_is_the_system() -> None:
    """Chat templates get plain strings and the roles that they know."""
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    spec = parse_chat(
        {
            "messages": [
                {"role": "developer", "content": parts},
                {"role": "assistant", "content": None},
            ]
        }
    )
    assert [("system", "one two"), ("assistant", "")] == [
        (message["role"], message["content"]) for message in spec.messages
    ]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": "7"}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 9}, "n"),
        ({"grammar": 1}, "grammar"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]},
            "messages[0].tool_calls[0]",
        ),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_a_wrong_value_is_the_clients_error(fields: dict[str, Any], named: str) -> None:
    """The message names the field; no other arm would take it either."""
    failure = _failure(**fields)
    assert failure.client_error
    assert named in str(failure)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"made_up": 1}, "made_up"),
        ({"audio": {"voice": "x"}}, "audio"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
def test_what_only_local_models_lack_may_go_to_another_arm(
    fields: dict[str, Any], named: str
) -> None:
    """It is no error of the client: a cloud arm may serve it."""
    failure = _failure("unsupported", **fields)
    assert not failure.client_error
    assert named in str(failure)
    assert named == failure.param


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    """Clients send many defaults explicitly."""
    neutral = {"tools": [], "logprobs": False, "top_logprobs": 0, "tool_choice": "auto"}
    ignored = {"user": "me", "stream": True, "model": "x", "metadata": {"a": "b"}, "stop": None}
    assert parse_chat({"messages": HELLO}) == parse_chat({"messages": HELLO} | neutral | ignored)


def test_response_formats_become_a_schema() -> None:
    """JSON mode is the schema of any object."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    named = parse_chat({"messages": HELLO, "response_format": wanted})
    free = parse_chat({"messages": HELLO, "response_format": {"type": "json_object"}})
    text = parse_chat({"messages": HELLO, "response_format": {"type": "text"}})
    assert schema == json.loads(named.sampling.json_schema)
    assert {"type": "object"} == json.loads(free.sampling.json_schema)
    assert "" == text.sampling.json_schema


def test_choices_with_a_seed_differ_from_each_other() -> None:
    """`n` answers from one seed are n answers, and the same ones each time."""
    settings = SamplingSettings(seed=0xFFFF_FFFE)
    seeds = [settings.for_choice(index).seed for index in range(3)]
    assert [0xFFFF_FFFE, 0xFFFF_FFFF, 0] == seeds
    assert SamplingSettings().for_choice(1).seed is None


@pytest.mark.parametrize("arguments", ["[" * 100_000, "[" * 900 + "]" * 900])
def test_arguments_nested_too_deeply_are_refused(arguments: str) -> None:
    """They would end the worker, and with it everybody's answers."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    assert "messages[0].tool_calls[0].function.arguments" in str(_failure(messages=messages))


@pytest.mark.parametrize("tools", [5, None])
def test_allowed_tools_that_are_no_list_are_refused(tools: object) -> None:
    """Named, like every other field."""
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}
    asked = [{"type": "function", "function": {"name": "f"}}]
    assert "tool_choice" in str(_failure(tools=asked, tool_choice=choice))
