"""Adding the ledger up again from its rows, and comparing with the running balances (rule C_2)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.records import (
    MOVES,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    SpendRow,
    WindowRow,
)
from shared.limits import NUMBER_MAX

_COSTS = (
    LedgerKind.SETTLE,
    LedgerKind.UNSETTLE,
    LedgerKind.CONFIRM,
    LedgerKind.OVERRUN,
    LedgerKind.ADJUST,
)
_BY_DAY = ("settled_nanos", "unconfirmed_nanos")
_BALANCES = (*_BY_DAY, "outstanding_nanos")


@dataclass
class LedgerSums:
    """What ledger rows add up to, taken row by row.

    Attributes
    ----------
    rows : int
        How many were taken.
    windows : mapping of window id to list
        Settled, unconfirmed and outstanding nano-dollars.
    """

    rows: int = 0
    problems: list[str] = field(default_factory=list)
    windows: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    _carried: int = 0
    _leases: dict[tuple[str, int], Counter[LedgerKind]] = field(
        default_factory=lambda: defaultdict(Counter)
    )

    def take(self, row: LedgerRow) -> None:
        """Add one row; they come in the order of their ids."""
        self.rows += 1
        if row.id != self.rows:
            self.problems.append(f"row {row.id} stands where row {self.rows} should be")
            self.rows = row.id
        for index, factor in enumerate(MOVES[row.kind]):
            self.windows[row.window_id][index] += factor * row.amount_nanos
        if row.kind is LedgerKind.CARRY:  # of windows, not of a lease, and spent in another one
            self._carried += row.amount_nanos
            return
        self._leases[row.device_id, row.lease_number][row.kind] += row.amount_nanos

    def differences(
        self,
        *,
        windows: Iterable[WindowRow],
        leases: Iterable[LeaseRecord],
        spend: Iterable[SpendRow],
    ) -> list[str]:
        """Where rows and running balances disagree, in words; empty if nowhere."""
        found = list(self.problems)
        known = {window.id: window for window in windows}
        for window_id in sorted(self.windows.keys() | known.keys()):
            found += _window_differences(known.get(window_id), self.windows[window_id], window_id)
        seen = set()
        for lease in leases:
            seen.add((lease.device_id, lease.number))
            found += _lease_differences(lease, self._leases[lease.device_id, lease.number])
        for device_id, number in sorted(self._leases.keys() - seen):
            found.append(f"lease {number} of {device_id} has ledger rows and no record")
        return found + self._spend_differences(spend)

    def _spend_differences(self, spend: Iterable[SpendRow]) -> list[str]:
        """Where what was spent by day, arm and tag is not what the rows of all windows come to.

        A figure of which a line is at its limit has lost count, and nothing else can be told of it:
        devices have made up more than the books can hold by tag.
        """
        by_day, lost_count = Counter[str](), set[str]()
        for line in spend:
            by_day.update({name: getattr(line, name) for name in _BY_DAY})
            lost_count |= {name for name in _BY_DAY if abs(getattr(line, name)) >= NUMBER_MAX}
        totals = {
            name: sum(sums[place] for sums in self.windows.values())
            for place, name in enumerate(_BY_DAY)
        }
        totals["unconfirmed_nanos"] -= self._carried
        said = {
            name: f"is {by_day[name]}, the rows of all windows add up to {total}"
            for name, total in totals.items()
            if by_day[name] != total
        }
        said |= dict.fromkeys(lost_count, "has lost count, a line is at the limit of 64 bits")
        return [f"spend by day: {name} {said[name]}" for name in totals if name in said]


def _window_differences(window: WindowRow | None, sums: list[int], window_id: int) -> list[str]:
    if window is None:
        return [f"window {window_id} has ledger rows and no record"]
    return [
        f"window {window_id}: {name} is {getattr(window, name)}, its rows add up to {total}"
        for name, total in zip(_BALANCES, sums, strict=True)
        if getattr(window, name) != total
    ]


def _lease_differences(lease: LeaseRecord, sums: Mapping[LedgerKind, int]) -> list[str]:
    booked = sum(sums.get(kind, 0) for kind in _COSTS)
    ended = sums.get(LedgerKind.UNCONFIRMED, 0) + sums.get(LedgerKind.WRITEOFF, 0)
    explained = sums.get(LedgerKind.CONFIRM, 0) + sums.get(LedgerKind.REFUND, 0)
    outstanding = sum(MOVES[kind][2] * amount for kind, amount in sums.items())
    left = max(0, lease.amount_nanos - lease.booked_nanos) if lease.end is LeaseEnd.OPEN else 0
    expected = {
        "granted": (lease.amount_nanos, sums.get(LedgerKind.GRANT, 0)),
        "booked": (lease.booked_nanos, booked),
        "unconfirmed": (lease.unconfirmed_nanos, ended - explained),
        "outstanding": (left, outstanding),
    }
    return [
        f"lease {lease.number} of {lease.device_id}: {name} is {record} nanos, its rows add up "
        f"to {total}"
        for name, (record, total) in expected.items()
        if record != total
    ]
