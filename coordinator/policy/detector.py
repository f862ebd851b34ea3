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
from operator import add, mul
from typing import Any

_BLOCKS_PER_SIZE = 2
_TESTS_PER_SCALE = 64
_OBSERVATIONS_PER_TEST = 8
"""From fewer nothing can be told: the chance of any of them is more than ``exp(-alarm_level)``."""
_FRESH_MAX = 1_000
_RESIDUALS_AFTER = 2
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


Block = tuple[int, float, float]
"""Number, total and sum of squares of the observations in a block."""


class Stream:
    """The compressed history of one quantity.

    Attributes
    ----------
    count : int
        Observations so far.
    total : float
        Their sum.
    next_test : int
        Count from which the stream is tested again: the wait is a 64th of the history, so that a
        long one costs no more than a short one, and at least eight observations.
    common : Stream or None
        Hears how far each observation lies from the mean of those before it (recursive residuals;
        Brown, Durbin and Evans, 1975).
    """

    __slots__ = ("_fresh", "_levels", "common", "count", "next_test", "total")

    def __init__(self) -> None:
        self._fresh: list[float] = []
        # The totals and the sums of squares of blocks of 1, 2, 4, ... observations, oldest first.
        self._levels: list[tuple[list[float], list[float]]] = []
        self.count = 0
        self.total = 0.0
        self.next_test = _OBSERVATIONS_PER_TEST
        self.common: Stream | None = None

    def add(self, value: float) -> bool:
        """Append an observation, uncompressed until somebody looks at the blocks. O(1).

        Tells whether it is time to test, this stream or the common one.
        """
        count, common, due = self.count, self.common, False
        if common is not None and count >= _RESIDUALS_AFTER:
            due = common.add((value - self.total / count) * math.sqrt(count / (count + 1.0)))
        self._fresh.append(value)
        self.count = count = count + 1
        self.total += value
        return due or count >= self.next_test

    @property
    def blocks(self) -> list[Block]:
        """The whole history, newest block last. Amortised O(1) per observation."""
        self._compress()
        return [
            (1 << depth, *sums)
            for depth in reversed(range(len(self._levels)))
            for sums in zip(*self._levels[depth], strict=True)
        ]

    def _compress(self) -> None:
        """Take the fresh observations into the levels, each of blocks of one size.

        While a level has more blocks than allowed, its two oldest become one of the next level.
        So it makes no difference whether observations arrive one by one or many at once.
        """
        totals, squares = self._fresh, list(map(mul, self._fresh, self._fresh))
        self._fresh = []
        depth = 0
        while totals:
            if depth == len(self._levels):
                self._levels.append(([], []))
            level, squared = self._levels[depth]
            level += totals
            squared += squares
            full = 2 * ((len(level) - _BLOCKS_PER_SIZE + 1) // 2)
            totals = list(map(add, level[:full:2], level[1:full:2]))
            squares = list(map(add, squared[:full:2], squared[1:full:2]))
            del level[:full], squared[:full]
            depth += 1

    def due(self) -> bool:
        """Whether it is time to test; moves the time of the next test if so."""
        if self.count < self.next_test:
            return False
        wait = max(_OBSERVATIONS_PER_TEST, self.count // _TESTS_PER_SCALE)
        self.next_test = self.count + wait
        if len(self._fresh) > _FRESH_MAX:
            self._compress()
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
        if spread is not None and self.count < 2 * _NORMAL_SIDE_MIN:
            return False
        enough = self._enough(level, spread=spread)
        if enough is None:
            return False
        self._compress()
        count, before, before_total = self.count, 0, 0.0
        mean = self.total / count
        for depth in reversed(range(len(self._levels))):
            size = 1 << depth
            for total in self._levels[depth][0]:
                before, before_total = before + size, before_total + total
                after, leap = count - before, before_total - before * mean
                if leap * leap * count > enough * before * after and after:
                    if spread is not None:
                        found = min(before, after) >= _NORMAL_SIDE_MIN
                    else:
                        found = self._bernoulli_ratio(before, before_total) > level
                    if found:
                        return True
        return False

    def _enough(self, level: float, *, spread: float | None) -> float | None:
        """The sum of squares between the sides of a border from which it may be a change.

        For the normal test it is exact. For the other it is a lower bound that spares nearly all
        logarithms: a divergence of Kullback and Leibler is at most that of Pearson. None where no
        border can have it, since the whole stream varies too little: then nobody has to look.
        """
        if spread is None:
            if -_entropy(self.total, self.count) <= level:
                return None
            return level * self.total / self.count * (1.0 - self.total / self.count)
        squares = sum(sum(each) for _, each in self._levels) + sum(
            map(mul, self._fresh, self._fresh)
        )
        around = max(squares - self.total**2 / self.count, 0.0)
        # The variance is estimated too, so that short histories look more extreme than they are.
        odds = math.expm1(2.0 * level / (self.count - 6.0))
        enough = odds * max(around / (1.0 + odds), spread * self.count, _TINY)
        return enough if enough < around else None

    def _bernoulli_ratio(self, before: int, before_total: float) -> float:
        after, after_total = self.count - before, self.total - before_total
        apart = _entropy(before_total, before) + _entropy(after_total, after)
        return apart - _entropy(self.total, self.count)

    def clear(self) -> None:
        """Forget everything."""
        self._fresh, self._levels = [], []
        self.count, self.total, self.next_test = 0, 0.0, _OBSERVATIONS_PER_TEST

    def to_state(self) -> list[Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return [self.next_test, self.total, [list(block) for block in self.blocks]]

    @classmethod
    def from_state(cls, state: Iterable[Any]) -> "Stream":
        """Restore a stream from ``to_state``'s data."""
        stream = cls()
        stream.next_test, stream.total, blocks = state
        for number, total, squares in blocks:
            depth = number.bit_length() - 1
            stream._levels += [([], []) for _ in range(depth + 1 - len(stream._levels))]
            stream._levels[depth][0].append(total)
            stream._levels[depth][1].append(squares)
            stream.count += number
        return stream


def _entropy(total: float, count: float) -> float:
    """``count`` times the negative entropy of the mean: the best log likelihood."""
    mean = total / count
    if mean <= _TINY or mean >= 1.0 - _TINY:
        return 0.0
    return count * (mean * math.log(mean) + (1.0 - mean) * math.log(1.0 - mean))
