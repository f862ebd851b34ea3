"""Granting leases: who gets one, how large, for how long (rules C_1, L_4, L_6)."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.account import BudgetAccount
from coordinator.fleet_config import FleetConfig
from coordinator.granting import lease_amount_nanos
from coordinator.messages import LeaseRefused, LeaseSent
from coordinator.records import DeviceRow, DeviceStanding, LeaseRecord, WindowRow
from coordinator.registry import Registry
from coordinator.sessions import Reaction, Session
from shared.decision.lease import LeaseWish
from shared.decision.money import dollars
from shared.limits import NUMBER_MAX
from shared.rows import changed

RETRY_AFTER_MS = 2_000
FROZEN_RETRY_AFTER_MS = 3_000
STANDING_RETRY_AFTER_MS = 60_000
WITHOUT_STORES_SHARE = 32
WITHOUT_STORES_MS_MAX = 600_000
STORE_MS_MIN = 1_000


class Lending:
    """Lends the free money of the present window to connected devices."""

    def __init__(
        self, *, account: BudgetAccount, registry: Registry, sessions: Mapping[str, Session]
    ) -> None:
        self._account = account
        self._registry = registry
        self._sessions = sessions

    def request(
        self,
        device: DeviceRow,
        wish: LeaseWish,
        *,
        config: FleetConfig,
        window: WindowRow | None,
        price_version: int,
        planned_nanos_per_slot: float,
        frozen: str,
        unix_ms: int,
    ) -> Reaction:
        """Grant a lease, or refuse it with the reason.

        Neither if what the device asks for is on its way: over a slow link, or when the
        coordinator has stood still, it has asked several times before the first answer arrives.

        Parameters
        ----------
        planned_nanos_per_slot : float
            The device's expected spend in the coming slot.
        frozen : str
            Why nobody gets a lease now; empty normally.
        """
        problem, retry_after_ms = self._problem(device, window=window, unix_ms=unix_ms)
        if frozen:
            problem, retry_after_ms = frozen, FROZEN_RETRY_AFTER_MS
        if problem or window is None:
            return _refusal(device, config, reason=problem, retry_after_ms=retry_after_ms)
        under_way = self._sessions[device.id].under_way_nanos(
            after=wish.lease_number_max, unix_ms=unix_ms
        )
        if under_way and under_way >= max(wish.worst_case_nanos, wish.needed_nanos):
            return Reaction()
        duration_ms = _duration_ms(config, window=window, unix_ms=unix_ms)
        stores_end_ms = _stores_end_ms(window)
        store = stores_end_ms - unix_ms >= STORE_MS_MIN
        if store:
            duration_ms = min(duration_ms, stores_end_ms - unix_ms)
        if duration_ms <= 0:
            reason = "a price is no longer valid: apply a configuration with its successor"
            return _refusal(device, config, reason=reason, retry_after_ms=FROZEN_RETRY_AFTER_MS)
        worst_case_nanos = wish.worst_case_nanos or _dearest_nanos(device, config=config)
        if not worst_case_nanos:
            reason = f"the arms of device class {device.device_class} are all free of charge"
            return _refusal(device, config, reason=reason, retry_after_ms=STANDING_RETRY_AFTER_MS)
        amount = lease_amount_nanos(
            free_nanos=window.free_nanos,
            planned_nanos_per_slot=planned_nanos_per_slot,
            lease_slots=config.link.lease_slots,
            available_nanos=wish.available_nanos + under_way,
            worst_case_nanos=worst_case_nanos,
            needed_nanos=wish.needed_nanos,
            devices=len(self._sessions),
            store=store,
        )
        if amount <= 0:
            reason = (
                f"budget {config.budget.name}: ${dollars(window.free_nanos)} of "
                f"${dollars(window.enforced_nanos)} are free until the window ends, and "
                f"${dollars(max(worst_case_nanos, wish.needed_nanos))} were asked for; wait "
                "for the next window or raise the budget"
            )
            refused = LeaseRefused(config.budget.name, reason, RETRY_AFTER_MS, exhausted=True)
            return Reaction(sends=[(device.id, refused)])
        lease = LeaseRecord(
            device_id=device.id,
            number=device.lease_number_max + 1,
            incarnation=self._sessions[device.id].incarnation,
            window_id=window.id,
            amount_nanos=amount,
            price_version=price_version,
            granted_unix_ms=unix_ms,
        )
        return self._granted(
            device, lease, duration_ms=duration_ms, asked_boot_ms=wish.asked_boot_ms
        )

    def _granted(
        self, device: DeviceRow, lease: LeaseRecord, *, duration_ms: int, asked_boot_ms: int
    ) -> Reaction:
        """Book a lease with its number, and send it."""
        self._account.grant(lease)
        self._sessions[device.id].granted.append(lease)
        device = self._registry.put(changed(device, lease_number_max=lease.number))
        sent = LeaseSent(
            incarnation=lease.incarnation,
            lease_number=lease.number,
            window_id=lease.window_id,
            amount_nanos=lease.amount_nanos,
            duration_ms=duration_ms,
            price_version=lease.price_version,
            asked_boot_ms=asked_boot_ms,
        )
        effects = [*self._account.take_changes(), device]
        return Reaction(effects=effects, sends=[(device.id, sent)])

    def _problem(
        self, device: DeviceRow, *, window: WindowRow | None, unix_ms: int
    ) -> tuple[str, int]:
        session = self._sessions.get(device.id)
        if session is None or not session.may_spend:
            return "the session's resume token is not synced yet", RETRY_AFTER_MS
        if device.standing is not DeviceStanding.ACTIVE:
            reason = f"the device is {device.standing}: {device.standing_reason}"
            return reason, STANDING_RETRY_AFTER_MS
        if device.lease_number_max >= NUMBER_MAX:
            reason = (
                f"the device's lease {device.lease_number_max} is the last that can have a number: "
                "join it anew"
            )
            return reason, STANDING_RETRY_AFTER_MS
        if window is None or unix_ms >= window.end_unix_ms:
            return "the budget window is over and the next has not begun", RETRY_AFTER_MS
        wait_ms = device.lends_from_unix_ms - unix_ms
        if wait_ms > 0:
            reason = (
                f"{device.unclean_closes} leases in a row were not closed cleanly: see why the "
                "device's process dies"
            )
            return reason, wait_ms
        return "", 0


def _refusal(
    device: DeviceRow, config: FleetConfig, *, reason: str, retry_after_ms: int
) -> Reaction:
    return Reaction(sends=[(device.id, LeaseRefused(config.budget.name, reason, retry_after_ms))])


def _dearest_nanos(device: DeviceRow, *, config: FleetConfig) -> int:
    """What a request may cost a device that has not seen one yet, by the arms' priors."""
    found = config.device_classes.get(device.device_class)
    if found is None:
        return 0
    judges = (config.judge.arm,) if config.judge else ()
    arms = [config.arms[name] for name in (*found.arms, *judges)]
    # A cloud arm that is free needs a lease like any other, if only of next to nothing.
    paid = [max(1, arm.cost_nanos) for arm in arms if arm.arm.cloud is not None]
    return max(paid, default=0)


def _stores_end_ms(window: WindowRow) -> int:
    """Until when devices may keep money in store.

    What they hold when the window ends is lost to all. Before that it comes back, and what is
    still spent is lent request by request.
    """
    length_ms = window.end_unix_ms - window.start_unix_ms
    return window.end_unix_ms - min(length_ms // WITHOUT_STORES_SHARE, WITHOUT_STORES_MS_MAX)


def _duration_ms(config: FleetConfig, *, window: WindowRow, unix_ms: int) -> int:
    """A lease ends with its window and with its prices, at the latest (rules A_3, C_4)."""
    ends = [window.end_unix_ms, unix_ms + config.link.lease_duration_ms]
    prices = config.prices.values()
    ends += [price.valid_until_unix_ms for price in prices if price.valid_until_unix_ms]
    return min(ends) - unix_ms
