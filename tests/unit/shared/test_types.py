"""Requests, arms and outcomes."""

from __future__ import annotations

import pytest

from shared.decision.types import Attempt, Outcome, RequestStatus, SettleKind
from tests.fakes.samples import device_config

LOCAL = Attempt("tiny", latency_ms=5)
PAID = Attempt("cloud", 5, lease_number=3, cost_nanos=70, settle=SettleKind.REPORTED)


@pytest.mark.parametrize(
    ("attempt", "booked"),
    [
        (LOCAL, False),
        (PAID, True),
        (PAID._replace(settle=SettleKind.UNKNOWN), True),
        (PAID._replace(settle=SettleKind.RELEASED, cost_nanos=0), False),
        (PAID._replace(settle=None), False),
        (PAID._replace(lease_number=0), False),
    ],
)
def test_only_what_may_have_been_billed_is_booked_on_a_lease(
    attempt: Attempt, booked: bool
) -> None:
    """A local try has no lease, and a released one cost nothing."""
    assert booked is attempt.is_booked


def test_an_outcome_costs_what_all_its_attempts_cost() -> None:
    """A paid try that failed is paid all the same."""
    outcome = Outcome(
        "r1", "other", 0, RequestStatus.OK, "tiny", "cloud", 10**6, 1, "", forced=False,
        attempts=(PAID, PAID, LOCAL),
    )  # fmt: skip
    assert 140 == outcome.cost_nanos


def test_a_configuration_knows_its_arms_by_id() -> None:
    """An unknown one is None, not an error: a table may be older than the configuration."""
    config = device_config()
    assert config.arms[0] is config.arm(config.arms[0].id)
    assert config.arm("nobody") is None
