"""Baseline: the optimistic programme on recent outcomes only (sliding-window BwK)."""

import math
from dataclasses import dataclass, replace

import numpy as np

from coordinator.policy.ad_ucb import plan_average_slot
from coordinator.policy.base import (
    MONEY_ROW,
    Bounds,
    Constraints,
    Estimates,
    FloatArray,
    Forecast,
    Plan,
    Remaining,
    check_inputs,
)
from coordinator.policy.bounds import paper_bounds

_MARKS = 16
_TIE = 1e-4


@dataclass(frozen=True, kw_only=True)
class SwUcb:
    """Plays the optimum of the optimistic programme of an average slot, from a sliding window.

    Parameters
    ----------
    window_slots : int or None
        Slots that count. None takes ``slots_total ** (2/3)``, rounded up.
    delta : float
        Failure probability of the bounds, in (0, 1).
    cost_scale : float or None
        Nano-dollars that count as a cost of 1. None takes the largest mean cost known. Other
        packing rows are expected in [0, 1].

    Notes
    -----
    Source: S. Liu, J. Jiang, X. Li, "Non-stationary bandits with knapsacks", NeurIPS 2022: the
    one-step programme ``max UCB_r . x, LCB_c . x <= B / T`` on sliding-window bounds. Where
    nothing changes, forgetting only costs: an arm that is not played falls out of the window and
    has to be explored again.

    Adapted: the programme is that of ``ad_ucb`` (several requests per slot, covering rows). The
    estimates cover the whole past, so sums at ``window_slots / 16`` apart are kept in
    ``Plan.state`` and taken off: the window is up to a sixteenth longer than asked for. That is
    exact for plain means (``EstimateBook.paper_estimates``); of pooled means it is the window's
    part of a smoothed sum. Bounds have the radius of ``paper_radius``.
    """

    window_slots: int | None = None
    delta: float = 1e-4
    cost_scale: float | None = None

    def __post_init__(self) -> None:
        if self.window_slots is not None and self.window_slots < 1:
            raise ValueError(f"window_slots is {self.window_slots}, expected 1 or more")
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta is {self.delta}, expected more than 0 and less than 1")
        if self.cost_scale is not None and not self.cost_scale > 0.0:
            raise ValueError(f"cost_scale is {self.cost_scale}, expected more than 0")

    @property
    def name(self) -> str:
        """The registered name."""
        return "sw_ucb"

    def plan(
        self,
        estimates: Estimates,
        *,
        constraints: Constraints,
        forecast: Forecast,
        remaining: Remaining,
        rng: np.random.Generator,
    ) -> Plan:
        """Return the plan of the slot about to start; ``rng`` is not used.

        Returns
        -------
        Plan
            Once the money is gone, only arms that cost nothing have weight.

        Raises
        ------
        ValueError
            When shapes disagree or an input is not finite.
        """
        check_inputs(estimates, constraints=constraints, forecast=forecast, remaining=remaining)
        window = self.window_slots or math.ceil(max(remaining.slots_total, 1) ** (2.0 / 3.0))
        sums = _sums(estimates)
        marks, slots = _marks(remaining, shape=sums.shape)
        # The newest mark that is at least a window old is what to take off.
        old = np.flatnonzero(slots <= remaining.slot - window)
        before = marks[old[-1]] if old.size else np.zeros_like(sums)
        keep = slots >= (slots[old[-1]] if old.size else -1.0)
        marks, slots = marks[keep], slots[keep]
        if slots.size == 0 or remaining.slot - slots[-1] >= max(window // _MARKS, 1):
            marks = np.concatenate([marks, sums[None]])
            slots = np.append(slots, float(remaining.slot))
        planned = plan_average_slot(
            self._recent(estimates, sums=np.maximum(sums - before, 0.0)),
            constraints=constraints,
            forecast=forecast,
            remaining=remaining,
        )
        return replace(planned, state={"marks": marks, "mark_slots": slots})

    def _recent(self, estimates: Estimates, *, sums: FloatArray) -> Estimates:
        """Bounds from the window's sums, (2 + P + C + 1, X, A) as ``_sums`` has them."""
        graded, booked, reward, *rest = sums
        packing = len(estimates.packing)
        costs, credits = rest[:packing], rest[packing:]
        recent = paper_bounds(reward, pulls=graded, delta=self.delta)
        return replace(
            estimates,
            # Arms that the window hardly knows tie at 1; the whole past breaks the tie.
            reward=replace(recent, upper=recent.upper + _TIE * estimates.reward.upper),
            packing=tuple(
                self._cost(cost, row=row, pulls=booked, money=index == MONEY_ROW)
                for index, (cost, row) in enumerate(zip(costs, estimates.packing, strict=True))
            ),
            covering=tuple(
                paper_bounds(credit, pulls=booked, delta=self.delta) for credit in credits
            ),
        )

    def _cost(self, total: FloatArray, *, row: Bounds, pulls: FloatArray, money: bool) -> Bounds:
        """Bounds of one packing row; an arm known to cost nothing stays free."""
        largest = float(row.mean.max(initial=0.0)) if money else 1.0
        scale = (self.cost_scale if money else None) or (largest if largest > 0.0 else 1.0)
        found = paper_bounds(total, pulls=pulls, delta=self.delta, scale=scale)
        return replace(found, upper=np.where(row.upper <= 0.0, 0.0, found.upper))


def _sums(estimates: Estimates) -> FloatArray:
    """Counts and sums over the whole past, shape (3 + P + C, X, A)."""
    graded = estimates.graded.astype(np.float64)
    booked = estimates.outcomes.astype(np.float64)
    rows = (*estimates.packing, *estimates.covering)
    return np.stack(
        [graded, booked, estimates.reward.mean * graded, *(row.mean * booked for row in rows)]
    )


def _marks(remaining: Remaining, *, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Earlier sums and their slots; none after a start or a change of shape."""
    if remaining.last is not None and "marks" in remaining.last.state:
        state = remaining.last.state
        if state["marks"].shape[1:] == shape:
            return state["marks"], state["mark_slots"]
    return np.zeros((0, *shape)), np.zeros(0)
