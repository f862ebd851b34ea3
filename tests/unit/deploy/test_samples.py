"""The sample configurations can be used as they are, but for what belongs to their user."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.fleet_config import parse_fleet
from edge_agent import config

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
SAMPLES = sorted((DEPLOY / "samples").glob("*.toml"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_lacks_models_and_secrets_only(sample: Path) -> None:
    """Every key is known and every value allowed."""
    settings = config.load(sample, {})
    problems = {problem.key.split(".")[0].partition("[")[0] for problem in config.check(settings)}
    assert problems <= {"coordinator", "models"}


def test_the_samples_name_arms_of_the_example_fleet() -> None:
    """A device may join the fleet that `deploy/fleet.example.toml` describes."""
    toml = (DEPLOY / "fleet.example.toml").read_text()
    arms = parse_fleet(toml, now_unix_ms=0).arms
    named = {model.arm for sample in SAMPLES for model in config.load(sample, {}).models}
    assert named <= set(arms)
