"""How good answers were, as far as the device can tell: graders, judges' samples, weak signals.

Pure. What is said leaves the device as a number; the texts do not (promise P7).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from edge_agent.candidates import EMBEDDINGS, RequestFacts
from shared.decision.graders import AnswerGrader
from shared.decision.grading import WeakSignal
from shared.decision.reward import reward_ppm
from shared.decision.types import DeviceConfig, Feedback, Outcome, RequestStatus
from shared.rows import quick_dataclass

GRADER_SOURCE: Final = "grader:"
JUDGE_SOURCE: Final = "judge:"
RETRY_SOURCE: Final = "signal:retry"
ABANDON_SOURCE: Final = "signal:abandon"
ANSWERS_REMEMBERED_MAX: Final = 10_000


@quick_dataclass(frozen=True)
class _Answered:
    """An answer that a client may ask for again."""

    request_id: str
    task_class: str
    arm: str
    at_ms: float


class Grading:
    """Decides how each answer is graded.

    Parameters
    ----------
    config : DeviceConfig
        Its task classes say how.

    Attributes
    ----------
    problems : dict of str to str
        Task classes whose grader cannot be used here, and why: their answers are not graded.
    """

    def __init__(self, config: DeviceConfig) -> None:
        self.problems: dict[str, str] = {}
        self._answered: OrderedDict[tuple[str, str], _Answered] = OrderedDict()
        self.configure(config)

    def configure(self, config: DeviceConfig) -> None:
        """Another configuration holds from now on."""
        self._judge, self._signals = config.judge, config.signals
        self._classes = {task.id: task for task in config.task_classes}
        self._graders: dict[str, AnswerGrader] = {}
        self.problems = {}
        for task in config.task_classes:
            if task.grader is None:
                continue
            try:
                self._graders[task.id] = AnswerGrader(task.grader)
            except ValueError as error:  # the coordinator has checked it, by other rules
                self.problems[task.id] = str(error)

    def problem(self, facts: RequestFacts) -> str:
        """What the expected answer of a request should be and is not; empty if all is well."""
        grader = self._graders.get(facts.task_class)
        if grader is None or facts.expected is None:
            return ""
        return grader.problem(facts.expected)

    def by_grader(self, facts: RequestFacts) -> bool:
        """Whether the answer's text will be graded on the device."""
        grader = self._graders.get(facts.task_class)
        return grader is not None and _is_text(facts) and grader.can_grade(facts.expected)

    def judge_ppm(self, facts: RequestFacts) -> int:
        """The probability with which a judge is asked; 0 where it may not be (promise P7).

        Nor is one asked where the client caps the request's cost: its call would come on top.
        """
        task, judge = self._classes.get(facts.task_class), self._judge
        if task is None or judge is None or not judge.arm.enabled or self.by_grader(facts):
            return 0
        private = facts.privacy_local or task.privacy_local or facts.media_parts
        capped = facts.max_cost_nanos is not None
        return 0 if private or capped or not _is_text(facts) else task.judge_ppm

    def grade(self, facts: RequestFacts, outcome: Outcome, *, text: str | None) -> Feedback | None:
        """What the class's grader says of an answer, if there is one with a text."""
        grader = self._graders.get(facts.task_class)
        if text is None or grader is None or not self.by_grader(facts):
            return None
        score = grader.grade(text, expected=facts.expected)
        if score is None:
            return None
        at = facts.arrived_unix_ms + outcome.latency_ms
        source = GRADER_SOURCE + grader.name
        return Feedback(
            outcome.request_id, outcome.task_class, outcome.arm, reward_ppm(score), source, at
        )

    def asked_again(self, facts: RequestFacts, *, now_ms: float) -> Feedback | None:
        """What it says of the last answer that a client sends the same prompt again."""
        signal, key = self._signals.retry, (facts.key_tag, facts.turn)
        if signal is None or not facts.turn:
            return None
        earlier = self._answered.pop(key, None)
        if earlier is None or now_ms - earlier.at_ms > self._signals.retry_within_ms:
            return None
        return _hint(
            signal,
            request_id=earlier.request_id,
            task_class=earlier.task_class,
            arm=earlier.arm,
            source=RETRY_SOURCE,
            at_unix_ms=facts.arrived_unix_ms,
        )

    def ended(
        self, facts: RequestFacts, outcome: Outcome, *, arm: str, now_ms: float
    ) -> Feedback | None:
        """Remember an answer; what it says if its client went away before its end.

        Parameters
        ----------
        arm : str
            Which was at work when the request ended; empty if none was.
        """
        if facts.turn and self._signals.retry is not None and outcome.status is RequestStatus.OK:
            answered = _Answered(outcome.request_id, outcome.task_class, outcome.arm, now_ms)
            self._answered[facts.key_tag, facts.turn] = answered
            if len(self._answered) > ANSWERS_REMEMBERED_MAX:
                self._answered.popitem(last=False)
        signal = self._signals.abandon
        if signal is None or not arm or outcome.status is not RequestStatus.ABORTED:
            return None
        return _hint(
            signal,
            request_id=outcome.request_id,
            task_class=outcome.task_class,
            arm=arm,
            source=ABANDON_SOURCE,
            at_unix_ms=facts.arrived_unix_ms + outcome.latency_ms,
        )


def _is_text(facts: RequestFacts) -> bool:
    """Whether the answer is one text: not several, and no vectors."""
    return facts.n == 1 and EMBEDDINGS not in facts.capabilities


def _hint(
    signal: WeakSignal,
    *,
    request_id: str,
    task_class: str,
    arm: str,
    source: str,
    at_unix_ms: int,
) -> Feedback:
    return Feedback(
        request_id=request_id,
        task_class=task_class,
        arm=arm,
        reward_ppm=signal.reward_ppm,
        source=source,
        at_unix_ms=at_unix_ms,
        weight_ppm=signal.weight_ppm,
    )
