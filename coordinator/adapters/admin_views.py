"""What operators are shown, built from the engine's state."""

from __future__ import annotations

import numpy as np

from coordinator.adapters import money_views
from coordinator.engine import CoordinatorEngine
from coordinator.planned import PlannedSlot
from coordinator.policy.base import Bounds
from coordinator.ports import DecisionRecord
from coordinator.records import DeviceRow, LedgerRow
from coordinator.service import CoordinatorService
from coordinator.shelf import Pin
from shared import wire
from shared.decision.money import NANOS_PER_DOLLAR
from shared.pb.v1 import admin_pb2


def status(engine: CoordinatorEngine, *, now_unix_ms: int) -> admin_pb2.FleetStatus:
    """The fleet at a glance."""
    reply = admin_pb2.FleetStatus(
        config_version=engine.config_version,
        budget=money_views.balances(engine),
        devices_known=len(engine.registry.devices),
        devices_connected=len(engine.sessions),
        alarms=sorted(engine.alarms.values()),
        now_unix_ms=now_unix_ms,
        pinned_tables=[pinned_table(*pinned) for pinned in sorted(engine.shelf.pins.items())],
    )
    if engine.config is None or engine.planner is None:
        return reply
    totals = engine.planner.totals
    reply.policy = engine.config.policy.kind
    reply.slot_s = engine.config.window.slot_ms / 1000
    reply.sla_floor = engine.config.sla.floor
    reply.requests_window = totals.requests
    reply.answered_window = totals.answered
    reply.graded_window = totals.graded
    if totals.reward_mean is not None:
        reply.reward_mean_window = totals.reward_mean
    if totals.admitted:
        reply.sla_share_window = totals.hits / totals.admitted
    for name, arm in sorted(totals.arms.items()):
        reply.arm_shares.add(
            arm=name,
            requests=arm.requests,
            reward_mean=arm.reward_mean,
            cost_nanos=arm.cost_nanos,
        )
    planned = engine.planner.planned
    if planned is not None:
        reply.slot = planned.slot
        reply.slots_total = planned.slots_total
        reply.money_dual_per_dollar = float(planned.plan.packing_dual[0]) * NANOS_PER_DOLLAR
        reply.forecast_remaining = float(planned.forecast.mean.sum())
    reply.demand_last_slot = engine.planner.demand_last_slot
    return reply


def pinned_table(device_class: str, pin: Pin) -> admin_pb2.PinnedTable:
    """A table that plans do not replace."""
    return admin_pb2.PinnedTable(
        device_class=device_class,
        version=pin.version,
        since_unix_ms=pin.since_unix_ms,
        actor=pin.actor,
    )


def tables_of(engine: CoordinatorEngine, *, device_class: str) -> admin_pb2.TablesOfClass:
    """Which version of a class's table is in force, and which ones are kept."""
    shelf, reply = engine.shelf, admin_pb2.TablesOfClass(device_class=device_class)
    present = engine.tables.get(device_class)
    if present is not None:
        reply.version, reply.created_unix_ms = present.version, present.created_unix_ms
    if device_class in shelf.pins:
        reply.pinned.CopyFrom(pinned_table(device_class, shelf.pins[device_class]))
    for each in shelf.earlier(device_class):
        reply.earlier.add(version=each.version, created_unix_ms=each.created_unix_ms)
    return reply


def device(service: CoordinatorService, row: DeviceRow) -> admin_pb2.Device:
    """One device, connected or not."""
    engine = service.engine
    session = engine.sessions.get(row.id)
    reply = admin_pb2.Device(
        id=row.id,
        name=row.name,
        device_class=row.device_class,
        state=str(row.standing),
        state_reason=row.standing_reason,
        connected=session is not None,
        joined_unix_ms=row.joined_unix_ms,
        seen_unix_ms=row.seen_unix_ms,
        incarnation=row.incarnation,
        software_version=row.software_version,
    )
    if session is not None:
        reply.acked_sequence = session.spool.acked
        reply.spooled_records = session.spooled_records
        reply.table_version = session.table_version
        reply.local_arms.extend(session.local_arms)
        reply.leases.extend(wire.lease_status_to_pb(lease) for lease in session.leases)
        reply.spend_paused_confirmed = engine.spend_paused
    state = service.device_state(row.id)
    if state is not None:
        reply.device_state.CopyFrom(wire.device_state_to_pb(state))
    return reply


def arms(engine: CoordinatorEngine, *, only: str) -> list[admin_pb2.ArmSummary]:
    """Arms with their estimates, per context in which they may serve."""
    if engine.config is None or engine.planner is None:
        return []
    planned, totals = engine.planner.planned, engine.planner.totals
    replies = []
    for name, config in sorted(engine.config.arms.items()):
        if only not in ("", name):
            continue
        arm = config.arm
        reply = admin_pb2.ArmSummary(
            id=name,
            kind=wire.arm_kind_to_pb(arm.kind),
            enabled=arm.enabled and name not in engine.disabled_arms,
            requests=totals.arms[name].requests if name in totals.arms else 0,
        )
        if arm.cloud is not None:
            reply.price.CopyFrom(wire.price_to_pb(arm.cloud.price))
        if planned is not None and name in planned.arms:
            reply.contexts.extend(_contexts(engine, planned, arm=name))
        replies.append(reply)
    return replies


def forecast(engine: CoordinatorEngine) -> admin_pb2.ForecastReply:
    """Demand so far and to come, per context."""
    reply = admin_pb2.ForecastReply()
    planner = engine.planner
    if planner is None or planner.planned is None:
        return reply
    planned = planner.planned
    for index, context in enumerate(planned.contexts):
        reply.rows.add(
            device_class=context[0],
            task_class=context[1],
            forecaster=planner.forecaster_of(context),
            demand_so_far=planner.totals.demand.get(context, 0),
            next_slot=float(planned.forecast.next_slot[index]),
            remaining=admin_pb2.Interval(
                mean=float(planned.forecast.mean[index]),
                lower=float(planned.forecast.lower[index]),
                upper=float(planned.forecast.upper[index]),
            ),
        )
    return reply


def plan_inputs(engine: CoordinatorEngine) -> admin_pb2.PlanInputs:
    """What the latest plan was made from; no rows before the first one."""
    reply = admin_pb2.PlanInputs()
    planner, window, config = engine.planner, engine.window, engine.config
    if config is None or window is None or planner is None or planner.planned is None:
        return reply
    planned = planner.planned
    reply.policy = config.policy.kind
    reply.sla_floor = config.sla.floor
    reply.rho = config.sla.rho
    reply.budget_nanos = window.enforced_nanos
    reply.left_nanos = window.enforced_nanos - window.settled_nanos - window.unconfirmed_nanos
    reply.slot = planned.slot
    reply.slots_total = planned.slots_total
    estimates = planned.estimates
    for row, context in enumerate(planned.contexts):
        added = reply.rows.add(
            device_class=context[0],
            task_class=context[1],
            demand_so_far=planner.totals.demand.get(context, 0),
            demand_remaining=float(planned.forecast.mean[row]),
        )
        for column in np.flatnonzero(estimates.feasible[row]):
            added.arms.add(
                arm=planned.arms[column],
                reward=float(estimates.reward.mean[row, column]),
                cost_nanos=float(estimates.packing[0].mean[row, column]),
                hit=float(estimates.covering[0].mean[row, column]),
                booked=int(estimates.outcomes[row, column]),
                graded=int(estimates.graded[row, column]),
            )
    return reply


def ledger_row(row: LedgerRow) -> admin_pb2.LedgerRow:
    """One row of the ledger."""
    return admin_pb2.LedgerRow(
        id=row.id,
        at_unix_ms=row.at_unix_ms,
        window_id=row.window_id,
        kind=str(row.kind),
        device_id=row.device_id,
        lease_number=row.lease_number,
        amount_nanos=row.amount_nanos,
        request_id=row.request_id,
        note=row.note,
    )


def decision(record: DecisionRecord) -> admin_pb2.Decision:
    """One logged decision with its grade."""
    booked = record.outcome
    reply = admin_pb2.Decision(
        device_id=booked.device_id,
        device_class=booked.device_class,
        sequence=booked.sequence,
        position=booked.position,
        slot=booked.slot,
        outcome=wire.outcome_to_pb(booked.outcome),
        graded=record.feedback is not None,
    )
    if record.feedback is not None:
        reply.reward_ppm = record.feedback.feedback.reward_ppm
        reply.graded_by = record.feedback.feedback.source
    return reply


def _contexts(
    engine: CoordinatorEngine, planned: PlannedSlot, *, arm: str
) -> list[admin_pb2.ContextEstimate]:
    planner = engine.planner
    if planner is None:
        return []
    column = planned.arms.index(arm)
    rows = [int(row) for row in np.flatnonzero(planned.estimates.feasible[:, column])]
    contexts = [planned.contexts[row] for row in rows]
    quantiles = planner.estimates.latency_quantiles(contexts, arms=[arm])[:, 0]
    estimates = planned.estimates
    return [
        admin_pb2.ContextEstimate(
            device_class=context[0],
            task_class=context[1],
            sent=int(estimates.sent[row, column]),
            graded=int(estimates.graded[row, column]),
            reward=_interval(estimates.reward, row=row, column=column),
            cost_nanos=_interval(estimates.packing[0], row=row, column=column),
            hit=_interval(estimates.covering[0], row=row, column=column),
            latency_p50_ms=round(float(quantiles[at, 0])),
            latency_p90_ms=round(float(quantiles[at, 1])),
        )
        for at, (row, context) in enumerate(zip(rows, contexts, strict=True))
    ]


def _interval(bounds: Bounds, *, row: int, column: int) -> admin_pb2.Interval:
    return admin_pb2.Interval(
        mean=float(bounds.mean[row, column]),
        lower=float(bounds.lower[row, column]),
        upper=float(bounds.upper[row, column]),
    )
