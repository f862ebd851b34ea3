"""An endpoint in OpenAI's form that answers at once: `python -m tests.bench.passthrough.stub PORT`.

As little as HTTP needs, so that what is measured is what stands before it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final, cast

import uvloop

_REPLY: Final = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The quick brown fox."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46},
    }
).encode()
RESPONSE: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    % (len(_REPLY), _REPLY)
)


class Messages:
    """Takes a connection's bytes apart into whole messages; knows lengths and nothing else."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The heads of the messages that these bytes complete."""
        self._bytes += data
        heads = []
        while (end := self._bytes.find(b"\r\n\r\n")) >= 0:
            head = self._bytes[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._bytes) < end + 4 + length:
                break
            heads.append(head)
            self._bytes = self._bytes[end + 4 + length :]
        return heads


class _Endpoint(asyncio.Protocol):
    def __init__(self) -> None:
        self._messages = Messages()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        for _ in self._messages.feed(data):
            self._transport.write(RESPONSE)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Endpoint, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
