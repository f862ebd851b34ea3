"""Parsing and checking of what clients send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.openai_request import (
    Grade,
    SteeringHeaders,
    fields_of,
    media_parts,
    parse_body,
    parse_grade,
    parse_headers,
    parse_request,
    required_capabilities,
    serialise,
)
from edge_agent.requests import ClientRequest, RequestRefused
from shared.limits import (
    DEADLINE_MS_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    MAX_TOKENS_MAX,
    MESSAGES_MAX,
    N_MAX,
    NAME_CHARS_MAX,
    TAG_CHARS_MAX,
)

ASK = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}


def raw(**fields: Any) -> bytes:
    """A body with `model` and `messages` unless they are given."""
    return json.dumps({"model": "auto", "messages": ASK, **fields}).encode()


def checked(**fields: Any) -> dict[str, Any]:
    """The checked body of a request with these fields."""
    return parse_body(raw(**fields)).body


def refused(body: bytes) -> RequestRefused:
    """The refusal of a body."""
    with pytest.raises(RequestRefused) as caught:
        parse_body(body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "auto", "messages": NaN}',
        b"\xff\xfe{}",
        b'{"a": "\xc3\x28"}',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5_000 + b"}",
        raw(user="\ud800"),
    ],
    ids=["empty", "torn", "NaN", "UTF-16", "bad UTF-8", "deep", "huge number", "surrogate"],
)
def test_what_is_no_json_text_is_refused(body: bytes) -> None:
    """Each form of garbage is the client's fault, and none of them is a crash."""
    assert refused(body).code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"auto"'])
def test_a_body_has_to_be_an_object(body: bytes) -> None:
    """JSON of another type is refused as such."""
    assert refused(body).code == "invalid_type"


@pytest.mark.parametrize("name", ["model", "messages"])
def test_what_the_api_cannot_do_without_is_asked_for(name: str) -> None:
    """A missing field and a null are the same, and the refusal names the field."""
    for body in (raw(**{name: None}), b'{"%b": null}' % name.encode()):
        error = refused(body)
        assert error.code == "missing_required_parameter"
    assert refused(raw(**{name: None})).param == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 3),
        ("model", ""),
        ("model", "m" * (NAME_CHARS_MAX + 1)),
        ("messages", "hi"),
        ("messages", []),
        ("messages", ASK * (MESSAGES_MAX + 1)),
        ("temperature", "warm"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", True),
        ("top_p", 1.5),
        ("n", 0),
        ("n", N_MAX + 1),
        ("n", 1.0),
        ("n", True),
        ("max_tokens", 0),
        ("max_tokens", MAX_TOKENS_MAX + 1),
        ("max_completion_tokens", "64"),
        ("stop", 3),
        ("stop", ""),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stream", "yes"),
        ("seed", 2**63),
        ("seed", 1.5),
        ("presence_penalty", 3),
        ("frequency_penalty", "x"),
        ("logit_bias", [1]),
        ("logit_bias", {"word": 1}),
        ("logit_bias", {"1" * 5_000: 1}),
        ("logprobs", 1),
        ("top_logprobs", 21),
        ("response_format", "json"),
        ("tools", {}),
        ("tools", [TOOL] * 129),
        ("user", 3),
        ("metadata", {"k" * 65: "v"}),
        ("metadata", {str(i): "v" for i in range(17)}),
        ("reasoning_effort", "huge"),
        ("service_tier", "gold"),
        ("modalities", ["smell"]),
        ("prediction", "x"),
    ],
)
def test_a_known_field_with_a_wrong_value_is_named(field: str, value: Any) -> None:
    """The refusal names the field, in its `param` and its message, and says what would be right."""
    error = refused(raw(**{field: value}))
    assert error.code in {"invalid_type", "invalid_value"}
    assert (error.param or "").partition("[")[0] == field
    assert f"'{field}" in str(error)
    assert "must be" in str(error)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [*ASK, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "system", "content": [IMAGE]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}],
                    }
                ]
            },
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "x"}}, "tool_choice.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
    ],
)
def test_a_fault_inside_is_found_where_it_is(fields: dict[str, Any], param: str) -> None:
    """The path leads to the very value, so that a client can mend it."""
    error = refused(raw(**fields))
    assert error.param == param
    assert param in str(error)


@pytest.mark.parametrize("name", ["temprature", "top_kk", "extra_body", "functions", ""])
def test_a_field_that_the_chat_api_does_not_have_is_refused(name: str) -> None:
    """Nothing is passed over in silence, and nothing unknown can reach a paid arm (rule A_2)."""
    error = refused(raw(**{name: 1}))
    assert error.code in {"unknown_parameter", "unsupported_parameter"}
    assert error.param == name


def test_a_refusal_never_repeats_a_long_text() -> None:
    """What may be a prompt does not come back in an error, nor in a log."""
    prompt = "the secret plan " * 20
    assert prompt[:50] not in str(refused(raw(messages=prompt)))


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    """Otherwise it might be read, but never be written again."""
    schema: dict[str, Any] = {}
    for _ in range(60):
        schema = {"properties": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert (refused(raw(tools=[tool])).param or "").startswith("tools[0].function.parameters")


def test_a_number_beyond_a_double_is_refused_in_a_schema() -> None:
    """`1e999` is read as infinity, which no JSON can hold."""
    body = raw(tools=[TOOL]).replace(b'{"type": "object"}', b'{"maximum": 1e999}')
    assert (refused(body).param or "").startswith("tools[0].function.parameters")


def test_every_kind_of_message_passes() -> None:
    """A long conversation with tools and pictures comes out as it went in."""
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "be kind"}]},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "?"}, IMAGE, SOUND]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "42"},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": ""},
    ]
    assert checked(messages=messages)["messages"] == messages


def test_an_answer_of_the_api_can_be_sent_back() -> None:
    """Clients put the assistant's message into the next request just as they got it.

    What a reasoning model has thought is among it; no model is to read that again.
    """
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": "42",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "reasoning": "6 x 7",
        "reasoning_content": "6 x 7",
        "reasoning_details": [{"type": "reasoning.text", "text": "6 x 7"}],
    }
    assert checked(messages=[*ASK, answer])["messages"][1] == {"role": "assistant", "content": "42"}


def test_every_kind_of_setting_passes() -> None:
    """All fields of the API come through unchanged."""
    fields = {
        "temperature": 0,
        "top_p": 0.5,
        "n": 2,
        "max_tokens": 10,
        "stop": ["a", "b"],
        "seed": -1,
        "presence_penalty": -2,
        "frequency_penalty": 2.0,
        "logit_bias": {"50256": -100},
        "logprobs": True,
        "top_logprobs": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look_up"}},
        "parallel_tool_calls": False,
        "user": "u",
        "metadata": {"a": "b"},
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert checked(**fields) == {"model": "auto", "messages": ASK, **fields}


def test_the_newer_name_of_the_token_limit_is_understood() -> None:
    """`max_completion_tokens` becomes `max_tokens`, and may come with the same `max_tokens`."""
    assert checked(max_completion_tokens=7)["max_tokens"] == 7
    both = checked(max_completion_tokens=7, max_tokens=7)
    assert (both["max_tokens"], "max_completion_tokens" in both) == (7, False)


def test_nulls_and_empty_tools_are_left_out() -> None:
    """What says nothing does not count as a field."""
    body = checked(temperature=None, stop=None, tools=[], tool_choice="auto", stream_options=None)
    assert body == {"model": "auto", "messages": ASK}


def test_the_facts_of_a_request_are_told() -> None:
    """Body, headers, size and arrival make one value."""
    body = raw(stream=True, stream_options={"include_usage": True}, user="Zoë")
    request = parse_request(
        body,
        headers={"x-tidegate-task": "code", "x-tidegate-deadline-ms": "1500"},
        request_id="req-1",
        arrived_unix_ms=5,
        arrived_monotonic_ms=2.5,
    )
    assert request == ClientRequest(
        request_id="req-1",
        arrived_unix_ms=5,
        arrived_monotonic_ms=2.5,
        body=json.loads(body),
        body_bytes=len(serialise(json.loads(body))),
        model="auto",
        stream=True,
        include_usage=True,
        task_class="code",
        deadline_ms=1_500,
    )


def test_only_fields_that_matter_are_asked_of_an_arm() -> None:
    """Fields of every call and fields at the API's default need no support."""
    neutral = {
        "temperature": 1,
        "top_p": 1.0,
        "n": 1,
        "presence_penalty": 0,
        "logprobs": False,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "service_tier": "auto",
        "verbosity": "medium",
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert fields_of(checked(**neutral)) == frozenset()
    meant = {"temperature": 0.2, "n": 2, "seed": 1, "stop": "x", "tools": [TOOL]}
    meant |= {"service_tier": "flex", "verbosity": "low"}
    assert fields_of(checked(**meant)) == frozenset(meant)


@pytest.mark.parametrize(
    ("fields", "capabilities"),
    [
        ({}, set()),
        ({"response_format": {"type": "text"}}, set()),
        ({"tools": [TOOL]}, {"tools"}),
        ({"messages": [*ASK, {"role": "assistant", "tool_calls": [CALL]}]}, {"tools"}),
        ({"response_format": {"type": "json_object"}}, {"json_schema"}),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, {"vision"}),
        ({"messages": [{"role": "user", "content": [SOUND]}]}, {"audio"}),
        ({"modalities": ["text", "audio"]}, {"audio"}),
        ({"logprobs": True}, {"logprobs"}),
    ],
)
def test_what_an_arm_has_to_be_able_to_do(fields: dict[str, Any], capabilities: set[str]) -> None:
    """Capabilities follow from the body alone."""
    assert required_capabilities(checked(**fields)) == capabilities


def test_parts_whose_price_is_not_in_their_bytes_are_counted() -> None:
    """A picture behind a short address costs more than its bytes say."""
    content = [{"type": "text", "text": "?"}, IMAGE, SOUND]
    assert media_parts(checked(messages=[*ASK, {"role": "user", "content": content}])) == 2


def test_headers_steer_a_request() -> None:
    """Every steering header is understood, and nothing but them."""
    headers = {
        "x-tidegate-task": "code",
        "x-tidegate-privacy": "Local",
        "x-tidegate-deadline-ms": " 250 ",
        "x-tidegate-max-cost-usd": "0.0025",
        "x-tidegate-tag": "run-7",
        "idempotency-key": "k1",
        "user-agent": "x",
    }
    assert parse_headers(headers) == SteeringHeaders(
        task_class="code",
        privacy_local=True,
        deadline_ms=250,
        max_cost_nanos=2_500_000,
        tag="run-7",
        idempotency_key="k1",
    )
    assert parse_headers({}) == SteeringHeaders()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-tidegate-task", ""),
        ("x-tidegate-task", "a b"),
        ("x-tidegate-task", "c" * (NAME_CHARS_MAX + 1)),
        ("x-tidegate-privacy", "cloud"),
        ("x-tidegate-deadline-ms", "soon"),
        ("x-tidegate-deadline-ms", "0"),
        ("x-tidegate-deadline-ms", "-5"),
        ("x-tidegate-deadline-ms", str(DEADLINE_MS_MAX + 1)),
        ("x-tidegate-deadline-ms", "²"),
        ("x-tidegate-max-cost-usd", "cheap"),
        ("x-tidegate-max-cost-usd", "-1"),
        ("x-tidegate-max-cost-usd", "1e-3"),
        ("x-tidegate-max-cost-usd", "0.0000000001"),
        ("x-tidegate-max-cost-usd", "999999999"),
        ("x-tidegate-tag", "t" * (TAG_CHARS_MAX + 1)),
        ("x-tidegate-tag", "é"),
        ("x-tidegate-private", "local"),
        ("x-tidegate-max-cost", "0"),
        ("idempotency-key", ""),
        ("idempotency-key", "k" * (IDEMPOTENCY_KEY_CHARS_MAX + 1)),
    ],
)
def test_a_wrong_header_is_named(name: str, value: str) -> None:
    """The refusal's `param` is the header's name."""
    with pytest.raises(RequestRefused) as caught:
        parse_headers({name: value})
    assert (caught.value.status, caught.value.param) == (400, name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "grade"),
    [
        ({"score": 0.25}, Grade("r", 0.25, "client")),
        ({"score": 1, "source": "judge"}, Grade("r", 1.0, "judge")),
        ({"thumbs": "up"}, Grade("r", 1.0, "client")),
        ({"thumbs": "down"}, Grade("r", 0.0, "client")),
    ],
)
def test_a_grade_is_a_score_or_a_thumb(fields: dict[str, Any], grade: Grade) -> None:
    """Both forms give a score from 0 to 1."""
    assert parse_grade(json.dumps({"request_id": "r", **fields}).encode()) == grade


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"score": 1}, "request_id"),
        ({"request_id": "r"}, "score"),
        ({"request_id": "r", "score": 1, "thumbs": "up"}, "score"),
        ({"request_id": "r", "score": 1.1}, "score"),
        ({"request_id": "r", "score": "good"}, "score"),
        ({"request_id": "r", "thumbs": "sideways"}, "thumbs"),
        ({"request_id": "r", "score": 1, "stars": 5}, "stars"),
        ({"request_id": "r", "score": 1, "source": "judge:gpt"}, "source"),
        ({"request_id": "r\ud83d", "score": 1}, None),
        ({"request_id": "r", "score": 1, "source": "\ud83d"}, None),
    ],
)
def test_a_wrong_grade_is_refused(fields: dict[str, Any], param: str | None) -> None:
    """The refusal names the field at fault."""
    with pytest.raises(RequestRefused) as caught:
        parse_grade(json.dumps(fields).encode())
    assert caught.value.param == param
