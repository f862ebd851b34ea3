"""Baseline: always pay."""

from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import (
    MONEY_ROW,
    Constraints,
    Estimates,
    Forecast,
    Plan,
    Remaining,
    check_inputs,
    idle_plan,
    pick_best,
)


@dataclass(frozen=True, kw_only=True)
class AlwaysCloud:
    """Every request goes to the paid arm of highest mean reward while money is left.

    Without money, or in a context without a paid arm, the free arm of highest mean reward serves.
    It does not pace its spending: on a binding budget the money is gone before the window is.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        return "always_cloud"

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

        Raises
        ------
        ValueError
            When shapes disagree.
        """
        check_inputs(estimates, constraints=constraints, forecast=forecast, remaining=remaining)
        paid = estimates.feasible & ~estimates.free
        if remaining.packing[MONEY_ROW] <= 0.0:
            paid = np.zeros_like(paid)
        allowed = np.where(paid.any(axis=1, keepdims=True), paid, estimates.free)
        weights = pick_best(estimates.reward.mean, allowed=allowed)
        gain = (weights * estimates.reward.mean).sum(axis=1)
        return idle_plan(estimates, weights=weights, objective=float(forecast.mean @ gain))
