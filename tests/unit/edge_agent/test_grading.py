"""How each answer is graded on the device: by rule, by a sampled judge, by what clients do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_agent.attempts import AttemptEnd
from edge_agent.books import AppendSpool, BooksSnapshot
from edge_agent.engine import AgentEngine
from edge_agent.grading import ANSWERS_REMEMBERED_MAX, Grading
from edge_agent.requests import RequestRefused
from shared.decision.grading import NO_SIGNALS, Grader, GraderKind, Signals, WeakSignal
from shared.decision.money import PPM
from shared.decision.types import (
    DeviceConfig,
    Feedback,
    Judge,
    Outcome,
    RequestStatus,
    SettleKind,
    TaskClass,
)
from tests.fakes.samples import READY, cloud_arm, device_config, facts, granted, local_arm, table

SUMS = Grader("sums", GraderKind.NUMERIC)
RETRY, ABANDON = WeakSignal(0, 100_000), WeakSignal(250_000, 50_000)
BOTH = Signals(RETRY, ABANDON, retry_within_ms=1_000)


def config(task: TaskClass, *, signals: Signals = NO_SIGNALS) -> DeviceConfig:
    """A fleet with one task class, and a judge."""
    judge = Judge(cloud_arm("judge"), 16)
    return replace(device_config(), task_classes=(task,), judge=judge, signals=signals)


def outcome(request_id: str = "r1", **changes: Any) -> Outcome:
    """An answer of the arm `cloud`."""
    made = Outcome(
        request_id, "other", 1_000, RequestStatus.OK, "cloud", "cloud", PPM, 7, "table",
        forced=False, latency_ms=50,
    )  # fmt: skip
    return made._replace(**changes)


def test_a_grader_says_right_or_wrong() -> None:
    """As a full grade, at the time of the answer's end."""
    grading = Grading(config(TaskClass("other", 0, grader=SUMS)))
    asked = facts(expected="42")
    right = grading.grade(asked, outcome(), text="it is 42")
    assert Feedback("r1", "other", "cloud", PPM, "grader:sums", 1_050) == right
    wrong = grading.grade(asked, outcome(), text="it is 41")
    assert wrong is not None
    assert 0 == wrong.reward_ppm


@pytest.mark.parametrize(
    "asked",
    [
        facts(),
        facts(expected="42", n=2),
        facts(expected="42", task_class="code"),
        facts(expected="42", capabilities=frozenset({"embeddings"})),
    ],
)
def test_what_cannot_be_graded_is_not(asked: Any) -> None:
    """Nothing expected, several answers, another class, vectors."""
    grading = Grading(config(TaskClass("other", 0, grader=SUMS)))
    assert not grading.by_grader(asked)
    assert grading.grade(asked, outcome(), text="42") is None


def test_a_grader_that_this_device_cannot_use_is_told() -> None:
    """Its class is answered all the same; another configuration may set it right."""
    bad = Grader("bad", GraderKind.REGEX, pattern="(")
    grading = Grading(config(TaskClass("other", 0, grader=bad)))
    assert "linear time" in grading.problems["other"]
    assert grading.grade(facts(), outcome(), text="x") is None
    grading.configure(config(TaskClass("other", 0, grader=SUMS)))
    assert {} == grading.problems


@pytest.mark.parametrize(
    ("task", "changes", "ppm"),
    [
        (TaskClass("other", 0, judge_ppm=50_000), {}, 50_000),
        (TaskClass("other", 0), {}, 0),
        (TaskClass("other", 0, judge_ppm=50_000), {"privacy_local": True}, 0),
        (TaskClass("other", 0, judge_ppm=50_000, privacy_local=True), {}, 0),
        (TaskClass("other", 0, judge_ppm=50_000), {"media_parts": 1}, 0),
        (TaskClass("other", 0, judge_ppm=50_000), {"n": 2}, 0),
        (TaskClass("other", 0, judge_ppm=50_000), {"max_cost_nanos": 0}, 0),
        (TaskClass("other", 0, judge_ppm=50_000), {"task_class": "code"}, 0),
        (TaskClass("other", 0, judge_ppm=50_000, grader=SUMS), {}, 50_000),
        (TaskClass("other", 0, judge_ppm=50_000, grader=SUMS), {"expected": "42"}, 0),
    ],
)
def test_a_judge_is_asked_only_where_the_class_allows_it(
    task: TaskClass, changes: dict[str, Any], ppm: int
) -> None:
    """And never of what must stay on the device, or what a grader has graded (promise P7).

    Nor where the client has said what the request may cost.
    """
    assert ppm == Grading(config(task)).judge_ppm(facts(**changes))


def test_a_closed_judge_is_not_asked() -> None:
    """An operator's word, or an overrun."""
    task = TaskClass("other", 0, judge_ppm=PPM)
    closed = replace(config(task), judge=Judge(cloud_arm("judge", enabled=False), 16))
    assert 0 == Grading(closed).judge_ppm(facts())
    assert 0 == Grading(replace(closed, judge=None)).judge_ppm(facts())


def test_signals_are_off_by_default() -> None:
    """Nothing is remembered and nothing said."""
    grading = Grading(config(TaskClass("other", 0)))
    asked = facts(turn="t")
    assert grading.ended(asked, outcome(), arm="cloud", now_ms=0.0) is None
    assert grading.asked_again(asked, now_ms=1.0) is None
    gone = outcome(status=RequestStatus.ABORTED)
    assert grading.ended(asked, gone, arm="cloud", now_ms=0.0) is None


def test_the_same_prompt_again_is_a_hint_about_the_first_answer() -> None:
    """Weak, once, of the same key, and only for a while."""
    grading = Grading(config(TaskClass("other", 0), signals=BOTH))
    grading.ended(facts(turn="t"), outcome(), arm="cloud", now_ms=0.0)
    assert grading.asked_again(facts(turn="t", key_tag="lab"), now_ms=1.0) is None
    assert grading.asked_again(facts(turn="u"), now_ms=1.0) is None
    hint = grading.asked_again(facts("r2", turn="t"), now_ms=1_000.0)
    expected = Feedback("r1", "other", "cloud", 0, "signal:retry", 1_000, weight_ppm=100_000)
    assert expected == hint
    assert hint.is_weak
    assert grading.asked_again(facts("r3", turn="t"), now_ms=1_000.0) is None
    grading.ended(facts(turn="t"), outcome(), arm="cloud", now_ms=0.0)
    assert grading.asked_again(facts(turn="t"), now_ms=1_001.0) is None, "too late"


def test_a_client_that_leaves_is_a_hint_about_the_arm_at_work() -> None:
    """Who left before any arm was at work says nothing of one; nor does an error."""
    grading = Grading(config(TaskClass("other", 0), signals=BOTH))
    gone = outcome(status=RequestStatus.ABORTED, arm="")
    hint = grading.ended(facts(), gone, arm="tiny", now_ms=0.0)
    expected = Feedback("r1", "other", "tiny", 250_000, "signal:abandon", 1_050, weight_ppm=50_000)
    assert expected == hint
    assert grading.ended(facts(), gone, arm="", now_ms=0.0) is None
    failed = outcome(status=RequestStatus.ERROR, arm="")
    assert grading.ended(facts(turn="t"), failed, arm="tiny", now_ms=0.0) is None
    assert grading.asked_again(facts(turn="t"), now_ms=0.0) is None, "it was not answered"


def test_a_limited_number_of_answers_is_remembered() -> None:
    """The oldest are forgotten."""
    grading = Grading(config(TaskClass("other", 0), signals=BOTH))
    for number in range(ANSWERS_REMEMBERED_MAX + 1):
        grading.ended(facts(turn=f"t{number}"), outcome(f"r{number}"), arm="cloud", now_ms=0.0)
    assert grading.asked_again(facts(turn="t0"), now_ms=0.0) is None
    assert grading.asked_again(facts(turn="t1"), now_ms=0.0) is not None


def engine_of(task: TaskClass, *, signals: Signals = NO_SIGNALS) -> AgentEngine:
    """An engine with a lease whose table draws `cloud` nine times in ten."""
    made = config(task, signals=signals)
    snapshot = BooksSnapshot(table=table(), config=made)
    fallback = device_config(local_arm())
    engine = AgentEngine(
        incarnation="i1", boot_id="b1", snapshot=snapshot, fallback=fallback, unix_ms=0
    )
    engine.recover()
    engine.gate.synced(engine.gate.granted(granted(), incarnation="i1", boot_ms=0))
    return engine


def answered(engine: AgentEngine, *, text: str | None, **request: Any) -> list[object]:
    """Begin and finish a request; what is spooled."""
    asked = facts(**request)
    engine.begin(asked, conditions=READY, now_ms=0.0, uniform=0.0, sample=0.3)
    engine.next_attempt(asked.request_id, boot_ms=0)
    assert (text is not None) is engine.wants_text(asked.request_id)
    end = AttemptEnd(10, SettleKind.REPORTED, prompt_tokens=1, completion_tokens=1)
    _, effects = engine.finish(
        asked.request_id, status=RequestStatus.OK, end=end, ttft_ms=1, latency_ms=10, text=text
    )
    return [each.record.body for each in effects if isinstance(each, AppendSpool)]


def test_a_graders_word_is_spooled_with_its_outcome() -> None:
    """In one commit, right behind it (rule O_1)."""
    outcome, grade = answered(
        engine_of(TaskClass("other", 0, grader=SUMS)), text="42", expected="42"
    )
    assert isinstance(outcome, Outcome)
    assert isinstance(grade, Feedback)
    assert (PPM, PPM, "cloud") == (outcome.grading_ppm, grade.reward_ppm, grade.arm)


def test_an_expectation_that_cannot_be_met_is_refused_before_anything_is_paid() -> None:
    """With the header's name."""
    engine = engine_of(TaskClass("other", 0, grader=SUMS))
    with pytest.raises(RequestRefused, match=r"x-tidegate-expected.*a number") as caught:
        engine.begin(facts(expected="many"), conditions=READY, now_ms=0.0, uniform=0.0)
    assert 400 == caught.value.status
    assert not engine.knows("r1")


@pytest.mark.parametrize(("share", "asked"), [(310_000, True), (290_000, False)])
def test_the_chance_of_a_judge_is_logged_whoever_is_drawn(share: int, asked: bool) -> None:
    """Without it the estimates could not be corrected for what was not asked about."""
    engine = engine_of(TaskClass("other", 0, judge_ppm=share))
    engine.begin(facts(), conditions=READY, now_ms=0.0, uniform=0.0, sample=0.3)
    engine.next_attempt("r1", boot_ms=0)
    assert asked is (engine.judge_of("r1") is not None)
    assert asked is engine.wants_text("r1")
    end = AttemptEnd(10, SettleKind.REPORTED, prompt_tokens=1, completion_tokens=1)
    outcome, _ = engine.finish("r1", status=RequestStatus.OK, end=end, ttft_ms=1, latency_ms=10)
    assert share == outcome.grading_ppm


def test_a_retry_is_spooled_behind_the_second_request() -> None:
    """It speaks of the first."""
    engine = engine_of(TaskClass("other", 0), signals=BOTH)
    assert 1 == len(answered(engine, text=None, turn="t"))
    _, hint = answered(engine, text=None, request_id="r2", turn="t")
    assert isinstance(hint, Feedback)
    assert ("r1", "signal:retry") == (hint.request_id, hint.source)
