"""What is true in the world, and the yardstick that knows it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from coordinator.lab.simulation.clairvoyant import Yardstick
from coordinator.lab.simulation.queueing import share_in_time, waits
from coordinator.lab.simulation.tally import Regime
from coordinator.lab.simulation.truth import Distribution, Truth, lognormal, rewards
from coordinator.lab.simulation.world import World
from shared.decision.money import Price
from tests.unit.coordinator.lab.simulation_cases import event, small


@pytest.mark.parametrize("kind", ["bernoulli", "beta"])
@pytest.mark.parametrize("mean", [0.0, 0.07, 0.5, 0.93, 1.0])
def test_rewards_have_the_stated_mean_and_stay_within_bounds(kind: str, mean: float) -> None:
    """The table of rewards means what the scenario says, to a thousandth."""
    found = rewards(mean, kind=kind, concentration=3.0)

    assert mean == pytest.approx(found.mean, abs=1e-3)
    assert 0.0 <= found.values[0] <= found.values[-1] <= 1.0


def test_a_distribution_knows_its_mean_and_its_shares_exactly() -> None:
    """Draws come from the table whose mean and shares are told."""
    found = lognormal(1_000.0, sigma=0.5)
    rng = Random(1)
    draws = [found.draw(rng) for _ in range(20_000)]

    assert 1_000.0 == pytest.approx(found.mean, rel=5e-3)
    assert found.mean == pytest.approx(float(np.mean(draws)), rel=0.02)
    share = float(np.mean([draw <= 800.0 for draw in draws]))
    assert found.share_up_to(800.0) == pytest.approx(share, abs=0.02)


def test_the_mean_cost_is_that_of_the_drawn_tokens(tmp_path: Path) -> None:
    """Expected cost and what a price list makes of many draws agree."""
    truth, rng = Truth(small(tmp_path)), Random(2)
    price = Price(input_nanos_per_mtok=5_000_000_000, output_nanos_per_mtok=20_000_000_000)
    costs = [
        price.cost_nanos(
            prompt_tokens=int(truth.prompt["hard"].draw(rng)),
            completion_tokens=int(truth.contexts["edge", "hard", "cloud"].completion.draw(rng)),
        )
        for _ in range(20_000)
    ]

    expected = truth.cost_mean("edge", task="hard", arm="cloud", price=price)
    assert expected == pytest.approx(float(np.mean(costs)), rel=0.01)


def test_nobody_waits_without_a_load() -> None:
    """An idle device has no queue."""
    found, load = waits([(0.0, lognormal(10.0, sigma=0.3))], workers=2)

    assert [0.0] == found.tolist()
    assert load == 0.0


def test_waits_are_those_of_queueing_theory() -> None:
    """One worker with constant service at half load waits half a service time (M/D/1)."""
    constant = Distribution(np.full(2_048, 100.0))

    found, load = waits([(0.005, constant)], workers=1)

    assert 0.5 == pytest.approx(load)
    assert 50.0 == pytest.approx(float(found.mean()), rel=0.15)
    in_time = share_in_time(constant, waited=found, deadline_ms=100.0)
    assert 0.5 == pytest.approx(in_time, abs=0.04)


def regimes(tmp_path: Path, *, more: str = "") -> tuple[Yardstick, list[Regime]]:
    """The small scenario's yardstick and the regimes of its window."""
    scenario = small(tmp_path, more=more)
    world = World(scenario, seed=0)
    found = world.foreseen_regimes()
    return Yardstick(scenario, contexts=world.demand.contexts, arms=world.arms), found


def test_the_clairvoyant_spends_where_a_dollar_earns_most(tmp_path: Path) -> None:
    """Hard tasks gain 0.6 by the cloud, easy ones 0.1: the money goes to the hard ones."""
    yardstick, (regime,) = regimes(tmp_path)
    demand = np.array([160.0, 120.0])
    per_task = {task: regime.cost[row, 0] for row, (_, task) in enumerate(yardstick.contexts)}

    found = yardstick.optimum(
        regime, demand=demand, slots=20, money=60.0 * per_task["hard"], debt=0.0
    )

    assert ("edge", "easy") == yardstick.contexts[0]
    assert ("cloud", "tiny") == yardstick.arms
    assert [0.0, 1.0] == pytest.approx(found.weights[0].tolist(), abs=1e-6)
    assert [0.5, 0.5] == pytest.approx(found.weights[1].tolist(), abs=1e-6)
    assert 0.6 / per_task["hard"] == pytest.approx(found.money_price, rel=1e-6)
    assert 160 * 0.8 + 60 * 0.9 + 60 * 0.3 == pytest.approx(found.objective)


def test_the_price_of_money_is_what_one_more_dollar_earns(tmp_path: Path) -> None:
    """The dual price agrees with the difference of two optima."""
    yardstick, (regime,) = regimes(tmp_path)
    demand = np.array([160.0, 120.0])

    def objective(money: float) -> float:
        return yardstick.optimum(regime, demand=demand, slots=20, money=money, debt=0.0).objective

    found = yardstick.optimum(regime, demand=demand, slots=20, money=1e8, debt=0.0)

    gain = (objective(1.001e8) - objective(0.999e8)) / 2e5
    assert found.money_price == pytest.approx(gain, rel=1e-3)


def test_the_clairvoyant_does_not_know_of_a_change_before_it_comes(tmp_path: Path) -> None:
    """Up to the change it serves as if nothing came; after it, it follows the new truth."""
    more = event("quality", at_slot=10, arm="cloud", task_class="hard", reward=0.3)
    yardstick, found = regimes(tmp_path, more=more)
    _, calm = regimes(tmp_path)
    counts = np.tile([8.0, 6.0], (20, 1))

    changed = yardstick.over(found, counts=counts)
    unchanged = yardstick.over(calm, counts=counts)

    assert [0, 10] == [regime.slot for regime in found]
    before, usual = changed.optima[0].weights, unchanged.optima[0].weights
    assert usual.ravel().tolist() == pytest.approx(before.ravel().tolist())
    # Then only easy tasks gain by the cloud, and the money left goes to them.
    assert changed.optima[1].weights[0, 0] > 0.5 > before[0, 0]
    assert changed.value < unchanged.value


def test_a_dead_arm_is_not_feasible_and_a_new_one_is(tmp_path: Path) -> None:
    """The regimes tell which arms work, from which slot to which."""
    _, found = regimes(tmp_path, more=event("dead_arm", at_slot=5, until_slot=9, arm="cloud"))

    assert [0, 5, 9] == [regime.slot for regime in found]
    assert [True, False, True] == [bool(regime.feasible[0, 0]) for regime in found]
    assert [True, True, True] == [bool(regime.feasible[0, 1]) for regime in found]
