"""Policies: from estimates, limits and a forecast to the plan of one slot."""

from typing import Any

from coordinator.policy.ad_ucb import AdUcb
from coordinator.policy.always_cloud import AlwaysCloud
from coordinator.policy.always_local import AlwaysLocal
from coordinator.policy.base import (
    Bounds,
    Capacity,
    Constraints,
    Estimates,
    Forecast,
    Plan,
    Policy,
    Remaining,
)
from coordinator.policy.copac_ucb import CopacUcb
from coordinator.policy.fluid import FluidSolution, solve_fluid_lp
from coordinator.policy.greedy import Greedy
from coordinator.policy.lp_ucb import LpUcb
from coordinator.policy.pd_bwk import PdBwk
from coordinator.policy.sw_ucb import SwUcb
from coordinator.policy.uniform import Uniform

__all__ = [
    "Bounds",
    "Capacity",
    "Constraints",
    "CopacUcb",
    "Estimates",
    "FluidSolution",
    "Forecast",
    "LpUcb",
    "Plan",
    "Policy",
    "Remaining",
    "make_policy",
    "policy_names",
    "solve_fluid_lp",
]

_POLICIES: dict[str, Any] = {
    "ad_ucb": AdUcb,
    "always_cloud": AlwaysCloud,
    "always_local": AlwaysLocal,
    "copac_ucb": CopacUcb,
    "greedy": Greedy,
    "lp_ucb": LpUcb,
    "pd_bwk": PdBwk,
    "sw_ucb": SwUcb,
    "uniform": Uniform,
}


def policy_names() -> list[str]:
    """Return the names that ``make_policy`` knows, sorted."""
    return sorted(_POLICIES)


def make_policy(name: str, **options: Any) -> Policy:
    """Return a policy.

    Parameters
    ----------
    name : str
        One of ``policy_names()``.
    **options
        Options of the class, see there.

    Raises
    ------
    ValueError
        For an unknown name or option, or a bad value; names it and the known ones.

    Examples
    --------
    >>> make_policy("lp_ucb", explore_requests=4).name
    'lp_ucb'
    """
    if name not in _POLICIES:
        raise ValueError(f"unknown policy {name!r}, known are {policy_names()}")
    known = sorted(_POLICIES[name].__dataclass_fields__)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"unknown options {unknown} of policy {name!r}, known are {known}")
    policy: Policy = _POLICIES[name](**options)
    return policy
