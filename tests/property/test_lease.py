"""A device's leases under any order of events: I2, watermarks, closes, restarts."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.decision.lease import LeaseBook, LeaseRow, ReservationRow
from shared.decision.types import SettleKind
from tests.fakes.samples import granted

amounts = st.integers(0, 60)


class Disk:
    """The rows of the leases, as committed and as synced."""

    def __init__(self) -> None:
        self.leases: dict[int, LeaseRow] = {}
        self.reservations: dict[str, ReservationRow] = {}
        self.number_max = 0

    def copy(self) -> Disk:
        other = Disk()
        other.leases, other.reservations = dict(self.leases), dict(self.reservations)
        other.number_max = self.number_max
        return other


class Leases(RuleBasedStateMachine):
    """One device; `true_nanos` is what the provider billed on each lease."""

    def __init__(self) -> None:
        super().__init__()
        self.boots = self.starts = self.made = self.now = 0
        self.granted = 0
        self.committed, self.synced = Disk(), Disk()
        self.true_nanos: dict[int, int] = {}
        self.amounts: dict[int, int] = {}
        self.closed: dict[int, int] = {}
        self.open: dict[str, int] = {}
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.book = LeaseBook(
            incarnation=f"inc-{self.starts}", boot_id=f"boot-{self.boots}", chunks=3
        )
        disk = self.committed
        self.book.restore(
            leases=disk.leases.values(),
            reservations=disk.reservations.values(),
            number_max=disk.number_max,
        )
        self.open = {}
        self.note(self.book.close_earlier())
        self.commit(sync=True)

    def commit(self, *, sync: bool = False) -> None:
        """What the engine and its books do after every change."""
        changes = self.book.take_changes()
        disk = self.committed
        disk.leases |= {row.number: row for row in changes.leases}
        disk.reservations |= {row.id: row for row in changes.reservations}
        for name in changes.dropped:
            disk.reservations.pop(name, None)
        disk.number_max = self.book.number_max
        if sync:
            self.synced = disk.copy()
            for row in disk.leases.values():
                self.book.watermark_synced(row.number, row.watermark_nanos)

    def note(self, closes: list[Any]) -> None:
        for close in closes:
            assert close.lease_number not in self.closed, "a lease closed twice"
            assert self.true_nanos[close.lease_number] <= close.final_nanos
            assert close.final_nanos <= self.amounts[close.lease_number]
            self.closed[close.lease_number] = close.final_nanos

    @rule(amount=st.integers(1, 200), worst=amounts, above=st.integers(-1, 2))
    def grant(self, amount: int, worst: int, above: int) -> None:
        number = self.book.number_max + above
        took = self.book.grant(
            granted(number, amount=amount, duration_ms=50), boot_ms=self.now, worst_case_nanos=worst
        )
        assert (above > 0) == took
        if took:
            self.amounts[number], self.true_nanos[number] = amount, 0
            self.commit(sync=True)

    @rule(amount=amounts, billed=st.integers(0, 60))
    def call(self, amount: int, billed: int) -> None:
        """Reserve, commit, and send at once: the provider bills whatever becomes of the device."""
        self.made += 1
        name = f"r{self.made}"
        row = self.book.reserve(
            name,
            request_id=name,
            arm="a",
            amount_nanos=amount,
            task_class="x",
            arrived_unix_ms=0,
        )
        self.commit()
        if isinstance(row, ReservationRow):
            used = next(s for s in self.book.status() if s.lease_number == row.lease_number)
            synced = self.synced.leases[row.lease_number].watermark_nanos
            assert used.settled_nanos + used.reserved_nanos <= synced
            self.true_nanos[row.lease_number] += min(billed, amount)
            self.open[name] = min(billed, amount)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), known=st.booleans())
    def settle(self, data: st.DataObject, known: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.open)))
        billed = self.open.pop(name)
        kind = SettleKind.REPORTED if known else SettleKind.UNKNOWN
        if billed == 0 and known:
            kind = SettleKind.RELEASED
        settled = self.book.settle(name, kind=kind, cost_nanos=billed)
        assert billed <= settled.cost_nanos <= settled.reserved_nanos
        self.commit()

    @rule(together=st.integers(0, 300))
    def wait_for_a_sync(self, together: int) -> None:
        self.book.make_room_together(together)
        self.commit()

    @rule()
    def sync(self) -> None:
        self.commit(sync=True)

    @rule(number=st.integers(0, 4))
    def recall(self, number: int) -> None:
        self.book.recall(number, boot_ms=self.now, reason="recalled")
        self.commit()

    @rule(ms=st.integers(1, 40))
    def wait(self, ms: int) -> None:
        self.now += ms
        self.book.expire(boot_ms=self.now)
        for name in self.book.overdue_reservations(boot_ms=self.now, close_wait_ms=20):
            self.book.settle(name, kind=SettleKind.UNKNOWN)
            self.open.pop(name)
        self.note(self.book.finish_closing())
        self.commit(sync=True)

    @rule()
    def stop(self) -> None:
        self.start()

    @rule()
    def lose_power(self) -> None:
        self.committed = self.synced.copy()
        self.boots += 1
        self.start()

    @rule()
    def forget(self) -> None:
        for number in self.book.forget_closed():
            assert number in self.closed
            self.committed.leases.pop(number, None)
        self.commit(sync=True)

    @invariant()
    def never_exceeded(self) -> None:
        for lease in self.book.status():
            assert lease.lease_number not in self.closed, "a closed lease came back"
            assert lease.settled_nanos + lease.reserved_nanos <= lease.amount_nanos
            assert lease.amount_nanos == self.amounts[lease.lease_number]
            assert self.true_nanos[lease.lease_number] <= lease.watermark_nanos

    @invariant()
    def room_is_below_a_synced_watermark(self) -> None:
        rooms = [
            self.synced.leases[lease.lease_number].watermark_nanos
            - lease.settled_nanos
            - lease.reserved_nanos
            for lease in self.book.status()
            if not lease.closing
        ]
        room = max(rooms, default=-1)
        assert room == self.book.room_nanos
        assert room < 0 or self.book.refusal(room) is None
        assert self.book.refusal(room + 1) is not None

    @invariant()
    def numbers_rise(self) -> None:
        assert max(self.amounts, default=0) == self.book.number_max


TestLeases = Leases.TestCase
TestLeases.__doc__ = "Nothing that was spent is hidden by any restart, and no lease is exceeded."
