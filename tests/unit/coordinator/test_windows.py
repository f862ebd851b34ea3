"""Budget windows and leases under clocks, prices and configurations that change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.messages import HelloReceived, LeaseRecalled, LeaseRefused, LeaseSent, Message
from coordinator.records import DeviceRow, StoreSnapshot, WindowRow
from coordinator.sessions import Reaction
from shared.decision.lease import LeaseWish
from shared.decision.types import Feedback, IncarnationRange, SpoolBody, SpoolRecord
from shared.errors import ConflictError
from tests.fakes.memory_store import MemoryStore
from tests.fakes.samples import WORST_CASE_NANOS, fleet_toml
from tests.unit.coordinator.test_booking import outcome

HOUR = 3_600_000
FREE_FLEET = fleet_toml(price="0")


class Coordinator:
    """An engine, its store, and one device that may spend."""

    def __init__(self, toml: str = "", *, now: int = 100 * HOUR) -> None:
        self.store = MemoryStore()
        self.store.open()
        self.now = now
        self.engine = CoordinatorEngine(StoreSnapshot())
        self.do(Reaction([self.engine.registry.put(DeviceRow("d1", "pi", "edge", "x", 0))]))
        self.apply(toml or fleet_toml(window="1h"))
        self.connect()

    def do(self, reaction: Reaction) -> list[Message]:
        self.store.commit(reaction.effects)
        return [message for _, message in reaction.sends]

    def apply(self, toml: str) -> None:
        changed = self.engine.apply_config(toml, actor="ann", unix_ms=self.now, dry_run=False)
        self.do(changed[1])

    def connect(self) -> None:
        device = self.engine.registry.device("d1")
        facts: dict[str, Any] = {"local_arms": (), "leases": (), "table_version": 0}
        hello = HelloReceived(
            incarnation="inc",
            resume_token="t" if device.resume_digest else "",
            acked_sequence=0,
            incarnations=(IncarnationRange("inc", 0, 0),),
            lease_number_max=device.lease_number_max,
            config_version=0,
            software_version="1",
            **facts,
        )
        self.do(self.engine.hello("d1", hello, marks={}, resume_token="t", unix_ms=self.now))
        self.do(self.engine.token_synced("d1", "t"))

    def restart(self) -> None:
        self.engine = CoordinatorEngine(self.store.load())
        self.connect()

    def tick(self, now: int) -> WindowRow:
        self.now = now
        self.do(self.engine.tick(unix_ms=now))
        window = self.engine.window
        assert window is not None
        return window

    def ask(self, *, worst_case: int = WORST_CASE_NANOS) -> Message:
        reaction = self.engine.lease_requested("d1", LeaseWish(0, worst_case), unix_ms=self.now)
        (message,) = self.do(reaction)
        return message


@pytest.fixture
def one_hour() -> Coordinator:
    """A coordinator with windows of an hour."""
    return Coordinator()


def test_windows_follow_each_other() -> None:
    """Aligned to the anchor, each with a fresh budget (rule C_4)."""
    one = Coordinator()
    first, second = one.tick(100 * HOUR + 5), one.tick(101 * HOUR)
    assert (100 * HOUR, 101 * HOUR, 101 * HOUR) == (first.id, first.end_unix_ms, second.id)
    assert 2_000_000 == second.free_nanos


AHEAD = 24 * HOUR


def lend(one: Coordinator) -> LeaseSent:
    """A lease."""
    message = one.ask()
    assert isinstance(message, LeaseSent)
    return message


def rewound(one: Coordinator, *, now: int) -> WindowRow:
    """What is true once an operator has left the window ahead."""
    one.now = now
    start, _ = one.engine.true_window(unix_ms=now)
    windows = one.store.windows(ending_after_unix_ms=start)
    one.do(one.engine.rewind_budget(windows, actor="ann", reason="ntp", unix_ms=now))
    window = one.engine.window
    assert window is not None
    return window


@pytest.mark.parametrize("restart", [False, True])
def test_a_window_ahead_is_left_for_the_one_that_is_true(restart: bool) -> None:
    """What was lent before the clock was wrong and meanwhile counts; then time goes on."""
    one = Coordinator()
    before = one.tick(100 * HOUR + 5)
    lend(one)
    ahead = one.tick(100 * HOUR + AHEAD)
    lend(one)
    held = [one.store.database.windows[w.id].committed_nanos for w in (before, ahead)]
    one.tick(100 * HOUR + 9)
    assert "begins only in the future" in one.engine.alarms["clock"]
    if restart:
        one.restart()
    true = rewound(one, now=100 * HOUR + 9)
    assert (before.start_unix_ms, before.end_unix_ms) == (true.start_unix_ms, true.end_unix_ms)
    assert true.id > ahead.id, "ids rise, whatever the clock says"
    assert (0, sum(held)) == (true.outstanding_nanos, true.unconfirmed_nanos)
    assert "clock" not in one.engine.alarms
    (carried,) = [row for row in one.store.database.ledger if row.kind == "carry"]
    assert (sum(held), true.id) == (carried.amount_nanos, carried.window_id)
    assert 100 * HOUR + 9 == carried.at_unix_ms
    assert carried.note.endswith(f"has left: {before.id}, {ahead.id}")
    assert ("", 0, "") == (carried.device_id, carried.lease_number, carried.request_id)
    audit = one.store.database.audit[-1]
    assert ("ann", "budget rewind") == (audit.actor, audit.action)
    assert f"from window {ahead.id}; ntp" == audit.detail
    assert [] == list(one.store.differences(progress=lambda *_: None))
    assert true.id == lend(one).window_id
    after = one.tick(101 * HOUR)
    assert (101 * HOUR, 0) == (after.start_unix_ms, after.committed_nanos)
    assert after.id > true.id


def test_leases_of_the_window_ahead_come_back(one_hour: Coordinator) -> None:
    """They are of a window that is over, and their costs stay in it (rule C_4)."""
    one_hour.tick(100 * HOUR + AHEAD)
    lent = lend(one_hour)
    one_hour.now = 100 * HOUR + 9
    windows = one_hour.store.windows(ending_after_unix_ms=100 * HOUR)
    said = one_hour.engine.rewind_budget(windows, actor="ann", reason="", unix_ms=one_hour.now)
    recalls = [
        message.lease_number for _, message in said.sends if isinstance(message, LeaseRecalled)
    ]
    assert [lent.lease_number] == recalls


def test_what_was_left_counts_again_in_its_own_time(one_hour: Coordinator) -> None:
    """Perhaps the clock was right then, and wrong when it was left: nothing is spent twice."""
    ahead = one_hour.tick(100 * HOUR + AHEAD)
    lend(one_hour)
    held = one_hour.store.database.windows[ahead.id].committed_nanos
    rewound(one_hour, now=100 * HOUR + 9)
    for hour in range(101, 124):
        assert 0 == one_hour.tick(hour * HOUR).committed_nanos
    one_hour.restart()
    again = one_hour.tick(100 * HOUR + AHEAD)
    assert (ahead.start_unix_ms, held) == (again.start_unix_ms, again.unconfirmed_nanos)
    assert 0 == one_hour.tick(101 * HOUR + AHEAD).committed_nanos
    assert [] == list(one_hour.store.differences(progress=lambda *_: None))


def test_slots_and_waits_go_by_the_right_clock_again(one_hour: Coordinator) -> None:
    """Plans are made anew, and nobody waits for weeks to get a lease."""
    one_hour.tick(100 * HOUR + AHEAD)
    device = one_hour.engine.registry.device("d1")
    wrong = replace(device, lends_from_unix_ms=100 * HOUR + AHEAD, unclean_closes=2)
    one_hour.do(Reaction([one_hour.engine.registry.put(wrong)]))
    rewound(one_hour, now=100 * HOUR + 9)
    freed = one_hour.store.database.devices["d1"]
    assert 0 < freed.lends_from_unix_ms - one_hour.now <= 600_000
    planner = one_hour.engine.planner
    assert planner is not None
    assert planner.planned is not None
    assert planner.slot_closed < one_hour.engine.slot_of(one_hour.now)


def test_a_window_that_has_begun_is_not_left(one_hour: Coordinator) -> None:
    """Neither is a small step back an alarm."""
    window = one_hour.tick(100 * HOUR + 5)
    with pytest.raises(ConflictError, match="nothing to rewind"):
        rewound(one_hour, now=window.start_unix_ms)
    one_hour.tick(window.start_unix_ms - 60_000)
    assert {} == one_hour.engine.alarms
    one_hour.tick(window.start_unix_ms - 60_001)
    assert {"clock"} == set(one_hour.engine.alarms)
    with pytest.raises(ConflictError, match="tidectl budget rewind"):
        one_hour.engine.clear_alarm("clock", actor="ann", unix_ms=one_hour.now)
    one_hour.tick(window.start_unix_ms)
    assert {} == one_hour.engine.alarms


@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_that_steps_back_opens_no_earlier_budget(restart: bool) -> None:
    """The latest window goes on; a budget that was spent cannot come back."""
    one = Coordinator()
    one.ask()
    later = one.tick(101 * HOUR)
    if restart:
        one.restart()
    assert later == one.tick(100 * HOUR)
    assert later == one.tick(90 * HOUR)


@pytest.mark.parametrize("restart", [False, True])
def test_a_longer_window_never_takes_the_place_of_an_earlier_one(restart: bool) -> None:
    """A day that would have begun before the last hour ended begins at its end."""
    one = Coordinator(now=24 * HOUR)
    one.ask()
    one.tick(25 * HOUR)
    one.apply(fleet_toml(window="1d"))
    if restart:
        one.restart()
    day = one.tick(26 * HOUR)
    assert (26 * HOUR, 26 * HOUR, 48 * HOUR) == (day.id, day.start_unix_ms, day.end_unix_ms)
    assert 0 == day.committed_nanos
    assert isinstance(one.ask(), LeaseSent)


def test_no_lease_outlives_its_price() -> None:
    """Once a price is no longer valid there are no leases (rule A_3)."""
    text = fleet_toml(window="1h").replace(
        'request_usd = "0" }', 'request_usd = "0", valid_until = "1970-01-05T04:30:00Z" }'
    )
    one = Coordinator(text)
    one.tick(100 * HOUR + 1_795_000)
    sent = one.ask()
    assert isinstance(sent, LeaseSent)
    assert 5_000 == sent.duration_ms
    one.tick(100 * HOUR + 1_800_000)
    refused = one.ask()
    assert isinstance(refused, LeaseRefused)
    assert "price" in refused.reason


def test_a_cloud_arm_that_is_free_gets_a_lease() -> None:
    """The gate asks for one whatever the price, so there must be one to have."""
    sent = Coordinator(FREE_FLEET).ask(worst_case=0)
    assert isinstance(sent, LeaseSent)
    assert sent.amount_nanos > 0


def test_a_device_without_a_paid_arm_gets_no_lease() -> None:
    """Money lent to it would be stranded."""
    local = fleet_toml().replace('arms = ["tiny", "cloud"]', 'arms = ["tiny"]')
    assert isinstance(Coordinator(local).ask(worst_case=0), LeaseRefused)


def test_before_there_is_a_configuration_a_device_is_told_so() -> None:
    """It asks again later, in the same session."""
    one = Coordinator()
    engine = CoordinatorEngine(replace(one.store.load(), config=None))
    asked = engine.lease_requested("d1", LeaseWish(0, 1), unix_ms=one.now)
    ((_, refused),) = asked.sends
    assert isinstance(refused, LeaseRefused)
    assert "not configured" in refused.reason


def test_the_version_of_the_prices_survives_a_restart() -> None:
    """It rises with a price, not with every configuration."""
    one = Coordinator()
    one.apply(fleet_toml(window="1h", usd="0.003"))
    assert (2, 1) == (one.engine.config_version, one.engine.price_version)
    one.restart()
    assert (2, 1) == (one.engine.config_version, one.engine.price_version)
    one.apply(fleet_toml(window="1h", usd="0.003", price="0.2"))
    assert 3 == one.engine.price_version


def test_a_second_grade_for_a_request_is_passed_over() -> None:
    """The first one counts; a faulty device must not stop the others."""
    one = Coordinator()
    first = Feedback("r1", "other", "cloud", 500_000, "user", 0)
    bodies: tuple[SpoolBody, ...] = (outcome("r1"), first, replace(first, reward_ppm=900_000))
    records = [SpoolRecord(at, "inc", body) for at, body in enumerate(bodies, 1)]
    one.do(one.engine.batch("d1", records, incarnation="inc", unix_ms=one.now))
    (decision,) = one.store.decisions(limit=9)
    assert decision.feedback is not None
    assert 500_000 == decision.feedback.feedback.reward_ppm
    assert one.engine.planner is not None
    assert 0.5 == one.engine.planner.totals.reward_mean
