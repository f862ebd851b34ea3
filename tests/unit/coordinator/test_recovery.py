"""A database restored from a backup: nothing is lent until everything lent is known (rule C_5)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.messages import LeaseSent
from coordinator.records import (
    AuditRow,
    DeviceRow,
    EarlierFacts,
    LeaseEnd,
    LeaseRecord,
    PutSetting,
    SettingKey,
)
from coordinator.recovering import STRANGERS_MAX
from coordinator.recovery import Recovery
from coordinator.sessions import Reaction
from shared.decision.types import LeaseClose, LeaseStatus
from shared.errors import ConflictError, ProtocolError
from shared.limits import NUMBER_MAX
from tests.fakes.memory_store import MemoryDatabase, MemoryStore
from tests.unit.coordinator.test_fleet_flow import FLEET, WORST, Fleet, paid


@pytest.fixture
def fleet() -> Fleet:
    """A device that has a lease and spent 10 nanos of it."""
    made = Fleet()
    made.hello()
    made.sync()
    made.lease()
    made.report(paid("a", lease=1, cost=10))
    return made


def backup(fleet: Fleet) -> MemoryDatabase:
    """A copy of the database as it is now."""
    return deepcopy(fleet.store.database)


def restore(fleet: Fleet, database: MemoryDatabase) -> None:
    """The coordinator starts on an older database."""
    database.held = False
    fleet.store = MemoryStore(database)
    fleet.store.open()
    fleet.engine = CoordinatorEngine(fleet.store.load())


def status(number: int, *, amount: int, window_id: int = 0) -> LeaseStatus:
    """A lease as its device tells of it."""
    return LeaseStatus(number, window_id, amount, 0, 0, amount, closing=False)


def verified(fleet: Fleet) -> list[str]:
    """Where the ledger's rows and its balances disagree."""
    return list(fleet.store.differences(progress=lambda done, total: None))


def test_money_that_was_lent_after_the_backup_is_booked_as_presented(fleet: Fleet) -> None:
    """From the first hello on; costs on it are booked, and lending waits for the operator."""
    old = backup(fleet)
    lost = fleet.lease()
    before = fleet.window
    restore(fleet, old)
    fleet.hello(leases=(status(2, amount=lost.amount_nanos),), number_max=2)
    fleet.sync()
    assert before.committed_nanos == fleet.window.committed_nanos
    fleet.report(paid("b", lease=2, cost=30))
    assert "tidectl ledger recover" in fleet.refusal().reason

    reaction = fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now)
    fleet.does(reaction)

    assert AuditRow(fleet.now, "ann", "ledger recover", "") == fleet.store.database.audit[-1]
    assert [("restored", True, fleet.now)] == [
        (alert.key, alert.cleared, alert.at_unix_ms) for alert in reaction.alerts
    ]
    assert 40 == fleet.window.settled_nanos
    answer = fleet.lease()
    assert 3 == answer.lease_number, "a number is never given twice"
    assert [] == verified(fleet)


def test_a_presented_lease_is_in_the_books_at_once(fleet: Fleet) -> None:
    """Of its device's present process, at no price that is known, so that it is recalled soon."""
    old = backup(fleet)
    lost = fleet.lease()
    fleet.records(paid("b", lease=1, cost=1))  # and not told yet
    restore(fleet, old)
    fleet.now += 1_000
    fleet.hello(leases=(status(2, amount=lost.amount_nanos),), number_max=2)
    expected = LeaseRecord(
        "dev", 2, "inc-2", fleet.window.id, lost.amount_nanos, price_version=0,
        granted_unix_ms=fleet.now,
    )  # fmt: skip
    assert expected == fleet.store.database.leases["dev", 2]
    assert [fleet.now] == [
        row.at_unix_ms for row in fleet.store.database.ledger if row.lease_number == 2
    ]


def test_a_presented_lease_belongs_to_its_own_window_if_the_books_know_it(fleet: Fleet) -> None:
    """Its cost is that window's (rule C_4); money of a forgotten window is out now."""
    old, first = backup(fleet), fleet.window.id
    restore(fleet, old)
    fleet.tick(later_ms=100_000)
    second = fleet.window.id
    held = (status(2, amount=20, window_id=first), status(3, amount=30, window_id=first - 1))
    fleet.hello(leases=(status(1, amount=WORST, window_id=first), *held), number_max=3)
    assert first < second
    assert [first, second] == [
        fleet.store.database.leases["dev", number].window_id for number in (2, 3)
    ]
    assert [] == verified(fleet)


def test_a_presented_lease_that_ended_in_an_earlier_window_is_in_the_books(fleet: Fleet) -> None:
    """Written off, and not lent a second time; its device's close may lower the write-off."""
    fleet.restart()
    _, gone = fleet.engine.write_off("dev", assume_unspent=False, actor="ann", unix_ms=fleet.now)
    fleet.does(gone)
    first = fleet.window
    fleet.tick(later_ms=100_000)
    old = backup(fleet)
    restore(fleet, old)
    fleet.store.commit([PutSetting(SettingKey.RECOVERY, Recovery("restored").to_json())])
    fleet.restart()
    fleet.hello(leases=(status(1, amount=WORST, window_id=first.id),), number_max=1)
    fleet.sync()
    assert LeaseEnd.WRITTEN_OFF is fleet.store.database.leases["dev", 1].end
    assert 0 == fleet.window.committed_nanos
    fleet.report(LeaseClose(1, 10, clean=False, reason="process ended"))
    assert 10 == fleet.store.database.windows[first.id].committed_nanos
    assert [] == verified(fleet)


def test_a_heartbeat_presents_no_lease_that_the_books_have_let_go_of(fleet: Fleet) -> None:
    """It ended in an earlier window: it is not lent a second time when a recovery begins."""
    first = fleet.window.id
    fleet.report(LeaseClose(1, 10, clean=True, reason="recalled"))
    for _ in range(2):
        fleet.tick(later_ms=100_000)
    assert fleet.engine.account.lease("dev", 1) is None
    held = (status(1, amount=WORST, window_id=first),)
    fleet.engine.heartbeat(
        "dev", leases=held, spooled_records=0, table_version=0, unix_ms=fleet.now
    )
    fleet.report(paid("b", lease=9, cost=1))
    assert LeaseEnd.CLOSED is fleet.store.database.leases["dev", 1].end
    assert (1, 0) == (fleet.window.settled_nanos, fleet.window.outstanding_nanos)
    assert [] == verified(fleet)


def test_a_lost_lease_is_booked_once_for_a_session(fleet: Fleet) -> None:
    """Also if the books are restored, recovered, and found wanting again in the meantime."""
    old = backup(fleet)
    restore(fleet, old)
    fleet.hello(leases=(status(1, amount=WORST), status(2, amount=70)), number_max=2)
    fleet.sync()
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    fleet.report(LeaseClose(2, 5, clean=True, reason="recalled"))
    for _ in range(2):
        fleet.tick(later_ms=100_000)
    assert fleet.engine.account.lease("dev", 2) is None
    fleet.report(paid("b", lease=9, cost=1))
    assert LeaseEnd.CLOSED is fleet.store.database.leases["dev", 2].end
    assert [] == verified(fleet)


def test_a_batch_that_shows_that_the_books_were_restored_freezes_them_for_good(
    fleet: Fleet,
) -> None:
    """A restart remembers, and the lease of unknown amount has ended with all that it cost."""
    fleet.now += 1_000
    fleet.report(paid("b", lease=2, cost=30))
    lease = fleet.store.database.leases["dev", 2]
    assert (0, "inc-1", 0, fleet.now) == (
        lease.amount_nanos,
        lease.incarnation,
        lease.price_version,
        lease.granted_unix_ms,
    )
    assert (30, LeaseEnd.WRITTEN_OFF) == (lease.booked_nanos, lease.end)
    assert "lease 2, which these books do not know" in fleet.engine.alarms["restored"]
    fleet.restart()
    assert fleet.engine.recovery is not None


def test_connected_devices_are_asked_when_a_batch_shows_that_the_books_were_restored(
    fleet: Fleet,
) -> None:
    """What their hello has presented counts, be it before anybody knew of the restore."""
    fleet.hello(leases=(status(1, amount=WORST), status(3, amount=70)))
    assert ("dev", 3) not in fleet.store.database.leases
    fleet.now += 1_000
    fleet.report(paid("b", lease=2, cost=30))
    assert (70, fleet.now) == (
        fleet.store.database.leases["dev", 3].amount_nanos,
        fleet.store.database.leases["dev", 3].granted_unix_ms,
    )


def test_restored_books_without_a_window_wait_for_one() -> None:
    """Until a fleet is configured there is nothing to book a lost lease on."""
    fleet = Fleet(configured=False)
    fleet.store.commit([PutSetting(SettingKey.RECOVERY, Recovery("restored").to_json())])
    fleet.restart()
    fleet.hello(leases=(status(2, amount=70),), number_max=2)
    fleet.sync()
    fleet.report(paid("a", lease=0, cost=0))
    with pytest.raises(ConflictError, match="no budget window yet"):
        fleet.report(paid("b", lease=3, cost=30))
    fleet.apply(FLEET)
    assert 70 == fleet.window.outstanding_nanos


@pytest.mark.parametrize(("number", "known", "highest"), [(5, 2, 5), (2, 2, 2), (2, 5, 5)])
def test_no_number_of_a_lost_lease_is_given_again(number: int, known: int, highest: int) -> None:
    """Whatever its device says of the highest that has reached it."""
    fleet = Fleet(configured=False)
    fleet.store.commit([PutSetting(SettingKey.RECOVERY, Recovery("restored").to_json())])
    fleet.restart()
    fleet.hello(leases=(status(number, amount=70),), number_max=known)
    fleet.apply(FLEET)
    assert highest == fleet.device.lease_number_max
    assert highest == fleet.store.database.devices["dev"].lease_number_max


@pytest.mark.parametrize(("highest", "lends"), [(NUMBER_MAX - 1, True), (NUMBER_MAX, False)])
def test_nothing_is_lent_under_a_number_that_its_device_could_not_report(
    highest: int, lends: bool
) -> None:
    """Its hello would be refused ever after, and the lease never closed."""
    fleet = Fleet()
    fleet.hello(number_max=highest)
    fleet.sync()
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    if lends:
        assert NUMBER_MAX == fleet.lease().lease_number
    else:
        assert f"lease {highest} is the last that can have a number" in fleet.refusal().reason


def test_a_recovery_outlives_a_restart() -> None:
    """With whom it waits for: of a database that was just restored, everybody."""
    for recovery in (
        Recovery("why", ("b",), "ann", (), ("a",)),
        Recovery("why", (), unmet=()),
    ):
        assert recovery == Recovery.from_json(recovery.to_json(), everybody=("a", "b"))
    restored = Recovery.from_json(Recovery("why").to_json(), everybody=("a", "b"))
    assert Recovery("why", ("a", "b"), unmet=("a", "b")) == restored
    assert None is Recovery.from_json(Recovery("why", (), "ann").to_json(), everybody=("a",))


def test_restored_books_meet_one_device_after_the_other() -> None:
    """Of those that they have not met they may have forgotten the token."""
    both = Recovery.from_json(Recovery("why").to_json(), everybody=iter(("a", "b")))
    assert both is not None
    assert (("a", "b"), ("a", "b")) == (both.waiting, both.unmet)
    assert ("b",) == both.having_met("a").unmet
    assert () == Recovery("why").having_met("a").unmet


def test_a_device_that_is_connected_when_the_restore_is_noticed_was_met(fleet: Fleet) -> None:
    """Its token is known: another one is a clone's."""
    fleet.report(paid("b", lease=2, cost=30))
    assert fleet.engine.recovery is not None
    assert () == fleet.engine.recovery.unmet
    fleet.hello(token="guess")
    assert "quarantined" == fleet.device.standing


def test_a_newer_token_is_no_clone_while_books_are_being_recovered(fleet: Fleet) -> None:
    """The restored books know an older token than the device."""
    old = backup(fleet)
    fleet.hello()
    fleet.sync()
    fleet.lease()
    restore(fleet, old)
    fleet.hello(leases=(status(2, amount=WORST),), number_max=2)
    assert "active" == fleet.device.standing
    fleet.hello(token="guess")
    assert "quarantined" == fleet.device.standing


def test_a_device_that_lost_its_books_too_is_shut_out_and_holds_up_the_recovery(
    fleet: Fleet,
) -> None:
    """It presents nothing, and what it was lent after the backup is in nobody's books (D_2)."""
    old = backup(fleet)
    fleet.lease()
    restore(fleet, old)
    fleet.store.commit([PutSetting(SettingKey.RECOVERY, Recovery("restored").to_json())])
    fleet.restart()
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))

    fleet.hello(token="", copied=True, leases=(), number_max=0)

    assert "quarantined" == fleet.device.standing
    assert "its books were lost" in fleet.device.standing_reason
    assert LeaseEnd.CLOSED is fleet.store.database.leases["dev", 1].end
    assert 0 == fleet.window.outstanding_nanos
    assert fleet.engine.recovery is not None
    with pytest.raises(ConflictError, match="device pi-1 has lost a part of its books"):
        fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now)
    fleet.restart()
    fleet.does(fleet.engine.clear_alarm("stranger:dev", actor="ann", unix_ms=fleet.now))
    fleet.hello(token="", copied=True, leases=(), number_max=0)  # it was met: nothing new
    assert "stranger:dev" not in fleet.engine.alerts
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    assert fleet.engine.recovery is None


def test_a_device_with_an_older_disk_is_shut_out_of_restored_books_too(fleet: Fleet) -> None:
    """It lacks records that even they know of."""
    old = backup(fleet)
    fleet.lease()
    restore(fleet, old)
    fleet.hello(token="older", last=0, number_max=2)
    assert "fewer records" in fleet.device.standing_reason
    assert "stranger:dev" in fleet.engine.alerts


def test_a_copy_is_shut_out_once_its_device_was_met(fleet: Fleet) -> None:
    """Also while books are being recovered, and the device has more to tell."""
    old = backup(fleet)
    fleet.lease()
    fleet.records(paid("b", lease=1, cost=1))  # and not told yet
    restore(fleet, old)
    fleet.hello(number_max=2)
    assert ("dev",) == (fleet.engine.recovery or Recovery("")).waiting
    fleet.hello(token="guess")
    assert "quarantined" == fleet.device.standing


def test_a_forgotten_lease_is_of_the_incarnation_that_tells_of_it(fleet: Fleet) -> None:
    """A spool may hold records of several."""
    first, second = fleet.records(paid("b", lease=2, cost=30), paid("c", lease=3, cost=40))
    session = fleet.engine.sessions["dev"]
    session.spool = replace(session.spool, marks={"inc-0": 0, "inc-1": 1})
    reaction = Reaction()
    fleet.engine._adopt_forgotten(
        reaction,
        fleet.device,
        (first._replace(incarnation="inc-0"), second),
        earlier=EarlierFacts(),
        unix_ms=fleet.now,
    )
    found = [fleet.engine.account.lease("dev", number) for number in (2, 3)]
    assert ["inc-0", "inc-1"] == [lease.incarnation for lease in found if lease is not None]


def test_a_lost_lease_of_an_incarnation_without_a_name_is_refused(fleet: Fleet) -> None:
    """Before anything has changed: no recovery begins, and no lease is booked."""
    (told,) = fleet.records(paid("b", lease=2, cost=30))
    said = f"device {fleet.device.name} sent sequence {told.sequence} of the incarnation 'inc-0'"
    with pytest.raises(ProtocolError, match=said):
        fleet.send([told._replace(incarnation="inc-0")])
    assert fleet.engine.recovery is None
    assert fleet.engine.account.lease("dev", 2) is None


def test_a_lease_that_ended_after_the_backup_is_booked_from_the_spool(fleet: Fleet) -> None:
    """The device sends again what the books forgot: 30 explained and 40 unexplained nanos."""
    old, sequence = backup(fleet), fleet.sequence
    fleet.lease()
    records = fleet.records(paid("b", lease=2, cost=30), LeaseClose(2, 70, False, "another boot"))
    fleet.send(records)
    truth = fleet.window
    restore(fleet, old)
    fleet.hello(number_max=2, acked=sequence + 2)
    fleet.send(records)
    window = fleet.window
    assert (truth.settled_nanos, truth.unconfirmed_nanos) == (
        window.settled_nanos,
        window.unconfirmed_nanos,
    )
    assert [] == verified(fleet)


def test_records_that_no_device_keeps_any_more_raise_an_alarm(fleet: Fleet) -> None:
    """The rest is booked all the same; without a restore it would be refused."""
    old = backup(fleet)
    fleet.report(paid("b", lease=1, cost=1))
    later = fleet.records(paid("c", lease=1, cost=2))
    restore(fleet, old)
    fleet.hello(acked=2)
    fleet.send(later)
    said = "device pi-1 sent sequence 3 after 1: records are missing"
    assert said == fleet.engine.alarms["missing:dev"]
    assert 12 == fleet.window.settled_nanos


def test_nothing_is_lent_before_every_device_is_heard_or_written_off(fleet: Fleet) -> None:
    """A silent device may hold a lease that nobody else knows of."""
    row = DeviceRow("silent", "pi-2", "pi", "digest", 0)
    fleet.does(Reaction(effects=[fleet.engine.registry.put(row)]))
    old = backup(fleet)
    fleet.lease()
    restore(fleet, old)
    fleet.hello(leases=(status(1, amount=WORST), status(2, amount=WORST)), number_max=2)
    fleet.sync()
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    assert "1 devices have not reported" in fleet.refusal().reason
    fleet.restart()
    fleet.hello(leases=(status(1, amount=WORST), status(2, amount=WORST)))
    fleet.sync()
    assert "1 devices have not reported" in fleet.refusal().reason

    amount, reaction = fleet.engine.write_off(
        "silent", assume_unspent=False, actor="ann", unix_ms=fleet.now
    )
    fleet.does(reaction)

    assert 0 == amount
    assert isinstance(fleet.ask(), LeaseSent)
    assert {} == fleet.engine.alarms
    fleet.restart()
    assert None is fleet.engine.recovery


def test_a_device_is_heard_when_all_that_it_kept_is_booked(fleet: Fleet) -> None:
    """Not at its hello: what it closed after the backup is told by its records alone."""
    old = backup(fleet)
    fleet.lease()
    records = fleet.records(paid("b", lease=2, cost=30), LeaseClose(2, 70, False, "another boot"))
    fleet.send(records)
    restore(fleet, old)
    fleet.hello(acked=fleet.sequence)
    fleet.sync()
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    assert "1 devices have not reported" in fleet.refusal().reason
    fleet.send(records)
    assert None is fleet.engine.recovery
    assert (40, 40) == (fleet.window.settled_nanos, fleet.window.unconfirmed_nanos)


def test_a_quarantined_device_may_have_been_readmitted_after_the_backup(fleet: Fleet) -> None:
    """And have got leases: it is waited for, and what it presents is booked (rule C_5)."""
    fleet.hello(token="stolen")
    old = backup(fleet)
    fleet.does(fleet.engine.readmit("dev", actor="ann", unix_ms=fleet.now))
    fleet.hello(token="any")
    fleet.sync()
    lost = fleet.lease()
    restore(fleet, old)
    assert "quarantined" == fleet.device.standing

    fleet.hello(leases=(status(2, amount=lost.amount_nanos),), number_max=2)

    assert "restored" in fleet.engine.alarms
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    assert lost.amount_nanos == fleet.window.outstanding_nanos


def test_a_device_that_restored_books_do_not_know_holds_up_the_recovery(fleet: Fleet) -> None:
    """It joined after the backup and may hold leases: an operator has to look into it."""
    called = fleet.engine.stranger_called("a" * 64, peer="ipv4:9.9.9.9:1", unix_ms=fleet.now)
    assert Reaction() == called  # complete books know everybody

    old = backup(fleet)
    lost = fleet.lease()
    restore(fleet, old)
    fleet.hello(leases=(status(2, amount=lost.amount_nanos),), number_max=2)
    fleet.sync()
    call = fleet.engine.stranger_called("a" * 64, peer="ipv4:9.9.9.9:1", unix_ms=fleet.now)
    assert [("stranger:aaaaaaaa", fleet.now)] == [(a.key, a.at_unix_ms) for a in call.alerts[-1:]]
    fleet.does(call)
    with pytest.raises(ConflictError, match=r"has called from ipv4:9\.9\.9\.9:1: it joined after"):
        fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now)

    restore(fleet, backup(fleet))  # a restart
    fleet.hello(number_max=2)
    fleet.does(fleet.engine.clear_alarm("stranger:aaaaaaaa", actor="ann", unix_ms=fleet.now))
    again = fleet.engine.stranger_called("a" * 64, peer="ipv4:9.9.9.9:2", unix_ms=fleet.now)
    assert Reaction() == again
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    assert fleet.engine.recovery is None


def test_a_stranger_withdraws_the_confirmation_and_many_are_not_counted(fleet: Fleet) -> None:
    """The operator did not know of it; and nobody fills the books by calling."""
    row = DeviceRow("silent", "pi-2", "pi", "digest", 0)
    fleet.does(Reaction(effects=[fleet.engine.registry.put(row)]))
    old = backup(fleet)
    lost = fleet.lease()
    restore(fleet, old)
    fleet.hello(leases=(status(2, amount=lost.amount_nanos),), number_max=2)
    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))
    for number in range(STRANGERS_MAX + 1):
        name = f"{number:08}"
        fleet.does(fleet.engine.stranger_called(name, peer="p", unix_ms=fleet.now))
    assert fleet.engine.recovery is not None
    assert STRANGERS_MAX == len(fleet.engine.recovery.strangers)
    assert "" == fleet.engine.recovery.confirmed_by


def test_complete_books_have_nothing_to_recover(fleet: Fleet) -> None:
    """The operator is told."""
    with pytest.raises(ConflictError, match="nothing to recover"):
        fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now)


def test_a_silent_device_is_written_off(fleet: Fleet) -> None:
    """What it did not report is spent, until it tells otherwise; a connected one is not silent."""
    with pytest.raises(ConflictError, match="connected"):
        fleet.engine.write_off("dev", assume_unspent=False, actor="ann", unix_ms=fleet.now)
    fleet.engine.disconnected("dev", incarnation="inc-1")
    before = fleet.window
    amount, reaction = fleet.engine.write_off(
        "dev", assume_unspent=False, actor="ann", unix_ms=fleet.now
    )
    fleet.does(reaction)
    assert before.outstanding_nanos == amount == fleet.window.unconfirmed_nanos
    assert before.free_nanos == fleet.window.free_nanos
    assert "ann" in fleet.store.database.audit[-1].actor
    fleet.hello()
    fleet.report(LeaseClose(1, 25, True, "back"))
    assert (10, 15, 0) == (
        fleet.window.settled_nanos,
        fleet.window.unconfirmed_nanos,
        fleet.window.outstanding_nanos,
    )
    assert [] == verified(fleet)
