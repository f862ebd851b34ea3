"""What must not fail ends the run, whatever happens to the coordinator's process after it."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.sessions import Reaction
from shared.errors import InvariantError, StoreError
from tests.fakes.memory_store import MemoryStore
from tests.simulation.facts import Violated
from tests.simulation.scene import Scene
from tests.simulation.world import simulate, small_spools


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A quiet world, with the coordinator's next transaction a slow one."""
    with small_spools():
        scene = Scene()
        scene.centre.slow = 1
        yield scene


@pytest.mark.parametrize("defect", [InvariantError("planted"), KeyError("planted")])
@pytest.mark.parametrize("dies", [False, True])
def test_a_defect_shows_also_if_the_process_dies_next(
    scene: Scene, defect: Exception, dies: bool
) -> None:
    """The transactions behind a slow one are made in one go: one fails, another one kills."""

    def pause(engine: CoordinatorEngine) -> Reaction:
        return engine.set_spend_paused(True, actor="op", unix_ms=scene.centre.unix_ms())

    async def pause_by_reading(engine: CoordinatorEngine) -> Reaction:
        return pause(engine)

    def wrong(engine: CoordinatorEngine) -> Reaction:
        raise defect

    heard: list[bool] = []
    for change in (pause, wrong, pause_by_reading):
        scene.centre.changes.ask("command", change, heard=heard.append)
    if dies:
        scene.centre.fuse.light(2, after=False)
    with pytest.raises((Violated, KeyError), match="planted"):
        scene.run(600)
    assert not heard


def test_a_read_that_fails_ends_the_run() -> None:
    """The database may be unwritable; nothing makes it unreadable."""
    with patch.object(MemoryStore, "spool_marks", side_effect=StoreError("planted")):
        violation = simulate(0, steps=20).violation
    assert isinstance(violation, Violated)
    assert ("exactly_once", "planted") == (violation.rule, violation.what)
