"""Changes of the coordinator's state: decided one by one, committed together, then told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import structlog

from coordinator.engine import CoordinatorEngine
from coordinator.records import StoreEffect
from coordinator.sessions import Reaction
from shared.errors import InvariantError, StoreError, TidegateError

log = structlog.get_logger(__name__)
Change = Callable[[CoordinatorEngine], Reaction | Coroutine[Any, Any, Reaction]]
"""What the engine is asked; a coroutine reads the store before it asks."""

ROWS_MAX: Final = 1_024
"""A transaction that has so many rows takes no further change."""


@dataclass
class Asked:
    """A change whose caller waits, and what has become of it.

    Attributes
    ----------
    done : asyncio.Event
        Set once it is made or has failed.
    reaction : Reaction or None
        What the engine decided.
    error : Exception or None
        Why it has failed.
    """

    change: Change
    done: asyncio.Event = field(default_factory=asyncio.Event)
    reaction: Reaction | None = None
    error: Exception | None = None
    raised_at: TracebackType | None = None

    def fail(self, error: Exception) -> None:
        """Why it has failed; the first word counts."""
        if self.error is None:
            self.error, self.raised_at = error, error.__traceback__

    def end(self, error: Exception | None = None) -> None:
        """Nothing more becomes of it: its caller hears."""
        if error is not None:
            self.fail(error)
        self.done.set()

    @property
    def rows(self) -> list[StoreEffect]:
        """What is to be committed; nothing of a change that was refused."""
        return self.reaction.effects if self.reaction is not None else []


class GroupCommit:
    """Puts every change through, in order: the engine decides, the store commits, then it is told.

    What arrives while a transaction is written goes into the next one together: a fleet then waits
    for the disk as often as transactions are written, and not once for each message. Whatever goes
    wrong beyond a refusal leaves the engine ahead of the store; it is made anew from it before
    anything else is decided. A change goes through also when its caller has gone.

    Parameters
    ----------
    engine : callable
        The present engine.
    commit : coroutine function
        Makes rows durable, all or none.
    tell : callable
        Sends what follows from a change that is durable.
    begin_anew : coroutine function
        Ends every session and makes the engine anew from the store.

    Attributes
    ----------
    stale : bool
        The engine is ahead of the store, which could not be read since.
    """

    def __init__(
        self,
        *,
        engine: Callable[[], CoordinatorEngine],
        commit: Callable[[list[StoreEffect]], Awaitable[None]],
        tell: Callable[[Reaction], None],
        begin_anew: Callable[[], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._commit = commit
        self._tell = tell
        self._begin_anew = begin_anew
        self._line: deque[Asked] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.stale = False

    async def make(self, change: Change) -> None:
        """Make a change, after all that were asked for before it.

        Raises
        ------
        TidegateError
            Why the engine has refused it, or why it could not be committed.
        """
        asked = self.ask(change)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self.work(), name="group-commit")
            self._worker.add_done_callback(self._cut_off)  # perhaps before its first step
        await asked.done.wait()
        if asked.error is not None:
            raise asked.error.with_traceback(asked.raised_at)  # others may raise it too

    def ask(self, change: Change) -> Asked:
        """Put a change behind all that were asked for before it; by itself it starts nothing."""
        asked = Asked(change)
        self._line.append(asked)
        return asked

    async def work(self) -> None:
        """Make all that is asked for, one transaction after the other.

        Who asks by `ask` runs it, once at a time; `make` does so by itself.
        """
        while self._line:
            await self._make_group()

    def _cut_off(self, worker: asyncio.Task[None]) -> None:
        """If it was cancelled, all who wait are told so, and the engine is made anew."""
        if worker.cancelled():
            self.stale = True  # a change may be half decided
            while self._line:
                self._line.popleft().end(StoreError("cut off before it was written: ask again"))

    async def finish(self) -> None:
        """Return once all that was asked for is made or has failed."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _make_group(self) -> None:
        """One transaction; no caller hears of it before the engine is in order again."""
        problem = await self._renew() if self.stale else None
        if problem is not None:
            self._line.popleft().end(problem)
            return
        group = await self._decide()
        try:
            await self._write(group)
            if self.stale:
                await self._renew()  # if it cannot be, the next caller is told why
        finally:
            for each in group:
                each.end()

    async def _write(self, group: list[Asked]) -> None:
        try:
            await self._commit([row for each in group for row in each.rows])
        except asyncio.CancelledError:
            self.stale = True
            for each in group:
                each.fail(
                    StoreError(
                        "cut off while it was written: it may be done, see `tidectl audit list`"
                    )
                )
            raise
        except Exception as error:  # noqa: BLE001 - handed to every caller
            self.stale = True
            problem = error if len(group) == 1 else _shared(error)
            for each in group:
                each.fail(problem)
        else:
            for each in group:
                self._tell_of(each)

    def _tell_of(self, durable: Asked) -> None:
        try:
            if durable.reaction is not None:
                self._tell(durable.reaction)
        except Exception as error:  # noqa: BLE001 - handed to its caller
            durable.fail(error)
            self.stale = True  # devices have not heard what they should: they connect anew

    async def _decide(self) -> list[Asked]:
        """Ask the engine for as much as goes into one transaction.

        A change that reads the store waits until the store holds all that was decided before it,
        and the devices have been told: it may begin a session, in which none of that is news.
        """
        group: list[Asked] = []
        rows = 0
        while self._line and rows < ROWS_MAX and not self.stale:
            each = self._line[0]
            try:
                made = each.change(self._engine())
                if not isinstance(made, Reaction):
                    if group:
                        made.close()
                        break
                    made = await made
                each.reaction = made
                rows += len(made.effects)
            except Exception as error:  # noqa: BLE001 - handed to its caller
                each.fail(error)
                self.stale = not _is_refusal(error)
            group.append(self._line.popleft())
        return group

    async def _renew(self) -> Exception | None:
        """Put the engine back to what is stored; returns why it could not be."""
        try:
            await self._begin_anew()
        except Exception as error:  # noqa: BLE001 - handed to a caller
            return error
        self.stale = False
        return None


def _shared(error: Exception) -> StoreError:
    """What each hears of a failed transaction; a defect need not be its own, so it may go on."""
    if isinstance(error, StoreError):
        return error
    log.error("transaction_defective", exc_info=error)
    return StoreError(f"nothing of this transaction was committed: {error!r}; see the log")


def _is_refusal(error: Exception) -> bool:
    """Whether the engine refused before it changed anything."""
    return isinstance(error, TidegateError) and not isinstance(error, InvariantError | StoreError)
