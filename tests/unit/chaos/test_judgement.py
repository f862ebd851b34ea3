"""The judgement of a chaos run finds what is wrong, and nothing in a run where all is right."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from shared.pb.v1 import admin_pb2, types_pb2
from tests.chaos.load import End, Log, Sent, Wanted
from tests.chaos.meter import Bills
from tests.chaos.report import Evidence, Report, judge
from tests.chaos.scene import Spell

COST = 500
BUDGET = 10_000


def wanted(tag: str = "edge.1", **more: Any) -> Wanted:
    """A request of a client."""
    return Wanted(tag=tag, target="edge", model="auto", text=f"copy: {tag}", **more)


def sent(asked: Wanted | None = None, **more: Any) -> Sent:
    """A send that was answered by the metered provider."""
    facts: dict[str, Any] = {
        "started_s": 10.0,
        "ended_s": 11.0,
        "end": End.ANSWERED,
        "status": 200,
        "request_id": "req-1",
        "arm": "metered",
        **more,
    }
    return Sent(asked or wanted(), **facts)


def decision(request_id: str = "req-1", *, tag: str = "edge.1", cost: int = COST) -> Any:
    """What the books say of a paid request."""
    attempt = types_pb2.Attempt(
        arm="metered",
        lease_number=1,
        cost_nanos=cost,
        reserved_nanos=2 * COST,
        settle=types_pb2.SETTLE_KIND_REPORTED,
    )
    outcome = types_pb2.Outcome(request_id=request_id, tag=tag, attempts=[attempt])
    return admin_pb2.Decision(outcome=outcome)


def settled(request_id: str = "req-1", amount: int = COST) -> Any:
    """The ledger's row of a paid request."""
    return admin_pb2.LedgerRow(kind="settle", request_id=request_id, amount_nanos=amount)


def evidence(*sends: Sent, **more: Any) -> Evidence:
    """A run in which one request was paid, unless `more` says otherwise."""
    facts: dict[str, Any] = {
        "log": Log(sent=list(sends or [sent()])),
        "decisions": [decision()],
        "ledger": [settled()],
        "bills": Bills(Counter({"copy: edge.1": COST}), 0),
        "killed": (),
        "cloned": (),
        "stranded": frozenset[str](),
        "agents": ("edge",),
        "booked": COST,
        "lent": 0,
        "enforced": BUDGET,
        **more,
    }
    return Evidence(**facts)


def judged(found: Evidence) -> Report:
    """The report on some evidence."""
    return judge(found, seed=1, seconds=1.0, faults={"cut": 1}, skipped={}, problems=())


def test_a_run_in_which_all_is_right_has_no_failures() -> None:
    """One paid request, booked as billed."""
    report = judged(evidence())
    assert [] == report.failures
    assert (1, 1, 1, COST, COST) == (
        report.requests,
        report.answered,
        report.paid,
        report.billed,
        report.booked,
    )


def test_a_bill_above_the_budget_or_the_books_fails() -> None:
    """Overspent, and spent without being booked, are told apart."""
    bills = Bills(Counter({"copy: edge.1": COST}), BUDGET)
    report = judged(evidence(bills=bills))
    assert {f"billed {BUDGET + COST} of a budget of {BUDGET}"} < set(report.failures)
    assert f"booked {COST}, but billed {BUDGET + COST}" in report.failures


def test_an_answer_that_is_in_no_books_is_lost() -> None:
    """The client has an id that nobody knows."""
    report = judged(evidence(sent(), sent(wanted("edge.2"), request_id="req-2", arm="tiny")))
    assert (1, 0, 0) == (report.lost, report.lost_cloned, report.interrupted)


def test_only_an_unfinished_local_answer_is_excused_by_a_kill() -> None:
    """`kill -9` explains a local stream that broke off, not an answer that had ended."""
    cut_off = sent(wanted("edge.2"), request_id="req-2", arm="tiny", end=End.BROKEN)
    whole = sent(wanted("edge.3"), request_id="req-3", arm="tiny")
    paid = sent(wanted("edge.4"), request_id="req-4", arm="metered", end=End.BROKEN)
    killed = [Spell("edge", 10.5, 12.0)]
    report = judged(evidence(sent(), cut_off, whole, paid, killed=killed))
    assert (2, 1) == (report.lost, report.interrupted)
    report = judged(evidence(sent(), cut_off))
    assert (1, 0) == (report.lost, report.interrupted)


def test_a_second_answer_to_the_same_key_has_no_outcome_of_its_own() -> None:
    """It is the first one again, which is booked; without that it is lost like any other."""
    asked = wanted(key="key-1")
    again = sent(asked, request_id="req-2")
    assert 0 == judged(evidence(sent(asked), again)).lost
    assert 1 == judged(evidence(again)).lost


def test_what_stayed_on_a_clones_disk_is_not_lost() -> None:
    """It is told apart, and so is what was lost beside a clone."""
    missing = sent(wanted("edge.2"), request_id="req-2", arm="tiny")
    report = judged(evidence(sent(), missing, stranded={"req-2"}))
    assert (0, 1) == (report.lost, report.stranded)
    report = judged(evidence(sent(), missing, cloned=[Spell("edge", 10.0, 20.0)]))
    assert (1, 1) == (report.lost, report.lost_cloned)


def test_a_request_that_is_booked_twice_is_doubled_and_misbooked() -> None:
    """Both the decisions and the ledger show it."""
    report = judged(evidence(decisions=[decision(), decision()], ledger=[settled(), settled()]))
    assert 1 == report.doubled
    assert report.misbooked >= 1


def test_a_reported_cost_that_is_not_the_bill_is_misbooked() -> None:
    """What the provider reported is what the provider billed, to the nano-dollar."""
    bills = Bills(Counter({"copy: edge.1": COST - 1}), 0)
    assert 1 == judged(evidence(bills=bills)).misbooked
    assert 1 == judged(evidence(ledger=[settled(amount=COST - 1)])).misbooked


def test_a_charge_that_is_booked_nowhere_is_misbooked_unless_a_kill_explains_it() -> None:
    """An interrupted outcome names no text: its charge may be that of the same text."""
    bills = Bills(Counter({"copy: edge.1": 2 * COST}), 0)
    assert 1 == judged(evidence(bills=bills)).misbooked
    killed = [Spell("edge", 10.5, 12.0)]
    assert 0 == judged(evidence(bills=bills, killed=killed)).misbooked


def test_a_connection_that_breaks_at_a_living_agent_is_unclean() -> None:
    """Only while its agent is dead may a client lose its connection."""
    broken = sent(wanted("edge.2"), request_id="", arm="", end=End.BROKEN, status=0)
    assert 1 == judged(evidence(sent(), broken)).unclean
    assert 0 == judged(evidence(sent(), broken, killed=[Spell("edge", 10.5, 12.0)])).unclean
    assert 1 == judged(evidence(sent(), broken, killed=[Spell("other", 10.5, 12.0)])).unclean


def test_a_request_that_still_waits_is_unanswered() -> None:
    """Its client insisted and got nothing."""
    found = evidence()
    found.log.pending["edge.9"] = wanted("edge.9")
    assert 1 == judged(found).unanswered


def test_too_few_paid_answers_fail() -> None:
    """A run in which hardly anything was paid proves nothing about money."""
    local = [
        sent(wanted(f"edge.{n}"), request_id=f"req-{n}", arm="tiny", code="") for n in range(2, 6)
    ]
    booked = [decision(), *(admin_pb2.Decision() for _ in local)]
    for each, asked in zip(booked[1:], local, strict=True):
        each.outcome.request_id = asked.request_id
    report = judged(evidence(sent(), *local, decisions=booked))
    assert ["1 of 5 answers paid"] == report.failures


def test_the_longest_outage_runs_from_a_broken_send_to_the_next_answer() -> None:
    """A client that leaves by itself ends no outage."""
    sends = [
        sent(wanted("edge.2"), request_id="", arm="", end=End.BROKEN, ended_s=12.0),
        sent(wanted("edge.3"), request_id="", arm="", end=End.LEFT, ended_s=13.0),
        replace(sent(), ended_s=14.5),
    ]
    assert 2.5 == judged(evidence(*sends)).outage_s_max
