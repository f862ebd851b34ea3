"""The budgets of a device's API keys: one more allowance that a paid call must pass at the gate.

Pure state, as `lease.py`: every method changes memory and leaves what it changed in
`take_changes()`. A reservation holds its worst case here as well, in the same commit; the
watermark is synced ahead of the reservations, so that a loss of power gives no money back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.decision.lease import ReservationRow, Settlement
from shared.errors import invariant

WATERMARK_STEPS = 16
WATERMARK_WORST_CASES = 8
FIRST_WATERMARK_SHARE = 4
"""What a window opens with where no worst case is known yet: this part of the budget."""
NO_WINDOW = -1


@dataclass(frozen=True)
class KeyBudget:
    """What the calls of one key may cost in a window; windows are aligned to the Unix epoch."""

    tag: str
    amount_nanos: int
    window_ms: int


@dataclass(frozen=True)
class KeyBudgetRow:
    """A key's present window as it stands in the books. Amounts in nano-dollars.

    Attributes
    ----------
    watermark_nanos : int
        "Spent at most this much": synced before any reservation reaches beyond it.
    """

    tag: str
    start_unix_ms: int
    end_unix_ms: int
    settled_nanos: int = 0
    watermark_nanos: int = 0


class KeyBudgetRefusal(StrEnum):
    """Why a key's budget does not take a worst case now."""

    EXCEEDED = "key_budget"
    NOT_SYNCED = "watermark_not_synced"


@dataclass(frozen=True)
class KeyBudgetStatus:
    """How a key's budget stands. Amounts in nano-dollars."""

    tag: str
    amount_nanos: int
    settled_nanos: int
    reserved_nanos: int
    end_unix_ms: int


class KeyBudgetBook:
    """The budgets of all keys of one device.

    Parameters
    ----------
    budgets : iterable of KeyBudget
        As configured; a key without one is not limited here.

    Notes
    -----
    Invariant, checked on every reservation: settled + reserved <= budget, apart from overruns
    (rule S_4) and from budgets that were cut. A new window opens only when the last one has ended,
    whatever the clock says. One that a wrong clock has opened in the future ends when it has lasted
    as long as a window does, by the clock that nobody sets: no more than one budget in that time.
    """

    def __init__(self, budgets: Iterable[KeyBudget] = ()) -> None:
        self.configure(budgets)
        self._rows: dict[str, KeyBudgetRow] = {}
        self._opening: dict[str, KeyBudgetRow] = {}
        self._synced: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._worst_case: dict[str, int] = {}
        self._changed: dict[str, KeyBudgetRow] = {}
        self._ahead_since: dict[str, tuple[int, int]] = {}  # start of the window, boot time

    def configure(self, budgets: Iterable[KeyBudget]) -> None:
        """Other budgets hold from now on; a window that has begun goes on to its end."""
        self._budgets = {budget.tag: budget for budget in budgets}

    def restore(
        self, *, rows: Iterable[KeyBudgetRow], reservations: Iterable[ReservationRow]
    ) -> None:
        """Take over the rows of an earlier process, with what it had reserved."""
        for row in rows:
            self._rows[row.tag] = row
            self._synced[row.tag] = 0  # until this process has synced something itself
            self._reserved[row.tag] = 0
        for held in reservations:
            if self._is_current(held.key_tag, window=held.key_window):
                self._reserved[held.key_tag] += held.amount_nanos

    def close_earlier(self) -> None:
        """Nobody knows what an earlier process spent: the watermark speaks for it."""
        for tag, row in self._rows.items():
            spent = max(row.watermark_nanos, self._used(tag))
            self._reserved[tag] = 0
            self._put(replace(row, settled_nanos=spent))

    def spend_windows(self, *, unix_ms: int) -> None:
        """Count the present windows as spent: the original of copied books may spend on them."""
        self.open_windows(unix_ms=unix_ms)
        for tag, budget in self._budgets.items():
            rows = self._opening if tag in self._opening else self._rows
            rows[tag] = self._changed[tag] = replace(rows[tag], settled_nanos=budget.amount_nanos)

    def open_windows(self, *, unix_ms: int, boot_ms: int | None = None) -> None:
        """Begin the windows whose time has come; each counts once it is synced.

        Parameters
        ----------
        boot_ms : int or None
            On the boot-time clock; without it no window that lies in the future is left.
        """
        for tag, budget in self._budgets.items():
            last = self._opening.get(tag) or self._rows.get(tag)
            left = last is not None and self._is_left(last, unix_ms=unix_ms, boot_ms=boot_ms)
            if last is not None and unix_ms < last.end_unix_ms and not left:
                continue  # also when the clock has stepped back
            start = unix_ms - unix_ms % budget.window_ms
            end = start + budget.window_ms
            if last is not None and not left:
                # A longer window would have begun before the end of the last one.
                start = max(start, last.end_unix_ms)
            first = min(budget.amount_nanos, self._step(budget))
            row = KeyBudgetRow(tag, start, end, watermark_nanos=first)
            self._opening[tag] = self._changed[tag] = row

    def _is_left(self, last: KeyBudgetRow, *, unix_ms: int, boot_ms: int | None) -> bool:
        """Whether a window that begins in the future has lasted its time."""
        if unix_ms >= last.start_unix_ms or boot_ms is None:
            self._ahead_since.pop(last.tag, None)
            return False
        start, since_ms = self._ahead_since.get(last.tag, (-1, 0))
        if start != last.start_unix_ms:
            self._ahead_since[last.tag] = last.start_unix_ms, boot_ms
            return False
        return boot_ms - since_ms >= last.end_unix_ms - last.start_unix_ms

    def unsynced(self) -> tuple[KeyBudgetRow, ...]:
        """Rows that a sync still has to cover."""
        if not self._rows and not self._opening:
            return ()
        raised = (
            row
            for tag, row in self._rows.items()
            if tag not in self._opening and row.watermark_nanos > self._synced[tag]
        )
        return (*self._opening.values(), *raised)

    def synced(self, row: KeyBudgetRow) -> None:
        """The books have synced this row."""
        opening = self._opening.get(row.tag)
        if opening is not None:
            if opening.start_unix_ms != row.start_unix_ms:
                return
            self._rows[row.tag] = self._opening.pop(row.tag)
            self._reserved[row.tag] = self._synced[row.tag] = 0
        current = self._rows.get(row.tag)
        if current is not None and current.start_unix_ms == row.start_unix_ms:
            self._synced[row.tag] = max(self._synced[row.tag], row.watermark_nanos)

    def room_nanos(self, tag: str) -> int | None:
        """The most that can be reserved at once; None where the key has no budget."""
        budget = self._budgets.get(tag)
        if budget is None:
            return None
        if tag not in self._rows:
            return -1
        return min(budget.amount_nanos, self._synced[tag]) - self._used(tag)

    def refusal(self, tag: str, amount_nanos: int) -> KeyBudgetRefusal | None:
        """Why this worst case cannot be reserved now, or None if it can."""
        budget = self._budgets.get(tag)
        if budget is None:
            return None
        if tag not in self._rows:
            return KeyBudgetRefusal.NOT_SYNCED
        used = self._used(tag) + amount_nanos
        if used > budget.amount_nanos:
            return KeyBudgetRefusal.EXCEEDED
        return KeyBudgetRefusal.NOT_SYNCED if used > self._synced[tag] else None

    def window_of(self, tag: str) -> int:
        """The window that a reservation belongs to, by its start; -1 without a budget."""
        row = self._rows.get(tag)
        return row.start_unix_ms if row is not None and tag in self._budgets else NO_WINDOW

    def hold(self, row: ReservationRow) -> None:
        """Reserve a worst case for which there is no refusal."""
        tag = row.key_tag
        if not self._is_current(tag, window=row.key_window):
            return
        self._reserved[tag] += row.amount_nanos
        invariant(
            self._used(tag) <= self._budgets[tag].amount_nanos,
            f"key {tag} has settled {self._rows[tag].settled_nanos} and reserved "
            f"{self._reserved[tag]} of {self._budgets[tag].amount_nanos} nanos",
        )
        self.make_room(tag, row.amount_nanos)

    def make_room(self, tag: str, amount_nanos: int) -> None:
        """Raise the watermark ahead of what may be reserved next, once that is synced."""
        budget, row = self._budgets.get(tag), self._rows.get(tag)
        if budget is None or row is None or tag in self._opening:
            return
        known = self._worst_case.get(tag, 0)
        self._worst_case[tag] = max(amount_nanos, known * 99 // 100)
        step = self._step(budget)
        if self._used(tag) + max(amount_nanos, step // 2) < row.watermark_nanos:
            return
        raised = min(budget.amount_nanos, self._used(tag) + amount_nanos + step)
        if raised > row.watermark_nanos:
            self._put(replace(row, watermark_nanos=raised))

    def make_room_together(self, tag: str, amount_nanos: int) -> None:
        """Raise the watermark so that requests of this much in all fit, as far as there is room."""
        budget, row = self._budgets.get(tag), self._rows.get(tag)
        if budget is None or row is None or tag in self._opening:
            return
        wanted = min(budget.amount_nanos, self._used(tag) + amount_nanos)
        if wanted > row.watermark_nanos:
            self._put(replace(row, watermark_nanos=wanted))

    def settle(self, settled: Settlement) -> None:
        """End a reservation at its cost; in its own window only."""
        if self._is_current(settled.key_tag, window=settled.key_window):
            self._reserved[settled.key_tag] -= settled.reserved_nanos
            self._book(settled.key_tag, settled.cost_nanos)

    def correct(self, settled: Settlement, *, delta_nanos: int) -> None:
        """The cost of a settled reservation turned out to be another (rule S_3)."""
        if self._is_current(settled.key_tag, window=settled.key_window):
            self._book(settled.key_tag, delta_nanos)

    def ends_unix_ms(self, tag: str) -> int:
        """When a key's present window ends; 0 without one."""
        row = self._rows.get(tag)
        return row.end_unix_ms if row is not None else 0

    def status(self) -> tuple[KeyBudgetStatus, ...]:
        """Every budget that has opened."""
        return tuple(
            KeyBudgetStatus(
                tag=tag,
                amount_nanos=budget.amount_nanos,
                settled_nanos=self._rows[tag].settled_nanos,
                reserved_nanos=self._reserved[tag],
                end_unix_ms=self._rows[tag].end_unix_ms,
            )
            for tag, budget in self._budgets.items()
            if tag in self._rows
        )

    def take_changes(self) -> tuple[KeyBudgetRow, ...]:
        """Every row that changed since the last call, once."""
        if not self._changed:
            return ()
        changed = tuple(self._changed.values())
        self._changed = {}
        return changed

    def _book(self, tag: str, cost_nanos: int) -> None:
        row = self._rows[tag]
        settled = max(0, row.settled_nanos + cost_nanos)
        # Only an overrun goes beyond the watermark; it must outlive a loss of power, too.
        watermark = max(row.watermark_nanos, settled + self._reserved[tag])
        self._put(replace(row, settled_nanos=settled, watermark_nanos=watermark))

    def _put(self, row: KeyBudgetRow) -> None:
        self._rows[row.tag] = row
        if row.tag not in self._opening:  # else the books hold the next window already
            self._changed[row.tag] = row

    def _step(self, budget: KeyBudget) -> int:
        worst_case = self._worst_case.get(budget.tag)
        if worst_case is None:
            return budget.amount_nanos // FIRST_WATERMARK_SHARE
        return max(budget.amount_nanos // WATERMARK_STEPS, WATERMARK_WORST_CASES * worst_case)

    def _used(self, tag: str) -> int:
        return self._rows[tag].settled_nanos + self._reserved[tag]

    def _is_current(self, tag: str, *, window: int) -> bool:
        row = self._rows.get(tag)
        return row is not None and row.start_unix_ms == window
