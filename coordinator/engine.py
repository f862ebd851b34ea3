"""The coordinator's decisions: devices and their books, leases, slots and plans.

No I/O, no clock, no ambient randomness. Every method takes what happened and returns a
`Reaction`: the rows to commit in one transaction, and the messages to send once that is done.

One slot: `tick` opens windows, closes slots, plans, and makes the tables. One device: `hello`,
`token_synced`, `batch`, `lease_requested`. `account.py` has the money, `planner.py` the learning,
`registry.py` the identities, `booking.py` what a batch does to all three.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from coordinator.account import BudgetAccount
from coordinator.booking import Booking, named_in
from coordinator.fleet_config import ConfigChange, FleetConfig, diff_fleet, parse_fleet
from coordinator.identity import ANY_TOKEN, close_unseen, quarantine_reason, restored_books
from coordinator.lending import RETRY_AFTER_MS, Lending
from coordinator.messages import (
    ConfigSent,
    HelloReceived,
    LeaseRecalled,
    LeaseRefused,
    QuarantineCommanded,
    SpendCommanded,
    TableSent,
    Welcomed,
)
from coordinator.planner import Planner
from coordinator.records import (
    AuditRow,
    ConfigRow,
    DeviceRow,
    DeviceStanding,
    EarlierFacts,
    LeaseRecord,
    PutSetting,
    SettingKey,
    Snapshot,
    StoreSnapshot,
    TableRowStored,
    WindowRow,
)
from coordinator.recovery import Recovery, forgotten_lease, presented_lease
from coordinator.registry import Registry, digest
from coordinator.sessions import Reaction, Session
from shared.decision.table import SelectionTable
from shared.decision.types import DeviceConfig, LeaseStatus, SpoolRecord
from shared.errors import ConfigError, ConflictError, NotFoundError, ProtocolError

LATE_OUTCOMES_MS = 400
UP_WITHIN_MS = 60_000
HEARTBEAT_MS_UNCONFIGURED = 1_000
PAUSED = "an operator has paused spending"
NOTHING_EARLIER = EarlierFacts()


class CoordinatorEngine:
    """Everything the coordinator decides.

    Parameters
    ----------
    snapshot : StoreSnapshot
        What the store held at the start; planning goes on exactly where it stopped.
    seed : int
        For policies that draw.
    """

    def __init__(self, snapshot: StoreSnapshot, *, seed: int = 0) -> None:
        self._seed = seed
        self.registry = Registry(
            devices=snapshot.devices,
            join_tokens=snapshot.join_tokens,
            admin_tokens=snapshot.admin_tokens,
        )
        self.account = BudgetAccount(
            windows=snapshot.windows,
            leases=snapshot.leases,
            ledger_id_max=snapshot.ledger_id_max,
        )
        self.sessions: dict[str, Session] = {}
        self._lending = Lending(
            account=self.account, registry=self.registry, sessions=self.sessions
        )
        self.tables = {table.device_class: table for table in snapshot.tables}
        self.alarms: dict[str, str] = {}
        self.recovery = Recovery.from_json(
            snapshot.settings.get(SettingKey.RECOVERY, ""), everybody=self._spenders()
        )
        if self.recovery is not None:
            self.alarms["restored"] = self.recovery.reason
        self.spend_paused = snapshot.settings.get(SettingKey.SPEND_PAUSED) == "1"
        self.disabled_arms = frozenset(
            json.loads(snapshot.settings.get(SettingKey.DISABLED_ARMS, "[]"))
        )
        override = snapshot.settings.get(SettingKey.BUDGET_OVERRIDE, "")
        self._budget_override = int(override) if override else None
        self.config: FleetConfig | None = None
        self.config_version = 0
        self.price_version = 0
        self.window_id = max((window.id for window in snapshot.windows), default=0)
        self.planner: Planner | None = None
        self._booking = Booking(position=snapshot.position_max)
        if snapshot.config is not None:
            self._restore(snapshot, row=snapshot.config)

    # The slot.

    def tick(self, *, unix_ms: int) -> Reaction:
        """Time has passed: open the window, close slots that are over, plan the next one."""
        reaction = Reaction()
        if self.config is None or self.planner is None:
            return reaction
        new_window = self._open_window(reaction, unix_ms=unix_ms)
        window = self.config.window
        over = (unix_ms - LATE_OUTCOMES_MS - window.anchor_unix_ms) // window.slot_ms - 1
        if new_window or self.planner.planned is None or over > self.planner.slot_closed:
            self.planner.close_slots(over)
            self._plan(reaction, unix_ms=unix_ms)
        if new_window:
            self._heard(reaction, unix_ms=unix_ms)
        return reaction

    def slot_of(self, unix_ms: int) -> int:
        """The absolute slot of a time, counted from the windows' anchor."""
        window = self._require_config().window
        return (unix_ms - window.anchor_unix_ms) // window.slot_ms

    @property
    def window(self) -> WindowRow | None:
        """The present budget window; None before the first tick."""
        if not self.account.has_window(self.window_id):
            return None
        return self.account.window(self.window_id)

    @property
    def budget_nanos(self) -> int:
        """What a window may cost: the operator's last word, else the configuration's."""
        if self._budget_override is not None:
            return self._budget_override
        return self._require_config().budget.amount_nanos

    def _open_window(self, reaction: Reaction, *, unix_ms: int) -> bool:
        config, planner = self._require_config(), self._require_planner()
        current = self.window
        if current is not None and unix_ms < current.end_unix_ms:
            # Also when the clock has stepped back: an earlier budget is never opened again.
            return False
        _, start, end = config.window.window_of(unix_ms)
        if current is not None:
            # A longer window that would have begun before the end of the last one is cut short.
            start = max(start, current.end_unix_ms)
        window_id = start
        if current is not None:
            self.account.forget_before(current.id)
        planner.close_slots(self.slot_of(start) - 1)
        planner.begin_window()
        self.window_id = window_id
        self.account.open_window(
            window_id, start_unix_ms=start, end_unix_ms=end, target_nanos=self.budget_nanos
        )
        reaction.effects += self.account.take_changes()
        reaction.sends += [
            (lease.device_id, LeaseRecalled(lease.number, "the budget window is over"))
            for lease in self.account.open_leases()
            if lease.window_id != window_id
        ]
        return True

    def _plan(self, reaction: Reaction, *, unix_ms: int) -> None:
        config, planner = self._require_config(), self._require_planner()
        window = self.account.window(self.window_id)
        left = window.enforced_nanos - window.settled_nanos - window.unconfirmed_nanos
        slot_ms = config.window.slot_ms
        planner.plan(
            slot=max(0, unix_ms - window.start_unix_ms) // slot_ms,
            slots_total=max(1, (window.end_unix_ms - window.start_unix_ms) // slot_ms),
            budget_nanos=window.enforced_nanos,
            left_nanos=left,
            devices_up=self.registry.devices_up(since_unix_ms=unix_ms - UP_WITHIN_MS),
        )
        for device_class in config.device_classes:
            self._make_table(reaction, device_class=device_class, unix_ms=unix_ms)
        reaction.effects.append(self.snapshot())

    def _make_table(self, reaction: Reaction, *, device_class: str, unix_ms: int) -> None:
        version = 1 + max((table.version for table in self.tables.values()), default=0)
        table = self._require_planner().table(
            device_class,
            version=version,
            config_version=self.config_version,
            unix_ms=unix_ms,
        )
        before = self.tables.get(device_class)
        if before is not None and before.same_choices(table):
            return
        self.tables[device_class] = table
        reaction.effects.append(TableRowStored(table))
        for session in self._sessions_of(device_class):
            reaction.sends.append((session.device_id, TableSent(table)))

    def snapshot(self) -> Snapshot:
        """What was learned, up to the last booked position."""
        planner = self._require_planner()
        return Snapshot(
            position=self._booking.position,
            slot=planner.slot_closed,
            window_id=self.window_id,
            payload=planner.to_payload(),
        )

    # Devices.

    def hello(
        self, device_id: str, hello: HelloReceived, *, resume_token: str, unix_ms: int
    ) -> Reaction:
        """A device has connected; `resume_token` is the fresh one of this session (rule D_2)."""
        device = self.registry.device(device_id)
        reaction = Reaction()
        if device.standing is DeviceStanding.ACTIVE:
            device = self._checked(reaction, device, hello, unix_ms=unix_ms)
        quarantined = device.standing is DeviceStanding.QUARANTINED
        close_unseen(device, hello, account=self.account, unix_ms=unix_ms)
        reaction.effects += self.account.take_changes()
        device = self.registry.put(
            replace(
                device,
                incarnation=hello.incarnation,
                # What it presents it has synced, even if its confirmation was lost on the way.
                resume_digest=device.resume_digest if quarantined else digest(hello.resume_token),
                resume_digest_next=device.resume_digest_next
                if quarantined
                else digest(resume_token),
                lease_number_max=max(device.lease_number_max, hello.lease_number_max),
                seen_unix_ms=unix_ms,
                software_version=hello.software_version,
            )
        )
        reaction.effects.append(device)
        self.sessions[device_id] = Session(
            device_id=device_id,
            incarnation=hello.incarnation,
            spooled_records=max(0, hello.last_sequence - device.acked_sequence),
            table_version=hello.table_version,
            leases=hello.leases,
            local_arms=hello.local_arms,
        )
        self._heard(reaction, unix_ms=unix_ms)
        welcome = Welcomed(
            resume_token=resume_token,
            acked_sequence=device.acked_sequence,
            heartbeat_ms=self.config.link.heartbeat_ms
            if self.config
            else HEARTBEAT_MS_UNCONFIGURED,
            spend_paused=self.spend_paused,
            quarantined=quarantined,
        )
        reaction.sends.append((device_id, welcome))
        reaction.sends += [
            (device_id, LeaseRecalled(lease.number, "recalled while the device was away"))
            for lease in self.account.open_leases(device_id)
            if self._outdated(lease)
        ]
        self._send_config(reaction, device=device)
        table = self.tables.get(device.device_class)
        if table is not None:
            reaction.sends.append((device_id, TableSent(table)))
        return reaction

    def token_synced(self, device_id: str, resume_token: str) -> Reaction:
        """The device has this session's token on its disk: from now on it may spend."""
        device = self.registry.device(device_id)
        session = self.sessions.get(device_id)
        if session is None or device.standing is not DeviceStanding.ACTIVE:
            return Reaction()
        if digest(resume_token) != device.resume_digest_next:
            raise ProtocolError("the resume token confirmed is not the one that was issued")
        session.may_spend = True
        device = self.registry.put(
            replace(device, resume_digest=device.resume_digest_next, resume_digest_next="")
        )
        return Reaction(effects=[device])

    def unremembered(
        self, device_id: str, records: Iterable[SpoolRecord]
    ) -> tuple[list[str], list[int]]:
        """What to look up in the books before a batch: its graded requests, its older leases."""
        requests, numbers = named_in(records)
        return requests, [n for n in numbers if self.account.lease(device_id, n) is None]

    def batch(
        self,
        device_id: str,
        records: Iterable[SpoolRecord],
        *,
        earlier: EarlierFacts = NOTHING_EARLIER,
        unix_ms: int,
    ) -> Reaction:
        """Book a batch of spool records and ack it (rule O_1).

        Parameters
        ----------
        earlier : EarlierFacts
            What the books hold of `unremembered`.
        """
        device = self.registry.device(device_id)
        reaction = Reaction()
        kept = tuple(records)
        self._adopt_forgotten(reaction, device, kept, earlier=earlier, unix_ms=unix_ms)
        booked = self._booking.book(
            device,
            kept,
            account=self.account,
            planner=self.planner,
            window=self.config.window if self.config else None,
            earlier=earlier,
            gaps_allowed=self.recovery is not None,
            unix_ms=unix_ms,
        )
        self.alarms.update(booked.alarms)
        reaction.effects += booked.effects
        reaction.effects.append(self.registry.put(booked.device))
        session = self.sessions.get(device_id)
        if session is not None:
            waiting = session.spooled_records - (
                booked.device.acked_sequence - device.acked_sequence
            )
            session.spooled_records = max(0, waiting)
        reaction.sends.append((device_id, booked.ack))
        for arm in sorted(booked.overrun_arms - self.disabled_arms):
            if self.config is not None and arm in self.config.arms:  # everywhere (rule S_4)
                closed = self.set_arm_enabled(arm, False, actor="overrun", unix_ms=unix_ms)
                self._extend(reaction, closed)
        return reaction

    def _adopt_forgotten(
        self,
        reaction: Reaction,
        device: DeviceRow,
        records: tuple[SpoolRecord, ...],
        *,
        earlier: EarlierFacts,
        unix_ms: int,
    ) -> None:
        """Records speak of leases that the books do not know: these were restored (rule C_5)."""
        self.account.remember(earlier.leases, windows=earlier.windows)
        unknown = self.unremembered(device.id, records)[1]
        if unknown and self.window is None:
            raise ConflictError("there is no budget window yet: send the batch again later")
        for number in unknown:
            reason = (
                f"device {device.name} reports on lease {number}, which these books do not know: "
                "they were restored from a backup"
            )
            self._begin_recovery(reaction, reason=reason, unix_ms=unix_ms)
            if self.account.lease(device.id, number) is None:
                self.account.adopt(
                    forgotten_lease(
                        number,
                        device_id=device.id,
                        incarnation=records[0].incarnation,
                        window_id=self.window_id,
                        unix_ms=unix_ms,
                    )
                )

    def heartbeat(
        self,
        device_id: str,
        *,
        leases: tuple[LeaseStatus, ...],
        spooled_records: int,
        table_version: int,
        unix_ms: int,
    ) -> None:
        """A device is alive. Kept in memory only."""
        session = self.sessions.get(device_id)
        if session is None:
            return
        session.leases = leases
        session.spooled_records = spooled_records
        session.table_version = table_version
        self.registry.put(replace(self.registry.device(device_id), seen_unix_ms=unix_ms))

    def disconnected(self, device_id: str, *, incarnation: str) -> None:
        """A session has ended; a newer one of the same device stays."""
        session = self.sessions.get(device_id)
        if session is not None and session.incarnation == incarnation:
            del self.sessions[device_id]

    def lease_requested(
        self, device_id: str, *, available_nanos: int, worst_case_nanos: int, unix_ms: int
    ) -> Reaction:
        """A device asks for an allowance (rules C_1, L_6)."""
        if self.config is None:
            refused = LeaseRefused("", "the fleet is not configured yet", RETRY_AFTER_MS)
            return Reaction(sends=[(device_id, refused)])
        return self._lending.request(
            self.registry.device(device_id),
            config=self.config,
            window=self.window,
            price_version=self.price_version,
            planned_nanos_per_slot=self._planned_nanos(self.registry.device(device_id)),
            frozen=PAUSED
            if self.spend_paused
            else (self.recovery.refusal if self.recovery else ""),
            available_nanos=available_nanos,
            worst_case_nanos=worst_case_nanos,
            unix_ms=unix_ms,
        )

    def _planned_nanos(self, device: DeviceRow) -> float:
        planned = self._require_planner().planned
        if planned is None or device.device_class not in self._require_config().device_classes:
            return 0.0
        peers = max(1, len(self._sessions_of(device.device_class)))
        return planned.paid_nanos_next_slot(device.device_class) / peers

    def _outdated(self, lease: LeaseRecord) -> bool:
        """Whether a lease is of another window or price, or its budget was cut (A_3, C_3, C_4)."""
        window = self.account.window(lease.window_id)
        return (
            lease.window_id != self.window_id
            or lease.price_version != self.price_version
            or window.committed_nanos > window.target_nanos
        )

    def _checked(
        self, reaction: Reaction, device: DeviceRow, hello: HelloReceived, *, unix_ms: int
    ) -> DeviceRow:
        """Quarantine a clone (rule D_2); freeze all grants if our own books were restored."""
        restored = restored_books(device, hello)
        if restored:
            self._begin_recovery(reaction, reason=restored, unix_ms=unix_ms)
        reason = quarantine_reason(device, hello)
        if self.recovery is not None and device.id in (self.recovery.waiting or ()):
            reason = ""  # restored books know an older token than the device: it is no clone
        if not reason:
            return device
        self.alarms[f"quarantine:{device.id}"] = f"device {device.name} is quarantined: {reason}"
        self.account.close_in_full(device.id, at=unix_ms, note="quarantined")
        return replace(device, standing=DeviceStanding.QUARANTINED, standing_reason=reason)

    # Recovery of restored books (rule C_5).

    def _begin_recovery(self, reaction: Reaction, *, reason: str, unix_ms: int) -> None:
        self.alarms["restored"] = reason
        if self.recovery is None:
            self.recovery = Recovery(reason, waiting=self._spenders())
            self._heard(reaction, unix_ms=unix_ms)

    def _spenders(self) -> tuple[str, ...]:
        """The devices that may hold leases."""
        return tuple(d.id for d in self.registry.devices if d.standing is DeviceStanding.ACTIVE)

    def _put_recovery(self, reaction: Reaction, recovery: Recovery) -> None:
        self.recovery = None if recovery.is_over else recovery
        if recovery.is_over:
            self.alarms.pop("restored", None)
        reaction.effects.append(PutSetting(SettingKey.RECOVERY, recovery.to_json()))

    def _heard(self, reaction: Reaction, *, unix_ms: int) -> None:
        """Book the leases that connected devices present."""
        if self.recovery is None or self.window is None:
            return
        for session in self.sessions.values():
            for status in session.leases:
                known = self.account.has_window(status.window_id)
                self.account.adopt(
                    presented_lease(
                        status,
                        device_id=session.device_id,
                        incarnation=session.incarnation,
                        window_id=status.window_id if known else self.window_id,
                        unix_ms=unix_ms,
                    )
                )
        reaction.effects += self.account.take_changes()
        self._put_recovery(reaction, self.recovery.without(self.sessions))

    # The operator.

    def recover_ledger(self, *, actor: str, unix_ms: int) -> Reaction:
        """Lend again once every known device has presented its leases, or is written off.

        Raises
        ------
        ConflictError
            If there is nothing to recover.
        """
        if self.recovery is None:
            raise ConflictError("these books are complete: there is nothing to recover")
        reaction = Reaction(effects=[AuditRow(unix_ms, actor, "ledger recover", "")])
        self._put_recovery(reaction, replace(self.recovery, confirmed_by=actor))
        return reaction

    def write_off(
        self, device_id: str, *, assume_unspent: bool, actor: str, unix_ms: int
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
        amount = self.account.write_off(
            device_id, at=unix_ms, note=f"{how} by {actor}", assume_unspent=assume_unspent
        )
        reaction = Reaction(effects=self.account.take_changes())
        detail = f"{device.name}: {amount} nanos {how}"
        reaction.effects.append(AuditRow(unix_ms, actor, "budget write-off", detail))
        if self.recovery is not None:
            self._put_recovery(reaction, self.recovery.without([device_id]))
        return amount, reaction

    def apply_config(
        self, toml: str, *, actor: str, unix_ms: int, dry_run: bool
    ) -> tuple[tuple[ConfigChange, ...], Reaction]:
        """Take a new fleet configuration, or only tell what it would change.

        Raises
        ------
        FleetConfigError
            Naming every key at fault.
        """
        config = parse_fleet(toml, now_unix_ms=unix_ms)
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
        if before is not None and before.budget != config.budget:
            self._budget_override = None
            reaction.effects.append(PutSetting(SettingKey.BUDGET_OVERRIDE, ""))
        if self.planner is None:
            self.planner = Planner(config, disabled_arms=self.disabled_arms, seed=self._seed)
        else:
            if before is not None and before.window != config.window:
                self.planner.restart_slots()
            self.planner.reconfigure(config, disabled_arms=self.disabled_arms)
        if prices_changed and before is not None:
            self._recall_all(reaction, reason="prices have changed")
        self._retarget(reaction)
        for device in self.registry.devices:
            self._send_config(reaction, device=device)
        self._extend(reaction, self.tick(unix_ms=unix_ms))
        return changes, reaction

    def set_budget(self, amount_nanos: int, *, actor: str, unix_ms: int) -> Reaction:
        """Change the budget of this window and the following ones (rule C_3)."""
        self._require_config()
        if amount_nanos < 0:
            raise ConfigError("budget", f"{amount_nanos} nano-dollars is negative")
        self._budget_override = amount_nanos
        reaction = Reaction(
            effects=[
                PutSetting(SettingKey.BUDGET_OVERRIDE, str(amount_nanos)),
                AuditRow(unix_ms, actor, "budget set", f"{amount_nanos} nanos"),
            ]
        )
        self._retarget(reaction)
        return reaction

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
        """Close or open an arm on every device."""
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
            self.alarms.pop(f"overrun:{arm}", None)
        self._require_planner().reconfigure(config, disabled_arms=self.disabled_arms)
        for device in self.registry.devices:
            self._send_config(reaction, device=device)
        self._extend(reaction, self.tick(unix_ms=unix_ms))
        return reaction

    def revoke(self, device_id: str, *, actor: str, unix_ms: int) -> Reaction:
        """Shut a device out for good; its leases count as spent until it closes them."""
        return self._stand(device_id, DeviceStanding.REVOKED, "revoked", actor, unix_ms)

    def readmit(self, device_id: str, *, actor: str, unix_ms: int) -> Reaction:
        """Let a quarantined device spend again; it starts with a fresh resume token."""
        reaction = self._stand(device_id, DeviceStanding.ACTIVE, "readmitted", actor, unix_ms)
        self.alarms.pop(f"quarantine:{device_id}", None)
        return reaction

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
        return reaction

    # Inside.

    def _restore(self, snapshot: StoreSnapshot, *, row: ConfigRow) -> None:
        self.config = parse_fleet(row.toml, now_unix_ms=row.applied_unix_ms)
        self.config_version = row.version
        version = snapshot.settings.get(SettingKey.PRICE_VERSION, "")
        self.price_version = int(version) if version else row.version
        self.planner = Planner(self.config, disabled_arms=self.disabled_arms, seed=self._seed)
        if snapshot.snapshot is not None:
            self.planner.restore(snapshot.snapshot.payload)
        self._booking.learn_again(snapshot.learned_since, planner=self.planner)

    def _retarget(self, reaction: Reaction) -> None:
        window = self.window
        if window is None or window.target_nanos == self.budget_nanos:
            return
        cut = self.budget_nanos < window.committed_nanos
        self.account.set_target(window.id, self.budget_nanos)
        reaction.effects += self.account.take_changes()
        if cut:
            self._recall_all(reaction, reason="the budget was cut")

    def _recall_all(self, reaction: Reaction, *, reason: str) -> None:
        holders = {lease.device_id for lease in self.account.open_leases()}
        reaction.sends += [(holder, LeaseRecalled(0, reason)) for holder in sorted(holders)]

    def _send_config(self, reaction: Reaction, *, device: DeviceRow) -> None:
        config = self.device_config(device.device_class)
        if config is not None and device.id in self.sessions:
            reaction.sends.append((device.id, ConfigSent(config)))

    def device_config(self, device_class: str) -> DeviceConfig | None:
        """A device class's part of the configuration; None if it has none."""
        if self.config is None or device_class not in self.config.device_classes:
            return None
        return self.config.device_config(
            device_class,
            version=self.config_version,
            disabled_arms=self.disabled_arms,
            price_version=self.price_version,
        )

    def table_for(self, device: DeviceRow) -> SelectionTable:
        """The table that a device decides by.

        Raises
        ------
        NotFoundError
            If none has been made for its class yet.
        """
        table = self.tables.get(device.device_class)
        if table is None:
            raise NotFoundError(f"no table has been made for class {device.device_class!r} yet")
        return table

    def _sessions_of(self, device_class: str) -> list[Session]:
        return [
            session
            for session in self.sessions.values()
            if self.registry.device(session.device_id).device_class == device_class
        ]

    def _extend(self, reaction: Reaction, more: Reaction) -> None:
        reaction.effects += more.effects
        reaction.sends += more.sends

    def _require_config(self) -> FleetConfig:
        if self.config is None:
            raise ConfigError("", "the fleet is not configured yet: tidectl apply -f fleet.toml")
        return self.config

    def _require_planner(self) -> Planner:
        self._require_config()
        if self.planner is None:
            raise ConfigError("", "the fleet is not configured yet: tidectl apply -f fleet.toml")
        return self.planner
