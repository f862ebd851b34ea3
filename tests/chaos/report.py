"""The judgement: what the clients saw, what the providers billed, what the books say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from shared.pb.v1 import types_pb2
from tests.chaos.load import End, Log, Sent, Wanted, outages_s
from tests.chaos.meter import Bills
from tests.chaos.scene import METERED, Downtime

PAID_SHARE_MIN: Final = 0.3
COST_KINDS: Final = ("settle", "confirm", "overrun", "unsettle", "adjust")
NEVER_ADMITTED: Final = frozenset(
    {"stopping", "overloaded", "model_not_found", "idempotency_key_reused", "client_gone"}
)
"""Refusals that come before a request begins: such a request has no outcome to lose."""
SHOWN_MAX: Final = 20


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a run left behind.

    Attributes
    ----------
    downtimes : sequence of Downtime
        When agents were killed on purpose.
    killed_s : sequence of (str, float)
        Each `kill -9` of an agent, on the clients' clock.
    booked, lent, enforced : int
        Settled and unconfirmed, still lent, and the budget, in nano-dollars.
    """

    log: Log
    decisions: Sequence[Any]
    ledger: Sequence[Any]
    bills: Bills
    downtimes: Sequence[Downtime]
    killed_s: Sequence[tuple[str, float]]
    agents: Sequence[str]
    booked: int
    lent: int
    enforced: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `chaos-report.json` holds. Money in nano-dollars.

    Attributes
    ----------
    requests, answered, refused, left : int
        What clients asked, and how their last sends ended; `left` went away on purpose.
    unanswered, unclean : int
        Requests without an answer or a refusal although their client insisted; and sends that
        broke while their agent was not killed.
    paid : int
        Answered requests that a paid arm answered.
    lost, interrupted : int
        Requests with an id that are in no books, against the rules; and those that `kill -9` cut
        off on a local model, which have no outcome that could be booked.
    doubled, misbooked : int
        Requests that are booked twice; and those whose booked cost is not what the rules make of
        the bill.
    outage_s_max : float
        The longest time that an agent's clients had to wait for any answer after a broken send.
    """

    seed: int
    seconds: float
    faults: Mapping[str, int]
    skipped: Mapping[str, str]
    requests: int
    answered: int
    refused: int
    left: int
    unanswered: int
    unclean: int
    paid: int
    billed: int
    booked: int
    budget: int
    lent: int
    lost: int
    interrupted: int
    doubled: int
    misbooked: int
    outage_s_max: float
    problems: Sequence[str]

    @property
    def failures(self) -> list[str]:
        """The figures that do not hold."""
        answered = max(self.answered, 1)
        checks = {
            f"billed {self.billed} of a budget of {self.budget}": self.billed <= self.budget,
            f"booked {self.booked}, but billed {self.billed}": self.billed <= self.booked,
            f"{self.lost} requests lost": not self.lost,
            f"{self.doubled} requests doubled": not self.doubled,
            f"{self.misbooked} requests misbooked": not self.misbooked,
            f"{self.unanswered} requests neither answered nor refused": not self.unanswered,
            f"{self.unclean} sends broke at a living agent": not self.unclean,
            f"{self.paid} of {self.answered} answers paid": self.paid / answered >= PAID_SHARE_MIN,
            f"{len(self.problems)} problems": not self.problems,
        }
        return [said for said, holds in checks.items() if not holds]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**asdict(self), "failures": self.failures}


def judge(
    evidence: Evidence,
    *,
    seed: int,
    seconds: float,
    faults: Mapping[str, int],
    skipped: Mapping[str, str],
    problems: Sequence[str],
) -> Report:
    """Compare the three accounts of a run: clients, providers, books."""
    log = evidence.log
    last = _last_sends(log)
    lost, interrupted = _missing(evidence)
    doubled = _doubled(evidence)
    misbooked = _misbooked(evidence)
    unclean = [sent for sent in log.sent if sent.end is End.BROKEN and not _killed(evidence, sent)]
    ends = Counter(sent.end for sent in last.values())
    return Report(
        seed=seed,
        seconds=seconds,
        faults=dict(sorted(faults.items())),
        skipped=dict(skipped),
        requests=len(last),
        answered=ends[End.ANSWERED],
        refused=ends[End.REFUSED],
        left=ends[End.LEFT],
        unanswered=len(log.pending),
        unclean=len(unclean),
        paid=sum(s.end is End.ANSWERED and s.arm in _paid_arms(evidence) for s in last.values()),
        billed=evidence.bills.total_nanos,
        booked=evidence.booked,
        budget=evidence.enforced,
        lent=evidence.lent,
        lost=len(lost),
        interrupted=len(interrupted),
        doubled=len(doubled),
        misbooked=len(misbooked),
        outage_s_max=round(max(outages_s(log, targets=evidence.agents).values(), default=0.0), 2),
        problems=[
            *problems,
            *(f"lost: {_line(sent)}" for sent in lost[:SHOWN_MAX]),
            *(f"doubled: {each}" for each in doubled[:SHOWN_MAX]),
            *(f"misbooked: {each}" for each in misbooked[:SHOWN_MAX]),
            *(f"unclean: {_line(sent)}" for sent in unclean[:SHOWN_MAX]),
            *(f"unanswered: {tag}" for tag in list(log.pending)[:SHOWN_MAX]),
        ],
    )


def _paid_arms(evidence: Evidence) -> set[str]:
    return {a.arm for d in evidence.decisions for a in d.outcome.attempts if a.lease_number}


def _last_sends(log: Log) -> dict[str, Sent]:
    """The send that ended each request, by tag."""
    return {sent.wanted.tag: sent for sent in sorted(log.sent, key=lambda each: each.ended_s)}


def _missing(evidence: Evidence) -> tuple[list[Sent], list[Sent]]:
    """Sends with an id that no decision has: the lost ones, and those that a kill cut off."""
    booked = {decision.outcome.request_id for decision in evidence.decisions}
    kept: defaultdict[str, bool] = defaultdict(bool)
    for sent in evidence.log.sent:
        kept[sent.wanted.key] |= sent.request_id in booked
    lost, interrupted = [], []
    for sent in evidence.log.sent:
        if not sent.request_id or sent.request_id in booked or sent.code in NEVER_ADMITTED:
            continue
        if sent.wanted.key and kept[sent.wanted.key]:
            continue  # the answer of an earlier request with this key, which is booked itself
        unseen = sent.end in (End.LEFT, End.BROKEN)
        if unseen and sent.arm not in _paid_arms(evidence) and _killed(evidence, sent):
            interrupted.append(sent)
        else:
            lost.append(sent)
    return lost, interrupted


def _killed(evidence: Evidence, sent: Sent) -> bool:
    """Whether a send fell, in part at least, into a time in which its agent was killed."""
    return any(
        down.agent == sent.wanted.target
        and sent.started_s <= down.until_s
        and down.from_s <= sent.ended_s + 15.0
        for down in evidence.downtimes
    )


def _doubled(evidence: Evidence) -> list[str]:
    """Requests that are in the books twice, by id or by their client's tag."""
    ids = Counter(decision.outcome.request_id for decision in evidence.decisions)
    return [request_id for request_id, count in ids.items() if count > 1]


def _misbooked(evidence: Evidence) -> list[str]:
    """Requests whose ledger rows, attempts and bill do not agree as the rules say (S_2, S_3)."""
    rows: Counter[str] = Counter()
    adjusted: set[str] = set()
    for row in evidence.ledger:
        if row.request_id and row.kind in COST_KINDS:
            rows[row.request_id] += row.amount_nanos
        if row.request_id and row.kind in ("unsettle", "adjust"):
            adjusted.add(row.request_id)
    wrong = []
    for decision in evidence.decisions:
        outcome = decision.outcome
        cost = sum(attempt.cost_nanos for attempt in outcome.attempts)
        if rows[outcome.request_id] != cost and outcome.request_id not in adjusted:
            wrong.append(
                f"{outcome.request_id}: attempts cost {cost}, the ledger has "
                f"{rows[outcome.request_id]}"
            )
    return wrong + _against_bill(evidence)


def _against_bill(evidence: Evidence) -> list[str]:
    """Texts whose charges do not fit what was booked for them at the metered provider."""
    wanted = {sent.wanted.tag: sent.wanted for sent in evidence.log.sent}
    known: dict[str, Wanted] = {
        sent.request_id: sent.wanted for sent in evidence.log.sent if sent.request_id
    }
    reported: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for decision in evidence.decisions:
        outcome = decision.outcome
        asked = wanted.get(outcome.tag) or known.get(outcome.request_id)
        if asked is None:
            continue
        for attempt in outcome.attempts:
            if attempt.arm != METERED:
                continue
            if attempt.settle == types_pb2.SETTLE_KIND_REPORTED:
                reported[asked.text] += attempt.cost_nanos
            elif attempt.settle == types_pb2.SETTLE_KIND_UNKNOWN:
                unknown[asked.text] += attempt.cost_nanos
    wrong = []
    for text in {*reported, *unknown}:
        billed = evidence.bills.by_text[text]
        if not reported[text] <= billed <= reported[text] + unknown[text]:
            wrong.append(
                f"{text!r}: billed {billed}, booked {reported[text]} as reported and up to "
                f"{unknown[text]} more"
            )
    return wrong


def _line(sent: Sent) -> str:
    wanted = sent.wanted
    return (
        f"{sent.request_id or wanted.tag} at {wanted.target} on {sent.arm or wanted.model}"
        f"{' streamed' if wanted.stream else ''}: {sent.end} {sent.status} {sent.code} "
        f"{sent.problem}".rstrip()
    )
