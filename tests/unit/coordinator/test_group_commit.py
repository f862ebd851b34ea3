"""Changes are decided in order, committed together, and told when they are durable."""

from __future__ import annotations

import asyncio
import traceback
from typing import cast

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.group_commit import ROWS_MAX, Change, GroupCommit
from coordinator.records import AuditRow, StoreEffect
from coordinator.sessions import Reaction
from shared.errors import ConflictError, InvariantError, StoreError


def row(name: str) -> AuditRow:
    """A row that can be told from others."""
    return AuditRow(0, name, "test", "")


class Books:
    """A store that takes transactions as slowly as a test wants, and an engine of names.

    Attributes
    ----------
    engine : list of str
        What was decided since it was made.
    stored : list of list of str
        The transactions.
    told : list of str
        What was sent.
    """

    def __init__(self) -> None:
        self.engine: list[str] = []
        self.stored: list[list[str]] = []
        self.told: list[str] = []
        self.renewals = 0
        self.fail_commit: Exception | None = None
        self.fail_renewal: Exception | None = None
        self.fail_tell = ""
        self.reactions: list[Reaction] = []
        self.free = asyncio.Event()
        self.free.set()
        self.group = GroupCommit(
            engine=lambda: cast("CoordinatorEngine", self.engine),
            commit=self.commit,
            tell=self.tell,
            begin_anew=self.begin_anew,
        )

    async def commit(self, rows: list[StoreEffect]) -> None:
        await self.free.wait()
        if self.fail_commit is not None:
            raise self.fail_commit
        if rows:
            self.stored.append(names_of(rows))

    def tell(self, reaction: Reaction) -> None:
        names = names_of(reaction.effects)
        if self.fail_tell in names:
            raise KeyError(self.fail_tell)
        self.reactions.append(reaction)
        self.told += names

    async def begin_anew(self) -> None:
        self.renewals += 1
        if self.fail_renewal is not None:
            raise self.fail_renewal
        self.engine = [name for names in self.stored for name in names]

    def decides(self, name: str, *, rows: int = 1) -> Change:
        """A change that the engine agrees to."""

        def change(engine: CoordinatorEngine) -> Reaction:
            cast("list[str]", engine).append(name)
            return Reaction(effects=[row(name)] * rows)

        return change

    def looks_up(self, name: str) -> Change:
        """A change that reads the store first, and notes what it has found there."""

        async def change(_: CoordinatorEngine) -> Reaction:
            await asyncio.sleep(0)
            found = [each for names in self.stored for each in names]
            return Reaction(effects=[row(f"{name} after {' '.join(found) or 'nothing'}")])

        return change

    def fails(self, error: Exception) -> Change:
        """A change that raises."""

        def change(engine: CoordinatorEngine) -> Reaction:
            if not isinstance(error, ConflictError):
                cast("list[str]", engine).append("half done")
            raise error

        return change

    async def meanwhile(self, *changes: Change) -> list[BaseException | None]:
        """Ask for changes while another one is being written; what became of each."""
        self.free.clear()
        first = asyncio.create_task(self.group.make(self.decides("first")))
        await asyncio.sleep(0)
        others = [asyncio.create_task(self.group.make(change)) for change in changes]
        await asyncio.sleep(0)
        self.free.set()
        await first
        return await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
async def books() -> Books:
    """Books that work."""
    return Books()


def names_of(rows: list[StoreEffect]) -> list[str]:
    """Of rows made by `row`."""
    return [cast("AuditRow", each).actor for each in rows]


async def test_what_comes_during_a_transaction_goes_into_the_next_one(books: Books) -> None:
    """Together and in order; each is told when that one is durable."""
    came = await books.meanwhile(*map(books.decides, "abc"))
    assert came == [None, None, None]
    assert books.stored == [["first"], ["a", "b", "c"]]
    assert books.told == ["first", "a", "b", "c"]


async def test_nothing_is_told_before_it_is_durable(books: Books) -> None:
    """Neither to devices nor to the caller."""
    books.free.clear()
    made = asyncio.create_task(books.group.make(books.decides("a")))
    for _ in range(10):
        await asyncio.sleep(0)
    assert (books.engine, books.told, made.done()) == (["a"], [], False)
    books.free.set()
    await made
    assert books.told == ["a"]


async def test_a_transaction_has_an_end(books: Books) -> None:
    """Large changes do not wait for each other's neighbours."""
    await books.meanwhile(
        books.decides("a", rows=ROWS_MAX - 1), books.decides("b"), books.decides("c")
    )
    assert [len(names) for names in books.stored] == [1, ROWS_MAX, 1]


async def test_a_refusal_is_its_callers_alone(books: Books) -> None:
    """The others go through, and the engine stays."""
    refusal = ConflictError("no")
    came = await books.meanwhile(books.decides("a"), books.fails(refusal), books.decides("c"))
    assert came == [None, refusal, None]
    assert books.stored == [["first"], ["a", "c"]]
    assert books.renewals == 0


async def test_a_defect_costs_only_the_change_that_has_it(books: Books) -> None:
    """What was decided before is committed; what comes after is decided by a new engine."""
    defect = InvariantError("impossible")
    came = await books.meanwhile(books.decides("a"), books.fails(defect), books.decides("c"))
    assert came == [None, defect, None]
    assert books.stored == [["first"], ["a"], ["c"]]
    assert books.engine == ["first", "a", "c"]
    assert books.renewals == 1


async def test_a_failed_commit_fails_all_that_went_with_it(books: Books) -> None:
    """Nothing is told, and the engine has forgotten it when the callers hear."""
    books.fail_commit = StoreError("disk full")
    engines: list[list[str]] = []

    async def ask(name: str) -> None:
        try:
            await books.group.make(books.decides(name))
        finally:
            engines.append(books.engine)

    came = await asyncio.gather(ask("a"), ask("b"), return_exceptions=True)
    assert list(came) == [books.fail_commit, books.fail_commit]
    assert (books.told, engines, books.renewals) == ([], [[], []], 1)
    books.fail_commit = None
    await books.group.make(books.decides("c"))
    assert books.engine == ["c"]


async def test_a_refusal_beside_a_failed_commit_is_still_a_refusal(books: Books) -> None:
    """It would not have gone through either way."""
    books.fail_commit, refusal = StoreError("disk full"), ConflictError("no")
    came = await asyncio.gather(
        books.group.make(books.fails(refusal)),
        books.group.make(books.decides("a")),
        return_exceptions=True,
    )
    assert list(came) == [refusal, books.fail_commit]


async def test_a_change_that_reads_finds_all_that_was_decided_before(books: Books) -> None:
    """It waits for their transaction, and those after it may go with it."""
    came = await books.meanwhile(books.decides("a"), books.looks_up("b"), books.decides("c"))
    assert came == [None, None, None]
    assert books.stored == [["first"], ["a"], ["b after first a", "c"]]


async def test_nothing_is_decided_until_the_store_can_be_read_again(books: Books) -> None:
    """Every caller is told why; then all goes on."""
    books.fail_commit = books.fail_renewal = StoreError("gone")
    for _ in range(2):
        with pytest.raises(StoreError):
            await books.group.make(books.decides("a"))
    assert books.group.stale
    decided: list[str] = []

    def change(_: CoordinatorEngine) -> Reaction:
        decided.append("c")
        return Reaction()

    with pytest.raises(StoreError):
        await books.group.make(change)
    assert decided == []
    books.fail_commit = books.fail_renewal = None
    await books.group.make(books.decides("d"))
    assert (books.stored, books.engine, books.group.stale) == ([["d"]], ["d"], False)


@pytest.mark.parametrize("way", ["waiting", "written"])
async def test_a_change_goes_through_when_its_caller_has_gone(books: Books, way: str) -> None:
    """A stream may break at any time; those behind it are made all the same."""
    books.free.clear()
    callers = [asyncio.create_task(books.group.make(books.decides("a")))]
    for _ in range(2):
        await asyncio.sleep(0)
    callers += [asyncio.create_task(books.group.make(books.decides(name))) for name in "bc"]
    await asyncio.sleep(0)
    callers[0 if way == "written" else 1].cancel()
    books.free.set()
    await asyncio.gather(*callers, return_exceptions=True)
    assert books.stored == [["a"], ["b", "c"]]


@pytest.mark.parametrize("error", [StopIteration(), KeyError("gone")])
async def test_whatever_a_change_raises_nobody_waits_for_ever(
    books: Books, error: Exception
) -> None:
    """An error that a future cannot carry is told too, and those behind it are made."""
    came = await books.meanwhile(books.decides("a"), books.fails(error), books.decides("c"))
    assert [None, True, None] == [came[0], isinstance(came[1], Exception), came[2]]
    assert books.stored == [["first"], ["a"], ["c"]]


async def test_a_change_that_reads_waits_until_all_before_it_is_told(books: Books) -> None:
    """Also what has no rows: it may begin a session, which must not hear of the one before."""
    told_by_then: list[int] = []

    async def begins_session(_: CoordinatorEngine) -> Reaction:
        told_by_then.append(len(books.reactions))
        return Reaction()

    await books.meanwhile(lambda _: Reaction(), begins_session)
    assert told_by_then == [2]


async def test_a_defect_in_what_is_committed_is_to_each_a_store_that_failed(books: Books) -> None:
    """It may be a neighbour's; alone it is told as it is."""
    books.fail_commit = KeyError("column")
    came = await asyncio.gather(
        *(books.group.make(books.decides(name)) for name in "ab"), return_exceptions=True
    )
    assert [StoreError, StoreError] == [type(each) for each in came]
    with pytest.raises(KeyError):
        await books.group.make(books.decides("c"))
    assert (books.told, books.engine, books.renewals) == ([], [], 2)


async def test_what_cannot_be_told_is_its_callers_alone(books: Books) -> None:
    """It is durable as the others are; the sessions end, so that devices ask what is new."""
    books.fail_tell = "b"
    came = await books.meanwhile(*map(books.decides, "abc"))
    assert [None, KeyError, None] == [type(each) if each else None for each in came]
    assert (books.told, books.stored[1]) == (["first", "a", "c"], ["a", "b", "c"])
    assert books.renewals == 1


async def test_an_error_of_many_shows_each_its_own_way(books: Books) -> None:
    """Its traceback does not grow with every caller."""
    books.fail_commit = StoreError("disk full")
    came = await asyncio.gather(
        *(books.group.make(books.decides(str(n))) for n in range(50)), return_exceptions=True
    )
    assert {books.fail_commit} == set(came)
    assert 10 > sum(1 for _ in traceback.walk_tb(books.fail_commit.__traceback__))


async def test_the_end_is_when_all_that_was_asked_for_is_made(books: Books) -> None:
    """Also what waits behind a transaction, and what is begun meanwhile."""
    books.free.clear()
    asked = [asyncio.create_task(books.group.make(books.decides("a")))]
    await asyncio.sleep(0)
    asked += [asyncio.create_task(books.group.make(books.decides(name))) for name in "bc"]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(books.free.set)
    await books.group.finish()
    assert books.stored == [["a"], ["b", "c"]]
    await books.group.finish()
    await asyncio.gather(*asked)


@pytest.mark.parametrize("stage", ["asked", "read", "commit", "written", "renew"])
async def test_whoever_is_cut_off_hears_of_it_and_the_next_one_goes_on(
    books: Books, stage: str
) -> None:
    """Wherever the worker is cancelled: nobody waits for ever, and nothing lost is told as made."""
    reached, never = asyncio.Event(), asyncio.Event()
    commit, begin_anew = books.commit, books.begin_anew

    async def stop() -> None:
        reached.set()
        await never.wait()

    async def reads(_: CoordinatorEngine) -> Reaction:
        await stop()
        raise AssertionError

    async def slow_commit(rows: list[StoreEffect]) -> None:
        if stage == "written":  # by a thread that nobody cancels
            await commit(rows)
        await stop()

    async def slow_renewal() -> None:
        await stop()

    if stage in {"commit", "written"}:
        books.group._commit = slow_commit
    elif stage == "renew":
        books.fail_commit, books.group._begin_anew = StoreError("full"), slow_renewal
    first = reads if stage == "read" else books.decides("a")
    callers = [asyncio.create_task(books.group.make(first))]
    if stage != "asked":  # then the worker has not begun
        await reached.wait()
    callers += [asyncio.create_task(books.group.make(books.decides(name))) for name in "bc"]
    await asyncio.sleep(0)
    worker = books.group._worker
    assert worker is not None
    worker.cancel()
    async with asyncio.timeout(5):
        came = await asyncio.gather(*callers, return_exceptions=True)
    assert [StoreError] * 3 == [type(each) for each in came]
    assert books.told == []
    books.fail_commit, books.group._commit, books.group._begin_anew = None, commit, begin_anew
    await books.group.make(books.decides("d"))
    before = ["a"] if stage == "written" else []
    assert ([*before, "d"], ["d"], 1) == (books.engine, books.told, books.renewals)
