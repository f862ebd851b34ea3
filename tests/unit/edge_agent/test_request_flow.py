"""One request through the engine and the gate, without any I/O."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.attempts import AttemptEnd, AttemptPlan
from edge_agent.books import AppendSpool, BookEffect, BooksSnapshot, PutReservation
from edge_agent.candidates import ArmCondition
from edge_agent.engine import AgentEngine
from edge_agent.requests import RequestRefused
from shared.decision.money import PPM, dollars
from shared.decision.table import TableArm
from shared.decision.types import (
    Arm,
    Attempt,
    Candidate,
    CostAdjustment,
    Fallout,
    LeaseClose,
    Outcome,
    RequestStatus,
    SettleKind,
)
from tests.fakes.memory_books import MemoryBooks, MemoryDisk
from tests.fakes.samples import (
    READY,
    WORST_CASE_NANOS,
    at_once,
    cloud_arm,
    device_config,
    facts,
    granted,
    local_arm,
    table,
)

REPORTED = AttemptEnd(10, SettleKind.REPORTED, prompt_tokens=20, completion_tokens=30)
REPORTED_NANOS = (20 + 30) * 100
UNKNOWN = AttemptEnd(10, SettleKind.UNKNOWN, error="broken_stream")


def an_engine(*arms: Arm, rows: tuple[TableArm, ...] = (), lease: bool = True) -> AgentEngine:
    """An engine with a table, a configuration and, unless told otherwise, a synced lease."""
    snapshot = BooksSnapshot(table=table(*rows), config=device_config(*arms))
    engine = AgentEngine(
        incarnation="i1",
        boot_id="b1",
        snapshot=snapshot,
        fallback=device_config(local_arm()),
        unix_ms=0,
    )
    engine.recover()
    if lease:
        lend(engine)
    return engine


def lend(engine: AgentEngine, number: int = 1, **changes: Any) -> list[BookEffect]:
    """Grant a lease and sync it."""
    effects = engine.gate.granted(granted(number, **changes), incarnation="i1", boot_ms=0)
    engine.gate.synced(effects)
    return effects


def begin(engine: AgentEngine, request_id: str = "r1", *, uniform: float = 0.0, **ask: Any) -> None:
    """Admit a request."""
    conditions = ask.pop("conditions", READY)
    engine.begin(facts(request_id, **ask), conditions=conditions, now_ms=0.0, uniform=uniform)


def attempt(engine: AgentEngine, request_id: str = "r1") -> AttemptPlan:
    """The next attempt, which must exist."""
    plan, _ = engine.next_attempt(request_id, boot_ms=0)
    assert plan is not None
    return plan


def finish(
    engine: AgentEngine,
    end: AttemptEnd | None = REPORTED,
    *,
    request_id: str = "r1",
    status: RequestStatus = RequestStatus.OK,
) -> tuple[Outcome, list[BookEffect]]:
    """End a request."""
    return engine.finish(request_id, status=status, end=end, ttft_ms=5, latency_ms=10)


def refused(engine: AgentEngine, request_id: str = "r1") -> RequestRefused:
    """What a client is told when nothing is left to try."""
    assert engine.next_attempt(request_id, boot_ms=0)[0] is None
    return engine.refusal(request_id, unix_ms=0)


def spooled(effects: list[BookEffect]) -> list[object]:
    """The facts that these effects append to the outbox."""
    return [effect.record.body for effect in effects if isinstance(effect, AppendSpool)]


def test_a_late_arm_answers_when_the_gate_refuses_the_one_in_time() -> None:
    """Late is better than never: the device keeps answering (promise P2)."""
    rows = (TableArm("cloud", PPM, latency_p50_ms=100), TableArm("tiny", 0, latency_p50_ms=900))
    engine = an_engine(rows=rows)
    begin(engine, deadline_ms=500)
    engine.gate.recalled(0, boot_ms=0, reason="window ended")
    assert "tiny" == attempt(engine).arm.id
    outcome, _ = finish(engine)
    assert ("tiny", "cloud", PPM) == (outcome.arm, outcome.drawn_arm, outcome.propensity_ppm)
    assert "fallback:cloud=no_lease" == outcome.reason
    assert (Fallout("tiny", "deadline"), Fallout("cloud", "no_lease")) == outcome.fallouts


def test_a_late_arm_without_money_is_no_reason_to_speak_of_time() -> None:
    """It was asked in the end: the client is told that the budget is spent, and not to hurry."""
    engine = an_engine(
        cloud_arm("quick"),
        cloud_arm("slow"),
        rows=(
            TableArm("quick", PPM, latency_p50_ms=100),
            TableArm("slow", 0, latency_p50_ms=900),
        ),
    )
    begin(engine, deadline_ms=500, conditions={"quick": ArmCondition(), "slow": ArmCondition()})
    engine.gate.recalled(0, boot_ms=0, reason="window ended")
    assert (None, []) == engine.next_attempt("r1", boot_ms=0)
    refused = engine.refusal("r1", unix_ms=0)
    assert (429, "budget_exceeded") == (refused.status, refused.code)
    assert {Fallout("quick", "no_lease"), Fallout("slow", "no_lease")} == set(refused.fallouts)


def test_only_an_arm_in_time_is_worth_giving_up_a_wait_for() -> None:
    """A late one answers after all others, and no sooner for that."""
    rows = (TableArm("cloud", PPM, latency_p50_ms=100), TableArm("tiny", 0, latency_p50_ms=900))
    engine = an_engine(rows=rows)
    begin(engine, "r1", deadline_ms=500)
    begin(engine, "r2", deadline_ms=1_000)
    assert (False, True) == (engine.can_fall_back("r1"), engine.can_fall_back("r2"))


def test_route_tells_of_late_arms_as_the_last_fallbacks() -> None:
    """As the request would ask them."""
    rows = (TableArm("cloud", PPM, latency_p50_ms=100), TableArm("tiny", 0, latency_p50_ms=900))
    asked = facts(deadline_ms=500)
    decision = an_engine(rows=rows).route(asked, conditions=READY, now_ms=0.0, uniform=0.0)
    assert ("cloud", ("tiny",)) == (decision.arm, decision.fallbacks)
    assert (Fallout("tiny", "deadline"),) == decision.fallouts


@pytest.mark.parametrize(
    ("uniform", "arm", "propensity_ppm"), [(0.0, "cloud", 900_000), (0.95, "tiny", 100_000)]
)
def test_an_arm_is_drawn_with_its_propensity(uniform: float, arm: str, propensity_ppm: int) -> None:
    """The table's weights draw the arm, and the outcome keeps the probability of the draw."""
    engine = an_engine()
    begin(engine, uniform=uniform)
    plan = attempt(engine)
    outcome, _ = finish(engine)
    assert (plan.arm.id, outcome.arm, outcome.drawn_arm) == (arm, arm, arm)
    assert (outcome.propensity_ppm, outcome.table_version) == (propensity_ppm, 7)
    assert [("tiny", 100_000), ("cloud", 900_000)] == sorted(
        ((each.arm, each.weight_ppm) for each in outcome.candidates), key=lambda pair: pair[1]
    )
    assert (outcome.reason, outcome.forced) == ("table", False)


def test_the_propensity_is_renormalised_over_the_candidates() -> None:
    """An arm that cannot answer gives its weight to those that can."""
    engine = an_engine()
    begin(engine, conditions={"cloud": ArmCondition(), "tiny": ArmCondition("model_broken")})
    attempt(engine)
    outcome, _ = finish(engine)
    assert (outcome.propensity_ppm, outcome.forced) == (1_000_000, True)
    assert [Candidate("cloud", 900_000)] == list(outcome.candidates)
    assert outcome.fallouts == (Fallout("tiny", "model_broken"),)
    assert outcome.reason == "table;without:tiny=model_broken"


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        ({"privacy_local": True, "capabilities": frozenset({"tools"})}, "privacy"),
        ({"capabilities": frozenset({"vision"}), "fields": frozenset({"x"})}, "capability:vision"),
        ({"fields": frozenset({"x"}), "media_parts": 1}, "field:x"),
        ({"media_parts": 1, "prompt_bytes": 10**7}, "media_has_no_worst_case"),
        ({"prompt_bytes": 10**7}, "context_length_exceeded"),
        ({}, "disabled"),
    ],
)
def test_the_first_filter_that_stops_an_arm_is_its_reason(ask: dict[str, Any], reason: str) -> None:
    """Privacy, capability, field, media, context, switch: the first in this order is named."""
    engine = an_engine(cloud_arm(enabled=False), lease=False)
    begin(engine, pinned_arm="cloud", conditions={}, **ask)
    outcome, _ = finish(engine, None, status=RequestStatus.REFUSED)
    assert outcome.fallouts == (Fallout("cloud", reason),)


def test_an_arm_without_a_model_here_is_named_before_the_money() -> None:
    """An arm that this device does not have is no question of the budget."""
    engine = an_engine(lease=False)
    begin(engine, pinned_arm="cloud", conditions={})
    assert refused(engine).fallouts == (Fallout("cloud", "not_on_this_device"),)


def test_a_pinned_arm_answers_whatever_the_table_says() -> None:
    """A client that names an arm gets that arm, forced and with certainty."""
    engine = an_engine()
    begin(engine, pinned_arm="tiny")
    assert attempt(engine).arm.id == "tiny"
    outcome, _ = finish(engine)
    assert (outcome.reason, outcome.forced, outcome.propensity_ppm) == ("pinned", True, 1_000_000)


def test_an_unknown_arm_is_a_404_and_not_admitted() -> None:
    """Pinning an arm that the fleet lacks is refused with the names that it has."""
    engine = an_engine()
    with pytest.raises(RequestRefused, match="known are: auto, tiny, cloud") as caught:
        begin(engine, pinned_arm="gpt")
    assert (caught.value.status, caught.value.param) == (404, "model")
    assert not engine.knows("r1")


def turn(engine: AgentEngine, request_id: str, **ask: Any) -> Outcome:
    """One turn of a conversation, answered by the arm that was drawn."""
    begin(engine, request_id, **ask)
    attempt(engine, request_id)
    return finish(engine, request_id=request_id)[0]


def test_a_conversation_keeps_its_arm() -> None:
    """The next turn repeats the draw, with that draw's propensity and candidates, and says so."""
    engine = an_engine()
    first = turn(engine, "r1", uniform=0.95, turn="t1")
    engine.table_pushed(table(TableArm("cloud", 600_000), TableArm("tiny", 400_000), version=8))
    second = turn(engine, "r2", uniform=0.0, turn="t2", goes_on_from="t1")
    third = turn(engine, "r3", uniform=0.0, turn="t3", goes_on_from="t2")
    assert ["tiny"] * 3 == [each.arm for each in (first, second, third)]
    assert [100_000] * 3 == [each.propensity_ppm for each in (first, second, third)]
    assert first.candidates == second.candidates == third.candidates
    assert ["table", "table;kept", "table;kept"] == [o.reason for o in (first, second, third)]
    assert not second.forced


def test_a_conversation_without_a_remembered_turn_is_drawn() -> None:
    """A first turn, an edited history, or one that another agent answered."""
    engine = an_engine()
    turn(engine, "r1", uniform=0.95, turn="t1")
    assert "cloud" == turn(engine, "r2", turn="t9", goes_on_from="t8").arm
    assert "cloud" == turn(engine, "r3", turn="t1").arm


@pytest.mark.parametrize(
    ("rows", "conditions"),
    [
        ((), {**READY, "tiny": ArmCondition("model_broken")}),
        ((TableArm("cloud", 960_000), TableArm("tiny", 40_000)), READY),
    ],
    ids=["it cannot answer now", "the plan has moved away from it"],
)
def test_an_arm_is_kept_only_while_it_is_feasible_and_worth_it(
    rows: tuple[TableArm, ...], conditions: dict[str, ArmCondition]
) -> None:
    """Otherwise the turn makes a draw of its own, and the next one goes on with that."""
    engine = an_engine()
    turn(engine, "r1", uniform=0.95, turn="t1")
    if rows:
        engine.table_pushed(table(*rows))
    second = turn(engine, "r2", turn="t2", goes_on_from="t1", conditions=conditions)
    assert ("cloud", False) == (second.arm, "kept" in second.reason)
    engine.table_pushed(table(TableArm("cloud", 500_000), TableArm("tiny", 500_000)))
    third = turn(engine, "r3", uniform=0.95, turn="t3", goes_on_from="t2")
    assert ("cloud", "table;kept") == (third.arm, third.reason)


def test_a_fallback_is_not_kept() -> None:
    """Only the arm that was drawn is: its propensity is known."""
    engine = an_engine()
    begin(engine, "r1", turn="t1")
    attempt(engine, "r1")
    engine.attempt_failed("r1", UNKNOWN, now_ms=0.0)
    assert "tiny" == attempt(engine, "r1").arm.id
    finish(engine, AttemptEnd(1))
    assert "table" == turn(engine, "r2", turn="t2", goes_on_from="t1").reason


def test_a_kept_arm_that_fails_gives_way_to_the_others() -> None:
    """A conversation is no reason to go without an answer."""
    engine = an_engine()
    turn(engine, "r1", turn="t1")
    begin(engine, "r2", turn="t2", goes_on_from="t1", uniform=0.95)
    assert "cloud" == attempt(engine, "r2").arm.id
    engine.attempt_failed("r2", UNKNOWN, now_ms=0.0)
    assert "tiny" == attempt(engine, "r2").arm.id


def test_route_tells_that_a_conversation_keeps_its_arm() -> None:
    """The decision without the call is the same decision."""
    engine = an_engine()
    turn(engine, "r1", uniform=0.95, turn="t1")
    asked = facts("r2", turn="t2", goes_on_from="t1")
    decision = engine.route(asked, conditions=READY, now_ms=0.0, uniform=0.0)
    assert ("tiny", "table;kept", 100_000) == (
        decision.arm,
        decision.reason,
        decision.propensity_ppm,
    )
    assert ("cloud",) == decision.fallbacks


def test_an_arm_that_could_cost_more_than_allowed_is_no_candidate() -> None:
    """The client's cap closes arms by their worst case; free arms stay."""
    engine = an_engine()
    begin(engine, max_cost_nanos=WORST_CASE_NANOS - 1)
    assert "tiny" == attempt(engine).arm.id
    outcome, _ = finish(engine, AttemptEnd(1))
    assert outcome.fallouts == (Fallout("cloud", "max_cost"),)
    begin(engine, "r2", max_cost_nanos=WORST_CASE_NANOS)
    assert "cloud" == attempt(engine, "r2").arm.id


def test_a_cap_that_no_arm_keeps_to_is_a_400_that_names_the_cheapest() -> None:
    """The client learns what it would have to allow."""
    engine = an_engine()
    begin(engine, pinned_arm="cloud", max_cost_nanos=0)
    told = refused(engine)
    assert (told.status, told.code) == (400, "max_cost_exceeded")
    assert "x-tidegate-max-cost-usd" == told.param
    assert dollars(WORST_CASE_NANOS) in str(told)


def test_a_cap_holds_for_all_attempts_together() -> None:
    """What a failed attempt may have cost counts: the next one has only the rest."""
    arms = (local_arm(), cloud_arm(), cloud_arm("second"))
    rows = (TableArm("cloud", 800_000), TableArm("second", 100_000), TableArm("tiny", 1))
    engine = an_engine(*arms, rows=rows)
    conditions = {**READY, "second": ArmCondition()}
    begin(engine, conditions=conditions, max_cost_nanos=2 * WORST_CASE_NANOS - 1)
    assert attempt(engine).arm.id == "cloud"
    engine.attempt_failed("r1", UNKNOWN, now_ms=0.0)
    assert attempt(engine).arm.id == "tiny"
    outcome, _ = finish(engine, AttemptEnd(1))
    assert outcome.fallouts == (Fallout("second", "max_cost"),)
    assert outcome.cost_nanos == WORST_CASE_NANOS


def test_an_endpoint_that_asks_for_patience_is_passed_on() -> None:
    """A pinned arm's 429 is a 429 for the client, with the endpoint's own `Retry-After`."""
    engine = an_engine()
    begin(engine, pinned_arm="cloud")
    attempt(engine)
    engine.attempt_failed("r1", AttemptEnd(1, error="http_429", retry_after_s=7), now_ms=0.0)
    told = refused(engine)
    assert (told.status, told.code, told.retry_after_s) == (429, "rate_limit_exceeded", 7)


def test_a_local_arm_can_do_what_its_file_says_beside_what_the_fleet_says() -> None:
    """A paid arm can only do what the fleet says; a new configuration forgets nothing."""
    engine = an_engine(local_arm(capabilities=frozenset({"tools"})), cloud_arm())
    said = {"tiny": frozenset({"logprobs"}), "cloud": frozenset({"logprobs"})}
    engine.models_can(said)
    effects = engine.configured(engine.config)
    assert [{"tools", "logprobs"}, set()] == [set(arm.capabilities) for arm in engine.config.arms]
    begin(engine, capabilities=frozenset({"logprobs"}))
    assert "tiny" == attempt(engine).arm.id
    assert effects


EMBEDDER = frozenset({"embeddings"})


def test_an_arm_for_embeddings_does_not_chat_unless_it_says_so() -> None:
    """Most models do one or the other."""
    engine = an_engine(local_arm(capabilities=EMBEDDER), cloud_arm())
    begin(engine, capabilities=frozenset({"chat"}), uniform=0.95)
    assert "cloud" == attempt(engine).arm.id
    assert finish(engine)[0].fallouts == (Fallout("tiny", "capability:chat"),)
    both = an_engine(local_arm(capabilities=EMBEDDER | {"chat"}), cloud_arm())
    begin(both, capabilities=frozenset({"chat"}), uniform=0.95)
    assert "tiny" == attempt(both).arm.id


@pytest.mark.parametrize(
    ("arms", "code"),
    [
        ((local_arm(), cloud_arm()), "unsupported_capability"),
        ((local_arm(capabilities=EMBEDDER), cloud_arm(capabilities=EMBEDDER)), "ambiguous_model"),
    ],
)
def test_embeddings_of_auto_need_exactly_one_arm(arms: tuple[Arm, ...], code: str) -> None:
    """Vectors of different models have nothing in common, so none is ever drawn."""
    with pytest.raises(RequestRefused) as caught:
        an_engine(*arms).embedder()
    assert (400, code, "model") == (caught.value.status, caught.value.code, caught.value.param)
    assert "cloud" == an_engine(local_arm(), cloud_arm(capabilities=EMBEDDER)).embedder()


def test_a_paid_attempt_holds_its_worst_case_before_it_is_sent() -> None:
    """The plan of a paid attempt comes with the reservation that has to be committed."""
    engine = an_engine()
    begin(engine)
    plan, effects = engine.next_attempt("r1", boot_ms=0)
    held = [effect.row for effect in effects if isinstance(effect, PutReservation)]
    assert plan is not None
    assert [(row.id, row.amount_nanos) for row in held] == [(plan.reservation_id, WORST_CASE_NANOS)]
    assert engine.gate.available_nanos == 19 * WORST_CASE_NANOS


def test_a_fallback_passes_the_gate_again() -> None:
    """A second paid attempt has its own reservation; the first one was settled in full."""
    engine = an_engine(
        cloud_arm(), cloud_arm("second"), rows=(TableArm("cloud", 900_000), TableArm("second", 1))
    )
    begin(engine, conditions={"cloud": ArmCondition(), "second": ArmCondition()})
    first = attempt(engine)
    engine.attempt_failed("r1", UNKNOWN, now_ms=0.0)
    second = attempt(engine)
    outcome, _ = finish(engine)
    assert first.reservation_id != second.reservation_id
    assert [try_.cost_nanos for try_ in outcome.attempts] == [WORST_CASE_NANOS, REPORTED_NANOS]
    assert (outcome.arm, outcome.reason) == ("second", "fallback:cloud=broken_stream")
    assert engine.gate.leases()[0].settled_nanos == WORST_CASE_NANOS + REPORTED_NANOS


def test_a_fallback_without_room_for_its_worst_case_is_not_called() -> None:
    """What the first attempt used up is missing for the second: the local arm answers."""
    arms = (local_arm(), cloud_arm(), cloud_arm("second"))
    rows = (TableArm("cloud", 800_000), TableArm("second", 100_000), TableArm("tiny", 1))
    engine = an_engine(*arms, rows=rows, lease=False)
    lend(engine, amount=WORST_CASE_NANOS + 1)
    lend(engine, 2, amount=1)
    engine.gate.problem(facts(), arm=arms[1])
    engine.gate.synced(engine.gate.raised_watermarks())
    begin(engine, conditions={**READY, "second": ArmCondition()})
    assert attempt(engine).arm.id == "cloud"
    engine.attempt_failed("r1", UNKNOWN, now_ms=0.0)
    assert attempt(engine).arm.id == "tiny"
    outcome, _ = finish(engine, AttemptEnd(1))
    assert outcome.fallouts == (Fallout("second", "lease_too_small"),)


def test_a_released_attempt_costs_nothing() -> None:
    """A call that was never executed gives its whole reservation back."""
    engine = an_engine()
    begin(engine)
    attempt(engine)
    engine.attempt_failed("r1", AttemptEnd(1, error="connect_failed"), now_ms=0.0)
    assert engine.gate.available_nanos == 20 * WORST_CASE_NANOS
    assert attempt(engine).arm.id == "tiny"


def test_without_budget_the_client_gets_a_429_that_names_it() -> None:
    """A refusal for lack of money names the budget and what the coordinator said."""
    engine = an_engine(lease=False)
    engine.gate.refused("spent until tomorrow", now_ms=0.0, retry_after_ms=1.0)
    begin(engine, pinned_arm="cloud")
    told = refused(engine)
    assert (told.status, told.code, told.retry_after_s) == (429, "budget_exceeded", 5)
    assert "'monthly'" in str(told)
    assert "spent until tomorrow" in str(told)
    assert told.fallouts == (Fallout("cloud", "no_lease"),)


def test_a_prompt_too_long_for_every_arm_is_a_400() -> None:
    """When no context is long enough the client is told to shorten the prompt."""
    engine = an_engine()
    begin(engine, prompt_bytes=10**6)
    told = refused(engine)
    assert (told.status, told.code) == (400, "context_length_exceeded")
    assert told.param == "messages"


def test_a_field_that_no_arm_lists_is_a_400_that_names_it() -> None:
    """A field outside the closed list of a paid arm is the client's error."""
    engine = an_engine()
    begin(engine, pinned_arm="cloud", fields=frozenset({"temperature", "web_search"}))
    told = refused(engine)
    assert (told.status, told.code, told.param) == (400, "unsupported_field", "web_search")


def test_a_503_names_each_arm_and_its_reason() -> None:
    """When arms fall out for different reasons the refusal lists all of them."""
    engine = an_engine(lease=False)
    begin(engine, conditions={"cloud": ArmCondition(), "tiny": ArmCondition("model_broken")})
    told = refused(engine)
    assert (told.status, told.code) == (503, "no_candidate")
    assert str(told) == "no arm can answer: cloud: no_lease; tiny: model_broken"


@pytest.mark.parametrize("stop", ["spend_paused", "quarantined", "books_full"])
def test_a_stop_of_spending_closes_paid_arms_only(stop: str) -> None:
    """Paused, quarantined or with full books, the device answers from its own models."""
    engine = an_engine()
    match stop:
        case "spend_paused":
            engine.gate.pause(True)
        case "quarantined":
            engine.gate.quarantine("a clone")
        case _:
            engine.gate.books_problem = stop
    begin(engine)
    assert attempt(engine).arm.id == "tiny"
    assert engine.gate.wish(now_ms=10_000.0, boot_ms=7) is None
    outcome, _ = finish(engine, AttemptEnd(1))
    assert outcome.fallouts == (Fallout("cloud", stop),)


def test_usage_above_the_reservation_is_booked_in_full_and_closes_the_arm() -> None:
    """An overrun is paid, and the arm takes no further request (rule S_4)."""
    engine = an_engine()
    begin(engine)
    attempt(engine)
    outcome, _ = finish(engine, AttemptEnd(1, SettleKind.REPORTED, 0, 1_000))
    begin(engine, "r2")
    assert outcome.cost_nanos == 100_000
    assert engine.gate.leases()[0].settled_nanos == 100_000
    assert attempt(engine, "r2").arm.id == "tiny"
    assert finish(engine, AttemptEnd(1), request_id="r2")[0].fallouts == (
        Fallout("cloud", "overrun"),
    )


def closing_with_a_call(wait_ms: int) -> tuple[AgentEngine, list[BookEffect]]:
    """An engine whose lease closes while a paid call is under way, after a wait."""
    engine = an_engine()
    begin(engine)
    attempt(engine)
    engine.gate.recalled(1, boot_ms=0, reason="cut")
    return engine, engine.tick(boot_ms=wait_ms, unix_ms=0)


def test_a_closing_lease_waits_for_its_open_reservation() -> None:
    """Before `close_wait_ms` the lease stays open for the report, and closes with it."""
    engine, waiting = closing_with_a_call(4_999)
    finish(engine)
    closes = spooled(engine.tick(boot_ms=4_999, unix_ms=0))
    assert spooled(waiting) == []
    assert closes == [LeaseClose(1, REPORTED_NANOS, clean=True, reason="cut")]


def test_a_closing_lease_takes_no_new_request() -> None:
    """A lease on its way back is no room for a reservation, however much is left in it."""
    engine, _ = closing_with_a_call(0)
    begin(engine, "r2")
    assert attempt(engine, "r2").arm.id == "tiny"


def test_late_usage_becomes_an_adjustment_after_the_outcome() -> None:
    """The lease closes at the reservation; what is known later is corrected (L_5, S_3)."""
    engine, closing = closing_with_a_call(5_000)
    outcome, ending = finish(engine)
    assert spooled(closing) == [LeaseClose(1, WORST_CASE_NANOS, clean=True, reason="cut")]
    assert outcome.cost_nanos == WORST_CASE_NANOS
    assert spooled(ending) == [
        outcome,
        CostAdjustment("r1", 1, REPORTED_NANOS - WORST_CASE_NANOS, "usage came late"),
    ]


def test_a_late_end_without_usage_corrects_nothing() -> None:
    """Settled at the reservation and never known better: no adjustment follows."""
    engine, _ = closing_with_a_call(5_000)
    outcome, ending = finish(engine, UNKNOWN, status=RequestStatus.ABORTED)
    assert spooled(ending) == [outcome]


def test_late_usage_above_the_reservation_closes_the_arm_too() -> None:
    """An overrun that is known late is adjusted in full and closes the arm (S_3, S_4)."""
    engine, _ = closing_with_a_call(5_000)
    _, ending = finish(engine, AttemptEnd(1, SettleKind.REPORTED, 0, 1_000))
    lend(engine, 2)
    begin(engine, "r2", pinned_arm="cloud")
    assert spooled(ending)[1:] == [
        CostAdjustment("r1", 1, 100_000 - WORST_CASE_NANOS, "usage came late")
    ]
    assert refused(engine, "r2").fallouts == (Fallout("cloud", "overrun"),)


def stopped_in_the_middle() -> MemoryDisk:
    """The disk of an agent that ended with a paid call under way."""
    books = MemoryBooks(MemoryDisk())
    engine = AgentEngine(
        incarnation="i1",
        boot_id="b1",
        snapshot=BooksSnapshot(table=table(), config=device_config()),
        fallback=device_config(local_arm()),
        unix_ms=0,
    )
    at_once(books.commit([*engine.recover(), *engine.configured(device_config())], sync=True))
    at_once(books.commit(lend(engine), sync=True))
    begin(engine, pinned_arm="cloud")
    at_once(books.commit(engine.next_attempt("r1", boot_ms=0)[1]))
    books.disk.held = False
    return books.disk


def start_again(disk: MemoryDisk, *, boot_id: str) -> tuple[AgentEngine, list[object]]:
    """The next start on this disk, and what it spools first."""
    engine = AgentEngine(
        incarnation="i2",
        boot_id=boot_id,
        snapshot=MemoryBooks(disk).load(),
        fallback=device_config(local_arm()),
        unix_ms=0,
    )
    return engine, spooled(engine.recover())


def test_a_restart_in_the_same_boot_closes_at_what_is_known() -> None:
    """The open call is settled in full and reported as interrupted, then the lease closes."""
    engine, said = start_again(stopped_in_the_middle(), boot_id="b1")
    interrupted, close = said
    assert isinstance(interrupted, Outcome)
    assert (interrupted.request_id, interrupted.status) == ("r1", RequestStatus.INTERRUPTED)
    assert interrupted.attempts == (
        Attempt(
            "cloud",
            0,
            "interrupted",
            1,
            WORST_CASE_NANOS,
            WORST_CASE_NANOS,
            SettleKind.UNKNOWN,
        ),
    )
    assert close == LeaseClose(1, WORST_CASE_NANOS, clean=False, reason="process ended")
    assert (engine.gate.available_nanos, engine.gate.leases()) == (0, ())


@pytest.mark.parametrize("boot_id", ["b2", ""])
def test_after_a_reboot_the_lease_closes_at_its_watermark(boot_id: str) -> None:
    """In another boot, or where boots cannot be told apart, the watermark is the last word."""
    disk = stopped_in_the_middle()
    disk.lose_power()
    engine, said = start_again(disk, boot_id=boot_id)
    assert said == [LeaseClose(1, 5 * WORST_CASE_NANOS, clean=False, reason="rebooted")]
    assert (engine.gate.available_nanos, engine.gate.number_max) == (0, 1)


def test_a_lease_of_an_earlier_start_is_ignored() -> None:
    """A grant on its way to a process that has ended changes nothing (rule D_1)."""
    engine = an_engine(lease=False)
    assert engine.gate.granted(granted(), incarnation="i0", boot_ms=0) == []
    assert (engine.gate.available_nanos, engine.gate.number_max) == (0, 0)


def test_a_lease_takes_no_reservation_before_it_is_synced() -> None:
    """Until the first watermark is on the disk the local arm answers (rule L_1)."""
    engine = an_engine(lease=False)
    engine.gate.granted(granted(), incarnation="i1", boot_ms=0)
    begin(engine)
    assert attempt(engine).arm.id == "tiny"
    assert finish(engine, AttemptEnd(1))[0].fallouts == (Fallout("cloud", "watermark_not_synced"),)
