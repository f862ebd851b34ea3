"""What holds of every solution of the fluid programme; and that these checks can fail."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.policy import fluid, simplex
from coordinator.policy.base import FloatArray
from coordinator.policy.decomposition import Scaled
from coordinator.policy.fluid import FluidSolution, solve_fluid_lp
from coordinator.policy.highs import solve_with_highs
from tests.unit.coordinator.fluid_cases import (
    Case,
    check_equivariant,
    check_feasible,
    check_optimal,
    check_priced,
    check_twins,
    random_case,
)

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
EXAMPLES = partial(settings, deadline=None, derandomize=True)


@EXAMPLES(max_examples=150)
@given(seed=SEEDS)
def test_the_weights_keep_every_row(seed: int) -> None:
    """Exactly, up to the last digits; also without budget, without arms, without demand."""
    case = random_case(seed)
    check_feasible(case, case.solved())


@EXAMPLES(max_examples=150)
@given(seed=SEEDS)
def test_the_objective_is_that_of_highs(seed: int) -> None:
    """Within 1e-6 per request."""
    case = random_case(seed)
    check_optimal(case, case.solved())


@EXAMPLES(max_examples=150)
@given(seed=SEEDS)
def test_the_prices_prove_the_optimum(seed: int) -> None:
    """Their bound equals the objective, computed here from the definition."""
    case = random_case(seed)
    check_priced(case, case.solved())


@EXAMPLES(max_examples=15)
@given(seed=SEEDS)
def test_hundreds_of_contexts_are_solved_as_exactly(seed: int) -> None:
    """Where contexts share groups, and the reference would take its time."""
    case = random_case(seed, contexts_max=400, arms_max=16)
    found = case.solved()
    check_feasible(case, found)
    check_priced(case, found)


@EXAMPLES(max_examples=60)
@given(seed=SEEDS)
def test_the_order_of_the_arms_does_not_matter(seed: int) -> None:
    """Permuting the arms permutes the weights, up to ties."""
    check_equivariant(random_case(seed), seed=seed)


@EXAMPLES(max_examples=40)
@given(seed=SEEDS)
def test_contexts_that_are_alike_get_the_same_weights(seed: int) -> None:
    """To the last bit, since they are one context to the solver."""
    check_twins(random_case(seed))


@EXAMPLES(max_examples=25)
@given(seed=SEEDS)
def test_equal_programmes_have_equal_solutions(seed: int) -> None:
    """To the last bit."""
    case = random_case(seed)
    first, second = case.solved(), case.solved()
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name))


def counted_fallbacks(monkeypatch: pytest.MonkeyPatch, seeds: range) -> list[int]:
    """The seeds whose programmes HiGHS had to solve."""
    fallen: list[int] = []
    present = -1

    def counting(scaled: Scaled) -> tuple[FloatArray, FloatArray]:
        fallen.append(present)
        return solve_with_highs(scaled)

    monkeypatch.setattr(fluid, "solve_with_highs", counting)
    for present in seeds:
        random_case(present, contexts_max=30).solved()
    return fallen


def test_no_programme_in_two_thousand_is_left_to_highs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The structured solver certifies all of them."""
    assert [] == counted_fallbacks(monkeypatch, range(2_000))


def test_a_solver_that_stops_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it cannot prove goes to HiGHS, and the result is optimal all the same."""
    monkeypatch.setattr(simplex, "_GAIN_MIN", 0.2)
    fallen = counted_fallbacks(monkeypatch, range(60))
    assert len(fallen) > 10
    for seed in fallen:
        case = random_case(seed, contexts_max=30)
        found = case.solved()
        check_feasible(case, found)
        check_optimal(case, found)


def broken(fault: str) -> Callable[..., FluidSolution]:
    """A solver with one fault."""

    def solver(demand: FloatArray, **arguments: Any) -> FluidSolution:
        if fault == "deaf":
            sound = solve_fluid_lp(demand, **{**arguments, "capacity": None})
            capacity = arguments["capacity"]
            count = 0 if capacity is None else capacity.limit.size
            return replace(sound, capacity_dual=np.zeros(count))
        sound = solve_fluid_lp(demand, **arguments)
        match fault:
            case "overweight":
                return replace(sound, weights=sound.weights * 1.001)
            case "spendthrift":
                return replace(sound, weights=np.sign(sound.weights) * arguments["feasible"])
            case "boastful":
                return replace(sound, objective=sound.objective + 1e-5 * demand.sum())
            case "timid":
                return replace(sound, objective=sound.objective - 1e-5 * demand.sum())
            case "cheap":
                return replace(sound, packing_dual=np.zeros_like(sound.packing_dual))
            case "dear":
                return replace(sound, packing_dual=sound.packing_dual * 1.01)
            case "careless":
                return replace(sound, covering_dual=sound.covering_dual * 0.9)
            case "first_arm":
                weights = np.zeros_like(sound.weights)
                weights[:, 0] = sound.weights.sum(axis=1)
                return replace(sound, weights=weights)
            case _:
                drift = np.linspace(1.0, 0.9, demand.size)[:, None]
                return replace(sound, weights=sound.weights * drift)

    return solver


def solved(check: Callable[[Case, FluidSolution], None], fault: str) -> Callable[[int], None]:
    """The check of one seed's programme, solved by the broken solver."""
    return lambda seed: check(random_case(seed), random_case(seed).solved(broken(fault)))


CHECKS: dict[str, Callable[[int], None]] = {
    "overweight": solved(check_feasible, "overweight"),
    "spendthrift": solved(check_feasible, "spendthrift"),
    "deaf": solved(check_feasible, "deaf"),
    "boastful": solved(check_optimal, "boastful"),
    "timid": solved(check_optimal, "timid"),
    "cheap": solved(check_priced, "cheap"),
    "dear": solved(check_priced, "dear"),
    "careless": solved(check_priced, "careless"),
    "first_arm": lambda seed: check_equivariant(random_case(seed), broken("first_arm"), seed=seed),
    "drifting": lambda seed: check_twins(random_case(seed), broken("drifting")),
}


@pytest.mark.parametrize("fault", CHECKS)
def test_a_broken_solver_is_caught(fault: str) -> None:
    """Each property fails for a solver that lacks it."""
    with pytest.raises(AssertionError):
        for seed in range(40):
            CHECKS[fault](seed)
