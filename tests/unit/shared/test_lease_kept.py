"""What a lease book keeps beside its rows is what it would find in them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from shared.decision.lease import LeaseBook, LeaseRow, ReservationRow
from shared.decision.types import SettleKind
from tests.fakes.samples import granted
from tests.unit.shared.test_lease import reserve, sync

Step = tuple[str, int, int]


class Committed:
    """A lease book, and the rows that its changes have left in the books.

    Its watermarks are synced after each step, as they are in a book that was restored.
    """

    def __init__(self) -> None:
        self.book = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=2)
        self.leases: dict[int, LeaseRow] = {}
        self.reservations: dict[str, ReservationRow] = {}
        self._now_ms = self._names = 0
        self._does: dict[str, Callable[[int, int], object]] = {
            "grant": self._grant,
            "reserve": self._reserve,
            "settle": self._settle,
            "recall": lambda number, _: self.book.recall(
                number % 4, boot_ms=self._now_ms, reason="recalled"
            ),
            "wait": self._wait,
            "retire": lambda amount, kept_ms: self.book.retire(
                amount, boot_ms=self._now_ms, kept_ms_max=10 + kept_ms
            ),
            "room": lambda amount, _: self.book.make_room_together(amount),
            "close": self._close,
        }

    def do(self, step: Step) -> None:
        """Make one step, and commit and sync what it has changed."""
        what, first, second = step
        self._does[what](first, second)
        self._commit()
        sync(self.book)

    def _commit(self) -> None:
        changes = self.book.take_changes()
        self.leases |= {row.number: row for row in changes.leases}
        self.reservations |= {row.id: row for row in changes.reservations}
        for name in changes.dropped:
            self.reservations.pop(name, None)
        for number in self.book.forget_closed():
            del self.leases[number]

    def restored(self) -> LeaseBook:
        """A book that has nothing but the rows."""
        twin = LeaseBook(incarnation="inc-1", boot_id="boot-1", chunks=2)
        twin.restore(
            leases=self.leases.values(),
            reservations=self.reservations.values(),
            number_max=self.book.number_max,
        )
        return twin

    def _grant(self, amount: int, ahead: int) -> None:
        number = self.book.number_max + 1 + ahead % 2
        self.book.grant(granted(number, amount=2 * amount), boot_ms=self._now_ms)

    def _reserve(self, amount: int, _: int) -> None:
        self._names += 1
        reserve(self.book, f"r{self._names}", amount)

    def _settle(self, which: int, cost: int) -> None:
        names = sorted(self.reservations)
        if names:
            kind = list(SettleKind)[cost % len(SettleKind)]
            self.book.settle(names[which % len(names)], kind=kind, cost_nanos=2 * cost)

    def _wait(self, ms: int, _: int) -> None:
        self._now_ms += 10 * ms
        self.book.expire(boot_ms=self._now_ms)

    def _close(self, wait_ms: int, _: int) -> None:
        for name in self.book.overdue_reservations(boot_ms=self._now_ms, close_wait_ms=wait_ms):
            self.book.settle(name, kind=SettleKind.UNKNOWN)
        self._commit()
        twin = self.restored()
        assert twin.finish_closing() == self.book.finish_closing()


WHATS = ("grant", "reserve", "reserve", "reserve", "settle", "settle", *Committed()._does)
STEPS = st.lists(
    st.tuples(st.sampled_from(WHATS), st.integers(0, 40), st.integers(0, 40)),
    min_size=40,
    max_size=80,
)


def answers(book: LeaseBook) -> tuple[object, ...]:
    """All that a book is asked on the way of a request."""
    refused = [book.refusal(amount) for amount in range(0, 90, 3)]
    numbers = (book.available_nanos(), book.room_nanos, book.newest_amount_nanos())
    overdue = book.overdue_reservations(boot_ms=10**9, close_wait_ms=0)
    return book.status(), refused, numbers, book.number_max, sorted(overdue)


@given(STEPS)
def test_a_book_answers_as_one_that_was_made_of_its_rows(steps: list[Step]) -> None:
    """After grants, recalls, overruns and closes in any order, nothing that it keeps is stale."""
    committed = Committed()
    for step in steps:
        committed.do(step)
        assert answers(committed.restored()) == answers(committed.book)
