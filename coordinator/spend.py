"""What was spent by day, arm and tag: running totals beside the ledger, which knows neither.

Pure state. The totals of a day stay in the books when its outcomes have had their time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from coordinator.records import SpendRow
from shared.limits import ID_CHARS_MAX, NUMBER_MAX, SPEND_LINES_PER_DAY_MAX

DAY_MS: Final = 24 * 3_600_000
Label = tuple[str, str]
"""An arm and a tag."""
UNKNOWN: Final = ("", "")
OTHER_TAGS: Final = "*"


class SpendByDay:
    """The totals of the present day.

    Parameters
    ----------
    rows : iterable of SpendRow
        Of the last day that the books have any of. No day is gone back to: after a step of the
        clock the last one goes on until the next begins.
    """

    def __init__(self, rows: Iterable[SpendRow] = ()) -> None:
        self._day = 0
        self._totals: dict[Label, list[int]] = {}
        for row in rows:
            self._day = row.day_unix_ms
            self._totals[row.arm, row.tag] = [row.settled_nanos, row.unconfirmed_nanos]
        self._dirty: set[Label] = set()
        self._made: list[SpendRow] = []

    def add(self, label: Label, *, settled: int, unconfirmed: int, unix_ms: int) -> None:
        """Count money that a ledger row has moved. What is unconfirmed is known of nobody."""
        if unix_ms >= self._day + DAY_MS:
            self._made = self.take()
            self._day, self._totals = unix_ms - unix_ms % DAY_MS, {}
        if settled:
            self._add(label, 0, settled)
        if unconfirmed:
            self._add(UNKNOWN, 1, unconfirmed)

    def _add(self, label: Label, place: int, nanos: int) -> None:
        total = self._totals.get(label)
        if total is None:
            label = self._new_label(label)
            total = self._totals.setdefault(label, [0, 0])
        if abs(total[place]) < NUMBER_MAX:  # at its limit it has lost count, and stays there
            total[place] = max(-NUMBER_MAX, min(total[place] + nanos, NUMBER_MAX))
        self._dirty.add(label)

    def _new_label(self, label: Label) -> Label:
        """As it may stand in the books: devices say what they like, and a day has a limit."""
        if len(self._totals) >= SPEND_LINES_PER_DAY_MAX and label != UNKNOWN:
            return ("", OTHER_TAGS)
        arm, tag = (text[:ID_CHARS_MAX].replace("\x00", "\ufffd") for text in label)
        return (arm, tag)

    def take(self) -> list[SpendRow]:
        """Every row that changed since the last call, once."""
        rows = [SpendRow(self._day, *label, *self._totals[label]) for label in sorted(self._dirty)]
        made, self._made, self._dirty = self._made + rows, [], set()
        return made
