"""What operators order and are told: write-offs, alarms, warnings, late overruns."""

from __future__ import annotations

import pytest

from coordinator.adapters import money_views
from coordinator.adapters.metrics import EngineCollector
from coordinator.alerts import Alert, AlertKind
from coordinator.messages import LeaseSent, Message
from coordinator.records import AuditRow, DeviceRow
from coordinator.sessions import Reaction
from shared.decision.money import dollars
from shared.decision.types import CostAdjustment, LeaseClose, LeaseStatus, SettleKind
from shared.errors import ConflictError, NotFoundError
from tests.unit.coordinator.test_fleet_flow import BUDGET, FLEET, WORST, Fleet, paid

RISE = FLEET.replace('output_usd_per_mtok = "10"', 'output_usd_per_mtok = "12"')


class Told(Fleet):
    """A fleet that keeps what operators are told."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        super().__init__()
        self.hello()
        self.sync()

    def does(self, reaction: Reaction) -> list[Message]:
        self.alerts += reaction.alerts
        return super().does(reaction)

    def told(self) -> list[str]:
        """The keys since the last look; a cleared alarm with a minus."""
        keys = ["-" * alert.cleared + alert.key for alert in self.alerts]
        self.alerts.clear()
        return keys


@pytest.fixture
def fleet() -> Told:
    """A fleet whose device may spend."""
    return Told()


def silent(fleet: Fleet) -> None:
    """The device's session ends."""
    fleet.engine.disconnected("dev", incarnation=f"inc-{fleet.tokens}")


def test_marks_and_a_refusal_are_told_as_the_budget_is_spent(fleet: Told) -> None:
    """50, 80 and 100 %, then a refusal; a restart tells none of them again."""
    lease = fleet.ask(worst=BUDGET)
    assert isinstance(lease, LeaseSent)
    number = lease.lease_number
    for name, cost in (("a", BUDGET // 2), ("b", BUDGET * 3 // 10), ("c", BUDGET // 5)):
        fleet.report(paid(name, lease=number, cost=cost, reserved=BUDGET))
    assert ["budget:50", "budget:80", "budget:100"] == fleet.told()
    fleet.refusal()
    assert ["refused"] == fleet.told()
    fleet.restart()
    fleet.hello()
    fleet.sync()
    fleet.refusal()
    fleet.tick(later_ms=10)
    assert [] == fleet.told()


def test_the_marks_are_the_operators_to_choose() -> None:
    """In the fleet's file; changing them changes no budget."""
    fleet = Told()
    fleet.does(fleet.engine.set_budget(BUDGET // 2, actor="ann", unix_ms=fleet.now))
    fleet.apply(FLEET.replace("[arms.tiny]", "alert_percents = [10]\n[arms.tiny]", 1))
    assert BUDGET // 2 == fleet.window.target_nanos
    lease = fleet.lease().lease_number
    fleet.report(paid("a", lease=lease, cost=BUDGET // 20, reserved=BUDGET))
    assert ["budget:10"] == [key for key in fleet.told() if key.startswith("budget")]


def test_a_late_cost_above_the_reservation_is_an_overrun(fleet: Told) -> None:
    """It raises the alarm and closes the arm everywhere, although its report came late (S_4)."""
    number = fleet.lease().lease_number
    fleet.report(paid("a", lease=number, cost=WORST, settle=SettleKind.UNKNOWN))
    assert [] == fleet.told()
    fleet.report(CostAdjustment("a", number, 7, "usage came late"))
    assert ["overrun:large"] == fleet.told()
    assert f"billed ${dollars(WORST + 7)}" in fleet.engine.alarms["overrun:large"]
    assert frozenset({"large"}) == fleet.engine.disabled_arms
    assert WORST + 7 == fleet.window.settled_nanos


def test_a_late_cost_within_the_reservation_is_no_overrun(fleet: Told) -> None:
    """It was settled for less than it had held."""
    number = fleet.lease().lease_number
    fleet.report(
        paid("a", lease=number, cost=30), CostAdjustment("a", number, 7, "usage came late")
    )
    assert [] == fleet.told()
    assert 37 == fleet.window.settled_nanos


def test_a_late_cost_of_an_unknown_request_is_told_all_the_same(fleet: Told) -> None:
    """Its outcome may have been compacted: then nobody knows which arm it was."""
    number = fleet.lease().lease_number
    fleet.report(CostAdjustment("gone", number, 7, "usage came late"))
    assert ["overrun:dev/late"] == fleet.told()
    assert frozenset() == fleet.engine.disabled_arms
    fleet.does(fleet.engine.clear_alarm("overrun:dev/late", actor="ann", unix_ms=fleet.now))
    assert {} == fleet.engine.alarms


def test_a_write_off_says_who_and_why(fleet: Told) -> None:
    """In the ledger and in the audit."""
    fleet.lease()
    silent(fleet)
    _, reaction = fleet.engine.write_off(
        "dev", assume_unspent=False, actor="ann", reason="stolen", unix_ms=fleet.now
    )
    fleet.does(reaction)
    notes = [row.note for row in fleet.store.database.ledger if row.note]
    assert ["written off by ann: stolen"] * 2 == notes
    audit = fleet.store.database.audit[-1]
    assert ("ann", "budget write-off") == (audit.actor, audit.action)
    assert audit.detail.endswith("; stolen")
    assert [] == fleet.told()


def test_money_assumed_unspent_is_an_alarm_until_it_is_cleared(fleet: Told) -> None:
    """The window says for good that promise P1 does not cover it."""
    amount = fleet.lease().amount_nanos
    silent(fleet)
    _, reaction = fleet.engine.write_off(
        "dev", assume_unspent=True, actor="ann", reason="burnt", unix_ms=fleet.now
    )
    fleet.does(reaction)
    assert ["unspent:dev"] == fleet.told()
    fleet.restart()
    assert f"${dollars(amount)} of device" in fleet.engine.alarms["unspent:dev"]
    fleet.does(fleet.engine.clear_alarm("unspent:dev", actor="ann", unix_ms=fleet.now))
    assert ["-unspent:dev"] == fleet.told()
    budget = money_views.budget(fleet.engine, now_unix_ms=fleet.now)
    assert "burnt" in budget.unspent_note


def test_a_clone_is_an_alarm_until_it_is_readmitted(fleet: Told) -> None:
    """To clear it alone is refused: the device would stay shut out unseen."""
    fleet.hello(token="guess")
    assert ["quarantine:dev"] == fleet.told()
    with pytest.raises(ConflictError, match="device readmit"):
        fleet.engine.clear_alarm("quarantine:dev", actor="ann", unix_ms=fleet.now)
    fleet.restart()
    fleet.does(fleet.engine.readmit("dev", actor="ann", unix_ms=fleet.now))
    assert ["-quarantine:dev"] == fleet.told()


@pytest.mark.parametrize("final", [0, 10 * WORST * 10])
def test_a_close_that_cannot_be_is_an_alarm(fleet: Told, final: int) -> None:
    """Below what is booked, or above the lease: the full lease counts (rule L_5)."""
    number = fleet.lease().lease_number
    fleet.report(paid("a", lease=number, cost=10), LeaseClose(number, final, True, "done"))
    assert ["close:dev"] == fleet.told()
    done = fleet.engine.clear_alarm("close:dev", actor="ann", reason="seen", unix_ms=fleet.now)
    fleet.does(done)
    assert AuditRow(fleet.now, "ann", "alarm clear", "close:dev; seen") in done.effects
    with pytest.raises(NotFoundError, match="close:dev"):
        fleet.engine.clear_alarm("close:dev", actor="ann", unix_ms=fleet.now)


def test_a_price_that_rises_over_leases_is_warned_of(fleet: Told) -> None:
    """Once money is lent; neither for a cut nor for the same price (rule A_3)."""

    def warnings(toml: str) -> tuple[str, ...]:
        return fleet.engine.config_warnings(toml, unix_ms=fleet.now)

    assert () == warnings(RISE)
    fleet.lease()
    (warning,) = warnings(RISE)
    assert "arms.large.price rises at once" in warning
    assert "valid_until" in warning
    assert () == warnings(FLEET)
    assert () == warnings(RISE.replace('"12"', '"9"'))


def test_every_cent_is_explained(fleet: Told) -> None:
    """Free, settled, unconfirmed, lent: by lease, as booked and as last told by its device."""
    first = fleet.lease()
    fleet.report(paid("a", lease=1, cost=10), LeaseClose(1, 25, True, "renewed"))
    second = fleet.lease()
    status = LeaseStatus(2, fleet.window.id, second.amount_nanos, 30, 40, 90, closing=False)
    fleet.engine.heartbeat(
        "dev", leases=(status,), spooled_records=0, table_version=1, unix_ms=fleet.now
    )
    silent(fleet)
    shown = money_views.budget(fleet.engine, now_unix_ms=fleet.now + 5_000)
    ended, lent = shown.holdings
    assert (1, "closed", 15) == (ended.lease_number, ended.end, ended.unconfirmed_nanos)
    assert (first.amount_nanos, 10) == (ended.amount_nanos, ended.booked_nanos)
    assert (30, 40) == (lent.told.settled_nanos, lent.told.reserved_nanos)
    assert (False, 5_000) == (lent.connected, lent.silent_ms)
    assert second.amount_nanos == lent.outstanding_nanos == shown.unreported_nanos
    parts = shown.free_nanos + shown.settled_nanos + shown.unconfirmed_nanos
    assert shown.enforced_nanos == parts + sum(each.outstanding_nanos for each in shown.holdings)
    assert shown.unconfirmed_nanos == sum(each.unconfirmed_nanos for each in shown.holdings)


def test_who_refused_a_request_is_shown(fleet: Told) -> None:
    """The budget's name, the reason, and how often."""
    fleet.refusal(worst=2 * BUDGET)
    shown = money_views.budget(fleet.engine, now_unix_ms=fleet.now).refusals
    assert (1, 1, "cloud", "dev") == (shown.count, shown.exhausted, shown.budget, shown.device_id)
    fleet.does(fleet.engine.set_spend_paused(True, actor="ann", unix_ms=fleet.now))
    fleet.refusal()
    shown = money_views.budget(fleet.engine, now_unix_ms=fleet.now).refusals
    assert (2, 1) == (shown.count, shown.exhausted)
    assert "paused" in shown.reason


def test_a_recovery_shows_who_was_heard_and_who_is_missing(fleet: Told) -> None:
    """And its alarm ends by itself when the last one is written off."""
    fleet.does(
        Reaction(effects=[fleet.engine.registry.put(DeviceRow("far", "pi-2", "pi", "d", 0))])
    )
    fleet.hello(number_max=99)
    assert ["restored"] == fleet.told()
    shown = money_views.recovery(fleet.engine, now_unix_ms=fleet.now)
    assert (["pi-1"], ["pi-2"]) == ([d.name for d in shown.heard], [d.name for d in shown.missing])
    with pytest.raises(ConflictError, match="ledger recover"):
        fleet.engine.clear_alarm("restored", actor="ann", unix_ms=fleet.now)
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    _, reaction = fleet.engine.write_off(
        "far", assume_unspent=False, actor="ann", reason="lost", unix_ms=fleet.now
    )
    fleet.does(reaction)
    assert ["-restored"] == fleet.told()
    assert not money_views.recovery(fleet.engine, now_unix_ms=fleet.now).active


def test_metrics_count_alarms_by_kind(fleet: Told) -> None:
    """The labels are the kinds, whatever the devices are called."""
    fleet.hello(token="guess")
    collector = EngineCollector(
        lambda: fleet.engine, alerts=lambda: {(AlertKind.QUARANTINE, False): 1}
    )
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in collector.collect()
        for sample in family.samples
    }
    assert 1 == samples["tidegate_alarms", "quarantine"]
    assert 0 == samples["tidegate_alarms", "overrun"]
    assert 1 == samples["tidegate_alerts_total", "quarantine", "raised"]
    assert 0 == samples[("tidegate_standby",)]
    assert {("tidegate_standby",): 1.0} == {
        (sample.name,): sample.value
        for family in EngineCollector(lambda: None).collect()
        for sample in family.samples
    }


def test_only_a_quarantined_device_is_readmitted(fleet: Told) -> None:
    """Else the next token would be taken as it comes, with leases out: a clone's, perhaps."""
    lease = fleet.ask()
    assert isinstance(lease, LeaseSent)
    with pytest.raises(ConflictError, match="pi-1 is active: there is nothing to readmit"):
        fleet.engine.readmit("dev", actor="ann", unix_ms=fleet.now)
    fleet.hello(token="stolen", number_max=0)
    assert "quarantined" == fleet.device.standing
    assert lease.amount_nanos == fleet.window.committed_nanos
