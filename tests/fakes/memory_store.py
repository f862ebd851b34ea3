"""The coordinator's store in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from coordinator.engine import NOTHING_EARLIER, CoordinatorEngine
from coordinator.messages import HelloReceived
from coordinator.ports import DecisionRecord, Progress, Store
from coordinator.records import (
    AdminTokenRow,
    AuditRow,
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    ConfigRow,
    DeviceRow,
    EarlierFacts,
    EarlierTable,
    JoinTokenRow,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    PutSetting,
    SettingKey,
    Snapshot,
    SpendRow,
    SpoolMark,
    StoreEffect,
    StoreSnapshot,
    TableRowStored,
    WindowRow,
)
from coordinator.sessions import Reaction
from coordinator.verify import LedgerSums
from shared.decision.table import SelectionTable
from shared.decision.types import SpoolRecord
from shared.errors import LostLeadershipError, NotFoundError, StoreError

Learned = BookedOutcome | BookedFeedback | BookedCounts
LEARNED = (BookedOutcome, BookedFeedback, BookedCounts)
UNIQUE = (BookedFeedback, ConfigRow)
KEYED: dict[type, tuple[str, Callable[[Any], Any]]] = {
    AdminTokenRow: ("admin_tokens", attrgetter("digest")),
    ConfigRow: ("configs", attrgetter("version")),
    DeviceRow: ("devices", attrgetter("id")),
    JoinTokenRow: ("join_tokens", attrgetter("digest")),
    LeaseRecord: ("leases", attrgetter("device_id", "number")),
    SpendRow: ("spend", attrgetter("day_unix_ms", "arm", "tag")),
    WindowRow: ("windows", attrgetter("id")),
}
"""Rows that take the place of an earlier one: in which table, and by what key."""


@dataclass
class MemoryDatabase:
    """What outlives a process of the coordinator."""

    epoch: int = 0
    held: bool = False
    ledger: list[LedgerRow] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)
    grade_keys: set[tuple[str, str]] = field(default_factory=set)
    spool_marks: dict[tuple[str, str], int] = field(default_factory=dict)
    configs: dict[int, ConfigRow] = field(default_factory=dict)
    windows: dict[int, WindowRow] = field(default_factory=dict)
    spend: dict[tuple[int, str, str], SpendRow] = field(default_factory=dict)
    leases: dict[tuple[str, int], LeaseRecord] = field(default_factory=dict)
    devices: dict[str, DeviceRow] = field(default_factory=dict)
    join_tokens: dict[str, JoinTokenRow] = field(default_factory=dict)
    admin_tokens: dict[str, AdminTokenRow] = field(default_factory=dict)
    settings: dict[SettingKey, str] = field(default_factory=dict)
    tables: dict[tuple[str, int], SelectionTable] = field(default_factory=dict)
    audit: list[AuditRow] = field(default_factory=list)
    snapshot: Snapshot | None = None
    position_max: int = 0

    def check(self, effects: Sequence[StoreEffect]) -> None:
        """Raise `StoreError` if these effects must fail, before any of them is applied."""
        ledger_id, position = len(self.ledger), self.position_max
        fresh: set[object] = set()
        for effect in effects:
            if type(effect) is LedgerRow:
                ledger_id += 1
                if effect.id != ledger_id:
                    raise StoreError(f"ledger row {effect.id} is not {ledger_id}")
                continue
            if isinstance(effect, LEARNED):
                position += 1
                if effect.position != position:
                    raise StoreError(f"{effect.position} is not {position}")
            if isinstance(effect, UNIQUE):
                key = _unique_key(effect)
                if key in fresh or (key is not None and self._has(key)):
                    raise StoreError(f"{key} is already in the books")
                if key is not None:
                    fresh.add(key)

    def _has(self, key: tuple[str, str, int | str]) -> bool:
        kind, *rest = key
        if kind == "config":
            return rest[1] in self.configs
        return tuple(rest) in self.grade_keys

    def apply(self, effect: StoreEffect) -> None:
        """Apply one checked effect."""
        table, key_of = KEYED.get(type(effect), ("", None))
        if key_of is not None:
            getattr(self, table)[key_of(effect)] = effect
        elif type(effect) is LedgerRow:
            self.ledger.append(effect)
        elif isinstance(effect, LEARNED):
            self.learned.append(effect)
            self.position_max = effect.position
            if isinstance(effect, BookedFeedback) and not effect.feedback.is_weak:
                self.grade_keys.add((effect.device_id, effect.feedback.request_id))
        else:
            self._apply_rarer(effect)

    def forget(self, gone: set[int]) -> None:
        """Let learned records go, by their positions."""
        for row in self.learned:
            is_gone = row.position in gone
            if is_gone and isinstance(row, BookedFeedback) and not row.feedback.is_weak:
                self.grade_keys.discard((row.device_id, row.feedback.request_id))
        self.learned = [row for row in self.learned if row.position not in gone]

    def _apply_rarer(self, effect: StoreEffect) -> None:
        match effect:
            case AuditRow():
                self.audit.append(effect)
            case SpoolMark(device_id, incarnation, sequence):
                self.spool_marks[device_id, incarnation] = sequence
            case Snapshot():
                self.snapshot = effect
            case PutSetting():
                self.settings[effect.key] = effect.value
            case TableRowStored():
                self.tables[effect.table.device_class, effect.place] = effect.table


def say_hello(
    engine: CoordinatorEngine,
    store: Store,
    device_id: str,
    hello: HelloReceived,
    *,
    resume_token: str,
    unix_ms: int,
) -> Reaction:
    """Let an engine hear a hello, with what the store holds of it, as the service does."""
    names = [each.incarnation for each in hello.incarnations]
    marks, earlier = store.spool_marks(device_id, names), NOTHING_EARLIER
    presented = [status.lease_number for status in hello.leases]
    unremembered = engine.unremembered_leases(device_id, presented)
    if unremembered:
        earlier = store.earlier(device_id, request_ids=(), lease_numbers=unremembered)
    return engine.hello(
        device_id,
        hello,
        marks=marks,
        earlier=earlier,
        resume_token=resume_token,
        unix_ms=unix_ms,
    )


def book_batch(
    engine: CoordinatorEngine,
    store: Store,
    device_id: str,
    records: Sequence[SpoolRecord],
    *,
    incarnation: str,
    unix_ms: int,
) -> Reaction:
    """Let an engine book a batch, with what the store holds of it, as the service does."""
    named, earlier = engine.unremembered(device_id, records), NOTHING_EARLIER
    if named.graded or named.leases:
        earlier = store.earlier(device_id, request_ids=named.graded, lease_numbers=named.leases)
    if named.outcomes:
        found = (
            store.decisions(limit=1, device_id=device_id, request_id=request_id)
            for request_id in named.outcomes
        )
        outcomes = tuple(decision.outcome.outcome for page in found for decision in page)
        earlier = replace(earlier, outcomes=outcomes)
    return engine.batch(
        device_id,
        records,
        incarnation=incarnation,
        named=named,
        earlier=earlier,
        unix_ms=unix_ms,
    )


def _unique_key(effect: StoreEffect) -> tuple[str, str, int | str] | None:
    if isinstance(effect, BookedFeedback) and not effect.feedback.is_weak:
        return "grade", effect.device_id, effect.feedback.request_id
    return ("config", "", effect.version) if isinstance(effect, ConfigRow) else None


def _demand(holds: bool, problem: str) -> None:
    if not holds:
        raise StoreError(problem)


class MemoryStore(Store):
    """The port on a `MemoryDatabase`.

    Attributes
    ----------
    fail_with : Exception or None
        What the next commits raise until it is None again.
    """

    def __init__(self, database: MemoryDatabase | None = None) -> None:
        self.database = database or MemoryDatabase()
        self.fail_with: Exception | None = None
        self._epoch = 0

    def open(self) -> None:
        _demand(self._epoch == 0, "the store is already open")
        _demand(not self.database.held, "another coordinator is the writer; stop it first")
        self.database.held = True
        self.database.epoch += 1
        self._epoch = self.database.epoch

    def close(self) -> None:
        if self._epoch:
            self._epoch = 0
            self.database.held = False

    def load(self) -> StoreSnapshot:
        database = self._open_database()
        open_windows = {
            row.window_id for row in database.leases.values() if row.end is LeaseEnd.OPEN
        }
        latest = max(database.windows, default=0)
        begun = database.windows[latest].start_unix_ms if database.windows else 0
        left = {key for key, row in database.windows.items() if row.end_unix_ms > begun}
        wanted = open_windows | {latest} | left
        after = database.snapshot.position if database.snapshot is not None else 0
        return StoreSnapshot(
            config=database.configs[max(database.configs)] if database.configs else None,
            devices=tuple(row for _, row in sorted(database.devices.items())),
            join_tokens=tuple(row for _, row in sorted(database.join_tokens.items())),
            admin_tokens=tuple(row for _, row in sorted(database.admin_tokens.items())),
            windows=tuple(row for key, row in sorted(database.windows.items()) if key in wanted),
            leases=tuple(
                row for _, row in sorted(database.leases.items()) if row.window_id in wanted
            ),
            spend=tuple(self._spend_of(max(day for day, _, _ in database.spend)))
            if database.spend
            else (),
            settings=dict(database.settings),
            snapshot=database.snapshot,
            learned_since=tuple(row for row in database.learned if row.position > after),
            tables=tuple(
                table for (_, place), table in sorted(database.tables.items()) if place == 0
            ),
            earlier_tables=tuple(
                EarlierTable(name, place, table.version, table.created_unix_ms)
                for (name, place), table in sorted(database.tables.items())
                if place > 0
            ),
            ledger_id_max=len(database.ledger),
            position_max=database.position_max,
        )

    def commit(self, effects: Sequence[StoreEffect]) -> None:
        database = self._open_database()
        if self.fail_with is not None:
            raise self.fail_with
        self._check_epoch()
        database.check(effects)
        for effect in effects:
            database.apply(effect)

    def ledger(self, *, after_id: int, limit: int, device_id: str = "") -> Sequence[LedgerRow]:
        rows = self._open_database().ledger
        return [row for row in rows[after_id:] if device_id in ("", row.device_id)][:limit]

    def audit(self, *, limit: int) -> Sequence[AuditRow]:
        return self._open_database().audit[::-1][:limit]

    def decisions(
        self, *, limit: int, device_id: str = "", request_id: str = "", after: int | None = None
    ) -> Sequence[DecisionRecord]:
        learned = self._open_database().learned
        grades = {
            (row.device_id, row.feedback.request_id): row
            for row in learned
            if isinstance(row, BookedFeedback) and not row.feedback.is_weak
        }
        return [
            DecisionRecord(row, grades.get((row.device_id, row.outcome.request_id)))
            for row in (reversed(learned) if after is None else learned)
            if isinstance(row, BookedOutcome)
            and row.position > (after or 0)
            and device_id in ("", row.device_id)
            and request_id in ("", row.outcome.request_id)
        ][:limit]

    def earlier(
        self, device_id: str, *, request_ids: Sequence[str], lease_numbers: Sequence[int]
    ) -> EarlierFacts:
        database = self._open_database()
        found = [database.leases.get((device_id, number)) for number in lease_numbers]
        leases = tuple(lease for lease in found if lease is not None)
        keys = {(device_id, request_id) for request_id in request_ids}
        return EarlierFacts(
            graded=frozenset(request for _, request in keys & database.grade_keys),
            leases=leases,
            windows=tuple(database.windows[key] for key in {row.window_id for row in leases}),
        )

    def table(self, device_class: str, *, version: int) -> SelectionTable | None:
        found = sorted(self._open_database().tables.items())
        return next(
            (t for (name, _), t in found if (name, t.version) == (device_class, version)), None
        )

    def spend(self, *, from_unix_ms: int) -> Sequence[SpendRow]:
        days = [day for day, _, _ in self._open_database().spend if day >= from_unix_ms]
        return self._spend_of(min(days)) if days else []

    def _spend_of(self, day: int) -> list[SpendRow]:
        found = sorted(self._open_database().spend.items())
        return [row for (its_day, _, _), row in found if its_day == day]

    def spool_marks(self, device_id: str, incarnations: Sequence[str]) -> dict[str, int]:
        marks = self._open_database().spool_marks
        keys = {name: marks.get((device_id, name)) for name in incarnations}
        return {name: mark for name, mark in keys.items() if mark is not None}

    def windows(self, *, ending_after_unix_ms: int) -> Sequence[WindowRow]:
        found = sorted(self._open_database().windows.items())
        return [row for _, row in found if row.end_unix_ms > ending_after_unix_ms]

    def recomputed_window(self, window_id: int) -> WindowRow:
        database = self._open_database()
        if window_id not in database.windows:
            raise NotFoundError(f"there is no window {window_id} in the books")
        settled = unconfirmed = outstanding = 0
        for row in database.ledger:
            if row.window_id != window_id:
                continue
            amount = row.amount_nanos
            match row.kind:
                case LedgerKind.GRANT:
                    outstanding += amount
                case LedgerKind.SETTLE | LedgerKind.UNSETTLE:
                    outstanding -= amount
                    settled += amount
                case LedgerKind.CONFIRM:
                    unconfirmed -= amount
                    settled += amount
                case LedgerKind.ADJUST | LedgerKind.OVERRUN:
                    settled += amount
                case LedgerKind.REFUND:
                    unconfirmed -= amount
                case LedgerKind.RELEASE:
                    outstanding -= amount
                case LedgerKind.UNCONFIRMED | LedgerKind.WRITEOFF:
                    outstanding -= amount
                    unconfirmed += amount
                case LedgerKind.CARRY:
                    unconfirmed += amount
        return replace(
            database.windows[window_id],
            settled_nanos=settled,
            unconfirmed_nanos=unconfirmed,
            outstanding_nanos=outstanding,
        )

    def differences(self, *, progress: Progress) -> Sequence[str]:
        database, sums = self._open_database(), LedgerSums()
        for row in database.ledger:
            sums.take(row)
        progress(sums.rows, len(database.ledger))
        return sums.differences(
            windows=database.windows.values(),
            leases=database.leases.values(),
            spend=database.spend.values(),
        )

    def prune(self, *, position: int, before_unix_ms: int, limit: int) -> int:
        database = self._open_database()
        self._check_epoch()
        return _prune_learned(database, position=position, limit=limit) + _prune_dated(
            database, before_unix_ms=before_unix_ms, limit=limit
        )

    def _check_epoch(self) -> None:
        if self.database.epoch != self._epoch:
            raise LostLeadershipError(
                f"another coordinator took over: epoch {self.database.epoch}, not {self._epoch}"
            )

    def _open_database(self) -> MemoryDatabase:
        _demand(self._epoch > 0, "the store is not open; call open() first")
        return self.database


def _prune_learned(database: MemoryDatabase, *, position: int, limit: int) -> int:
    covered = database.snapshot.position if database.snapshot is not None else 0
    gone: set[int] = set()
    for kind in (BookedOutcome, BookedFeedback, BookedCounts):
        rows = [row for row in database.learned if isinstance(row, kind)]
        old = [row.position for row in rows if row.position <= min(position, covered)]
        gone.update(old[:limit])
    requests = {
        (row.device_id, row.outcome.request_id)
        for row in database.learned
        if isinstance(row, BookedOutcome) and row.position in gone
    }
    gone |= {
        row.position
        for row in database.learned
        if isinstance(row, BookedFeedback)
        and (row.device_id, row.feedback.request_id) in requests
        and row.position <= covered
    }
    database.forget(gone)
    return len(gone)


def _prune_dated(database: MemoryDatabase, *, before_unix_ms: int, limit: int) -> int:
    audit = [row for row in database.audit if row.at_unix_ms < before_unix_ms][:limit]
    database.audit = [row for row in database.audit if row not in audit]
    tokens = [row for row in database.join_tokens.values() if row.expires_unix_ms < before_unix_ms]
    for token in tokens[:limit]:
        del database.join_tokens[token.digest]
    return len(audit) + len(tokens[:limit])
