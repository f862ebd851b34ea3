"""What an operator is told without asking: alarms that stand, and marks that a budget passes.

Pure state, kept as one setting: an alarm outlives a restart until it is resolved or an operator
clears it, and each mark of a window is announced once, whoever coordinates by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final

from coordinator.records import WindowRow

RESTORED: Final = "restored"
CLOCK: Final = "clock"
"""The keys of alarms that have no subject."""


class AlertKind(StrEnum):
    """What an alert is about; the first part of its key, and the label of metrics."""

    OVERRUN = "overrun"  # a provider billed more than the worst case (rule S_4)
    CLOSE = "close"  # a lease was closed below what is booked, or above its amount (rule L_5)
    QUARANTINE = "quarantine"  # a clone or a restored disk (rule D_2)
    RESTORED = "restored"  # the books were restored from a backup (rule C_5)
    STRANGER = "stranger"  # a device may hold leases that restored books do not know (rule C_5)
    MISSING = "missing"  # records that no device keeps any more
    DOUBLED = "doubled"  # records that a copy told in full and its original in a summary
    UNSPENT = "unspent"  # written off as unspent: promise P1 no longer holds (rule C_7)
    CLOCK = "clock"  # the present budget window begins in the future (rule C_4)
    BUDGET = "budget"  # so much of a window's budget is spent
    REFUSED = "refused"  # the budget has refused a lease


RESOLVED_BY: Final[Mapping[AlertKind, str]] = {
    AlertKind.OVERRUN: "tidectl arm enable ARM",
    AlertKind.QUARANTINE: "tidectl device readmit DEVICE",
    AlertKind.RESTORED: "tidectl ledger recover",
    AlertKind.CLOCK: "tidectl budget rewind",
}
"""Alarms that end with their cause; the others end when an operator has seen them."""


@dataclass(frozen=True)
class Alarm:
    """Something that stands until it is resolved or cleared."""

    key: str
    text: str
    since_unix_ms: int

    @property
    def kind(self) -> AlertKind:
        """What it is about."""
        return kind_of(self.key)


@dataclass(frozen=True)
class Alert:
    """One thing that happened, to be told once.

    Attributes
    ----------
    key : str
        The alarm's; `budget:80` for a mark of 80 %.
    cleared : bool
        Whether an alarm has ended, instead of having begun.
    """

    kind: AlertKind
    key: str
    text: str
    at_unix_ms: int
    window_id: int = 0
    cleared: bool = False


def kind_of(key: str) -> AlertKind:
    """The kind that a key begins with."""
    return AlertKind(key.partition(":")[0])


class AlertBoard:
    """The alarms that stand, and the marks that the present window has passed."""

    def __init__(self) -> None:
        self._alarms: dict[str, Alarm] = {}
        self._window_id = 0
        self._passed: set[str] = set()
        self._fresh: list[Alert] = []
        self._dirty = False

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """What stands, by key."""
        return tuple(alarm for _, alarm in sorted(self._alarms.items()))

    @property
    def passed(self) -> frozenset[str]:
        """The marks of the window that were announced, such as `budget:80`."""
        return frozenset(self._passed)

    def __contains__(self, key: object) -> bool:
        return key in self._alarms

    def raise_alarm(self, key: str, text: str) -> None:
        """Let an alarm stand; one of the same key takes the newer words, unannounced."""
        known = self._alarms.get(key)
        if known == (again := Alarm(key, text, known.since_unix_ms if known else 0)):
            return
        self._alarms[key] = again
        self._dirty = True
        if known is None:
            self._fresh.append(Alert(kind_of(key), key, text, 0))

    def clear(self, key: str, *, why: str) -> None:
        """End an alarm; nothing happens if it does not stand."""
        if self._alarms.pop(key, None) is not None:
            self._dirty = True
            self._fresh.append(Alert(kind_of(key), key, why, 0, cleared=True))

    def look_at(self, window: WindowRow, *, name: str, percents: Iterable[int]) -> None:
        """Announce the marks that a window's spent money has reached.

        Settled and unconfirmed money counts as spent; lent money may still come back. A budget of
        nothing has no marks.
        """
        self._begin(window.id)
        spent, target = window.settled_nanos + window.unconfirmed_nanos, window.target_nanos
        reached = [each for each in percents if 0 < target and 100 * spent >= each * target]
        for percent in sorted(reached):
            mark = f"{AlertKind.BUDGET}:{percent}"
            if mark not in self._passed:
                share = 100 * spent / target
                self._pass(mark, f"budget {name}: {share:.1f} % of this window's money is spent")

    def refused(self, window: WindowRow, *, reason: str) -> None:
        """Announce, once a window, that its budget has refused a lease."""
        self._begin(window.id)
        self._pass(AlertKind.REFUSED.value, reason)

    def take(self, *, unix_ms: int) -> tuple[list[Alert], str | None]:
        """What is to be told, and the state to be stored if it has changed.

        Parameters
        ----------
        unix_ms : int
            Now: the time of everything that happened since the last call.
        """
        if not self._dirty:
            return [], None
        fresh = [
            replace(alert, at_unix_ms=unix_ms, window_id=self._window_id) for alert in self._fresh
        ]
        self._fresh, self._dirty = [], False
        for key, alarm in self._alarms.items():
            if not alarm.since_unix_ms:
                self._alarms[key] = replace(alarm, since_unix_ms=unix_ms)
        return fresh, self.to_json()

    def to_json(self) -> str:
        """As a setting."""
        alarms = [asdict(alarm) for alarm in self.alarms]
        passed = sorted(self._passed)
        return json.dumps({"alarms": alarms, "window_id": self._window_id, "passed": passed})

    @classmethod
    def from_json(cls, text: str) -> AlertBoard:
        """From `to_json`; an empty text for a first start."""
        board = cls()
        if text:
            state = json.loads(text)
            alarms = [Alarm(**alarm) for alarm in state["alarms"]]
            board._alarms = {alarm.key: alarm for alarm in alarms}
            board._window_id = state["window_id"]
            board._passed = set(state["passed"])
        return board

    def _begin(self, window_id: int) -> None:
        if window_id != self._window_id:
            self._window_id, self._passed, self._dirty = window_id, set(), True

    def _pass(self, mark: str, text: str) -> None:
        if mark not in self._passed:
            self._passed.add(mark)
            self._dirty = True
            self._fresh.append(Alert(kind_of(mark), mark, text, 0))
