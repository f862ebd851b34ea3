"""From the bytes of tokens to text that may be shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextAssembler:
    """Joins token bytes to text, keeps multi-byte characters whole and finds stop strings.

    Text that may yet turn out to be the beginning of a stop string is held back, so that no
    part of a stop string is ever shown. Bytes that are no UTF-8 become U+FFFD.

    Parameters
    ----------
    stop : sequence of str
        Strings that end the text. Where several occur, the one that is complete first counts,
        however the text was cut into tokens.

    Attributes
    ----------
    stopped : bool
        Whether a stop string was found; later bytes are ignored.

    Examples
    --------
    >>> text = TextAssembler(stop=["END"])
    >>> text.push(b"so E"), text.push(b"asy EN"), text.push(b"D of it")
    ('so ', 'Easy ', '')
    >>> text.stopped
    True
    """

    def __init__(self, *, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(word for word in stop if word)
        self._held = ""

    def push(self, data: bytes) -> str:
        """Take the bytes of a token; return the text that became certain."""
        if self.stopped:
            return ""
        text = self._decoder.decode(data)
        if not self._stop or not text:
            return text
        return self._scan(self._held + text)

    def finish(self) -> str:
        """The text that was held back, once no token will follow."""
        if self.stopped:
            return ""
        rest = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return rest

    def _scan(self, text: str) -> str:
        found = [
            (start + len(word), start) for word in self._stop if (start := text.find(word)) >= 0
        ]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max(overlap(text, word) for word in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that is a beginning of `word`."""
    for size in range(min(len(word) - 1, len(text)), 0, -1):
        if word.startswith(text[-size:]):
            return size
    return 0
