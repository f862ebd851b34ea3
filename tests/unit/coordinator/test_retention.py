"""Outcomes go after their days, counted from their booking by the coordinator's own clock."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.records import JoinTokenRow, SettingKey
from coordinator.registry import digest
from coordinator.retention import DAY_MS, RetentionMarks
from coordinator.service import CoordinatorService
from coordinator.sessions import Reaction
from shared.errors import AuthenticationError, LostLeadershipError
from tests.fakes.memory_store import MemoryStore
from tests.unit.coordinator.test_commit_then_speak import CountingIds, StoppedClock
from tests.unit.coordinator.test_fleet_flow import NOW, Fleet, paid


def test_a_note_is_taken_once_a_day() -> None:
    """However often a slot ends."""
    marks = RetentionMarks().noted(position=5, outcomes_days=9, unix_ms=0)
    assert marks is marks.noted(position=9, outcomes_days=9, unix_ms=DAY_MS - 1)
    later = marks.noted(position=9, outcomes_days=9, unix_ms=DAY_MS)
    assert ((0, 5), (DAY_MS, 9)) == later.marks
    assert later == RetentionMarks.from_json(later.to_json())


def test_what_was_booked_before_an_old_note_has_had_its_time() -> None:
    """A row stays for its days, and for at most one day more."""
    marks = RetentionMarks(((0, 5), (DAY_MS, 9)))
    assert 0 == marks.outlived(outcomes_days=2, unix_ms=2 * DAY_MS - 1)
    assert 5 == marks.outlived(outcomes_days=2, unix_ms=2 * DAY_MS)
    assert 9 == marks.outlived(outcomes_days=2, unix_ms=3 * DAY_MS)
    assert 0 == RetentionMarks().outlived(outcomes_days=1, unix_ms=9 * DAY_MS)


def test_the_notes_do_not_pile_up() -> None:
    """Of those that have had their time only the last is of use."""
    marks = RetentionMarks()
    for day in range(400):
        marks = marks.noted(position=day, outcomes_days=3, unix_ms=day * DAY_MS)
    assert 4 == len(marks.marks)
    assert 396 == marks.outlived(outcomes_days=3, unix_ms=399 * DAY_MS)


def test_old_outcomes_leave_the_books_and_the_ledger_stays() -> None:
    """From the engine's notes to the store, while the service is at work."""
    fleet = Fleet()
    fleet.hello()
    fleet.sync()
    number = fleet.lease().lease_number
    fleet.report(paid("old", lease=number, cost=10))
    fleet.report(paid("young", lease=number, cost=10))
    fleet.tick(later_ms=11_000)
    assert fleet.store.database.settings[SettingKey.RETENTION_MARKS], "noted with the plan"
    fleet.engine.retention = RetentionMarks(((fleet.now - 90 * DAY_MS, 1),))
    ledger = list(fleet.store.database.ledger)

    async def prune() -> list[int]:
        service = CoordinatorService(fleet.store, clock=_At(fleet.now), ids=CountingIds())
        service.engine = fleet.engine
        gone = [await service._prune(), await service._prune()]
        await service.stop()
        return gone

    assert [1, 0] == asyncio.run(prune())
    left = [decision.outcome.outcome.request_id for decision in fleet.store.decisions(limit=9)]
    assert ["young"] == left
    assert ledger == fleet.store.database.ledger[: len(ledger)]


async def test_join_tokens_and_audit_do_not_pile_up() -> None:
    """They go after the same days, from the books and from memory."""
    fleet = Fleet()
    days = 90 * DAY_MS
    old = JoinTokenRow(digest("old"), "pi", NOW, NOW + 60_000, used_by="dev")
    fleet.now = NOW + 60_000 + days + 1
    young = JoinTokenRow(digest("young"), "pi", fleet.now - days, fleet.now - days)
    for token in (old, young):
        fleet.does(Reaction(effects=[fleet.engine.registry.add_join_token(token)]))
    database = fleet.store.database
    assert database.audit, "of the configuration"
    service = CoordinatorService(fleet.store, clock=_At(fleet.now), ids=CountingIds())
    service.engine = fleet.engine
    await service._prune()
    await service.stop()
    assert ([young], []) == (list(database.join_tokens.values()), database.audit)
    for secret, why in (("old", "not known"), ("young", "expired")):
        with pytest.raises(AuthenticationError, match=why):
            fleet.engine.registry.join(
                device_id="d", name="n", device_class="pi",
                token=secret, credential="c", unix_ms=fleet.now,
            )  # fmt: skip


async def test_a_deposed_coordinator_ends_over_its_pruning() -> None:
    """As over any other write: another one is the writer now."""
    store = MemoryStore()
    store.open()
    service = CoordinatorService(store, clock=StoppedClock(), ids=CountingIds())

    def refuse(*, position: int, before_unix_ms: int, limit: int) -> int:
        raise LostLeadershipError("epoch 2, not 1")

    store.prune = refuse  # type: ignore[method-assign]
    service.engine = Fleet().engine
    service.engine.retention = RetentionMarks(((0, 9),))
    service._clock = _At(NOW + 100 * DAY_MS)
    with pytest.raises(LostLeadershipError):
        await asyncio.wait_for(service._prune_for_ever(), 10)


class _At(StoppedClock):
    """A clock that shows a given time."""

    def __init__(self, now: int) -> None:
        self._now = now

    def unix_ms(self) -> int:
        return self._now
