"""The selection table and the draw from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.decision.table import RankedRow, TableArm, TableRow
from shared.errors import InvariantError
from tests.fakes.samples import table

ROW = TableRow("other", (TableArm("a", 600_000, 1), TableArm("b", 300_000, 9), TableArm("c", 0, 5)))
ALL = ("a", "b", "c")


def test_arms_are_drawn_by_their_weights() -> None:
    """Over the unit interval each arm has a share as large as its weight, in the row's order."""
    row = TableRow("x", (*ROW.arms, TableArm("d", 100_000)))
    draws = [RankedRow(row).draw((*ALL, "d"), number / 1_000) for number in range(1_000)]
    assert ["a"] * 600 + ["b"] * 300 + ["d"] * 100 == [draw.arm for draw in draws if draw]


def test_the_propensity_is_the_chance_of_the_draw() -> None:
    """Weights that leave a rest are renormalised over all candidates."""
    first, last = RankedRow(ROW).draw(ALL, 0.0), RankedRow(ROW).draw(ALL, 0.999999)
    assert first is not None
    assert last is not None
    assert ("a", 666_666) == (first.arm, first.propensity_ppm)
    assert ("b", 333_333) == (last.arm, last.propensity_ppm)


def test_only_candidates_are_drawn() -> None:
    """An arm that fell out passes its weight to the others."""
    draw = RankedRow(ROW).draw(("b", "c"), 0.999999)
    assert draw is not None
    assert ("b", 1_000_000, ("c",)) == (draw.arm, draw.propensity_ppm, draw.fallbacks)


def test_the_fallbacks_of_an_arm_that_was_not_drawn_are_candidates_too() -> None:
    """A conversation that keeps its arm goes on with those that are left."""
    assert ("b",) == RankedRow(ROW).fallbacks(("b", "c"), of="c")


def test_fallbacks_follow_by_weight_then_by_reward() -> None:
    """The next best comes next; arms without weight come last, the better one first."""
    row = TableRow("x", (*ROW.arms, TableArm("d", 0, 8)))
    draw = RankedRow(row).draw(("a", "b", "c", "d"), 0.8)
    assert draw is not None
    assert ("b", ("a", "d", "c")) == (draw.arm, draw.fallbacks)


def test_arms_that_are_alike_follow_by_name() -> None:
    """The order in which a table lists its arms does not decide who stands in."""
    row = TableRow("x", (TableArm("first", 9, 1), TableArm("z", 5, 7), TableArm("y", 5, 7)))
    draw = RankedRow(row).draw(("first", "y", "z"), 0.0)
    assert draw is not None
    assert ("first", ("y", "z")) == (draw.arm, draw.fallbacks)


def test_without_weights_the_best_candidate_is_taken_for_sure() -> None:
    """Zeros, in the whole row or among the candidates, leave no request without an answer."""
    row = TableRow("x", (TableArm("a", 0, 1), TableArm("b", 0, 2), TableArm("c", 7, 0)))
    draw = RankedRow(row).draw(("a", "b"), 0.0)
    assert draw is not None
    assert ("b", 1_000_000, ("a",)) == (draw.arm, draw.propensity_ppm, draw.fallbacks)


def test_without_candidates_nothing_is_drawn() -> None:
    """An empty row and a row whose arms all fell out give None."""
    assert RankedRow(TableRow("x", ())).draw(ALL, 0.5) is None
    assert RankedRow(ROW).draw(("z",), 0.5) is None


@pytest.mark.parametrize("weights", [(600_000, 400_001), (-1, 5)])
def test_weights_beyond_a_million_or_below_zero_are_refused(weights: tuple[int, int]) -> None:
    """A row that could not be a distribution is a defect of whoever made it."""
    with pytest.raises(InvariantError, match="weights of row other"):
        TableRow("other", tuple(TableArm(str(weight), weight) for weight in weights))


def test_a_table_with_another_version_alone_decides_alike() -> None:
    """Version and date make no difference; a weight does, and a model to keep loaded."""
    one = table(version=1)
    assert one.same_choices(table(version=2))
    assert not one.same_choices(table(TableArm("cloud", 1)))
    assert not one.same_choices(replace(one, resident_arms=("tiny",)))


def test_a_row_is_found_by_its_task_class() -> None:
    """An unknown class has no row."""
    one = table(task_class="code")
    assert one.rows[0] == one.row("code")
    assert one.row("math") is None
