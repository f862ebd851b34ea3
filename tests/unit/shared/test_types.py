"""Requests, arms and outcomes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.decision.types import (
    Attempt,
    Feedback,
    Judge,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolRecord,
)
from tests.fakes.samples import cloud_arm, device_config, local_arm

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


FEEDBACK = Feedback("r1", "code", "cloud", 900_000, "user", 7)


def test_a_record_is_the_same_however_it_came() -> None:
    """Its bytes from the wire say nothing that its body does not."""
    record = SpoolRecord(3, "inc", FEEDBACK, b"as it came")
    same = SpoolRecord(3, "inc", FEEDBACK)
    assert record == same
    assert not record != same  # noqa: SIM202 - a tuple's own comparison would say otherwise
    assert 1 == len({record, same})
    others = [record._replace(sequence=4), record._replace(incarnation="x"), (3, "inc", FEEDBACK)]
    assert all(record != other for other in others)


def test_a_grade_that_counts_less_than_a_full_one_is_weak() -> None:
    """Beside it a full one may still come."""
    assert not FEEDBACK.is_weak
    assert replace(FEEDBACK, weight_ppm=999_999).is_weak


@pytest.mark.parametrize(("cost", "overran"), [(90, False), (91, True)])
def test_a_bill_above_the_reservation_is_an_overrun(cost: int, overran: bool) -> None:
    """Up to the reservation it is what was to be expected (rule S_4)."""
    assert overran is PAID._replace(reserved_nanos=90, cost_nanos=cost).is_overrun


def test_records_are_told_apart_by_all_that_they_say() -> None:
    """A set of them is as good as a list."""
    records = [
        SpoolRecord(sequence, incarnation, replace(FEEDBACK, request_id=request))
        for sequence in (1, 2)
        for incarnation in ("a", "b")
        for request in ("r1", "r2")
    ]
    assert 8 == len({hash(record) for record in records})
    assert records[0] != tuple(records[0])


def test_the_keys_that_the_coordinator_delivers_are_those_of_arms_and_judge() -> None:
    """Others are the device's own affair."""
    ours, own, judges = (
        cloud_arm("a", api_key_ref="coordinator:eu:shop"),
        cloud_arm("b", api_key_ref="env:KEY"),
        cloud_arm("judge", api_key_ref="coordinator:judge"),
    )
    config = device_config(ours, own, local_arm())
    assert frozenset({"eu:shop"}) == config.provider_keys
    judged = replace(config, judge=Judge(judges, 16))
    assert frozenset({"eu:shop", "judge"}) == judged.provider_keys


@pytest.mark.parametrize(
    ("capabilities", "chats"),
    [((), True), (("embeddings",), False), (("chat", "embeddings"), True)],
)
def test_an_arm_of_embeddings_alone_does_not_chat(
    capabilities: tuple[str, ...], chats: bool
) -> None:
    """Every other arm does, whether or not it says so."""
    assert chats is local_arm(capabilities=frozenset(capabilities)).chats
