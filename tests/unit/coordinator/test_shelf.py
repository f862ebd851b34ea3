"""Which tables are in force, kept and pinned; and what devices get to know of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

import pytest

from coordinator.messages import TableSent
from coordinator.records import (
    EarlierTable,
    PutSetting,
    SettingKey,
    StoreEffect,
    TableRowStored,
)
from coordinator.shelf import EARLIER_TABLES_MAX, TableShelf
from shared.decision.table import SelectionTable, TableArm
from shared.errors import ConflictError, NotFoundError
from tests.fakes.memory_store import MemoryStore
from tests.fakes.samples import table
from tests.unit.coordinator.test_fleet_flow import Fleet, only

SLOT_MS = 10_000


def made(version: int) -> SelectionTable:
    """The table of a slot; each decides otherwise than the last."""
    row = (TableArm("cloud", version), TableArm("tiny", 0))
    return replace(table(*row, version=version), created_unix_ms=version * SLOT_MS)


class Keeper:
    """A shelf with its store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.store.open()
        self.shelf = self.reopened()

    def reopened(self) -> TableShelf:
        """The shelf as the next process finds it."""
        loaded = self.store.load()
        return TableShelf(
            in_force=loaded.tables,
            earlier=loaded.earlier_tables,
            pins=loaded.settings.get(SettingKey.TABLE_PINS, ""),
        )

    def does(self, effects: Iterable[StoreEffect]) -> None:
        """Commit, and check that a restart would find the same."""
        self.store.commit(list(effects))
        other = self.reopened()
        assert self.shelf.in_force == other.in_force
        assert self.shelf.pins == other.pins
        for name in self.shelf.in_force:
            assert self.shelf.earlier(name) == other.earlier(name)
        assert self.shelf.next_version == other.next_version


def test_the_tables_before_the_one_in_force_are_kept() -> None:
    """Newest first, each of them whole in the store."""
    keeper = Keeper()
    for version in (1, 2, 3):
        keeper.does(keeper.shelf.put(made(version)))
    assert made(3) == keeper.shelf.in_force["edge"]
    assert [2, 1] == [each.version for each in keeper.shelf.earlier("edge")]
    assert [made(n) for n in (1, 2, 3)] == [
        keeper.store.table("edge", version=n) for n in (1, 2, 3)
    ]


def test_an_earlier_table_comes_back_in_exchange_for_the_present_one() -> None:
    """And the versions go on rising above both."""
    keeper = Keeper()
    for version in (1, 2, 3):
        keeper.does(keeper.shelf.put(made(version)))
    keeper.does(keeper.shelf.take_back(made(1)))
    assert made(1) == keeper.shelf.in_force["edge"]
    assert [3, 2] == [each.version for each in keeper.shelf.earlier("edge")]
    assert 4 == keeper.shelf.next_version
    keeper.does(keeper.shelf.put(made(4)))
    assert [3, 2, 1] == [each.version for each in keeper.shelf.earlier("edge")]


def test_the_number_of_kept_tables_is_bounded_and_they_reach_far_back() -> None:
    """Close together lately, ever farther apart before; the first one and the last stay."""
    keeper = Keeper()
    for version in range(1, 1_001):
        keeper.store.commit(keeper.shelf.put(made(version)))
    keeper.does([])
    versions = [each.version for each in keeper.shelf.earlier("edge")]
    assert EARLIER_TABLES_MAX == len(versions) == len(keeper.store.database.tables) - 1
    assert (999, 998, 1) == (versions[0], versions[1], versions[-1])
    ages = [1_000 - version for version in versions]
    assert all(later <= 2 * sooner + 2 for sooner, later in itertools.pairwise(ages))


def test_a_pin_survives_a_restart() -> None:
    """With who said so and since when."""
    keeper = Keeper()
    keeper.does(keeper.shelf.put(made(1)))
    keeper.does([keeper.shelf.pin("edge", unix_ms=5, actor="ann")])
    pin = keeper.reopened().pins["edge"]
    assert (1, 5, "ann") == (pin.version, pin.since_unix_ms, pin.actor)
    keeper.does([keeper.shelf.unpin("edge")])
    assert {} == keeper.reopened().pins


class TestFleetTables:
    """Pins before the engine, with a device that is connected."""

    @pytest.fixture
    def fleet(self) -> Fleet:
        """A device in session, and two tables."""
        fleet = Fleet()
        fleet.hello()
        fleet.sync()
        self.disable(fleet, True)
        return fleet

    def disable(self, fleet: Fleet, disabled: bool) -> list[SelectionTable]:
        """Make the plan another one; the tables that the device was sent."""
        reaction = fleet.engine.set_arm_enabled(
            "large", not disabled, actor="op", unix_ms=fleet.now
        )
        return [each.table for each in only(TableSent, fleet.does(reaction))]

    def test_a_pinned_table_is_not_replaced_while_planning_goes_on(self, fleet: Fleet) -> None:
        """Also after a restart; what was planned meanwhile comes when it is unpinned."""
        before = fleet.engine.tables["pi"]
        fleet.does(fleet.engine.pin_table("pi", table=None, actor="ann", unix_ms=fleet.now))
        assert [] == self.disable(fleet, False)
        fleet.restart()
        fleet.hello()
        assert [] == only(TableSent, fleet.tick(later_ms=60_000))
        assert fleet.engine.planner is not None
        assert fleet.engine.planner.planned is not None
        assert before == fleet.engine.tables["pi"]

        messages = fleet.does(fleet.engine.unpin_table("pi", actor="ann", unix_ms=fleet.now))
        (sent,) = only(TableSent, messages)
        assert {"tiny", "large"} == {arm.arm for row in sent.table.rows for arm in row.arms}
        assert sent.table.version > before.version

    def test_a_rollback_puts_an_earlier_table_back_and_pins_it(self, fleet: Fleet) -> None:
        """The device decides by it at once, under its old version; the audit says who."""
        (old,) = fleet.engine.shelf.earlier("pi")
        kept = fleet.store.table("pi", version=old.version)
        messages = fleet.does(
            fleet.engine.pin_table("pi", table=kept, actor="ann", unix_ms=fleet.now)
        )
        assert [kept] == [each.table for each in only(TableSent, messages)]
        assert old.version == fleet.engine.shelf.pins["pi"].version
        audit = fleet.store.database.audit[-1]
        assert ("ann", "table rollback") == (audit.actor, audit.action)
        fleet.restart()
        (again,) = only(TableSent, fleet.hello())
        assert kept == again.table

    def test_what_is_not_there_is_neither_pinned_nor_unpinned(self, fleet: Fleet) -> None:
        """The error names what there is."""
        with pytest.raises(NotFoundError, match="classes with one: pi"):
            fleet.engine.pin_table("pie", table=None, actor="ann", unix_ms=fleet.now)
        with pytest.raises(ConflictError, match="not pinned; pinned: none"):
            fleet.engine.unpin_table("pi", actor="ann", unix_ms=fleet.now)

    def test_to_pin_the_version_in_force_sends_nothing(self, fleet: Fleet) -> None:
        """It is what devices decide by already."""
        present = fleet.engine.tables["pi"]
        reaction = fleet.engine.pin_table("pi", table=present, actor="ann", unix_ms=fleet.now)
        assert [] == fleet.does(reaction)
        kinds = {type(effect) for effect in reaction.effects}
        assert TableRowStored not in kinds
        assert PutSetting in kinds


def test_an_earlier_table_says_where_it_is() -> None:
    """Class, place, version and time: enough to list it without loading it."""
    shelf = TableShelf(in_force=[made(2)], earlier=[EarlierTable("edge", 4, 1, 10)], pins="")
    assert (EarlierTable("edge", 4, 1, 10),) == shelf.earlier("edge")
    assert () == shelf.earlier("other")
