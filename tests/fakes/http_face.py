"""A served HTTP face over an agent that does what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx2
import openai
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from edge_agent.adapters.http_api import build_app
from edge_agent.adapters.metrics import AgentMetrics
from edge_agent.requests import (
    AgentFacade,
    Answer,
    AnswerHead,
    ClientRequest,
    ListedModel,
    Readiness,
    RouteDecision,
    TaskOrigin,
    TaskSource,
)
from shared.decision.types import Fallout
from shared.http_server import HttpServer, serve

ASK = [{"role": "user", "content": "hi"}]
BODY = {"model": "auto", "messages": ASK}
RESPONSE = {
    "id": "req-1",
    "object": "chat.completion",
    "created": 1,
    "model": "llama",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Grüße \ud83d"},
        }
    ],
}

Chat = Callable[[ClientRequest, asyncio.Future[None]], Awaitable[Answer]]


def chunk(text: str, **more: Any) -> dict[str, Any]:
    """A chunk of an answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {
        "id": "req-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "llama",
        "choices": [choice],
        **more,
    }


class FixedAnswer(Answer):
    """An answer whose chunks come from a generator that a test wrote."""

    origin = TaskOrigin(TaskSource.HEADER)

    def __init__(
        self,
        request: ClientRequest,
        *,
        response: Mapping[str, Any] | None = None,
        chunks: AsyncIterator[Mapping[str, Any]] | None = None,
    ) -> None:
        self.head = AnswerHead(request.request_id, "llama", "weighted", 7, 256, "code", self.origin)
        self.response = response
        self._chunks = chunks

    def chunks(self) -> AsyncIterator[Mapping[str, Any]]:
        assert self._chunks is not None
        return self._chunks

    @property
    def usage(self) -> Mapping[str, Any]:
        return {"cost_usd": "0.001234567"}

    @property
    def cost_nanos(self) -> int:
        return 1_234_567


async def whole(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
    """Answer at once."""
    del gone
    return FixedAnswer(request, response=RESPONSE)


def streaming(chunks: Callable[[], AsyncIterator[Mapping[str, Any]]]) -> Chat:
    """Answer with the chunks of a generator."""

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        del gone
        return FixedAnswer(request, chunks=chunks())

    return chat


def failing(error: Exception) -> Chat:
    """Fail with an error."""

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        raise error

    return chat


class FakeAgent(AgentFacade):
    """Does what the test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what an earlier test set."""
        self.play: Chat = whole
        self.requests: list[ClientRequest] = []
        self.grades: list[tuple[str, float, str]] = []
        self.graded_by: list[str] = []
        self.feedback_result: bool | Exception = True
        self.origin = TaskOrigin(TaskSource.HEADER)
        self.ready = Readiness(ready=True, problems=(), details={"table_version": 7})

    async def answer(self, request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        self.requests.append(request)
        return await self.play(request, gone)

    def models(self) -> Sequence[ListedModel]:
        can = frozenset({"tools", "chat"})
        return [ListedModel("llama", "local", True), ListedModel("org/gpt", "cloud", False, can)]

    def route(self, request: ClientRequest) -> RouteDecision:
        self.requests.append(request)
        fallouts = (Fallout("gpt", "no_lease"),)
        row = ("code", "llama", 250_000, ("tiny",))
        return RouteDecision(*row, fallouts, "weighted", 7, 1_500, self.origin)

    async def feedback(
        self, *, request_id: str, score: float, source: str, key_tag: str = ""
    ) -> bool:
        self.grades.append((request_id, score, source))
        self.graded_by.append(key_tag)
        if isinstance(self.feedback_result, Exception):
            raise self.feedback_result
        return self.feedback_result

    def readiness(self) -> Readiness:
        return self.ready


class FixedClock:
    """Stands still."""

    def unix_ms(self) -> int:
        return 1_000

    def monotonic_ms(self) -> float:
        return 50.0

    def boot_ms(self) -> int:
        return 0

    def boot_id(self) -> str:
        return ""


class CountingIds:
    """req-1, req-2, ..."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{next(self._numbers)}"

    def new_secret(self, prefix: str) -> str:
        return self.new_id(prefix)


def app_of(agent: FakeAgent, **options: Any) -> ASGIApp:
    """The application under test."""
    metrics = AgentMetrics(CollectorRegistry())
    return build_app(agent, clock=FixedClock(), ids=CountingIds(), metrics=metrics, **options)


@dataclass
class Bench:
    """A served agent and clients for it."""

    agent: FakeAgent
    server: HttpServer
    http: httpx2.AsyncClient
    openai: openai.AsyncOpenAI

    async def post(
        self, body: object, *, path: str = "/v1/chat/completions", **headers: str
    ) -> Any:
        """A raw POST; the reply."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(
            path, content=content, headers={"content-type": "application/json", **named}
        )


async def connect(
    server: HttpServer, body: object, *, times: int = 1
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw connection over which a chat request was sent, or several in one go."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    content = json.dumps(body).encode()
    writer.write(
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            + f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        * times
    )
    return reader, writer


@asynccontextmanager
async def served_agent(**options: Any) -> AsyncIterator[Bench]:
    """A server, and clients for it."""
    agent = FakeAgent()
    async with serve(app_of(agent, **options), host="127.0.0.1", port=0, grace_s=5) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with (
            httpx2.AsyncClient(base_url=url) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Bench(agent, server, http, client)


def error_of(reply: httpx2.Response) -> dict[str, Any]:
    """The error of a reply, after a look at its envelope and its id."""
    assert set(reply.json()) == {"error"}
    error: dict[str, Any] = reply.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert reply.headers["x-tidegate-request-id"].startswith("req-")
    return error
