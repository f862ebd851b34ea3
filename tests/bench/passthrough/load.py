"""Clients that ask again as soon as they are answered; prints each request's time, as JSON.

`python -m tests.bench.passthrough.load PORT CONNECTIONS SECONDS MODEL [stream]`
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

from tests.bench.passthrough.stub import Messages

PROMPT = "Summarise the following report in one sentence, and name the three largest risks: " * 2


def request(port: int, *, model: str, stream: bool) -> bytes:
    """The bytes of one chat request."""
    body = json.dumps(
        {
            "model": model,
            "messages": [
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": PROMPT},
            ],
            "max_tokens": 64,
            "temperature": 0.5,
            "stream": stream,
        }
    ).encode()
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Content-Type: application/json\r\nAuthorization: Bearer sk-bench\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class _Client(asyncio.Protocol):
    """One connection that always has one request under way."""

    def __init__(self, content: bytes, *, stream: bool) -> None:
        self._content = content
        self._stream = stream
        self._messages = Messages()
        self._sent_s = 0.0
        self._transport: asyncio.Transport | None = None
        self.times_ms: list[float] = []
        self.problem = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._send()

    def data_received(self, data: bytes) -> None:
        for message in self._messages.feed(data):
            if b" 200 " not in message[:20] or self._stream != (b"[DONE]" in message):
                self.problem = message.decode()
            self.times_ms.append((time.perf_counter() - self._sent_s) * 1e3)
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.problem = self.problem or "the connection was lost"

    def _send(self) -> None:
        assert self._transport is not None
        self._sent_s = time.perf_counter()
        self._transport.write(self._content)


async def load(
    port: int, *, connections: int, seconds: float, model: str, stream: bool
) -> dict[str, object]:
    """What the clients measured."""
    content = request(port, model=model, stream=stream)
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()

    def client() -> _Client:
        return _Client(content, stream=stream)

    clients = [
        (await loop.create_connection(client, "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - begun
    times = sorted(each for client in clients for each in client.times_ms)
    problems = sorted({client.problem for client in clients if client.problem})
    return {"per_s": len(times) / took_s, "times_ms": times, "problems": problems}


if __name__ == "__main__":
    measured = load(
        int(sys.argv[1]),
        connections=int(sys.argv[2]),
        seconds=float(sys.argv[3]),
        model=sys.argv[4],
        stream=sys.argv[5:] == ["stream"],
    )
    json.dump(uvloop.run(measured), sys.stdout)
