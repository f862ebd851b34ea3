"""Clients that ask again as soon as they are answered; prints each request's time, as JSON.

`python -m tests.bench.passthrough.load PORT CONNECTIONS SECONDS MODEL [stream]`
"""

from __future__ import annotations

import asyncio
import json
import statistics
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
    """One connection that has one request under way until it is told to stop.

    Attributes
    ----------
    ended : Future
        Done when the last request is answered, or failed.
    """

    def __init__(self, content: bytes, *, stream: bool) -> None:
        self._content = content
        self._stream = stream
        self._messages = Messages()
        self._sent_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._stopping = False
        self.times_ms: list[float] = []
        self.problem = ""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopping = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._send()

    def data_received(self, data: bytes) -> None:
        for message in self._messages.feed(data):
            if b" 200 " not in message[:20] or self._stream != (b"[DONE]" in message):
                self._end(message.decode())
            self.times_ms.append((time.perf_counter() - self._sent_s) * 1e3)
            if self._stopping:
                self._end()
            else:
                self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection was lost")

    def _end(self, problem: str = "") -> None:
        if not self.ended.done():
            self.problem = problem
            self.ended.set_result(None)

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

    def client() -> _Client:
        return _Client(content, stream=stream)

    clients = [
        (await loop.create_connection(client, "127.0.0.1", port))[1] for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    for each in clients:
        each.stop()
    # What was asked is waited for: nothing is left over that the next round would pay for.
    await asyncio.wait([each.ended for each in clients])
    times = sorted(took for each in clients for took in each.times_ms)
    problems = sorted({each.problem for each in clients if each.problem})
    # Each client waits for one answer at a time, so this is their rate.
    per_s = connections * 1e3 / statistics.fmean(times) if times else 0.0
    return {"per_s": per_s, "times_ms": times, "problems": problems}


if __name__ == "__main__":
    measured = load(
        int(sys.argv[1]),
        connections=int(sys.argv[2]),
        seconds=float(sys.argv[3]),
        model=sys.argv[4],
        stream=sys.argv[5:] == ["stream"],
    )
    json.dump(uvloop.run(measured), sys.stdout)
