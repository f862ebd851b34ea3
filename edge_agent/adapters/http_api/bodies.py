"""Reading a request's body, within limits of size and time."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from edge_agent.adapters.http_api.gate import api_key, arrival
from edge_agent.openai_request import parse_request
from edge_agent.requests import ClientRequest, RequestRefused
from shared.limits import BODY_BYTES_MAX

BODY_WAIT_S: Final = 60.0


async def read_json(scope: Scope, receive: Receive) -> bytes:
    """The bytes of a JSON body.

    A page in a browser cannot send `application/json` to another origin unasked, so insisting on
    the type also keeps strange pages from spending the device's money.

    Raises
    ------
    RequestRefused
        415 for another type, 413 for a body that is too large, 408 for one that never ends.
    ClientDisconnect
        When the client goes away before the end.
    """
    headers = arrival(scope).headers
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestRefused(
            415,
            "unsupported_media_type",
            f"the body's type is {media_type or 'not given'!r}: send 'Content-Type: "
            "application/json'",
            param="content-type",
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestRefused(
            415,
            "unsupported_media_type",
            "the body is compressed: send it without a Content-Encoding",
            param="content-encoding",
        )
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > BODY_BYTES_MAX:
        raise _too_large()
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            return await _read(receive)
    except TimeoutError:
        raise RequestRefused(
            408, "request_timeout", f"the body did not arrive within {BODY_WAIT_S:g} s"
        ) from None


async def read_chat(scope: Scope, receive: Receive) -> ClientRequest:
    """Read and check a chat request."""
    noted = arrival(scope)
    request = parse_request(
        await read_json(scope, receive),
        headers=noted.headers,
        request_id=noted.request_id,
        arrived_unix_ms=noted.unix_ms,
        arrived_monotonic_ms=noted.monotonic_ms,
    )
    return asked_with_key(scope, request)


def asked_with_key(scope: Scope, request: ClientRequest) -> ClientRequest:
    """The request as one of the application whose API key it has shown, if any is asked for."""
    key = api_key(scope)
    return request if key is None else key.asked(request)


async def _read(receive: Receive) -> bytes:
    """Everything up to the body's end, counted as it comes."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise _too_large()
        if not message.get("more_body", False):
            return bytes(body)


def _too_large() -> RequestRefused:
    """The refusal of a body beyond the limit."""
    return RequestRefused(
        413, "request_too_large", f"the body is larger than {BODY_BYTES_MAX} bytes: shorten it"
    )
