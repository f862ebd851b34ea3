"""The text of an answer, gathered only where somebody will grade it. It never leaves the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.limits import GRADED_CHARS_MAX


class AnswerText:
    """The first choice's text, from chunks as they come or from a whole response.

    Attributes
    ----------
    wanted : bool
        Whether anybody will look at it.
    """

    def __init__(self, wanted: bool = False) -> None:
        self.wanted = wanted
        self._pieces: list[str] = []
        self._chars = 0

    def take(self, chunk: Mapping[str, Any]) -> None:
        """Add what a chunk of a stream says."""
        for choice in chunk.get("choices") or ():
            piece = (choice.get("delta") or {}).get("content")
            if choice.get("index", 0) == 0 and isinstance(piece, str):
                self._chars += len(piece)
                self._pieces.append(piece)
        if self._chars > GRADED_CHARS_MAX:
            self.wanted = False

    def of(self, response: Mapping[str, Any] | None) -> str | None:
        """The whole text; None if nobody wants it, there is none, or it is too long to grade."""
        if not self.wanted:
            return None
        if response is None:
            return _whole("".join(self._pieces)) if self._pieces else None
        choices = response.get("choices") or [{}]
        text = (choices[0].get("message") or {}).get("content")
        return _whole(text) if isinstance(text, str) and len(text) <= GRADED_CHARS_MAX else None


def _whole(text: str) -> str:
    """A text that can be written as UTF-8: a model may give the halves of a pair one by one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
