"""Who gets a lease, and for how long (rule L_6)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from coordinator.account import BudgetAccount
from coordinator.fleet_config import FleetConfig, parse_fleet
from coordinator.lending import Lending
from coordinator.messages import LeaseRefused, LeaseSent
from coordinator.records import DeviceRow, DeviceStanding, LeaseRecord, WindowRow
from coordinator.registry import Registry
from coordinator.sessions import Reaction, Session
from coordinator.spool_progress import SpoolProgress
from shared.decision.lease import LeaseWish
from tests.unit.coordinator.test_fleet_flow import FLEET, WORST, Fleet

WINDOW_MS = 100_000
CLOSING_MS = WINDOW_MS // 32
WINDOW = WindowRow(7, start_unix_ms=0, end_unix_ms=WINDOW_MS, target_nanos=100 * WORST)
DEVICE = DeviceRow("dev", "pi-1", "pi", "digest", 0, lease_number_max=4)
PRICE = '[arms.large.price]\ninput_usd_per_mtok = "2.50"\noutput_usd_per_mtok = "10"'


_ASKED = {field.name for field in fields(LeaseWish)}


class Lender:
    """The money of one window and one device, which has said hello."""

    def __init__(self, *, window: WindowRow = WINDOW, device: DeviceRow = DEVICE) -> None:
        self.window, self.device = window, device
        self.account = BudgetAccount(windows=[window])
        self.registry = Registry(devices=[device])
        progress = SpoolProgress(acked=0, last=0, marks={})
        session = Session("dev", "inc-9", progress, may_spend=True)
        self.sessions = {"dev": session}
        self.lending = Lending(account=self.account, registry=self.registry, sessions=self.sessions)

    def ask(self, *, toml: str = FLEET, unix_ms: int = 50_000, **changes: Any) -> Reaction:
        """The device asks for a lease."""
        values: dict[str, Any] = {
            "config": fleet_config(toml),
            "window": self.window,
            "price_version": 3,
            "planned_nanos_per_slot": 0.0,
            "frozen": "",
        }
        asked = {name: changes.pop(name) for name in list(changes) if name in _ASKED}
        wish = replace(LeaseWish(0, WORST, asked_boot_ms=77), **asked)
        return self.lending.request(self.device, wish, unix_ms=unix_ms, **{**values, **changes})

    def lease(self, **changes: Any) -> LeaseSent:
        """The lease that it gets."""
        ((_, message),) = self.ask(**changes).sends
        assert isinstance(message, LeaseSent)
        return message

    def refusal(self, **changes: Any) -> LeaseRefused:
        """What it is told instead."""
        reaction = self.ask(**changes)
        ((device_id, message),) = reaction.sends
        assert isinstance(message, LeaseRefused)
        assert ("dev", []) == (device_id, reaction.effects)
        assert "cloud" == message.budget
        return message


def fleet_config(toml: str) -> FleetConfig:
    """A fleet file, as it was read before its window began."""
    return parse_fleet(toml, now_unix_ms=0)


def test_a_lease_is_booked_with_its_number_before_it_is_sent() -> None:
    """The device's highest number, the lease and its ledger row are one transaction."""
    lender = Lender()
    reaction = lender.ask()
    amount = 8 * WORST
    sent = LeaseSent("inc-9", 5, 7, amount, WINDOW_MS - CLOSING_MS - 50_000, 3, asked_boot_ms=77)
    assert [("dev", sent)] == reaction.sends
    record = LeaseRecord("dev", 5, "inc-9", 7, amount, 3, granted_unix_ms=50_000)
    window, lease, _, device = reaction.effects
    assert (record, replace(DEVICE, lease_number_max=5)) == (lease, device)
    assert isinstance(window, WindowRow)
    assert amount == window.outstanding_nanos
    assert device == lender.registry.device("dev")


def test_what_is_on_its_way_is_not_lent_again() -> None:
    """A coordinator that has stood still finds many wishes of the same need."""
    lender = Lender()
    first = lender.lease(lease_number_max=4)
    lender.device = lender.registry.device("dev")
    asked = [lender.ask(lease_number_max=4, unix_ms=50_000 + after) for after in (0, 9_999)]
    assert [Reaction(), Reaction()] == asked
    assert Reaction() == lender.ask(lease_number_max=4, needed_nanos=first.amount_nanos)


@pytest.mark.parametrize("asked", [{"needed_nanos": 9 * WORST}, {"worst_case_nanos": 9 * WORST}])
def test_who_needs_more_than_what_is_on_its_way_gets_what_it_needs(asked: dict[str, int]) -> None:
    """And nothing to keep in store: that is on its way."""
    lender = Lender()
    lender.lease(lease_number_max=4, worst_case_nanos=WORST)
    lender.device = lender.registry.device("dev")
    more = lender.lease(lease_number_max=4, **asked)
    store = 9 * WORST if "needed_nanos" in asked else 25 * WORST
    assert (6, store) == (more.lease_number, more.amount_nanos)


@pytest.mark.parametrize(
    ("arrived", "unix_ms"), [(5, 50_001), (None, 50_001), (4, 60_000)], ids=str
)
def test_who_has_it_may_ask_for_more(arrived: int | None, unix_ms: int) -> None:
    """So may who does not say, and after ten seconds the first one is taken for lost."""
    lender = Lender()
    lender.lease(lease_number_max=4)
    lender.device = lender.registry.device("dev")
    assert 6 == lender.lease(lease_number_max=arrived, unix_ms=unix_ms).lease_number


def test_what_was_lent_is_not_remembered_longer_than_it_may_be_on_its_way() -> None:
    """Also of a device that never says what has arrived."""
    lender = Lender()
    for number in range(3):
        lender.lease(unix_ms=10_000 * number)
        lender.device = lender.registry.device("dev")
    assert [7] == [lease.number for lease in lender.sessions["dev"].granted]


def test_a_device_whose_token_is_not_synced_gets_nothing() -> None:
    """Nor does one that has gone while its wish was under way (rule D_2)."""
    lender = Lender()
    lender.sessions["dev"].may_spend = False
    expected = LeaseRefused("cloud", "the session's resume token is not synced yet", 2_000)
    assert expected == lender.refusal()
    lender.sessions.clear()
    assert expected == lender.refusal()


def test_a_device_that_is_not_trusted_gets_nothing() -> None:
    """It is told why, and need not ask often."""
    standing = DeviceStanding.QUARANTINED
    lender = Lender(device=replace(DEVICE, standing=standing, standing_reason="a clone"))
    expected = LeaseRefused("cloud", "the device is quarantined: a clone", 60_000)
    assert expected == lender.refusal()


@pytest.mark.parametrize("window", [None, WINDOW])
def test_between_two_windows_nothing_is_lent(window: WindowRow | None) -> None:
    """The next one has a budget of its own (rule C_4)."""
    reason = "the budget window is over and the next has not begun"
    refused = Lender().refusal(window=window, unix_ms=WINDOW_MS)
    assert LeaseRefused("cloud", reason, 2_000) == refused


def test_while_lending_is_frozen_everybody_is_told_why() -> None:
    """Also who would be refused for a reason of its own."""
    lender = Lender()
    expected = LeaseRefused("cloud", "books are being recovered", 3_000)
    assert expected == lender.refusal(frozen="books are being recovered")
    lender.sessions.clear()
    assert expected == lender.refusal(frozen="books are being recovered")


def test_a_price_that_is_no_longer_valid_stops_lending() -> None:
    """No lease outlives its price; the one before its end is as long as that allows (A_3)."""
    toml = FLEET.replace(PRICE, PRICE + '\nvalid_until = "1970-01-01T00:01:00Z"')
    reason = "a price is no longer valid: apply a configuration with its successor"
    expected = LeaseRefused("cloud", reason, 3_000)
    assert 1 == Lender().lease(toml=toml, unix_ms=59_999).duration_ms
    assert expected == Lender().refusal(toml=toml, unix_ms=60_000)
    assert expected == Lender().refusal(toml=toml, unix_ms=70_000)


def test_money_that_is_used_up_is_refused_as_such() -> None:
    """With what is left of how much, and what would have been too much of it."""
    reason = (
        "budget cloud: $0.100000000 of $0.100000000 are free until the window ends, and "
        "$0.100000001 were asked for; wait for the next window or raise the budget"
    )
    refused = Lender().refusal(worst_case_nanos=100 * WORST + 1)
    assert LeaseRefused("cloud", reason, 2_000, exhausted=True) == refused


def test_a_device_that_did_not_close_its_leases_cleanly_waits() -> None:
    """Until the time that was booked with the last of them, whatever sessions begin (rule L_4)."""
    lender = Lender(device=replace(DEVICE, unclean_closes=2, lends_from_unix_ms=3_000))
    reason = "2 leases in a row were not closed cleanly: see why the device's process dies"
    assert LeaseRefused("cloud", reason, 2_000) == lender.refusal(unix_ms=1_000)
    lender.sessions["dev"] = replace(lender.sessions["dev"], incarnation="inc-10")
    assert 1 == lender.refusal(unix_ms=2_999).retry_after_ms
    lender.lease(unix_ms=3_000)


def test_a_device_that_has_seen_no_request_is_lent_for_the_dearest_arm() -> None:
    """By the arms' priors; what is free needs a lease too, if only of next to nothing."""
    prior = fleet_config(FLEET).arms["large"].cost_nanos
    assert prior > 1_000
    late = WINDOW_MS - 500
    assert prior == Lender().lease(worst_case_nanos=0, unix_ms=late).amount_nanos
    free = FLEET.replace('"2.50"', '"0"').replace('"10"', '"0"')
    assert 1 == Lender().lease(worst_case_nanos=0, unix_ms=late, toml=free).amount_nanos


def test_a_device_without_paid_arms_is_lent_nothing() -> None:
    """Nor one whose class the fleet no longer has."""
    local = FLEET.replace('["tiny", "large"]', '["tiny"]')
    reason = "the arms of device class pi are all free of charge"
    expected = LeaseRefused("cloud", reason, 60_000)  # the budget has nothing to do with it
    assert expected == Lender().refusal(worst_case_nanos=0, toml=local)
    lender = Lender(device=replace(DEVICE, device_class="gone"))
    assert not lender.refusal(worst_case_nanos=0).exhausted


def test_a_judge_is_paid_by_devices_that_have_no_paid_arm() -> None:
    """It grades local answers, too."""
    judged = FLEET.replace('["tiny", "large"]', '["tiny"]') + '[judge]\narm = "large"\n'
    prior = fleet_config(FLEET).arms["large"].cost_nanos
    late = WINDOW_MS - 500
    lease = Lender().lease(worst_case_nanos=0, unix_ms=late, toml=judged)
    assert prior == lease.amount_nanos
    lender = Lender(device=replace(DEVICE, device_class="gone"))
    assert not lender.refusal(worst_case_nanos=0, toml=judged).exhausted


@pytest.mark.parametrize(
    ("length_ms", "closing_ms"), [(100_050, 3_126), (30 * 86_400_000, 600_000)]
)
def test_stores_end_a_share_of_the_window_early(length_ms: int, closing_ms: int) -> None:
    """In whole milliseconds, and never more than ten minutes."""
    window = replace(WINDOW, end_unix_ms=length_ms)
    toml = FLEET.replace("[arms.tiny]", '[link]\nlease_duration = "60d"\n[arms.tiny]', 1)
    lease = Lender(window=window).lease(toml=toml, unix_ms=0)
    assert str(length_ms - closing_ms) == str(lease.duration_ms)


def test_a_lease_lasts_as_long_as_the_fleet_file_says() -> None:
    """A device that is cut off gives its money back after that (rule L_3)."""
    window = replace(WINDOW, end_unix_ms=10**9)
    toml = FLEET.replace("[arms.tiny]", '[link]\nlease_duration = "7m"\n[arms.tiny]', 1)
    assert 420_000 == Lender(window=window).lease(toml=toml, unix_ms=0).duration_ms


def test_a_store_of_less_than_a_second_is_not_worth_it() -> None:
    """Then the lease is for one request, to the window's end."""
    stores_end_ms = WINDOW_MS - CLOSING_MS
    lease = Lender().lease(unix_ms=stores_end_ms - 1_000)
    assert (8 * WORST, 1_000) == (lease.amount_nanos, lease.duration_ms)
    lease = Lender().lease(unix_ms=stores_end_ms - 999)
    assert (WORST, CLOSING_MS + 999) == (lease.amount_nanos, lease.duration_ms)


def connected(*, later_ms: int = 0) -> Fleet:
    """A fleet in its window of 100 s, with a device that may spend."""
    fleet = Fleet()
    fleet.tick(later_ms=later_ms)
    fleet.hello()
    fleet.sync()
    return fleet


def test_what_is_kept_in_store_comes_back_before_the_window_ends() -> None:
    """A large lease ends a thirty-second part of the window early."""
    lease = connected(later_ms=50_000).lease()
    assert lease.amount_nanos > 2 * WORST
    assert WINDOW_MS - CLOSING_MS - 50_000 == lease.duration_ms


@pytest.mark.parametrize("left_ms", [CLOSING_MS, 500])
def test_the_last_money_of_a_window_is_lent_request_by_request(left_ms: int) -> None:
    """One worst case, to the end of the window."""
    lease = connected(later_ms=WINDOW_MS - left_ms).lease()
    assert (WORST, left_ms) == (lease.amount_nanos, lease.duration_ms)


def test_the_planned_spend_is_shared_by_the_devices_that_are_up() -> None:
    """It is counted once a slot; before the first count everybody connected shares it."""
    fleet = connected()
    fleet.tick(later_ms=10_500)
    planner = fleet.engine.planner
    assert planner is not None
    assert {"pi": 1} == planner.load.devices_up
    planner.load.devices_up["pi"] = 10**9
    assert 8 * WORST == fleet.lease().amount_nanos
