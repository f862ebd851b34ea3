"""Which models are in memory: loaded on first use, unloaded when others need the room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Room(StrEnum):
    """Whether a model can be loaded now."""

    FREE = "free"
    BUSY = "busy"
    NEVER = "never"


@dataclass(frozen=True)
class RoomPlan:
    """What to do to load a model.

    Attributes
    ----------
    unload : tuple of str
        Arms to unload first; only with `Room.FREE`.
    problem : str
        Why it can never be loaded; only with `Room.NEVER`.
    """

    room: Room
    unload: tuple[str, ...] = ()
    problem: str = ""


class Residency:
    """Decides what to unload; holds no model itself.

    Parameters
    ----------
    memory_bytes_max : int or None
        For all models together; None means no limit.
    memory_bytes : callable
        What an arm's model takes; raises `ModelFileError`.
    """

    def __init__(self, *, memory_bytes_max: int | None, memory_bytes: Callable[[str], int]) -> None:
        self._limit = memory_bytes_max
        self._measure = memory_bytes
        self._loaded: dict[str, int] = {}
        self._needed: dict[str, int] = {}
        self._preferred: tuple[str, ...] = ()

    @property
    def loaded(self) -> Mapping[str, int]:
        """Bytes of each arm in memory or on its way there, the least recently used first."""
        return self._loaded

    def prefer(self, arms: Sequence[str]) -> None:
        """Unload these arms last."""
        self._preferred = tuple(arms)

    @property
    def preferred(self) -> Sequence[str]:
        """The arms that are unloaded last."""
        return self._preferred

    def used(self, arm: str) -> None:
        """Note a use, for the order of unloading."""
        if arm in self._loaded:
            self._loaded[arm] = self._loaded.pop(arm)

    def plan(self, arm: str, *, keep: Sequence[str]) -> RoomPlan:
        """How to make room for an arm without unloading those to keep.

        Raises
        ------
        ModelFileError
            When the arm's file cannot be read.
        """
        # Remembered until the load: a model that waits for room is asked about at every step.
        if arm not in self._needed:
            self._needed[arm] = self._measure(arm)
        needed = self._needed[arm]
        if self._limit is None:
            return RoomPlan(Room.FREE)
        if needed > self._limit:
            del self._needed[arm]
            problem = (
                f"{arm} takes {needed} bytes with its context and `memory_bytes_max` is "
                f"{self._limit}: raise it, lower the arm's `context_tokens` or "
                "`batch_sequences`, or take a smaller model"
            )
            return RoomPlan(Room.NEVER, problem=problem)
        unload: list[str] = []
        spare = self._limit - sum(self._loaded.values())
        for other in self._unloading_order(keep):
            if spare >= needed:
                break
            unload.append(other)
            spare += self._loaded[other]
        if spare < needed:
            return RoomPlan(Room.BUSY)
        return RoomPlan(Room.FREE, unload=tuple(unload))

    def add(self, arm: str) -> None:
        """Note that an arm, whose plan was free, is being loaded."""
        self._loaded[arm] = self._needed.pop(arm)

    def remove(self, arm: str) -> None:
        """Note that an arm is out of memory."""
        self._loaded.pop(arm, None)

    def _unloading_order(self, keep: Sequence[str]) -> list[str]:
        idle = [arm for arm in self._loaded if arm not in keep]
        return sorted(idle, key=lambda arm: arm in self._preferred)
