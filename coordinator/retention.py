"""What of the books has had its time (`retention.outcomes_days`).

Devices' clocks may be wrong, so the age of a row is counted from its booking, by the coordinator's
own clock: once a day it is noted how far the books had come, and what lies below a note that is old
enough may go. A row so stays for its days, and for at most one day more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

DAY_MS: Final = 24 * 3_600_000


@dataclass(frozen=True)
class Outlived:
    """What of the books has had its time.

    Attributes
    ----------
    position : int
        The last position of such a learned record; 0 if there is none.
    before_unix_ms : int
        Whatever has a time by the coordinator's own clock, and an earlier one.
    """

    position: int
    before_unix_ms: int


NOTHING_OUTLIVED: Final = Outlived(0, 0)


@dataclass(frozen=True)
class RetentionMarks:
    """How far the books had come, day by day.

    Attributes
    ----------
    marks : tuple of (unix_ms, position)
        Rising in both.
    """

    marks: tuple[tuple[int, int], ...] = ()

    def noted(self, *, position: int, outcomes_days: int, unix_ms: int) -> RetentionMarks:
        """With a note of the present, if the last one is a day old; without those now useless."""
        if self.marks and unix_ms < self.marks[-1][0] + DAY_MS:
            return self
        old = [mark for mark in self.marks if mark[0] <= unix_ms - outcomes_days * DAY_MS]
        return RetentionMarks((*old[-1:], *self.marks[len(old) :], (unix_ms, position)))

    def outlived(self, *, outcomes_days: int, unix_ms: int) -> int:
        """The last position that has had its time; 0 if none has."""
        before = unix_ms - outcomes_days * DAY_MS
        return max((position for at, position in self.marks if at <= before), default=0)

    def to_json(self) -> str:
        """As a setting."""
        return json.dumps(self.marks)

    @classmethod
    def from_json(cls, text: str) -> RetentionMarks:
        """From `to_json`; an empty text for a first start."""
        return cls(tuple((at, position) for at, position in json.loads(text or "[]")))
