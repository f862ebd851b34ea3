"""The provider's books: an append-only log of what was billed, and its totals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.decision.money import Price


@dataclass(frozen=True, kw_only=True)
class BillEntry:
    """One billed request.

    Attributes
    ----------
    aborted : bool
        Whether the client went away, or the answer broke, before its end.
    """

    at_unix_ms: int
    number: int
    stream: bool
    aborted: bool
    prompt_tokens: int
    completion_tokens: int
    cost_nanos: int


class Bill:
    """Bills requests and remembers the totals.

    Parameters
    ----------
    path : pathlib.Path
        The log; one JSON object a line, flushed with every entry.
    now_unix_ms : callable
        The clock of the entries.
    """

    def __init__(self, path: Path, *, price: Price, now_unix_ms: Callable[[], int]) -> None:
        self._price = price
        self._now_unix_ms = now_unix_ms
        self._log = path.open("a")
        self._number = 0
        self._billed_nanos = 0
        self._aborted = 0
        self._unbilled = 0

    def add(
        self, *, stream: bool, prompt_tokens: int, completion_tokens: int, aborted: bool
    ) -> BillEntry:
        """Bill one request."""
        self._number += 1
        entry = BillEntry(
            at_unix_ms=self._now_unix_ms(),
            number=self._number,
            stream=stream,
            aborted=aborted,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_nanos=self._price.cost_nanos(
                prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
            ),
        )
        self._log.write(json.dumps(asdict(entry)) + "\n")
        self._log.flush()
        self._billed_nanos += entry.cost_nanos
        self._aborted += aborted
        return entry

    def note_unbilled(self) -> None:
        """Count a request that failed before anything was generated."""
        self._unbilled += 1

    def totals(self) -> dict[str, int]:
        """What `GET /meter` shows."""
        return {
            "requests": self._number,
            "billed_nanos": self._billed_nanos,
            "aborted": self._aborted,
            "unbilled": self._unbilled,
        }

    def close(self) -> None:
        """Close the log."""
        self._log.close()
