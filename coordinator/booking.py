"""What a batch of a device's records does to the books, exactly once and in order (rule O_1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, repeat
from operator import attrgetter
from typing import Final, cast

from coordinator.account import AttemptCost, BudgetAccount
from coordinator.alerts import AlertKind
from coordinator.fleet_config import WindowConfig
from coordinator.granting import back_off_ms
from coordinator.planner import Planner
from coordinator.records import (
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    DeviceRow,
    EarlierFacts,
    Learned,
    LeaseEnd,
    StoreEffect,
)
from coordinator.spend import UNKNOWN, Label
from coordinator.spool_progress import SpoolProgress
from shared.decision.money import dollars
from shared.decision.types import (
    Attempt,
    CostAdjustment,
    Feedback,
    JudgeCall,
    LeaseClose,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolRecord,
    SpoolSummary,
)
from shared.errors import InvariantError
from shared.rows import changed, many, quick_dataclass

_body: Final = attrgetter("body")
_attempts: Final = attrgetter("attempts")
_lease_number: Final = attrgetter("lease_number")
_kind: Final = attrgetter("body.__class__")


@quick_dataclass(frozen=True)
class Named:
    """What a batch speaks of, and the books may know more of.

    Attributes
    ----------
    graded : tuple of str
        The requests that it grades.
    leases : tuple of int
        Their numbers.
    outcomes : tuple of str
        The requests whose cost it corrects after the fact, and those that it reports as left
        unfinished: their outcomes matter, if the books hold them.
    """

    graded: tuple[str, ...]
    leases: tuple[int, ...]
    outcomes: tuple[str, ...]


@dataclass
class Booked:
    """What a batch came to.

    Attributes
    ----------
    costs : list of AttemptCost
        Not settled yet: a run of them is settled at once.
    """

    device: DeviceRow
    spool: SpoolProgress
    graded: set[str]
    learned: list[Learned] = field(default_factory=list)
    effects: list[StoreEffect] = field(default_factory=list)
    costs: list[AttemptCost] = field(default_factory=list)
    alarms: dict[str, str] = field(default_factory=dict)
    overrun_arms: set[str] = field(default_factory=set)
    outcomes: tuple[Outcome, ...] = ()
    doubled: dict[int, str] = field(default_factory=dict)
    judge_calls: list[JudgeCall] = field(default_factory=list)

    def note_cost(self, attempt: Attempt, request_id: str, *, tag: str = "") -> None:
        """What an attempt cost is to be settled; above its worst case it closes its arm."""
        if not attempt.is_booked:
            return
        arm, _, _, lease_number, reserved_nanos, cost_nanos, _ = attempt
        if cost_nanos > reserved_nanos:
            self.overran(attempt, cost_nanos, request_id)
        self.costs.append((lease_number, cost_nanos, request_id, (arm, tag)))

    def overran(self, attempt: Attempt, cost_nanos: int, request_id: str) -> None:
        """A provider billed more than the worst case: its arm closes (rule S_4)."""
        self.overrun_arms.add(attempt.arm)
        self.alarms[f"{AlertKind.OVERRUN}:{attempt.arm}"] = (
            f"arm {attempt.arm} billed ${dollars(cost_nanos)} for request {request_id}, above its "
            f"worst case of ${dollars(attempt.reserved_nanos)}: check its price and token bounds"
        )

    def is_news(self, record: SpoolRecord) -> bool:
        """False for the word that a request was left unfinished whose outcome the books hold."""
        body = record.body
        if not isinstance(body, Outcome) or body.status is not RequestStatus.INTERRUPTED:
            return True
        return all(outcome.request_id != body.request_id for outcome in self.outcomes)

    def attempt_of(self, late: CostAdjustment) -> tuple[Attempt | None, Label]:
        """The paid attempt that a late cost belongs to, if it is at hand, and its arm and tag.

        Usage comes late only for attempts that were settled without a report.
        """
        here = (row.outcome for row in self.learned if isinstance(row, BookedOutcome))
        tried = [
            (attempt, outcome.tag)
            for outcome in (*here, *self.outcomes)
            if outcome.request_id == late.request_id
            for attempt in outcome.attempts
        ]
        tried += [(c.attempt, "") for c in self.judge_calls if c.request_id == late.request_id]
        found = [
            (attempt, tag)
            for attempt, tag in tried
            if attempt.lease_number == late.lease_number and attempt.is_booked
        ]
        if not found:
            return None, UNKNOWN
        attempt, tag = min(found, key=lambda each: each[0].settle is not SettleKind.UNKNOWN)
        return attempt, (attempt.arm, tag)


class Booking:
    """Gives every learned record its position and books it.

    Parameters
    ----------
    position : int
        The last position that the store holds.
    """

    def __init__(self, *, position: int) -> None:
        self.position = position

    def learn_again(self, learned: Iterable[Learned], *, planner: Planner) -> None:
        """Learn what was booked after the last snapshot, in the same order as before."""
        planner.learn(learned)

    def book(
        self,
        device: DeviceRow,
        records: Iterable[SpoolRecord],
        *,
        spool: SpoolProgress,
        account: BudgetAccount,
        planner: Planner | None,
        window: WindowConfig | None,
        earlier: EarlierFacts,
        gaps_allowed: bool = False,
        unix_ms: int,
    ) -> Booked:
        """Book the records of a batch that are not in the books yet.

        A second full grade of a request is passed over: the first one counts. So is the word that a
        process has left a request unfinished which another has finished: the disk of the first was
        restored. The account must know every lease that the records name.

        Raises
        ------
        ProtocolError
            If sequences have a gap: something that the device spooled is missing.
        """
        missing: list[str] = []
        doubled: dict[int, str] = {}
        after, fresh = spool.after(
            records,
            device=device.name,
            missing=missing if gaps_allowed else None,
            doubled=doubled,
        )
        booked = Booked(
            device,
            after,
            graded=set(earlier.graded),
            outcomes=earlier.outcomes,
            doubled=doubled,
        )
        if missing:
            booked.alarms[f"{AlertKind.MISSING}:{device.id}"] = missing[-1]
        for sequence, text in doubled.items():
            booked.alarms[f"{AlertKind.DOUBLED}:{device.id}/{sequence}"] = text
        account.remember(earlier.leases, windows=earlier.windows)
        slots = _Slots(window, unix_ms=unix_ms)
        news = filter(booked.is_news, fresh) if booked.outcomes else fresh
        for kind, run in groupby(news, key=_kind):
            if kind is Outcome:  # nearly all of them are
                self._book_outcomes(run, booked, slots=slots)
            else:
                for record in run:
                    self._book_other(record, booked, account=account, slots=slots, unix_ms=unix_ms)
        self._settle(booked, account=account, unix_ms=unix_ms)
        if planner is not None:
            planner.learn(booked.learned)
        moved = after.moved_since(spool, device_id=device.id)
        booked.effects = [*booked.learned, *account.take_changes(), *moved]
        return booked

    def _book_other(
        self,
        record: SpoolRecord,
        booked: Booked,
        *,
        account: BudgetAccount,
        slots: _Slots,
        unix_ms: int,
    ) -> None:
        device, body = booked.device, record.body
        match body:
            case Feedback() if body.request_id in booked.graded and not body.is_weak:
                pass
            case Feedback():
                if not body.is_weak:
                    booked.graded.add(body.request_id)
                place = (device.id, device.device_class, record.sequence)
                booked.learned.append(BookedFeedback(self._next(), *place, body))
            case JudgeCall():
                booked.judge_calls.append(body)
                booked.note_cost(body.attempt, body.request_id)
            case LeaseClose():
                self._settle(booked, account=account, unix_ms=unix_ms)
                self._book_close(body, booked, account=account, unix_ms=unix_ms)
            case CostAdjustment():
                self._settle(booked, account=account, unix_ms=unix_ms)
                self._book_late(body, booked, account=account, unix_ms=unix_ms)
            case SpoolSummary():
                self._settle(booked, account=account, unix_ms=unix_ms)
                booked.costs = [
                    (number, cost, "", UNKNOWN)
                    for number, cost in body.costs
                    if record.sequence not in booked.doubled
                    # The copy was noticed, and this lease booked in full: it covers every cost.
                    or not account.is_booked_in_full(device.id, number)
                ]
                if body.unreadable:
                    booked.alarms[f"{AlertKind.MISSING}:{device.id}"] = _unreadable(device, body)
                where = (device.id, device.device_class, record.sequence, slots.of(unix_ms))
                for count in body.counts:
                    what = (count.task_class, count.arm, count.requests)
                    booked.learned.append(BookedCounts(self._next(), *where, *what))

    def _book_outcomes(
        self, records: Iterable[SpoolRecord], booked: Booked, *, slots: _Slots
    ) -> None:
        sequences, _, bodies, runs, places = zip(*records, strict=True)
        outcomes = cast("tuple[Outcome, ...]", bodies)
        for outcome in outcomes:
            for attempt in outcome.attempts:
                if attempt.lease_number:
                    booked.note_cost(attempt, outcome.request_id, tag=outcome.tag)
        device, first = booked.device, self.position + 1
        self.position += len(outcomes)
        rows = zip(
            range(first, self.position + 1),
            *(repeat(device.id), repeat(device.device_class), sequences),
            *(slots.of_all([outcome.arrived_unix_ms for outcome in outcomes]), outcomes),
            *(runs, places),
            strict=False,
        )
        booked.learned += many(BookedOutcome, rows)

    def _settle(self, booked: Booked, *, account: BudgetAccount, unix_ms: int) -> None:
        account.settle_all(booked.device.id, booked.costs, at=unix_ms)
        booked.costs = []

    def _book_late(
        self, late: CostAdjustment, booked: Booked, *, account: BudgetAccount, unix_ms: int
    ) -> None:
        """Correct a settled cost; above the reservation it is an overrun (rules S_3, S_4)."""
        attempt, label = booked.attempt_of(late)
        account.adjust(
            booked.device.id,
            late.lease_number,
            delta=late.delta_nanos,
            request_id=late.request_id,
            at=unix_ms,
            label=label,
        )
        if late.delta_nanos <= 0:
            return
        if attempt is None:
            booked.alarms[f"{AlertKind.OVERRUN}:{booked.device.id}/late"] = (
                f"request {late.request_id} of device {booked.device.name} cost "
                f"${dollars(late.delta_nanos)} more than was settled for it, and its outcome is "
                "not in the books: find its arm and check its price and token bounds"
            )
        elif attempt.cost_nanos + late.delta_nanos > attempt.reserved_nanos:
            booked.overran(attempt, attempt.cost_nanos + late.delta_nanos, late.request_id)

    def _book_close(
        self, close: LeaseClose, booked: Booked, *, account: BudgetAccount, unix_ms: int
    ) -> None:
        device = booked.device
        lease = account.lease(device.id, close.lease_number)
        if lease is None:
            raise InvariantError(f"lease {close.lease_number} is not in the account")
        alarm = account.close(
            device.id,
            close.lease_number,
            final=close.final_nanos,
            at=unix_ms,
            note=close.reason,
        )
        if alarm:
            booked.alarms[f"{AlertKind.CLOSE}:{device.id}"] = alarm
        if lease.end is LeaseEnd.OPEN:
            unclean = 0 if close.clean else device.unclean_closes + 1
            lends_from = unix_ms + back_off_ms(unclean) if unclean else 0
            booked.device = changed(device, unclean_closes=unclean, lends_from_unix_ms=lends_from)

    def _next(self) -> int:
        self.position += 1
        return self.position


def _unreadable(device: DeviceRow, told: SpoolSummary) -> str:
    first, last = told.first_sequence, told.last_sequence
    which = f"record {last}" if first == last else f"records {first} to {last}"
    return (
        f"device {device.name} cannot read {which} of its books: what it cost stays unconfirmed, "
        "and its request is not counted; look at the device's disk"
    )


def named_in(records: Iterable[SpoolRecord]) -> Named:
    """What a batch speaks of."""
    bodies = list(map(_body, records))
    told = [body for body in bodies if isinstance(body, Outcome)]
    attempts = chain.from_iterable(map(_attempts, told))
    leases = set(map(_lease_number, attempts))
    interrupted = RequestStatus.INTERRUPTED
    outcomes = [each.request_id for each in told if each.status is interrupted]
    graded: set[str] = set()
    for body in bodies if len(told) < len(bodies) else ():
        match body:
            case Feedback() as feedback:
                graded.add(feedback.request_id)
            case JudgeCall() as call:
                leases.add(call.attempt.lease_number)
            case LeaseClose() as close:
                leases.add(close.lease_number)
            case CostAdjustment() as late:
                leases.add(late.lease_number)
                outcomes.append(late.request_id)
            case SpoolSummary() as summary:
                leases.update(number for number, _ in summary.costs)
    return Named(tuple(sorted(graded)), tuple(sorted(leases - {0})), tuple(outcomes))


class _Slots:
    """The absolute slots of a batch: by the device's clock, but never in the future."""

    def __init__(self, window: WindowConfig | None, *, unix_ms: int) -> None:
        self._window = window
        self._unix_ms = unix_ms

    def of(self, arrived_unix_ms: int) -> int:
        """The slot of a request's arrival; 0 as long as the fleet has no slots."""
        return self.of_all([arrived_unix_ms])[0]

    def of_all(self, arrived_unix_ms: Sequence[int]) -> list[int]:
        """The slots of arrivals."""
        window, now = self._window, self._unix_ms
        if window is None:
            return [0] * len(arrived_unix_ms)
        anchor, slot_ms = window.anchor_unix_ms, window.slot_ms
        return [(min(now, at) - anchor) // slot_ms for at in arrived_unix_ms]
