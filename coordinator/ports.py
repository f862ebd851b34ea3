"""What the coordinator's service needs from the outside world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.alerts import Alert
from coordinator.records import (
    AuditRow,
    BookedFeedback,
    BookedOutcome,
    EarlierFacts,
    LedgerRow,
    SpendRow,
    StoreEffect,
    StoreSnapshot,
    WindowRow,
)
from shared.decision.table import SelectionTable

Progress = Callable[[int, int], None]
"""Told how many ledger rows of how many were read; what it raises ends the reading."""


@dataclass(frozen=True)
class DecisionRecord:
    """One logged decision with the grade it got, if any."""

    outcome: BookedOutcome
    feedback: BookedFeedback | None


class Notifier(ABC):
    """Whom alerts are told, beside the log and the metrics."""

    @abstractmethod
    def tell(self, alert: Alert) -> None:
        """Take an alert. MUST return at once, whatever becomes of it."""


class KeySource(ABC):
    """Keys of paid endpoints that may be delivered to devices."""

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """What fleet files may refer to as `coordinator:NAME`."""

    @abstractmethod
    def read(self, name: str) -> str:
        """A key, read now. Never logged, never stored.

        Raises
        ------
        ConfigError
            If its reference leads nowhere.
        """


class Store(ABC):
    """The coordinator's durable state behind one writer.

    Methods block; the service calls them from a thread of its own, one at a time.

    Raises
    ------
    LostLeadershipError
        When another process has taken over (rule C_5); nothing was written.
    StoreError
        When the database cannot be read or written; nothing of the commit was applied.
    """

    @abstractmethod
    def open(self) -> None:
        """Connect, migrate to the newest schema and become the one writer."""

    @abstractmethod
    def load(self) -> StoreSnapshot:
        """Everything that the engine needs to go on."""

    @abstractmethod
    def commit(self, effects: Sequence[StoreEffect]) -> None:
        """Apply effects in order, in one durable transaction, if this is still the writer.

        Rows with a key replace an earlier row of that key, except ledger rows, outcomes, grades
        and configurations, which are append-only: a second row of the same key MUST fail.
        """

    @abstractmethod
    def ledger(self, *, after_id: int, limit: int, device_id: str = "") -> Sequence[LedgerRow]:
        """Ledger rows with an id above `after_id`, rising."""

    @abstractmethod
    def audit(self, *, limit: int) -> Sequence[AuditRow]:
        """Who changed what, newest first."""

    @abstractmethod
    def decisions(
        self, *, limit: int, device_id: str = "", request_id: str = "", after: int | None = None
    ) -> Sequence[DecisionRecord]:
        """The latest booked decisions with their full grades, newest first.

        With `after`, those at a higher position instead, rising: page by page, they are all.
        """

    @abstractmethod
    def earlier(
        self, device_id: str, *, request_ids: Sequence[str], lease_numbers: Sequence[int]
    ) -> EarlierFacts:
        """Which of a device's requests are graded, and its leases with those numbers."""

    @abstractmethod
    def table(self, device_class: str, *, version: int) -> SelectionTable | None:
        """A selection table that is in force or kept; None if it is neither."""

    @abstractmethod
    def spend(self, *, from_unix_ms: int) -> Sequence[SpendRow]:
        """What was spent on the first day, from a time on, that has any; empty after the last.

        Sorted by arm and tag, in some order of the database's.
        """

    @abstractmethod
    def spool_marks(self, device_id: str, incarnations: Sequence[str]) -> dict[str, int]:
        """The highest booked sequence of each incarnation of a device that the books know."""

    @abstractmethod
    def windows(self, *, ending_after_unix_ms: int) -> Sequence[WindowRow]:
        """The windows that end after a time, by their ids."""

    @abstractmethod
    def recomputed_window(self, window_id: int) -> WindowRow:
        """A window with its balances added up from the ledger rows (rule C_2).

        Raises
        ------
        NotFoundError
            If there is no such window.
        """

    @abstractmethod
    def differences(self, *, progress: Progress) -> Sequence[str]:
        """Where the ledger's rows and the running balances disagree, in words (rule C_2).

        Every row is added up again, page by page, from one consistent view of the books. Unlike
        the other methods it may be called from any thread, and commits go on meanwhile.
        """

    @abstractmethod
    def prune(self, *, position: int, before_unix_ms: int, limit: int) -> int:
        """Delete the oldest outcomes, grades and counts up to a position; how many rows went.

        With them go audit rows from before a time, and join tokens that expired before it. At most
        `limit` of each, in one transaction; a grade goes with its outcome. What no snapshot covers
        yet MUST stay, and so must the ledger. 0 once nothing is left to delete.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up the writer's role and disconnect."""
