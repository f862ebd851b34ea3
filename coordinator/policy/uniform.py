"""Baseline: no preference."""

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
)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every feasible arm of a context is equally likely.

    When the money is used up, every free arm is. Its propensities make it the reference for
    off-policy estimates.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        return "uniform"

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
        spent = remaining.packing[MONEY_ROW] <= 0.0
        allowed = estimates.free if spent else estimates.feasible
        weights = allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1)
        gain = (weights * estimates.reward.mean).sum(axis=1)
        return idle_plan(estimates, weights=weights, objective=float(forecast.mean @ gain))
