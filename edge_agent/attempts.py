"""The attempts of a request: what is planned, how one ended, and what is kept meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.candidates import RequestFacts
from edge_agent.choosing import Choice
from shared.decision.lease import Settlement
from shared.decision.money import Price
from shared.decision.types import Arm, Attempt, Fallout, Feedback, Judge, SettleKind
from shared.errors import InvariantError
from shared.rows import quick_dataclass


@quick_dataclass(frozen=True)
class AttemptPlan:
    """One attempt that has passed the gate: call this arm now.

    Attributes
    ----------
    reservation_id : str
        Empty for a local arm.
    """

    arm: Arm
    max_tokens: int
    reservation_id: str = ""
    lease_number: int = 0
    reserved_nanos: int = 0
    price: Price | None = None


@quick_dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended.

    Attributes
    ----------
    settle : SettleKind
        Of a paid attempt (rule S_2).
    prompt_tokens, completion_tokens : int
        As reported; they give the cost when `settle` is REPORTED.
    error : str
        Empty for an answer.
    retry_after_s : int
        How long the endpoint wants to be left alone; 0 if it did not say.
    problem : str
        The error in words, for the client alone.
    param : str or None
        The field of the request that it is about.
    """

    latency_ms: int
    settle: SettleKind = SettleKind.RELEASED
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    retry_after_s: int = 0
    problem: str = ""
    param: str | None = None


@dataclass
class RunningRequest:
    """What the engine keeps of a request from its arrival to its outcome.

    Attributes
    ----------
    queue : list of str
        The arms that may still be asked, the next one first.
    may_wait, patient : bool
        Whether it may wait once for a sync (rule L_2), and also for a lease (rule L_6).
    refusals_before : int
        How often this device had been refused a lease when it came: another refusal ends its hope.
    plan : AttemptPlan or None
        The attempt under way.
    settled_early : Settlement or None
        Of an attempt under way whose lease had to close before its end.
    corrections : tuple of (Settlement, int)
        Attempts settled early, and what their calls turned out to cost, in nano-dollars.
    overrun_arms : frozenset of str
        Arms that billed more than was reserved (rule S_4).
    judge_ppm : int
        The probability with which its answer is graded by a judge; 0 if by none.
    judged : bool
        Drawn to have it graded so.
    """

    facts: RequestFacts
    choice: Choice
    begun_ms: float
    table_version: int
    queue: list[str]
    forced: bool
    may_wait: bool = False
    patient: bool = False
    refusals_before: int = 0
    gate_fallouts: tuple[Fallout, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    retry_after_s: int = 0
    problem: str = ""
    param: str | None = None
    plan: AttemptPlan | None = None
    settled_early: Settlement | None = None
    corrections: tuple[tuple[Settlement, int], ...] = ()
    overrun_arms: frozenset[str] = frozenset()
    judge_ppm: int = 0
    judged: bool = False
    asked_again: Feedback | None = None
    judge: Judge | None = None

    @property
    def fallouts(self) -> tuple[Fallout, ...]:
        """Each arm that did not answer and why: by the filters, then by the gate."""
        return (*self.choice.candidates.fallouts, *self.gate_fallouts)

    @property
    def spent_nanos(self) -> int:
        """What its ended attempts have cost."""
        return sum(attempt.cost_nanos for attempt in self.attempts)

    @property
    def reason(self) -> str:
        """Why it went where it went, for the header `x-tidegate-reason`."""
        failed = [f"{attempt.arm}={attempt.error}" for attempt in self.attempts if attempt.error]
        failed += [f"{fallout.arm}={fallout.reason}" for fallout in self.gate_fallouts]
        return self.choice.reason(self.facts, table_version=self.table_version, failed=failed)

    @property
    def under_way(self) -> AttemptPlan:
        """The plan of the attempt under way.

        Raises
        ------
        InvariantError
            If there is none.
        """
        if self.plan is None:
            raise InvariantError(f"{self.facts.request_id} has no attempt under way")
        return self.plan
