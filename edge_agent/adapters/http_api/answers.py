"""The endpoints that have a request answered, as ASGI applications for the sake of streams."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from struct import pack
from typing import Any

from starlette.types import Receive, Scope, Send

from edge_agent.adapters.http_api.bodies import asked_with_key, read_chat, read_json
from edge_agent.adapters.http_api.delivery import send_stream, send_whole
from edge_agent.adapters.http_api.gate import Arrival, arrival
from edge_agent.adapters.http_api.texts import TextAnswer, abandon
from edge_agent.openai_request import (
    client_request,
    parse_completion,
    parse_embeddings,
    parse_headers,
)
from edge_agent.openai_request.headers import SteeringHeaders
from edge_agent.requests import (
    AgentFacade,
    Answer,
    ClientRequest,
    RequestKind,
    RequestRefused,
    part_id,
)
from shared.http_protocol import client_gone
from shared.limits import REQUESTS_IN_FLIGHT_MAX


class InFlight:
    """Counts what is being answered, and refuses what would be too much."""

    def __init__(self) -> None:
        self._requests = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Hold a place while a request is answered."""
        if self._requests >= REQUESTS_IN_FLIGHT_MAX:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "overloaded",
                f"{REQUESTS_IN_FLIGHT_MAX} requests are in flight, the most that an agent takes",
                retry_after_s=1,
            )
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1


class _Endpoint(ABC):
    """Reads a request, has it answered, and delivers the answer whole or in chunks.

    Attributes
    ----------
    prompt_field : str
        What a client of this endpoint calls the messages that a request is answered from.
    """

    prompt_field = "messages"

    def __init__(self, facade: AgentFacade, in_flight: InFlight) -> None:
        self._facade = facade
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._in_flight.one_more():
            try:
                await self._serve(scope, receive, send)
            except RequestRefused as refused:
                if refused.param == _Endpoint.prompt_field:
                    refused.param = self.prompt_field
                raise

    @abstractmethod
    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""


class Chat(_Endpoint):
    """`POST /v1/chat/completions`."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read_chat(scope, receive)
        gone = client_gone(scope)
        answer = await self._facade.answer(request, gone)
        if request.stream:
            await send_stream(answer, send=send, gone=gone)
        else:
            await send_whole(answer, answer.response, send=send)


class Completions(_Endpoint):
    """`POST /v1/completions`: each prompt is answered as a chat request of its own."""

    prompt_field = "prompt"

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = parse_completion(await read_json(scope, receive))
        noted = arrival(scope)
        steering = parse_headers(noted.headers)
        requests = [
            asked_with_key(
                scope,
                client_request(
                    chat,
                    prompt=prompt,
                    **_part(steering, noted, number=number, of=len(asked.chats)),
                ),
            )
            for number, (chat, prompt) in enumerate(
                zip(asked.chats, asked.prompts, strict=True), start=1
            )
        ]
        gone = client_gone(scope)
        answers = await _together([self._facade.answer(each, gone) for each in requests])
        answer = TextAnswer(answers, asked=asked, request_id=noted.request_id)
        if asked.chats[0].stream:
            await send_stream(answer, send=send, gone=gone)
        else:
            await send_whole(answer, answer.response, send=send)


def _part(steering: SteeringHeaders, noted: Arrival, *, number: int, of: int) -> dict[str, Any]:
    """What tells one of several prompts from the others: an id and a key of its own.

    A cap on the cost is divided, so that it holds for all of them together.
    """
    request_id = noted.request_id
    if of > 1:
        request_id = part_id(request_id, number)
        key, cap = steering.idempotency_key, steering.max_cost_nanos
        steering = replace(
            steering,
            idempotency_key=f"{key}.{number}" if key else "",
            max_cost_nanos=None if cap is None else cap // of,
        )
    return {
        "steering": steering,
        "request_id": request_id,
        "arrived_unix_ms": noted.unix_ms,
        "arrived_monotonic_ms": noted.monotonic_ms,
    }


async def _together(answering: list[Awaitable[Answer]]) -> list[Answer]:
    """Every answer's start; if one fails, the others are given up and its error is raised."""
    tasks = [asyncio.ensure_future(each) for each in answering]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is None:
                await abandon(task.result())
        raise


class Embeddings(_Endpoint):
    """`POST /v1/embeddings`."""

    prompt_field = "input"

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = parse_embeddings(await read_json(scope, receive))
        noted = arrival(scope)
        request: ClientRequest = client_request(
            asked.body,
            steering=parse_headers(noted.headers),
            request_id=noted.request_id,
            arrived_unix_ms=noted.unix_ms,
            arrived_monotonic_ms=noted.monotonic_ms,
            kind=RequestKind.EMBEDDINGS,
        )
        request = asked_with_key(scope, request)
        answer = await self._facade.answer(request, client_gone(scope))
        content = answer.response or {}
        if asked.as_base64:
            content = {**content, "data": [_as_base64(each) for each in content["data"]]}
        await send_whole(answer, content, send=send)


def _as_base64(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An embedding as little-endian float32 in base64, the form that official clients ask for."""
    vector = entry["embedding"]
    packed = b64encode(pack(f"<{len(vector)}f", *vector)).decode("ascii")
    return {**entry, "embedding": packed}
