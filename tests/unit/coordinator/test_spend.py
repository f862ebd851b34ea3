"""Running totals by day, arm and tag."""

from __future__ import annotations

import pytest

from coordinator.records import SpendRow
from coordinator.spend import DAY_MS, OTHER_TAGS, SpendByDay
from shared.limits import ID_CHARS_MAX, NUMBER_MAX


def test_money_is_counted_by_day_arm_and_tag() -> None:
    """Only what has changed is put again, with its whole total."""
    spend = SpendByDay()
    spend.add(("large", "shop"), settled=5, unconfirmed=0, unix_ms=DAY_MS + 7)
    spend.add(("large", "shop"), settled=-2, unconfirmed=0, unix_ms=2 * DAY_MS - 1)
    spend.add(("large", ""), settled=1, unconfirmed=0, unix_ms=DAY_MS)
    assert [SpendRow(DAY_MS, "large", "", 1), SpendRow(DAY_MS, "large", "shop", 3)] == spend.take()
    spend.add(("large", ""), settled=1, unconfirmed=0, unix_ms=DAY_MS)
    assert [SpendRow(DAY_MS, "large", "", 2)] == spend.take()
    assert [] == spend.take()


def test_a_new_day_begins_with_nothing() -> None:
    """What the day before came to is still put, if nobody has taken it."""
    spend = SpendByDay()
    spend.add(("large", "a"), settled=1, unconfirmed=0, unix_ms=0)
    spend.add(("large", "a"), settled=2, unconfirmed=0, unix_ms=DAY_MS)
    assert [SpendRow(0, "large", "a", 1), SpendRow(DAY_MS, "large", "a", 2)] == spend.take()


def test_unconfirmed_money_is_nobodys_until_it_is_explained() -> None:
    """Then it is settled for an arm, and is missing where it was."""
    spend = SpendByDay()
    spend.add(("large", "shop"), settled=0, unconfirmed=9, unix_ms=0)
    assert [SpendRow(0, "", "", 0, 9)] == spend.take()
    spend.add(("large", "shop"), settled=4, unconfirmed=-4, unix_ms=0)
    assert [SpendRow(0, "", "", 0, 5), SpendRow(0, "large", "shop", 4)] == spend.take()


def test_totals_go_on_after_a_start_and_a_step_of_the_clock() -> None:
    """No day of the books is begun again."""
    spend = SpendByDay([SpendRow(DAY_MS, "large", "shop", 3), SpendRow(DAY_MS, "", "", 0, 1)])
    assert [] == spend.take()
    spend.add(("large", "shop"), settled=1, unconfirmed=0, unix_ms=5)
    assert [SpendRow(DAY_MS, "large", "shop", 4)] == spend.take()


def test_a_device_that_makes_up_tags_fills_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day has so many lines; what is unconfirmed keeps its own, and no money is lost."""
    monkeypatch.setattr("coordinator.spend.SPEND_LINES_PER_DAY_MAX", 2)
    spend = SpendByDay()
    for number in range(5):
        spend.add(("large", f"tag-{number}"), settled=1, unconfirmed=1, unix_ms=0)
    spend.add(("large", "tag-0"), settled=1, unconfirmed=0, unix_ms=0)
    rows = {(row.arm, row.tag): row for row in spend.take()}
    assert {("", ""): 0, ("", OTHER_TAGS): 4, ("large", "tag-0"): 2} == {
        label: row.settled_nanos for label, row in rows.items()
    }
    assert 5 == rows["", ""].unconfirmed_nanos


def test_unconfirmed_money_has_its_line_on_a_full_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken from there when it is explained, so it must not be mixed with tags."""
    monkeypatch.setattr("coordinator.spend.SPEND_LINES_PER_DAY_MAX", 1)
    spend = SpendByDay()
    spend.add(("large", "shop"), settled=1, unconfirmed=0, unix_ms=0)
    spend.add(("large", "shop"), settled=0, unconfirmed=2, unix_ms=0)
    assert [SpendRow(0, "", "", 0, 2), SpendRow(0, "large", "shop", 1)] == spend.take()


def test_a_name_is_counted_as_the_books_keep_it() -> None:
    """A NUL stands in no text of PostgreSQL: the total must be found again after a start."""
    spend = SpendByDay()
    spend.add(("large", "a\x00"), settled=1, unconfirmed=0, unix_ms=0)
    again = SpendByDay(spend.take())
    again.add(("large", "a\x00"), settled=1, unconfirmed=0, unix_ms=0)
    assert [SpendRow(0, "large", "a\ufffd", 2)] == again.take()


def test_a_label_and_its_total_fit_the_books_whatever_devices_say() -> None:
    """A long tag is cut, and counts on as one; a total stays within 64 bits, either way."""
    spend = SpendByDay()
    for sign in (1, -1):
        label = ("large", f"{sign}".zfill(2) + "a" * 9_000)
        for _ in range(2):
            spend.add(label, settled=sign * NUMBER_MAX, unconfirmed=0, unix_ms=0)
    tags = [f"{sign}".zfill(2) + "a" * (ID_CHARS_MAX - 2) for sign in (-1, 1)]
    totals = (-NUMBER_MAX, NUMBER_MAX)
    assert [SpendRow(0, "large", *row) for row in zip(tags, totals, strict=True)] == spend.take()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_total_at_its_limit_stays_there(sign: int) -> None:
    """What came beyond is not counted, so what goes again is not either; that a row may tell."""
    spend = SpendByDay()
    for nanos in (NUMBER_MAX - 1, 5, -7):
        spend.add(("large", "a"), settled=sign * nanos, unconfirmed=0, unix_ms=0)
    again = SpendByDay(spend.take())
    again.add(("large", "a"), settled=-7 * sign, unconfirmed=0, unix_ms=0)
    assert [SpendRow(0, "large", "a", sign * NUMBER_MAX)] == again.take()
