"""Length-prefixed JSON frames between the agent and its worker; no I/O here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from shared.errors import ProtocolError, invariant
from shared.limits import BODY_BYTES_MAX

FRAME_BYTES_MAX: Final = 2 * BODY_BYTES_MAX
_PREFIX_BYTES: Final = 4

invariant(FRAME_BYTES_MAX < 2 ** (8 * _PREFIX_BYTES), "a frame's length must fit its prefix")

Frame = dict[str, Any]


class FrameTooLargeError(ProtocolError):
    """A frame is longer than `FRAME_BYTES_MAX`."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(
            f"a frame of {size_bytes} bytes is over the limit of {FRAME_BYTES_MAX} bytes"
        )
        self.size_bytes = size_bytes


def encode(frame: Frame) -> bytes:
    """A frame as bytes, ready to be written in one piece.

    Lone surrogates, which JSON from a client may hold, pass unharmed.

    Raises
    ------
    FrameTooLargeError
        When the frame is over the limit; nothing may be sent.
    """
    text = json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
    payload = text.encode("utf-8", "surrogatepass")
    if len(payload) > FRAME_BYTES_MAX:
        raise FrameTooLargeError(len(payload))
    return len(payload).to_bytes(_PREFIX_BYTES, "big") + payload


class FrameDecoder:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes as they came; yield every frame that is complete.

        Raises
        ------
        ProtocolError
            When the stream is no sequence of frames; it cannot be used any further.
        """
        self._buffer += data
        while len(self._buffer) >= _PREFIX_BYTES:
            size = int.from_bytes(self._buffer[:_PREFIX_BYTES], "big")
            if size > FRAME_BYTES_MAX:
                raise FrameTooLargeError(size)
            end = _PREFIX_BYTES + size
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_PREFIX_BYTES:end])
            del self._buffer[:end]
            yield _parse(payload)


def _parse(payload: bytes) -> Frame:
    try:
        frame = json.loads(payload.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise ProtocolError(f"a frame is not JSON: {payload[:80]!r}") from error
    if not isinstance(frame, dict):
        raise ProtocolError(f"a frame must be a JSON object, not {payload[:80]!r}")
    return frame
