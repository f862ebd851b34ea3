"""The change detector: few false alarms, short delays, exact restoration."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.estimates import ArmPrior, EstimateBook
from coordinator.policy.base import FloatArray
from coordinator.policy.detector import Stream, alarm_level

Draw = Callable[[np.random.Generator, int], FloatArray]

STATIONARY: dict[str, tuple[Draw, float | None]] = {
    "even": (lambda rng, n: (rng.random(n) < 0.5).astype(float), None),
    "rare_misses": (lambda rng, n: (rng.random(n) < 0.98).astype(float), None),
    "graded": (lambda rng, n: rng.beta(8.0, 2.0, n), None),
    "costs": (lambda rng, n: np.log1p(rng.exponential(1.0, n)), 0.0),
}


@pytest.mark.parametrize("name", STATIONARY)
def test_stationary_streams_raise_fewer_alarms_than_allowed(name: str) -> None:
    """At a level meant for ten streams, forty streams of 1,000 may raise four."""
    draw, spread = STATIONARY[name]
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(40):
        stream = Stream()
        for value in draw(rng, 1_000):
            stream.add(float(value))
            if stream.due() and stream.changed(
                alarm_level(stream.count, streams=10), spread=spread
            ):
                alarms += 1
                stream.clear()
    assert alarms <= 4


@pytest.mark.parametrize(("before", "after", "delay_max"), [(0.8, 0.5, 150), (0.95, 0.6, 120)])
def test_a_jump_is_found_within_a_few_dozen_observations(
    before: float, after: float, delay_max: int
) -> None:
    """After 2,000 observations at the old level, for 36 streams."""
    rng = np.random.default_rng(3)
    stream = Stream()
    for value in rng.random(2_000) < before:
        stream.add(float(value))
    assert not stream.changed(alarm_level(stream.count, streams=36), spread=None)
    for value in rng.random(delay_max) < after:
        stream.add(float(value))
    assert stream.changed(alarm_level(stream.count, streams=36), spread=None)


def test_a_long_history_takes_few_blocks_and_keeps_its_sums() -> None:
    """Blocks double in size towards the past."""
    stream = Stream()
    for index in range(10_000):
        stream.add(index % 2)
    assert len(stream.blocks) < 40
    assert (10_000, 5_000.0) == (
        sum(block[0] for block in stream.blocks),
        sum(block[1] for block in stream.blocks),
    )


def test_a_restored_stream_goes_on_alike() -> None:
    """Through JSON, down to the time of the next test."""
    rng = np.random.default_rng(5)
    stream = Stream()
    for value in rng.random(300):
        stream.add(float(value))
        stream.due()
    other = Stream.from_state(json.loads(json.dumps(stream.to_state())))
    for value in rng.random(100):
        for each in (stream, other):
            each.add(float(value))
        assert stream.due() == other.due()
    assert stream.to_state() == other.to_state()


def book_of(arms: int = 2) -> EstimateBook:
    """A book of free arms."""
    book = EstimateBook()
    for arm in range(arms):
        book.set_prior(f"arm{arm}", prior=ArmPrior(cost_nanos=0.0))
    return book


def play(
    book: EstimateBook, rng: np.random.Generator, *, share: float, count: int, task: str = "code"
) -> None:
    """Book graded answers of the first arm."""
    for won in rng.random(count) < share:
        book.record_outcome("pi", task, "arm0", cost_nanos=0, hit=True)
        book.record_reward("pi", task, "arm0", reward=float(won))


def test_after_a_jump_the_estimate_is_that_of_the_new_regime() -> None:
    """2,000 answers at 0.9 do not outweigh 300 at 0.4."""
    book, rng = book_of(), np.random.default_rng(1)
    play(book, rng, share=0.9, count=2_000)
    assert book.alarms("arm0") == 0
    play(book, rng, share=0.4, count=300)
    assert book.alarms("arm0") == 1
    mean = book.estimates([("pi", "code")], arms=["arm0"]).reward.mean[0, 0]
    assert mean == pytest.approx(0.4, abs=0.1)


def test_without_forgetting_nothing_is_restarted() -> None:
    """As the paper's rule and its relatives want it."""
    book, rng = book_of(), np.random.default_rng(1)
    book.set_adaptive(False)
    play(book, rng, share=0.9, count=2_000)
    play(book, rng, share=0.4, count=300)
    found = book.estimates([("pi", "code")], arms=["arm0"])
    assert (0, 2_300) == (book.alarms("arm0"), int(found.graded[0, 0]))


def test_a_change_in_one_context_leaves_the_others_alone() -> None:
    """Its own stream is asked before the common one."""
    book, rng = book_of(), np.random.default_rng(2)
    for _ in range(20):
        for task in ("code", "chat", "math"):
            play(book, rng, share=0.8, count=50, task=task)
    for _ in range(4):
        for task, share in (("code", 0.1), ("chat", 0.8), ("math", 0.8)):
            play(book, rng, share=share, count=50, task=task)
    contexts = [("pi", task) for task in ("code", "chat", "math")]
    graded = book.estimates(contexts, arms=["arm0"]).graded[:, 0]
    assert graded[0] < 250
    assert graded[1:].tolist() == [1_200, 1_200]


def test_a_change_everywhere_is_seen_before_any_context_could_see_it() -> None:
    """Twelve answers in each of 30 contexts, too few for a context alone."""
    book, rng = book_of(), np.random.default_rng(4)
    tasks = [f"task{index}" for index in range(30)]
    for task in tasks:
        play(book, rng, share=0.9, count=40, task=task)
    for _ in range(4):
        for task in tasks:
            play(book, rng, share=0.3, count=3, task=task)
    assert book.alarms("arm0") >= 1
    contexts = [("pi", task) for task in tasks]
    mean = book.estimates(contexts, arms=["arm0"]).reward.mean[:, 0].mean()
    assert mean < 0.5


def test_a_known_price_change_is_followed_at_once() -> None:
    """Costs seen are rescaled, and the new level raises no alarm."""
    book = EstimateBook()
    book.set_prior("cloud", prior=ArmPrior(cost_nanos=1e6))
    rng = np.random.default_rng(7)
    for cost in rng.normal(2e6, 2e5, 300):
        book.record_outcome("pi", "code", "cloud", cost_nanos=int(cost), hit=True)
    assert book.alarms("cloud") == 0
    book.reprice("cloud", factor=3.0)
    book.set_prior("cloud", prior=ArmPrior(cost_nanos=3e6))
    cost = book.estimates([("pi", "code")], arms=["cloud"]).packing[0]
    assert cost.mean[0, 0] == pytest.approx(6e6, rel=0.02)
    for nanos in rng.normal(6e6, 6e5, 100):
        book.record_outcome("pi", "code", "cloud", cost_nanos=int(nanos), hit=True)
    assert book.alarms("cloud") == 0


def test_an_inexact_price_change_makes_costs_uncertain_again() -> None:
    """When input and output prices moved apart, the factor depends on the mix of tokens."""
    book = EstimateBook()
    book.set_prior("cloud", prior=ArmPrior(cost_nanos=1e6))
    for _ in range(300):
        book.record_outcome("pi", "code", "cloud", cost_nanos=2_000_000, hit=True)
    exact = book.estimates([("pi", "code")], arms=["cloud"]).packing[0]
    book.reprice("cloud", factor=1.0, exact=False)
    doubtful = book.estimates([("pi", "code")], arms=["cloud"]).packing[0]
    assert (doubtful.upper - doubtful.mean)[0, 0] > 2.0 * (exact.upper - exact.mean)[0, 0]


def test_dropped_costs_start_from_the_price() -> None:
    """An arm that was free, and now is not, has no history worth scaling."""
    book = EstimateBook()
    book.set_prior("cloud", prior=ArmPrior(cost_nanos=1e6))
    for _ in range(300):
        book.record_outcome("pi", "code", "cloud", cost_nanos=5_000_000, hit=True)
    book.drop_costs("cloud")
    cost = book.estimates([("pi", "code")], arms=["cloud"]).packing[0]
    assert cost.mean[0, 0] == pytest.approx(1e6)


@pytest.mark.parametrize(("latency_ms", "low", "high"), [(1_000.0, 0.95, 1.0), (9e4, 0.0, 0.05)])
def test_a_first_hit_rate_follows_from_speed_and_deadline(
    latency_ms: float, low: float, high: float
) -> None:
    """A fast arm is trusted with a deadline of ten seconds, a slow one is not."""
    book = EstimateBook()
    book.set_prior("arm", prior=ArmPrior(cost_nanos=0.0, latency_ms=latency_ms))
    book.set_deadline("chat", deadline_ms=10_000.0)
    hit = book.estimates([("pi", "chat")], arms=["arm"]).covering[0].mean[0, 0]
    assert low <= hit <= high


def test_an_arm_is_ungraded_from_200_answers_without_a_grade() -> None:
    """One grade, and it is not."""
    book = book_of()
    for count in range(200):
        assert not book.ungraded("arm0"), count
        book.record_outcome("pi", "code", "arm0", cost_nanos=0, hit=True)
    assert book.ungraded("arm0")
    book.record_reward("pi", "code", "arm0", reward=1.0)
    assert not book.ungraded("arm0")
