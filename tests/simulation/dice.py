"""Cheap draws, so that each request and each device has a source of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_WORD = (1 << 64) - 1


class Dice:
    """Numbers that follow from a seed: a congruential generator of 64 bits.

    `random.Random` takes longer to make than a request takes to decide. What draws from dice of its
    own does not change when something else is left out of a trace.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & _WORD
        self.random()

    def random(self) -> float:
        """From 0 to below 1."""
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _WORD
        return (state >> 11) * 2.0**-53

    def below(self, count: int) -> int:
        """A whole number from 0 to below `count`."""
        return int(self.random() * count)

    def between(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return least + int(self.random() * (most - least + 1))

    def choice(self, among: Sequence[T]) -> T:
        """One of some."""
        return among[int(self.random() * len(among))]
