"""What holds of every policy, whatever it is given; and that these checks can fail."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.policy import (
    Constraints,
    Estimates,
    Forecast,
    Plan,
    Policy,
    Remaining,
    make_policy,
    policy_names,
)
from coordinator.policy.lp_ucb import LpUcb
from tests.unit.coordinator.policy_cases import (
    check_always_a_plan,
    check_deterministic,
    check_equivariant,
    check_monotone_in_money,
    check_resident,
    check_serves_where_free,
    check_sub_distribution,
    check_within_budget,
    loaded_case,
    random_case,
)

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


@dataclass(frozen=True)
class Broken(LpUcb):
    """The default policy with one fault."""

    fault: str = ""

    def plan(
        self,
        estimates: Estimates,
        *,
        constraints: Constraints,
        forecast: Forecast,
        remaining: Remaining,
        rng: np.random.Generator,
    ) -> Plan:
        """Plan as the sound policy does, then spoil it."""
        sound = super().plan(
            estimates, constraints=constraints, forecast=forecast, remaining=remaining, rng=rng
        )
        weights = sound.weights.copy()
        match self.fault:
            case "overweight":
                weights[:, 0] += 0.01
            case "ambient":
                weights *= np.random.default_rng().uniform(0.5, 1.0)
            case "first_arm":
                weights = np.zeros_like(weights)
                weights[:, 0] = estimates.feasible[:, 0]
            case "spendthrift":
                dearest = np.argmax(estimates.packing[0].mean * estimates.feasible, axis=1)
                weights = np.eye(weights.shape[1])[dearest] * estimates.feasible
            case "miser":
                return replace(sound, objective=-float(remaining.packing[0]))
            case "nan":
                return replace(sound, objective=float("nan"))
            case "everywhere":
                weights = np.full_like(weights, 1.0 / weights.shape[1])
            case "silent":
                weights = np.zeros_like(weights)
        return replace(sound, weights=weights)


@pytest.mark.parametrize("name", policy_names())
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_a_plan_is_a_sub_distribution_on_feasible_arms(name: str, seed: int) -> None:
    """Also when budgets are gone, floors are out of reach, or a context has no arm at all."""
    check_sub_distribution(make_policy(name), random_case(seed))


@pytest.mark.parametrize("name", policy_names())
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_equal_inputs_give_equal_plans(name: str, seed: int) -> None:
    """No clock, no ambient randomness, no hidden memory."""
    check_deterministic(make_policy(name), random_case(seed))


@pytest.mark.parametrize("name", policy_names())
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_the_order_of_the_arms_does_not_matter(name: str, seed: int) -> None:
    """Permuting the arms permutes the plan (the cases have no ties)."""
    check_equivariant(make_policy(name), random_case(seed), seed=seed)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_lp_ucb_plans_within_the_money_that_is_left(seed: int) -> None:
    """At the cost bounds it used, exploration included."""
    check_within_budget(make_policy("lp_ucb"), random_case(seed))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS, factor=st.floats(min_value=1.0, max_value=10.0))
def test_more_money_never_lowers_the_objective_of_lp_ucb(seed: int, factor: float) -> None:
    """The exploration that more money pays for does not eat it up."""
    check_monotone_in_money(make_policy("lp_ucb"), random_case(seed), factor=factor)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_lp_ucb_serves_every_context_that_has_a_free_arm(seed: int) -> None:
    """An answer that costs nothing is better than none."""
    check_serves_where_free(make_policy("lp_ucb"), random_case(seed))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_lp_ucb_has_a_plan_for_any_fleet(seed: int) -> None:
    """Devices without any capacity, forced demand beyond the money, models that fit nowhere."""
    check_always_a_plan(make_policy("lp_ucb"), loaded_case(seed))
    check_sub_distribution(make_policy("lp_ucb"), loaded_case(seed))
    check_resident(make_policy("lp_ucb"), loaded_case(seed))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_lp_ucb_keeps_its_money_with_devices_that_are_limited(seed: int) -> None:
    """What overflows from busy devices is not paid with money that is not there."""
    check_within_budget(make_policy("lp_ucb"), loaded_case(seed))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=SEEDS, factor=st.floats(min_value=1.0, max_value=10.0))
def test_more_money_never_lowers_the_objective_of_limited_devices(seed: int, factor: float) -> None:
    """Few resident sets are all compared, so that the choice is the best one."""
    check_monotone_in_money(make_policy("lp_ucb"), loaded_case(seed), factor=factor)


CHECKS: dict[str, Callable[[Policy, int], None]] = {
    "overweight": lambda policy, seed: check_sub_distribution(policy, random_case(seed)),
    "ambient": lambda policy, seed: check_deterministic(policy, random_case(seed)),
    "first_arm": lambda policy, seed: check_equivariant(policy, random_case(seed), seed=seed),
    "spendthrift": lambda policy, seed: check_within_budget(policy, random_case(seed)),
    "miser": lambda policy, seed: check_monotone_in_money(policy, random_case(seed), factor=2.0),
    "nan": lambda policy, seed: check_always_a_plan(policy, loaded_case(seed)),
    "everywhere": lambda policy, seed: check_resident(policy, loaded_case(seed)),
    "silent": lambda policy, seed: check_serves_where_free(policy, random_case(seed)),
}


def over_many_cases(check: Callable[[Policy, int], None], *, policy: Policy) -> None:
    """Run one check on forty cases."""
    for seed in range(40):
        check(policy, seed)


@pytest.mark.parametrize("fault", CHECKS)
def test_each_check_finds_the_policy_that_breaks_it(fault: str) -> None:
    """And passes the sound one on the same cases."""
    over_many_cases(CHECKS[fault], policy=LpUcb())
    with pytest.raises(AssertionError):
        over_many_cases(CHECKS[fault], policy=Broken(fault=fault))
