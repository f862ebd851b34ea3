"""The coordinator's changes: the production group commit on a database that takes its time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

from coordinator.group_commit import Asked, Change, GroupCommit
from coordinator.records import StoreEffect
from shared.errors import InvariantError, StoreError, TidegateError
from tests.simulation.books_side import Decided
from tests.simulation.disk import Died
from tests.simulation.facts import Violated

if TYPE_CHECKING:
    from tests.simulation.centre import Centre

SLOW_MS = (50, 500)


@coroutine
def _written() -> Generator[None]:
    """A transaction is under way: others may ask meanwhile, and the process may end."""
    yield


@dataclass(slots=True)
class _Caller:
    cause: str
    hears: str
    asked: Asked
    heard: Callable[[bool], None]


class Transactions:
    """Puts changes of one process of the coordinator through, as its service does.

    Parameters
    ----------
    rng : random.Random
        How long transactions take.
    """

    def __init__(self, centre: Centre, rng: random.Random) -> None:
        self._centre, self._rng = centre, rng
        self._group = GroupCommit(
            engine=lambda: centre.engine,
            commit=self._commit,
            tell=centre.send,
            begin_anew=self._begin_anew,
        )
        self._work: Coroutine[Any, Any, None] | None = None
        self._callers: deque[_Caller] = deque()
        self._broken: Exception | None = None
        self._unwritable = StoreError("the database cannot be written")
        self._hurried = False
        self._pauses = 0

    def ask(
        self, cause: str, change: Change, *, hears: str = "", heard: Callable[[bool], None]
    ) -> None:
        """Have a change made after all that were asked for before it.

        Parameters
        ----------
        cause, hears : str
            For the checker: what the coordinator is doing, and the device that has told of all its
            leases with it, or is given up.
        heard : callable
            Told whether it was made; never, if the process ends before.
        """
        self._callers.append(_Caller(cause, hears, self._group.ask(change), heard))
        if self._work is None:
            self._work = self._group.work()
            self._go_on()

    def make(self, cause: str, change: Change, *, hears: str = "") -> bool:
        """Have a change made now, and all before it; False if it was refused, or all has ended."""
        said: list[bool] = []
        self._hurried = True
        self.ask(cause, change, hears=hears, heard=said.append)
        while self._work is not None and not said:
            self._pauses += 1
            self._go_on()
        self._hurried = False
        return bool(said and said[0])

    def end(self) -> None:
        """The process has ended: nobody hears what has become of anything."""
        self._callers.clear()
        work, self._work = self._work, None
        if work is not None:
            work.close()

    # What the group commit needs.

    async def _commit(self, rows: Sequence[StoreEffect]) -> None:
        if not rows:
            return
        centre = self._centre
        if centre.slow and not self._hurried:
            centre.slow -= 1
            centre.world.seen["database_slow"] += 1
            await _written()
        if centre.cannot_write:
            raise self._unwritable
        try:
            centre.write(self.decided, rows)
        except StoreError as error:  # a lost place too: here the present writer never loses it
            self._broken = Violated("exactly_once", str(error))
            raise
        except Exception as error:
            self._broken = error
            raise

    @property
    def decided(self) -> list[Decided]:
        """What the engine has agreed to, and is not committed yet."""
        return [
            Decided(each.cause, each.hears, each.asked.reaction)
            for each in self._callers
            if each.asked.reaction is not None and not each.asked.done.is_set()
        ]

    async def _begin_anew(self) -> None:
        self._centre.begin_anew()

    # Time.

    def _go_on(self) -> None:
        """Go on with the transaction that is under way, until the next one is, or all is made."""
        work, centre = self._work, self._centre
        assert work is not None
        try:
            work.send(None)
        except StopIteration:
            self._work = None
        except Died:
            self._work = None
            self._look_for_defects()
            centre.died()
            return
        else:
            world = centre.world
            self._pauses += 1
            in_ms = self._rng.randint(*SLOW_MS)
            world.at(world.now + in_ms, None, partial(self._is_written, self._pauses))
        self._answer()

    def _is_written(self, pause: int) -> None:
        if self._work is not None and pause == self._pauses:
            self._go_on()

    def _answer(self) -> None:
        """Tell those whose change is made or refused."""
        self._look_for_defects()
        callers = self._callers
        while callers and callers[0].asked.done.is_set():
            caller = callers.popleft()
            caller.heard(caller.asked.error is None)

    def _look_for_defects(self) -> None:
        """End the run by what no change may fail of, also where the process has died since."""
        if self._broken is not None:
            raise self._broken
        for caller in self._callers:
            error = caller.asked.error
            if isinstance(error, InvariantError):
                raise Violated("invariant", str(error)) from error
            if isinstance(error, StoreError) and error is not self._unwritable:
                raise Violated("exactly_once", str(error)) from error
            if error is not None and not isinstance(error, TidegateError):
                raise error
