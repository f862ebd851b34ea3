"""What booked records say, sorted by who learns from it.

A batch is read once, in order. What only has to be counted is counted by kind; what depends on the
order of what came before, an arm's statistics and its service times, stays in order. So a batch
teaches exactly what its records would have taught one by one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby, repeat
from operator import itemgetter
from typing import Final, cast

from coordinator.planned import Context
from coordinator.policy.cells import UNANSWERED, Key, Observation
from coordinator.policy.service_times import Answer
from coordinator.records import BookedCounts, BookedFeedback, BookedOutcome, Learned
from shared.decision.money import PPM
from shared.decision.reward import reward_from_ppm
from shared.decision.types import Attempt, Outcome, RequestStatus, SettleKind

Kind = tuple[str, str, int, RequestStatus, str, bool, str]
"""Device and task class, slot, status, the arm that answered, whether in time, the arm forced."""

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

_told: Final = itemgetter(
    *map(
        Outcome._fields.index,
        ("task_class", "status", "arm", "hit", "attempts", "ttft_ms", "forced"),
    )
)
"""Of the columns of some outcomes, those that say something here."""


class Numbers(dict[Key, int]):
    """Cells, each with a number: in the order in which they were first asked for."""

    def __missing__(self, key: Key) -> int:
        number = self[key] = len(self)
        return number


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
    cells : Numbers
        Whom the observations and the answers are of.
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
    cells: Numbers = field(default_factory=Numbers)
    observations: list[Observation] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    calls: list[tuple[str, Attempt]] = field(default_factory=list)

    @classmethod
    def of(cls, booked: Iterable[Learned]) -> Lessons:
        """Read booked records, in the order of their positions."""
        lessons = cls()
        kinds: Counter[Kind] = Counter()
        for kind, run in groupby(booked, key=type):
            if kind is BookedOutcome:
                kinds.update(lessons._read_outcomes(cast("Iterable[BookedOutcome]", run)))
            elif kind is BookedFeedback:
                for grade in run:
                    lessons._read_grade(cast("BookedFeedback", grade))
            else:
                for row in cast("Iterable[BookedCounts]", run):
                    context = (row.device_class, row.task_class)
                    lessons.compacted[context, row.slot] += row.requests
        lessons.kinds = kinds
        return lessons

    def _read_outcomes(self, rows: Iterable[BookedOutcome]) -> Iterable[Kind]:
        """Local names for what a loop over every request of the fleet asks for again and again."""
        _, _, classes, _, slots, outcomes, _, _ = zip(*rows, strict=True)
        columns = list(zip(*outcomes, strict=True))
        tasks, statuses, arms, hits, tried, first_tokens_ms, pinned = _told(columns)
        cells, costs, calls = self.cells, self.costs, self.calls
        observe, answer = self.observations.append, self.answers.append
        ok, aborted = RequestStatus.OK, RequestStatus.ABORTED
        for device_class, task_class, status, answered, hit, attempts, first_ms in zip(
            classes, tasks, statuses, arms, hits, tried, first_tokens_ms, strict=True
        ):
            known = None if status is aborted else hit
            arm, error, cell, latency_ms = "", "nothing was tried", 0, 0
            for attempt in attempts:
                arm, latency_ms, error, _, _, cost, settle = attempt
                cell = cells[device_class, task_class, arm]
                if settle is not None:
                    calls.append((device_class, attempt))
                if cost:
                    costs[arm] += cost
                if error:
                    self._read_failure(attempt, cell=cell)
                else:
                    observe((cell, cost, known, latency_ms, None))
            if status is ok and arm == answered and not error:
                answer((cell, latency_ms, first_ms if len(attempts) == 1 else 0))
        forced = map(forced_arm, outcomes) if any(pinned) else repeat("")
        return zip(classes, tasks, slots, statuses, arms, hits, forced, strict=False)

    def _read_failure(self, attempt: Attempt, *, cell: int) -> None:
        cost = attempt.cost_nanos
        if not was_executed(attempt):
            return  # it says where the arm can be reached, not how good it is
        if attempt.error not in NOT_THE_ARMS_FAULT:
            self.observations.append((cell, cost, *UNANSWERED))
        elif cost:
            self.observations.append((cell, cost, None, None, None))

    def _read_grade(self, row: BookedFeedback) -> None:
        feedback = row.feedback
        reward = reward_from_ppm(feedback.reward_ppm)
        chance = feedback.grading_ppm / PPM
        if not feedback.is_weak:
            self.grades.append((feedback.arm, reward, 1.0 / chance))
        key = (row.device_class, feedback.task_class, feedback.arm)
        cell = self.cells[key]
        grade = (reward, feedback.weight_ppm / PPM, chance)
        self.observations.append((cell, None, None, None, grade))


def was_executed(attempt: Attempt) -> bool:
    """Whether a provider, or a local model, did anything for this attempt (rule S_2)."""
    return not (attempt.error and attempt.settle is SettleKind.RELEASED)


def forced_arm(outcome: Outcome) -> str:
    """The arm that had to answer, whatever the table said; empty if the policy placed it."""
    if not outcome.forced or not outcome.drawn_arm:
        return ""
    lasting = all(fallout.reason.startswith(LASTING_FALLOUTS) for fallout in outcome.fallouts)
    return outcome.drawn_arm if lasting else ""
