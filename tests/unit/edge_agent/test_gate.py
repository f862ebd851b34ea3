"""The one gate before every paid call (rules S_1, I6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from edge_agent.books import (
    AppendSpool,
    BooksSnapshot,
    DropLease,
    DropReservation,
    MetaKey,
    PutKeyBudget,
    PutLease,
    PutMeta,
    PutReservation,
)
from edge_agent.candidates import Allowance, RequestFacts
from edge_agent.gate import Gate
from edge_agent.outbox import Outbox
from shared.decision.key_budget import KeyBudget
from shared.decision.types import (
    Attempt,
    CostAdjustment,
    JudgeCall,
    LeaseClose,
    Outcome,
    RequestStatus,
    SettleKind,
)
from tests.fakes.memory_books import BooksState
from tests.fakes.samples import WORST_CASE_NANOS, cloud_arm, facts, granted

ARM = cloud_arm()


def gate_of(
    snapshot: BooksSnapshot | None = None,
    *,
    incarnation: str = "inc-1",
    boot_id: str = "boot-1",
    key_budgets: Iterable[KeyBudget] = (),
) -> Gate:
    """A gate on these books."""
    snapshot = snapshot or BooksSnapshot(place="here")
    outbox = Outbox(incarnation=incarnation, snapshot=snapshot)
    return Gate(
        incarnation=incarnation,
        boot_id=boot_id,
        snapshot=snapshot,
        outbox=outbox,
        key_budgets=key_budgets,
        unix_ms=0,
    )


def open_gate(
    *, amount: int = 20 * WORST_CASE_NANOS, key_budgets: Iterable[KeyBudget] = ()
) -> tuple[Gate, list[Any]]:
    """A gate with a synced lease, and the effects so far."""
    gate = gate_of(key_budgets=key_budgets)
    effects = [
        *gate.recover(),
        *gate.granted(granted(amount=amount), incarnation="inc-1", boot_ms=0),
        *gate.expire(boot_ms=0, unix_ms=0),
        *gate.raised_watermarks(),
    ]
    gate.synced(effects)
    return gate, effects


def snapshot_of(effects: list[Any]) -> BooksSnapshot:
    """What a later process finds in the books."""
    state = BooksState()
    state.apply(effects)
    return BooksSnapshot(
        meta=state.meta,
        leases=tuple(state.leases.values()),
        reservations=tuple(state.reservations.values()),
        key_budgets=tuple(state.key_budgets.values()),
        spool_first=min(state.spool, default=0),
        spool_last=state.spool_last,
        place=state.meta.get(MetaKey.PLACE, ""),
    )


def sized(worst_case_nanos: int) -> RequestFacts:
    """A request with this worst case on `ARM`."""
    return facts(max_tokens=worst_case_nanos // 100 - 200 - 16 - 64)


def watermark_of(effects: list[Any]) -> int:
    """The watermark of the one lease that is written."""
    (row,) = (effect.row for effect in effects if isinstance(effect, PutLease))
    return int(row.watermark_nanos)


def spooled(effects: list[Any]) -> list[Any]:
    """The facts that were spooled."""
    return [effect.record.body for effect in effects if isinstance(effect, AppendSpool)]


def test_a_reservation_is_the_worst_case_and_is_to_be_committed() -> None:
    """What may be sent is in the effects: the reservation, on the lease."""
    gate, _ = open_gate()
    row, problem, effects = gate.reserve(facts(), arm=ARM, boot_ms=0)
    assert row is not None
    assert ("", WORST_CASE_NANOS, 1) == (problem, row.amount_nanos, row.lease_number)
    assert PutReservation(row) in effects


def test_a_copy_leaves_nothing_to_the_leases_of_its_original() -> None:
    """The original may be spending on them, and its requests are its own to report (rule D_2)."""
    gate, effects = open_gate()
    effects += gate.reserve(facts(), arm=ARM, boot_ms=0)[2]
    books = replace(snapshot_of(effects), place="there")
    copy = gate_of(books, incarnation="inc-2")
    assert copy.copied
    recovered = copy.recover()
    (close,) = spooled(recovered)
    assert (
        LeaseClose(1, 20 * WORST_CASE_NANOS, clean=False, reason="the books were copied") == close
    )
    again = gate_of(snapshot_of(effects + recovered), incarnation="inc-3")
    assert again.copied, "until the coordinator knows it"
    known = gate_of(snapshot_of(effects + recovered + copy.copy_known()), incarnation="inc-4")
    assert not known.copied


def test_books_that_stay_where_they_are_are_no_copy() -> None:
    """A restart in the same boot settles what was reserved, and gives the rest back."""
    gate, effects = open_gate()
    effects += gate.reserve(facts(), arm=ARM, boot_ms=0)[2]
    later = gate_of(snapshot_of(effects), incarnation="inc-2")
    assert not later.copied
    _, close = spooled(later.recover())
    assert WORST_CASE_NANOS == close.final_nanos


def test_an_overrun_closes_its_arm_also_after_a_restart() -> None:
    """Until a configuration comes that was made with knowledge of it (rule S_4)."""
    gate, effects = open_gate()
    row, _, reserved = gate.reserve(facts(), arm=ARM, boot_ms=0)
    assert row is not None
    cost = WORST_CASE_NANOS + 1
    effects += reserved
    effects += gate.settle(row.id, arm=ARM.id, kind=SettleKind.REPORTED, cost_nanos=cost)[1]
    effects += gate._outbox.spool(LeaseClose(9, 0, clean=True, reason=""))
    effects += gate.overran(ARM.id, told=gate._outbox.last)
    assert [] == gate.configured(), "the coordinator does not know of it yet"
    later = gate_of(snapshot_of(effects), incarnation="inc-2")
    assert "overrun" == later.problem(facts(), arm=ARM)
    later._outbox.ack(later._outbox.last, boot_ms=0)
    (forgotten,) = later.configured()
    assert PutMeta(MetaKey.OVERRUN_ARMS, "{}") == forgotten
    assert "overrun" != later.problem(facts(), arm=ARM)


def test_every_attempt_has_a_reservation_of_its_own() -> None:
    """A retry of the same request never shares one (rule S_1)."""
    gate, _ = open_gate()
    first, second = (gate.reserve(facts(), arm=ARM, boot_ms=0)[0] for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert 18 * WORST_CASE_NANOS == gate.available_nanos


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("quarantined", "a clone", "quarantined"),
        ("spend_paused", True, "spend_paused"),
        ("books_problem", "books_full", "books_full"),
        ("_overrun_arms", {"cloud"}, "overrun"),
    ],
)
def test_the_gate_is_closed_for_a_reason(name: str, value: object, problem: str) -> None:
    """However much money the lease has."""
    gate, _ = open_gate()
    setattr(gate, name, value)
    assert problem == gate.problem(facts(), arm=ARM)
    assert (None, problem, []) == gate.reserve(facts(), arm=ARM, boot_ms=0)


def test_without_a_lease_nothing_passes() -> None:
    """The gate of a device that was granted nothing is closed."""
    assert (None, "no_lease", []) == gate_of().reserve(facts(), arm=ARM, boot_ms=0)


def test_a_lease_whose_time_is_over_takes_nothing_between_two_rounds_of_house_keeping() -> None:
    """A machine that wakes up may be asked before it has looked at its leases (rule L_3)."""
    gate, _ = open_gate()
    assert gate.reserve(facts(), arm=ARM, boot_ms=59_999)[0] is not None
    row, problem, _ = gate.reserve(facts(), arm=ARM, boot_ms=60_000)
    assert (None, "no_lease", 0) == (row, problem, gate.available_nanos)


def test_a_request_that_is_larger_than_before_gets_through_after_one_sync() -> None:
    """It is refused once, and asks for a higher watermark."""
    gate, _ = open_gate(amount=100 * WORST_CASE_NANOS)
    large = facts(max_tokens=20_000)
    assert "watermark_not_synced" == gate.problem(large, arm=ARM)
    raised = gate.raised_watermarks()
    assert [PutLease] == [type(effect) for effect in raised]
    gate.synced(raised)
    assert "" == gate.problem(large, arm=ARM)


def test_where_requests_wait_a_refusal_makes_room_for_two() -> None:
    """Whoever comes together after the next sync is not refused again (rule L_6)."""
    gate, _ = open_gate()
    gate.on_demand = True
    large = sized(8 * WORST_CASE_NANOS)
    row, problem, effects = gate.reserve(large, arm=ARM, boot_ms=0)
    assert (None, "watermark_not_synced") == (row, problem)
    gate.synced(effects)
    for _ in range(2):
        assert gate.reserve(large, arm=ARM, boot_ms=0)[0] is not None


def test_a_grant_for_another_incarnation_is_ignored() -> None:
    """Leases belong to one start of the process (rule D_1)."""
    gate = gate_of()
    assert [] == gate.granted(granted(), incarnation="inc-0", boot_ms=0)
    assert 0 == gate.number_max


def test_a_grant_is_to_be_synced_with_its_number() -> None:
    """The number and the first watermark come before the first reservation (rule L_1)."""
    gate = gate_of()
    effects = gate.granted(granted(3), incarnation="inc-1", boot_ms=0)
    assert [PutMeta(MetaKey.LEASE_NUMBER_MAX, "3"), PutLease] == [effects[0], type(effects[1])]
    assert "watermark_not_synced" == gate.problem(facts(), arm=ARM)
    gate.synced(effects)
    assert "" == gate.problem(facts(), arm=ARM)
    assert [] == gate.granted(granted(3), incarnation="inc-1", boot_ms=0)


def test_usage_above_the_reservation_closes_the_arm() -> None:
    """Its prices or bounds are wrong; it is not called again (rule S_4)."""
    gate, _ = open_gate()
    row, _, _ = gate.reserve(facts(), arm=ARM, boot_ms=0)
    assert row is not None
    settled, effects = gate.settle(
        row.id, arm="cloud", kind=SettleKind.REPORTED, cost_nanos=WORST_CASE_NANOS + 1
    )
    assert 1 == settled.overrun_nanos
    assert DropReservation(row.id) in effects
    assert "overrun" == gate.problem(facts(), arm=ARM)
    assert "" == gate.problem(facts(), arm=cloud_arm("other"))


def test_late_usage_is_spooled_as_a_correction() -> None:
    """The difference, on the lease that was charged (rule S_3); nothing if there is none."""
    gate, _ = open_gate()
    row, _, _ = gate.reserve(facts(), arm=ARM, boot_ms=0)
    assert row is not None
    settled, _ = gate.settle(row.id, arm="cloud", kind=SettleKind.UNKNOWN, cost_nanos=0)
    assert [] == gate.correct(settled, request_id="r1", cost_nanos=WORST_CASE_NANOS)
    (found,) = spooled(gate.correct(settled, request_id="r1", cost_nanos=10))
    assert CostAdjustment("r1", 1, 10 - WORST_CASE_NANOS, "usage came late") == found


def test_a_stop_in_the_same_boot_reports_each_open_call_in_full() -> None:
    """Interrupted calls come before the close, in one transaction (rules I5, L_4)."""
    gate, effects = open_gate()
    effects += (
        gate.reserve(facts("r1"), arm=ARM, boot_ms=0)[2]
        + gate.reserve(facts("r2"), arm=ARM, boot_ms=0)[2]
    )
    after = gate_of(snapshot_of(effects), incarnation="inc-2").recover()
    first, second, close = spooled(after)
    assert isinstance(first, Outcome)
    assert ("r1", "r2") == (first.request_id, second.request_id)
    assert (RequestStatus.INTERRUPTED, WORST_CASE_NANOS) == (first.status, first.cost_nanos)
    assert LeaseClose(1, 2 * WORST_CASE_NANOS, clean=False, reason="process ended") == close
    assert DropLease(1) == after[-1]


def test_after_a_reboot_the_watermark_speaks() -> None:
    """What was not synced may have been lost, so no single call is reported (rule L_4)."""
    gate, effects = open_gate()
    effects += gate.reserve(facts("r1"), arm=ARM, boot_ms=0)[2]
    snapshot = snapshot_of(effects)
    after = gate_of(snapshot, incarnation="inc-2", boot_id="boot-2").recover()
    watermark = snapshot.leases[0].watermark_nanos
    assert [LeaseClose(1, watermark, clean=False, reason="rebooted")] == spooled(after)
    assert snapshot_of([*effects, *after]).reservations == ()


def test_a_second_start_has_nothing_to_close() -> None:
    """A close is told once."""
    _, effects = open_gate()
    effects += gate_of(snapshot_of(effects), incarnation="inc-2").recover()
    assert [] == spooled(gate_of(snapshot_of(effects), incarnation="inc-3").recover())


def test_a_recalled_lease_is_closed_when_nothing_is_open() -> None:
    """The close is spooled and the lease dropped together (rule L_5)."""
    gate, _ = open_gate()
    gate.recalled(0, boot_ms=0, reason="the budget was cut")
    effects = gate.close_idle()
    assert [LeaseClose(1, 0, clean=True, reason="the budget was cut")] == spooled(effects)
    assert DropLease(1) == effects[-1]
    assert [] == gate.close_idle()


def test_a_pause_and_a_quarantine_are_kept_across_starts() -> None:
    """An operator's word holds when the coordinator is away."""
    gate, effects = open_gate()
    effects += [*gate.pause(True), *gate.quarantine("a clone")]
    assert ([], []) == (gate.pause(True), gate.quarantine("a clone"))
    later = gate_of(snapshot_of(effects), incarnation="inc-2")
    assert (True, "a clone") == (later.spend_paused, later.quarantined)


def test_a_number_stays_used_when_its_lease_is_gone() -> None:
    """A grant that was repeated on the way must not be spent again (rule L_1)."""
    gate, effects = open_gate()
    effects += gate.recalled(0, boot_ms=0, reason="x")
    effects += gate.close_idle()
    later = gate_of(snapshot_of(effects), incarnation="inc-2")
    assert [] == later.granted(granted(1), incarnation="inc-2", boot_ms=0)
    assert [] != later.granted(granted(2), incarnation="inc-2", boot_ms=0)


def test_where_boots_cannot_be_told_apart_no_call_is_reported() -> None:
    """Two starts without a boot id may have a loss of power between them (rule L_3)."""
    first = gate_of(boot_id="")
    effects = [*first.recover(), *first.granted(granted(), incarnation="inc-1", boot_ms=0)]
    first.synced(effects)
    effects += first.reserve(facts(), arm=ARM, boot_ms=0)[2]
    (close,) = spooled(gate_of(snapshot_of(effects), incarnation="inc-2", boot_id="").recover())
    assert "rebooted" == close.reason


def test_a_start_notes_its_process_boot_and_place() -> None:
    """By them the next one knows what it finds."""
    meta = snapshot_of(gate_of().recover()).meta
    assert ("boot-1", "here", "") == (
        meta[MetaKey.BOOT_ID],
        meta[MetaKey.PLACE],
        meta[MetaKey.COPIED],
    )
    assert '[["inc-1", 0]]' == meta[MetaKey.INCARNATIONS]


def test_a_call_that_was_interrupted_is_told_with_all_that_is_known() -> None:
    """What the draw was is not, so nothing is learned from it."""
    gate, effects = open_gate()
    effects += gate.reserve(facts("r1", key_tag="shop"), arm=ARM, boot_ms=0)[2]
    found, _ = spooled(gate_of(snapshot_of(effects), incarnation="inc-2").recover())
    attempt = Attempt(
        "cloud", 0, "interrupted", 1, WORST_CASE_NANOS, WORST_CASE_NANOS, SettleKind.UNKNOWN
    )
    reason = "the agent stopped in the middle"
    expected = Outcome(
        "r1", "other", 1_000, RequestStatus.INTERRUPTED, "", "cloud", 0, 0, reason, forced=True,
        attempts=(attempt,), tag="shop",
    )  # fmt: skip
    assert expected == found


def test_a_judges_call_that_was_interrupted_is_no_request() -> None:
    """It is booked in full, as what it was (rule S_2)."""
    gate, effects = open_gate()
    effects += gate.reserve(facts("r1.judge"), arm=ARM, boot_ms=0, judge=True)[2]
    found, _ = spooled(gate_of(snapshot_of(effects), incarnation="inc-2").recover())
    attempt = Attempt(
        "cloud", 0, "interrupted", 1, WORST_CASE_NANOS, WORST_CASE_NANOS, SettleKind.UNKNOWN
    )
    assert JudgeCall("r1.judge", attempt) == found


@pytest.mark.parametrize(("acked", "forgotten"), [(4, False), (5, True)])
def test_an_overrun_is_forgotten_when_its_record_is_booked(acked: int, forgotten: bool) -> None:
    """And a configuration comes after that; later records do not matter."""
    effects = gate_of().overran(ARM.id, told=5)
    gate = gate_of(replace(snapshot_of(effects), spool_last=9, place="here"))
    gate._outbox.ack(acked, boot_ms=0)
    assert forgotten is bool(gate.configured())
    assert forgotten is ("overrun" != gate.problem(facts(), arm=ARM))


def test_an_overrun_whose_record_is_unknown_is_forgotten_with_all_that_was_spooled() -> None:
    """The process ended before it could note the record."""
    effects = gate_of().overran(ARM.id)
    later = gate_of(replace(snapshot_of(effects), spool_last=3), incarnation="inc-2")
    later._outbox.ack(2, boot_ms=0)
    assert [] == later.configured()
    later._outbox.ack(3, boot_ms=0)
    assert [] != later.configured()


def test_what_holds_for_all_paid_arms_is_told_at_once() -> None:
    """Below a worst case for which there is room, no arm has to be looked at by itself."""
    gate, _ = open_gate()
    assert Allowance("", 5 * WORST_CASE_NANOS) == gate.allowance("")
    gate.books_problem = "books_full"
    assert Allowance("books_full", 5 * WORST_CASE_NANOS) == gate.allowance("")
    gate.overran("other")
    assert Allowance("books_full", -1) == gate.allowance(""), "one arm is closed: look at each"


def test_asking_for_what_fits_changes_nothing() -> None:
    """A choice among arms is no reservation, and needs no sync."""
    gate, _ = open_gate()
    for _ in range(2):
        gate.reserve(facts(), arm=ARM, boot_ms=0)
    assert "" == gate.problem(sized(3 * WORST_CASE_NANOS), arm=ARM)
    assert [] == gate.raised_watermarks()


def test_what_a_refused_reservation_raised_is_committed() -> None:
    """The higher watermark is in the effects, or the next request would lack it too."""
    gate, _ = open_gate()
    row, problem, effects = gate.reserve(sized(8 * WORST_CASE_NANOS), arm=ARM, boot_ms=0)
    assert (None, "watermark_not_synced") == (row, problem)
    assert 13 * WORST_CASE_NANOS == watermark_of(effects)


def test_a_reservation_says_for_whom_it_is() -> None:
    """If the process ends, its successor reports the request from this row."""
    gate, _ = open_gate()
    row, _, _ = gate.reserve(facts("q"), arm=ARM, boot_ms=0)
    assert row is not None
    assert ("q", "cloud", "other", 1_000) == (
        row.request_id,
        row.arm,
        row.task_class,
        row.arrived_unix_ms,
    )


def test_a_copy_is_told_once() -> None:
    """Books that are no copy have nothing to forget."""
    gate = gate_of()
    assert [] == gate.copy_known()
    gate.copied = True
    assert [PutMeta(MetaKey.COPIED, "")] == gate.copy_known()
    assert not gate.copied
    assert [] == gate.copy_known()


def test_a_recall_is_committed() -> None:
    """After the process has ended its successor must know that the lease was closing."""
    gate, _ = open_gate()
    (effect,) = gate.recalled(1, boot_ms=7, reason="x")
    assert isinstance(effect, PutLease)
    assert ("closing", 7) == (effect.row.state, effect.row.closing_since_boot_ms)


def test_a_close_is_the_last_that_the_books_hear_of_a_lease() -> None:
    """Several at once, each spooled and dropped; nothing of them is written afterwards."""
    gate, _ = open_gate()
    gate.granted(granted(2), incarnation="inc-1", boot_ms=0)
    gate.expire(boot_ms=60_000, unix_ms=0)
    effects = gate.close_idle()
    assert [1, 2] == [close.lease_number for close in spooled(effects)]
    assert ["closed", "closed"] == [e.row.state for e in effects if isinstance(e, PutLease)]
    assert [DropLease(1), DropLease(2)] == effects[-2:]
    assert [] == gate.recalled(0, boot_ms=0, reason="x")


def test_without_a_close_nothing_has_to_be_synced() -> None:
    """Other changes wait for whoever made them."""
    gate, _ = open_gate()
    gate.problem(sized(8 * WORST_CASE_NANOS), arm=ARM)
    assert [] == gate.close_idle()
    assert 13 * WORST_CASE_NANOS == watermark_of(gate.reserve(facts(), arm=ARM, boot_ms=0)[2])


def test_a_pause_can_be_lifted_for_good() -> None:
    """The later word holds after a restart."""
    gate = gate_of()
    effects = [*gate.pause(True), *gate.pause(False)]
    assert not gate_of(snapshot_of(effects)).spend_paused


def test_a_lease_that_is_too_small_for_the_least_request_goes_back() -> None:
    """It is judged by the smallest request of late, which counts less and less (rule L_6)."""
    small, large = WORST_CASE_NANOS + 100, 10 * WORST_CASE_NANOS
    least = small
    for _ in range(40):
        least = least * 101 // 100
    gate, _ = open_gate(amount=least)
    gate.expire(boot_ms=1, unix_ms=0)
    for worst_case in (large, small):
        gate.problem(sized(worst_case), arm=ARM)
    gate.expire(boot_ms=1, unix_ms=0)
    assert [False] == [lease.closing for lease in gate.leases()], "small ones still fit"
    for _ in range(40):
        gate.problem(sized(large), arm=ARM)
        assert [] == gate.expire(boot_ms=7, unix_ms=0)
    gate.problem(sized(large), arm=ARM)
    (effect,) = gate.expire(boot_ms=7, unix_ms=0)
    assert isinstance(effect, PutLease)
    assert ("used up", 7) == (effect.row.close_reason, effect.row.closing_since_boot_ms)


SHOP = [KeyBudget("shop", 4 * WORST_CASE_NANOS, 1_000)]
"""Room for four requests of the key `shop`; one at a time before a sync."""


def with_room(gate: Gate) -> str:
    """Why a request of the key `shop` is refused once what is raised is synced; empty if not."""
    gate.problem(facts(key_tag="shop"), arm=ARM)
    gate.synced(gate.raised_watermarks())
    return gate.problem(facts(key_tag="shop"), arm=ARM)


def test_a_keys_budget_is_held_with_the_lease_and_settled_with_it() -> None:
    """Reservation and budget are in the same commits; what was not spent has room again."""
    gate, _ = open_gate(key_budgets=SHOP)
    rows = []
    for _ in range(4):
        assert "" == with_room(gate)
        row, _, effects = gate.reserve(facts(key_tag="shop"), arm=ARM, boot_ms=0)
        assert row is not None
        assert ("shop", 0) == (row.key_tag, row.key_window)
        rows.append(row)
    assert "key_budget" == with_room(gate)
    assert "" == gate.problem(facts(key_tag="lab"), arm=ARM), "another key is not concerned"
    assert 0 == gate.allowance("shop").room_nanos
    assert (1_000, 0) == tuple(gate.key_budget_ends_unix_ms(key) for key in ("shop", "lab"))
    _, effects = gate.settle(rows[0].id, arm=ARM.id, kind=SettleKind.RELEASED, cost_nanos=0)
    assert {PutLease, DropReservation, PutKeyBudget} == {type(effect) for effect in effects}
    assert "" == with_room(gate)


def test_the_least_of_lease_and_budget_is_the_room_of_a_key() -> None:
    """Whichever is synced for less."""
    gate, _ = open_gate(key_budgets=[KeyBudget("shop", 100 * WORST_CASE_NANOS, 1_000)])
    assert Allowance("", 5 * WORST_CASE_NANOS) == gate.allowance("shop")
    gate, _ = open_gate(key_budgets=SHOP)
    assert Allowance("", WORST_CASE_NANOS) == gate.allowance("shop")


def test_a_request_beyond_what_is_synced_for_its_key_gets_through_after_the_next_sync() -> None:
    """It is refused once, and asks for more; its key has the money."""
    gate, _ = open_gate(key_budgets=SHOP)
    large = replace(sized(2 * WORST_CASE_NANOS), key_tag="shop")
    row, problem, effects = gate.reserve(large, arm=ARM, boot_ms=0)
    assert (None, "watermark_not_synced") == (row, problem)
    assert [PutKeyBudget] == [type(effect) for effect in effects]
    gate.synced(gate.raised_watermarks())
    assert gate.reserve(large, arm=ARM, boot_ms=0)[0] is not None


def test_a_key_whose_budget_was_changed_is_held_to_the_new_one() -> None:
    """At once, and with what it has spent."""
    gate, _ = open_gate(key_budgets=SHOP)
    gate.reserve(facts(key_tag="shop"), arm=ARM, boot_ms=0)
    gate.limit_keys([KeyBudget("shop", WORST_CASE_NANOS, 1_000)])
    assert "key_budget" == with_room(gate)
    gate.limit_keys([])
    assert "" == with_room(gate)


def test_a_request_beyond_its_keys_budget_does_not_touch_the_lease() -> None:
    """Nor does it make the device ask for a larger one."""
    gate, _ = open_gate(key_budgets=[KeyBudget("shop", 1, 1_000)])
    before = gate.available_nanos
    row, problem, effects = gate.reserve(facts(key_tag="shop"), arm=ARM, boot_ms=0)
    assert (None, "key_budget", []) == (row, problem, effects)
    assert before == gate.available_nanos
    wish = gate.wish(now_ms=0, boot_ms=0)
    assert wish is None or 0 == wish.worst_case_nanos


def test_a_keys_window_in_the_future_ends_by_the_time_since_boot() -> None:
    """It was opened by a clock that was wrong (see `KeyBudgetBook`)."""
    gate, _ = open_gate(key_budgets=[KeyBudget("shop", 1, 1_000)])
    gate.expire(boot_ms=0, unix_ms=90_000)
    gate.synced(gate.raised_watermarks())
    for boot_ms, ends in ((10, 91_000), (1_009, 91_000), (1_010, 6_000)):
        gate.expire(boot_ms=boot_ms, unix_ms=5_500)
        gate.synced(gate.raised_watermarks())
        assert ends == gate.key_budget_ends_unix_ms("shop")


def test_what_a_killed_process_had_reserved_counts_on_its_key() -> None:
    """In the same boot at the reservation, in another one at the watermark."""
    gate, effects = open_gate(key_budgets=SHOP)
    effects += gate.reserve(facts(key_tag="shop"), arm=ARM, boot_ms=0)[2]
    books = snapshot_of(effects)
    for boot_id in ("boot-1", "boot-2"):
        later = gate_of(books, incarnation="inc-2", boot_id=boot_id, key_budgets=SHOP)
        later.recover()
        (status,) = later.key_budgets()
        spent = status.settled_nanos
        assert 0 == status.reserved_nanos
        watermark = books.key_budgets[0].watermark_nanos
        assert spent == (WORST_CASE_NANOS if boot_id == "boot-1" else watermark)


def test_a_copy_leaves_nothing_to_the_keys_of_its_original() -> None:
    """Until their next window."""
    _, effects = open_gate(key_budgets=SHOP)
    books = replace(snapshot_of(effects), place="there")
    copy = gate_of(books, incarnation="inc-2", key_budgets=SHOP)
    copy.recover()
    assert [4 * WORST_CASE_NANOS] == [each.settled_nanos for each in copy.key_budgets()]


def test_usage_that_comes_late_is_corrected_on_the_key_as_well() -> None:
    """In the commit that tells the coordinator (rule S_3)."""
    gate, _ = open_gate(key_budgets=SHOP)
    row, _, _ = gate.reserve(facts(key_tag="shop"), arm=ARM, boot_ms=0)
    assert row is not None
    settled, _ = gate.settle(row.id, arm=ARM.id, kind=SettleKind.UNKNOWN, cost_nanos=0)
    effects = gate.correct(settled, request_id="r1", cost_nanos=7)
    assert {AppendSpool, PutKeyBudget} == {type(effect) for effect in effects}
    assert [7] == [each.settled_nanos for each in gate.key_budgets()]


def test_the_word_of_lost_books_stands_until_the_device_may_spend_again() -> None:
    """A readmission ends it, a quarantine does not, and a restart knows it (rule O_3)."""
    meta = {MetaKey.BOOKS_LOST: "they were corrupt"}
    gate = gate_of(BooksSnapshot(place="here", meta=meta))
    assert [PutMeta(MetaKey.QUARANTINED, "a clone")] == gate.quarantine("a clone")
    assert "they were corrupt" == gate.books_lost
    ended = [PutMeta(MetaKey.QUARANTINED, ""), PutMeta(MetaKey.BOOKS_LOST, "")]
    assert ended == gate.quarantine("")
    assert ("", []) == (gate.books_lost, gate.quarantine(""))
