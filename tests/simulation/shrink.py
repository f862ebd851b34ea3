"""The shortest trace that still fails: operations are left out as long as the failure stays."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.simulation.facts import Violated
from tests.simulation.trace import Op, make_trace
from tests.simulation.world import simulate

RUNS_MAX = 1_500
SECONDS_MAX = 180.0


def shrunk(
    seed: int, *, steps: int, rule: str, runs_max: int = RUNS_MAX, seconds_max: float = SECONDS_MAX
) -> list[Op]:
    """A short trace under which the same rule is violated; the whole one if none is shorter.

    Parameters
    ----------
    runs_max, seconds_max : int, float
        How many runs it may take, and for how long it may go on.
    """
    search = _Search(seed, rule=rule, runs_max=runs_max, seconds_max=seconds_max)
    ops = make_trace(seed, steps=steps)
    played = search.fails_after(ops)
    if played is None:
        return ops
    ops = ops[:played]  # what comes after the failure has no part in it
    kinds = Counter(op.kind for op in ops)
    for kind, _ in kinds.most_common():
        ops = search.shorter(ops, lambda op, kind=kind: op.kind != kind)  # type: ignore[misc]
    for device in sorted({op.device for op in ops}):
        ops = search.shorter(ops, lambda op, device=device: op.device != device)  # type: ignore[misc]
    size = max(1, len(ops) // 2)
    while search.goes_on:
        before = len(ops)
        at = 0
        while at < len(ops) and search.goes_on:
            gone = {id(op) for op in ops[at : at + size]}
            fewer = search.shorter(ops, lambda op, gone=gone: id(op) not in gone)  # type: ignore[misc]
            at += size if fewer is ops else 0
            ops = fewer
        if size == 1 and len(ops) == before:
            break
        size = max(1, size // 2)
    return ops


class _Search:
    """Tries traces of one seed, and counts the runs."""

    def __init__(self, seed: int, *, rule: str, runs_max: int, seconds_max: float) -> None:
        self._seed, self._rule = seed, rule
        self._runs_left = runs_max
        self._until_s = time.monotonic() + seconds_max

    @property
    def goes_on(self) -> bool:
        return self._runs_left > 0 and time.monotonic() < self._until_s

    def fails_after(self, trace: Sequence[Op]) -> int | None:
        """How many operations it takes until the rule is violated; None if it is not."""
        self._runs_left -= 1
        result = simulate(self._seed, trace=trace)
        found = result.violation
        return result.played if found is not None and found.rule == self._rule else None

    def shorter(self, ops: list[Op], keep: Callable[[Op], bool]) -> list[Op]:
        """Some operations only, if they fail as well; else all of them."""
        if not self.goes_on:
            return ops
        rest = _kept(ops, keep)
        played = self.fails_after(rest) if len(rest) < len(ops) else None
        return ops if played is None else rest[:played]


def fails(seed: int, trace: Sequence[Op], *, rule: str) -> Violated | None:
    """The violation of this rule under a trace, if there is one."""
    violation = simulate(seed, trace=trace).violation
    return violation if violation is not None and violation.rule == rule else None


def _kept(ops: Sequence[Op], keep: Callable[[Op], bool]) -> list[Op]:
    """Some of them; what the others waited for still passes."""
    rest: list[Op] = []
    waited = 0
    for op in ops:
        if keep(op):
            rest.append(replace(op, wait_ms=op.wait_ms + waited) if waited else op)
            waited = 0
        else:
            waited += op.wait_ms
    return rest
