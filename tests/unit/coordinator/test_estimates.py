"""The book of statistics: pooling, bounds, latency and exact restoration."""

import json

import numpy as np
import pytest

from coordinator.estimates import ArmPrior, EstimateBook
from coordinator.policy import make_policy
from tests.unit.coordinator.policy_cases import known_case, plan

CONTEXTS = [("pi", "code"), ("pi", "chat"), ("jetson", "code")]


def fill(
    book: EstimateBook,
    device_class: str,
    task_class: str,
    arm: str,
    *,
    wins: int,
    losses: int,
    cost_nanos: int = 0,
) -> None:
    """Book graded outcomes that were all in time, wins and losses well mixed."""
    total = wins + losses
    for index in range(total):
        reward = float((index + 1) * wins // total - index * wins // total)
        book.record_outcome(
            device_class, task_class, arm, cost_nanos=cost_nanos, hit=True, latency_ms=500.0
        )
        book.record_reward(device_class, task_class, arm, reward=reward)


@pytest.fixture
def book() -> EstimateBook:
    """Return a book that knows one free and one paid arm by their priors."""
    made = EstimateBook()
    made.set_prior("local", prior=ArmPrior(cost_nanos=0.0))
    made.set_prior("cloud", prior=ArmPrior(cost_nanos=1e6))
    return made


def test_before_any_outcome_the_priors_hold(book: EstimateBook) -> None:
    """Cost starts from the stated price, never from 0; a free arm is surely free."""
    found = book.estimates(CONTEXTS, arms=["local", "cloud"])
    np.testing.assert_allclose(found.reward.mean, 0.5)
    np.testing.assert_allclose(found.packing[0].mean, [[0.0, 1e6]] * 3)
    assert np.all(found.packing[0].lower[:, 1] >= 0.5e6)
    np.testing.assert_array_equal(found.packing[0].upper[:, 0], 0.0)
    assert found.sent.sum() == 0


def test_much_evidence_overrules_the_prior_and_the_other_contexts(book: EstimateBook) -> None:
    """A context seen 1,000 times keeps its own mean."""
    fill(book, "pi", "code", "local", wins=900, losses=100)
    fill(book, "pi", "chat", "local", wins=200, losses=800)
    mean = book.estimates(CONTEXTS, arms=["local"]).reward.mean[:, 0]
    np.testing.assert_allclose(mean[:2], [0.9, 0.2], atol=0.01)


def test_a_new_device_class_starts_from_its_task_class(book: EstimateBook) -> None:
    """What code is like on one device is the best guess for code on another."""
    fill(book, "pi", "code", "local", wins=90, losses=10)
    fill(book, "pi", "chat", "local", wins=10, losses=90)
    contexts = [("jetson", "code"), ("jetson", "chat")]
    mean = book.estimates(contexts, arms=["local"]).reward.mean[:, 0]
    assert mean[0] > 0.75
    assert mean[1] < 0.25


def test_equal_groups_are_pooled_more_than_different_ones(book: EstimateBook) -> None:
    """The spread between task classes is learned: where it is small, a new task class is less
    uncertain.
    """
    other = EstimateBook()
    other.set_prior("local", prior=ArmPrior(cost_nanos=0.0))
    for task, wins in (("a", 30), ("b", 30), ("c", 30), ("d", 30)):
        fill(book, "pi", task, "local", wins=wins, losses=60 - wins)
    for task, wins in (("a", 3), ("b", 57), ("c", 5), ("d", 55)):
        fill(other, "pi", task, "local", wins=wins, losses=60 - wins)
    new = [("pi", "new")]
    pooled = book.estimates(new, arms=["local"]).reward
    apart = other.estimates(new, arms=["local"]).reward
    assert (pooled.upper - pooled.mean)[0, 0] < 0.7 * (apart.upper - apart.mean)[0, 0]


def test_an_error_counts_as_a_miss_and_as_a_reward_of_0(book: EstimateBook) -> None:
    """An arm that always fails has neither hits nor reward."""
    for _ in range(200):
        book.record_outcome("pi", "code", "local", cost_nanos=0, hit=None, answered=False)
    found = book.estimates([("pi", "code")], arms=["local"])
    assert found.reward.mean[0, 0] < 0.02
    assert found.covering[0].mean[0, 0] < 0.02
    assert found.graded[0, 0] == 200


def test_requests_in_flight_narrow_the_bounds_and_count_as_sent(book: EstimateBook) -> None:
    """So that late outcomes do not prolong exploration."""
    fill(book, "pi", "code", "local", wins=5, losses=5)
    contexts = [("pi", "code")]
    still = book.estimates(contexts, arms=["local"])
    flying = book.estimates(contexts, arms=["local"], in_flight=np.array([[40]]))
    assert flying.sent[0, 0] == 50
    assert flying.outcomes[0, 0] == 10
    assert flying.reward.upper[0, 0] < still.reward.upper[0, 0]
    np.testing.assert_array_equal(flying.reward.mean, still.reward.mean)


def test_an_arm_that_nobody_grades_has_its_prior_and_no_bonus(book: EstimateBook) -> None:
    """From 200 answers without a grade on."""
    for count in range(200):
        found = book.estimates([("pi", "code")], arms=["local"]).reward if count == 199 else None
        if found is not None:
            assert found.upper[0, 0] > 0.5
        book.record_outcome("pi", "code", "local", cost_nanos=0, hit=True)
    bounds = book.estimates([("pi", "code")], arms=["local"]).reward
    assert bounds.lower[0, 0] == bounds.mean[0, 0] == bounds.upper[0, 0] == 0.5


def test_bounds_shrink_with_evidence_and_hold_the_mean(book: EstimateBook) -> None:
    """lower <= mean <= upper within [0, 1], and narrower with more grades."""
    widths = []
    for _ in range(4):
        fill(book, "pi", "code", "local", wins=20, losses=10)
        reward = book.estimates([("pi", "code")], arms=["local"]).reward
        assert 0.0 <= reward.lower[0, 0] <= reward.mean[0, 0] <= reward.upper[0, 0] <= 1.0
        widths.append(float(reward.upper[0, 0] - reward.lower[0, 0]))
    assert widths == sorted(widths, reverse=True)


def test_the_neglected_arm_comes_back(book: EstimateBook) -> None:
    """Its bonus grows with the requests that the others get: no lock-in for good."""
    fill(book, "pi", "code", "local", wins=5, losses=5)
    book.set_prior("other", prior=ArmPrior(cost_nanos=0.0))
    before = book.estimates([("pi", "code")], arms=["local", "other"]).reward.upper[0, 0]
    fill(book, "pi", "code", "other", wins=3_000, losses=2_000)
    after = book.estimates([("pi", "code")], arms=["local", "other"]).reward.upper[0, 0]
    assert after > before


def test_forgetting_an_arm_leaves_its_prior_and_the_other_arms(book: EstimateBook) -> None:
    """As if it had never answered."""
    fill(book, "pi", "code", "local", wins=50, losses=0)
    fill(book, "pi", "code", "cloud", wins=50, losses=0, cost_nanos=2_000_000)
    book.forget("cloud")
    found = book.estimates([("pi", "code")], arms=["local", "cloud"])
    assert found.reward.mean[0, 0] > 0.9
    assert found.reward.mean[0, 1] == pytest.approx(0.5)
    assert found.packing[0].mean[0, 1] == pytest.approx(1e6)
    assert found.sent.tolist() == [[50, 0]]


def test_an_arm_without_a_prior_is_refused(book: EstimateBook) -> None:
    """Its cost would start from nothing."""
    with pytest.raises(ValueError, match=r"arms without a prior: \['ghost'\]"):
        book.estimates(CONTEXTS, arms=["local", "ghost"])


def test_a_reward_out_of_range_is_refused(book: EstimateBook) -> None:
    """Nothing is booked."""
    with pytest.raises(ValueError, match=r"reward is 1\.5"):
        book.record_reward("pi", "code", "local", reward=1.5)
    assert book.estimates(CONTEXTS, arms=["local"]).graded.sum() == 0


def test_latency_quantiles_follow_the_samples(book: EstimateBook) -> None:
    """Within a bucket's width of the empirical quantiles, once there are many."""
    rng = np.random.default_rng(1)
    samples = rng.lognormal(np.log(800.0), 0.6, 20_000)
    for latency_ms in samples:
        book.record_outcome("pi", "code", "local", cost_nanos=0, hit=True, latency_ms=latency_ms)
    actual = book.latency_quantiles([("pi", "code")], arms=["local"])[0, 0]
    np.testing.assert_allclose(actual, np.quantile(samples, [0.5, 0.9, 0.99]), rtol=0.1)


def test_latency_quantiles_start_from_the_prior(book: EstimateBook) -> None:
    """A lognormal shape around the stated mean."""
    book.set_prior("slow", prior=ArmPrior(cost_nanos=0.0, latency_ms=30_000.0))
    p50, p90, p99 = book.latency_quantiles([("pi", "code")], arms=["slow"])[0, 0]
    assert 20_000.0 < p50 < 30_000.0 < p90 < 60_000.0 < p99 < 120_000.0


def test_a_restored_book_gives_the_same_plan_bit_for_bit(book: EstimateBook) -> None:
    """Through JSON, and also when outcomes are booked after the restore."""
    rng = np.random.default_rng(3)

    def feed(*targets: EstimateBook) -> None:
        for _ in range(300):
            device_class, task_class = CONTEXTS[rng.integers(3)]
            arm = ["local", "cloud"][rng.integers(2)]
            cost = int(rng.integers(10**5, 10**7)) if arm == "cloud" else 0
            latency, reward = float(rng.lognormal(6.0, 1.0)), float(rng.random())
            for target in targets:
                target.record_outcome(
                    device_class,
                    task_class,
                    arm,
                    cost_nanos=cost,
                    hit=latency < 500.0,
                    latency_ms=latency,
                )
                target.record_reward(device_class, task_class, arm, reward=reward)

    feed(book)
    restored = EstimateBook.from_state(json.loads(json.dumps(book.to_state())))
    feed(book, restored)
    assert restored.to_state() == book.to_state()
    arms = ["local", "cloud"]
    template = known_case(
        reward=np.zeros((3, 2)), cost=np.zeros((3, 2)), demand=np.full(3, 30.0), money=1e8
    )
    plans = [
        make_policy("lp_ucb").plan(
            owner.estimates(CONTEXTS, arms=arms),
            constraints=template.constraints,
            forecast=template.forecast,
            remaining=template.remaining,
            rng=np.random.default_rng(0),
        )
        for owner in (book, restored)
    ]
    np.testing.assert_array_equal(plans[0].weights, plans[1].weights)
    assert plans[0].objective == plans[1].objective
    np.testing.assert_array_equal(
        book.latency_quantiles(CONTEXTS, arms=arms), restored.latency_quantiles(CONTEXTS, arms=arms)
    )


def test_paper_estimates_are_plain_means_with_the_papers_radius(book: EstimateBook) -> None:
    """No pooling, no prior; an arm never used has the widest bounds."""
    fill(book, "pi", "code", "cloud", wins=60, losses=40, cost_nanos=500_000)
    found = book.paper_estimates(
        [("pi", "code"), ("pi", "chat")],
        arms=["cloud"],
        delta=float(np.exp(-1.0)),
        cost_scale=1e6,
    )
    radius = np.sqrt(2 * 0.6 / 100) + 0.04
    assert found.reward.mean[0, 0] == pytest.approx(0.6)
    assert found.reward.upper[0, 0] == pytest.approx(0.6 + radius)
    cost_radius = 1e6 * (np.sqrt(2 * 0.5 / 100) + 0.04)
    assert found.packing[0].lower[0, 0] == pytest.approx(5e5 - cost_radius)
    assert found.reward.upper[1, 0] == 1.0
    assert found.packing[0].lower[1, 0] == 0.0


def test_a_plan_can_be_made_from_an_empty_book(book: EstimateBook) -> None:
    """The first slot of a fresh coordinator."""
    case = known_case(
        reward=np.zeros((3, 2)), cost=np.zeros((3, 2)), demand=np.full(3, 30.0), money=1e8
    )
    estimates = book.estimates(CONTEXTS, arms=["local", "cloud"])
    fresh = type(case)(
        estimates=estimates,
        constraints=case.constraints,
        forecast=case.forecast,
        remaining=case.remaining,
    )
    np.testing.assert_allclose(plan(make_policy("lp_ucb"), fresh).weights.sum(axis=1), 1.0)


def test_sampled_grades_and_certain_ones_are_mixed_without_bias(book: EstimateBook) -> None:
    """One answer in ten is graded, every failure is: the mean is that of all requests."""
    for index in range(10_000):
        failed = index % 5 == 0
        book.record_outcome("pi", "code", "local", cost_nanos=0, hit=True, answered=not failed)
        if not failed and index % 10 == 1:  # 1,000 of the 8,000 answers
            book.record_reward("pi", "code", "local", reward=1.0, chance=0.125)
    found = book.estimates([("pi", "code")], arms=["local"]).reward
    assert 0.8 == pytest.approx(found.mean[0, 0], abs=0.01)
    assert int(book.estimates([("pi", "code")], arms=["local"]).graded[0, 0]) == 3_000


def test_a_common_chance_changes_neither_mean_nor_bounds() -> None:
    """A hundred grades are worth a hundred, however they were picked from alike answers."""
    found = []
    for chance in (1.0, 0.1):
        book = EstimateBook()
        book.set_prior("local", prior=ArmPrior(cost_nanos=0.0))
        for index in range(100):
            book.record_reward("pi", "code", "local", reward=float(index % 4 > 0), chance=chance)
        found.append(book.estimates([("pi", "code")], arms=["local"]).reward)
    np.testing.assert_allclose(found[0].mean, found[1].mean)
    np.testing.assert_allclose(found[0].upper, found[1].upper)


def test_a_weak_grade_counts_as_the_part_of_a_full_one_that_it_is(book: EstimateBook) -> None:
    """Twenty at a twentieth move the mean as one full grade does; none is taken for a change."""
    other = EstimateBook()
    other.set_prior("local", prior=ArmPrior(cost_nanos=0.0))
    for _ in range(20):
        book.record_reward("pi", "code", "local", reward=0.0, weight=0.05)
    other.record_reward("pi", "code", "local", reward=0.0)
    mine, theirs = (
        each.estimates([("pi", "code")], arms=["local"]).reward for each in (book, other)
    )
    np.testing.assert_allclose(mine.mean, theirs.mean)
    fill(other, "pi", "code", "local", wins=200, losses=0)
    for _ in range(500):
        other.record_reward("pi", "code", "local", reward=0.0, weight=0.01)
    assert 0 == other.alarms("local")


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"chance": 1.5}, {"reward": -0.1}])
def test_a_grade_out_of_range_is_refused(book: EstimateBook, wrong: dict[str, float]) -> None:
    """The name and the value are told."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        book.record_reward("pi", "code", "local", **{"reward": 0.5, **wrong})
