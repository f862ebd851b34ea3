"""A price that rises at once, while leases of the old price are out (rule A_3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coordinator.records import LeaseRecord
from shared.decision.money import Price, dollars


def price_rises(
    before: Mapping[str, Price], after: Mapping[str, Price], *, leases: Collection[LeaseRecord]
) -> tuple[str, ...]:
    """One sentence for each arm whose price rises while leases are out; none without leases.

    The leases are recalled, but a device that is cut off goes on reserving at the old price until
    it hears of it, or until its lease ends.
    """
    if not leases:
        return ()
    left = sum(max(0, lease.amount_nanos - lease.booked_nanos) for lease in leases)
    devices = len({lease.device_id for lease in leases})
    return tuple(
        f"arms.{arm}.price rises at once while ${dollars(left)} of the old price is lent to "
        f"{devices} {'device' if devices == 1 else 'devices'}: it is recalled, but until a device "
        "hears of that it reserves at the old price. To enter a rise ahead, first apply the old "
        "price with a valid_until: no lease outlives it; then apply the new one"
        for arm, price in sorted(after.items())
        if arm in before and _rises(before[arm], price)
    )


def _rises(before: Price, after: Price) -> bool:
    return (
        after.input_nanos_per_mtok > before.input_nanos_per_mtok
        or after.output_nanos_per_mtok > before.output_nanos_per_mtok
        or after.request_nanos > before.request_nanos
    )
