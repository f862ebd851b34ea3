"""The judgement: what the clients saw, what the providers billed, what the books say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from shared.pb.v1 import types_pb2
from tests.chaos.load import End, Log, Sent, outages_s
from tests.chaos.meter import Bills
from tests.chaos.scene import METERED, Spell

PAID_SHARE_MIN: Final = 0.3
COST_KINDS: Final = ("settle", "confirm", "overrun", "unsettle", "adjust")
NEVER_ADMITTED: Final = frozenset(
    {"stopping", "overloaded", "model_not_found", "idempotency_key_reused", "client_gone"}
)
"""Refusals that come before a request begins: such a request has no outcome to lose."""
SHOWN_MAX: Final = 20
DRAIN_S: Final = 15.0
"""A request whose client has gone is read on for 10 s at most; a pause comes on top."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a run left behind.

    Attributes
    ----------
    killed, cloned, stranded
        See `Scene`.
    booked, lent, enforced : int
        Settled and unconfirmed, still lent, and the budget, in nano-dollars.
    """

    log: Log
    decisions: Sequence[Any]
    ledger: Sequence[Any]
    bills: Bills
    killed: Sequence[Spell]
    cloned: Sequence[Spell]
    stranded: Container[str]
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
    refusals : mapping of str to int
        Refused sends by their error's code.
    unanswered, unclean : int
        Requests without an answer or a refusal although their client insisted; and sends that
        broke while their agent was not killed.
    paid : int
        Answered requests that a paid arm answered.
    lost, lost_cloned : int
        Requests with an id that are in no books, against the rules; and how many of them are of a
        device beside which a clone ran at that time.
    interrupted, stranded : int
        What the rules explain: requests that `kill -9` cut off on a local model, which have no
        outcome that could be booked; and those that wait on the disk of a clone that was taken
        away.
    overrun : int
        What was booked beyond the leases that it was spent on.
    doubled, misbooked : int
        Requests that are booked twice; and those whose booked cost is not what the rules make of
        the bill.
    outage_s_max : float
        The longest time that an agent's clients had to wait for any answer after a broken send.
    restart_s_max : mapping of str to float
        The longest time from `kill -9` of a process until it served again.
    """

    seed: int
    seconds: float
    faults: Mapping[str, int]
    skipped: Mapping[str, str]
    refusals: Mapping[str, int]
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
    overrun: int
    lost: int
    lost_cloned: int
    interrupted: int
    stranded: int
    doubled: int
    misbooked: int
    outage_s_max: float
    restart_s_max: Mapping[str, float]
    problems: Sequence[str]

    @property
    def failures(self) -> list[str]:
        """The figures that do not hold."""
        answered = max(self.answered, 1)
        checks = {
            f"billed {self.billed} of a budget of {self.budget}": self.billed <= self.budget,
            f"booked {self.booked}, but billed {self.billed}": self.billed <= self.booked,
            f"booked and lent {self.booked + self.lent} of {self.budget}": (
                self.booked + self.lent <= self.budget
            ),
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
    lost, interrupted, stranded = _missing(evidence)
    doubled = _doubled(evidence)
    misbooked = _misbooked(evidence)
    unclean = [
        sent
        for sent in log.sent
        if sent.end is End.BROKEN and not _killed(evidence, sent, slack_s=0.0)
    ]
    ends = Counter(sent.end for sent in last.values())
    return Report(
        seed=seed,
        seconds=seconds,
        faults=dict(sorted(faults.items())),
        skipped=dict(skipped),
        refusals=dict(Counter(s.code for s in log.sent if s.end is End.REFUSED).most_common()),
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
        overrun=sum(row.amount_nanos for row in evidence.ledger if row.kind == "overrun"),
        lost=len(lost),
        lost_cloned=sum(_within(evidence.cloned, s, device=_device(s)) for s in lost),
        interrupted=len(interrupted),
        stranded=len(stranded),
        doubled=len(doubled),
        misbooked=len(misbooked),
        outage_s_max=round(max(outages_s(log, targets=evidence.agents).values(), default=0.0), 2),
        restart_s_max=_longest_s(evidence.killed),
        problems=[
            *problems,
            *(f"lost: {_line(sent)}" for sent in lost[:SHOWN_MAX]),
            *(f"doubled: {each}" for each in doubled[:SHOWN_MAX]),
            *(f"misbooked: {each}" for each in misbooked[:SHOWN_MAX]),
            *(f"unclean: {_line(sent)}" for sent in unclean[:SHOWN_MAX]),
            *(f"unanswered: {tag}" for tag in list(log.pending)[:SHOWN_MAX]),
        ],
    )


def _longest_s(spells: Sequence[Spell]) -> dict[str, float]:
    longest: dict[str, float] = {}
    for spell in spells:
        lasted_s = round(spell.until_s - spell.from_s, 2)
        longest[spell.name] = max(longest.get(spell.name, 0.0), lasted_s)
    return dict(sorted(longest.items()))


def _paid_arms(evidence: Evidence) -> set[str]:
    return {a.arm for d in evidence.decisions for a in d.outcome.attempts if a.lease_number}


def _last_sends(log: Log) -> dict[str, Sent]:
    """The send that ended each request, by tag."""
    return {sent.wanted.tag: sent for sent in sorted(log.sent, key=lambda each: each.ended_s)}


def _missing(evidence: Evidence) -> tuple[list[Sent], list[Sent], list[Sent]]:
    """Sends with an id that no decision has: lost, cut off by a kill, left on a clone's disk."""
    booked = {decision.outcome.request_id for decision in evidence.decisions}
    kept: defaultdict[str, bool] = defaultdict(bool)
    for sent in evidence.log.sent:
        kept[sent.wanted.key] |= sent.request_id in booked
    lost: list[Sent] = []
    interrupted: list[Sent] = []
    stranded: list[Sent] = []
    paid = _paid_arms(evidence)
    for sent in evidence.log.sent:
        if not sent.request_id or sent.request_id in booked or sent.code in NEVER_ADMITTED:
            continue
        if sent.wanted.key and kept[sent.wanted.key]:
            continue  # the answer of an earlier request with this key, which is booked itself
        unseen = sent.end in (End.LEFT, End.BROKEN)
        if sent.request_id in evidence.stranded:
            stranded.append(sent)
        elif unseen and sent.arm not in paid and _killed(evidence, sent, slack_s=DRAIN_S):
            interrupted.append(sent)
        else:
            lost.append(sent)
    return lost, interrupted, stranded


def _killed(evidence: Evidence, sent: Sent, *, slack_s: float) -> bool:
    """Whether its agent was killed while a request was under way.

    After its client has gone a request may go on for `slack_s`.
    """
    return _within(evidence.killed, sent, device=sent.wanted.target, slack_s=slack_s)


def _within(spells: Sequence[Spell], sent: Sent, *, device: str, slack_s: float = 0.0) -> bool:
    """Whether a send fell, in part at least, into one of a device's spells."""
    return any(
        spell.name == device
        and sent.started_s <= spell.until_s
        and spell.from_s <= sent.ended_s + slack_s
        for spell in spells
    )


def _device(sent: Sent) -> str:
    """The device that a send went to, or whose clone it went to."""
    return sent.wanted.target.partition("-clone-")[0]


def _doubled(evidence: Evidence) -> list[str]:
    """Requests that are in the books more than once."""
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
    """Charges that do not fit what was booked for them.

    At the metered provider by text: at least what was booked as reported, and at most what was
    booked. An outcome that `kill -9` interrupted names no text, so that a killed agent's requests
    are held against the lower bound alone, and so is the third-party server as a whole.
    """
    asked: dict[str, str] = {}
    killed: set[str] = set()
    for sent in evidence.log.sent:
        asked[sent.wanted.tag] = asked[sent.request_id] = sent.wanted.text
        if _killed(evidence, sent, slack_s=DRAIN_S):
            killed.add(sent.wanted.text)
    asked[""] = ""
    reported: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    elsewhere = 0
    for decision in evidence.decisions:
        outcome = decision.outcome
        text = asked.get(outcome.tag) or asked.get(outcome.request_id, "")
        for attempt in outcome.attempts:
            is_reported = attempt.settle == types_pb2.SETTLE_KIND_REPORTED
            if attempt.arm == METERED:
                (reported if is_reported else unknown)[text] += attempt.cost_nanos
            elif is_reported:
                elsewhere += attempt.cost_nanos
    wrong = []
    if elsewhere > evidence.bills.cloud_nanos:
        wrong.append(f"third party: billed {evidence.bills.cloud_nanos}, reported {elsewhere}")
    for text in {*reported, *unknown} - {""}:
        billed, least = evidence.bills.by_text[text], reported[text]
        if billed < least or (billed > least + unknown[text] and text not in killed):
            wrong.append(
                f"{text!r}: billed {billed}, booked {least} as reported and {unknown[text]} more"
            )
    return wrong


def _line(sent: Sent) -> str:
    wanted = sent.wanted
    return (
        f"{sent.request_id or wanted.tag} at {wanted.target} on {sent.arm or wanted.model}"
        f"{' streamed' if wanted.stream else ''}: {sent.end} {sent.status} {sent.code} "
        f"{sent.problem}".rstrip()
    )
