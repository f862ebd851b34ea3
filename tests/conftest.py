"""What every test shares: how Hypothesis draws its examples, and logging that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings

# The machine that runs the tests may be slow and shared, so no example has a time limit.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# New examples at every run, to go looking: pytest --hypothesis-profile=explore
settings.register_profile(
    "explore", settings.get_profile("ci"), derandomize=False, max_examples=1_000
)
# Few examples, and the first failure is enough: python -m tests.mutants
settings.register_profile(
    "mutants",
    settings.get_profile("ci"),
    max_examples=25,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A program that a test runs in this process sets up logging; the next test is spared that."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
