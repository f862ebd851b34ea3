"""The shortest trace that still fails: operations are left out as long as the failure stays."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.trace import Op, make_trace
from tests.simulation.world import simulate

RUNS_MAX = 300


def shrunk(seed: int, *, steps: int, rule: str, runs_max: int = RUNS_MAX) -> list[Op]:
    """A short trace under which the same rule is violated; the whole one if none is shorter.

    Parameters
    ----------
    runs_max : int
        How many runs it may take.
    """
    ops = make_trace(seed, steps=steps)
    size = max(1, len(ops) // 2)
    runs = 0
    while runs < runs_max:
        at = 0
        smaller = False
        while at < len(ops) and runs < runs_max:
            rest = _without(ops, at, size)
            runs += 1
            if fails(seed, rest, rule=rule):
                ops, smaller = rest, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return ops


def fails(seed: int, trace: Sequence[Op], *, rule: str) -> bool:
    """Whether a trace violates this rule."""
    violation = simulate(seed, trace=trace).violation
    return violation is not None and violation.rule == rule


def _without(ops: Sequence[Op], at: int, size: int) -> list[Op]:
    """Leave some out; what they waited for still passes."""
    gone, rest = ops[at : at + size], list(ops[at + size :])
    waited = sum(op.wait_ms for op in gone)
    if rest and waited:
        first = rest[0]
        rest[0] = Op(first.wait_ms + waited, first.kind, first.device, first.seed)
    return [*ops[:at], *rest]
