"""What stands between uvicorn and the network."""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send

from shared import http_server
from shared.http_server import GATHERED_BYTES_MAX, HEAD_BYTES_MAX, HttpServer, _Gathering, serve


class Wire:
    """A transport that notes what it is asked to send."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> str:
        return f"its {name}"


def gathering() -> tuple[Wire, Any]:
    """A wire, and what gathers in front of it."""
    wire = Wire()
    return wire, _Gathering(cast("asyncio.Transport", wire))


async def test_what_is_written_in_one_turn_goes_out_in_one_piece() -> None:
    """In its order; and what comes in the next turn is a piece of its own."""
    wire, transport = gathering()
    for piece in (b"head ", b"body ", b"end"):
        transport.write(piece)
    assert [] == wire.sent
    await asyncio.sleep(0)
    assert [b"head body end"] == wire.sent
    transport.write(b"more")
    await asyncio.sleep(0)
    assert [b"head body end", b"more"] == wire.sent
    await asyncio.sleep(0)
    assert 2 == len(wire.sent)


async def test_much_goes_out_at_once() -> None:
    """Or a client that reads too slowly would be found out only when all is in memory."""
    wire, transport = gathering()
    half = b"x" * (GATHERED_BYTES_MAX // 2)
    for _ in range(2):
        transport.write(half)
    assert [] == wire.sent, "that is just the limit"
    transport.write(b"y")
    assert [half + half + b"y"] == wire.sent
    transport.write(b"the rest")
    await asyncio.sleep(0)
    assert [b"the rest"] == wire.sent[1:]


async def test_closing_sends_what_was_written_before() -> None:
    """A response whose connection is not kept ends like any other."""
    wire, transport = gathering()
    transport.write(b"the last word")
    transport.close()
    assert ([b"the last word"], True) == (wire.sent, wire.closed)
    await asyncio.sleep(0)
    assert 1 == len(wire.sent)


async def test_nothing_is_sent_on_a_connection_that_is_lost() -> None:
    """The client has gone between the write and the end of the turn."""
    wire, transport = gathering()
    transport.write(b"too late")
    wire.closed = True
    await asyncio.sleep(0)
    assert [] == wire.sent


async def test_all_else_is_the_transports() -> None:
    """Such as the peer's address, or pausing."""
    assert "its peername" == gathering()[1].get_extra_info("peername")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it was told, and over which headers."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    names = b",".join(sorted(name for name, _ in scope["headers"]))
    told = b"%s<%s>" % (body, names)
    length = (b"content-length", b"%d" % len(told))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": told})


async def said(server: HttpServer, *pieces: bytes) -> bytes:
    """All that comes back for these pieces, each sent alone, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return await reader.read()
    finally:
        writer.transport.abort()


HTTP2 = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
LAST = b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlast"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5\r\n\r\n", b"first"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nfi\r\n3\r\nrst\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
async def test_an_offer_of_http_2_is_passed_over(framing: bytes, body: bytes) -> None:
    """Java's client makes it with its first request, whose body counts; so does what follows."""
    head = HEAD + HTTP2 + framing
    names = b",".join(sorted([b"host", b"connection", framing.partition(b":")[0].lower()]))
    async with serve(echo, host="127.0.0.1", port=0, grace_s=1) as server, asyncio.timeout(60):
        for pieces in (
            [head + body + LAST],
            [head, body, LAST],
            [head[:60], head[60:] + body[:2], body[2:] + LAST],
            [bytes([each]) for each in head + body + LAST],
        ):
            reply = await said(server, *pieces)
            assert 2 == reply.count(b"HTTP/1.1 200 OK"), reply
            assert b"first<%s>" % names in reply
            assert b"last<connection,content-length>" in reply


async def test_many_offers_at_once_are_passed_over() -> None:
    """On one connection, in one piece."""
    many = 1_500  # far more than may wait, so the reading stops and goes on
    asked = (HEAD + HTTP2 + b"Content-Length: 0\r\n\r\n") * many
    async with serve(echo, host="127.0.0.1", port=0, grace_s=1) as server, asyncio.timeout(60):
        assert many + 1 == (await said(server, asked + LAST)).count(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("target", [b"x:1", b"http://x/"])
async def test_who_takes_this_for_a_proxy_is_refused(
    target: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A tunnel would be another protocol too; the log tells of what is no HTTP."""
    async with serve(echo, host="127.0.0.1", port=0, grace_s=1) as server, asyncio.timeout(60):
        reply = await said(server, b"CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert "Invalid HTTP request" in caplog.text


async def test_a_head_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has shown no key yet must not fill the memory."""
    monkeypatch.setattr(http_server, "HEAD_WAIT_S", math.inf)
    endless = HEAD + b"x: " + b"y" * (32 * HEAD_BYTES_MAX)  # far more than is read at once
    async with serve(echo, host="127.0.0.1", port=0, grace_s=1) as server, asyncio.timeout(60):
        try:
            reply = await said(server, endless)
        except ConnectionResetError:
            return  # closed while more came, which cuts the reply short
    assert reply.startswith(b"HTTP/1.1 400 ")


async def test_only_the_head_counts_as_head() -> None:
    """Not the body before it, though a piece may hold the end of one and the start of the other."""
    large = b"z" * (3 * HEAD_BYTES_MAX)
    first = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(large), large)
    second = HEAD + b"Content-Length: 0\r\n\r\n"
    async with serve(echo, host="127.0.0.1", port=0, grace_s=1) as server, asyncio.timeout(60):
        reply = await said(server, first + second[:20], second[20:] + LAST)
    assert 3 == reply.count(b"HTTP/1.1 200 OK")


async def test_what_is_no_request_does_not_keep_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as empty lines, or the rest of a body that was refused."""
    monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 1)

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        none = (b"content-length", b"0")
        await send({"type": "http.response.start", "status": 413, "headers": [none]})
        await send({"type": "http.response.body", "body": b""})

    async def goes_on(head: bytes, more: bytes) -> None:
        """Send a request and then, until the connection is closed, more."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        await reader.readuntil(b"\r\n\r\n")
        closed = asyncio.create_task(reader.read())
        while not closed.done():
            writer.write(more)
            await asyncio.wait({closed}, timeout=0.1)
        writer.transport.abort()

    async with serve(refuse, host="127.0.0.1", port=0, grace_s=1) as server, asyncio.timeout(60):
        await goes_on(HEAD + b"Content-Length: 0\r\n\r\n", b"\r\n")
        await goes_on(HEAD + b"Content-Length: 1000000\r\n\r\n", b"rest")
