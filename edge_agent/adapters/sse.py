"""Server-sent events: bytes in, events' data out, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from edge_agent.json_bytes import written
from shared.errors import LimitError

DONE: Final = b"[DONE]"
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))  # in ASCII
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# Not the standard, but many clients take these for the ends of lines (Python's `str.splitlines`).
_LINE_ENDS: Final = {
    mark.encode(): f"\\u{ord(mark):04x}".encode() for mark in ("\x85", "\u2028", "\u2029")
}


class EventParser:
    """Takes a stream apart into the `data` of its events, however the reads cut it.

    Follows the HTML standard's section on interpreting an event stream: lines end in LF, CRLF or
    CR, several `data` lines make one event, comments and other fields are passed over.

    Parameters
    ----------
    event_bytes_max : int
        The most that one line, or the data of one event, may hold.
    """

    def __init__(self, *, event_bytes_max: int) -> None:
        self._event_bytes_max = event_bytes_max
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._started = False

    def feed(self, read: bytes) -> list[bytes]:
        """The data of every event that this read completes.

        Raises
        ------
        LimitError
            When a line or an event outgrows the limit.
        """
        if self._after_cr and read.startswith(b"\n"):
            read = read[1:]
        if read:
            self._after_cr = read.endswith(b"\r")
        text = self._rest + read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._started and len(text) >= len(_BYTE_ORDER_MARK):
            text = text.removeprefix(_BYTE_ORDER_MARK)
            self._started = True
        *lines, self._rest = text.split(b"\n")
        if len(self._rest) > self._event_bytes_max:
            raise LimitError(f"a line of the stream is longer than {self._event_bytes_max} bytes")
        return [data for line in lines if (data := self._take(line)) is not None]

    def finish(self) -> bytes | None:
        """The data of a last event whose empty line never came, if there is any."""
        if self._rest:
            self._take(self._rest)
            self._rest = b""
        return self._take(b"")

    def _take(self, line: bytes) -> bytes | None:
        """Take in one line; the empty one completes an event."""
        if not line:
            if not self._data:
                return None
            data = b"\n".join(self._data)
            self._data, self._data_bytes = [], 0
            return data
        if line.startswith(b"data:"):
            value = line[5:].removeprefix(b" ")
            self._data_bytes += len(value)
            if self._data_bytes > self._event_bytes_max:
                raise LimitError(f"an event is longer than {self._event_bytes_max} bytes")
            self._data.append(value)
        return None


def as_json(data: object) -> bytes:
    """JSON that holds whatever text a model may have made."""
    return written(data, otherwise=_ENCODER)


def event(data: Mapping[str, Any]) -> bytes:
    """One event that carries a JSON object."""
    return b"data: " + _in_a_line(data) + b"\n\n"


def comment(data: Mapping[str, Any]) -> bytes:
    """A line that clients pass over and people can read."""
    return b": " + _in_a_line(data) + b"\n\n"


def _in_a_line(data: Mapping[str, Any]) -> bytes:
    """JSON that is one line by anybody's rules."""
    text = as_json(data)
    if not text.isascii():
        for mark, escaped in _LINE_ENDS.items():
            text = text.replace(mark, escaped)
    return text


LAST_EVENT: Final = b"data: " + DONE + b"\n\n"
