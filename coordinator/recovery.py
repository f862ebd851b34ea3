"""Books that were restored from a backup, on their way back to what is true (rule C_5).

While a recovery lasts nobody gets a lease, and every lease that a device presents is booked,
whether or not the budget covers it. It ends when an operator has confirmed it, and each device that
the books know has said hello or is written off.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from coordinator.records import LeaseEnd, LeaseRecord
from shared.decision.types import LeaseStatus


@dataclass(frozen=True)
class Recovery:
    """Where a recovery stands.

    Attributes
    ----------
    reason : str
        How it was noticed.
    waiting : tuple of str or None
        Ids of devices that have not presented their leases yet; None: everybody.
    confirmed_by : str
        The operator who wants it to end; empty as long as nobody does.
    strangers : tuple of str
        Digests of credentials that were shown and that these books do not know.
    unmet : tuple of str or None
        Ids of devices that have not said hello since: the books may have forgotten their last
        tokens. None: everybody.
    """

    reason: str
    waiting: tuple[str, ...] | None = None
    confirmed_by: str = ""
    strangers: tuple[str, ...] = ()
    unmet: tuple[str, ...] | None = None

    @property
    def refusal(self) -> str:
        """What a device that asks for a lease is told."""
        if not self.confirmed_by:
            return f"{self.reason}. No leases are granted before `tidectl ledger recover`"
        waiting = len(self.waiting or ())
        return f"the ledger is being recovered: {waiting} devices have not reported yet"

    @property
    def is_over(self) -> bool:
        """Whether everybody was heard and an operator wanted it so."""
        return bool(self.confirmed_by) and self.waiting == ()

    def without(self, device_ids: Iterable[str]) -> Recovery:
        """After these devices were heard, or written off."""
        gone = set(device_ids)
        return replace(self, waiting=tuple(d for d in self.waiting or () if d not in gone))

    def having_met(self, device_id: str) -> Recovery:
        """After a device has said hello: from here on the books know its token."""
        return replace(self, unmet=tuple(d for d in self.unmet or () if d != device_id))

    def to_json(self) -> str:
        """As a setting; empty once it is over."""
        return "" if self.is_over else json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, *, everybody: Iterable[str]) -> Recovery | None:
        """From `to_json`; `everybody` are the known devices."""
        if not text:
            return None
        state = json.loads(text)
        everybody = tuple(everybody)

        def those(key: str) -> tuple[str, ...]:
            named = state.get(key)
            return everybody if named is None else tuple(named)

        known = tuple(state["strangers"])
        return cls(state["reason"], those("waiting"), state["confirmed_by"], known, those("unmet"))


def presented_lease(
    status: LeaseStatus, *, device_id: str, incarnation: str, window_id: int, unix_ms: int
) -> LeaseRecord:
    """A lease that lost books had granted, as its device tells of it.

    It is booked in the present window if its own is not known here: its money is out now.
    """
    return LeaseRecord(
        device_id=device_id,
        number=status.lease_number,
        incarnation=incarnation,
        window_id=window_id,
        amount_nanos=status.amount_nanos,
        price_version=0,
        granted_unix_ms=unix_ms,
    )


def forgotten_lease(
    number: int, *, device_id: str, incarnation: str, window_id: int, unix_ms: int
) -> LeaseRecord:
    """A lease that only records speak of: closed before the restore, of unknown amount.

    Every cost on it is booked in full, beyond it, and so is what its close does not explain.
    """
    return LeaseRecord(
        device_id=device_id,
        number=number,
        incarnation=incarnation,
        window_id=window_id,
        amount_nanos=0,
        price_version=0,
        granted_unix_ms=unix_ms,
        end=LeaseEnd.WRITTEN_OFF,
    )
