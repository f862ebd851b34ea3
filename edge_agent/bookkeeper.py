"""Commits the engine's effects in order, and keeps them when the disk is full (rule O_3)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import structlog

from edge_agent.books import BOOKS_BROKEN, BOOKS_FULL, AppendSpool, BookEffect, DropLease
from edge_agent.gate import Gate
from edge_agent.ports import Books
from edge_agent.unwritten import merged
from shared.decision.types import Feedback, Outcome, SpoolRecord
from shared.errors import BooksCorruptError, BooksFullError, StoreError

log = structlog.get_logger(__name__)


def problem_of(error: StoreError) -> str:
    """Why a paid arm is closed by what has become of a commit."""
    return BOOKS_FULL if isinstance(error, BooksFullError) else BOOKS_BROKEN


class Bookkeeper:
    """The only one who writes to the books.

    While the disk is full, paid arms are closed at the gate and what could not be written is kept
    in memory, in order, until it can be. However long that lasts, it stays small: every retry
    merges what waits.

    Attributes
    ----------
    spool_held : asyncio.Lock
        Held while records are on their way out, or being compacted, so that none is both.
    """

    def __init__(self, books: Books, *, gate: Gate) -> None:
        self._books = books
        self._gate = gate
        self._commits = 0
        self._under_way = 0
        self._unwritten: dict[int, Sequence[BookEffect]] = {}
        self.spooled = asyncio.Event()
        self.spool_held = asyncio.Lock()

    @property
    def keeps_any(self) -> bool:
        """Whether something waits for room on the disk."""
        return bool(self._unwritten)

    async def commit(self, effects: Sequence[BookEffect], *, sync: bool = False) -> None:
        """Write effects; with `sync`, or if a lease closes, also through a loss of power.

        Nothing is lost when the caller is cancelled meanwhile.

        Raises
        ------
        BooksFullError
            If the disk is full. The effects are kept and written later.
        """
        if not effects:
            return
        self._commits += 1
        number = self._commits
        if self._unwritten:
            self._unwritten[number] = effects
            raise BooksFullError(self._gate.books_problem)
        self._under_way += 1
        spools = closes = False
        for effect in effects:
            spools = spools or type(effect) is AppendSpool
            closes = closes or type(effect) is DropLease
        told = partial(self._told, number, effects, spools)
        await self._books.commit(effects, sync=sync or closes, told=told)

    def _told(
        self, number: int, effects: Sequence[BookEffect], spools: bool, error: Exception | None
    ) -> None:
        self._under_way -= 1
        if isinstance(error, BooksFullError):
            self._unwritten[number] = effects
            self._gate.books_problem = self._gate.books_problem or BOOKS_FULL  # broken ones stay so
        elif error is not None:
            # The engine is ahead of the books for good: only a start from the books mends that.
            self._broken(error)
        elif spools:
            self.spooled.set()

    def _retried(self, number: int, error: Exception | None) -> None:
        if error is None:
            log.info("books_have_room", effects=len(self._unwritten.pop(number)))
            self.spooled.set()

    async def commit_or_keep(self, effects: Sequence[BookEffect], *, sync: bool = False) -> None:
        """Write effects, or keep them until the disk has room again."""
        try:
            await self.commit(effects, sync=sync)
        except BooksFullError:
            log.warning("books_effects_kept", effects=len(effects))

    async def commit_if_possible(self, effects: Sequence[BookEffect]) -> None:
        """Write effects, or keep them, or go on without books that are broken (promise P2).

        Those have closed the paid arms, and are told of; what is reserved in them is settled in
        full at the next start (rule L_4).
        """
        try:
            await self.commit_or_keep(effects)
        except StoreError:
            if self._gate.books_problem != BOOKS_BROKEN:
                raise

    async def spool_after(self, sequence: int, *, limit: int) -> Sequence[SpoolRecord]:
        """Records above a sequence, in order.

        Raises
        ------
        BooksCorruptError
            If the books turn out not to be what was written: the paid arms are closed then.
        """
        with self._noticing():
            return await self._books.spooled(after=sequence, limit=limit)

    async def find(self, request_id: str) -> tuple[Outcome | None, Feedback | None]:
        """The outcome of a request and its first grade, as far as still kept.

        Raises
        ------
        BooksCorruptError
            As `spool_after` does.
        """
        with self._noticing():
            return await self._books.find(request_id)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BooksCorruptError as error:
            self._broken(error)
            raise

    def _broken(self, error: Exception) -> None:
        if self._gate.books_problem != BOOKS_BROKEN:  # once, not with every request
            log.error("books_broken", problem=str(error))
        self._gate.books_problem = BOOKS_BROKEN

    async def retry(self) -> None:
        """Try again to write what is kept; paid arms open when it works."""
        while self._unwritten and not self._under_way:
            # It stays in place: whatever comes meanwhile queues up behind it.
            kept = sorted(self._unwritten.items())
            number, _ = kept[-1]
            effects = merged(effect for _, effects in kept for effect in effects)
            self._unwritten = {number: effects}
            try:
                await self._books.commit(
                    effects, sync=True, after_full=True, told=partial(self._retried, number)
                )
            except BooksFullError:
                return
        if self._gate.books_problem == BOOKS_FULL and not self._unwritten:
            self._gate.books_problem = ""
