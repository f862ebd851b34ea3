"""What booked records say, sorted by who learns from it.

A batch is read once, in order. What only has to be counted is counted by kind; what depends on the
order of what came before, an arm's statistics and its service times, stays in order. So a batch
teaches exactly what its records would have taught one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from coordinator.planned import Context
from coordinator.policy.cells import UNANSWERED, Key, Observation
from coordinator.policy.service_times import Answer
from coordinator.records import BookedCounts, BookedFeedback, BookedOutcome, Learned
from shared.decision.money import PPM
from shared.decision.reward import reward_from_ppm
from shared.decision.types import Attempt, Outcome, RequestStatus, SettleKind

Kind = tuple[Context, int, RequestStatus, str, bool, str]
"""Context, slot, status, the arm that answered, whether in time, and the arm that was forced."""

NOT_THE_ARMS_FAULT: Final = frozenset(
    {"client_gone", "interrupted", "context_length_exceeded", "books_full", "unsupported"}
)
LASTING_FALLOUTS: Final = (
    "privacy",
    "capability:",
    "field:",
    "media_has_no_worst_case",
    "context_length_exceeded",
    "not_on_this_device",
    "max_cost",
)
"""Why an arm can never answer a request. Other reasons pass: the plan may count on the arm."""


@dataclass
class Lessons:
    """What a run of booked records says.

    Attributes
    ----------
    kinds : mapping of Kind to int
        Requests of each kind.
    compacted : dict of (context, slot) to int
        Requests without details (rule O_2).
    costs : dict of arm to int
        Nano-dollars.
    grades : list of (arm, reward, weight)
        Full ones; the weight is how many answers each stands for.
    observations : list of Observation
        Of arms, in order.
    answers : list of Answer
        How long they took, in order.
    calls : list of (device class, Attempt)
        Attempts at paid arms, in order.
    """

    kinds: Mapping[Kind, int] = field(default_factory=dict)
    compacted: dict[tuple[Context, int], int] = field(default_factory=lambda: defaultdict(int))
    costs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    grades: list[tuple[str, float, float]] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    calls: list[tuple[str, Attempt]] = field(default_factory=list)

    @classmethod
    def of(cls, booked: Iterable[Learned]) -> Lessons:
        """Read booked records, in the order of their positions."""
        lessons = cls()
        kinds: list[Kind] = []
        for row in booked:
            match row:
                case BookedOutcome():
                    kinds.append(lessons._read_outcome(row))
                case BookedFeedback():
                    lessons._read_grade(row)
                case BookedCounts():
                    context = (row.device_class, row.task_class)
                    lessons.compacted[context, row.slot] += row.requests
        lessons.kinds = Counter(kinds)
        return lessons

    def _read_outcome(self, row: BookedOutcome) -> Kind:
        outcome, device_class = row.outcome, row.device_class
        task_class = outcome.task_class
        attempts, status, hit = outcome.attempts, outcome.status, outcome.hit
        for attempt in attempts:
            arm, latency_ms, error, _, _, cost, settle = attempt
            if settle is not None:
                self.calls.append((device_class, attempt))
            if cost:
                self.costs[arm] += cost
            key = (device_class, task_class, arm)
            if error:
                self._read_failure(attempt, key=key)
            else:
                known = None if status is RequestStatus.ABORTED else hit
                self.observations.append((key, cost, known, latency_ms, None))
        if status is RequestStatus.OK and attempts:
            final = attempts[-1]
            if final.arm == outcome.arm and not final.error:
                first_ms = outcome.ttft_ms if len(attempts) == 1 else 0
                key = (device_class, task_class, final.arm)
                self.answers.append((key, final.latency_ms, first_ms))
        forced = forced_arm(outcome) if outcome.forced else ""
        return ((device_class, task_class), row.slot, status, outcome.arm, hit, forced)

    def _read_failure(self, attempt: Attempt, *, key: Key) -> None:
        cost = attempt.cost_nanos
        if not was_executed(attempt):
            return  # it says where the arm can be reached, not how good it is
        if attempt.error not in NOT_THE_ARMS_FAULT:
            self.observations.append((key, cost, *UNANSWERED))
        elif cost:
            self.observations.append((key, cost, None, None, None))

    def _read_grade(self, row: BookedFeedback) -> None:
        feedback = row.feedback
        reward = reward_from_ppm(feedback.reward_ppm)
        chance = feedback.grading_ppm / PPM
        if not feedback.is_weak:
            self.grades.append((feedback.arm, reward, 1.0 / chance))
        key = (row.device_class, feedback.task_class, feedback.arm)
        grade = (reward, feedback.weight_ppm / PPM, chance)
        self.observations.append((key, None, None, None, grade))


def was_executed(attempt: Attempt) -> bool:
    """Whether a provider, or a local model, did anything for this attempt (rule S_2)."""
    return not (attempt.error and attempt.settle is SettleKind.RELEASED)


def forced_arm(outcome: Outcome) -> str:
    """The arm that had to answer, whatever the table said; empty if the policy placed it."""
    if not outcome.forced or not outcome.drawn_arm:
        return ""
    lasting = all(fallout.reason.startswith(LASTING_FALLOUTS) for fallout in outcome.fallouts)
    return outcome.drawn_arm if lasting else ""
