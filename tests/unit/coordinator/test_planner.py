"""From booked outcomes to a slot's plan."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.fleet_config import parse_fleet
from coordinator.planner import Planner
from coordinator.records import BookedFeedback, BookedOutcome
from shared.decision.money import PPM
from shared.decision.types import Attempt, Fallout, Feedback, Outcome, RequestStatus, SettleKind
from tests.fakes.samples import fleet_toml

CONTEXT = ("edge", "other")


def planner(**changes: str) -> Planner:
    """A planner of the small fleet."""
    return Planner(parse_fleet(fleet_toml(**changes), now_unix_ms=1_000))


def outcome(arm: str = "cloud", **changes: Any) -> Outcome:
    """A request that one arm answered in time."""
    cost = 30 if arm == "cloud" else 0
    settle = SettleKind.REPORTED if arm == "cloud" else None
    values: dict[str, Any] = {
        "request_id": "r",
        "task_class": "other",
        "arrived_unix_ms": 0,
        "status": RequestStatus.OK,
        "arm": arm,
        "drawn_arm": arm,
        "propensity_ppm": PPM,
        "table_version": 1,
        "reason": "table",
        "forced": False,
        "attempts": (Attempt(arm, 200, "", int(cost > 0), 100 * (cost > 0), cost, settle),),
        "hit": True,
    }
    return Outcome(**{**values, **changes})


def learn(one: Planner, answered: Outcome, *, slot: int) -> None:
    """Let a planner learn from one outcome."""
    one.learn([BookedOutcome(1, "d1", "edge", 1, slot, answered)])


def taught() -> Planner:
    """A planner that has seen two slots."""
    one = planner()
    one.close_slots(0)
    for slot in (1, 1, 2):
        learn(one, outcome(), slot=slot)
        learn(one, outcome("tiny"), slot=slot)
    grade = Feedback("r", "other", "cloud", 900_000, "client", 1)
    one.learn([BookedFeedback(2, "d1", "edge", 2, grade)])
    one.close_slots(2)
    return one


def plan(one: Planner, slot: int = 3) -> Any:
    """Plan a slot of a window of 60."""
    return one.plan(slot=slot, slots_total=60, budget_nanos=2_000_000, left_nanos=1_900_000)


def test_the_windows_totals_add_up() -> None:
    """Requests, answers, hits, and what each arm cost."""
    totals = taught().totals
    assert (6, 6, 6, 6) == (totals.requests, totals.admitted, totals.answered, totals.hits)
    assert ({CONTEXT: 6}, 90) == (dict(totals.demand), totals.arms["cloud"].cost_nanos)


def test_a_request_that_its_client_aborted_is_no_miss() -> None:
    """It counts as demand, but not in the SLA's denominator."""
    one = planner()
    gone = outcome(status=RequestStatus.ABORTED, arm="", hit=False)
    learn(one, gone, slot=0)
    assert (1, 0, 0) == (one.totals.requests, one.totals.admitted, one.totals.answered)


@pytest.mark.parametrize(
    ("error", "graded"), [("http_503", 1), ("client_gone", 0), ("interrupted", 0)]
)
def test_an_arm_is_blamed_for_its_own_failures_only(error: str, graded: int) -> None:
    """A failure is a grade of 0; a client that left says nothing of the arm."""
    one = planner()
    attempt = Attempt("cloud", 9, error, 1, 100, 100, SettleKind.UNKNOWN)
    failed = outcome(status=RequestStatus.ERROR, arm="", hit=False, attempts=(attempt,))
    learn(one, failed, slot=0)
    found = one.estimates.estimates([CONTEXT], arms=["cloud"])
    assert found.graded is not None
    assert found.booked is not None
    assert (graded, 1) == (int(found.graded[0, 0]), int(found.booked[0, 0]))


def test_demand_is_given_to_the_forecaster_slot_by_slot() -> None:
    """Empty slots too; what comes late counts in the slot that is open."""
    one = taught()
    assert (2, 2) == (one.slot_closed, one.demand_last_slot)
    learn(one, outcome(), slot=1)
    one.close_slots(3)
    assert (3, 1) == (one.slot_closed, one.demand_last_slot)
    one.close_slots(5)
    assert (5, 0) == (one.slot_closed, one.demand_last_slot)


def test_slots_that_nobody_watched_are_unknown() -> None:
    """After months without a coordinator the forecast is what it was, and it is there at once."""
    one = taught()
    for slot in range(3, 60):
        learn(one, outcome(), slot=slot)
        one.close_slots(slot)
    before = plan(one).forecast.mean
    one.close_slots(800_000_000)
    assert before == pytest.approx(plan(one).forecast.mean)
    learn(one, outcome(), slot=800_000_003)
    one.close_slots(800_000_004)
    assert (800_000_004, 0) == (one.slot_closed, one.demand_last_slot)


def test_closing_a_slot_twice_changes_nothing() -> None:
    """Time does not run backwards."""
    one = taught()
    before = one.to_payload()
    one.close_slots(1)
    assert before == one.to_payload()


def test_a_new_window_starts_its_totals_and_keeps_what_was_learned() -> None:
    """The budget is fresh, the arms are not."""
    one = taught()
    learned = one.estimates.to_state()
    one.begin_window()
    assert (0, learned, None) == (one.totals.requests, one.estimates.to_state(), one.planned)


def test_a_table_has_every_arm_that_may_answer() -> None:
    """With weights that add up to at most a million, and numbers for deadlines."""
    one = taught()
    plan(one)
    table = one.table("edge", version=4, config_version=2, unix_ms=9)
    row = table.row("other")
    assert row is not None
    assert ["cloud", "tiny"] == [arm.arm for arm in row.arms]
    assert 0 < sum(arm.weight_ppm for arm in row.arms) <= PPM
    assert all(arm.latency_p50_ms <= arm.latency_p90_ms <= arm.latency_p99_ms for arm in row.arms)
    assert (("tiny",), 4, 2) == (table.resident_arms, table.version, table.config_version)


def test_a_closed_arm_is_in_no_table() -> None:
    """An operator's word counts at once."""
    one = taught()
    config = parse_fleet(fleet_toml(), now_unix_ms=1_000)
    one.reconfigure(config, disabled_arms=frozenset({"cloud"}))
    plan(one)
    row = one.table("edge", version=1, config_version=1, unix_ms=0).row("other")
    assert row is not None
    assert ["tiny"] == [arm.arm for arm in row.arms]


def test_an_arm_for_embeddings_is_in_no_table() -> None:
    """Tables are for chats; embeddings are asked of their arm by name."""
    text = (
        fleet_toml()
        .replace(
            "[arms.tiny]",
            '[arms.embed]\ncapabilities = ["embeddings"]\nkind = "local"\n[arms.tiny]',
        )
        .replace('arms = ["tiny"', 'arms = ["embed", "tiny"')
    )
    one = Planner(parse_fleet(text, now_unix_ms=1_000))
    one.close_slots(0)
    plan(one)
    row = one.table("edge", version=1, config_version=1, unix_ms=0).row("other")
    assert row is not None
    assert ["cloud", "tiny"] == [arm.arm for arm in row.arms]


def test_a_table_needs_a_plan() -> None:
    """Asking for one too early is a defect of the caller."""
    with pytest.raises(ValueError, match="no plan yet"):
        planner().table("edge", version=1, config_version=1, unix_ms=0)


def test_a_restored_planner_plans_alike() -> None:
    """Its payload holds everything: the next plans, tables and payloads are equal."""
    one = taught()
    plan(one)
    other = planner()
    other.restore(one.to_payload())
    for slot in (4, 5):
        for each in (one, other):
            learn(each, outcome("tiny"), slot=slot)
            each.close_slots(slot)
            plan(each, slot)
        tables = [
            each.table("edge", version=1, config_version=1, unix_ms=0) for each in (one, other)
        ]
        assert tables[0] == tables[1]
        assert one.to_payload() == other.to_payload()
        assert one.planned is not None
        assert other.planned is not None
        assert one.planned.paid_nanos_next_slot("edge") == other.planned.paid_nanos_next_slot(
            "edge"
        )


FORCED = {"forced": True, "reason": "pinned"}


def test_pinned_requests_are_planned_apart() -> None:
    """Half of the demand names the cloud: the policy places the other half, money pays for all."""
    one = planner()
    for _ in range(40):
        learn(one, outcome("cloud", **FORCED), slot=0)
        learn(one, outcome("tiny"), slot=0)
    one.close_slots(0)
    planned = plan(one, 1)
    assert planned.forced_share is not None
    assert planned.forced_share[0].tolist() == pytest.approx([40 / 81.0 * 80 / 80, 0.0], abs=0.02)
    assert planned.paid_nanos_next_slot("edge") > 0.0


def test_a_request_that_had_no_lease_is_not_forced() -> None:
    """With money it would have had a choice, so the plan goes on counting on the cloud."""
    one = planner()
    for reason in ("no_lease", "resting"):
        held = outcome("tiny", forced=True, fallouts=(Fallout("cloud", reason),))
        learn(one, held, slot=0)
    private = outcome("tiny", forced=True, fallouts=(Fallout("cloud", "privacy"),))
    learn(one, private, slot=0)
    one.close_slots(0)
    share = plan(one, 1).forced_share
    assert share is not None
    assert share[0, 1] == pytest.approx(0.98 / (3 * 0.98 + 1.0))


SMALL_DEVICES = """
[fleet]
name = "test"
[window]
length = "10m"
slot = "10s"
[budget]
amount_usd = "0"
[policy]
epsilon_ppm = 0
[arms.small]
kind = "local"
memory_gb = 1.0
prior = { reward = 0.5, reward_weight = 100000.0 }
[arms.big]
kind = "local"
memory_gb = 2.0
prior = { reward = 0.8, reward_weight = 100000.0 }
[device_classes.edge]
arms = ["small", "big"]
memory_gb = 2.5
"""


def test_a_table_names_the_model_that_the_plan_keeps_loaded() -> None:
    """Memory for one of the two; the other has no weight."""
    one = Planner(parse_fleet(SMALL_DEVICES, now_unix_ms=1_000))
    one.close_slots(0)
    one.plan(slot=1, slots_total=60, budget_nanos=0, left_nanos=0, devices_up={"edge": 3})
    table = one.table("edge", version=1, config_version=1, unix_ms=0)
    row = table.row("other")
    assert row is not None
    assert ("big",) == table.resident_arms
    assert {"big": PPM, "small": 0} == {arm.arm: arm.weight_ppm for arm in row.arms}


def test_devices_that_are_up_give_the_capacity() -> None:
    """0.8 of ten seconds each; a class of which nothing was ever heard has no limit."""
    one = planner()
    arms = ("cloud", "tiny")
    config = parse_fleet(fleet_toml(), now_unix_ms=1_000)
    before = one.load.capacity(config, contexts=[CONTEXT], arms=arms)
    one.load.heard_of({"edge": 4})
    one.load.heard_of({"edge": 0})
    after = one.load.capacity(config, contexts=[CONTEXT], arms=arms)
    assert (float("inf"), 32.0) == (before.per_slot_s[0], after.per_slot_s[0])
    assert [False, True] == after.local.tolist()


def test_waiting_is_not_working() -> None:
    """Answers that waited nine seconds and took one are a second of work."""
    one = planner()
    for wait_ms in (0, 9_000) * 100:
        took = outcome("tiny", attempts=(Attempt("tiny", wait_ms + 1_050),), ttft_ms=wait_ms + 50)
        learn(one, took, slot=0)
    config = parse_fleet(fleet_toml(), now_unix_ms=1_000)
    capacity = one.load.capacity(config, contexts=[CONTEXT], arms=("tiny",))
    assert capacity.service_s[0, 0] == pytest.approx(1.05, abs=0.05)


def test_a_new_price_is_known_before_the_first_bill() -> None:
    """Ten times the price: costs seen follow at once."""
    one = taught()
    before = one.estimates.estimates([CONTEXT], arms=["cloud"]).packing[0].mean[0, 0]
    dearer = parse_fleet(fleet_toml(price="1"), now_unix_ms=1_000)
    one.reconfigure(dearer, disabled_arms=frozenset())
    after = one.estimates.estimates([CONTEXT], arms=["cloud"]).packing[0].mean[0, 0]
    assert after == pytest.approx(10.0 * before)


def test_borrowed_latencies_do_not_keep_an_arm_from_being_tried() -> None:
    """An arm that is slow elsewhere has half of the deadline here until it was seen."""
    one = planner()
    slow = outcome("tiny", task_class="elsewhere", attempts=(Attempt("tiny", 900_000),))
    for _ in range(100):
        learn(one, slow, slot=0)
    config = parse_fleet(fleet_toml(), now_unix_ms=1_000)
    deadline_ms = config.task_classes["other"].task.deadline_ms
    one.close_slots(2)
    plan(one)
    row = one.table("edge", version=1, config_version=1, unix_ms=0).row("other")
    assert row is not None
    usual = {arm.arm: arm.latency_p50_ms for arm in row.arms}
    assert deadline_ms // 2 == usual["tiny"]


def test_latencies_of_its_own_may_rule_an_arm_out() -> None:
    """Once it was tried often enough and nearly always came late, its latency is told."""
    one = planner()
    late = outcome("tiny", attempts=(Attempt("tiny", 900_000),), hit=False)
    for _ in range(100):
        learn(one, late, slot=0)
    one.close_slots(2)
    plan(one)
    row = one.table("edge", version=1, config_version=1, unix_ms=0).row("other")
    assert row is not None
    usual = {arm.arm: arm.latency_p50_ms for arm in row.arms}
    assert usual["tiny"] > 500_000
