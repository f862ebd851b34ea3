"""How long a device works on a request, told apart from how long the request waits."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from coordinator.policy.base import FloatArray
from coordinator.policy.sketch import bucket_of, dense, quantiles

_MEMORY: Final = 400.0
"""Observations after which older ones fade: devices slow down when they get warm."""

_PRIOR_WORTH: Final = 4.0
_POOL_WORTH: Final = 8.0
_UNQUEUED: Final = 0.1

Key = tuple[str, str, str]
"""Device class, task class, arm."""

Answer = tuple[int, float, float]
"""The number of its key, latency, and time to the first token in ms, or 0 if that is not known."""


class _Histogram:
    """A histogram in which older observations fade."""

    __slots__ = ("counts", "worth")

    def __init__(self, counts: Mapping[int, float]) -> None:
        self.counts = dict(counts)
        self.worth = float(round(sum(counts.values())))  # a whole number, but for rounding

    def add(self, bucket: int) -> None:
        """Count one more."""
        if self.worth >= _MEMORY:
            self.worth *= 0.5
            for place in self.counts:
                self.counts[place] *= 0.5
        self.worth += 1.0
        self.counts[bucket] = self.counts.get(bucket, 0.0) + 1.0


class ServiceTimes:
    """Mean service and answer times per (device class, task class, arm).

    A ``prior_ms``, shape (X, A), is what a request takes by statement or by measurement.

    The time to the first token holds the wait in the queue and the reading of the prompt; what
    follows is work. So the service time is the time after the first token, plus that low quantile
    of the time to the first token which nearly nobody in a queue would see.
    """

    def __init__(self) -> None:
        self._sums: dict[Key, list[float]] = {}
        self._first: dict[tuple[str, str], _Histogram] = {}

    def record(self, answers: Iterable[Answer], *, cells: Iterable[Key]) -> None:
        """Note answers, in order, of the cells that they name by their numbers."""
        keys = list(cells)
        known = [self._sums.get(key) for key in keys]
        firsts = [self._first.get((key[0], key[2])) for key in keys]
        for number, latency_ms, ttft_ms in answers:
            sums, first = known[number], firsts[number]
            if sums is None or first is None:
                key = keys[number]
                sums = known[number] = self._sums.setdefault(key, [0.0, 0.0, 0.0])
                first = self._first.setdefault((key[0], key[2]), _Histogram({}))
                firsts[number] = first
            if sums[0] >= _MEMORY:
                sums[:] = [0.5 * each for each in sums]
            sums[0] += 1.0
            if latency_ms > ttft_ms:
                sums[1] += latency_ms - ttft_ms
            sums[2] += latency_ms
            first.add(bucket_of(ttft_ms))

    def service_s(
        self,
        contexts: Sequence[tuple[str, str]],
        *,
        arms: Sequence[str],
        prior_ms: FloatArray,
    ) -> FloatArray:
        """Mean worker-seconds per request, shape (X, A); starts from the prior latency."""
        found = self._means(contexts, arms=arms, prior_ms=prior_ms, place=1)
        for row, context in enumerate(contexts):
            for column, arm in enumerate(arms):
                found[row, column] += self._unqueued_ms(context[0], arm)
        return found / 1_000.0

    def latency_ms(
        self,
        contexts: Sequence[tuple[str, str]],
        *,
        arms: Sequence[str],
        prior_ms: FloatArray,
    ) -> FloatArray:
        """Mean time from arrival to the last token in ms, shape (X, A)."""
        return self._means(contexts, arms=arms, prior_ms=prior_ms, place=2)

    def _means(
        self,
        contexts: Sequence[tuple[str, str]],
        *,
        arms: Sequence[str],
        prior_ms: FloatArray,
        place: int,
    ) -> FloatArray:
        """A context's mean, leaning on that of its device class, leaning on what was stated."""
        pooled: dict[tuple[str, str], list[float]] = {}
        for (device, _, arm), sums in self._sums.items():
            total = pooled.setdefault((device, arm), [0.0, 0.0])
            total[0] += sums[0]
            total[1] += sums[place]
        result = np.zeros((len(contexts), len(arms)))
        for row, (device, task) in enumerate(contexts):
            for column, arm in enumerate(arms):
                count, total_ms = pooled.get((device, arm), (0.0, 0.0))
                stated = float(prior_ms[row, column])
                coarse = (total_ms + _PRIOR_WORTH * stated) / (count + _PRIOR_WORTH)
                own = self._sums.get((device, task, arm))
                n, ms = (own[0], own[place]) if own is not None else (0.0, 0.0)
                result[row, column] = (ms + _POOL_WORTH * coarse) / (n + _POOL_WORTH)
        return result

    def _unqueued_ms(self, device_class: str, arm: str) -> float:
        first = self._first.get((device_class, arm))
        if first is None:
            return 0.0
        return float(quantiles(dense(first.counts), probabilities=[_UNQUEUED])[0])

    def to_state(self) -> dict[str, Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return {
            "sums": [[*key, *sums] for key, sums in self._sums.items()],
            "first": [[*key, list(first.counts.items())] for key, first in self._first.items()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ServiceTimes":
        """Restore from ``to_state``'s data."""
        times = cls()
        for device, task, arm, *sums in state["sums"]:
            times._sums[(device, task, arm)] = list(sums)
        for device, arm, pairs in state["first"]:
            times._first[(device, arm)] = _Histogram({int(b): count for b, count in pairs})
        return times


class ForcedShare:
    """The share of a context's requests that is not the policy's to place, by arm.

    Counts fade slot by slot, so the share follows what clients do now. Those of the open slot are
    whole numbers, so it makes no difference whether they come one by one or many at once.
    """

    FADE: Final = 0.98
    DOUBT: Final = 1.0

    def __init__(self) -> None:
        self._faded: dict[tuple[str, str], dict[str, float]] = {}
        self._fresh: Counter[tuple[tuple[str, str], str]] = Counter()

    def count(self, context: tuple[str, str], *, arm: str, requests: int = 1) -> None:
        """Count requests; ``arm`` is empty where the policy placed them."""
        self._fresh[context, arm] += requests

    def fade(self) -> None:
        """A slot is over."""
        self._faded = {
            context: {arm: count * self.FADE for arm, count in counts.items()}
            for context, counts in self._counts().items()
        }
        self._fresh.clear()

    def _counts(self) -> dict[tuple[str, str], dict[str, float]]:
        counts = {context: dict(faded) for context, faded in self._faded.items()}
        for (context, arm), fresh in self._fresh.items():
            found = counts.setdefault(context, {})
            found[arm] = found.get(arm, 0.0) + fresh
        return counts

    def share(
        self, contexts: Sequence[tuple[str, str]], *, arms: Sequence[str]
    ) -> FloatArray | None:
        """Share of each arm in each context's demand, shape (X, A); None where none is forced."""
        result = np.zeros((len(contexts), len(arms)))
        known = self._counts()
        for row, context in enumerate(contexts):
            counts = known.get(context)
            if counts is None:
                continue
            total = sum(counts.values()) + self.DOUBT
            for column, arm in enumerate(arms):
                result[row, column] = counts.get(arm, 0.0) / total
        return result if result.any() else None

    def to_state(self) -> list[Any]:
        """Plain data; ``from_state`` restores it exactly."""
        return [
            [[list(context), list(counts.items())] for context, counts in self._faded.items()],
            [[list(context), arm, count] for (context, arm), count in self._fresh.items()],
        ]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> "ForcedShare":
        """Restore from ``to_state``'s data."""
        shares = cls()
        faded, fresh = state
        for context, pairs in faded:
            shares._faded[(context[0], context[1])] = dict(pairs)
        for context, arm, count in fresh:
            shares._fresh[(context[0], context[1]), arm] = count
        return shares
