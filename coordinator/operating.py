"""What an operator orders: configurations, budgets, arms, devices, write-offs, alarms.

Every command leaves a row in the audit, with who gave it.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from coordinator.alerts import RESOLVED_BY, AlertKind, kind_of
from coordinator.fleet_config import ConfigChange, diff_fleet
from coordinator.granting import UNCLEAN_BACKOFF_MS_MAX
from coordinator.identity import ANY_TOKEN
from coordinator.messages import QuarantineCommanded, SpendCommanded
from coordinator.price_rises import price_rises
from coordinator.records import (
    AuditRow,
    ConfigRow,
    DeviceStanding,
    PutSetting,
    SettingKey,
    WindowRow,
)
from coordinator.recovering import Recovering
from coordinator.sessions import Reaction
from shared.decision.money import dollars
from shared.decision.table import SelectionTable
from shared.errors import ConfigError, ConflictError, NotFoundError
from shared.limits import AMOUNT_NANOS_MAX


class Operating(Recovering):
    """A state under an operator's hand."""

    @abstractmethod
    def tick(self, *, unix_ms: int) -> Reaction:
        """Time has passed: what was ordered shows in the next plan."""

    def apply_config(
        self, toml: str, *, actor: str, unix_ms: int, dry_run: bool
    ) -> tuple[tuple[ConfigChange, ...], Reaction]:
        """Take a new fleet configuration, or only tell what it would change.

        Raises
        ------
        FleetConfigError
            Naming every key at fault.
        """
        config = self._parsed(toml, unix_ms=unix_ms)
        changes = diff_fleet(self.config, config)
        reaction = Reaction()
        if dry_run or not changes:
            return changes, reaction
        before, self.config = self.config, config
        self.config_version += 1
        prices_changed = before is None or before.prices != config.prices
        if prices_changed:
            self.price_version = self.config_version
            version = PutSetting(SettingKey.PRICE_VERSION, str(self.price_version))
            reaction.effects.append(version)
        row = ConfigRow(self.config_version, toml, actor, unix_ms)
        reaction.effects += [row, AuditRow(unix_ms, actor, "apply", f"version {row.version}")]
        if before is not None and before.budget.differs(config.budget):
            self._budget_override = None
            reaction.effects.append(PutSetting(SettingKey.BUDGET_OVERRIDE, ""))
        if self.planner is None:
            self.planner = self._new_planner(config)
            for session in self.sessions.values():
                self._learn_speeds(session)
        else:
            if before is not None and before.window != config.window:
                self.planner.restart_slots()
            self.planner.reconfigure(config, disabled_arms=self.disabled_arms)
        if prices_changed and before is not None:
            self._recall_all(reaction, reason="prices have changed")
        self._retarget(reaction)
        for device in self.registry.devices:
            self._send_config(reaction, device=device)
        reaction.extend(self.tick(unix_ms=unix_ms))
        return changes, self._tell(reaction, unix_ms=unix_ms)

    def config_warnings(self, toml: str, *, unix_ms: int) -> tuple[str, ...]:
        """What an operator should know before a configuration is applied (rule A_3).

        Raises
        ------
        FleetConfigError
            Naming every key at fault.
        """
        config = self._parsed(toml, unix_ms=unix_ms)
        if self.config is None:
            return ()
        return price_rises(self.config.prices, config.prices, leases=self.account.open_leases())

    def set_budget(self, amount_nanos: int, *, actor: str, unix_ms: int) -> Reaction:
        """Change the budget of this window and the following ones (rule C_3)."""
        self._require_config()
        if not 0 <= amount_nanos <= AMOUNT_NANOS_MAX:
            most = f"from $0 to ${dollars(AMOUNT_NANOS_MAX)}"
            raise ConfigError("budget", f"{amount_nanos} nano-dollars is not {most}")
        self._budget_override = amount_nanos
        reaction = Reaction(
            effects=[
                PutSetting(SettingKey.BUDGET_OVERRIDE, str(amount_nanos)),
                AuditRow(unix_ms, actor, "budget set", f"${dollars(amount_nanos)}"),
            ]
        )
        self._retarget(reaction)
        return self._tell(reaction, unix_ms=unix_ms)

    def rewind_budget(
        self, windows: Sequence[WindowRow], *, actor: str, reason: str, unix_ms: int
    ) -> Reaction:
        """Leave a window that begins in the future for the one that is true now.

        The coordinator's clock was ahead when it was opened. What is settled, unconfirmed and lent
        in the windows that end after the true one's start counts against that.

        Parameters
        ----------
        windows : sequence of WindowRow
            Those, as the books hold them: see `true_window`.

        Raises
        ------
        ConflictError
            If the present window does not begin in the future.
        """
        config, planner, current = self._require_config(), self._require_planner(), self.window
        if current is None or unix_ms >= current.start_unix_ms:
            raise ConflictError("the present budget window has begun: there is nothing to rewind")
        start, end = self.true_window(unix_ms=unix_ms)
        self.account.remember((), windows=windows)
        detail = f"from window {current.id}" + (f"; {reason}" if reason else "")
        reaction = Reaction(effects=[AuditRow(unix_ms, actor, "budget rewind", detail)])
        planner.restart_slots()
        planner.reconfigure(config, disabled_arms=self.disabled_arms)
        self._begin_window(reaction, start=start, end=end, ahead_until=math.inf, unix_ms=unix_ms)
        latest = unix_ms + UNCLEAN_BACKOFF_MS_MAX
        for device in self.registry.devices:  # who has to wait, by a clock that was wrong
            if device.lends_from_unix_ms > latest:
                freed = replace(device, lends_from_unix_ms=latest)
                reaction.effects.append(self.registry.put(freed))
        self._heard(reaction, unix_ms=unix_ms)
        reaction.extend(self.tick(unix_ms=unix_ms))
        return self._tell(reaction, unix_ms=unix_ms)

    def true_window(self, *, unix_ms: int) -> tuple[int, int]:
        """Start and end of the window that the clock is in, opened or not."""
        _, start, end = self._require_config().window.window_of(unix_ms)
        return start, end

    def set_spend_paused(self, paused: bool, *, actor: str, unix_ms: int) -> Reaction:
        """Stop or allow every paid call of the fleet; kept across restarts."""
        self.spend_paused = paused
        action = "pause-spend" if paused else "resume-spend"
        return Reaction(
            effects=[
                PutSetting(SettingKey.SPEND_PAUSED, "1" if paused else "0"),
                AuditRow(unix_ms, actor, action, ""),
            ],
            sends=[(device_id, SpendCommanded(paused)) for device_id in self.sessions],
        )

    def set_arm_enabled(self, arm: str, enabled: bool, *, actor: str, unix_ms: int) -> Reaction:
        """Close or open an arm on every device; to open it resolves its alarm."""
        config = self._require_config()
        if arm not in config.arms:
            raise NotFoundError(f"no arm {arm!r}; there are {', '.join(sorted(config.arms))}")
        self.disabled_arms = self.disabled_arms - {arm} if enabled else self.disabled_arms | {arm}
        reaction = Reaction(
            effects=[
                PutSetting(SettingKey.DISABLED_ARMS, json.dumps(sorted(self.disabled_arms))),
                AuditRow(unix_ms, actor, "arm enable" if enabled else "arm disable", arm),
            ]
        )
        if enabled:
            self.alerts.clear(f"{AlertKind.OVERRUN}:{arm}", why=f"arm {arm} is open again: {actor}")
        self._require_planner().reconfigure(config, disabled_arms=self.disabled_arms)
        for device in self.registry.devices:
            self._send_config(reaction, device=device)
        reaction.extend(self.tick(unix_ms=unix_ms))
        return self._tell(reaction, unix_ms=unix_ms)

    def pin_table(
        self, device_class: str, *, table: SelectionTable | None, actor: str, unix_ms: int
    ) -> Reaction:
        """Keep the table of a device class as it is, or as it was; planning goes on.

        Parameters
        ----------
        table : SelectionTable or None
            An earlier one, to come into force again; None for the one in force.

        Raises
        ------
        NotFoundError
            If the class has no table yet.
        """
        present = self.table_of(device_class)
        reaction = Reaction()
        action = "table pin"
        if table is not None and table.version != present.version:
            action, present = "table rollback", table
            reaction.effects += self.shelf.take_back(table)
            self._send_table(reaction, table)
        reaction.effects += [
            self.shelf.pin(device_class, unix_ms=unix_ms, actor=actor),
            AuditRow(unix_ms, actor, action, f"{device_class} at version {present.version}"),
        ]
        return self._tell(reaction, unix_ms=unix_ms)

    def unpin_table(self, device_class: str, *, actor: str, unix_ms: int) -> Reaction:
        """Let the latest plan decide again.

        Raises
        ------
        ConflictError
            If the table is not pinned.
        """
        if device_class not in self.shelf.pins:
            pinned = ", ".join(sorted(self.shelf.pins)) or "none"
            raise ConflictError(
                f"the table of class {device_class!r} is not pinned; pinned: {pinned}"
            )
        reaction = Reaction(
            effects=[
                self.shelf.unpin(device_class),
                AuditRow(unix_ms, actor, "table unpin", device_class),
            ]
        )
        known = self.config is not None and device_class in self.config.device_classes
        if known and self._require_planner().planned is not None:
            self._make_table(reaction, device_class=device_class, unix_ms=unix_ms)
        return self._tell(reaction, unix_ms=unix_ms)

    def revoke(self, device_id: str, *, actor: str, unix_ms: int) -> Reaction:
        """Shut a device out for good; its leases count as spent until it closes them."""
        return self._stand(device_id, DeviceStanding.REVOKED, "revoked", actor, unix_ms)

    def readmit(self, device_id: str, *, actor: str, unix_ms: int) -> Reaction:
        """Let a quarantined device spend again; it starts with a fresh resume token.

        Raises
        ------
        ConflictError
            If it is not quarantined. Its next token would be taken as it comes, while it may hold
            leases: a clone's hello would give them back.
        """
        device = self.registry.device(device_id)
        if device.standing is DeviceStanding.ACTIVE:
            raise ConflictError(f"device {device.name} is active: there is nothing to readmit")
        return self._stand(device_id, DeviceStanding.ACTIVE, "readmitted", actor, unix_ms)

    def write_off(
        self,
        device_id: str,
        *,
        assume_unspent: bool,
        actor: str,
        reason: str = "",
        unix_ms: int,
    ) -> tuple[int, Reaction]:
        """End a silent device's leases (rule C_7); also what of them was not reported, in nanos.

        Raises
        ------
        ConflictError
            If the device is connected: it can give its leases back itself.
        """
        device = self.registry.device(device_id)
        if device_id in self.sessions:
            raise ConflictError(
                f"device {device.name} is connected: `tidectl device revoke` takes its leases back"
            )
        how = "assumed unspent" if assume_unspent else "written off"
        why = f"{how} by {actor}" + (f": {reason}" if reason else "")
        amount = self.account.write_off(
            device_id, at=unix_ms, note=why, assume_unspent=assume_unspent
        )
        reaction = Reaction(effects=self.account.take_changes())
        detail = f"{device.name}: ${dollars(amount)} {how}" + (f"; {reason}" if reason else "")
        reaction.effects.append(AuditRow(unix_ms, actor, "budget write-off", detail))
        if assume_unspent and amount:
            text = (
                f"${dollars(amount)} of device {device.name} {why}; promise P1 does not cover them"
            )
            self.alerts.raise_alarm(f"{AlertKind.UNSPENT}:{device_id}", text)
        if self.recovery is not None:
            self._put_recovery(reaction, self.recovery.without([device_id]))
        return amount, self._tell(reaction, unix_ms=unix_ms)

    def clear_alarm(self, key: str, *, actor: str, reason: str = "", unix_ms: int) -> Reaction:
        """An operator has seen an alarm that nothing else resolves.

        Raises
        ------
        NotFoundError
            If none of that key stands.
        ConflictError
            If its cause still lasts: another command ends both.
        """
        if key not in self.alerts:
            raise NotFoundError(f"no alarm {key!r} stands; `tidectl alarm list` shows all")
        remedy = RESOLVED_BY.get(kind_of(key))
        if remedy is not None and self._lasts(key):
            raise ConflictError(f"the cause of alarm {key} lasts; `{remedy}` ends both")
        why = f"cleared by {actor}" + (f": {reason}" if reason else "")
        self.alerts.clear(key, why=why)
        detail = f"{key}; {reason}" if reason else key
        reaction = Reaction(effects=[AuditRow(unix_ms, actor, "alarm clear", detail)])
        return self._tell(reaction, unix_ms=unix_ms)

    def _lasts(self, key: str) -> bool:
        """Whether the cause of an alarm still holds."""
        kind, _, subject = key.partition(":")
        if kind == AlertKind.OVERRUN:
            known = self.config is not None and subject in self.config.arms
            return known and subject in self.disabled_arms
        if kind == AlertKind.QUARANTINE:
            return self.registry.device(subject).standing is DeviceStanding.QUARANTINED
        if kind == AlertKind.CLOCK:
            return True  # it ends by itself as soon as the window has begun
        return self.recovery is not None

    def _stand(
        self, device_id: str, standing: DeviceStanding, word: str, actor: str, unix_ms: int
    ) -> Reaction:
        device = self.registry.device(device_id)
        if device.standing is DeviceStanding.REVOKED and standing is DeviceStanding.ACTIVE:
            raise NotFoundError(f"device {device.name} was revoked for good; let it join again")
        device = self.registry.put(
            replace(
                device,
                standing=standing,
                standing_reason="" if standing is DeviceStanding.ACTIVE else f"{word} by {actor}",
                resume_digest=ANY_TOKEN,
                resume_digest_next="",
            )
        )
        reaction = Reaction(effects=[device, AuditRow(unix_ms, actor, f"device {word}", device.id)])
        if standing is DeviceStanding.REVOKED:
            self.account.close_in_full(device_id, at=unix_ms, note="revoked")
            reaction.effects += self.account.take_changes()
            reaction.sends.append((device_id, QuarantineCommanded("revoked by an operator")))
        key = f"{AlertKind.QUARANTINE}:{device_id}"
        self.alerts.clear(key, why=f"device {device.name} was {word} by {actor}")
        return self._tell(reaction, unix_ms=unix_ms)

    def _retarget(self, reaction: Reaction) -> None:
        window = self.window
        if window is None or window.target_nanos == self.budget_nanos:
            return
        cut = self.budget_nanos < window.committed_nanos
        self.account.set_target(window.id, self.budget_nanos)
        reaction.effects += self.account.take_changes()
        if cut:
            self._recall_all(reaction, reason="the budget was cut")
