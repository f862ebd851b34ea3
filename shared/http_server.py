"""Running an HTTP face inside a process's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import httptools
import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import ConfigError, invariant

BACKLOG: Final = 2_048
KEEP_ALIVE_S: Final = 30
HEAD_WAIT_S: Final = 30.0
"""How long a client may take for the head of a request, or to begin with one."""
HEAD_BYTES_MAX: Final = 64 * 1024
"""What is read of a head that does not end, before anybody has shown a key."""
TICKS_PER_S: Final = 10
"""uvicorn's own, at each of which it looks after its connections."""
LAST_WORDS_S: Final = 1
"""How long answers that were ended at the end of the grace may take to tell their clients."""
CANCEL_WAIT_S: Final = 5.0
GATHERED_BYTES_MAX: Final = 64 * 1024
PIPELINED_MAX: Final = 8
"""Requests that may wait behind another on one connection before no more is read from it."""
_CLIENT_GONE: Final = "tidegate.client_gone"
_OFFERS: Final = frozenset({b"upgrade", b"http2-settings"})


class HttpServer:
    """A listening server.

    Attributes
    ----------
    port : int
        The port that it listens on, chosen by the system if 0 was asked for.
    """

    def __init__(
        self,
        server: uvicorn.Server,
        running: asyncio.Task[None],
        *,
        port: int,
        grace_s: float,
        on_grace_over: Callable[[], None],
    ) -> None:
        self.port = port
        self._server = server
        self._running = running
        self._grace_s = grace_s
        self._on_grace_over = on_grace_over

    async def wait_ended(self) -> None:
        """Wait until the server has ended, whatever the cause; raises what made it fail."""
        await asyncio.shield(self._running)

    async def stop(self) -> None:
        """Take no new requests, let running answers end within the grace, then cut them."""
        self._server.should_exit = True
        _, late = await asyncio.wait({self._running}, timeout=self._grace_s)
        if late:
            self._on_grace_over()
        await self._running
        cut = set(self._server.server_state.tasks)
        if cut:
            await asyncio.wait(cut, timeout=CANCEL_WAIT_S)


class _Gathering:
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


class _Protocol(HttpToolsProtocol):
    """uvicorn's, on a transport that gathers, and with word for requests whose client goes.

    A client that opens a connection and then says nothing, or half a head, or what is no request,
    is given up: uvicorn would keep the connection for ever. An offer to go on in HTTP/2, which
    Java's client makes with its first request, is passed over: uvicorn would lose the body.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        gathering = _Gathering(cast("asyncio.Transport", transport))  # uvloop's is no subclass
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


class _QuietServer(uvicorn.Server):
    """Leaves signals to the agent, tells when it listens, and closes what leads to nothing."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_S == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("_Protocol", connection).close_if_late(now_s=now_s)
        return await super().on_tick(counter)


@asynccontextmanager
async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    grace_s: float,
    on_grace_over: Callable[[], None] = lambda: None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
) -> AsyncIterator[HttpServer]:
    """Serve an application until the context is left.

    Parameters
    ----------
    port : int
        0 lets the system choose.
    grace_s : float
        How long running answers may go on after the context is left.
    on_grace_over : callable
        Called when it was too short: ends the answers that are left, so that each tells its client
        why, before their connections are cut.
    cert_file, key_file : Path, optional
        PEM files; with both the server speaks TLS.

    Raises
    ------
    ConfigError
        When the address cannot be listened on or the certificate cannot be used.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=_Protocol,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(grace_s) + LAST_WORDS_S,
        ssl_certfile=cert_file,
        ssl_keyfile=key_file,
    )
    _load(config, cert_file=cert_file, key_file=key_file)
    sockets = _listen(host, port)
    server = _QuietServer(config)
    running = asyncio.create_task(server.serve(sockets=sockets))
    listening = asyncio.create_task(server.listening.wait())
    await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if running.done():
        running.result()
    invariant(server.started, "the HTTP server neither started nor said why")
    served = HttpServer(
        server,
        running,
        port=sockets[0].getsockname()[1],
        grace_s=grace_s,
        on_grace_over=on_grace_over,
    )
    try:
        yield served
    finally:
        await served.stop()


def _load(config: uvicorn.Config, *, cert_file: Path | None, key_file: Path | None) -> None:
    """Read the certificate, before any port is taken."""
    if (cert_file is None) != (key_file is None):
        raise ConfigError("", "TLS needs a certificate file and a key file: give both or neither")
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            "",
            f"the TLS certificate {cert_file} or its key {key_file} cannot be used ({error}): "
            "both must be readable PEM files that belong together",
        ) from error


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of a host name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        problem = f"{host!r} is no address of this machine ({error.strerror})"
        raise ConfigError("", f"{problem}: listen on 127.0.0.1, or on 0.0.0.0 for all") from error
    sockets: list[socket.socket] = []
    problems: list[OSError] = []
    for family, _, _, _, address in dict.fromkeys(found):
        taken = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bound(family, (str(address[0]), taken, *address[2:])))
        except OSError as error:
            problems.append(error)
    in_use = next((each for each in problems if each.errno == errno.EADDRINUSE), None)
    problem_found = in_use or (problems[0] if problems and not sockets else None)
    if problem_found is not None:
        for each in sockets:
            each.close()
        raise ConfigError("", _advice(problem_found, host=host, port=port)) from problem_found
    return sockets


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    """A listening socket on one address."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _advice(error: OSError, *, host: str, port: int) -> str:
    """Why an address cannot be listened on, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is in use: stop the program that listens there or choose a free port"
    if error.errno == errno.EACCES:
        return f"{host}:{port} may not be used by this user: choose a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: listen on 127.0.0.1, or on 0.0.0.0 for all"
    return f"{host}:{port} cannot be listened on: {error.strerror}"
