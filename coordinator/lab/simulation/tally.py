"""What happened in a simulated run, request by request, and the state at each change."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from coordinator.lab.simulation.demand import Demand
from coordinator.policy.base import BoolArray, FloatArray

COLUMNS = (
    "slot",
    "context",
    "arm",
    "reward",
    "hit_expected",
    "hit",
    "cost_nanos",
    "lease_lost",
    "lease_refused",
)
"""Of a request: absolute slot, context, arm that answered (-1: none), its expected reward, the
probability of a hit after the wait it had, whether it hit, its cost, the share of the table's
weight that fell away because no lease covered it, and whether it did although the coordinator had
not just said that the budget is exhausted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Regime:
    """What is true from a slot of the judged window on, and where the run stood then.

    Attributes
    ----------
    slot : int
        Of the judged window; 0 for its beginning.
    reward, cost : ndarray, shape (X, A)
        True means; cost in nano-dollars.
    feasible : ndarray of bool, shape (X, A)
        Arms that the context may use and that work.
    factor : ndarray, shape (X,)
        By which demand events multiply the demand now.
    budget_nanos : int
        The window's budget now.
    spent_nanos : int
        Settled and unconfirmed so far, in the run.
    requests, hits : float
        So far in the run: requests that came, and their expected hits.
    """

    slot: int
    reward: FloatArray
    cost: FloatArray
    feasible: BoolArray
    factor: FloatArray
    budget_nanos: int
    spent_nanos: int
    requests: float
    hits: float


@dataclass(frozen=True, kw_only=True)
class WindowEnd:
    """A window's money after everything in it was settled. Nano-dollars.

    Attributes
    ----------
    allowed : int
        The most that the window allowed at any time (rule C_3).
    billed : int
        By the world's own count of the calls that leases of this window paid for.
    outstanding : int
        Lent out to devices when the window ended.
    """

    budget: int
    allowed: int
    billed: int
    settled: int
    unconfirmed: int
    outstanding: int


@dataclass(eq=False)
class Tally:
    """The requests of a run and the money of its windows."""

    demand: Demand
    arms: tuple[str, ...]
    slots: int
    windows: int
    rows: list[tuple[float, ...]] = field(default_factory=list)
    regimes: list[Regime] = field(default_factory=list)
    ends: list[WindowEnd] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def requests(self) -> int:
        """Requests of the whole run."""
        return len(self.rows)

    def window(self, index: int) -> dict[str, FloatArray]:
        """The columns of the requests that arrived in a window; slots counted in it."""
        table = np.array(self.rows, dtype=np.float64).reshape(-1, len(COLUMNS))
        first = index * self.slots
        table = table[(table[:, 0] >= first) & (table[:, 0] < first + self.slots)]
        columns = {name: table[:, at] for at, name in enumerate(COLUMNS)}
        columns["slot"] = columns["slot"] - first
        return columns

    def counts(self, index: int) -> FloatArray:
        """Requests that came in a window, shape (slots, X)."""
        first = index * self.slots
        return self.demand.counts[first : first + self.slots].astype(np.float64)
