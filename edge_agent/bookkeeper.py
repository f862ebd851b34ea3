"""Commits the engine's effects in order, and keeps them when the disk is full (rule O_3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from edge_agent.books import AppendSpool, BookEffect, DropLease
from edge_agent.gate import Gate
from edge_agent.ports import Books
from shared.errors import BooksFullError, StoreError

log = structlog.get_logger(__name__)


class Bookkeeper:
    """The only one who writes to the books.

    While the disk is full, paid arms are closed at the gate and what could not be written is kept
    in memory, in order, until it can be.
    """

    def __init__(self, books: Books, *, gate: Gate) -> None:
        self._books = books
        self._gate = gate
        self._unwritten: list[BookEffect] = []
        self.spooled = asyncio.Event()

    async def commit(self, effects: Sequence[BookEffect], *, sync: bool = False) -> None:
        """Write effects; with `sync`, or if a lease closes, also through a loss of power.

        Raises
        ------
        BooksFullError
            If the disk is full. The effects are kept and written later.
        """
        if not effects:
            return
        if self._unwritten:
            self._unwritten += effects
            raise BooksFullError(self._gate.books_problem)
        closes = any(isinstance(effect, DropLease) for effect in effects)
        try:
            await self._books.commit(effects, sync=sync or closes)
        except StoreError as error:
            # Behind a commit that found the disk full, this one has lost its footing.
            if not self._unwritten and not isinstance(error, BooksFullError):
                raise
            self._unwritten += effects
            self._gate.books_problem = "books_full"
            raise BooksFullError(str(error)) from error
        if any(isinstance(effect, AppendSpool) for effect in effects):
            self.spooled.set()

    async def commit_or_keep(self, effects: Sequence[BookEffect], *, sync: bool = False) -> None:
        """Write effects, or keep them until the disk has room again."""
        try:
            await self.commit(effects, sync=sync)
        except BooksFullError:
            log.warning("books_effects_kept", effects=len(effects))

    async def retry(self) -> None:
        """Try again to write what is kept; paid arms open when it works."""
        while self._unwritten:
            kept = list(self._unwritten)  # it stays in place: whatever comes meanwhile queues up
            try:
                await self._books.commit(kept, sync=True)
            except BooksFullError:
                return
            del self._unwritten[: len(kept)]
            log.info("books_have_room", effects=len(kept))
            self.spooled.set()
        if self._gate.books_problem == "books_full":
            self._gate.books_problem = ""
