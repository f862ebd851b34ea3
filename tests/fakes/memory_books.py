"""Books in memory that tell committed from synced, as a disk does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    BooksSnapshot,
    CompactSpool,
    DropLease,
    DropReservation,
    MetaKey,
    PutConfig,
    PutKeyBudget,
    PutLease,
    PutMeta,
    PutReservation,
    PutTable,
    TrimSpool,
)
from edge_agent.ports import Books, Told, nobody
from shared.decision.key_budget import KeyBudgetRow
from shared.decision.lease import LeaseRow, ReservationRow
from shared.decision.table import SelectionTable
from shared.decision.types import DeviceConfig, Feedback, Outcome, SpoolRecord
from shared.errors import BooksFullError, StoreError, TidegateError
from shared.wire import encode_config, encode_table, record_to_bytes


@dataclass
class BooksState:
    """What the books say at one moment."""

    meta: dict[MetaKey, str] = field(default_factory=dict)
    leases: dict[int, LeaseRow] = field(default_factory=dict)
    reservations: dict[str, ReservationRow] = field(default_factory=dict)
    key_budgets: dict[str, KeyBudgetRow] = field(default_factory=dict)
    spool: dict[int, SpoolRecord] = field(default_factory=dict)
    spool_last: int = 0
    table: SelectionTable | None = None
    config: DeviceConfig | None = None

    def copy(self) -> BooksState:
        """The same rows, which never change, in books of their own."""
        return replace(
            self,
            meta=dict(self.meta),
            leases=dict(self.leases),
            reservations=dict(self.reservations),
            key_budgets=dict(self.key_budgets),
            spool=dict(self.spool),
        )

    def check(self, effects: Sequence[BookEffect], *, encodes: bool = True) -> None:
        """Raise `StoreError` if these effects must fail, before any of them is applied.

        With `encodes`, also what cannot be put on the wire fails, as it does on a real disk.
        """
        last = self.spool_last
        reserved: dict[str, bool] = {}  # by these effects: True made, False dropped
        for effect in effects:
            kind = type(effect)  # compared, for the simulation's sake: a match takes longer
            if kind is PutLease or kind is PutMeta:
                pass
            elif type(effect) is PutReservation:
                key = effect.row.id
                if reserved.get(key, key in self.reservations):
                    raise StoreError(f"reservation {key} is already in the books")
                reserved[key] = True
            elif type(effect) is DropReservation:
                reserved[effect.reservation_id] = False
            elif type(effect) is AppendSpool:
                record = effect.record
                if encodes:
                    record_to_bytes(record)
                if record.sequence != last + 1:
                    raise StoreError(f"record {record.sequence} does not follow {last}")
                last = record.sequence
            elif type(effect) is TrimSpool:
                last = max(last, effect.through)
            elif type(effect) is CompactSpool:
                if encodes:
                    record_to_bytes(effect.record)
                if not effect.first <= min(effect.record.sequence, last + 1):
                    said = f"{effect.first} to {effect.record.sequence} are not in the spool"
                    raise StoreError(said)
                last = max(last, effect.record.sequence)
            elif isinstance(effect, PutTable) and encodes:
                encode_table(effect.table)
            elif isinstance(effect, PutConfig) and encodes:
                encode_config(effect.config)

    def apply(self, effects: Iterable[BookEffect]) -> None:
        """Apply checked effects, in order."""
        for effect in effects:
            if type(effect) is PutLease:
                self.leases[effect.row.number] = effect.row
            elif type(effect) is PutMeta:
                self.meta[effect.key] = effect.value
            elif type(effect) is AppendSpool:
                self.spool[effect.record.sequence] = effect.record
                self.spool_last = effect.record.sequence
            elif type(effect) is PutReservation:
                self.reservations[effect.row.id] = effect.row
            elif type(effect) is DropReservation:
                self.reservations.pop(effect.reservation_id, None)
            else:
                self._apply_rarer(effect)

    def _apply_rarer(self, effect: BookEffect) -> None:
        match effect:
            case PutKeyBudget(budget):
                self.key_budgets[budget.tag] = budget
            case DropLease(number):
                self.leases.pop(number, None)
            case TrimSpool(through):
                self.spool_last = max(self.spool_last, through)
                for sequence in [number for number in self.spool if number <= through]:
                    del self.spool[sequence]
            case CompactSpool(first, record):
                for sequence in [n for n in self.spool if first <= n <= record.sequence]:
                    del self.spool[sequence]
                self.spool[record.sequence] = record
                self.spool_last = max(self.spool_last, record.sequence)
            case PutTable(table):
                self.table = table
            case PutConfig(config):
                self.config = config


class MemoryDisk:
    """What outlives a process, and what outlives a loss of power."""

    def __init__(self, *, place: str = "here") -> None:
        self.state = BooksState()
        self.place = place
        self.held = False
        self._earlier = BooksState()
        self._since: list[Sequence[BookEffect]] = []
        self._safe = 0  # commits since then that a sync has covered

    def commit(self, effects: Sequence[BookEffect], *, sync: bool) -> None:
        """Apply effects that were checked; `sync` covers every earlier commit too."""
        self.state.apply(effects)
        self._since.append(tuple(effects))
        if sync:
            self._safe = len(self._since)

    def lose_power(self, *, survivors: int = 0) -> None:
        """Fall back to what was synced, and the first `survivors` commits after it."""
        self._safe = min(self._safe + survivors, len(self._since))
        self.state = self.synced.copy()
        self._since.clear()
        self.held = False

    @property
    def synced(self) -> BooksState:
        """What a loss of power leaves; worked out when somebody asks, and seldom does one."""
        for effects in self._since[: self._safe]:
            self._earlier.apply(effects)
        del self._since[: self._safe]
        self._safe = 0
        return self._earlier


class MemoryBooks(Books):
    """The port on a `MemoryDisk`.

    Attributes
    ----------
    encodes : bool
        Whether every record is encoded, so that what no disk could take fails.
    fail_with : Exception or None
        What the next commits raise, such as a `BooksFullError`, until it is None again.
    """

    encodes = True

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self.fail_with: Exception | None = None
        if self.disk.held:
            raise StoreError("the books in memory are in use by another process; stop that first")
        self.disk.held = True
        self._closed = False
        self._full: BooksFullError | None = None

    def load(self) -> BooksSnapshot:
        state = self.disk.state
        return BooksSnapshot(
            meta=dict(state.meta),
            leases=tuple(row for _, row in sorted(state.leases.items())),
            reservations=tuple(row for _, row in sorted(state.reservations.items())),
            key_budgets=tuple(row for _, row in sorted(state.key_budgets.items())),
            table=state.table,
            config=state.config,
            spool_first=min(state.spool, default=0),
            spool_last=state.spool_last,
            place=self.disk.place,
        )

    async def commit(
        self,
        effects: Sequence[BookEffect],
        *,
        sync: bool = False,
        after_full: bool = False,
        told: Told = nobody,
    ) -> None:
        try:
            self._commit(effects, sync=sync, after_full=after_full)
        except TidegateError as error:
            told(error)
            raise
        told(None)

    def _commit(self, effects: Sequence[BookEffect], *, sync: bool, after_full: bool) -> None:
        self._refuse_if_closed()
        if after_full:
            self._full = None
        failure = self.fail_with or self._full
        if isinstance(failure, BooksFullError):
            self._full = failure
        if failure is not None:
            raise failure
        self.disk.state.check(effects, encodes=self.encodes)
        self.disk.commit(effects, sync=sync)

    async def spooled(self, *, after: int, limit: int) -> Sequence[SpoolRecord]:
        self._refuse_if_closed()
        spool, last = self.disk.state.spool, self.disk.state.spool_last
        first = after + 1 if after + 1 in spool else max(after + 1, min(spool, default=last))
        return list(islice(filter(None, map(spool.get, range(first, last + 1))), limit))

    async def find(self, request_id: str) -> tuple[Outcome | None, Feedback | None]:
        self._refuse_if_closed()
        spool = self.disk.state.spool
        bodies = [spool[number].body for number in sorted(spool)]
        outcomes = (b for b in bodies if isinstance(b, Outcome) and b.request_id == request_id)
        grades = (b for b in bodies if isinstance(b, Feedback) and b.request_id == request_id)
        return next(outcomes, None), next((b for b in grades if not b.is_weak), None)

    async def size_bytes(self) -> int:
        self._refuse_if_closed()
        return sum(len(record_to_bytes(record)) for record in self.disk.state.spool.values())

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.disk.held = False

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreError("the books are closed; open them again first")
