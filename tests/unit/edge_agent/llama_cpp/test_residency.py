"""What is unloaded to make room."""

from __future__ import annotations

from edge_agent.adapters.llama_cpp.residency import Residency, Room, RoomPlan

SIZES = {"small": 10, "medium": 30, "large": 60, "huge": 200}


def _residency(limit: int | None = 100, *loaded: str) -> Residency:
    residency = Residency(memory_bytes_max=limit, memory_bytes=SIZES.__getitem__)
    for arm in loaded:
        assert Room.FREE is residency.plan(arm, keep=()).room
        residency.add(arm)
    return residency


def test_without_a_limit_nothing_is_unloaded() -> None:
    """The operating system decides then."""
    residency = _residency(None, "large", "medium")
    assert RoomPlan(Room.FREE) == residency.plan("huge", keep=())


def test_nothing_is_unloaded_while_there_is_room() -> None:
    """Unloading costs the next request of that model its load."""
    assert RoomPlan(Room.FREE) == _residency(100, "large").plan("medium", keep=())


def test_the_least_recently_used_goes_first() -> None:
    """And only as many as are needed."""
    residency = _residency(90, "small", "medium")
    residency.used("small")
    assert RoomPlan(Room.FREE, unload=("medium",)) == residency.plan("large", keep=())


def test_preferred_arms_go_last() -> None:
    """The coordinator's resident model is unloaded only if nothing else helps."""
    residency = _residency(65, "medium", "small")
    residency.prefer(["medium"])
    residency.used("small")
    assert RoomPlan(Room.FREE, unload=("small", "medium")) == residency.plan("large", keep=())


def test_busy_arms_are_waited_for() -> None:
    """An answer under way is not killed for another model."""
    residency = _residency(70, "large")
    assert RoomPlan(Room.BUSY) == residency.plan("medium", keep=["large"])


def test_what_can_never_fit_is_said_with_the_numbers() -> None:
    """The operator learns what to change."""
    plan = _residency(100).plan("huge", keep=())
    assert Room.NEVER is plan.room
    assert "200 bytes" in plan.problem
    assert "`memory_bytes_max` is 100" in plan.problem


def test_removed_arms_free_their_room() -> None:
    """Also after a load that failed."""
    residency = _residency(70, "large")
    residency.remove("large")
    assert {} == dict(residency.loaded)
    assert RoomPlan(Room.FREE) == residency.plan("medium", keep=())
