"""A device's disk and the coordinator's database, as things that crash, fill up and are copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from coordinator.records import PutSetting, SettingKey, StoreEffect
from coordinator.recovery import Recovery
from edge_agent.books import BookEffect, spooled_in
from edge_agent.ports import Told, nobody
from shared.decision.types import Outcome
from tests.fakes.memory_books import BooksState, MemoryBooks, MemoryDisk
from tests.fakes.memory_store import MemoryDatabase, MemoryStore


class Died(BaseException):
    """A process ended in the middle of what it did; not an `Exception`, so nobody handles it."""


class Fuse:
    """Ends a process at one of its next commits, before or after the commit is durable.

    Attributes
    ----------
    left : int
        Commits until somebody dies; 0 if nobody is going to.
    """

    def __init__(self) -> None:
        self.left = 0
        self._after = False

    def light(self, commits: int, *, after: bool) -> None:
        """Burn down over so many commits."""
        self.left, self._after = commits, after

    def put_out(self) -> None:
        """Nobody dies any more."""
        self.left = 0

    def before(self) -> None:
        """A commit begins while somebody is going to die."""
        self.left -= 1
        if not self.left and not self._after:
            raise Died

    def behind(self) -> None:
        """It is durable."""
        if not self.left:
            raise Died


class Watch(Protocol):
    """Sees what a disk is about to take."""

    def __call__(self, disk: SimDisk, effects: Sequence[BookEffect], *, sync: bool) -> None: ...


class SimDisk(MemoryDisk):
    """A disk that tells its checker of every commit.

    Attributes
    ----------
    sent_through : int
        The highest sequence that was ever put on the wire from this disk.
    is_stale : bool
        It is an older image of itself, and cannot know it.
    foreign : frozenset of int
        Leases that it has from another disk in another place, which may be spending on them.
    """

    def __init__(self, watch: Watch, *, fuse: Fuse, owner: str) -> None:
        super().__init__()
        self.watch, self.fuse, self.owner = watch, fuse, owner
        self._kept: dict[str, Outcome] = {}  # those of commits that `synced` has applied
        self.sent_through = 0
        self.is_stale = False
        self.foreign: frozenset[int] = frozenset()

    def commit(self, effects: Sequence[BookEffect], *, sync: bool) -> None:
        burns = self.fuse.left
        if burns:
            self.fuse.before()
        self.watch(self, effects, sync=sync)
        super().commit(effects, sync=sync)
        if burns:
            self.fuse.behind()

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What the spool has taken and not lost since, whatever became of the records."""
        return {**self._kept, **_outcomes_in(self._since)}

    @property
    def synced(self) -> BooksState:
        self._kept.update(_outcomes_in(self._since[: self._safe]))
        return super().synced

    def copied(self, *, place: str = "") -> SimDisk:
        """The same contents on another disk, all of them synced; an image keeps their place."""
        copy = SimDisk(self.watch, fuse=Fuse(), owner=self.owner)
        copy.place = place or self.place
        copy.state, copy._earlier = self.state.copy(), self.state.copy()
        copy._kept = self.outcomes
        copy.sent_through = self.sent_through
        elsewhere = copy.place != self.place
        copy.foreign = frozenset(self.state.leases) if elsewhere else self.foreign
        return copy


def _outcomes_in(commits: Iterable[Sequence[BookEffect]]) -> dict[str, Outcome]:
    bodies = spooled_in(chain.from_iterable(commits))
    return {body.request_id: body for body in bodies if isinstance(body, Outcome)}


class SimBooks(MemoryBooks):
    """The books on a `SimDisk`. Records are not encoded: the wire has its own tests."""

    encodes = False

    async def commit(
        self,
        effects: Sequence[BookEffect],
        *,
        sync: bool = False,
        after_full: bool = False,
        told: Told = nobody,
    ) -> None:
        if self.fail_with is not None or self._full is not None:
            await super().commit(effects, sync=sync, after_full=after_full, told=told)
            return
        self.disk.state.check(effects, encodes=False)  # nothing else can be wrong
        self.disk.commit(effects, sync=sync)
        told(None)


@dataclass
class Mark:
    """How far the books had come, kept outside the database (rule C_5)."""

    epoch: int = 0
    ledger_id: int = 0


class SimStore(MemoryStore):
    """A store that tells its checker of every commit, and may die around it."""

    def __init__(
        self,
        database: MemoryDatabase,
        *,
        mark: Mark,
        watch: Callable[[Sequence[StoreEffect]], None],
        fuse: Fuse,
    ) -> None:
        super().__init__(database)
        self._mark, self._watch, self._fuse = mark, watch, fuse

    def open(self) -> None:
        """Become the writer; books that are behind their mark begin a recovery."""
        database, mark = self.database, self._mark
        behind = database.epoch < mark.epoch or len(database.ledger) < mark.ledger_id
        database.epoch = max(database.epoch, mark.epoch)
        super().open()
        mark.epoch, mark.ledger_id = database.epoch, len(database.ledger)
        if behind:
            recovery = Recovery("the database is behind its mark: it was restored from a backup")
            database.apply(PutSetting(SettingKey.RECOVERY, recovery.to_json()))

    def commit(self, effects: Sequence[StoreEffect]) -> None:
        if not effects:
            return
        burns = self._fuse.left
        if burns:
            self._fuse.before()
        super().commit(effects)
        self._watch(effects)
        if burns:
            self._fuse.behind()
