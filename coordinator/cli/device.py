"""`tidectl device`: who is in the fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.cli.render import (
    NONE,
    console,
    facts,
    instant,
    share,
    show_json,
    table,
    usd,
    yes_no,
)
from coordinator.cli.session import OutputFormat, Session, confirm, is_interactive, session_of
from shared.pb.v1 import admin_pb2, types_pb2

app = typer.Typer(no_args_is_help=True, help="List devices and decide whether they may talk.")

DeviceArgument = Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id or name.")]


@app.command("list")
def list_devices(ctx: typer.Context) -> None:
    """List every known device."""
    session = session_of(ctx)
    reply: admin_pb2.ListDevicesReply = session.call("ListDevices", admin_pb2.ListDevicesRequest())
    if session.format is OutputFormat.JSON:
        show_json(reply)
        return
    columns = ["NAME", "ID", "CLASS", "STATE", "UP", "SEEN", "SPOOLED", "LEASES"]
    rows = [
        [
            device.name,
            device.id,
            device.device_class,
            device.state,
            yes_no(device.connected),
            instant(device.seen_unix_ms),
            str(device.spooled_records),
            str(len(device.leases)),
        ]
        for device in reply.devices
    ]
    console().print(table(columns, rows, right=["SPOOLED", "LEASES"]))
    for device in reply.devices:
        if device.state == "quarantined":
            typer.echo(
                f"{device.name} is quarantined: {device.state_reason}. When that is mended: "
                f"tidectl device readmit {device.name}"
            )


@app.command("show")
def show_device(ctx: typer.Context, device: DeviceArgument) -> None:
    """Show one device with its leases and its condition."""
    session = session_of(ctx)
    _show(session, session.call("GetDevice", admin_pb2.GetDeviceRequest(device=device)))


@app.command("revoke")
def revoke_device(
    ctx: typer.Context,
    device: DeviceArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Revoke without asking.")] = False,
) -> None:
    """Take a device's credential away. It goes on answering with its local models."""
    session = session_of(ctx)
    confirm(
        f"Revoke {device}? It can come back only by joining anew.",
        yes=yes,
        interactive=is_interactive(),
    )
    request = admin_pb2.RevokeDeviceRequest(device=device, actor=session.actor)
    _show(session, session.call("RevokeDevice", request))


@app.command("readmit")
def readmit_device(ctx: typer.Context, device: DeviceArgument) -> None:
    """Let a quarantined device talk and spend again."""
    session = session_of(ctx)
    request = admin_pb2.ReadmitDeviceRequest(device=device, actor=session.actor)
    _show(session, session.call("ReadmitDevice", request))


def _show(session: Session, device: admin_pb2.Device) -> None:
    if session.format is OutputFormat.JSON:
        show_json(device)
        return
    out = console()
    out.print(facts(_facts(device)))
    if device.leases:
        columns = ["LEASE", "WINDOW", "AMOUNT", "SETTLED", "RESERVED", "WATERMARK", "CLOSING"]
        rows = [
            [
                str(lease.lease_number),
                str(lease.window_id),
                usd(lease.amount_nanos),
                usd(lease.settled_nanos),
                usd(lease.reserved_nanos),
                usd(lease.watermark_nanos),
                yes_no(lease.closing),
            ]
            for lease in device.leases
        ]
        out.print()
        out.print(table(columns, rows, right=columns[:6]))


def _facts(device: admin_pb2.Device) -> list[tuple[str, str]]:
    state = device.device_state
    broken = [f"{arm.arm} ({arm.reason})" for arm in state.broken_arms]
    closed = state.limited
    gib = 2**30
    return [
        ("name", device.name),
        ("id", device.id),
        ("class", device.device_class),
        ("state", device.state + (f" ({device.state_reason})" if device.state_reason else "")),
        ("connected", yes_no(device.connected)),
        ("joined", instant(device.joined_unix_ms)),
        ("seen", instant(device.seen_unix_ms)),
        ("software", device.software_version or NONE),
        ("incarnation", device.incarnation or NONE),
        ("sequence", f"{device.acked_sequence} acked, {device.spooled_records} spooled"),
        ("table version", str(device.table_version)),
        ("local arms", ", ".join(device.local_arms) or NONE),
        ("loaded arms", ", ".join(state.loaded_arms) or NONE),
        ("broken arms", ", ".join(broken) or NONE),
        ("books", state.books_state or NONE),
        ("pause confirmed", yes_no(device.spend_paused_confirmed)),
        ("CPU", _cpu(state)),
        ("memory free", _memory(state)),
        ("power", f"{state.power_watts:.1f} W" if state.power_watts else NONE),
        ("battery", _battery(state)),
        ("closed by limits", ", ".join(f"{each.arm} ({each.reason})" for each in closed) or NONE),
        ("disk free", f"{state.disk_available_bytes / gib:.1f} GiB"),
        ("in flight", str(state.requests_in_flight)),
    ]


def _cpu(state: types_pb2.DeviceState) -> str:
    text = f"{state.cpu_percent:.0f}%"
    if state.temperature_celsius:
        text += f", {state.temperature_celsius:.0f} °C"
    if state.throttled:
        text += f", held back ({', '.join(state.throttle_reasons) or 'no reason told'})"
    return text


def _memory(state: types_pb2.DeviceState) -> str:
    text = f"{state.memory_available_bytes / 2**30:.1f}"
    if state.memory_total_bytes:
        text += f" of {state.memory_total_bytes / 2**30:.1f}"
    return f"{text} GiB, {share(state.memory_pressure_ratio)} of the time short of it"


def _battery(state: types_pb2.DeviceState) -> str:
    if not state.HasField("battery"):
        return NONE
    where = "on the mains" if state.battery.on_mains else "discharging"
    return f"{share(state.battery.charge_ratio)}, {where}"
