"""Has a mean changed? A generalised likelihood ratio test over a compressed history.

A stream's history is kept as an exponential histogram (Bifet and Gavalda, ADWIN, 2007): blocks of
observations that double in size towards the past, so that a stream of ``n`` observations takes
``O(log n)`` blocks. The test compares, at every border between blocks, the observations before
and after it with one common mean: for values in [0, 1] by the Bernoulli likelihood ratio, which
holds for every distribution on [0, 1] (Besson, Kaufmann, Maillard and Seznec, JMLR 2022), for
others by the normal one with an unknown variance.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_BLOCKS_PER_SIZE = 2
_TESTS_PER_SCALE = 64
_NORMAL_SIDE_MIN = 8
_TINY = 1e-12


def alarm_level(observations: int, *, streams: int) -> float:
    """Return the log likelihood ratio from which a stream has changed.

    The test looks at about ``n`` places in a stream of ``n`` observations, each with a chance of
    ``exp(-level)`` of a false alarm; so a whole fleet of streams expects less than one.

    Parameters
    ----------
    observations : int
        Length of the stream, at least 1.
    streams : int
        How many streams are watched.
    """
    return math.log(max(streams, 1)) + math.log(observations + 1.0) + 1.5


@dataclass(slots=True)
class Stream:
    """The compressed history of one quantity, newest block last.

    Parameters
    ----------
    blocks : list of list
        ``[count, total, squares]``: sums over the block's observations.
    count : int
        Observations in all blocks.
    next_test : int
        Count from which the stream is tested again: the wait is a 64th of the history, so a long
        one costs no more than a short one.
    """

    blocks: list[list[float]] = field(default_factory=list)
    count: int = 0
    next_test: int = 2

    def add(self, value: float) -> None:
        """Append an observation. Amortised O(1)."""
        blocks = self.blocks
        blocks.append([1, value, value * value])
        self.count += 1
        end, size = len(blocks), 1
        while end > _BLOCKS_PER_SIZE:
            # The blocks up to `end` are at least `size` large; merge the two oldest of a size if
            # there are more of it than allowed.
            start = end - _BLOCKS_PER_SIZE - 1
            if blocks[start][0] != size:
                break
            older, newer = blocks[start], blocks.pop(start + 1)
            for place in range(3):
                older[place] += newer[place]
            end, size = start + 1, 2 * size

    def due(self) -> bool:
        """Whether it is time to test; moves the time of the next test if so."""
        if self.count < self.next_test:
            return False
        self.next_test = self.count + max(1, self.count // _TESTS_PER_SCALE)
        return True

    def changed(self, level: float, *, spread: float | None) -> bool:
        """Whether the mean has changed at some border between blocks.

        Parameters
        ----------
        level : float
            From ``alarm_level``.
        spread : float or None
            Smallest variance of an observation, for values that are taken to be normal; None for
            values in [0, 1], whatever their distribution.
        """
        count = sum(block[0] for block in self.blocks)
        total = sum(block[1] for block in self.blocks)
        squares = sum(block[2] for block in self.blocks)
        before = before_total = 0.0
        for block in self.blocks[:-1]:
            before, before_total = before + block[0], before_total + block[1]
            after, after_total = count - before, total - before_total
            if spread is None:
                ratio = _bernoulli_ratio(before, before_total, after, after_total)
            else:
                ratio = _normal_ratio(
                    before, before_total, after, after_total, squares, spread=spread
                )
            if ratio > level:
                return True
        return False

    def clear(self) -> None:
        """Forget everything."""
        self.blocks, self.count, self.next_test = [], 0, 2

    def to_state(self) -> list[Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return [self.next_test, [list(block) for block in self.blocks]]

    @classmethod
    def from_state(cls, state: Iterable[Any]) -> "Stream":
        """Restore a stream from ``to_state``'s data."""
        next_test, blocks = state
        kept = [list(block) for block in blocks]
        return cls(blocks=kept, count=int(sum(b[0] for b in kept)), next_test=next_test)


def _entropy(total: float, count: float) -> float:
    """``count`` times the negative entropy of the mean: the best log likelihood."""
    mean = total / count
    if mean <= _TINY or mean >= 1.0 - _TINY:
        return 0.0
    return count * (mean * math.log(mean) + (1.0 - mean) * math.log(1.0 - mean))


def _bernoulli_ratio(n: float, total: float, m: float, other: float) -> float:
    return _entropy(total, n) + _entropy(other, m) - _entropy(total + other, n + m)


def _normal_ratio(
    n: float, total: float, m: float, other: float, squares: float, *, spread: float
) -> float:
    if min(n, m) < _NORMAL_SIDE_MIN:
        return 0.0
    count = n + m
    between = n * m / count * (total / n - other / m) ** 2
    around = max(squares - (total + other) ** 2 / count, 0.0)
    within = max(around - between, spread * count, _TINY)
    # The variance is estimated too, so that short histories look more extreme than they are.
    return 0.5 * (count - 6.0) * math.log1p(between / within)
