"""What operators are shown of money and alarms: where every cent is, and why."""

from __future__ import annotations

from coordinator.alerts import RESOLVED_BY, AlertKind
from coordinator.engine import CoordinatorEngine
from coordinator.records import DeviceRow, LeaseEnd, LeaseRecord
from shared import wire
from shared.pb.v1 import admin_pb2


def balances(engine: CoordinatorEngine) -> admin_pb2.Budget:
    """The window's running balances. Amounts in nano-dollars."""
    window = engine.window
    reply = admin_pb2.Budget(
        name=engine.config.budget.name if engine.config else "", spend_paused=engine.spend_paused
    )
    if window is not None:
        reply.window_id = window.id
        reply.window_start_unix_ms = window.start_unix_ms
        reply.window_end_unix_ms = window.end_unix_ms
        reply.target_nanos = window.target_nanos
        reply.enforced_nanos = window.enforced_nanos
        reply.settled_nanos = window.settled_nanos
        reply.unconfirmed_nanos = window.unconfirmed_nanos
        reply.outstanding_nanos = window.outstanding_nanos
        reply.free_nanos = window.free_nanos
        reply.unspent_note = window.alarms
    return reply


def budget(engine: CoordinatorEngine, *, now_unix_ms: int) -> admin_pb2.Budget:
    """The balances, and each lease that they are made of.

    Leases of earlier windows that are still open are shown too; their money is in the balances of
    their own window.
    """
    reply = balances(engine)
    reply.now_unix_ms = now_unix_ms
    for lease in engine.account.holding_leases():
        holding = _holding(engine, lease, now_unix_ms=now_unix_ms)
        reply.holdings.append(holding)
        if not holding.connected and lease.window_id == engine.window_id:
            reply.unreported_nanos += holding.outstanding_nanos
    refusals = engine.refusals
    if refusals.count and refusals.window_id == engine.window_id:
        reply.refusals.CopyFrom(
            admin_pb2.BudgetRefusals(
                count=refusals.count,
                exhausted=refusals.exhausted,
                budget=refusals.budget,
                reason=refusals.reason,
                device_id=refusals.device_id,
                at_unix_ms=refusals.at_unix_ms,
            )
        )
    prefix = f"{AlertKind.BUDGET}:"
    marks = (mark for mark in engine.alerts.passed if mark.startswith(prefix))
    reply.passed_percents.extend(sorted(int(mark.removeprefix(prefix)) for mark in marks))
    return reply


def recovery(engine: CoordinatorEngine, *, now_unix_ms: int) -> admin_pb2.LedgerRecovery:
    """Who has presented leases since the restore, and who has not."""
    if engine.recovery is None:
        return admin_pb2.LedgerRecovery()
    reply = admin_pb2.LedgerRecovery(
        active=True, reason=engine.recovery.reason, confirmed_by=engine.recovery.confirmed_by
    )
    waiting = set(engine.recovery.waiting or ())
    for device in engine.registry.devices:
        seen = admin_pb2.RecoveringDevice(
            id=device.id,
            name=device.name,
            silent_ms=_silent_ms(engine, device, now_unix_ms=now_unix_ms),
        )
        if device.id in waiting:
            reply.missing.append(seen)
        elif device.id in engine.sessions:
            reply.heard.append(seen)
    return reply


def alarms(engine: CoordinatorEngine) -> admin_pb2.ListAlarmsReply:
    """What stands, and what ends it."""
    return admin_pb2.ListAlarmsReply(
        alarms=[
            admin_pb2.Alarm(
                key=alarm.key,
                kind=str(alarm.kind),
                text=alarm.text,
                since_unix_ms=alarm.since_unix_ms,
                resolved_by=RESOLVED_BY.get(alarm.kind, ""),
            )
            for alarm in engine.alerts.alarms
        ]
    )


def _holding(
    engine: CoordinatorEngine, lease: LeaseRecord, *, now_unix_ms: int
) -> admin_pb2.LeaseHolding:
    device = engine.registry.device(lease.device_id)
    is_open = lease.end is LeaseEnd.OPEN
    holding = admin_pb2.LeaseHolding(
        device_id=device.id,
        device_name=device.name,
        window_id=lease.window_id,
        lease_number=lease.number,
        end=str(lease.end),
        amount_nanos=lease.amount_nanos,
        booked_nanos=lease.booked_nanos,
        outstanding_nanos=max(0, lease.amount_nanos - lease.booked_nanos) if is_open else 0,
        unconfirmed_nanos=lease.unconfirmed_nanos,
        connected=device.id in engine.sessions,
        silent_ms=_silent_ms(engine, device, now_unix_ms=now_unix_ms),
    )
    word = engine.last_words.get(device.id)
    told = word.of(lease.number) if word is not None else None
    if is_open and word is not None and told is not None:
        holding.told.CopyFrom(wire.lease_status_to_pb(told))
        holding.told_unix_ms = word.at_unix_ms
        holding.closing = told.closing
    return holding


def _silent_ms(engine: CoordinatorEngine, device: DeviceRow, *, now_unix_ms: int) -> int:
    """How long a device was not heard; 0 while it is connected."""
    if device.id in engine.sessions:
        return 0
    return max(0, now_unix_ms - (device.seen_unix_ms or device.joined_unix_ms))
