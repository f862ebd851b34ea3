"""What waits for room on the disk stays small, and loses neither money nor demand (O_2, O_3)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    CompactSpool,
    DropLease,
    DropReservation,
    MetaKey,
    PutMeta,
    PutReservation,
    TrimSpool,
)
from edge_agent.unwritten import merged
from shared.decision.lease import ReservationRow
from shared.decision.types import (
    LeaseClose,
    Outcome,
    SettleKind,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
)
from tests.fakes.memory_books import BooksState
from tests.unit.edge_agent.test_outbox import paid

CLOSE = LeaseClose(1, 0, clean=True, reason="")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.unwritten.UNWRITTEN_RECORDS_MAX", 4)


def append(sequence: int, body: SpoolBody | None = None, *, by: str = "i") -> AppendSpool:
    """A record; an outcome that cost as many nanos as its sequence unless told otherwise."""
    outcome = paid(f"r{sequence}", lease=1, cost=sequence, settle=SettleKind.REPORTED)
    return AppendSpool(SpoolRecord(sequence, by, body or outcome))


def shape(effects: Sequence[BookEffect]) -> list[tuple[int, int]]:
    """The sequences of each spool record among these."""
    return [
        (effect.first if isinstance(effect, CompactSpool) else effect.record.sequence,
         effect.record.sequence)
        for effect in effects
        if isinstance(effect, AppendSpool | CompactSpool)
    ]  # fmt: skip


def test_the_last_word_on_each_row_stays() -> None:
    """A reservation that was made and settled meanwhile is gone; facts are as they were last."""
    row = ReservationRow("a", "r", "cloud", 1, 5, "other", 0)
    effects: list[BookEffect] = [
        PutMeta(MetaKey.PLACE, "old"),
        PutReservation(row),
        DropLease(1),
        TrimSpool(3),
        PutMeta(MetaKey.PLACE, "new"),
        DropReservation("a"),
        TrimSpool(5),
    ]
    kept = {TrimSpool(5), PutMeta(MetaKey.PLACE, "new"), DropReservation("a"), DropLease(1)}
    assert (kept, 4) == (set(merged(effects)), len(merged(effects)))


def test_a_few_records_stay_as_they_are() -> None:
    """Summaries say less than outcomes do."""
    effects = [append(n) for n in range(1, 5)]
    assert effects == merged(effects)


def test_many_records_become_summaries_around_what_must_stay() -> None:
    """Closes keep their place, each incarnation has its own, and a gap is left alone."""
    bodies = [None, None, CLOSE, None, None, None]
    effects = [append(n, body) for n, body in enumerate(bodies, start=10)]
    effects += [append(16, by="j"), append(17, by="j"), append(20, by="j")]
    assert [(10, 11), (12, 12), (13, 15), (16, 17), (20, 20)] == shape(merged(effects))


def test_what_comes_later_joins_the_summary() -> None:
    """Round after round, so that a disk may stay full for ever."""
    kept: list[BookEffect] = []
    for n in range(1, 101):
        kept = merged([*kept, append(n)])
        assert len(kept) <= 5
    (summary, *rest) = merged(kept)
    assert isinstance(summary, CompactSpool)
    assert isinstance(summary.record.body, SpoolSummary)
    assert (1, 100) == (summary.first, summary.record.sequence + len(rest))


def test_a_summary_of_what_is_written_is_not_stretched_over_what_is_not_named() -> None:
    """The spool was being compacted when the disk filled up: the records in between stay."""
    old = SpoolSummary(2, 4, ((1, 7),), ())
    effects: list[BookEffect] = [append(n) for n in range(8, 13)]
    effects += [CompactSpool(2, SpoolRecord(4, "i", old))]
    assert [(2, 4), (8, 12)] == shape(merged(effects))


@pytest.mark.parametrize("seed", range(20))
def test_money_and_demand_are_those_of_the_effects_one_by_one(seed: int) -> None:
    """However the rounds fall, the books end with the same sums and the same last sequence."""
    rng = random.Random(seed)
    effects: list[BookEffect] = [
        append(n, CLOSE if rng.random() < 0.2 else None) for n in range(1, 60)
    ]
    kept: list[BookEffect] = []
    for effect in effects:
        kept.append(effect)
        if rng.random() < 0.4:
            kept = merged(kept)
    assert sums(effects) == sums(kept)
    assert len(kept) < len(effects)


def sums(effects: Sequence[BookEffect]) -> tuple[dict[int, int], int, int, int]:
    """What books hold after these: cost per lease, requests, closes and the last sequence."""
    state = BooksState()
    state.check(effects)
    state.apply(effects)
    costs: Counter[int] = Counter()
    requests = closes = 0
    for record in state.spool.values():
        match record.body:
            case Outcome() as outcome:
                requests += 1
                costs.update({each.lease_number: each.cost_nanos for each in outcome.attempts})
            case SpoolSummary() as summary:
                requests += sum(count.requests for count in summary.counts)
                costs.update(dict(summary.costs))
            case LeaseClose():
                closes += 1
    return costs, requests, closes, state.spool_last
