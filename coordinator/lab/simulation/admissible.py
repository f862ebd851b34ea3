"""Whether a scenario can tell a good policy from a bad one (policy.md, how it is judged)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.lab.simulation.clairvoyant import Clairvoyant, Yardstick
from coordinator.lab.simulation.schema import Scenario
from coordinator.lab.simulation.world import World

PRICE_MIN = 1e-9


@dataclass(frozen=True, kw_only=True)
class Admissibility:
    """A scenario's optimum, and what makes it inadmissible.

    Attributes
    ----------
    problems : tuple of str
        Empty for an admissible scenario.
    """

    arm_shares: dict[str, float]
    local_share: float
    sla_share: float
    spend_share: float
    prices: dict[str, float]
    problems: tuple[str, ...]


def admissibility(scenario: Scenario, *, folder: Path | None = None) -> Admissibility:
    """Judge the optimum at the expected demand: what serves, and what binds."""
    found = expected_optimum(scenario, folder=folder)
    wanted = scenario.scenario
    local = sum(
        share for arm, share in found.arm_shares.items() if scenario.arms[arm].kind == "local"
    )
    used = sorted(arm for arm, share in found.arm_shares.items() if share >= wanted.arm_share_min)
    prices = {
        "budget": max(optimum.money_price for optimum in found.optima),
        "sla": max(optimum.sla_price for optimum in found.optima),
        "capacity": max(float(optimum.capacity_price.max()) for optimum in found.optima),
    }
    problems = [
        f"binding: {name!r} has no price at the optimum, so it does not bind"
        for name in wanted.binding
        if prices[name] * (1e9 if name == "budget" else 1.0) <= PRICE_MIN
    ]
    if local < wanted.local_share_min:
        problems.append(
            f"local arms serve {local:.1%} of the requests at the optimum, "
            f"{wanted.local_share_min:.0%} are wanted: raise their reward or lower the budget"
        )
    if len(used) < wanted.arms_min:
        problems.append(
            f"only {', '.join(used) or 'no arm'} serve {wanted.arm_share_min:.0%} at the optimum, "
            f"{wanted.arms_min} arms are wanted"
        )
    budget = max(1.0, float(scenario.budget.amount_usd))
    return Admissibility(
        arm_shares=found.arm_shares,
        local_share=local,
        sla_share=found.sla_share,
        spend_share=found.spent_nanos / budget,
        prices=prices,
        problems=tuple(problems),
    )


def expected_optimum(scenario: Scenario, *, folder: Path | None = None) -> Clairvoyant:
    """The clairvoyant's window at expected demand, regime after regime."""
    quiet = scenario.model_copy(
        update={
            "device_classes": {
                name: found.model_copy(update={"devices": 1})
                for name, found in scenario.device_classes.items()
            }
        }
    )
    world = World(quiet, seed=0, folder=folder)
    regimes = world.foreseen_regimes()
    yardstick = Yardstick(scenario, contexts=world.demand.contexts, arms=world.arms)
    return yardstick.over(regimes, counts=np.asarray(world.demand.mean))
