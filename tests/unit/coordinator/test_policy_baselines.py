"""The baselines do the simple thing that their names say."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.policy import Policy, make_policy
from tests.unit.coordinator.policy_cases import Case, around, known_case, plan


@pytest.fixture
def case() -> Case:
    """Two free arms and two paid ones."""
    return known_case(
        reward=np.array([[0.4, 0.6, 0.8, 0.7]]),
        cost=np.array([[0.0, 0.0, 1e6, 2e6]]),
        demand=np.array([10.0]),
        money=1e7,
    )


def test_always_local_takes_the_best_free_arm(case: Case) -> None:
    """Money makes no difference."""
    np.testing.assert_array_equal(plan(make_policy("always_local"), case).weights, [[0, 1, 0, 0]])


def test_always_cloud_takes_the_best_paid_arm_while_money_is_left(case: Case) -> None:
    """And the best free one afterwards."""
    policy = make_policy("always_cloud")
    np.testing.assert_array_equal(plan(policy, case).weights, [[0, 0, 1, 0]])
    broke = replace(case, remaining=replace(case.remaining, packing=np.zeros(1)))
    np.testing.assert_array_equal(plan(policy, broke).weights, [[0, 1, 0, 0]])


def test_uniform_gives_every_feasible_arm_the_same_weight(case: Case) -> None:
    """Without money, every free one."""
    policy = make_policy("uniform")
    np.testing.assert_allclose(plan(policy, case).weights, [[0.25, 0.25, 0.25, 0.25]])
    broke = replace(case, remaining=replace(case.remaining, packing=np.zeros(1)))
    np.testing.assert_allclose(plan(policy, broke).weights, [[0.5, 0.5, 0.0, 0.0]])


def one_slot_on(case: Case, *, policy: Policy, demand: float) -> Case:
    """Return the case a slot later, with the policy's own memory."""
    return replace(
        case,
        remaining=replace(
            case.remaining,
            slot=case.remaining.slot + 1,
            last=plan(policy, case),
            last_demand=np.array([demand]),
            demand_so_far=case.remaining.demand_so_far + demand,
        ),
    )


@pytest.fixture
def rows() -> Case:
    """A cheap arm, a good one in time, a good one that is late; ten requests a slot seen so far."""
    case = known_case(
        reward=np.array([[0.5, 0.8, 0.9]]),
        cost=np.array([[0.1e6, 1e6, 1e6]]),
        demand=np.array([100.0]),
        money=5.5e7,
        hit=np.array([[1.0, 1.0, 0.0]]),
        floor=0.8,
    )
    return replace(
        case,
        remaining=replace(case.remaining, slot=2, slots_left=8, demand_so_far=np.array([20.0])),
    )


def test_ad_ucb_solves_the_average_slots_programme(rows: Case) -> None:
    """Half of the requests can be paid for; a fifth of them may be late."""
    found = plan(make_policy("ad_ucb"), rows)
    np.testing.assert_allclose(found.weights, [[0.5, 0.3, 0.2]], atol=1e-6)


def test_ad_ucb_corrects_nothing(rows: Case) -> None:
    """The plan is the same after half of the money is gone; only when all is gone nobody plays."""
    policy = make_policy("ad_ucb")
    poorer = replace(rows, remaining=replace(rows.remaining, packing=np.array([1e6])))
    np.testing.assert_array_equal(plan(policy, poorer).weights, plan(policy, rows).weights)
    broke = replace(rows, remaining=replace(rows.remaining, packing=np.zeros(1)))
    np.testing.assert_array_equal(plan(policy, broke).weights, np.zeros((1, 3)))


def test_ad_ucb_holds_a_share_of_the_budget_back(rows: Case) -> None:
    """With 0.55 - 0.1 units a request left, (0.45 - 0.1) / 0.9 of the requests are paid for."""
    policy = make_policy("ad_ucb", holdback=2.0 / 11.0)
    paid = 1.0 - float(plan(policy, rows).weights[0, 0])
    assert paid == pytest.approx((0.45 - 0.1) / 0.9, abs=1e-6)


def test_pd_bwk_plays_the_most_reward_for_the_priced_cost(rows: Case) -> None:
    """At equal prices of time, money and misses; budgets 100, 55 and 20 scaled to 20."""
    policy = make_policy("pd_bwk", cost_scale=1e6)
    found = plan(policy, rows)
    time, money, miss = 0.2, 20.0 / 55.0, 1.0
    ratio = [0.5 / (time + 0.1 * money), 0.8 / (time + money), 0.9 / (time + money + miss)]
    assert int(np.argmax(ratio)) == int(np.argmax(found.weights[0]))
    np.testing.assert_allclose(found.state["played"][:, 0], [time, 0.1 * money, 0.0], atol=1e-12)


def test_pd_bwk_raises_the_price_of_what_was_consumed(rows: Case) -> None:
    """Three requests at lower bound c multiply a price by (1 + eps)^(3 c), eps^2 = ln 3 / 20."""
    policy = make_policy("pd_bwk", cost_scale=1e6)
    before = plan(policy, rows)
    found = plan(policy, one_slot_on(rows, policy=policy, demand=3.0)).state["log_prices"]
    step = np.log1p(np.sqrt(np.log(3.0) / 20.0))
    np.testing.assert_allclose(found, 3.0 * step * before.state["played"][:, 0], atol=1e-12)


def test_greedy_takes_the_most_reward_per_share_of_the_budget(rows: Case) -> None:
    """The cheap arm, although the budget would pay for better ones half of the time."""
    np.testing.assert_array_equal(plan(make_policy("greedy"), rows).weights, [[1, 0, 0]])


def test_greedy_turns_to_punctual_arms_while_it_owes_answers(rows: Case) -> None:
    """With a late cheap arm it pays for a punctual one until the floor is reached."""
    late = replace(
        rows, estimates=replace(rows.estimates, covering=(around(np.array([[0.1, 1.0, 0.0]])),))
    )
    np.testing.assert_array_equal(plan(make_policy("greedy"), late).weights, [[0, 1, 0]])
    caught_up = replace(late, remaining=replace(late.remaining, covering_hits=np.array([16.0])))
    np.testing.assert_array_equal(plan(make_policy("greedy"), caught_up).weights, [[1, 0, 0]])


def test_sw_ucb_forgets_what_is_older_than_its_window() -> None:
    """An arm that was best for 1,000 pulls and then worst is left; a memory of all is not."""
    policy = make_policy("sw_ucb", window_slots=16, delta=0.5)
    case = known_case(
        reward=np.array([[0.9, 0.5]]),
        cost=np.array([[1.0, 1.0]]),
        demand=np.array([100.0]),
        money=1e9,
    )
    pulls = np.array([[1000, 1000]])
    good = np.array([[900.0, 500.0]])
    for slot in range(40):
        pulls, good = pulls + 50, good + np.array([[0.0, 25.0]])
        case = replace(
            case,
            estimates=replace(
                case.estimates, reward=around(good / pulls), sent=pulls, graded=pulls
            ),
            remaining=replace(case.remaining, slot=slot, last=plan(policy, case)),
        )
        if slot == 4:
            assert int(np.argmax(plan(policy, case).weights[0])) == 0
    found = plan(policy, case)
    assert good[0, 0] / pulls[0, 0] > 0.2
    np.testing.assert_allclose(found.weights, [[0.0, 1.0]], atol=1e-6)
    assert len(found.state["mark_slots"]) <= 18


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ad_ucb", "holdback", 1.0),
        ("pd_bwk", "cost_scale", 0.0),
        ("sw_ucb", "window_slots", 0),
        ("sw_ucb", "delta", 1.0),
        ("sw_ucb", "cost_scale", -1.0),
    ],
)
def test_an_option_out_of_range_is_named(name: str, option: str, value: float) -> None:
    """With the value that was given."""
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        make_policy(name, **{option: value})
