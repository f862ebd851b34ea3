"""Whatever a client sends is either refused with a 400 or fit to be sent on."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.openai_request import (
    CheckedBody,
    fields_of,
    media_parts,
    parse_body,
    parse_grade,
    parse_headers,
    required_capabilities,
    serialise,
)
from edge_agent.openai_request.body import FIELDS
from edge_agent.requests import RequestRefused
from shared.limits import MAX_TOKENS_MAX, N_MAX

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
# Mostly right, so that many of them pass.
sound_bodies = st.fixed_dictionaries(
    {
        "model": st.just("auto"),
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.just("user"), "content": st.text()}),
            min_size=1,
            max_size=3,
        ),
    },
    optional={
        "temperature": st.floats(0, 2) | st.none(),
        "n": st.integers(0, N_MAX + 1),
        "max_tokens": st.integers(1, MAX_TOKENS_MAX),
        "max_completion_tokens": st.integers(1, 3),
        "stop": st.text(min_size=1, max_size=5) | st.lists(st.text(min_size=1), max_size=4),
        "stream": st.booleans(),
        "stream_options": st.none() | st.just({"include_usage": True}),
        "logprobs": st.booleans(),
        "metadata": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    },
)


# One field is anything at all, by a known or an unknown name.
bodies = st.builds(
    lambda sound, name, value: {**sound, name: value},
    sound_bodies,
    st.sampled_from(sorted(FIELDS)) | st.text(max_size=8),
    json_values,
)


def parsed(body: object) -> CheckedBody | None:
    """The checked body, or None if it is refused as the client's fault."""
    try:
        return parse_body(json.dumps(body).encode())
    except RequestRefused as error:
        if error.status != 400:
            raise
        return None


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_understood(raw: bytes) -> None:
    """Nothing but a refusal ever comes out of garbage."""
    for parse in (parse_body, parse_grade):
        try:
            parse(raw)
        except RequestRefused as error:
            if error.status != 400:
                raise


@given(bodies | sound_bodies)
def test_a_checked_body_can_be_sent_on(body: dict[str, Any]) -> None:
    """It serialises to as many bytes as said, and checking it again changes nothing."""
    checked = parsed(body)
    if checked is None:
        return
    sent = serialise(checked.body)
    assert checked.body_bytes == len(sent)
    assert all(value is not None for value in checked.body.values())
    assert parse_body(sent) == checked
    assert fields_of(checked.body) <= frozenset(FIELDS)
    assert required_capabilities(checked.body) <= {
        "tools",
        "json_schema",
        "vision",
        "audio",
        "file",
        "logprobs",
    }
    assert media_parts(checked.body) >= 0


@given(sound_bodies)
def test_what_is_measured_is_no_smaller_than_its_texts(body: dict[str, Any]) -> None:
    """Rule A_2 counts bytes: no text of the messages may weigh more than the body as a whole."""
    checked = parsed(body)
    if checked is None:
        return
    texts = sum(len(each["content"].encode()) for each in checked.body["messages"])
    assert texts <= checked.body_bytes


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "x-tidegate-task",
                "x-tidegate-privacy",
                "x-tidegate-deadline-ms",
                "x-tidegate-tag",
                "idempotency-key",
            ]
        ),
        st.text(max_size=300),
    )
)
def test_any_headers_are_refused_or_understood(headers: dict[str, str]) -> None:
    """A refusal names one of the headers that were sent."""
    try:
        parse_headers(headers)
    except RequestRefused as error:
        if error.param not in headers:
            raise
