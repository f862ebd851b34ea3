"""A batch of a device's records: in order, once, all or nothing (rule O_1)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.account import BudgetAccount
from coordinator.alerts import AlertKind, kind_of
from coordinator.booking import Booked, Booking, Named, named_in
from coordinator.fleet_config import WindowConfig, parse_fleet
from coordinator.planner import Planner
from coordinator.records import (
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    DeviceRow,
    EarlierFacts,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    SpendRow,
    WindowRow,
)
from coordinator.spool_progress import SpoolProgress
from shared.decision.types import (
    Attempt,
    ContextCount,
    CostAdjustment,
    Feedback,
    JudgeCall,
    LeaseClose,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
)
from shared.errors import InvariantError, ProtocolError
from tests.fakes.samples import fleet_toml

DEVICE = DeviceRow("d1", "pi", "edge", "", 0, lease_number_max=1)
WINDOW = WindowConfig(length_ms=600_000, slot_ms=10_000)
NOW = 40_000


def outcome(request_id: str, *costs: int, lease: int = 1, arrived: int = 25_000) -> Outcome:
    """An outcome with a paid attempt for each cost."""
    attempts = tuple(
        Attempt("cloud", 5, "", lease, 100, cost, SettleKind.REPORTED) for cost in costs
    )
    return Outcome(
        request_id=request_id,
        task_class="other",
        arrived_unix_ms=arrived,
        status=RequestStatus.OK,
        arm="cloud",
        drawn_arm="cloud",
        propensity_ppm=1_000_000,
        table_version=1,
        reason="table",
        forced=False,
        attempts=attempts,
        hit=True,
    )


class Desk:
    """A booking desk with an account that has lent 300 nanos to the device."""

    def __init__(self) -> None:
        self.account = BudgetAccount()
        self.account.open_window(7, start_unix_ms=0, end_unix_ms=10, target_nanos=1_000)
        self.account.grant(LeaseRecord("d1", 1, "inc", 7, 300, 1, 0))
        self.account.take_changes()
        self.booking = Booking(position=10)
        self.device = DEVICE
        self.planner: Planner | None = None
        self.window: WindowConfig | None = WINDOW
        self.earlier = EarlierFacts()
        self.spool = SpoolProgress(acked=0, last=0, marks={"inc": 0})

    def book(self, *bodies: SpoolBody, first: int = 1, now: int = NOW) -> Booked:
        records = [SpoolRecord(first + at, "inc", body) for at, body in enumerate(bodies)]
        return self.take(records, now=now)

    def take(self, records: list[SpoolRecord], *, now: int = NOW) -> Booked:
        booked = self.booking.book(
            self.device,
            records,
            spool=self.spool,
            account=self.account,
            planner=self.planner,
            window=self.window,
            earlier=self.earlier,
            unix_ms=now,
        )
        self.device, self.spool = booked.device, booked.spool
        return booked


def ledger(booked: Booked) -> list[tuple[LedgerKind, int, str]]:
    """The ledger rows of a batch."""
    return [
        (row.kind, row.amount_nanos, row.request_id)
        for row in booked.effects
        if isinstance(row, LedgerRow)
    ]


def test_every_paid_attempt_is_settled() -> None:
    """Those that failed as well; local and released ones cost nothing, whatever they say."""
    desk = Desk()
    paid = outcome("r1", 30, 40)
    local = Attempt("tiny", 5)
    released = Attempt("cloud", 5, "http_429", 1, 100, 20, SettleKind.RELEASED)
    both = paid._replace(attempts=(local, released, *paid.attempts))
    booked = desk.book(both)
    expected = [(LedgerKind.SETTLE, 30, "r1"), (LedgerKind.SETTLE, 40, "r1")]
    assert (expected, 1) == (ledger(booked), booked.spool.acked)


def test_a_record_is_booked_once() -> None:
    """What lies at or below its incarnation's mark was booked before."""
    desk = Desk()
    desk.book(outcome("r1", 30), outcome("r2", 40))
    again = desk.book(outcome("r1", 30), outcome("r2", 40), outcome("r3", 50))
    assert ([(LedgerKind.SETTLE, 50, "r3")], 3) == (ledger(again), again.spool.acked)
    assert 120 == desk.account.window(7).settled_nanos


def test_a_gap_books_nothing_of_its_batch() -> None:
    """Not even what came before the gap: it will come again, and must not count twice."""
    desk = Desk()
    records = [SpoolRecord(n, "inc", outcome(f"r{n}", 10)) for n in (1, 3)]
    with pytest.raises(ProtocolError, match="device pi sent sequence 3 after 1"):
        desk.take(records)
    assert (0, 300) == (
        desk.account.window(7).settled_nanos,
        desk.account.window(7).outstanding_nanos,
    )
    assert [11] == [row.position for row in _outcomes(desk.book(outcome("r1", 10)))]


def _outcomes(booked: Booked) -> list[BookedOutcome]:
    return [row for row in booked.effects if isinstance(row, BookedOutcome)]


def test_everything_learned_has_a_position() -> None:
    """Outcomes, grades and counts share one numbering, in the order of booking."""
    desk = Desk()
    grade = Feedback("r1", "other", "cloud", 500_000, "user", 0)
    summary = SpoolSummary(3, 9, ((1, 25),), (ContextCount("other", "tiny", 4),))
    booked = desk.take(
        [
            SpoolRecord(1, "inc", outcome("r1", 30)),
            SpoolRecord(2, "inc", grade),
            SpoolRecord(9, "inc", summary),
        ]
    )
    learned = [
        (type(row), row.position, row.sequence)
        for row in booked.effects
        if isinstance(row, BookedOutcome | BookedFeedback | BookedCounts)
    ]
    assert [(BookedOutcome, 11, 1), (BookedFeedback, 12, 2), (BookedCounts, 13, 9)] == learned
    expected = [(LedgerKind.SETTLE, 30, "r1"), (LedgerKind.SETTLE, 25, "")]
    assert (expected, 9) == (ledger(booked), booked.spool.acked)


@pytest.mark.parametrize("ended", [True, False])
def test_what_a_copy_told_before_its_original_summed_it_up_is_not_spent_twice(ended: bool) -> None:
    """A lease that was booked in full covers it; another counts it, never too low."""
    desk = Desk()
    if ended:
        desk.account.close_in_full("d1", at=NOW, note="the device's books were copied")
    desk.book(outcome("r1", 30), outcome("r2", 20))
    desk.spool = SpoolProgress(acked=0, last=5, marks={"inc": 2})  # the original's session
    sums = SpoolRecord(4, "inc", SpoolSummary(1, 4, ((1, 265),), ()))
    booked = desk.take([sums, SpoolRecord(5, "inc", outcome("r5", 100))])
    if ended:
        assert [(LedgerKind.CONFIRM, 100, "r5")] == ledger(booked)
        assert (150, 150) == _balances(desk)
    else:
        assert (LedgerKind.SETTLE, 250, "") == ledger(booked)[0]
    ((key, text),) = booked.alarms.items()
    assert (AlertKind.DOUBLED, "doubled:d1/4") == (kind_of(key), key)
    assert "the records 1 to 4 of the incarnation inc" in text


def _balances(desk: Desk) -> tuple[int, int]:
    """What of the window is settled, and what is unconfirmed."""
    window = desk.account.window(7)
    return window.settled_nanos, window.unconfirmed_nanos


def test_a_row_tells_when_and_why_it_was_booked() -> None:
    """Settled, ended, corrected: at the time of the batch, for its request, with its reason."""
    desk = Desk()
    bodies = (
        outcome("r1", 30),
        CostAdjustment("r1", 1, 4, "usage came late"),
        outcome("r2", 40),
        LeaseClose(1, 90, clean=True, reason="expired"),
        CostAdjustment("r2", 1, -5, "usage came late"),
        outcome("r3", 16),
    )
    rows = [row for row in desk.book(*bodies, now=50_000).effects if isinstance(row, LedgerRow)]
    assert {50_000} == {row.at_unix_ms for row in rows}
    assert [
        (LedgerKind.SETTLE, 30, "r1", ""),
        (LedgerKind.SETTLE, 4, "r1", ""),
        (LedgerKind.SETTLE, 40, "r2", ""),
        (LedgerKind.UNCONFIRMED, 16, "", "expired"),
        (LedgerKind.RELEASE, 210, "", "expired"),
        (LedgerKind.CLOSE, 0, "", "expired"),
        (LedgerKind.ADJUST, -5, "r2", ""),
        (LedgerKind.CONFIRM, 16, "r3", ""),
    ] == [(row.kind, row.amount_nanos, row.request_id, row.note) for row in rows]


def test_an_outcome_is_kept_as_it_came_over_the_wire() -> None:
    """It is not encoded a second time."""
    (row,) = _outcomes(Desk().take([SpoolRecord(1, "inc", outcome("r1"), b"as they came", 3)]))
    assert (b"as they came", 3) == (row.run, row.place)


def test_what_a_batch_names_is_looked_up_before_it_is_booked() -> None:
    """Leases that costs and closes are on, grades, and outcomes that may get dearer."""
    local = outcome("r0")._replace(attempts=(Attempt("tiny", 5),))
    bodies: tuple[SpoolBody, ...] = (
        local,
        outcome("r1", 30, lease=5),
        Feedback("r2", "other", "cloud", 500_000, "user", 0),
        LeaseClose(4, 0, clean=True, reason="expired"),
        CostAdjustment("r3", 3, 1, "usage came late"),
        JudgeCall("r4.judge", Attempt("judge", 5, "", 6, 100, 40, SettleKind.REPORTED)),
        SpoolSummary(7, 9, ((2, 25), (1, 5)), ()),
    )
    named = named_in(SpoolRecord(at, "inc", body) for at, body in enumerate(bodies, 1))
    assert Named(graded=("r2",), leases=(1, 2, 3, 4, 5, 6), outcomes=("r3",)) == named


def test_a_record_that_cannot_be_read_is_seen_and_its_cost_left_to_the_close() -> None:
    """The records behind it are booked; an operator is told which one it is."""
    desk = Desk()
    lost = SpoolSummary(1, 1, (), (), unreadable=1)
    booked = desk.book(lost, outcome("r2", 30), LeaseClose(1, 90, True, "expired"))
    assert 3 == booked.spool.acked
    assert "pi cannot read record 1 of its books" in booked.alarms["missing:d1"]
    assert [(LedgerKind.SETTLE, 30, "r2"), (LedgerKind.UNCONFIRMED, 60, "")] == ledger(booked)[:2]
    more = desk.book(SpoolSummary(4, 6, (), (), unreadable=1), first=6)
    assert "records 4 to 6" in more.alarms["missing:d1"]


def test_a_request_that_another_process_finished_was_not_interrupted() -> None:
    """A restored disk reports a request as left unfinished whose outcome was booked long ago."""
    desk = Desk()
    finished = outcome("r1", 30)
    desk.earlier = EarlierFacts(outcomes=(finished,))
    left = [outcome(name, 90)._replace(status=RequestStatus.INTERRUPTED) for name in ("r1", "r2")]
    booked = desk.book(*left)
    assert ["r2"] == [row.outcome.request_id for row in _outcomes(booked)]
    assert [(LedgerKind.SETTLE, 90, "r2")] == ledger(booked)
    assert ("r1", "r2") == named_in([SpoolRecord(1, "inc", body) for body in left]).outcomes


def test_a_request_that_a_copy_left_unfinished_is_booked_when_it_is_finished() -> None:
    """The disk was restored in the middle of it, and the word of that came first."""
    desk = Desk()
    left = outcome("r1", 90)._replace(status=RequestStatus.INTERRUPTED)
    desk.earlier = EarlierFacts(outcomes=(left,))
    booked = desk.book(outcome("r1", 30), CostAdjustment("r1", 1, 5, "usage came late"))
    assert ["r1"] == [row.outcome.request_id for row in _outcomes(booked)]
    assert [(LedgerKind.SETTLE, 30, "r1"), (LedgerKind.SETTLE, 5, "r1")] == ledger(booked)


def test_counts_belong_to_the_slot_in_which_they_are_told() -> None:
    """When the requests behind them arrived, nobody knows any more."""
    desk = Desk()
    summary = SpoolSummary(1, 1, (), (ContextCount("other", "tiny", 4),))
    booked = desk.book(summary, now=12_345 * 10_000 + 1)
    assert [12_345] == [row.slot for row in booked.effects if isinstance(row, BookedCounts)]


@pytest.mark.parametrize(
    ("window", "slots"),
    [(WINDOW, [2, 4]), (replace(WINDOW, anchor_unix_ms=20_000), [0, 2]), (None, [0, 0])],
    ids=["from the epoch on", "from an anchor on", "a fleet without slots"],
)
def test_an_outcome_belongs_to_the_slot_of_its_arrival(
    window: WindowConfig | None, slots: list[int]
) -> None:
    """By the device's clock, but never in the future."""
    desk = Desk()
    desk.window = window
    booked = desk.book(outcome("r1", arrived=25_000), outcome("r2", arrived=99_000), now=40_000)
    assert slots == [row.slot for row in _outcomes(booked)]


def test_an_unclean_close_counts_until_a_clean_one() -> None:
    """Devices that crash in a loop are told from others (rule L_4)."""
    desk = Desk()
    desk.account.grant(LeaseRecord("d1", 2, "inc", 7, 100, 1, 0))
    desk.book(LeaseClose(1, 0, clean=False, reason="rebooted"), now=7_000)
    assert (1, 8_000) == (desk.device.unclean_closes, desk.device.lends_from_unix_ms)
    desk.book(LeaseClose(1, 0, clean=True, reason="again"), first=2)
    assert 1 == desk.device.unclean_closes, "it was closed already"
    desk.book(LeaseClose(2, 0, clean=True, reason="expired"), first=3)
    assert (0, 0) == (desk.device.unclean_closes, desk.device.lends_from_unix_ms)


def test_usage_above_the_reservation_raises_an_alarm() -> None:
    """A wrong price or bound must not go unnoticed (rule S_4)."""
    booked = Desk().book(outcome("r1", 100, 101))
    said = "arm cloud billed $0.000000101 for request r1, above its worst case of $0.000000100"
    assert {"overrun:cloud": f"{said}: check its price and token bounds"} == booked.alarms
    assert {"cloud"} == booked.overrun_arms


@pytest.mark.parametrize(
    "attempts",
    [
        pytest.param(
            (
                Attempt("elsewhere", 5, "", 2, 100, 60, SettleKind.UNKNOWN),
                Attempt("reported", 5, "", 1, 100, 60, SettleKind.REPORTED),
                Attempt("wanted", 5, "broken", 1, 100, 60, SettleKind.UNKNOWN),
            ),
            id="the one that nobody reported on",
        ),
        pytest.param(
            (
                Attempt("released", 5, "http_429", 1, 100, 60, SettleKind.RELEASED),
                Attempt("wanted", 5, "", 1, 100, 60, SettleKind.REPORTED),
            ),
            id="at least one that was billed",
        ),
    ],
)
@pytest.mark.parametrize("earlier", [False, True], ids=["in this batch", "in the books"])
def test_usage_that_comes_late_is_held_against_its_own_attempt(
    attempts: tuple[Attempt, ...], earlier: bool
) -> None:
    """Up to the reservation it is expected; above, that arm closes, and no other (rule S_4)."""
    desk = Desk()
    desk.account.grant(LeaseRecord("d1", 2, "inc", 7, 300, 1, 0))
    stranger = Attempt("stranger", 5, "broken", 1, 100, 99, SettleKind.UNKNOWN)
    outcomes = (
        outcome("r0")._replace(attempts=(stranger,)),
        outcome("r1")._replace(attempts=attempts),
    )
    desk.earlier = EarlierFacts(outcomes=outcomes if earlier else ())
    grade = Feedback("r1", "other", "cloud", 500_000, "user", 0)
    before: tuple[SpoolBody, ...] = (grade,) if earlier else (grade, *outcomes)
    booked = desk.book(*before, CostAdjustment("r1", 1, 40, "usage came late"))
    assert (set(), {}) == (booked.overrun_arms, booked.alarms)

    desk.earlier = EarlierFacts(outcomes=outcomes)
    booked = desk.book(CostAdjustment("r1", 1, 41, "usage came late"), first=booked.spool.acked + 1)
    assert {"wanted"} == booked.overrun_arms
    said = "arm wanted billed $0.000000101 for request r1, above its worst case of $0.000000100"
    assert {"overrun:wanted": f"{said}: check its price and token bounds"} == booked.alarms


@pytest.mark.parametrize(("delta", "alarms"), [(-1, []), (0, []), (1, ["overrun:d1/late"])])
def test_a_request_that_got_dearer_and_is_not_in_the_books_raises_an_alarm(
    delta: int, alarms: list[str]
) -> None:
    """Its arm is not known; a cost that fell is no reason to look for it."""
    desk = Desk()
    desk.book(outcome("r1", 30))
    booked = desk.book(CostAdjustment("gone", 1, delta, "usage came late"), first=2)
    assert alarms == list(booked.alarms)


def test_an_impossible_close_raises_an_alarm() -> None:
    """It says what was told and what was booked (rule L_5)."""
    booked = Desk().book(outcome("r1", 50), LeaseClose(1, 10, clean=True, reason="expired"))
    said = (
        "lease 1 of d1 was closed at $0.000000010, with $0.000000050 booked of $0.000000300: the "
        "full lease is booked"
    )
    assert {"close:d1": said} == booked.alarms


def test_a_close_of_a_lease_that_nobody_looked_up_is_a_defect() -> None:
    """The account has to know every lease that a batch names."""
    with pytest.raises(InvariantError, match="lease 9 is not in the account"):
        Desk().book(LeaseClose(9, 0, clean=True, reason="expired"))


def test_a_lease_of_long_ago_is_booked_in_its_own_window() -> None:
    """What the account has let go of comes back from the books: here 40 nanos are unconfirmed."""
    desk = Desk()
    window = WindowRow(3, 0, 5, 1_000, settled_nanos=60, unconfirmed_nanos=40)
    lease = LeaseRecord("d1", 4, "inc", 3, 100, 1, 0, 60, 40, end=LeaseEnd.CLOSED)
    desk.earlier = EarlierFacts(leases=(lease,), windows=(window,))
    booked = desk.book(outcome("r1", 45, lease=4))
    assert {} == booked.alarms
    assert [(LedgerKind.CONFIRM, 40, "r1"), (LedgerKind.OVERRUN, 5, "r1")] == ledger(booked)
    assert (105, 0) == (
        desk.account.window(3).settled_nanos,
        desk.account.window(3).unconfirmed_nanos,
    )


def test_a_request_that_the_books_know_as_graded_is_not_graded_again() -> None:
    """The first grade counts, also when the second one comes in a later batch."""
    desk = Desk()
    desk.earlier = EarlierFacts(graded=frozenset({"r1"}))
    booked = desk.book(Feedback("r1", "other", "cloud", 500_000, "user", 0))
    assert [] == [effect for effect in booked.effects if isinstance(effect, BookedFeedback)]
    assert 1 == booked.spool.acked


def test_what_is_booked_is_learned() -> None:
    """The planner counts the demand and the cost in the same step, and again after a restart."""
    desk = Desk()
    config = parse_fleet(fleet_toml(), now_unix_ms=1_000)
    desk.planner = Planner(config)
    booked = desk.book(outcome("r1", 30), Feedback("r1", "other", "cloud", 500_000, "user", 0))
    again = Planner(config)
    learned = [row for row in booked.effects if isinstance(row, BookedOutcome | BookedFeedback)]
    Booking(position=12).learn_again(learned, planner=again)
    assert (30, 0.5) == (desk.planner.totals.arms["cloud"].cost_nanos, again.totals.reward_mean)
    assert desk.planner.to_payload() == again.to_payload()


def test_a_judges_call_is_settled_and_is_no_demand() -> None:
    """Its cost is on the lease, under an id of its own; above its worst case it closes the arm."""
    desk = Desk()
    attempt = Attempt("judge", 5, "", 1, 100, 40, SettleKind.REPORTED)
    booked = desk.book(JudgeCall("r1.judge", attempt))
    (row,) = [each for each in booked.effects if isinstance(each, LedgerRow)]
    assert ("r1.judge", 40, LedgerKind.SETTLE) == (row.request_id, row.amount_nanos, row.kind)
    assert [] == booked.learned
    dear = JudgeCall("r2.judge", attempt._replace(cost_nanos=101))
    assert {"judge"} == desk.book(dear, first=2).overrun_arms


def spent(booked: Booked) -> dict[tuple[str, str], int]:
    """What a batch's day has settled, by arm and tag."""
    rows = (row for row in booked.effects if isinstance(row, SpendRow))
    return {(row.arm, row.tag): row.settled_nanos for row in rows}


def test_what_is_settled_is_counted_by_arm_and_tag() -> None:
    """Requests' by the arm that was tried, judges' calls by theirs; compacted costs by none."""
    desk = Desk()
    judged = Attempt("judge", 5, "", 1, 100, 7, SettleKind.REPORTED)
    booked = desk.book(
        outcome("r1", 30, 5)._replace(tag="shop"), outcome("r2", 40), JudgeCall("r1.judge", judged)
    )
    assert {("cloud", "shop"): 35, ("cloud", ""): 40, ("judge", ""): 7} == spent(booked)
    summary = SpoolSummary(4, 9, ((1, 25),), ())
    assert {("", ""): 25} == spent(desk.take([SpoolRecord(9, "inc", summary)]))


@pytest.mark.parametrize("delta", [-10, 10])
@pytest.mark.parametrize("same_batch", [True, False])
def test_a_late_cost_is_counted_where_the_first_one_was(delta: int, same_batch: bool) -> None:
    """The books are asked for its outcome if it came earlier (rule S_3)."""
    desk = Desk()
    first = outcome("r1", 30)._replace(tag="shop")
    late = CostAdjustment("r1", 1, delta, "usage came late")
    assert ("r1",) == named_in([SpoolRecord(2, "inc", late)]).outcomes
    if same_batch:
        booked = desk.book(first, late)
    else:
        desk.book(first)
        desk.earlier = EarlierFacts(outcomes=(first,))
        booked = desk.book(late, first=2)
    assert ({("cloud", "shop"): 30 + delta}, {}) == (spent(booked), booked.alarms)


def test_a_judges_late_cost_is_known_from_its_batch() -> None:
    """A judge's call has no outcome; above its worst case it closes its arm all the same."""
    desk = Desk()
    attempt = Attempt("judge", 5, "", 1, 100, 90, SettleKind.UNKNOWN)
    late = CostAdjustment("r1.judge", 1, 20, "usage came late")
    other = JudgeCall("r0.judge", attempt._replace(arm="stranger"))
    booked = desk.book(other, JudgeCall("r1.judge", attempt), late)
    assert {("judge", ""): 110, ("stranger", ""): 90} == spent(booked)
    assert {"judge"} == booked.overrun_arms


def test_a_weak_grade_never_stands_in_the_way_of_a_full_one() -> None:
    """Both are learned; of full ones only the first."""
    desk = Desk()
    full = Feedback("r1", "other", "cloud", 1_000_000, "user", 1)
    hint = Feedback("r1", "other", "cloud", 0, "signal:retry", 1, weight_ppm=100_000)
    booked = desk.book(outcome("r1"), hint, full, hint, full)
    grades = [each.feedback for each in booked.learned if isinstance(each, BookedFeedback)]
    assert [hint, full, hint] == grades


def test_an_ordinary_summary_confirms_what_a_lease_was_booked_for() -> None:
    """Only what a copy may have told is left out."""
    desk = Desk()
    desk.account.close_in_full("d1", at=NOW, note="quarantined")
    desk.account.take_changes()
    booked = desk.book(SpoolSummary(1, 1, ((1, 65),), ()))
    assert [(LedgerKind.CONFIRM, 65, "")] == ledger(booked)
    assert {} == booked.alarms
