"""What stands between uvicorn and the network."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from shared.http_server import GATHERED_BYTES_MAX, _Gathering


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
