"""What devices have measured stands where the fleet file only states."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.fleet_config import parse_fleet
from coordinator.planner import Planner
from coordinator.policy.measured_speeds import DEVICES_MAX, MeasuredSpeeds
from coordinator.records import BookedOutcome
from shared.decision.types import ArmSpeed
from tests.unit.coordinator.test_planner import outcome

PI, LAPTOP = ("pi", "other"), ("laptop", "other")
FLEET = """
[fleet]
name = "test"
[window]
length = "10m"
slot = "10s"
[budget]
amount_usd = "0.002"
[policy]
kind = "uniform"
[arms.tiny]
kind = "local"
prior = { latency = "1s", prompt_tokens = 100, completion_tokens = 50 }
[arms.cloud]
kind = "cloud"
model = "big"
base_url = "https://cloud.example/v1"
price = { input_usd_per_mtok = "1", output_usd_per_mtok = "1", request_usd = "0" }
prior = { latency = "2s" }
[device_classes.pi]
arms = ["tiny", "cloud"]
[device_classes.laptop]
arms = ["tiny", "cloud"]
[task_classes.other]
deadline = "4s"
"""
SLOW = ArmSpeed("tiny", prompt_tokens_per_s=20.0, completion_tokens_per_s=5.0)
SLOW_MS = 100 / 20 * 1_000 + 50 / 5 * 1_000


def planner() -> Planner:
    """A planner of two device classes that has planned once."""
    one = Planner(parse_fleet(FLEET, now_unix_ms=1_000))
    one.close_slots(0)
    return one


def plan(one: Planner) -> Any:
    """Plan a slot."""
    return one.plan(
        slot=1,
        slots_total=60,
        budget_nanos=2_000_000,
        left_nanos=2_000_000,
        devices_up={"pi": 1, "laptop": 1},
    )


def p50_ms(one: Planner, context: tuple[str, str], *, arm: str = "tiny") -> float:
    """The usual latency that a table would be made from."""
    found = one.estimates.latency_quantiles([context], arms=[arm], probabilities=[0.5])
    return float(found[0, 0, 0])


def hit(one: Planner, context: tuple[str, str]) -> float:
    """The expected share of answers in time."""
    return float(one.estimates.estimates([context], arms=["tiny"]).covering[0].mean[0, 0])


def test_a_device_class_starts_from_what_its_devices_measured() -> None:
    """Latency and hits follow; other classes keep the statement, and so do paid arms."""
    one = planner()
    stated = {context: (p50_ms(one, context), hit(one, context)) for context in (PI, LAPTOP)}
    assert stated[PI] == stated[LAPTOP]
    one.learn_speeds("d1", [SLOW, ArmSpeed("cloud", 1.0, 1.0)], device_class="pi")
    assert pytest.approx(SLOW_MS, rel=0.25) == p50_ms(one, PI)
    assert hit(one, PI) < 0.1 < 0.9 < stated[PI][1]
    assert stated[LAPTOP] == (p50_ms(one, LAPTOP), hit(one, LAPTOP))
    assert p50_ms(one, PI, arm="cloud") == p50_ms(one, LAPTOP, arm="cloud")


def test_what_a_device_can_do_starts_from_its_measurement() -> None:
    """The worker-seconds of the capacity rows."""
    one = planner()
    one.learn_speeds("d1", [SLOW], device_class="pi")
    contexts, arms = (PI, LAPTOP), ("cloud", "tiny")
    parsed = parse_fleet(FLEET, now_unix_ms=1_000)
    capacity = one.load.capacity(parsed, contexts=contexts, arms=arms)
    assert [[2.0, SLOW_MS / 1_000], [2.0, 1.0]] == capacity.service_s.tolist()


def test_other_classes_do_not_speak_for_a_class_that_has_measured() -> None:
    """A thousand quick answers of laptops say little of a slow board."""
    one = planner()
    one.learn_speeds("d1", [SLOW], device_class="pi")
    for _ in range(1_000):
        one.learn([BookedOutcome(1, "d1", "laptop", 1, 1, outcome("tiny"))])
    assert pytest.approx(SLOW_MS, rel=0.25) == p50_ms(one, PI)
    assert pytest.approx(200.0, rel=0.25) == p50_ms(one, LAPTOP)


def test_outcomes_go_over_the_measurement() -> None:
    """It is a prior, not a truth."""
    one = planner()
    one.learn_speeds("d1", [SLOW], device_class="pi")
    for _ in range(200):
        one.learn([BookedOutcome(1, "d1", "pi", 1, 1, outcome("tiny"))])
    assert pytest.approx(200.0, rel=0.25) == p50_ms(one, PI)
    assert hit(one, PI) > 0.9


def test_the_median_of_the_devices_counts() -> None:
    """One slow board is no class; what a device says again replaces what it said."""
    one = planner()
    for device, speed in (("a", 5.0), ("b", 10.0), ("c", 1_000.0)):
        one.learn_speeds(device, [ArmSpeed("tiny", 1e6, speed)], device_class="pi")
    assert pytest.approx(5_000.0, rel=0.25) == p50_ms(one, PI)
    one.learn_speeds("b", [ArmSpeed("tiny", 1e6, 100.0)], device_class="pi")
    assert pytest.approx(500.0, rel=0.25) == p50_ms(one, PI)
    for device in ("a", "b", "c"):
        one.learn_speeds(device, [], device_class="pi")
    assert p50_ms(planner(), PI) == p50_ms(one, PI)


def test_measurements_survive_a_restart() -> None:
    """A restored planner plans alike."""
    one = planner()
    one.learn_speeds("d1", [SLOW], device_class="pi")
    plan(one)
    again = Planner(parse_fleet(FLEET, now_unix_ms=1_000))
    again.restore(one.to_payload())
    assert one.to_payload() == again.to_payload()
    assert p50_ms(one, PI) == p50_ms(again, PI)
    assert plan(one).plan.weights.tolist() == plan(again).plan.weights.tolist()


def test_what_is_kept_is_bounded() -> None:
    """The latest devices of a class speak for it."""
    speeds = MeasuredSpeeds()
    for number in range(DEVICES_MAX + 5):
        speeds.tell("pi", f"d{number}", [SLOW])
    speeds.tell("pi", "d5", [SLOW])
    devices = [row[1] for row in speeds.to_state()]
    assert (DEVICES_MAX, "d6", "d5") == (len(devices), devices[0], devices[-1])
    assert speeds.to_state() == MeasuredSpeeds.from_state(speeds.to_state()).to_state()
