"""The cloud client against a server on loopback that misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from edge_agent.adapters import cloud_client
from edge_agent.adapters.cloud_client import OpenAiCloud
from edge_agent.ports import (
    NOTHING_SENT,
    ArmFailed,
    ChatCall,
    Chunk,
    EmbedCall,
    Embedded,
    Finished,
    Usage,
)
from shared.decision.money import Price, WorstCase
from shared.decision.types import Arm, ArmKind, CloudSettings, OnAbort, SettleKind
from shared.limits import ERROR_CHARS_MAX

KEY = "sk-very-secret-0123456789"
LONG_MS = 20_000
SHORT_MS = 80

Script = Callable[["Exchange"], Awaitable[None]]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Exchange:
    """One request as the server saw it, and the means to answer it."""

    head: str
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(
        self, content: object, *, status: str = "200 OK", extra: str = "", kind: str = "json"
    ) -> None:
        """A whole reply with its length."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        await self.write(
            f"HTTP/1.1 {status}\r\nContent-Type: application/{kind}\r\n{extra}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    async def start_stream(self) -> None:
        """The head of a streamed reply."""
        await self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    async def piece(self, data: bytes) -> None:
        """One piece of a streamed reply."""
        await self.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def end_stream(self) -> None:
        """The proper end of a streamed reply."""
        await self.write(b"0\r\n\r\n")

    async def until_client_leaves(self) -> None:
        """Wait for the client to close the connection."""
        while await self.reader.read(65_536):
            continue


@dataclass
class Upstream:
    """A server that answers each request with the next script, the last one again and again."""

    scripts: list[Script] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    client_left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until a script closes it or the client does."""
        self.connections += 1
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length")
                )
                body = await reader.readexactly(length)
                exchange = Exchange(head, body, reader, writer)
                self.exchanges.append(exchange)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                await script(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.client_left.set()


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    """A server on loopback, by its port; left when every connection has been handled."""
    running: set[asyncio.Future[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(handled := asyncio.get_running_loop().create_future())
        try:
            await handle(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            handled.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1_000)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*running)


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A misbehaving server on loopback."""
    state = Upstream()
    async with serving(state.handle) as port:
        state.port = port
        yield state


@pytest_asyncio.fixture
async def cloud() -> AsyncIterator[OpenAiCloud]:
    """The client under test."""
    client = OpenAiCloud(environ={"CLOUD_KEY": KEY})
    yield client
    await client.close()


def call_of(
    base_url: str,
    *,
    stream: bool = False,
    api_key_ref: str = "env:CLOUD_KEY",
    connect_ms: int = LONG_MS,
    first_byte_ms: int = LONG_MS,
    **body: Any,
) -> ChatCall:
    """A call of an arm at that address."""
    settings = CloudSettings(
        base_url=base_url,
        api_key_ref=api_key_ref,
        price=Price(input_nanos_per_mtok=1, output_nanos_per_mtok=1),
        worst_case=WorstCase(),
        fields=frozenset(),
        unbilled_statuses=frozenset({400, 401, 429}),
        on_abort=OnAbort.DRAIN,
        connect_timeout_ms=connect_ms,
        first_byte_timeout_ms=first_byte_ms,
        drain_timeout_ms=LONG_MS,
    )
    arm = Arm("gpt", ArmKind.CLOUD, "gpt-x", 8_192, 64, cloud=settings)
    chat = {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "Grüße"}],
        "max_tokens": 64,
        **body,
    }
    return ChatCall(request_id="req-1", arm=arm, body=chat, stream=stream)


async def events_of(client: OpenAiCloud, call: ChatCall) -> list[Chunk | Finished]:
    """Everything that a call yields."""
    return [event async for event in client.chat(call)]


async def failure_of(client: OpenAiCloud, call: ChatCall) -> ArmFailed:
    """The failure that a call ends with."""
    with pytest.raises(ArmFailed) as caught:
        await events_of(client, call)
    assert KEY not in str(caught.value)
    return caught.value


def chunk(text: str, *, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    """A chunk as OpenAI sends it."""
    delta = {"role": "assistant", "content": text}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}


def sse(data: object) -> bytes:
    """An event with that data."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}],
    "usage": USAGE,
}


async def complete(exchange: Exchange) -> None:
    """Answer a call that is not streamed."""
    await exchange.reply(COMPLETION)


async def stream_well(exchange: Exchange) -> None:
    """Answer a streamed call."""
    await exchange.start_stream()
    await exchange.piece(sse(chunk("he")) + sse(chunk("llo", finish="stop")))
    await exchange.piece(sse({"choices": [], "usage": USAGE}) + sse("[DONE]"))
    await exchange.end_stream()


def pieces(*parts: bytes, cut: bool = False) -> Script:
    """A script that streams these bytes, and then ends or cuts the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        for part in parts:
            await exchange.piece(part)
        if cut:
            exchange.writer.transport.abort()
        else:
            await exchange.end_stream()

    return script


def replies(content: object, *, status: str = "200 OK", extra: str = "") -> Script:
    """A script that sends one reply."""

    async def script(exchange: Exchange) -> None:
        await exchange.reply(content, status=status, extra=extra)

    return script


async def test_a_plain_call_yields_the_response_and_its_usage(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """The whole response and the tokens come as one `Finished`."""
    upstream.scripts = [complete]
    events = await events_of(cloud, call_of(upstream.base_url))
    assert events == [Finished(Usage(5, 2), response=COMPLETION)]


async def test_exactly_the_given_fields_are_sent(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """The body holds the call's fields and nothing more; the key goes into the header."""
    upstream.scripts = [complete]
    call = call_of(upstream.base_url, temperature=0.5)
    await events_of(cloud, call)
    exchange = upstream.exchanges[0]
    assert exchange.head.startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}\r\n" in exchange.head
    assert exchange.json == dict(call.body)
    assert "Grüße".encode() in exchange.body


async def test_a_streamed_call_asks_for_usage_and_keeps_it_out_of_the_chunks(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """The chunks come first, then one `Finished` with the usage; no chunk is empty."""
    upstream.scripts = [stream_well]
    events = await events_of(cloud, call_of(upstream.base_url, stream=True, stream_options={}))
    assert events == [
        Chunk(chunk("he")),
        Chunk(chunk("llo", finish="stop")),
        Finished(Usage(5, 2)),
    ]
    sent = upstream.exchanges[0].json
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})


async def test_each_choice_of_a_stream_begins_with_its_role(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Also where the endpoint leaves it out: OpenAI's client for JavaScript insists on it."""
    bare = [
        {"choices": [{"index": index, "delta": {"content": "a"}, "finish_reason": finish}]}
        for index, finish in ((0, None), (1, "stop"), (0, "stop"))
    ]
    upstream.scripts = [pieces(*map(sse, bare), sse("[DONE]"))]
    *chunks, _ = await events_of(cloud, call_of(upstream.base_url, stream=True, n=2))
    deltas = [each.data["choices"][0]["delta"] for each in chunks if isinstance(each, Chunk)]
    assert [True, True, False] == ["role" in delta for delta in deltas]


async def test_a_chunk_arrives_before_the_next_one_is_sent(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Nothing is held back: the server sends its second chunk only after the first was seen."""
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.piece(sse(chunk("a")))
        await seen.wait()
        await exchange.piece(sse(chunk("b", finish="stop")) + sse("[DONE]"))
        await exchange.end_stream()

    upstream.scripts = [script]
    texts = []
    async for event in cloud.chat(call_of(upstream.base_url, stream=True)):
        seen.set()
        texts.append(event)
    assert len(texts) == 3


async def test_details_of_the_usage_are_kept(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """Cached and hidden tokens, where they are objects as the API has them."""
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": None}
    usage: dict[str, Any] = dict(USAGE)
    usage |= details
    upstream.scripts = [replies({**COMPLETION, "usage": usage})]
    (finished,) = await events_of(cloud, call_of(upstream.base_url))
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(5, 2, 4, {"prompt_tokens_details": {"cached_tokens": 4}})


@pytest.mark.parametrize(
    ("said", "understood_s"),
    [("7", 7), ("1.2", 2), ("0", 0), ("-1", 0), ("soon", 0), ("nan", 0), ("1e9", 0), ("", 0)],
)
async def test_an_endpoint_may_ask_for_patience(
    upstream: Upstream, cloud: OpenAiCloud, said: str, understood_s: int
) -> None:
    """`Retry-After` in seconds goes with the failure; what makes no sense does not."""
    refused = {"error": {"message": "slow down"}}
    extra = f"Retry-After: {said}\r\n"
    upstream.scripts = [replies(refused, status="429 Too Many Requests", extra=extra)]
    failure = await failure_of(cloud, call_of(upstream.base_url))
    assert ("http_429", understood_s) == (failure.reason, failure.retry_after_s)


LOGPROBS = {"tokens": ["x"], "token_logprobs": [-0.5], "top_logprobs": [{"y": -2.0}]}
TOKENS = {
    "content": [
        {"token": "x", "logprob": -0.5, "top_logprobs": [{"token": "y", "logprob": -2.0}]},
    ]
}


def text_piece(text: str, finish: str | None = None) -> dict[str, Any]:
    """A piece, or the whole, of a `text_completion`."""
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": LOGPROBS}
    return {"id": "c", "object": "text_completion", "choices": [choice]}


def prompt_call(upstream: Upstream, *, stream: bool) -> ChatCall:
    """A bare prompt to be continued."""
    call = call_of(upstream.base_url, stream=stream)
    body = {"model": "gpt-x", "prompt": "Once", "max_tokens": 4}
    return replace(call, body={**body, "logprobs": True, "top_logprobs": 1})


async def test_a_bare_prompt_goes_to_the_older_endpoint(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Its answer comes in the form of a chat, with its log probabilities."""
    upstream.scripts = [replies({**text_piece(" upon", "stop"), "usage": USAGE})]
    (finished,) = await events_of(cloud, prompt_call(upstream, stream=False))
    assert isinstance(finished, Finished)
    assert finished.response is not None
    said = {"role": "assistant", "content": " upon"}
    choice = {"index": 0, "message": said, "finish_reason": "stop", "logprobs": TOKENS}
    assert ([choice], Usage(5, 2)) == (finished.response["choices"], finished.usage)
    (exchange,) = upstream.exchanges
    assert exchange.head.startswith("POST /v1/completions HTTP/1.1\r\n")
    assert {"model": "gpt-x", "prompt": "Once", "max_tokens": 4, "logprobs": 1} == exchange.json


async def test_a_bare_prompt_is_streamed_like_a_chat(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Each piece becomes a delta."""
    usage = {"object": "text_completion", "choices": [], "usage": USAGE}
    upstream.scripts = [
        pieces(sse(text_piece(" upon")), sse(text_piece("", "stop")), sse(usage), sse("[DONE]"))
    ]
    *chunks, finished = await events_of(cloud, prompt_call(upstream, stream=True))
    assert [" upon", ""] == [
        each.data["choices"][0]["delta"]["content"] for each in chunks if isinstance(each, Chunk)
    ]
    assert Finished(Usage(5, 2)) == finished


def embed_call(upstream: Upstream, *texts: str, **fields: Any) -> EmbedCall:
    """A call for the embeddings of some texts."""
    return EmbedCall("req-1", call_of(upstream.base_url).arm, texts, fields=fields)


def vector(index: int, *numbers: float) -> dict[str, Any]:
    """An embedding as OpenAI sends it."""
    return {"object": "embedding", "index": index, "embedding": list(numbers)}


async def test_embeddings_come_in_the_order_of_their_input(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """The endpoint's own order does not matter; nothing was generated."""
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    reply = {"object": "list", "data": [vector(1, 2), vector(0, 0.5)], "model": "m"}
    upstream.scripts = [replies({**reply, "usage": usage})]
    embedded = await cloud.embed(embed_call(upstream, "a", "b", user="me"))
    assert embedded == Embedded(((0.5,), (2,)), Usage(3, 0))
    (exchange,) = upstream.exchanges
    assert exchange.head.startswith("POST /v1/embeddings HTTP/1.1\r\n")
    assert exchange.json == {"model": "gpt-x", "input": ["a", "b"], "user": "me"}


async def test_token_ids_are_embedded_as_they_are(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """For an endpoint that shares the client's tokeniser."""
    upstream.scripts = [replies({"object": "list", "data": [vector(0, 1)]})]
    call = replace(embed_call(upstream), token_inputs=((1, 2),))
    assert Embedded(((1,),), None) == await cloud.embed(call)
    assert [[1, 2]] == upstream.exchanges[0].json["input"]


@pytest.mark.parametrize(
    "data",
    [None, [], [vector(0, 1)], [vector(0, 1), vector(0, 1)], [vector(0, 1), {"index": 1}], ["x"]],
)
async def test_embeddings_that_are_not_whole_are_of_no_use(
    upstream: Upstream, cloud: OpenAiCloud, data: object
) -> None:
    """One vector for each text, or a failure that is settled at what was reported."""
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    upstream.scripts = [replies({"object": "list", "data": data, "usage": usage})]
    with pytest.raises(ArmFailed) as caught:
        await cloud.embed(embed_call(upstream, "a", "b"))
    assert "bad_response" == caught.value.reason
    assert (SettleKind.REPORTED, Usage(3, 0)) == (caught.value.settle, caught.value.usage)


async def test_embeddings_that_the_endpoint_refuses_fail(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """As for chat: the reason, and what it cost."""
    upstream.scripts = [replies({"error": {"message": "no"}}, status="401 Unauthorized")]
    with pytest.raises(ArmFailed) as caught:
        await cloud.embed(embed_call(upstream, "a"))
    assert ("http_401", SettleKind.RELEASED) == (caught.value.reason, caught.value.settle)


async def test_connections_are_used_again(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """Plain and streamed calls that end well leave their connection to the next call."""
    upstream.scripts = [complete, stream_well, complete, stream_well]
    for stream in (False, True, False, True):
        await events_of(cloud, call_of(upstream.base_url, stream=stream))
    assert (len(upstream.exchanges), upstream.connections) == (4, 1)


async def test_a_response_that_ends_a_moment_after_its_last_event_keeps_its_connection(
    upstream: Upstream, cloud: OpenAiCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short wait for the end spares the next call a handshake."""
    monkeypatch.setattr(cloud_client, "END_WAIT_S", 5.0)

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.piece(sse(chunk("a", finish="stop")) + sse("[DONE]"))
        asyncio.get_running_loop().call_later(0.005, exchange.writer.write, b"0\r\n\r\n")

    upstream.scripts = [script]
    for _ in range(2):
        await events_of(cloud, call_of(upstream.base_url, stream=True))
    assert upstream.connections == 1


async def test_a_lost_keep_alive_connection_is_never_retried(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """The request that runs into a dropped connection reaches the server once (rule S_1)."""

    async def drop(exchange: Exchange) -> None:
        exchange.writer.transport.abort()

    upstream.scripts = [complete, drop, complete]
    await events_of(cloud, call_of(upstream.base_url))
    failed = await failure_of(cloud, call_of(upstream.base_url))
    assert (failed.reason, failed.settle) == ("connection_lost", SettleKind.UNKNOWN)
    assert len(upstream.exchanges) == 2


@pytest.mark.parametrize(
    "cut_up",
    [
        lambda data: [data[i : i + 1] for i in range(len(data))],
        lambda data: [data.replace(b"\n", b"\r\n")],
        lambda data: [b": processing\n\n", b"event: x\nid: 3\nretry: 1\n" + data],
        lambda data: [data.replace(b"data: {", b"data:{").replace(b', "', b',\ndata: "')],
        lambda data: [data.rstrip(b"\n")],
    ],
    ids=["byte by byte", "CRLF", "comments and other fields", "many data lines", "no last line"],
)
async def test_events_are_understood_however_they_are_written(
    upstream: Upstream, cloud: OpenAiCloud, cut_up: Callable[[bytes], list[bytes]]
) -> None:
    """Every form that the standard allows gives the same chunks."""
    data = sse(chunk("é", finish="stop")) + sse({"choices": [], "usage": USAGE}) + sse("[DONE]")
    upstream.scripts = [pieces(*cut_up(data))]
    events = await events_of(cloud, call_of(upstream.base_url, stream=True))
    assert events == [Chunk(chunk("é", finish="stop")), Finished(Usage(5, 2))]


async def test_usage_may_ride_on_any_chunk(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """The last usage counts, also beside choices; the client's chunks do not show it."""
    upstream.scripts = [
        pieces(
            sse({**chunk("a"), "usage": {"prompt_tokens": 5, "completion_tokens": 1}}),
            sse({**chunk("", finish="stop"), "usage": USAGE}),
            sse("[DONE]"),
        )
    ]
    events = await events_of(cloud, call_of(upstream.base_url, stream=True))
    assert events == [Chunk(chunk("a")), Chunk(chunk("", finish="stop")), Finished(Usage(5, 2))]


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        {"prompt_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": 5.5, "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        {"prompt_tokens": 5, "completion_tokens": 10**30},
    ],
)
async def test_usage_that_makes_no_sense_counts_as_missing(
    upstream: Upstream, cloud: OpenAiCloud, usage: object
) -> None:
    """A count that is negative, no integer or absurd settles nothing."""
    upstream.scripts = [replies({**COMPLETION, "usage": usage})]
    (finished,) = await events_of(cloud, call_of(upstream.base_url))
    assert isinstance(finished, Finished)
    assert finished.usage is None


async def test_hidden_thinking_counts_as_output(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """Tokens that only the total shows are billed as output, so they are counted as output."""
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 17}
    upstream.scripts = [replies({**COMPLETION, "usage": usage})]
    (finished,) = await events_of(cloud, call_of(upstream.base_url))
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(5, 12)


async def test_a_stream_that_ends_without_a_done_event_is_whole_after_its_finish_reason(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Some servers just end, or cut the connection, once every choice has finished."""
    parts = (sse(chunk("a", finish="stop")), sse(chunk("b", finish="length", index=1)))
    upstream.scripts = [pieces(*parts), pieces(*parts, cut=True)]
    for _ in range(2):
        events = await events_of(cloud, call_of(upstream.base_url, stream=True, n=2))
        assert events[-1] == Finished(usage=None)


@pytest.mark.parametrize("cut", [False, True], ids=["ended", "cut"])
async def test_a_stream_that_stops_in_the_middle_is_broken(
    upstream: Upstream, cloud: OpenAiCloud, cut: bool
) -> None:
    """One of two choices never finished: the cost is unknown, whatever usage came before."""
    first = sse({**chunk("a", finish="stop"), "usage": USAGE})
    upstream.scripts = [pieces(first, sse(chunk("b", index=1)), cut=cut)]
    failed = await failure_of(cloud, call_of(upstream.base_url, stream=True, n=2))
    assert (failed.reason, failed.settle) == ("stream_broken", SettleKind.UNKNOWN)
    assert failed.usage is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"data: {not json\n\n", "bad_response"),
        (b"data: [1]\n\n", "bad_response"),
        (b'data: {"choices": 3}\n\n', "bad_response"),
        (b"data: [DONE]\n\n", "bad_response"),
        (sse({"error": {"message": "out of memory", "code": "oom"}}), "upstream_error"),
        (sse({"error": "out of memory"}), "upstream_error"),
    ],
)
async def test_garbage_and_errors_in_a_stream_are_failures_of_unknown_cost(
    upstream: Upstream, cloud: OpenAiCloud, data: bytes, reason: str
) -> None:
    """What is no chunk ends the answer, and nothing is known of its cost."""
    upstream.scripts = [pieces(data)]
    failed = await failure_of(cloud, call_of(upstream.base_url, stream=True))
    assert (failed.reason, failed.settle) == (reason, SettleKind.UNKNOWN)
    if reason == "upstream_error":
        assert "out of memory" in str(failed)


async def test_a_line_without_end_is_cut_off(
    upstream: Upstream, cloud: OpenAiCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server cannot fill the device's memory with one line, nor with one long response."""
    monkeypatch.setattr(cloud_client, "EVENT_BYTES_MAX", 1_000)
    upstream.scripts = [pieces(b"data: " + b"x" * 2_000)]
    failed = await failure_of(cloud, call_of(upstream.base_url, stream=True))
    assert (failed.reason, failed.settle) == ("bad_response", SettleKind.UNKNOWN)
    monkeypatch.setattr(cloud_client, "RESPONSE_BYTES_MAX", 10)
    upstream.scripts = [complete]
    failed = await failure_of(cloud, call_of(upstream.base_url))
    assert (failed.reason, failed.settle) == ("bad_response", SettleKind.UNKNOWN)


@pytest.mark.parametrize(
    ("status", "settle", "reason", "client_error"),
    [
        ("400 Bad Request", SettleKind.RELEASED, "invalid_request", True),
        ("422 Unprocessable", SettleKind.UNKNOWN, "invalid_request", True),
        ("401 Unauthorized", SettleKind.RELEASED, "http_401", False),
        ("429 Too Many", SettleKind.RELEASED, "http_429", False),
        ("500 Oops", SettleKind.UNKNOWN, "http_500", False),
        ("503 Busy", SettleKind.UNKNOWN, "http_503", False),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_only_statuses_that_the_arm_lists_release_the_reservation(
    upstream: Upstream,
    cloud: OpenAiCloud,
    status: str,
    settle: SettleKind,
    reason: str,
    client_error: bool,
    stream: bool,
) -> None:
    """Rule S_2: an error status is free of cost only where the arm says so."""
    upstream.scripts = [replies({"error": {"message": f"no: {KEY} " + "x" * 999}}, status=status)]
    failed = await failure_of(cloud, call_of(upstream.base_url, stream=stream))
    assert (failed.reason, failed.settle) == (reason, settle)
    assert failed.client_error is client_error
    assert "[api key]" in str(failed)
    assert len(str(failed)) < ERROR_CHARS_MAX + 50


async def test_a_prompt_too_long_for_one_arm_may_fit_another(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """The one 400 that says more of the arm than of the request."""
    error = {"message": "too long", "code": "context_length_exceeded"}
    upstream.scripts = [replies({"error": error}, status="400 Bad Request")]
    failed = await failure_of(cloud, call_of(upstream.base_url))
    assert (failed.reason, failed.client_error) == ("context_length_exceeded", False)


async def test_a_redirect_is_not_followed(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """A POST that is sent elsewhere is a second paid call, and shows the key to a stranger."""
    location = f"Location: http://127.0.0.1:{upstream.port}/elsewhere\r\n"
    upstream.scripts = [replies(b"", status="307 Temporary Redirect", extra=location)]
    failed = await failure_of(cloud, call_of(upstream.base_url))
    assert (failed.reason, failed.settle) == ("redirected", SettleKind.UNKNOWN)
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("content", [b"<html>", b"[]", {"choices": []}, {"choices": "x"}])
async def test_a_success_without_an_answer_is_a_failure(
    upstream: Upstream, cloud: OpenAiCloud, content: object
) -> None:
    """A 200 that holds no completion has an unknown cost."""
    upstream.scripts = [replies(content)]
    failed = await failure_of(cloud, call_of(upstream.base_url))
    assert (failed.reason, failed.settle) == ("bad_response", SettleKind.UNKNOWN)


async def test_a_failed_answer_that_reports_usage_settles_at_it(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """An error inside a 200, and a stream answered in one piece, cost what they report."""
    failing = {"error": {"message": "filtered"}, "usage": USAGE}
    upstream.scripts = [replies(failing), replies(COMPLETION)]
    first = await failure_of(cloud, call_of(upstream.base_url))
    second = await failure_of(cloud, call_of(upstream.base_url, stream=True))
    assert (first.reason, first.settle) == ("upstream_error", SettleKind.REPORTED)
    assert (second.reason, second.settle) == ("bad_response", SettleKind.REPORTED)
    assert first.usage == second.usage == Usage(5, 2)


async def test_a_reply_that_breaks_off_has_an_unknown_cost(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Fewer bytes than announced: the answer was made, and is lost."""

    async def half(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        exchange.writer.close()

    upstream.scripts = [half]
    failed = await failure_of(cloud, call_of(upstream.base_url))
    assert (failed.reason, failed.settle) == ("stream_broken", SettleKind.UNKNOWN)


async def test_no_connection_releases_the_reservation(cloud: OpenAiCloud) -> None:
    """A refused connection and an unknown host are known not to have executed anything."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        refused = await failure_of(cloud, call_of(f"http://127.0.0.1:{port}"))
    unknown = await failure_of(cloud, call_of("http://host.invalid"))
    broken = await failure_of(cloud, call_of("http://"))
    assert (refused.reason, refused.settle) == ("connect_failed", SettleKind.RELEASED)
    assert (unknown.reason, unknown.settle) == ("connect_failed", SettleKind.RELEASED)
    assert (broken.reason, broken.settle) == ("invalid_base_url", SettleKind.RELEASED)


async def test_a_failed_tls_handshake_releases_the_reservation(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """A server that does not speak TLS never saw the request."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(handle) as port:
        failed = await failure_of(cloud, call_of(f"https://127.0.0.1:{port}"))
    assert (failed.reason, failed.settle) == ("connect_failed", SettleKind.RELEASED)


async def test_a_connection_that_takes_too_long_releases_the_reservation() -> None:
    """A handshake that never ends runs into the limit for connecting."""
    entered = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        entered.set()
        while await reader.read(65_536):
            continue

    client = OpenAiCloud(environ={"CLOUD_KEY": KEY}, tls=ssl.create_default_context())
    async with serving(handle) as port:
        call = call_of(f"https://127.0.0.1:{port}", connect_ms=SHORT_MS, first_byte_ms=SHORT_MS)
        failed = await failure_of(client, call)
    await client.close()
    assert entered.is_set()
    assert (failed.reason, failed.settle) == ("connect_timeout", SettleKind.RELEASED)


async def test_a_body_that_was_not_sent_to_its_end_releases_the_reservation(
    cloud: OpenAiCloud,
) -> None:
    """The server goes away while megabytes are still to be sent: it cannot have executed it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.transport.abort()

    message = {"role": "user", "content": "x" * 30_000_000}
    async with serving(handle) as port:
        failed = await failure_of(cloud, call_of(f"http://127.0.0.1:{port}", messages=[message]))
    assert (failed.reason, failed.settle) == ("connection_lost", SettleKind.RELEASED)


async def test_silence_after_the_request_has_an_unknown_cost(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """No headers, no first event, no next event: each runs into the limit for the first byte."""

    async def silence(exchange: Exchange) -> None:
        await exchange.until_client_leaves()

    async def only_comments(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.piece(b": working\n\n")
        await exchange.until_client_leaves()

    async def one_chunk(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.piece(sse(chunk("a")))
        await exchange.until_client_leaves()

    for script in (silence, only_comments, one_chunk):
        upstream.scripts = [script]
        call = call_of(upstream.base_url, stream=True, first_byte_ms=SHORT_MS)
        failed = await failure_of(cloud, call)
        assert (failed.reason, failed.settle) == ("timeout", SettleKind.UNKNOWN)


async def test_a_slow_reader_is_not_taken_for_a_silent_server(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Time that the consumer takes between two chunks does not count against the server."""
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.piece(sse(chunk("a")))
        await go_on.wait()
        await exchange.piece(sse(chunk("b", finish="stop")) + sse("[DONE]"))
        await exchange.end_stream()

    upstream.scripts = [script]
    loop = asyncio.get_running_loop()
    events = []
    async for event in cloud.chat(call_of(upstream.base_url, stream=True, first_byte_ms=SHORT_MS)):
        events.append(event)
        if not go_on.is_set():
            slow = loop.create_future()
            loop.call_later(2 * SHORT_MS / 1000, slow.set_result, None)
            await slow
            loop.call_later(SHORT_MS / 4000, go_on.set)
    assert events[-1] == Finished(usage=None)


async def test_closing_the_iterator_closes_the_connection(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Whoever stops reading stops the provider's work, as far as the provider looks."""

    async def endless(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.piece(sse(chunk("a")))
        await exchange.until_client_leaves()
        upstream.client_left.set()

    upstream.scripts = [endless]
    events = cloud.chat(call_of(upstream.base_url, stream=True))
    assert await anext(events) == Chunk(chunk("a"))
    await events.aclose()
    async with asyncio.timeout(5):
        await upstream.client_left.wait()


async def test_cancelling_a_call_closes_the_connection(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """Our own cancellation passes through as such: the service knows best what it means."""
    asked = asyncio.Event()

    async def silence(exchange: Exchange) -> None:
        asked.set()
        await exchange.until_client_leaves()
        upstream.client_left.set()

    upstream.scripts = [silence]
    calling = asyncio.create_task(events_of(cloud, call_of(upstream.base_url)))
    await asked.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    async with asyncio.timeout(5):
        await upstream.client_left.wait()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_is_cancelled_while_it_connects_was_not_sent(
    cloud: OpenAiCloud, stream: bool
) -> None:
    """A server that never answers a handshake has got nothing of the request (rule S_2)."""
    reached = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()

    async with serving(silent) as port:
        call = call_of(f"https://127.0.0.1:{port}/v1", stream=stream)
        calling = asyncio.create_task(events_of(cloud, call))
        await reached.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await calling
    assert (NOTHING_SENT,) == caught.value.args


async def test_a_call_that_is_cancelled_on_a_connection_may_have_been_sent(
    upstream: Upstream, cloud: OpenAiCloud
) -> None:
    """On a new one as on one that an earlier call has left."""

    asked: asyncio.Queue[None] = asyncio.Queue()

    async def silence(exchange: Exchange) -> None:
        asked.put_nowait(None)
        await exchange.until_client_leaves()

    async def cut_off() -> tuple[object, ...]:
        calling = asyncio.create_task(events_of(cloud, call_of(upstream.base_url)))
        await asked.get()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await calling
        return caught.value.args

    upstream.scripts = [silence, complete, silence]
    assert () == await cut_off()
    await events_of(cloud, call_of(upstream.base_url))
    assert () == await cut_off()
    assert 2 == upstream.connections


async def test_a_key_is_read_from_its_file_at_each_call(
    upstream: Upstream, cloud: OpenAiCloud, tmp_path: Path
) -> None:
    """A new key is used at once; the end of the line is not part of it."""
    upstream.scripts = [complete]
    path = tmp_path / "key"
    for key in ("first", "second"):
        path.write_text(f"{key}\n")
        await events_of(cloud, call_of(upstream.base_url, api_key_ref=f"file:{path}"))
        assert f"Bearer {key}\r\n" in upstream.exchanges[-1].head


async def test_an_arm_without_a_key_sends_none(upstream: Upstream, cloud: OpenAiCloud) -> None:
    """A private endpoint may need no key."""
    upstream.scripts = [complete]
    await events_of(cloud, call_of(upstream.base_url, api_key_ref=""))
    assert "authorization" not in upstream.exchanges[0].head.lower()


@pytest.mark.parametrize(
    "reference", ["env:NO_SUCH_KEY", "file:/no/such/key", "env:", "vault:x", "env:TORN_KEY"]
)
async def test_a_missing_key_is_said_before_anything_is_sent(
    upstream: Upstream, reference: str
) -> None:
    """The failure names the arm and the reference, releases, and never shows a key."""
    client = OpenAiCloud(environ={"TORN_KEY": "two\r\nlines"})
    failed = await failure_of(client, call_of(upstream.base_url, api_key_ref=reference))
    assert (failed.reason, failed.settle) == ("api_key_missing", SettleKind.RELEASED)
    assert "arm gpt" in str(failed)
    assert "lines" not in str(failed).replace("spaces, line breaks", "")
    assert upstream.connections == 0
    assert str(failed) == client.key_problem(call_of("http://x", api_key_ref=reference).arm)
    assert "" == client.key_problem(call_of("http://x", api_key_ref="").arm)
