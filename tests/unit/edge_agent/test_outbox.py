"""The positions of the outbox: spooled, sent, acked, trimmed (rules C_5, O_2)."""

from __future__ import annotations

import json

import pytest

from edge_agent.books import (
    AppendSpool,
    BooksSnapshot,
    CompactSpool,
    MetaKey,
    PutMeta,
    TrimSpool,
)
from edge_agent.outbox import Outbox
from shared.decision.types import (
    Attempt,
    ContextCount,
    CostAdjustment,
    Feedback,
    IncarnationRange,
    JudgeCall,
    LeaseClose,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
)
from shared.limits import RETAIN_ACKED_MS, RETAIN_ACKED_RECORDS_MAX
from tests.fakes.memory_books import BooksState

BODY = LeaseClose(1, 0, clean=True, reason="")


def outbox(records: int = 0, *, snapshot: BooksSnapshot | None = None) -> Outbox:
    """An outbox of incarnation `inc`, with so many records."""
    box = Outbox(incarnation="inc", snapshot=snapshot or BooksSnapshot())
    for _ in range(records):
        box.spool(BODY)
    return box


def test_sequences_rise_by_one() -> None:
    """Every record has the next number and its incarnation."""
    box = outbox(1)
    (effect,) = box.spool(BODY)
    assert isinstance(effect, AppendSpool)
    assert (2, "inc", 2) == (effect.record.sequence, effect.record.incarnation, box.last)


def test_sequences_go_on_after_a_restart() -> None:
    """They belong to the device, and rise over all its incarnations."""
    meta = {MetaKey.SEQUENCE_ACKED: "5", MetaKey.SEQUENCE_SENT_MAX: "7"}
    box = outbox(snapshot=BooksSnapshot(meta=meta, spool_first=3, spool_last=9))
    assert (9, 5, 7, 4) == (box.last, box.acked, box.sent_max, box.waiting)


def test_the_mark_of_what_was_sent_only_rises() -> None:
    """It is asked for before the first sending, and kept once it is synced."""
    box = outbox(5)
    mark = PutMeta(MetaKey.SEQUENCE_SENT_MAX, "3")
    assert [mark] == box.sending(3)
    assert [mark] == box.sending(3), "the first try was not synced"
    box.sent(3)
    assert ([], []) == (box.sending(2), box.sending(3))
    box.sent(2)
    assert 3 == box.sent_max


def test_each_incarnation_has_its_records() -> None:
    """The hello names them, so that a record is known by its incarnation and sequence."""
    box, state = outbox(2), BooksState()
    state.apply(box.begin())
    later = Outbox(
        incarnation="inc-2",
        snapshot=BooksSnapshot(meta=state.meta, spool_first=1, spool_last=2),
    )
    later.spool(BODY)
    assert (
        IncarnationRange("inc", 0, 2),
        IncarnationRange("inc-2", 2, 3),
    ) == later.incarnations()


def test_an_incarnation_is_forgotten_with_its_last_record() -> None:
    """Those that left nothing too, but for the latest: it shows what a disk was like."""
    began = [["a", 0], ["b", 4], ["c", 4], ["d", 6], ["e", 6]]
    meta = {MetaKey.INCARNATIONS: json.dumps(began)}
    box = outbox(snapshot=BooksSnapshot(meta=meta, spool_first=5, spool_last=6))
    (effect,) = box.begin()
    kept = [["c", 4], ["e", 6], ["inc", 6]]
    assert PutMeta(MetaKey.INCARNATIONS, json.dumps(kept)) == effect
    assert ["c", "e", "inc"] == [each.incarnation for each in box.incarnations()]


def test_an_empty_spool_holds_nothing_of_older_incarnations() -> None:
    """Only the two latest are told: they show what the disk was like."""
    meta = {MetaKey.INCARNATIONS: json.dumps([["a", 0], ["b", 4], ["c", 4]])}
    box = outbox(snapshot=BooksSnapshot(meta=meta, spool_first=0, spool_last=4))
    assert ["c", "inc"] == [each.incarnation for each in box.incarnations()]


def test_an_ack_counts_once() -> None:
    """An ack that is repeated, or late, changes nothing."""
    box = outbox(5)
    assert [PutMeta(MetaKey.SEQUENCE_ACKED, "4")] == box.ack(4, boot_ms=1)
    assert [] == box.ack(4, boot_ms=2)
    assert [] == box.ack(3, boot_ms=2)
    assert 1 == box.waiting


def paid(request_id: str, *, lease: int, cost: int, settle: SettleKind) -> Outcome:
    """A request that the cloud answered."""
    attempt = Attempt("cloud", 5, "", lease, 100, cost, settle)
    return Outcome(request_id, "code", 0, RequestStatus.OK, "cloud", "cloud", 1_000_000, 1, "table",
                   forced=False, attempts=(attempt,))  # fmt: skip


def test_a_summary_keeps_costs_and_counts() -> None:
    """What was released or sent is not in it; a close keeps its place and its words.

    A judge's call is a cost and no request.
    """
    box = outbox()
    bodies: list[SpoolBody] = [
        paid("a", lease=1, cost=9, settle=SettleKind.REPORTED),
        paid("b", lease=1, cost=30, settle=SettleKind.REPORTED),
        paid("c", lease=2, cost=5, settle=SettleKind.UNKNOWN),
        paid("f", lease=1, cost=6, settle=SettleKind.REPORTED),
        paid("d", lease=2, cost=7, settle=SettleKind.RELEASED),
        JudgeCall("c.judge", Attempt("judge", 5, "", 2, 100, 8, SettleKind.RELEASED)),
        Feedback("b", "code", "cloud", 1, "user", 0),
        JudgeCall("b.judge", Attempt("judge", 5, "", 2, 9, 3, SettleKind.REPORTED)),
        LeaseClose(1, 45, clean=True, reason=""),
        paid("e", lease=2, cost=1, settle=SettleKind.REPORTED),
    ]
    records = [effect.record for body in bodies for effect in box.spool(body)]  # type: ignore[union-attr]
    box.sent(1)
    (effect,) = box.compact(records)
    summary = SpoolSummary(2, 8, ((1, 36), (2, 8)), (ContextCount("code", "cloud", 4),))
    assert CompactSpool(2, SpoolRecord(8, "inc", summary)) == effect


def test_what_may_be_booked_already_is_never_compacted() -> None:
    """Nor are closes and corrections: each says something of its own lease."""
    box = outbox()
    bodies: list[SpoolBody] = [
        paid("a", lease=1, cost=9, settle=SettleKind.REPORTED),
        paid("b", lease=1, cost=30, settle=SettleKind.REPORTED),
        CostAdjustment("a", 1, -3, "usage came late"),
        LeaseClose(1, 36, clean=True, reason=""),
    ]
    records = [effect.record for body in bodies for effect in box.spool(body)]  # type: ignore[union-attr]
    box.sent(2)
    assert [] == box.compact(records)


def test_an_overrun_is_never_compacted() -> None:
    """The coordinator closes its arm everywhere by the attempt alone (rule S_4)."""
    box = outbox()
    costs = (9, 101, 8, 7)
    bodies = [paid("r", lease=1, cost=cost, settle=SettleKind.REPORTED) for cost in costs]
    records = [effect.record for body in bodies for effect in box.spool(body)]  # type: ignore[union-attr]
    (effect,) = box.compact(records)
    summary = SpoolSummary(3, 4, ((1, 15),), (ContextCount("code", "cloud", 2),))
    assert CompactSpool(3, SpoolRecord(4, "inc", summary)) == effect


def test_the_overrun_of_a_judge_is_never_compacted_either() -> None:
    """It is a paid call like any other."""
    box = outbox()
    bodies: list[SpoolBody] = [
        JudgeCall(f"{cost}.judge", Attempt("judge", 5, "", 1, 100, cost, SettleKind.REPORTED))
        for cost in (9, 101, 8, 7)
    ]
    records = [effect.record for body in bodies for effect in box.spool(body)]  # type: ignore[union-attr]
    (effect,) = box.compact(records)
    assert CompactSpool(3, SpoolRecord(4, "inc", SpoolSummary(3, 4, ((1, 15),), ()))) == effect


def test_summaries_are_compacted_again() -> None:
    """Costs and counts add up, and the range begins with the first one's."""
    first = SpoolSummary(2, 5, ((1, 30),), (ContextCount("code", "cloud", 3),))
    again = (ContextCount("code", "", 2), ContextCount("code", "cloud", 4))
    second = SpoolSummary(6, 9, ((1, 4), (3, 1)), again)
    records = [SpoolRecord(5, "inc", first), SpoolRecord(9, "inc", second)]
    (effect,) = outbox().compact(records)
    counts = (ContextCount("code", "", 2), ContextCount("code", "cloud", 7))
    both = SpoolSummary(2, 9, ((1, 34), (3, 1)), counts)
    assert CompactSpool(2, SpoolRecord(9, "inc", both)) == effect


def test_a_summary_is_of_one_incarnation() -> None:
    """What two of them left unsent is told apart, for each has a mark of its own."""
    box = outbox()
    body = paid("a", lease=1, cost=9, settle=SettleKind.REPORTED)
    records = [SpoolRecord(n, "old" if n < 3 else "inc", body) for n in range(1, 5)]
    effects = box.compact(records)
    ranges = [(e.first, e.record.sequence, e.record.incarnation) for e in effects
              if isinstance(e, CompactSpool)]  # fmt: skip
    assert [(1, 2, "old"), (3, 4, "inc")] == ranges


def test_a_spool_is_overfull_by_what_waits_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent, or compacted before, does not count; nor what another disk brought."""
    monkeypatch.setattr("edge_agent.outbox.SPOOL_RECORDS_MAX", 3)
    box = outbox(3)
    assert None is box.overfull_after()
    records = [e.record for _ in range(3) for e in box.spool(BODY)]  # type: ignore[union-attr]
    assert 0 == box.overfull_after()
    box.sent(1)
    assert 1 == box.overfull_after()
    box.ack(2, boot_ms=0)
    assert 2 == box.overfull_after()
    box.compact(records[:1])
    assert None is box.overfull_after()
    box.spool(BODY)
    box.spool(BODY)
    assert 4 == box.overfull_after()
    box.compact([])
    assert 4 == box.overfull_after()


def test_acked_records_are_kept_for_a_day() -> None:
    """A coordinator that was restored from a backup can be told again (rule C_5)."""
    box = outbox(5)
    box.ack(2, boot_ms=500)
    box.ack(4, boot_ms=100_000)
    assert [] == box.trim(boot_ms=500 + RETAIN_ACKED_MS - 1)
    assert [TrimSpool(2)] == box.trim(boot_ms=100_000 + RETAIN_ACKED_MS - 1)
    assert [TrimSpool(4)] == box.trim(boot_ms=100_000 + RETAIN_ACKED_MS)
    assert [] == box.trim(boot_ms=100_000 + RETAIN_ACKED_MS)


def test_the_acks_of_a_minute_have_their_own_day() -> None:
    """Also right after the start of the machine, when its clock shows next to nothing."""
    box = outbox(10)
    box.ack(2, boot_ms=0)
    box.ack(3, boot_ms=59_999)
    box.ack(9, boot_ms=60_000)
    assert [] == box.trim(boot_ms=59_999 + RETAIN_ACKED_MS - 1)
    assert [TrimSpool(3)] == box.trim(boot_ms=59_999 + RETAIN_ACKED_MS)
    assert [TrimSpool(9)] == box.trim(boot_ms=60_000 + RETAIN_ACKED_MS)


def test_acks_take_no_more_memory_than_one_mark_a_minute() -> None:
    """And none for what is trimmed; a device is acked many times a second, for months."""
    box = outbox(RETAIN_ACKED_RECORDS_MAX + 100)
    for sequence in range(1, 50):
        box.ack(sequence, boot_ms=60_000 + sequence)
    assert 1 == len(box._acked_at)
    box.ack(60, boot_ms=120_000)
    assert 2 == len(box._acked_at)
    box.ack(RETAIN_ACKED_RECORDS_MAX + 59, boot_ms=180_000)
    assert 2 == len(box._acked_at)
    box.ack(RETAIN_ACKED_RECORDS_MAX + 60, boot_ms=240_000)
    assert 2 == len(box._acked_at)


def test_what_was_acked_before_a_restart_is_kept_for_a_day_after_it() -> None:
    """When it was acked is not known any more; it goes, also if nothing else is acked."""
    meta = {MetaKey.SEQUENCE_ACKED: "5"}
    box = outbox(snapshot=BooksSnapshot(meta=meta, spool_first=3, spool_last=9))
    assert [] == box.trim(boot_ms=7)
    assert [] == box.trim(boot_ms=7 + RETAIN_ACKED_MS - 1)
    assert [TrimSpool(5)] == box.trim(boot_ms=7 + RETAIN_ACKED_MS)


def test_the_last_record_always_stays() -> None:
    """From it the next sequence is told, even if everything is acked and old."""
    box = outbox(5)
    box.ack(5, boot_ms=0)
    assert [TrimSpool(4)] == box.trim(boot_ms=RETAIN_ACKED_MS)


def test_unacked_records_are_never_trimmed() -> None:
    """However old."""
    box = outbox(5)
    assert [] == box.trim(boot_ms=10 * RETAIN_ACKED_MS)


def test_the_kept_records_are_bounded() -> None:
    """Beyond the limit the oldest acked records go early, and the others in their time."""
    box = outbox(RETAIN_ACKED_RECORDS_MAX + 10)
    box.ack(3, boot_ms=1)
    assert TrimSpool(7) == box.ack(RETAIN_ACKED_RECORDS_MAX + 7, boot_ms=5)[-1]
    assert [] == box.trim(boot_ms=5)
    last = box.ack(RETAIN_ACKED_RECORDS_MAX + 8, boot_ms=5 + RETAIN_ACKED_MS)[-1]
    assert TrimSpool(RETAIN_ACKED_RECORDS_MAX + 7) == last


def test_the_bound_holds_also_when_some_of_it_is_old() -> None:
    """Whatever trims more."""
    box = outbox(RETAIN_ACKED_RECORDS_MAX + 10)
    box.ack(2, boot_ms=0)
    assert TrimSpool(7) == box.ack(RETAIN_ACKED_RECORDS_MAX + 7, boot_ms=RETAIN_ACKED_MS)[-1]
