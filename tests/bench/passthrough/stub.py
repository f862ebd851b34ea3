"""An endpoint in OpenAI's form that answers at once: `python -m tests.bench.passthrough.stub PORT`.

As little as HTTP needs, so that what is measured is what stands before it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any, Final, cast

import uvloop

EVENTS: Final = 64
"""Pieces of a streamed answer."""
_STREAMED: Final = re.compile(rb'"stream": ?true')


def _reply(kind: str, choice: dict[str, Any], **more: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "stub"}
    return json.dumps({**head, "choices": [{"index": 0, **choice}], **more}).encode()


def _whole() -> bytes:
    said = {"role": "assistant", "content": "The quick brown fox."}
    usage = {"prompt_tokens": 40, "completion_tokens": 6, "total_tokens": 46}
    choice = {"message": said, "finish_reason": "stop"}
    reply = _reply("chat.completion", choice, usage=usage)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(reply) + reply


def _stream() -> list[bytes]:
    """The head and one piece for each event, as a provider sends them."""
    usage = {"prompt_tokens": 40, "completion_tokens": EVENTS, "total_tokens": 40 + EVENTS}
    kind = "chat.completion.chunk"
    events = [
        _reply(kind, {"delta": {"content": f" word{number}"}, "finish_reason": None})
        for number in range(EVENTS - 1)
    ]
    events.append(_reply(kind, {"delta": {}, "finish_reason": "stop"}, usage=usage))
    data = [b"data: %s\n\n" % event for event in (*events, b"[DONE]")]
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return [head, *(b"%x\r\n%s\r\n" % (len(each), each) for each in data), b"0\r\n\r\n"]


WHOLE: Final = _whole()
STREAM: Final = _stream()


class Messages:
    """Takes a connection's bytes apart into whole messages; knows their ends and nothing else."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes complete."""
        self._bytes += data
        messages = []
        while (end := self._end()) > 0:
            messages.append(self._bytes[:end])
            self._bytes = self._bytes[end:]
        return messages

    def _end(self) -> int:
        """Where the first message ends; 0 while it has not."""
        head_end = self._bytes.find(_BLANK)
        if head_end < 0:
            return 0
        head = self._bytes[:head_end].lower()
        if b"transfer-encoding: chunked" in head:
            last = self._bytes.find(_LAST_CHUNK, head_end)
            return last + len(_LAST_CHUNK) if last > 0 else 0
        at = head.find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        end = head_end + len(_BLANK) + length
        return end if len(self._bytes) >= end else 0


_BLANK: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_LENGTH: Final = b"content-length:"


class _Endpoint(asyncio.Protocol):
    def __init__(self) -> None:
        self._messages = Messages()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        for message in self._messages.feed(data):
            for piece in STREAM if _STREAMED.search(message) else (WHOLE,):
                self._transport.write(piece)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Endpoint, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
