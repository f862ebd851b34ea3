"""Telling a device from its clone, and our books from restored ones (rules C_5, D_2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from coordinator.account import BudgetAccount
from coordinator.messages import HelloReceived
from coordinator.records import DeviceRow
from coordinator.registry import digest
from shared.decision.types import LeaseStatus

ANY_TOKEN: Final = "*"  # noqa: S105 - after readmission the first token is taken as it comes


def quarantine_reason(
    device: DeviceRow, hello: HelloReceived, *, marks: Mapping[str, int], forgotten: bool = False
) -> str:
    """Why a device that says hello is not the one that we know; empty if it is.

    Its resume token must be the last one that it confirmed or the one that was issued after it. A
    process that has just started must have found every record that the one before it has sent.

    Parameters
    ----------
    forgotten : bool
        These books were restored and have not met the device since: it may have a later token than
        they know. That it has lost its own books, or some of its records, shows all the same.
    """
    token = digest(hello.resume_token)
    issued = {device.resume_digest}
    if device.resume_digest_next:
        issued.add(device.resume_digest_next)
    lost = not token and ((forgotten and hello.copied) or token not in issued)
    if device.resume_digest == ANY_TOKEN and not forgotten:
        return ""
    if lost:
        return "it came without its resume token: its books were lost, see its log and /health"
    if token not in issued and not forgotten:
        return "it came with an old resume token: a clone, or its disk was restored"
    if hello.incarnation != device.incarnation:
        for before in hello.incarnations[-2:-1]:
            if before.last < marks.get(before.incarnation, 0):
                return "it came with fewer records than it had: a clone, or its disk was restored"
    return ""


def restored_books(device: DeviceRow, hello: HelloReceived, *, marks: Mapping[str, int]) -> str:
    """Why our own books look restored from a backup; empty if they do not.

    A grant is in the books before it is sent, so no device has seen a number above the highest one
    there. Lower numbers may be missing from memory: those of earlier windows, long closed.
    """
    acked = hello.acked_sequence
    unknown = (
        min(each.last, acked)
        for each in hello.incarnations
        if max(each.after, marks.get(each.incarnation, 0)) < min(each.last, acked)
    )
    if hello.lease_number_max > device.lease_number_max:
        what = f"lease {hello.lease_number_max}"
    elif (sequence := next(unknown, 0)) > 0:
        what = f"the acked sequence {sequence}"
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
    spent on, and never will be: its hello is the close. Not so the hello of a copy, whose original
    may have seen more, and may be spending: then every lease counts as spent (rule D_2).
    """
    if hello.copied:
        account.close_in_full(device.id, at=unix_ms, note="the device's books were copied")
    for lease in account.open_leases(device.id):
        if lease.number > hello.lease_number_max:
            account.close(device.id, lease.number, final=0, at=unix_ms, note="never arrived")


def unheld_leases(
    device: DeviceRow, hello: HelloReceived, *, account: BudgetAccount
) -> tuple[int, ...]:
    """Open leases that a device has seen and no longer holds.

    It forgets a lease only together with the close that it spools. Once its spool is booked as
    far as it was at the hello, what is still open was lost: its figure will never come.
    """
    held = {status.lease_number for status in hello.leases}
    lent = (lease.number for lease in account.open_leases(device.id))
    return tuple(n for n in lent if n <= hello.lease_number_max and n not in held)


def lost_leases(
    device: DeviceRow, hello: HelloReceived, *, account: BudgetAccount
) -> tuple[LeaseStatus, ...]:
    """Leases that a device holds and the books do not know, once they were asked.

    A hello alone tells of them: what is granted in its session is in the books, and what has ended
    since is there too, while the account lets go of it with its window.
    """
    return tuple(s for s in hello.leases if account.lease(device.id, s.lease_number) is None)


def close_lost(
    device: DeviceRow, unheld: Iterable[int], *, account: BudgetAccount, unix_ms: int
) -> str:
    """Book leases in full whose close was lost; returns an alarm or ""."""
    lent = {lease.number for lease in account.open_leases(device.id)}
    lost = [number for number in unheld if number in lent]
    for number in lost:
        account.close_in_full(device.id, number=number, at=unix_ms, note="its close was lost")
    if not lost:
        return ""
    return (
        f"device {device.name} no longer knows of its leases {lost} and has not closed them: they "
        "are booked in full"
    )
