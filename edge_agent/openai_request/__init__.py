"""What clients send, parsed and checked once, at the edge of the program.

Pure: bytes and headers in, values or a `RequestRefused` that names the field out.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_agent.openai_request.body import CheckedBody, parse_body
from edge_agent.openai_request.completions import CheckedCompletion, parse_completion
from edge_agent.openai_request.embeddings import CheckedEmbeddings, parse_embeddings
from edge_agent.openai_request.facts import (
    ALWAYS_SENT,
    facts_of,
    fields_of,
    media_parts,
    prompt_text,
    required_capabilities,
    turns_of,
)
from edge_agent.openai_request.feedback import Grade, parse_grade
from edge_agent.openai_request.headers import SteeringHeaders, parse_headers
from edge_agent.openai_request.json_text import serialise
from edge_agent.requests import ClientRequest, RequestKind

__all__ = [
    "ALWAYS_SENT",
    "CheckedBody",
    "CheckedCompletion",
    "CheckedEmbeddings",
    "Grade",
    "SteeringHeaders",
    "client_request",
    "facts_of",
    "fields_of",
    "media_parts",
    "parse_body",
    "parse_completion",
    "parse_embeddings",
    "parse_grade",
    "parse_headers",
    "parse_request",
    "prompt_text",
    "required_capabilities",
    "serialise",
    "turns_of",
]


def parse_request(
    raw: bytes,
    *,
    headers: Mapping[str, str],
    request_id: str,
    arrived_unix_ms: int,
    arrived_monotonic_ms: float,
) -> ClientRequest:
    """Check a chat request's body and headers.

    Raises
    ------
    RequestRefused
        400 whose `param` is the field or header at fault.
    """
    steering = parse_headers(headers)
    return client_request(
        parse_body(raw),
        steering=steering,
        request_id=request_id,
        arrived_unix_ms=arrived_unix_ms,
        arrived_monotonic_ms=arrived_monotonic_ms,
    )


def client_request(
    checked: CheckedBody,
    *,
    steering: SteeringHeaders,
    request_id: str,
    arrived_unix_ms: int,
    arrived_monotonic_ms: float,
    kind: RequestKind = RequestKind.CHAT,
    prompt: str | None = None,
) -> ClientRequest:
    """A checked body and what the headers say of it as one request."""
    return ClientRequest(
        request_id=request_id,
        arrived_unix_ms=arrived_unix_ms,
        arrived_monotonic_ms=arrived_monotonic_ms,
        body=checked.body,
        body_bytes=checked.body_bytes,
        model=checked.model,
        stream=checked.stream,
        include_usage=checked.include_usage,
        task_class=steering.task_class,
        privacy_local=steering.privacy_local,
        deadline_ms=steering.deadline_ms,
        max_cost_nanos=steering.max_cost_nanos,
        tag=steering.tag,
        idempotency_key=steering.idempotency_key,
        expected=steering.expected,
        kind=kind,
        prompt=prompt,
    )
