"""Restored books on their way back to what is true (rule C_5): whom they wait for, and until when.

`recovery.py` has the values; this module changes the engine's state by them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from coordinator.alerts import RESTORED, AlertKind
from coordinator.booking import Named, named_in
from coordinator.records import (
    AuditRow,
    DeviceRow,
    EarlierFacts,
    LeaseRecord,
    PutSetting,
    SettingKey,
)
from coordinator.recovery import Recovery, forgotten_lease, presented_lease
from coordinator.sessions import Reaction
from coordinator.state import FleetState
from shared.decision.types import SpoolRecord
from shared.errors import ConflictError
from shared.rows import changed

STRANGERS_MAX: Final = 100


class Recovering(FleetState):
    """A state that can be freed from a restore."""

    def recover_ledger(self, *, actor: str, unix_ms: int) -> Reaction:
        """Lend again once every known device has presented its leases, or is written off.

        Raises
        ------
        ConflictError
            If there is nothing to recover, or a device has called that these books do not know,
            and no operator has looked into it.
        """
        if self.recovery is None:
            raise ConflictError("these books are complete: there is nothing to recover")
        for alarm in self.alerts.alarms:
            if alarm.kind is AlertKind.STRANGER:
                raise ConflictError(
                    f"{alarm.text}. Lower the budget by what it may hold (`tidectl budget set`), "
                    f"then `tidectl alarm clear {alarm.key}`, and recover again"
                )
        reaction = Reaction(effects=[AuditRow(unix_ms, actor, "ledger recover", "")])
        self._put_recovery(reaction, replace(self.recovery, confirmed_by=actor))
        return self._tell(reaction, unix_ms=unix_ms)

    def stranger_called(self, digest: str, *, peer: str, unix_ms: int) -> Reaction:
        """Somebody shows a credential that these books do not know.

        While they are being recovered that may be a device which joined after the backup and
        holds leases. Each counts once, so that who keeps calling does not hold up the recovery.
        """
        recovery, reaction = self.recovery, Reaction()
        if recovery is None or digest in recovery.strangers:
            return reaction
        if len(recovery.strangers) >= STRANGERS_MAX:
            return reaction
        self.alerts.raise_alarm(
            f"{AlertKind.STRANGER}:{digest[:8]}",
            f"a device that these books do not know has called from {peer}: it joined after the "
            "backup, and may hold leases that are not booked",
        )
        known = (*recovery.strangers, digest)
        self._put_recovery(reaction, replace(recovery, strangers=known, confirmed_by=""))
        return self._tell(reaction, unix_ms=unix_ms)

    def _begin_recovery(self, reaction: Reaction, *, reason: str, unix_ms: int) -> None:
        self.alerts.raise_alarm(RESTORED, reason)
        if self.recovery is None:
            spenders = self._spenders()
            unmet = tuple(device_id for device_id in spenders if device_id not in self.sessions)
            self.recovery = Recovery(reason, waiting=spenders, unmet=unmet)
            self._heard(reaction, unix_ms=unix_ms)

    def _meet(self, device: DeviceRow, *, hides_leases: bool) -> None:
        """A device has said hello; perhaps without all that it knew, as the books lack what was.

        What such a device was lent after the backup nobody can tell: an operator has to allow for
        it.
        """
        recovery = self.recovery
        if recovery is None:
            return
        self.recovery = recovery.having_met(device.id)
        if hides_leases:
            self.recovery = replace(self.recovery, confirmed_by="")
            self.alerts.raise_alarm(
                f"{AlertKind.STRANGER}:{device.id}",
                f"device {device.name} has lost a part of its books, and these were restored from "
                "a backup: it may hold leases that nobody knows of",
            )

    def _put_recovery(self, reaction: Reaction, recovery: Recovery) -> None:
        self.recovery = None if recovery.is_over else recovery
        if recovery.is_over:
            self.alerts.clear(RESTORED, why="every known device was heard or is written off")
        reaction.effects.append(PutSetting(SettingKey.RECOVERY, recovery.to_json()))

    def _heard(self, reaction: Reaction, *, unix_ms: int) -> None:
        """Book the lost leases of connected devices; who has told all else was heard."""
        if self.recovery is None or self.window is None:
            return
        for session in self.sessions.values():
            for status in session.lost:
                known = self.account.has_window(status.window_id)
                self._adopt(
                    reaction,
                    presented_lease(
                        status,
                        device_id=session.device_id,
                        incarnation=session.incarnation,
                        window_id=status.window_id if known else self.window_id,
                        unix_ms=unix_ms,
                    ),
                )
            session.lost = ()
        reaction.effects += self.account.take_changes()
        told = (s.device_id for s in self.sessions.values() if s.spool.is_caught_up)
        self._put_recovery(reaction, self.recovery.without(told))

    def _adopt_forgotten(
        self,
        reaction: Reaction,
        device: DeviceRow,
        records: tuple[SpoolRecord, ...],
        *,
        named: Named | None = None,
        earlier: EarlierFacts,
        unix_ms: int,
    ) -> None:
        """Records speak of leases that the books do not know: these were restored (rule C_5)."""
        self.account.remember(earlier.leases, windows=earlier.windows)
        leases = (named or named_in(records)).leases
        unknown = [n for n in leases if self.account.lease(device.id, n) is None]
        if unknown and self.window is None:
            raise ConflictError("there is no budget window yet: send the batch again later")
        if not unknown:
            return
        self.sessions[device.id].spool.check_named(records, device=device.name)
        tellers = {n: r for r in reversed(records) for n in named_in([r]).leases}
        for number in unknown:
            teller = tellers[number]
            reason = (
                f"device {device.name} reports on lease {number}, which these books do not know: "
                "they were restored from a backup"
            )
            self._begin_recovery(reaction, reason=reason, unix_ms=unix_ms)
            self._adopt(  # unless its device has just been asked, and holds it
                reaction,
                forgotten_lease(
                    number,
                    device_id=device.id,
                    incarnation=teller.incarnation,
                    window_id=self.window_id,
                    unix_ms=unix_ms,
                ),
            )

    def _adopt(self, reaction: Reaction, lease: LeaseRecord) -> None:
        """Book a lease that the books have lost; the next one of its device has a higher number."""
        self.account.adopt(lease)
        device = self.registry.device(lease.device_id)
        if lease.number > device.lease_number_max:
            raised = self.registry.put(changed(device, lease_number_max=lease.number))
            reaction.effects.append(raised)
