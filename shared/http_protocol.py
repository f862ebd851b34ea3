"""One HTTP connection: uvicorn's protocol, and what a server at the edge needs beyond it."""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_WAIT_S: Final = 30.0
"""How long a client may take for the head of a request, or to begin with one."""
HEAD_BYTES_MAX: Final = 64 * 1024
"""What is read of a head that does not end, before anybody has shown a key."""
GATHERED_BYTES_MAX: Final = 64 * 1024
PIPELINED_MAX: Final = 8
"""Requests that may wait behind another on one connection before no more is read from it."""
_CLIENT_GONE: Final = "tidegate.client_gone"
_OFFERS: Final = frozenset({b"upgrade", b"http2-settings"})


class Gathering:
    """A transport that sends in one piece what is written in one turn of the event loop.

    uvicorn writes a response's head and body, and each event of a stream, one after the other.
    Every write is a call of the system and wakes the client. What comes to more than the limit goes
    at once, so that the transport can say that its client reads too slowly.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes) -> None:
        """Send this at the end of the turn, or now if it is much."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes > GATHERED_BYTES_MAX:
            self._flush()

    def close(self) -> None:
        """Close after what was written has gone."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces, self._bytes = self._pieces, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def client_gone(scope: Scope) -> asyncio.Future[None]:
    """A future that is done when the client of this request has gone.

    Known as soon as the connection is lost: nobody has to wait in `receive` for it.
    """
    gone: asyncio.Future[None] = scope["state"][_CLIENT_GONE]
    return gone


class Protocol(HttpToolsProtocol):
    """uvicorn's, on a transport that gathers, and with word for requests whose client goes.

    A client that opens a connection and then says nothing, or half a head, or what is no request,
    is given up: uvicorn would keep the connection for ever. An offer to go on in HTTP/2, which
    Java's client makes with its first request, is passed over: uvicorn would lose the body.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gathering = Gathering(cast("asyncio.Transport", transport))  # uvloop's is no subclass
        super().connection_made(cast("asyncio.Transport", gathering))
        self._gone: asyncio.Future[None] = self.loop.create_future()
        self._head_awaited_since_s: float | None = self.loop.time()
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse("Invalid HTTP request received.")
            return
        if self._head_awaited_since_s is not None and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(f"The request's head is longer than {HEAD_BYTES_MAX} bytes.")

    def _refuse(self, problem: str) -> None:
        """Tell the client and the log, and close the connection."""
        self.logger.warning(problem)
        self.send_400_response(problem)

    def _parse(self, data: bytes) -> None:
        """Have the parser read this; a head that offers another protocol is read without that."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offered:
                (taken_bytes,) = offered.args
                data = self._head_without_offer() + data[taken_bytes:]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            else:
                return

    def _head_without_offer(self) -> bytes:
        """The head that the parser has just read, less what offers another protocol."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("this is no proxy")
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            kept = value
            if name == b"connection":
                words = [each.strip() for each in value.split(b",")]
                kept = b", ".join(each for each in words if each.lower() not in _OFFERS)
            if name not in _OFFERS:
                lines.append(b"%s: %s" % (name, kept))
        return b"\r\n".join([*lines, b"", b""])

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._gone.done():
            self._gone.set_result(None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][_CLIENT_GONE] = self._gone
        self._unset_keepalive_if_required()  # here: what begins no request is no sign of life
        self._head_bytes = 0
        if self._head_awaited_since_s is None:
            self._head_awaited_since_s = self.loop.time()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._unset_keepalive_if_required()
        self._head_awaited_since_s = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        # A large body or a request behind another has stopped the reading, which tells of the loss.
        if len(self.pipeline) < PIPELINED_MAX:
            self.flow.resume_reading()

    def close_if_late(self, *, now_s: float) -> None:
        """Give the client up if it has taken too long for the head of a request."""
        since_s = self._head_awaited_since_s
        if since_s is not None and now_s - since_s > HEAD_WAIT_S:
            self.transport.close()
