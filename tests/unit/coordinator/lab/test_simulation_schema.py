"""Scenario files: what is read, and how what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.fleet_config import parse_fleet
from coordinator.lab.simulation.admissible import admissibility
from coordinator.lab.simulation.fleet_file import fleet_toml
from coordinator.lab.simulation.schema import (
    load_scenario,
    scenario_path,
    shipped_scenarios,
)
from shared.errors import ConfigError
from tests.unit.coordinator.lab.simulation_cases import SMALL, event, small


def written(folder: Path, text: str) -> Path:
    """A scenario file with this text."""
    path = folder / "scenario.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("devices = 3", "devises = 3", "device_classes.edge.devises: unknown key"),
        ("devices = 3", "devices = 0", "device_classes.edge.devices"),
        ('arms = ["tiny", "cloud"]', 'arms = ["tiny", "clod"]', "device_classes.edge.arms"),
        ("requests = { edge = 8.0 }", "requests = { pi = 8.0 }", "task_classes.easy.requests.pi"),
        ("reward = { easy = 0.8, hard = 0.3 }", "reward = { easy = 0.8 }", "arms.tiny.reward"),
        ('kind = "local"', 'kind = "cloud"', "arms.tiny.price"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    """An unknown key, a value out of range and a dangling name are errors that name the key."""
    path = written(tmp_path, SMALL.replace(old, new))

    with pytest.raises(ConfigError) as caught:
        load_scenario(path)

    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (event("price", at_slot=3, arm="tiny", factor=2.0), "events[0].arm"),
        (event("price", at_slot=30, arm="cloud", factor=2.0), "events[0].at_slot"),
        (event("quality", at_slot=3, arm="cloud"), "events[0].reward"),
        (event("new_arm", at_slot=3, arm="cloud"), "arms.cloud.absent"),
        (event("budget", at_slot=3), "events[0].amount_usd"),
        (event("dead_arm", at_slot=3, until_slot=3, arm="cloud"), "events[0].until_slot"),
        (event("demand", at_slot=3, task_class="odd"), "events[0].task_class"),
    ],
)
def test_an_event_that_cannot_happen_is_named(tmp_path: Path, table: str, key: str) -> None:
    """Events are checked against the rest of the scenario."""
    with pytest.raises(ConfigError) as caught:
        small(tmp_path, more=table)

    assert key in str(caught.value)


def test_an_unknown_scenario_names_the_shipped_ones() -> None:
    """A name that is neither a file nor shipped is an error that lists what is shipped."""
    with pytest.raises(ConfigError, match="binding-budget"):
        scenario_path("no-such-scenario")


def test_the_coordinator_accepts_the_fleet_file_of_every_shipped_scenario() -> None:
    """What a scenario configures goes through the same parser as an operator's file."""
    for name in shipped_scenarios():
        scenario = load_scenario(scenario_path(name))
        absent = {arm for arm, found in scenario.arms.items() if found.absent}

        fleet = parse_fleet(
            fleet_toml(scenario, absent=absent, price_factor={}), now_unix_ms=10**12
        )

        assert set(scenario.arms) - absent == set(fleet.arms), name
        assert scenario.budget.amount_usd == fleet.budget.amount_nanos, name


def test_a_price_factor_changes_the_price_alone(tmp_path: Path) -> None:
    """The factor of a price event multiplies what the provider asks per token."""
    scenario = small(tmp_path)

    fleet = parse_fleet(fleet_toml(scenario, price_factor={"cloud": 3.0}), now_unix_ms=10**12)

    assert 15_000_000_000 == fleet.prices["cloud"].input_nanos_per_mtok
    assert 60_000_000_000 == fleet.prices["cloud"].output_nanos_per_mtok


@pytest.mark.parametrize("name", shipped_scenarios())
def test_every_shipped_scenario_is_admissible(name: str) -> None:
    """Local arms serve 30 %, three arms 10 % each, and what is said to bind has a price."""
    path = scenario_path(name)

    assert () == admissibility(load_scenario(path), folder=path.parent).problems


def test_a_row_that_does_not_bind_makes_a_scenario_inadmissible(tmp_path: Path) -> None:
    """To say that the SLA binds where every answer is in time is an error."""
    text = SMALL.replace('name = "small"', 'name = "small"\nbinding = ["sla"]')

    found = admissibility(load_scenario(written(tmp_path, text)))

    assert 1 == len(found.problems)
    assert "'sla' has no price" in found.problems[0]


def test_an_optimum_of_one_arm_is_inadmissible(tmp_path: Path) -> None:
    """With money for everything the cloud serves all, and nothing can be told apart."""
    text = SMALL.replace('amount_usd = "0.30"', 'amount_usd = "100"')

    found = admissibility(load_scenario(written(tmp_path, text)))

    assert any("local arms serve" in problem for problem in found.problems)
