"""Grants, a device's account of its leases, and how it is."""

from __future__ import annotations

from collections.abc import Sequence

from shared.decision.lease import LeaseGranted
from shared.decision.types import ArmSpeed, Battery, DeviceState, IncarnationRange, LeaseStatus
from shared.errors import LimitError, ProtocolError
from shared.limits import ARMS_MAX, INCARNATIONS_MAX, TOKENS_PER_S_MAX
from shared.pb.v1 import fleet_pb2, types_pb2
from shared.wire.checks import read_id, read_nanos, read_number, write_id, write_nanos, write_number
from shared.wire.outcome import fallout_from_pb, fallout_to_pb


def grant_to_pb(granted: LeaseGranted, *, incarnation: str) -> fleet_pb2.LeaseGrant:
    """A lease for one start of a device's agent (rule D_1)."""
    return fleet_pb2.LeaseGrant(
        incarnation=write_id(incarnation, field="grant.incarnation"),
        lease_number=granted.number,
        window_id=granted.window_id,
        amount_nanos=write_nanos(granted.amount_nanos, field="grant.amount_nanos"),
        duration_ms=granted.duration_ms,
        price_version=granted.price_version,
        asked_boot_ms=granted.asked_boot_ms,
    )


def grant_from_pb(message: fleet_pb2.LeaseGrant) -> tuple[str, LeaseGranted]:
    """The incarnation that a grant is for, and the grant."""
    granted = LeaseGranted(
        number=message.lease_number,
        window_id=message.window_id,
        amount_nanos=read_nanos(message.amount_nanos, field="grant.amount_nanos"),
        duration_ms=message.duration_ms,
        price_version=message.price_version,
        asked_boot_ms=message.asked_boot_ms,
    )
    return read_id(message.incarnation, field="grant.incarnation"), granted


def lease_status_to_pb(status: LeaseStatus) -> types_pb2.LeaseStatus:
    """A device's own account of a lease."""
    return types_pb2.LeaseStatus(
        lease_number=write_number(status.lease_number, field="lease.lease_number"),
        window_id=write_number(status.window_id, field="lease.window_id", least=0),
        amount_nanos=write_nanos(status.amount_nanos, field="lease.amount_nanos"),
        settled_nanos=write_nanos(status.settled_nanos, field="lease.settled_nanos"),
        reserved_nanos=write_nanos(status.reserved_nanos, field="lease.reserved_nanos"),
        watermark_nanos=write_nanos(status.watermark_nanos, field="lease.watermark_nanos"),
        closing=status.closing,
    )


def lease_status_from_pb(message: types_pb2.LeaseStatus) -> LeaseStatus:
    """A device's own account of a lease."""
    return LeaseStatus(
        lease_number=read_number(message.lease_number, field="lease.lease_number"),
        window_id=read_number(message.window_id, field="lease.window_id", least=0),
        amount_nanos=read_nanos(message.amount_nanos, field="lease.amount_nanos"),
        settled_nanos=read_nanos(message.settled_nanos, field="lease.settled_nanos"),
        reserved_nanos=read_nanos(message.reserved_nanos, field="lease.reserved_nanos"),
        watermark_nanos=read_nanos(message.watermark_nanos, field="lease.watermark_nanos"),
        closing=message.closing,
    )


def speed_to_pb(speed: ArmSpeed) -> fleet_pb2.ArmSpeed:
    """How fast a device runs an arm."""
    return fleet_pb2.ArmSpeed(
        arm=write_id(speed.arm, field="speed.arm"),
        prompt_tokens_per_s=speed.prompt_tokens_per_s,
        completion_tokens_per_s=speed.completion_tokens_per_s,
    )


def speeds_from_pb(messages: Sequence[fleet_pb2.ArmSpeed]) -> tuple[ArmSpeed, ...]:
    """What a device has measured of its arms.

    Raises
    ------
    ProtocolError
        If a speed is none.
    LimitError
        If they are too many.
    """
    if len(messages) > ARMS_MAX:
        raise LimitError(f"hello.speeds has {len(messages)} entries, the most is {ARMS_MAX}")
    for message in messages:
        for value in (message.prompt_tokens_per_s, message.completion_tokens_per_s):
            if not 0.0 < value < TOKENS_PER_S_MAX:
                raise ProtocolError(f"hello.speeds of {message.arm!r}: {value} is no speed")
    return tuple(
        ArmSpeed(
            read_id(m.arm, field="speed.arm"), m.prompt_tokens_per_s, m.completion_tokens_per_s
        )
        for m in messages
    )


def provider_keys_from_pb(message: fleet_pb2.ProviderKeys) -> dict[str, str]:
    """Keys by name; what no header could carry is refused without being repeated.

    Raises
    ------
    ProtocolError
        Naming the key at fault.
    LimitError
        If they are too many.
    """
    if len(message.keys) > ARMS_MAX:
        raise LimitError(f"{len(message.keys)} provider keys; the most is {ARMS_MAX}")
    for name, key in message.keys.items():
        if not (key.isascii() and key.isprintable()) or " " in key or not key:
            raise ProtocolError(f"the provider key {name!r} is no key")
    return dict(message.keys)


def incarnation_to_pb(each: IncarnationRange) -> fleet_pb2.IncarnationRange:
    """What a spool holds of one incarnation."""
    return fleet_pb2.IncarnationRange(
        incarnation=each.incarnation, after_sequence=each.after, last_sequence=each.last
    )


def incarnations_from_pb(
    messages: Sequence[fleet_pb2.IncarnationRange], *, present: str
) -> tuple[IncarnationRange, ...]:
    """What a spool holds, incarnation by incarnation, the present one last.

    Raises
    ------
    ProtocolError
        If they do not follow each other, or do not end with the present one.
    LimitError
        If they are too many.
    """
    if len(messages) > INCARNATIONS_MAX:
        raise LimitError(
            f"hello.incarnations has {len(messages)} entries, the most is {INCARNATIONS_MAX}"
        )
    if not messages or messages[-1].incarnation != present:
        raise ProtocolError(f"hello.incarnations does not end with the present one, {present!r}")
    after = messages[0].after_sequence
    for each in messages:
        if each.after_sequence != after or each.last_sequence < after:
            raise ProtocolError(
                f"hello.incarnations: {each.incarnation!r} has {each.after_sequence} to "
                f"{each.last_sequence}, after {after}"
            )
        after = each.last_sequence
        if each.incarnation:
            read_id(each.incarnation, field="hello.incarnations.incarnation")
    read_number(after, field="hello.incarnations.last_sequence", least=0)
    return tuple(
        IncarnationRange(m.incarnation, m.after_sequence, m.last_sequence) for m in messages
    )


def lease_number_max_from_pb(message: fleet_pb2.Hello | fleet_pb2.LeaseRequest) -> int:
    """The highest number of a lease that has reached a device; 0 for none."""
    return read_number(message.lease_number_max, field="lease_number_max", least=0)


def device_state_to_pb(state: DeviceState) -> types_pb2.DeviceState:
    """How a device is."""
    return types_pb2.DeviceState(
        cpu_percent=state.cpu_percent,
        memory_available_bytes=state.memory_available_bytes,
        disk_available_bytes=state.disk_available_bytes,
        temperature_celsius=state.temperature_celsius,
        throttled=state.throttled,
        requests_in_flight=state.requests_in_flight,
        loaded_arms=state.loaded_arms,
        broken_arms=[fallout_to_pb(fallout) for fallout in state.broken_arms],
        books_state=state.books_state,
        power_watts=state.power_watts,
        battery=_battery_to_pb(state.battery) if state.battery is not None else None,
        memory_total_bytes=state.memory_total_bytes,
        memory_pressure_ratio=state.memory_pressure_ratio,
        throttle_reasons=state.throttle_reasons,
        limited=[fallout_to_pb(fallout) for fallout in state.limited],
    )


def device_state_from_pb(message: types_pb2.DeviceState) -> DeviceState:
    """How a device is."""
    return DeviceState(
        cpu_percent=message.cpu_percent,
        memory_available_bytes=message.memory_available_bytes,
        disk_available_bytes=message.disk_available_bytes,
        temperature_celsius=message.temperature_celsius,
        throttled=message.throttled,
        requests_in_flight=message.requests_in_flight,
        loaded_arms=tuple(message.loaded_arms),
        broken_arms=tuple(fallout_from_pb(fallout) for fallout in message.broken_arms),
        books_state=message.books_state,
        power_watts=message.power_watts,
        battery=_battery_from_pb(message.battery) if message.HasField("battery") else None,
        memory_total_bytes=message.memory_total_bytes,
        memory_pressure_ratio=message.memory_pressure_ratio,
        throttle_reasons=tuple(message.throttle_reasons),
        limited=tuple(fallout_from_pb(fallout) for fallout in message.limited),
    )


def _battery_to_pb(battery: Battery) -> types_pb2.Battery:
    return types_pb2.Battery(charge_ratio=battery.charge_ratio, on_mains=battery.on_mains)


def _battery_from_pb(message: types_pb2.Battery) -> Battery:
    return Battery(charge_ratio=message.charge_ratio, on_mains=message.on_mains)
