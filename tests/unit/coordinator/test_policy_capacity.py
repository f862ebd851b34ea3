"""The default policy with devices that can do only so much, and demand that is not its to place."""

from dataclasses import replace

import numpy as np
import pytest

from coordinator.policy import Capacity, LpUcb
from coordinator.policy.base import FloatArray
from tests.unit.coordinator.policy_cases import Case, around, known_case, plan

LOCAL = np.array([True, True, False])


def case_of(
    *,
    per_slot_s: float = np.inf,
    money: float = 1e12,
    choices: list[list[bool]] | None = None,
    reward: FloatArray | None = None,
    load_s: float = 0.0,
    last: int | None = None,
) -> Case:
    """One device class, two local arms of a second each and a paid one; 100 requests, ten slots."""
    case = known_case(
        reward=np.array([[0.5, 0.7, 0.6]]) if reward is None else reward,
        cost=np.array([[0.0, 0.0, 1e6]]),
        demand=np.array([100.0]),
        money=money,
    )
    capacity = Capacity(
        device_class=np.array([0]),
        local=LOCAL,
        service_s=np.ones((1, 3)),
        per_slot_s=np.array([per_slot_s]),
        resident_choices=() if choices is None else (np.array(choices),),
        load_s=np.full(3, load_s),
        devices=np.ones(1),
    )
    case = replace(case, constraints=replace(case.constraints, capacity=capacity))
    if last is None:
        return case
    before = replace(plan(LpUcb(), case), resident=np.array([last]))
    return replace(case, remaining=replace(case.remaining, last=before))


EITHER = [[True, False, False], [False, True, False]]


def test_work_beyond_the_devices_capacity_goes_to_the_cloud() -> None:
    """Four worker-seconds a slot serve 40 of the 100 requests; the price of a second is known."""
    found = plan(LpUcb(), case_of(per_slot_s=4.0))
    np.testing.assert_allclose(found.weights, [[0.0, 0.4, 0.6]], atol=1e-9)
    assert found.capacity_dual is not None
    assert found.capacity_dual[0] == pytest.approx(0.1)


def test_without_a_limit_the_best_arm_serves_all() -> None:
    """An infinite capacity is no row."""
    np.testing.assert_allclose(plan(LpUcb(), case_of()).weights, [[0.0, 1.0, 0.0]], atol=1e-9)


def test_a_busy_next_slot_is_held_to_what_it_can_do() -> None:
    """Five times the average demand comes now: a queue would outlast the slot."""
    case = case_of(per_slot_s=10.0)
    busy = replace(case, forecast=replace(case.forecast, next_slot=np.array([50.0])))
    assert plan(LpUcb(), busy).weights[0, :2].sum() == pytest.approx(0.2)


def test_the_mixture_stays_while_the_demand_stays() -> None:
    """A saturated class is not all local now and all cloud in the next slot."""
    case = case_of(per_slot_s=5.0, money=3e7)
    shares = []
    for _ in range(4):
        found = plan(LpUcb(), case)
        shares.append(float(found.weights[0, :2].sum()))
        case = replace(case, remaining=replace(case.remaining, last=found))
    assert shares == pytest.approx([shares[0]] * 4)


def test_the_resident_model_is_the_one_that_earns_more() -> None:
    """Memory for one of two: the better one, and the other gets nothing."""
    found = plan(LpUcb(), case_of(money=0.0, choices=EITHER))
    assert found.resident is not None
    assert found.resident.tolist() == [1]
    np.testing.assert_allclose(found.weights, [[0.0, 1.0, 0.0]], atol=1e-9)


@pytest.mark.parametrize(("gain", "expected"), [(0.005, 0), (0.1, 1)])
def test_another_model_must_win_by_a_margin(gain: float, expected: int) -> None:
    """One percent better is not worth a change, twenty percent is."""
    reward = np.array([[0.5, 0.5 + gain, 0.1]])
    found = plan(LpUcb(), case_of(money=0.0, choices=EITHER, reward=reward, last=0))
    assert found.resident is not None
    assert found.resident.tolist() == [expected]


def test_loading_costs_the_time_that_it_takes() -> None:
    """Near the end of the window a better model is not worth 60 of the 100 seconds left."""
    args = {"money": 0.0, "choices": EITHER, "per_slot_s": 10.0, "last": 0}
    stays = plan(LpUcb(), case_of(load_s=60.0, **args))  # type: ignore[arg-type]
    moves = plan(LpUcb(), case_of(load_s=1.0, **args))  # type: ignore[arg-type]
    assert stays.resident is not None
    assert moves.resident is not None
    assert (stays.resident.tolist(), moves.resident.tolist()) == ([0], [1])


def test_many_classes_choose_one_by_one_as_well_as_together() -> None:
    """Twenty classes have a million combinations; each gets its better model."""
    classes = 20
    rng = np.random.default_rng(0)
    reward = np.column_stack([rng.uniform(0.2, 0.8, (classes, 2)), np.full(classes, 0.1)])
    case = known_case(
        reward=reward,
        cost=np.tile([0.0, 0.0, 1e6], (classes, 1)),
        demand=np.full(classes, 10.0),
        money=0.0,
    )
    capacity = Capacity(
        device_class=np.arange(classes),
        local=LOCAL,
        service_s=np.ones((classes, 3)),
        per_slot_s=np.full(classes, 100.0),
        resident_choices=(np.array(EITHER),) * classes,
    )
    found = plan(LpUcb(), replace(case, constraints=replace(case.constraints, capacity=capacity)))
    assert found.resident is not None
    np.testing.assert_array_equal(found.resident, np.argmax(reward[:, :2], axis=1))


def test_forced_demand_is_paid_first() -> None:
    """Twenty pinned cloud calls take 20 of the 50 dollars' worth; the rest serves 30 requests."""
    case = known_case(
        reward=np.array([[0.5, 0.9]]),
        cost=np.array([[0.0, 1e6]]),
        demand=np.array([100.0]),
        money=5e7,
    )
    forced = replace(case.forecast, forced=np.array([[0.0, 20.0]]))
    found = plan(LpUcb(), replace(case, forecast=forced))
    np.testing.assert_allclose(found.weights, [[0.7, 0.3]], atol=1e-9)


def test_forced_misses_are_made_good_by_the_rest() -> None:
    """The floor is on all requests: 50 forced misses leave a share of 0.9 for 100 others."""
    case = known_case(
        reward=np.array([[0.9, 0.4]]),
        cost=np.zeros((1, 2)),
        demand=np.array([100.0]),
        money=0.0,
        hit=np.array([[0.0, 1.0]]),
        floor=0.6,
        rho=5.0,
    )
    forced = replace(case.forecast, forced=np.array([[50.0, 0.0]]))
    found = plan(LpUcb(), replace(case, forecast=forced))
    np.testing.assert_allclose(found.weights, [[0.1, 0.9]], atol=1e-9)


def test_forced_local_work_takes_its_share_of_the_devices() -> None:
    """Twenty private requests leave 20 of 40 worker-seconds."""
    case = case_of(per_slot_s=4.0)
    forced = replace(case.forecast, forced=np.array([[20.0, 0.0, 0.0]]))
    found = plan(LpUcb(), replace(case, forecast=forced))
    assert found.weights[0, :2].sum() == pytest.approx(0.2 * 5.0 / 6.0, abs=0.04)


def test_the_floor_of_bad_arms_costs_at_most_a_share_of_the_objective() -> None:
    """Arms that are as good as the best keep the whole floor, a bad one as far as it is cheap."""
    case = known_case(
        reward=np.array([[0.8, 0.799, 0.0]]),
        cost=np.zeros((1, 3)),
        demand=np.array([1_000.0]),
        money=0.0,
        epsilon_ppm=30_000,
    )
    weights = plan(LpUcb(), case).weights[0]
    assert weights[1] == pytest.approx(0.01)
    assert weights[2] * 0.8 == pytest.approx(0.0005 * 0.8, rel=1e-3)


def test_exploration_that_was_paid_comes_back_over_a_twentieth_of_the_window() -> None:
    """The slot after a full one may not spend the share again at once."""
    case = known_case(
        reward=np.array([[0.5, 0.5]]),
        cost=np.array([[0.0, 1e9]]),
        demand=np.array([5_000.0]),
        money=3e10,
    )
    hopeful = around(np.array([[0.5, 0.5]]), radius=np.array([[0.0, 0.5]]), top=1.0)
    booked = np.array([[5_000, 0]])
    estimates = replace(case.estimates, reward=hopeful, sent=booked, graded=booked)
    remaining = replace(case.remaining, slots_left=1_000, slots_total=1_000)
    case = replace(case, estimates=estimates, remaining=remaining)
    first = plan(LpUcb(), case)
    second = plan(LpUcb(), replace(case, remaining=replace(remaining, last=first)))
    spend = [float(found.weights[0, 1]) * 500.0 * 1e9 for found in (first, second)]
    assert spend == pytest.approx([0.02 * 3e10, 0.02 * 3e10 / 50.0])


def test_a_capacity_of_the_wrong_shape_is_refused() -> None:
    """The error names the array and both shapes."""
    with pytest.raises(ValueError, match=r"capacity\.local has shape \(2,\), expected \(3,\)"):
        Capacity(
            device_class=np.array([0]),
            local=np.array([True, False]),
            service_s=np.ones((1, 3)),
            per_slot_s=np.ones(1),
        )
