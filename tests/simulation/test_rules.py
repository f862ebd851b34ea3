"""Every rule of the money protocol, played once by name; the checkers look on all the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator.fleet_config import parse_fleet
from coordinator.messages import ConfigSent
from coordinator.records import BookedCounts, LeaseEnd, LedgerRow
from coordinator.recovery import Recovery, presented_lease
from coordinator.sessions import Reaction
from shared.decision.types import (
    CostAdjustment,
    LeaseClose,
    LeaseStatus,
    RequestStatus,
    SettleKind,
    SpoolRecord,
    SpoolSummary,
)
from shared.errors import LostLeadershipError, TidegateError
from tests.fakes.memory_store import book_batch
from tests.simulation.device import Device
from tests.simulation.dice import Dice
from tests.simulation.provider import WORST_NANOS, Fate
from tests.simulation.scene import Scene
from tests.simulation.world import WINDOW_MS, small_spools


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Four connected devices; the first has a lease and has spent a little of it."""
    with small_spools():
        yield Scene()


def test_a_1_costs_are_whole_nanos_and_a_price_must_be_written_out(scene: Scene) -> None:
    """One request's cost is rounded up once; no price is no configuration."""
    request = scene.pay(scene.device, arm="small", max_tokens=3)
    bill = scene.provider.bills[request][0]
    attempt = scene.outcome(scene.device, request).attempts[0]
    exact = bill.prompt_tokens * 1_000_000_000 + bill.completion_tokens * 4_000_000_000
    assert -(-exact // 1_000_000) == attempt.cost_nanos
    without = scene.toml().replace('input_usd_per_mtok = "1"\n', "")
    with pytest.raises(TidegateError, match="input_usd_per_mtok"):
        parse_fleet(without, now_unix_ms=scene.now)


def test_a_2_the_worst_case_counts_every_byte_and_every_token(scene: Scene) -> None:
    """Body bytes, overheads and `max_tokens`, the arm's default where the client named none."""
    named = scene.outcome(scene.device, scene.pay(scene.device, max_tokens=40)).attempts[0]
    default = scene.outcome(scene.device, scene.pay(scene.device)).attempts[0]
    prompt_nanos = (200 + 16 + 64) * 2_500
    assert prompt_nanos + 40 * 10_000 == named.reserved_nanos
    assert prompt_nanos + 100 * 10_000 == default.reserved_nanos


def test_a_3_no_lease_outlives_its_price(scene: Scene) -> None:
    """A rise that was entered ahead finds no device reserving at the old price."""
    before = scene.lease(scene.device).price_version
    scene.faults.play("price_rises", scene.device, Dice(1))
    for _ in range(12):
        scene.run(1_000)
        for device in scene.devices:
            scene.pay(device, wait_ms=0)
    scene.run(2_000)
    assert "3.000" == scene.price_usd
    opened = [
        lease
        for lease in scene.centre.database.leases.values()
        if lease.end is LeaseEnd.OPEN and lease.price_version == before
    ]
    assert [] == opened


def test_a_3_a_configuration_that_comes_late_is_passed_over(scene: Scene) -> None:
    """Within a session prices and closed arms only go forward, whatever is repeated."""
    device, line = scene.device, scene.device.line
    assert line is not None
    old = _told_config(scene, device)
    scene.centre.operate(lambda e, now: e.set_arm_enabled("large", False, actor="op", unix_ms=now))
    scene.until(lambda: "large" not in _enabled_arms(device))
    device.take(line, old)
    assert "large" not in _enabled_arms(device)


def test_a_3_a_restored_coordinators_configuration_counts(scene: Scene) -> None:
    """Its versions have gone back with its books, and yet it says what is true now."""
    before = scene.device.engine.config.version
    scene.centre.backup()
    scene.centre.configure(scene.toml(valid_until="2100-01-01T00:00:00Z"))
    scene.run(1_000)
    assert before < scene.device.engine.config.version
    scene.centre.restore(scene.centre.backups[-1][0])
    scene.centre.start()
    scene.run(3_000)
    assert before == scene.device.engine.config.version


def test_c_1_a_budget_is_never_lent_twice(scene: Scene) -> None:
    """However much is asked for: settled + unconfirmed + outstanding stay within it."""
    scene.order(20 * WORST_NANOS)
    scene.until(lambda: scene.window().id > scene.checker.now_ms - 2_000)
    refused = 0
    for number in range(120):
        device = scene.devices[number % 4]
        request = scene.pay(device, wait_ms=50)
        scene.run(50)
        if request in device.disk.outcomes:
            refused += device.disk.outcomes[request].status is RequestStatus.REFUSED
    window = scene.window()
    assert window.committed_nanos <= window.target_nanos == 20 * WORST_NANOS
    assert refused > 20
    assert scene.checker.billed[window.id] >= 0.8 * window.target_nanos


def test_c_2_the_ledger_only_grows_and_explains_every_balance(scene: Scene) -> None:
    """Earlier rows stay as they are; their sums are the running balances."""
    before = list(scene.centre.database.ledger)
    for device in scene.devices:
        scene.pay(device)
    assert scene.centre.database.ledger[: len(before)] == before
    assert len(scene.centre.database.ledger) > len(before)
    assert [] == list(scene.centre.store.differences(progress=lambda *_: None))


def test_c_3_a_cut_budget_falls_as_leases_return(scene: Scene) -> None:
    """The target is met at once where it can be; what is lent is recalled."""
    for device in scene.devices:
        scene.pay(device)
    scene.cut_off(scene.device, ms=3_000)
    lent = scene.window().committed_nanos
    scene.order(WORST_NANOS)
    cut = scene.window()
    assert (WORST_NANOS, lent) == (cut.target_nanos, cut.enforced_nanos)
    scene.run(2_500)
    assert WORST_NANOS < scene.window().enforced_nanos < lent
    scene.until(lambda: scene.window().outstanding_nanos == 0, ms=15_000)


def test_c_4_a_cost_belongs_to_the_window_of_its_lease(scene: Scene) -> None:
    """A call that ends in the next window is booked in its own; nothing rolls over."""
    first = scene.window()
    scene.until(lambda: scene.now > first.end_unix_ms - 300)
    scene.pay(scene.device, fate=Fate.SLOW, wait_ms=0)
    scene.until(lambda: scene.window().id != first.id)
    assert 0 == scene.window().settled_nanos
    scene.run(9_000)
    old = scene.centre.database.windows[first.id]
    assert 0 == old.outstanding_nanos
    assert old.settled_nanos + old.unconfirmed_nanos >= scene.checker.billed[first.id] > 0
    assert scene.window().target_nanos == old.target_nanos


def test_c_4_a_window_ahead_of_the_clock_is_left_and_nothing_is_spent_twice(
    scene: Scene,
) -> None:
    """The coordinator's clock was a week ahead; both windows' money counts in the true one."""
    first, centre, checker = scene.window(), scene.centre, scene.checker
    centre.wall_ms += 7 * 24 * 3_600_000
    scene.run(1_000)
    for device in scene.devices:
        scene.pay(device, wait_ms=500)
    ahead = scene.window()
    centre.wall_ms = 0
    scene.run(1_000)
    assert ahead.id == scene.window().id
    assert "clock" in centre.engine.alarms
    windows = centre.store.windows(ending_after_unix_ms=first.start_unix_ms)
    assert centre.operate(
        lambda e, now: e.rewind_budget(windows, actor="op", reason="ntp", unix_ms=now)
    )
    true = scene.window()
    assert first.end_unix_ms == true.end_unix_ms
    before = [centre.database.windows[w.id].committed_nanos for w in (first, ahead)]
    assert sum(before) == true.unconfirmed_nanos
    scene.until(lambda: scene.pay(scene.device) in scene.paid_requests, ms=3_000)
    billed = sum(checker.billed[window.id] for window in (first, ahead, true))
    assert 0 < billed <= scene.budget_nanos
    assert [] == list(centre.store.differences(progress=lambda *_: None))
    scene.until(lambda: scene.window().start_unix_ms == true.end_unix_ms)
    assert 0 == scene.window().unconfirmed_nanos


def test_c_5_restored_books_lend_nothing_before_all_have_spoken(scene: Scene) -> None:
    """Also what was lent after the backup is booked; then an operator lets lending go on."""
    scene.centre.backup()
    for device in scene.devices[1:]:
        scene.pay(device)
    lost = scene.lease(scene.devices[1])
    scene.cut_off(scene.devices[2], ms=4_000)
    scene.centre.restore(scene.centre.backups[-1][0])
    scene.centre.start()
    scene.run(3_000)
    scene.faults._recover()
    scene.pay(scene.devices[3])
    assert "recover" in scene.devices[3].engine.gate.refused_because
    assert (
        lost.amount_nanos == scene.centre.database.leases[lost.device_id, lost.number].amount_nanos
    )
    scene.until(lambda: scene.centre.engine.recovery is None)
    scene.until(lambda: scene.pay(scene.devices[3]) in scene.paid_requests, ms=20_000)


def test_c_5_who_lost_its_books_too_is_shut_out_of_restored_ones(scene: Scene) -> None:
    """What it was lent after the backup nobody knows: an operator has to look into it (D_2)."""
    device, centre = scene.device, scene.centre
    centre.backup()
    device.kill()
    device.disk = scene.empty_disk(device)
    centre.restore(centre.backups[-1][0])
    centre.start()
    scene.faults._recover()
    device.start()
    scene.until(lambda: [device.id] == centre.quarantined, ms=10_000)
    scene.run(5_000)
    scene.faults._recover()
    assert centre.engine.recovery is not None, "the operator has not looked into it"
    key = f"stranger:{device.id}"
    assert centre.operate(lambda e, now: e.clear_alarm(key, actor="op", unix_ms=now))
    scene.faults._recover()
    scene.until(lambda: centre.engine.recovery is None)


def test_c_5_a_presented_lease_is_booked_once(scene: Scene) -> None:
    """Also when it ends while the books still recover, and new windows begin after that."""
    engine, window = scene.centre.engine, scene.window()
    status = LeaseStatus(99, window.id, 500, 0, 0, 500, closing=False)
    engine.recovery = Recovery("restored", waiting=("d2",))
    engine.sessions["d1"].leases = (status,)
    engine.account.adopt(
        presented_lease(
            status, device_id="d1", incarnation="d1.1", window_id=window.id, unix_ms=scene.now
        )
    )
    engine.account.close("d1", 99, final=0, at=scene.now, note="by its device")
    engine.account.take_changes()
    again = []
    for windows in range(1, 4):
        later = engine.tick(unix_ms=window.start_unix_ms + windows * WINDOW_MS + 1)
        again += [e for e in later.effects if isinstance(e, LedgerRow) and e.lease_number == 99]
    assert [] == again


def test_c_5_a_writer_that_was_taken_over_grants_nothing(scene: Scene) -> None:
    """It finds out at its commit, before anybody is told."""
    scene.centre.take_over()
    engine, store = scene.centre.zombie or pytest.fail("there is no earlier writer")
    scene.centre.zombie = None
    reaction = engine.set_budget(1, actor="op", unix_ms=scene.now)
    with pytest.raises(LostLeadershipError):
        store.commit(reaction.effects)
    assert 1 != scene.window().target_nanos


def test_c_6_nothing_is_reclaimed_by_time(scene: Scene) -> None:
    """An expired lease of a silent device stays out, until its device has closed it."""
    lease = scene.lease(scene.device)
    scene.cut_off(scene.device, ms=15_000)
    scene.run(12_000)
    kept = scene.centre.database.leases[lease.device_id, lease.number]
    assert LeaseEnd.OPEN is kept.end
    scene.run(6_000)
    gone = scene.centre.database.leases[lease.device_id, lease.number]
    assert LeaseEnd.CLOSED is gone.end


def test_c_7_a_write_off_is_spent_until_its_device_knows_better(scene: Scene) -> None:
    """The unreported rest is booked; a final figure that comes later gives some of it back."""
    lease = scene.lease(scene.device)
    scene.cut_off(scene.device, ms=6_000)
    scene.run(1_000)
    assert scene.centre.write_off(scene.device.id)
    assert 1 == len(scene.rows("writeoff"))
    assert 0 == len(scene.rows("refund"))
    scene.run(14_000)
    (refund,) = scene.rows("refund")
    assert lease.number == refund.lease_number
    assert 0 < refund.amount_nanos <= lease.amount_nanos


def test_d_1_a_new_process_never_spends_an_old_ones_lease(scene: Scene) -> None:
    """Leases belong to an incarnation."""
    lease = scene.lease(scene.device)
    scene.restart(scene.device)
    assert () == scene.device.engine.gate.leases()
    scene.until(lambda: scene.pay(scene.device) in scene.paid_requests, ms=20_000)
    fresh = scene.lease(scene.device)
    assert lease.number < fresh.number
    assert scene.device.incarnation == fresh.incarnation != lease.incarnation


def test_d_2_a_clone_is_noticed_and_shut_out(scene: Scene) -> None:
    """Of two with the same token one comes with an old one: no money, until readmitted."""
    scene.faults.play("clone_of_image", scene.device, Dice(1))
    twin = scene.devices[-1]
    scene.until(lambda: scene.centre.quarantined == [scene.device.id], ms=20_000)
    assert all(
        lease.end is not LeaseEnd.OPEN
        for (name, _), lease in scene.centre.database.leases.items()
        if name == scene.device.id
    )
    scene.until(lambda: _mended(scene))
    (kept,) = (device for device in (scene.device, twin) if not device.gone)
    scene.until(lambda: scene.pay(kept) in scene.paid_requests, ms=30_000)


def test_d_2_a_restored_disk_is_noticed(scene: Scene) -> None:
    """Its token is older than the last that was confirmed."""
    scene.faults.play("disk_copied", scene.device, Dice(1))
    for _ in range(2):
        scene.device.hang_up()
        scene.run(2_500)
    scene.pay(scene.device)
    scene.faults.play("disk_restored", scene.device, Dice(1))
    assert 1 == scene.seen["disk_restored"]
    scene.until(lambda: scene.centre.quarantined == [scene.device.id], ms=5_000)


def test_l_1_a_grant_that_comes_again_is_ignored(scene: Scene) -> None:
    """Also after the lease was closed: its number was seen."""
    grant = scene.device.grants[-1]
    scene.device.guard(
        lambda: scene.device.keeper_commit(
            scene.device.engine.gate.recalled(0, boot_ms=scene.device.boot_ms(), reason="test")
        )
    )
    scene.run(2_000)
    held = scene.device.engine.gate.number_max
    line = scene.device.line
    assert line is not None
    scene.device.take(line, grant)
    assert held == scene.device.engine.gate.number_max
    leases = scene.device.engine.gate.leases()
    assert all(lease.lease_number > grant.lease_number for lease in leases)


def test_l_2_the_watermark_covers_what_a_loss_of_power_hides(scene: Scene) -> None:
    """Calls whose commits are lost are in the final figure all the same."""
    lease = scene.lease(scene.device)
    for _ in range(2):
        scene.pay(scene.device, wait_ms=0)
    scene.device.kill()
    scene.device.disk.lose_power()
    scene.checker.disk_lost(scene.device.disk)
    scene.device.reboot()
    scene.device.start()
    scene.run(4_000)
    closed = scene.centre.database.leases[lease.device_id, lease.number]
    known = closed.booked_nanos + closed.unconfirmed_nanos
    assert known >= scene.provider.on_lease[lease.device_id, lease.number] > 0


def test_l_3_a_lease_expires_in_suspend(scene: Scene) -> None:
    """The boot clock runs on: after a long sleep there is nothing to spend."""
    scene.pay(scene.device)
    assert scene.device.engine.gate.available_nanos > 0
    scene.device.suspend(9_000)
    scene.run(9_000)
    assert 0 == scene.device.engine.gate.available_nanos


@pytest.mark.parametrize("reboots", [False, True])
def test_l_4_a_stopped_process_closes_its_leases(scene: Scene, reboots: bool) -> None:
    """In the same boot at what was settled and reserved, in another at the watermark."""
    scene.pay(scene.device, fate=Fate.SLOW, wait_ms=20)
    (held,) = scene.device.engine.gate.leases()
    scene.device.kill()
    if reboots:
        scene.device.reboot()
    scene.device.start()
    close = scene.spooled(scene.device, LeaseClose)[-1].body
    assert isinstance(close, LeaseClose)
    known = held.settled_nanos + held.reserved_nanos
    assert (held.watermark_nanos if reboots else known) == close.final_nanos
    assert not close.clean


def test_l_4_a_crash_loop_does_not_drain_the_budget(scene: Scene) -> None:
    """Each unclean close doubles the wait for the next lease."""
    for _ in range(8):
        scene.restart(scene.device, power=True)
        scene.run(2_500)
        scene.pay(scene.device, wait_ms=200)
    grants = [lease for (name, _), lease in scene.centre.database.leases.items() if name == "d0"]
    assert len(grants) <= 5


def test_l_5_a_closing_lease_waits_a_moment_and_closes_in_full(scene: Scene) -> None:
    """Reservations still open after `close_wait` count as spent; the close is sent synced."""
    scene.pay(scene.device, fate=Fate.SLOW, wait_ms=20)
    (held,) = scene.device.engine.gate.leases()
    assert held.reserved_nanos > 0
    gate = scene.device.engine.gate
    scene.device.keeper_commit(gate.recalled(0, boot_ms=scene.device.boot_ms(), reason="test"))
    scene.run(500)
    assert [] == [r for r in _closes(scene) if r.lease_number == held.lease_number]
    scene.run(1_000)
    (close,) = [r for r in _closes(scene) if r.lease_number == held.lease_number]
    assert held.settled_nanos + held.reserved_nanos == close.final_nanos
    assert close.clean


def test_l_6_a_lease_is_sized_by_need_and_renewed_before_it_is_empty(scene: Scene) -> None:
    """Several worst cases at once; a healthy device is not refused for want of a lease."""
    device = scene.device
    amounts = [grant.amount_nanos for grant in device.grants]
    assert max(amounts) >= 4 * WORST_NANOS
    asked = [scene.pay(device, wait_ms=120) for _ in range(80)]
    scene.run(1_000)
    fallouts = [fallout for r in asked for fallout in scene.outcome(device, r).fallouts]
    assert [] == [f for f in fallouts if f.reason in ("no_lease", "lease_too_small")]
    assert len(device.grants) > len(amounts)


def test_s_1_every_attempt_has_a_reservation_of_its_own(scene: Scene) -> None:
    """A dead endpoint, then the fallback, then the next request."""
    scene.pay(scene.device, fate=Fate.DEAD)
    scene.pay(scene.device)
    bills = [bill for found in scene.provider.bills.values() for bill in found]
    ids = [bill.reservation_id for bill in bills]
    assert len(set(ids)) == len(ids) >= 3
    assert all(ids)


@pytest.mark.parametrize(
    ("fate", "settle"),
    [
        (Fate.DEAD, SettleKind.RELEASED),
        (Fate.REFUSED, SettleKind.RELEASED),
        (Fate.ANSWERED, SettleKind.REPORTED),
        (Fate.SILENT, SettleKind.UNKNOWN),
        (Fate.ABORTED, SettleKind.UNKNOWN),
    ],
)
def test_s_2_there_are_three_ways_to_settle(scene: Scene, fate: Fate, settle: SettleKind) -> None:
    """Not executed: nothing. Reported: the report. Unknown: the reservation."""
    request = scene.pay(scene.device, fate=fate)
    attempt = scene.outcome(scene.device, request).attempts[0]
    bill = scene.provider.bills[request][0]
    costs = {
        SettleKind.RELEASED: 0,
        SettleKind.REPORTED: bill.nanos,
        SettleKind.UNKNOWN: attempt.reserved_nanos,
    }
    assert (settle, costs[settle]) == (attempt.settle, attempt.cost_nanos)


def test_s_3_usage_that_comes_late_is_adjusted_in_its_window(scene: Scene) -> None:
    """A call that outlived its lease was settled in full; the report corrects it."""
    slow = [scene.pay(scene.device, fate=Fate.SLOW, wait_ms=20) for _ in range(3)]
    gate = scene.device.engine.gate
    scene.device.keeper_commit(gate.recalled(0, boot_ms=scene.device.boot_ms(), reason="test"))
    scene.run(9_000)
    bodies = [record.body for record in scene.spooled(scene.device, CostAdjustment)]
    late = {b.request_id: b.delta_nanos for b in bodies if isinstance(b, CostAdjustment)}
    assert late
    for request in slow:
        bill = scene.provider.bills[request][0]
        attempt = scene.outcome(scene.device, request).attempts[0]
        assert bill.nanos == attempt.cost_nanos + late.get(request, 0)
        lease = scene.centre.database.leases[bill.device, bill.lease_number]
        assert lease.booked_nanos == scene.provider.on_lease[bill.device, bill.lease_number]


def test_s_4_an_overrun_is_booked_and_closes_its_arm_everywhere(scene: Scene) -> None:
    """The provider broke its own price list: in full, with an alarm."""
    request = scene.pay(scene.device, fate=Fate.OVERRUN, wait_ms=500)
    bill = scene.provider.bills[request][0]
    attempt = scene.outcome(scene.device, request).attempts[0]
    assert bill.nanos == attempt.cost_nanos > attempt.reserved_nanos
    engine, other = scene.centre.engine, scene.devices[1]
    scene.until(lambda: any(key.startswith("overrun:large") for key in engine.alarms), ms=1_000)
    scene.until(lambda: "large" not in _enabled_arms(other))


def test_s_4_an_overrun_in_an_overfull_spool_is_told_all_the_same(scene: Scene) -> None:
    """It was found out while the device was away, and much has happened since."""
    scene.cut_off(scene.device, ms=20_000)
    scene.pay(scene.device, fate=Fate.OVERRUN, wait_ms=60)
    for _ in range(60):
        scene.pay(scene.device, arm="small", wait_ms=60)
    assert scene.spooled(scene.device, SpoolSummary)
    engine = scene.centre.engine
    scene.until(lambda: any(key.startswith("overrun:large") for key in engine.alarms))


@pytest.mark.parametrize(
    ("arm", "fate", "settle"),
    [
        ("large", Fate.ANSWERED, SettleKind.REPORTED),
        ("small", Fate.ANSWERED, SettleKind.UNKNOWN),
        ("small", Fate.DEAD, SettleKind.RELEASED),
    ],
)
def test_s_5_when_the_client_goes_the_arm_decides(
    scene: Scene, arm: str, fate: Fate, settle: SettleKind
) -> None:
    """`drain` reads on and knows the usage; `cancel` does not, and pays in full what was sent."""
    request = scene.pay(scene.device, arm=arm, fate=fate, wait_ms=0)
    scene.device.guard(lambda: scene.device.answering.client_gone(request))
    scene.run(1_000)
    outcome = scene.outcome(scene.device, request)
    assert (RequestStatus.ABORTED, settle) == (outcome.status, outcome.attempts[0].settle)


def test_o_1_a_batch_that_comes_twice_is_booked_once(scene: Scene) -> None:
    """The coordinator dies after its commit; the device sends again what was not acked."""
    scene.centre.fuse.light(1, after=True)
    request = scene.pay(scene.device)
    scene.run(4_000)
    assert 1 == scene.seen["coordinator_dies_in_commit"]
    assert request in scene.checker.booked
    records = [scene.device.disk.state.spool[n] for n in sorted(scene.device.disk.state.spool)]
    before = len(scene.centre.database.learned)
    scene.centre.change(
        "batch",
        lambda e: book_batch(
            e,
            scene.centre.store,
            "d0",
            records,
            incarnation=scene.device.incarnation,
            unix_ms=scene.now,
        ),
    )
    assert before == len(scene.centre.database.learned)


def test_o_2_an_overfull_spool_keeps_every_cost(scene: Scene) -> None:
    """Summaries say what was spent and how much was asked; what was sent stays as it is."""
    scene.cut_off(scene.device, ms=20_000)
    for _ in range(60):
        scene.pay(scene.device, wait_ms=60)
    summaries = scene.spooled(scene.device, SpoolSummary)
    assert summaries
    scene.run(25_000)
    scene.until(lambda: scene.device.engine.outbox.waiting == 0)
    for (name, number), lease in scene.centre.database.leases.items():
        if name == scene.device.id:
            known = lease.booked_nanos + lease.unconfirmed_nanos
            assert known >= scene.provider.on_lease[name, number]
    missing = [r for r in scene.device.disk.outcomes if r not in scene.checker.booked]
    counts = [row for row in scene.centre.database.learned if isinstance(row, BookedCounts)]
    assert len(missing) == sum(row.requests for row in counts) > 0


def test_o_3_a_garbled_record_is_set_aside_and_its_cost_is_booked(scene: Scene) -> None:
    """The others get through; what it cost stays unconfirmed on its lease (rules L_4, I5)."""
    device = scene.device
    scene.cut_off(device, ms=2_000)
    lost, after = scene.pay(device, wait_ms=500), scene.pay(device, wait_ms=500)
    spool = device.disk.state.spool
    (at,) = [n for n, record in spool.items() if getattr(record.body, "request_id", "") == lost]
    spool[at] = SpoolRecord(at, "", SpoolSummary(at, at, (), (), unreadable=1))
    scene.until(lambda: after in scene.checker.booked)
    assert lost not in scene.checker.booked
    alarm = scene.centre.engine.alarms[f"missing:{device.id}"]
    assert f"cannot read record {at} of its books" in alarm
    (bill,) = scene.provider.bills[lost]
    leases = scene.centre.database.leases
    key = (device.id, bill.lease_number)
    scene.until(lambda: leases[key].end is LeaseEnd.CLOSED, ms=30_000)
    assert bill.nanos == leases[key].unconfirmed_nanos
    assert leases[key].booked_nanos + bill.nanos == scene.provider.on_lease[key]


def test_o_3_a_lost_close_counts_as_the_full_lease(scene: Scene) -> None:
    """The coordinator finds at the next hello that the device no longer holds it."""
    device = scene.device
    held = scene.lease(device)
    scene.cut_off(device, ms=12_000)
    scene.run(10_000)
    spool = device.disk.state.spool
    (at,) = [n for n, r in spool.items() if getattr(r.body, "final_nanos", None) is not None]
    spool[at] = SpoolRecord(at, "", SpoolSummary(at, at, (), (), unreadable=1))
    leases = scene.centre.database.leases
    scene.until(lambda: leases[device.id, held.number].end is LeaseEnd.CLOSED, ms=10_000)
    known = leases[device.id, held.number]
    assert held.amount_nanos == known.booked_nanos + known.unconfirmed_nanos


def test_o_3_a_full_disk_closes_paid_arms_and_nothing_else(scene: Scene) -> None:
    """Local answers go on; with room again the paid arms open, and nothing is lost."""
    device = scene.device
    device.fill_disk(True)
    first = scene.pay(device)
    local = scene.pay(device, arm="tiny")
    assert "books_full" == device.engine.gate.books_problem
    assert first not in scene.paid_requests
    device.fill_disk(False)
    scene.run(1_000)
    assert "" == device.engine.gate.books_problem
    assert RequestStatus.OK is scene.outcome(device, local).status
    scene.until(lambda: scene.pay(device) in scene.paid_requests, ms=10_000)


def _told_config(scene: Scene, device: Device) -> ConfigSent:
    """What the coordinator says to a device now."""
    reaction = Reaction()
    engine = scene.centre.engine
    engine._send_config(reaction, device=engine.registry.device(device.id))
    ((_, told),) = reaction.sends
    assert isinstance(told, ConfigSent)
    return told


def _mended(scene: Scene) -> bool:
    """Let an operator look at the alarms; whether nobody is shut out any more."""
    scene.faults.mend()
    return not scene.centre.quarantined


def _enabled_arms(device: Device) -> set[str]:
    return {arm.id for arm in device.engine.config.arms if arm.enabled}


def _closes(scene: Scene) -> list[LeaseClose]:
    bodies = [record.body for record in scene.spooled(scene.device, LeaseClose)]
    return [body for body in bodies if isinstance(body, LeaseClose)]
