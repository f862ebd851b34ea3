"""What the engine knows: the fleet's configuration, its devices, their money, what was learned.

The modules above it change this state, each for one kind of event: `recovering.py` after a restore,
`operating.py` at an operator's command, `engine.py` as time passes and devices speak.
"""

from __future__ import annotations

import json

from coordinator.account import BudgetAccount
from coordinator.alerts import AlertBoard
from coordinator.booking import Booking
from coordinator.fleet_config import FleetConfig, parse_fleet
from coordinator.forecast import PathModel
from coordinator.lending import Lending
from coordinator.messages import ConfigSent, LeaseRecalled, ProviderKeysSent, TableSent
from coordinator.planner import Planner
from coordinator.records import (
    ConfigRow,
    DeviceRow,
    DeviceStanding,
    PutSetting,
    SettingKey,
    StoreSnapshot,
    WindowRow,
)
from coordinator.recovery import Recovery
from coordinator.registry import Registry
from coordinator.retention import DAY_MS, NOTHING_OUTLIVED, Outlived, RetentionMarks
from coordinator.sessions import LastWord, Reaction, Refusals, Session
from coordinator.shelf import TableShelf
from shared.decision.table import SelectionTable
from shared.decision.types import DeviceConfig
from shared.errors import ConfigError, NotFoundError

NOT_CONFIGURED = "the fleet is not configured yet: tidectl apply -f fleet.toml"


class FleetState:
    """The engine's memory, and what can be asked of it.

    Parameters
    ----------
    snapshot : StoreSnapshot
        What the store held at the start; planning goes on exactly where it stopped.
    seed : int
        For policies that draw.
    demand_model : PathModel or None
        A trained model of demand, for forecasters that use one.
    provider_keys : frozenset of str
        The names of the keys that can be delivered to devices.
    """

    def __init__(
        self,
        snapshot: StoreSnapshot,
        *,
        seed: int = 0,
        demand_model: PathModel | None = None,
        provider_keys: frozenset[str] = frozenset(),
    ) -> None:
        self._seed = seed
        self._provider_keys = provider_keys
        self._demand_model = demand_model
        settings = snapshot.settings
        self.registry = Registry(
            devices=snapshot.devices,
            join_tokens=snapshot.join_tokens,
            admin_tokens=snapshot.admin_tokens,
        )
        self.account = BudgetAccount(
            windows=snapshot.windows,
            leases=snapshot.leases,
            ledger_id_max=snapshot.ledger_id_max,
            spend=snapshot.spend,
        )
        self.sessions: dict[str, Session] = {}
        self.last_words: dict[str, LastWord] = {}
        self.refusals = Refusals()
        self._lending = Lending(
            account=self.account, registry=self.registry, sessions=self.sessions
        )
        self.shelf = TableShelf(
            in_force=snapshot.tables,
            earlier=snapshot.earlier_tables,
            pins=settings.get(SettingKey.TABLE_PINS, ""),
        )
        self.alerts = AlertBoard.from_json(settings.get(SettingKey.ALERTS, ""))
        self.recovery = Recovery.from_json(
            settings.get(SettingKey.RECOVERY, ""), everybody=self._spenders()
        )
        if self.recovery is not None:
            self.alerts.raise_alarm("restored", self.recovery.reason)
        self.retention = RetentionMarks.from_json(settings.get(SettingKey.RETENTION_MARKS, ""))
        self.spend_paused = settings.get(SettingKey.SPEND_PAUSED) == "1"
        self.disabled_arms = frozenset(json.loads(settings.get(SettingKey.DISABLED_ARMS, "[]")))
        override = settings.get(SettingKey.BUDGET_OVERRIDE, "")
        self._budget_override = int(override) if override else None
        self.config: FleetConfig | None = None
        self.config_version = 0
        self.price_version = 0
        self.window_id = max((window.id for window in snapshot.windows), default=0)
        self.planner: Planner | None = None
        self._device_configs: dict[str, DeviceConfig] = {}
        self._device_configs_from: tuple[object, ...] = ()
        self._booking = Booking(position=snapshot.position_max)
        if snapshot.config is not None:
            self._restore(snapshot, row=snapshot.config)

    def _parsed(self, toml: str, *, unix_ms: int) -> FleetConfig:
        return parse_fleet(
            toml,
            now_unix_ms=unix_ms,
            demand_model=self._demand_model,
            provider_keys=self._provider_keys,
        )

    def _new_planner(self, config: FleetConfig) -> Planner:
        return Planner(
            config,
            disabled_arms=self.disabled_arms,
            seed=self._seed,
            demand_model=self._demand_model,
        )

    def _restore(self, snapshot: StoreSnapshot, *, row: ConfigRow) -> None:
        # What was applied once goes on, also if a key has been taken away since.
        self.config = parse_fleet(
            row.toml,
            now_unix_ms=row.applied_unix_ms,
            demand_model=self._demand_model,
            stored=True,
        )
        self.config_version = row.version
        version = snapshot.settings.get(SettingKey.PRICE_VERSION, "")
        self.price_version = int(version) if version else row.version
        self.planner = self._new_planner(self.config)
        if snapshot.snapshot is not None:
            self.planner.restore(snapshot.snapshot.payload)
        self._booking.learn_again(snapshot.learned_since, planner=self.planner)

    @property
    def alarms(self) -> dict[str, str]:
        """What stands, in words, by key."""
        return {alarm.key: alarm.text for alarm in self.alerts.alarms}

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

    def slot_of(self, unix_ms: int) -> int:
        """The absolute slot of a time, counted from the windows' anchor."""
        window = self._require_config().window
        return (unix_ms - window.anchor_unix_ms) // window.slot_ms

    def outlived(self, *, unix_ms: int) -> Outlived:
        """What of the books has had its time."""
        if self.config is None:
            return NOTHING_OUTLIVED
        days = self.config.retention.outcomes_days
        position = self.retention.outlived(outcomes_days=days, unix_ms=unix_ms)
        return Outlived(position=position, before_unix_ms=unix_ms - days * DAY_MS)

    def device_config(self, device_class: str) -> DeviceConfig | None:
        """A device class's part of the configuration; None if it has none."""
        config = self.config
        if config is None or device_class not in config.device_classes:
            return None
        made_from = (config, self.config_version, self.price_version, self.disabled_arms)
        if made_from != self._device_configs_from:
            self._device_configs_from, self._device_configs = made_from, {}
        found = self._device_configs.get(device_class)
        if found is None:
            found = self._device_configs[device_class] = config.device_config(
                device_class,
                version=self.config_version,
                disabled_arms=self.disabled_arms,
                price_version=self.price_version,
            )
        return found

    @property
    def tables(self) -> dict[str, SelectionTable]:
        """The table in force of each device class."""
        return self.shelf.in_force

    def table_of(self, device_class: str) -> SelectionTable:
        """The table that the devices of a class decide by.

        Raises
        ------
        NotFoundError
            If none has been made for it yet.
        """
        table = self.tables.get(device_class)
        if table is None:
            known = ", ".join(sorted(self.tables)) or "none"
            raise NotFoundError(
                f"no table has been made for class {device_class!r} yet; classes with one: {known}"
            )
        return table

    def _begin_window(
        self, reaction: Reaction, *, start: int, end: int, ahead_until: float, unix_ms: int
    ) -> None:
        """Open a window with a fresh budget, and let the leases of all others come back.

        Its id is its start, or above every earlier one if the clock has been ahead of that. What
        windows hold that lie between its start and `ahead_until` counts against it.
        """
        planner, current = self._require_planner(), self.window
        window_id = start if current is None else max(start, current.id + 1)
        planner.close_slots(self.slot_of(start) - 1)
        planner.begin_window()
        self.window_id = window_id
        self.account.open_window(
            window_id, start_unix_ms=start, end_unix_ms=end, target_nanos=self.budget_nanos
        )
        self.account.carry(window_id, since_unix_ms=start, until_unix_ms=ahead_until, at=unix_ms)
        reaction.effects += self.account.take_changes()
        reaction.sends += [
            (lease.device_id, LeaseRecalled(lease.number, "the budget window is over"))
            for lease in self.account.open_leases()
            if lease.window_id != window_id
        ]

    def _make_table(self, reaction: Reaction, *, device_class: str, unix_ms: int) -> None:
        """Make the table of the latest plan, and send it if a device would decide otherwise."""
        if device_class in self.shelf.pins:
            return
        table = self._require_planner().table(
            device_class,
            version=self.shelf.next_version,
            config_version=self.config_version,
            unix_ms=unix_ms,
        )
        before = self.tables.get(device_class)
        if before is not None and before.same_choices(table):
            return
        reaction.effects += self.shelf.put(table)
        self._send_table(reaction, table)

    def _send_table(self, reaction: Reaction, table: SelectionTable) -> None:
        for session in self._sessions_of(table.device_class):
            reaction.sends.append((session.device_id, TableSent(table)))

    def _spenders(self) -> tuple[str, ...]:
        """The devices that may hold leases: also one that was readmitted after a backup."""
        devices = self.registry.devices
        return tuple(d.id for d in devices if d.standing is not DeviceStanding.REVOKED)

    def _learn_speeds(self, session: Session) -> None:
        """What a device has measured stands where the configuration only states."""
        if self.planner is not None:
            device_class = self.registry.device(session.device_id).device_class
            self.planner.learn_speeds(session.device_id, session.speeds, device_class=device_class)

    def _sessions_of(self, device_class: str) -> list[Session]:
        return [
            session
            for session in self.sessions.values()
            if self.registry.device(session.device_id).device_class == device_class
        ]

    def _send_config(self, reaction: Reaction, *, device: DeviceRow) -> None:
        config = self.device_config(device.device_class)
        session = self.sessions.get(device.id)
        if config is not None and session is not None:
            session.configs_sent += 1
            reaction.sends.append((device.id, ConfigSent(config, session.configs_sent)))
            self._send_keys(reaction, device=device, config=config)

    def _send_keys(self, reaction: Reaction, *, device: DeviceRow, config: DeviceConfig) -> None:
        """Keys are for devices that may spend; a clone gets none."""
        if config.provider_keys and device.standing is DeviceStanding.ACTIVE:
            reaction.sends.append((device.id, ProviderKeysSent(config.provider_keys)))

    def renewed_keys(self) -> Reaction:
        """The keys may be others than before: every device that uses some gets them anew."""
        reaction = Reaction()
        for device_id in self.sessions:
            device = self.registry.device(device_id)
            config = self.device_config(device.device_class)
            if config is not None:
                self._send_keys(reaction, device=device, config=config)
        return reaction

    def _recall_all(self, reaction: Reaction, *, reason: str) -> None:
        holders = {lease.device_id for lease in self.account.open_leases()}
        reaction.sends += [(holder, LeaseRecalled(0, reason)) for holder in sorted(holders)]

    def _tell(self, reaction: Reaction, *, unix_ms: int) -> Reaction:
        """Add what an operator is to be told of an event, and keep what stands."""
        window, config = self.window, self.config
        if window is not None and config is not None:
            budget = config.budget
            self.alerts.look_at(window, name=budget.name, percents=budget.alert_percents)
        alerts, state = self.alerts.take(unix_ms=unix_ms)
        reaction.alerts += alerts
        if state is not None:
            reaction.effects.append(PutSetting(SettingKey.ALERTS, state))
        return reaction

    def _require_config(self) -> FleetConfig:
        if self.config is None:
            raise ConfigError("", NOT_CONFIGURED)
        return self.config

    def _require_planner(self) -> Planner:
        if self.planner is None:
            raise ConfigError("", NOT_CONFIGURED)
        return self.planner
