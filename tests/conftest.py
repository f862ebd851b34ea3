"""What every test shares: how Hypothesis draws its examples."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

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
settings.load_profile("ci")
