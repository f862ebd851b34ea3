"""The mode `observe`: a fixed arm answers, and what would have been drawn is only logged."""

from __future__ import annotations

import pytest

from edge_agent.attempts import AttemptEnd
from edge_agent.books import BooksSnapshot, PutReservation
from edge_agent.candidates import ArmCondition
from edge_agent.engine import AgentEngine
from edge_agent.requests import RequestRefused
from shared.decision.money import PPM
from shared.decision.types import Candidate, Fallout, Observation, RequestStatus, SettleKind
from tests.fakes.samples import READY, device_config, facts, granted, local_arm, table

REPORTED = AttemptEnd(10, SettleKind.REPORTED, prompt_tokens=20, completion_tokens=30)


def observing(arm: str, *, lease: bool = True) -> AgentEngine:
    """An engine whose table draws `cloud` nine times in ten."""
    engine = AgentEngine(
        incarnation="i1",
        boot_id="b1",
        snapshot=BooksSnapshot(table=table(), config=device_config()),
        fallback=device_config(local_arm()),
        unix_ms=0,
        observe_arm=arm,
    )
    engine.recover()
    if lease:
        effects = engine.gate.granted(granted(1), incarnation="i1", boot_ms=0)
        engine.gate.synced(effects)
    return engine


def test_the_fixed_arm_answers_and_the_decision_is_logged() -> None:
    """What was drawn, with its propensity and candidates, beside the certainty that answered."""
    engine = observing("tiny")
    engine.begin(facts(), conditions=READY, now_ms=0.0, uniform=0.0)
    plan, _ = engine.next_attempt("r1", boot_ms=0)
    assert plan is not None
    assert "tiny" == plan.arm.id
    assert "observe" == engine.reason("r1")
    outcome, _ = engine.finish(
        "r1", status=RequestStatus.OK, end=AttemptEnd(10), ttft_ms=1, latency_ms=10
    )
    weights = (Candidate("cloud", 900_000), Candidate("tiny", 100_000))
    assert Observation("cloud", 900_000, weights) == outcome.observed
    assert ("tiny", "tiny", PPM) == (outcome.arm, outcome.drawn_arm, outcome.propensity_ppm)
    assert (Candidate("tiny", PPM), Candidate("cloud", 0)) == outcome.candidates
    assert not outcome.forced, "the demand is the policy's to place"


def test_a_paid_fixed_arm_passes_the_gate_as_always() -> None:
    """Reserved before the call, and refused without a lease, without any other arm."""
    engine = observing("cloud")
    engine.begin(facts(), conditions=READY, now_ms=0.0, uniform=0.99)
    plan, effects = engine.next_attempt("r1", boot_ms=0)
    assert plan is not None
    assert [PutReservation] == [type(effect) for effect in effects]
    engine.attempt_failed("r1", AttemptEnd(5, error="http_503"), now_ms=0.0)
    assert engine.next_attempt("r1", boot_ms=0)[0] is None, "as it was before anybody observed"
    poor = observing("cloud", lease=False)
    poor.begin(facts(), conditions=READY, now_ms=0.0, uniform=0.99)
    assert poor.next_attempt("r1", boot_ms=0)[0] is None
    refused = poor.refusal("r1", unix_ms=0)
    assert (429, "budget_exceeded") == (refused.status, refused.code)
    outcome, _ = poor.finish("r1", status=RequestStatus.REFUSED, end=None, ttft_ms=0, latency_ms=1)
    assert outcome.observed is not None
    assert ("tiny", "", ()) == (outcome.observed.arm, outcome.drawn_arm, outcome.candidates)


def test_what_must_stay_on_the_device_stays() -> None:
    """A private request is refused rather than sent to a fixed arm in the cloud."""
    engine = observing("cloud")
    engine.begin(facts(privacy_local=True), conditions=READY, now_ms=0.0, uniform=0.0)
    assert engine.next_attempt("r1", boot_ms=0)[0] is None
    assert (Fallout("cloud", "privacy"),) == engine.refusal("r1", unix_ms=0).fallouts


def test_a_request_that_names_its_model_gets_it() -> None:
    """There is no decision to observe."""
    engine = observing("tiny")
    engine.begin(facts(pinned_arm="cloud"), conditions=READY, now_ms=0.0, uniform=0.0)
    plan, _ = engine.next_attempt("r1", boot_ms=0)
    assert plan is not None
    assert ("cloud", "pinned") == (plan.arm.id, engine.reason("r1"))
    outcome, _ = engine.finish("r1", status=RequestStatus.OK, end=REPORTED, ttft_ms=1, latency_ms=9)
    assert outcome.observed is None


def test_why_arms_were_no_candidates_is_logged_for_both() -> None:
    """The observed decision's fallouts explain it, and do not make the request be refused."""
    engine = observing("tiny")
    conditions = {"tiny": ArmCondition(), "cloud": ArmCondition(problem="offline")}
    engine.begin(facts(), conditions=conditions, now_ms=0.0, uniform=0.0)
    plan, _ = engine.next_attempt("r1", boot_ms=0)
    assert plan is not None
    outcome, _ = engine.finish(
        "r1", status=RequestStatus.OK, end=AttemptEnd(1), ttft_ms=1, latency_ms=1
    )
    assert (Fallout("cloud", "offline"),) == outcome.fallouts
    assert outcome.forced, "nothing else could have answered"


def test_a_fixed_arm_that_the_fleet_does_not_have_is_named() -> None:
    """With those that it has; nothing else answers instead."""
    engine = observing("gpt")
    with pytest.raises(RequestRefused, match=r"observe_arm is 'gpt'.*tiny, cloud") as caught:
        engine.begin(facts(), conditions=READY, now_ms=0.0, uniform=0.0)
    assert 503 == caught.value.status
    assert 0 == engine.requests_in_flight
