"""The coordinator's decisions: devices and their books, leases, slots and plans.

No I/O, no clock, no ambient randomness. Every method takes what happened and returns a
`Reaction`: the rows to commit in one transaction, and the messages to send once that is done.

One slot: `tick` opens windows, closes slots, plans, and makes the tables. One device: `hello`,
`token_synced`, `batch`, `lease_requested`. `operating.py` has the operator's commands,
`recovering.py` the way back from a restore, `state.py` what all of them know. `account.py` has the
money, `planner.py` the learning, `registry.py` the identities, `booking.py` what a batch does to
all three, `alerts.py` what an operator is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.alerts import CLOCK, AlertKind
from coordinator.booking import Named, named_in
from coordinator.identity import (
    close_lost,
    close_unseen,
    lost_leases,
    quarantine_reason,
    restored_books,
    unheld_leases,
)
from coordinator.lending import RETRY_AFTER_MS
from coordinator.messages import (
    Acked,
    HelloReceived,
    LeaseRecalled,
    LeaseRefused,
    TableSent,
    Welcomed,
)
from coordinator.operating import Operating
from coordinator.records import (
    DeviceRow,
    DeviceStanding,
    EarlierFacts,
    LeaseRecord,
    PutSetting,
    SettingKey,
    Snapshot,
)
from coordinator.registry import digest
from coordinator.sessions import LastWord, Reaction, Session
from coordinator.spool_progress import SpoolProgress
from shared.decision.lease import LeaseWish
from shared.decision.types import LeaseStatus, SpoolRecord
from shared.errors import ProtocolError
from shared.rows import changed

LATE_OUTCOMES_MS = 400
CLOCK_STEP_MS_MAX = 60_000
UP_WITHIN_MS = 60_000
HEARTBEAT_MS_UNCONFIGURED = 1_000
PAUSED = "an operator has paused spending"
NOTHING_EARLIER = EarlierFacts()


class CoordinatorEngine(Operating):
    """Everything the coordinator decides."""

    # The slot.

    def tick(self, *, unix_ms: int) -> Reaction:
        """Time has passed: open the window, close slots that are over, plan the next one."""
        reaction = Reaction()
        if self.config is None or self.planner is None:
            return reaction
        self._watch_clock(unix_ms=unix_ms)
        new_window = self._open_window(reaction, unix_ms=unix_ms)
        window = self.config.window
        over = (unix_ms - LATE_OUTCOMES_MS - window.anchor_unix_ms) // window.slot_ms - 1
        if new_window or self.planner.planned is None or over > self.planner.slot_closed:
            self.planner.close_slots(over)
            self._plan(reaction, unix_ms=unix_ms)
        if new_window:
            self._heard(reaction, unix_ms=unix_ms)
        return self._tell(reaction, unix_ms=unix_ms)

    def _open_window(self, reaction: Reaction, *, unix_ms: int) -> bool:
        config, current = self._require_config(), self.window
        if current is not None and unix_ms < current.end_unix_ms:
            # Also when the clock has stepped back: an earlier budget is never opened again.
            return False
        _, start, end = config.window.window_of(unix_ms)
        if current is not None:
            # A longer window that would have begun before the end of the last one is cut short.
            start = max(start, current.end_unix_ms)
        if current is not None and self.recovery is None:
            # A lease that was presented and has ended since must not be taken for an unknown one.
            self.account.forget_before(current.id)
        self._begin_window(reaction, start=start, end=end, ahead_until=end, unix_ms=unix_ms)
        return True

    def _watch_clock(self, *, unix_ms: int) -> None:
        """A window that lies ahead was opened by a clock that was wrong, or the clock is now."""
        window = self.window
        ahead_ms = window.start_unix_ms - unix_ms if window is not None else 0
        if ahead_ms > CLOCK_STEP_MS_MAX:
            self.alerts.raise_alarm(
                CLOCK,
                "the present budget window begins only in the future: the coordinator's clock was "
                "ahead when it was opened, or is behind now. Nothing but this window's budget is "
                "lent until it ends",
            )
        else:
            self.alerts.clear(CLOCK, why="the present budget window has begun")

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
        self._note_retention(reaction, unix_ms=unix_ms)

    def _note_retention(self, reaction: Reaction, *, unix_ms: int) -> None:
        noted = self.retention.noted(
            position=self._booking.position,
            outcomes_days=self._require_config().retention.outcomes_days,
            unix_ms=unix_ms,
        )
        if noted is not self.retention:
            self.retention = noted
            reaction.effects.append(PutSetting(SettingKey.RETENTION_MARKS, noted.to_json()))

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
        self,
        device_id: str,
        hello: HelloReceived,
        *,
        marks: Mapping[str, int],
        earlier: EarlierFacts = NOTHING_EARLIER,
        resume_token: str,
        unix_ms: int,
    ) -> Reaction:
        """A device has connected.

        Parameters
        ----------
        marks : mapping of str to int
            What the books hold of the hello's incarnations: the highest booked sequences.
        earlier : EarlierFacts
            What the books hold of the leases that it presents and that `unremembered_leases` names.
        resume_token : str
            The fresh one of this session (rule D_2).
        """
        device = self.registry.device(device_id)
        self.account.remember(earlier.leases, windows=earlier.windows)
        reaction = Reaction()
        device = self._checked(reaction, device, hello, marks=marks, unix_ms=unix_ms)
        quarantined = device.standing is DeviceStanding.QUARANTINED
        close_unseen(device, hello, account=self.account, unix_ms=unix_ms)
        reaction.effects += self.account.take_changes()
        device = self._greeted(
            device, hello, resume_token="" if quarantined else resume_token, unix_ms=unix_ms
        )
        reaction.effects.append(device)
        spool = SpoolProgress.of(hello.incarnations, marks=marks)
        session = self.sessions[device_id] = Session(
            device_id=device_id,
            incarnation=hello.incarnation,
            spool=spool,
            unheld=unheld_leases(device, hello, account=self.account),
            lost=lost_leases(device, hello, account=self.account),
            spooled_records=spool.last - spool.acked,
            table_version=hello.table_version,
            leases=hello.leases,
            local_arms=hello.local_arms,
            speeds=hello.speeds,
        )
        self._learn_speeds(session)
        self.last_words[device_id] = LastWord(hello.leases, unix_ms)
        self._heard(reaction, unix_ms=unix_ms)
        if spool.is_caught_up:
            self._caught_up(reaction, session, unix_ms=unix_ms)
        welcome = Welcomed(
            resume_token=resume_token,
            acked_sequence=spool.acked,
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
        return self._tell(reaction, unix_ms=unix_ms)

    def _greeted(
        self, device: DeviceRow, hello: HelloReceived, *, resume_token: str, unix_ms: int
    ) -> DeviceRow:
        """A device's row after its hello; without a token of this session it keeps its own."""
        stored = self.registry.device(device.id)  # a lease may have been adopted meanwhile
        row = changed(
            device,
            incarnation=hello.incarnation,
            lease_number_max=max(stored.lease_number_max, hello.lease_number_max),
            seen_unix_ms=unix_ms,
            software_version=hello.software_version,
        )
        if resume_token:
            row = changed(
                row,
                # What it presents it has synced, even if its confirmation was lost on the way.
                resume_digest=digest(hello.resume_token),
                resume_digest_next=digest(resume_token),
            )
        return self.registry.put(row)

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
            changed(device, resume_digest=device.resume_digest_next, resume_digest_next="")
        )
        return Reaction(effects=[device])

    def unremembered(self, device_id: str, records: Iterable[SpoolRecord]) -> Named:
        """What to look up in the books before a batch: of its leases, the older ones."""
        named = named_in(records)
        older = self.unremembered_leases(device_id, named.leases)
        return Named(named.graded, older, named.outcomes)

    def unremembered_leases(self, device_id: str, numbers: Iterable[int]) -> tuple[int, ...]:
        """Those of a device's leases to look up in the books: they ended in earlier windows."""
        return tuple([n for n in numbers if self.account.lease(device_id, n) is None])

    def batch(
        self,
        device_id: str,
        records: Iterable[SpoolRecord],
        *,
        incarnation: str,
        named: Named | None = None,
        earlier: EarlierFacts = NOTHING_EARLIER,
        unix_ms: int,
    ) -> Reaction:
        """Book a batch of spool records and ack it (rule O_1).

        Parameters
        ----------
        incarnation : str
            Of the process that sends it.
        named : Named, optional
            What `unremembered` has just told of these records.
        earlier : EarlierFacts
            What the books hold of it.

        Raises
        ------
        ProtocolError
            If the session with this incarnation is over, or records are missing.
        """
        device = self.registry.device(device_id)
        session = self.sessions.get(device_id)
        if session is None or session.incarnation != incarnation:
            raise ProtocolError(f"the session of incarnation {incarnation} is over: connect again")
        reaction = Reaction()
        kept = tuple(records)
        self._adopt_forgotten(reaction, device, kept, named=named, earlier=earlier, unix_ms=unix_ms)
        booked = self._booking.book(
            self.registry.device(device_id),
            kept,
            spool=session.spool,
            account=self.account,
            planner=self.planner,
            window=self.config.window if self.config else None,
            earlier=earlier,
            gaps_allowed=self.recovery is not None,
            unix_ms=unix_ms,
        )
        for key, text in booked.alarms.items():
            self.alerts.raise_alarm(key, text)
        reaction.effects += booked.effects
        reaction.effects.append(self.registry.put(booked.device))
        before, session.spool = session.spool, booked.spool
        waiting = session.spooled_records - (session.spool.acked - before.acked)
        session.spooled_records = max(0, waiting)
        if session.spool.is_caught_up and not before.is_caught_up:
            self._caught_up(reaction, session, unix_ms=unix_ms)
        reaction.sends.append((device_id, Acked(session.spool.acked)))
        for arm in sorted(booked.overrun_arms - self.disabled_arms):
            if self.config is not None and arm in self.config.arms:  # everywhere (rule S_4)
                closed = self.set_arm_enabled(arm, False, actor="overrun", unix_ms=unix_ms)
                reaction.extend(closed)
        return self._tell(reaction, unix_ms=unix_ms)

    def _caught_up(self, reaction: Reaction, session: Session, *, unix_ms: int) -> None:
        """All that a device had to say when it connected is booked."""
        device = self.registry.device(session.device_id)
        alarm = close_lost(device, session.unheld, account=self.account, unix_ms=unix_ms)
        if alarm:
            self.alerts.raise_alarm(f"{AlertKind.CLOSE}:{device.id}", alarm)
        reaction.effects += self.account.take_changes()
        self._heard(reaction, unix_ms=unix_ms)

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
        self.last_words[device_id] = LastWord(leases, unix_ms)
        session.spooled_records = spooled_records
        session.table_version = table_version
        self.registry.put(changed(self.registry.device(device_id), seen_unix_ms=unix_ms))

    def disconnected(self, device_id: str, *, incarnation: str) -> None:
        """A session has ended; a newer one of the same device stays."""
        session = self.sessions.get(device_id)
        if session is not None and session.incarnation == incarnation:
            del self.sessions[device_id]

    def lease_requested(self, device_id: str, wish: LeaseWish, *, unix_ms: int) -> Reaction:
        """A device asks for an allowance (rules C_1, L_6)."""
        if self.config is None:
            refused = LeaseRefused("", "the fleet is not configured yet", RETRY_AFTER_MS)
            return Reaction(sends=[(device_id, refused)])
        device = self.registry.device(device_id)
        reaction = self._lending.request(
            device,
            wish,
            config=self.config,
            window=self.window,
            price_version=self.price_version,
            planned_nanos_per_slot=self._planned_nanos(device),
            frozen=PAUSED
            if self.spend_paused
            else (self.recovery.refusal if self.recovery else ""),
            unix_ms=unix_ms,
        )
        for _, message in reaction.sends:
            if isinstance(message, LeaseRefused):
                self._note_refusal(device, message, unix_ms=unix_ms)
        return self._tell(reaction, unix_ms=unix_ms)

    def _note_refusal(self, device: DeviceRow, refused: LeaseRefused, *, unix_ms: int) -> None:
        self.refusals.note(
            window_id=self.window_id,
            device_id=device.id,
            budget=refused.budget,
            reason=refused.reason,
            exhausted=refused.exhausted,
            unix_ms=unix_ms,
        )
        if refused.exhausted and self.window is not None:
            self.alerts.refused(self.window, reason=refused.reason)

    def _planned_nanos(self, device: DeviceRow) -> float:
        planned = self._require_planner().planned
        if planned is None or device.device_class not in self._require_config().device_classes:
            return 0.0
        # Counted once a slot: this is asked for with every lease.
        up = self._require_planner().load.devices_up.get(device.device_class, 0)
        peers = up or max(1, len(self.sessions))
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
        self,
        reaction: Reaction,
        device: DeviceRow,
        hello: HelloReceived,
        *,
        marks: Mapping[str, int],
        unix_ms: int,
    ) -> DeviceRow:
        """Quarantine a clone (rule D_2); freeze all grants if our own books were restored."""
        restored = restored_books(device, hello, marks=marks)
        if restored:
            self._begin_recovery(reaction, reason=restored, unix_ms=unix_ms)
        forgotten = self.recovery is not None and device.id in (self.recovery.unmet or ())
        reason = quarantine_reason(device, hello, marks=marks, forgotten=forgotten)
        self._meet(device, hides_leases=forgotten and bool(reason))
        if not reason or device.standing is not DeviceStanding.ACTIVE:
            return device
        text = f"device {device.name} is quarantined: {reason}"
        self.alerts.raise_alarm(f"{AlertKind.QUARANTINE}:{device.id}", text)
        self.account.close_in_full(device.id, at=unix_ms, note="quarantined")
        return changed(device, standing=DeviceStanding.QUARANTINED, standing_reason=reason)
