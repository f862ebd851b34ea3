"""Telling a device from its clone, and our books from restored ones (rules C_5, D_2)."""

from __future__ import annotations

from typing import Final

from coordinator.account import BudgetAccount
from coordinator.messages import HelloReceived
from coordinator.records import DeviceRow
from coordinator.registry import digest

ANY_TOKEN: Final = "*"  # noqa: S105 - after readmission the first token is taken as it comes


def quarantine_reason(device: DeviceRow, hello: HelloReceived) -> str:
    """Why a device that says hello is not the one that we know; empty if it is.

    Its resume token must be the last one that it confirmed or the one that was issued after it,
    and its sequences must not lie below what is booked.
    """
    token = digest(hello.resume_token)
    issued = {device.resume_digest}
    if device.resume_digest_next:
        issued.add(device.resume_digest_next)
    if token not in issued and device.resume_digest != ANY_TOKEN:
        return "it came with an old resume token: a clone, or its disk was restored"
    if hello.last_sequence < device.acked_sequence:
        return "it came with a sequence below the acked one: a clone, or its disk was restored"
    return ""


def restored_books(device: DeviceRow, hello: HelloReceived) -> str:
    """Why our own books look restored from a backup; empty if they do not.

    A grant is in the books before it is sent, so no device has seen a number above the highest one
    there. Lower numbers may be missing from memory: those of earlier windows, long closed.
    """
    if hello.lease_number_max > device.lease_number_max:
        what = f"lease {hello.lease_number_max}"
    elif hello.acked_sequence > device.acked_sequence:
        what = f"the acked sequence {hello.acked_sequence}"
    else:
        return ""
    return (
        f"device {device.name} knows of {what}, which these books do not: they were restored from "
        "a backup. No leases are granted"
    )


def close_unseen(
    device: DeviceRow, hello: HelloReceived, *, account: BudgetAccount, unix_ms: int
) -> None:
    """Take back leases whose grant was lost on the way.

    A device syncs a lease's number before it spends on it (rule L_1), and a session that has ended
    delivers nothing more. So a lease above the highest number that the device has seen was never
    spent on, and never will be: its hello is the close.
    """
    for lease in account.open_leases(device.id):
        if lease.number > hello.lease_number_max:
            account.close(device.id, lease.number, final=0, at=unix_ms, note="never arrived")
