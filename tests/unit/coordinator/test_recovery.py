"""A database restored from a backup: nothing is lent until everything lent is known (rule C_5)."""

from __future__ import annotations

from copy import deepcopy

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.messages import LeaseSent
from coordinator.records import DeviceRow
from coordinator.sessions import Reaction
from shared.decision.types import LeaseClose, LeaseStatus
from shared.errors import ConflictError
from tests.fakes.memory_store import MemoryDatabase, MemoryStore
from tests.unit.coordinator.test_fleet_flow import WORST, Fleet, paid


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


def status(number: int, *, amount: int) -> LeaseStatus:
    """A lease as its device tells of it."""
    return LeaseStatus(number, 0, amount, 0, 0, amount, closing=False)


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

    fleet.does(fleet.engine.recover_ledger(actor="ann", unix_ms=fleet.now))

    assert 40 == fleet.window.settled_nanos
    answer = fleet.lease()
    assert 3 == answer.lease_number, "a number is never given twice"
    assert [] == verified(fleet)


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
    assert "missing:dev" in fleet.engine.alarms
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
