"""Every record once, whichever disk brings it (rules D_1, O_1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.records import SpoolMark
from coordinator.spool_progress import SpoolProgress
from shared.decision.types import (
    ContextCount,
    IncarnationRange,
    LeaseClose,
    SpoolRecord,
    SpoolSummary,
)
from shared.errors import ProtocolError

BODY = LeaseClose(1, 0, clean=True, reason="")


def record(sequence: int, incarnation: str = "a") -> SpoolRecord:
    """Some record."""
    return SpoolRecord(sequence, incarnation, BODY)


def progress(*spool: tuple[str, int, int], marks: dict[str, int] | None = None) -> SpoolProgress:
    """Of a spool with these incarnations."""
    return SpoolProgress.of([IncarnationRange(*each) for each in spool], marks=marks or {})


@pytest.mark.parametrize(
    ("marks", "acked"),
    [
        pytest.param({}, 0, id="nothing is booked"),
        pytest.param({"a": 3}, 3, id="in the middle of the first"),
        pytest.param({"a": 5}, 5, id="all of the first"),
        pytest.param({"a": 9, "b": 7}, 7, id="the original went on with the first"),
        pytest.param({"a": 4, "b": 7}, 4, id="a later one is ahead"),
        pytest.param({"a": 5, "b": 8, "c": 10}, 10, id="everything"),
    ],
)
def test_a_session_goes_on_after_what_is_booked(marks: dict[str, int], acked: int) -> None:
    """Incarnation by incarnation, up to the first record that the books lack."""
    begun = progress(("a", 0, 5), ("b", 5, 8), ("c", 8, 10), marks=marks)
    assert (acked, acked == 10) == (begun.acked, begun.is_caught_up)


def test_the_spool_may_begin_late() -> None:
    """What was trimmed is booked."""
    assert 40 == progress(("a", 40, 50)).acked


def test_what_is_acked_stays_acked() -> None:
    """A part that is sent again, or was trimmed, is not booked again and takes no ack back."""
    for begun in (progress(("a", 0, 9), marks={"a": 5}), progress(("a", 5, 9))):
        after, fresh = begun.after([record(3), record(4), record(5)], device="pi")
        assert (5, [], []) == (after.acked, fresh, after.moved_since(begun, device_id="d1"))


@pytest.mark.parametrize(
    ("records", "is_next"),
    [
        pytest.param([record(4), record(5)], True, id="just goes on"),
        pytest.param([record(4)], True, id="one"),
        pytest.param([], False, id="nothing"),
        pytest.param([record(3), record(4)], False, id="begins with what is acked"),
        pytest.param([record(4), record(6)], False, id="a gap"),
        pytest.param([record(4), record(5, "b")], False, id="two incarnations"),
        pytest.param([record(4, "b")], False, id="another disk has told this one"),
        pytest.param([record(4, "unknown")], False, id="not announced"),
        pytest.param([SpoolRecord(4, "a", SpoolSummary(4, 4, (), ()))], False, id="a summary"),
    ],
)
def test_a_batch_that_just_goes_on_is_known_at_a_glance(
    records: list[SpoolRecord], is_next: bool
) -> None:
    """Tens of thousands of records a second are like that: only the others are looked at singly."""
    begun = progress(("a", 0, 5), ("b", 5, 9), marks={"a": 3, "b": 7})
    assert 3 == begun.acked
    assert (records if is_next else []) == begun._next(records)


def test_a_record_that_another_disk_brought_is_passed_over() -> None:
    """It is acked all the same."""
    begun = progress(("a", 0, 3), ("b", 3, 5), marks={"b": 4})
    after, fresh = begun.after([record(n, "ab"[n > 3]) for n in range(1, 6)], device="pi")
    assert [1, 2, 3, 5] == [each.sequence for each in fresh]
    assert (5, True) == (after.acked, after.is_caught_up)
    moved = [SpoolMark("d1", "a", 3), SpoolMark("d1", "b", 5)]
    assert moved == after.moved_since(begun, device_id="d1")


def test_a_summary_counts_from_its_first_sequence() -> None:
    """It leaves no gap."""
    summary = SpoolSummary(1, 9, ((1, 5),), (ContextCount("other", "tiny", 9),))
    after, fresh = progress(("a", 0, 9)).after([SpoolRecord(9, "a", summary)], device="pi")
    assert (9, 1) == (after.acked, len(fresh))


@pytest.mark.parametrize(
    ("mark", "doubled", "fresh"),
    [
        pytest.param(0, [], 1, id="nothing was told before"),
        pytest.param(2, [4], 1, id="a copy had told a part"),
        pytest.param(4, [], 0, id="a copy had told all of it"),
    ],
)
def test_a_summary_of_what_a_copy_told_in_part_is_said_to_count_twice(
    mark: int, doubled: list[int], fresh: int
) -> None:
    """It cannot be taken apart; what it costs is another question."""
    begun = progress(("a", 0, 4), marks={"a": mark})
    said: dict[int, str] = {}
    summary = SpoolRecord(4, "a", SpoolSummary(1, 4, ((1, 5),), ()))
    after, booked = begun.after([summary], device="pi", doubled=said)
    assert (4, fresh, doubled) == (after.acked, len(booked), list(said))
    assert all("of 1 to 2 are counted twice" in text for text in said.values())


def test_a_gap_is_an_error_unless_it_was_expected() -> None:
    """Restored books may be told of a time whose records the device no longer keeps."""
    begun, missing = progress(("a", 0, 9), marks={"a": 2}), list[str]()
    with pytest.raises(ProtocolError, match="sent sequence 5 after 2"):
        begun.after([record(5)], device="pi")
    after, _ = begun.after([record(5)], device="pi", missing=missing)
    assert 5 == after.acked
    assert ["device pi sent sequence 5 after 2: records are missing"] == missing


def test_an_incarnation_must_be_announced() -> None:
    """Its mark would not be known."""
    said = "device pi sent sequence 1 of the incarnation 'b', which its hello did not name"
    with pytest.raises(ProtocolError, match=said):
        progress(("a", 0, 0)).after([record(1, "b")], device="pi")


def test_what_is_acked_may_be_of_any_incarnation() -> None:
    """Of a disk that has trimmed it since, and is not asked for its mark."""
    begun = progress(("b", 5, 9))
    records = [record(4, "a"), record(5, "a"), record(6, "b")]
    after, fresh = begun.after(records, device="pi")
    assert (6, records[2:]) == (after.acked, fresh)


@given(
    acked=st.integers(0, 4),
    mark=st.integers(0, 6),
    told=st.lists(st.tuples(st.integers(1, 9), st.sampled_from("aab")), max_size=5),
)
def test_a_batch_is_what_its_records_are_one_by_one(
    acked: int, mark: int, told: list[tuple[int, str]]
) -> None:
    """Also where all are news, and nobody has to look at each of them."""
    begun = SpoolProgress(acked=acked, last=9, marks={"a": mark, "b": 0})
    records = [record(*each) for each in sorted(told)]
    gaps, single = list[str](), list[str]()
    together, fresh = begun.after(records, device="pi", missing=gaps)
    apart, found = begun, list[SpoolRecord]()
    for each in records:
        apart, new = apart.after([each], device="pi", missing=single)
        found += new
    assert (apart, found, single) == (together, fresh, gaps)


@given(
    common=st.integers(0, 8),
    alone=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    turns=st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=30),
)
def test_a_pair_of_disks_brings_every_record_once(
    common: int, alone: tuple[int, int], turns: list[tuple[bool, int]]
) -> None:
    """A disk is copied in mid-run: the copy has a part of the original's records, and its own."""
    original = [record(n) for n in range(1, common + alone[0] + 1)]
    copy = original[:common] + [record(common + n, "b") for n in range(1, alone[1] + 1)]
    spools = {
        False: (original, [IncarnationRange("a", 0, len(original))]),
        True: (copy, [IncarnationRange("a", 0, common), IncarnationRange("b", common, len(copy))]),
    }
    marks: dict[str, int] = {}
    booked: list[SpoolRecord] = []
    for which, size in [*turns, (False, 99), (True, 99)]:
        records, spool = spools[which]
        begun = SpoolProgress.of(spool, marks=marks)
        after, fresh = begun.after(records[begun.acked : begun.acked + size], device="pi")
        booked += fresh
        marks.update({mark.incarnation: mark.sequence
                      for mark in after.moved_since(begun, device_id="d1")})  # fmt: skip
    known = sorted((each.incarnation, each.sequence) for each in booked)
    expected = {(each.incarnation, each.sequence) for each in original + copy}
    assert sorted(expected) == known


@pytest.mark.parametrize(("mark", "doubled"), [(1, [4]), (3, [4]), (4, []), (0, [])])
def test_a_summary_counts_twice_only_if_a_part_of_it_is_booked(
    mark: int, doubled: list[int]
) -> None:
    """From its first record on; with its last one all of it is booked, and it is passed over."""
    begun = SpoolProgress(acked=0, last=4, marks={"a": mark})
    said: dict[int, str] = {}
    summary = SpoolRecord(4, "a", SpoolSummary(1, 4, ((1, 5),), ()))
    begun.after([summary], device="pi", doubled=said)
    assert doubled == list(said)
    begun.after([summary], device="pi")  # who does not ask is not told
