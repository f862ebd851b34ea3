"""TCP links that can be cut, slowed down and left half-open, all on one loop in one thread."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeVar

PIECE_BYTES: Final = 64 * 1024
CONNECT_S_MAX: Final = 5.0
ABORT: Final = struct.pack("ii", 1, 0)
_T = TypeVar("_T")


class HalfOpen(StrEnum):
    """What a half-open link does to the connections that it carries."""

    HOLD = "hold"  # nothing passes either way; what was held arrives late
    DEAF = "deaf"  # the server hears nothing more, its own words still arrive
    MUTE = "mute"  # the client hears nothing more, its own words still arrive
    ORPHAN = "orphan"  # the server's side is closed and the client is not told


@dataclass
class _Conditions:
    """The state of a link, of which only the loop's thread may change anything."""

    delay_s: float = 0.0
    cut: bool = False
    half_open: HalfOpen | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def holds(self, *, upwards: bool) -> bool:
        """Whether bytes of a direction have to wait."""
        match self.half_open:
            case None:
                return False
            case HalfOpen.DEAF:
                return upwards
            case HalfOpen.MUTE:
                return not upwards
            case _:
                return True


class Link:
    """A listening port whose connections are carried to another port.

    Every method may be called from any thread.

    Attributes
    ----------
    port : int
        Where it listens on loopback.
    """

    def __init__(self, *, target_port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.port = 0
        self._target_port = target_port
        self._loop = loop
        self._now = _Conditions()
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; to be awaited on the loop."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Stop listening and drop every connection; on the loop's thread."""
        if self._server is not None:
            self._server.close()
        self._drop()

    def cut(self) -> None:
        """Reset every connection, and every new one, until `heal`."""
        self._tell(self._cut)

    def delay(self, seconds: float) -> None:
        """Let every piece of data wait, in both directions, until `heal`."""
        self._tell(lambda: setattr(self._now, "delay_s", seconds))

    def half_open(self, mode: HalfOpen) -> None:
        """Leave connections standing without carrying what they should, until `heal`."""
        self._tell(lambda: self._half_open(mode))

    def heal(self, *, drop: bool) -> None:
        """Carry everything again; with `drop`, connections that stand are reset."""
        self._tell(lambda: self._heal(drop=drop))

    def _tell(self, change: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(change)

    def _cut(self) -> None:
        self._now.cut = True
        self._drop()

    def _half_open(self, mode: HalfOpen) -> None:
        self._now.half_open = mode
        if mode is HalfOpen.ORPHAN:
            for pair in self._pairs:
                pair.orphan()

    def _heal(self, *, drop: bool) -> None:
        before, self._now = self._now, _Conditions()
        if drop or before.half_open is HalfOpen.ORPHAN:
            self._drop()
        before.changed.set()

    def _drop(self) -> None:
        for pair in list(self._pairs):
            pair.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._now.cut:
            _abort(writer)
            return
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                onward = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _abort(writer)
            return
        pair = _Pair((reader, writer), onward)
        self._pairs.add(pair)
        if self._now.cut:
            pair.abort()
        try:
            await asyncio.gather(
                self._pump(reader, onward[1], pair, upwards=True),
                self._pump(onward[0], writer, pair, upwards=False),
            )
        finally:
            self._pairs.discard(pair)
            pair.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: _Pair,
        *,
        upwards: bool,
    ) -> None:
        """Carry one direction to its end."""
        try:
            while piece := await reader.read(PIECE_BYTES):
                if self._now.delay_s:
                    await asyncio.sleep(self._now.delay_s)
                await self._wait_while_held(upwards=upwards)
                writer.write(piece)
                await writer.drain()
            await self._wait_while_held(upwards=upwards)
            writer.write_eof()
        except (OSError, RuntimeError):
            # One side is gone: an orphan's client is not to notice before the link heals.
            await self._wait_while_held(upwards=upwards)
            pair.abort()

    async def _wait_while_held(self, *, upwards: bool) -> None:
        while self._now.holds(upwards=upwards):
            await self._now.changed.wait()


class _Pair:
    """The two connections of one carried connection."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._client, self._server = client, server

    def orphan(self) -> None:
        """Close the server's side alone."""
        _abort(self._server[1])

    def abort(self) -> None:
        """Reset both sides."""
        _abort(self._client[1])
        _abort(self._server[1])


def _abort(writer: asyncio.StreamWriter) -> None:
    """Reset a connection instead of closing it in order."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    writer.transport.abort()


class Proxies:
    """The thread that carries all links. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close()).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    def link(self, target_port: int) -> Link:
        """A new link to a port of this machine, which need not be there yet."""
        link = Link(target_port=target_port, loop=self._loop)
        self._do(link.open()).result(10.0)
        self._links.append(link)
        return link

    def heal(self) -> None:
        """Heal every link; connections that stand go on."""
        for link in self._links:
            link.heal(drop=False)

    async def _close(self) -> None:
        for link in self._links:
            link.heal(drop=True)
            link.close()
        carried = asyncio.all_tasks() - {asyncio.current_task()}
        for task in carried:
            task.cancel()
        await asyncio.gather(*carried, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
