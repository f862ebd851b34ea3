"""Baseline: never pay."""

from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import (
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
class AlwaysLocal:
    """Every request goes to the free arm of highest mean reward.

    A context without a free arm is not served. It learns only about the arm it plays, so it may
    stay on the second best of several local arms.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        return "always_local"

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
        weights = pick_best(estimates.reward.mean, allowed=estimates.free)
        gain = (weights * estimates.reward.mean).sum(axis=1)
        return idle_plan(estimates, weights=weights, objective=float(forecast.mean @ gain))
