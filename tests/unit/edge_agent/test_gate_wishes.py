"""When a device asks for a lease, and who waits for it (rule L_6)."""

from __future__ import annotations

import pytest

from edge_agent.gate import HOARD_MS_MAX, Gate
from shared.decision.key_budget import KeyBudget
from shared.decision.lease import LeaseWish
from tests.fakes.samples import WORST_CASE_NANOS, facts, granted
from tests.unit.edge_agent.test_gate import ARM, gate_of, open_gate, sized, watermark_of


def wishes(gate: Gate, *, now_ms: float) -> bool:
    """Whether the device asks now."""
    return gate.wish(now_ms=now_ms, boot_ms=0) is not None


def on_demand() -> Gate:
    """A gate whose requests can wait; it has seen one of `WORST_CASE_NANOS`."""
    gate = gate_of()
    gate.on_demand = True
    gate.problem(facts(), arm=ARM)
    return gate


def lend(gate: Gate, number: int, *, amount: int, boot_ms: int = 0) -> None:
    """A lease arrives and is synced."""
    gate.synced(gate.granted(granted(number, amount=amount), incarnation="inc-1", boot_ms=boot_ms))


def closing(gate: Gate) -> list[bool]:
    """Which of its leases are on their way back."""
    return [lease.closing for lease in gate.leases()]


def test_a_device_asks_when_its_money_is_low() -> None:
    """At once without a lease, then not while half of the newest one is left (rule L_6)."""
    assert LeaseWish(0, 0, 0, 7, 0) == gate_of().wish(now_ms=0.0, boot_ms=7)
    gate, _ = open_gate()
    assert gate.wish(now_ms=0.0, boot_ms=7) is None
    for _ in range(10):
        gate.reserve(facts(), arm=ARM, boot_ms=0)
        gate.synced(gate.raised_watermarks())
    assert LeaseWish(10 * WORST_CASE_NANOS, WORST_CASE_NANOS, 0, 7, 1) == gate.wish(
        now_ms=0.0, boot_ms=7
    )
    assert gate.wish(now_ms=499.0, boot_ms=7) is None
    assert gate.wish(now_ms=500.0, boot_ms=7) is not None


def test_a_refused_device_waits_as_it_was_told() -> None:
    """And remembers the reason for its clients."""
    gate = gate_of()
    gate.refused("it is spent", now_ms=0.0, retry_after_ms=2_000.0)
    assert "it is spent" == gate.refused_because
    assert gate.wish(now_ms=1_999.0, boot_ms=7) is None
    assert gate.wish(now_ms=2_000.0, boot_ms=7) is not None


@pytest.mark.parametrize("name", ["spend_paused", "quarantined", "books_problem", "stopping"])
def test_a_device_that_may_not_spend_does_not_ask(name: str) -> None:
    """Money that could not be used is better left to others."""
    gate = gate_of()
    setattr(gate, name, "x")
    assert gate.wish(now_ms=0.0, boot_ms=7) is None


def test_a_store_may_be_asked_for_at_once_and_then_after_a_while() -> None:
    """Also by a device whose requests can wait; an answer does not shorten the while."""
    gate = on_demand()
    assert wishes(gate, now_ms=0.0)
    lend(gate, 1, amount=2 * WORST_CASE_NANOS)
    assert not wishes(gate, now_ms=499.0)
    assert wishes(gate, now_ms=500.0)


def test_a_device_with_few_requests_left_asks_however_small_its_lease() -> None:
    """Four worst cases, or half of the newest lease, whichever is more."""
    gate, _ = open_gate(amount=6 * WORST_CASE_NANOS)
    for asks in (False, True):
        gate.reserve(facts(), arm=ARM, boot_ms=0)
        gate.synced(gate.raised_watermarks())
        assert asks is wishes(gate, now_ms=0.0)


def test_a_device_asks_when_none_of_its_leases_fits_a_request() -> None:
    """Together they have enough, but each of them only a rest."""
    gate = gate_of()
    gate.problem(facts(), arm=ARM)
    for number in range(1, 7):
        lend(gate, number, amount=WORST_CASE_NANOS - 1)
    assert gate.available_nanos > 4 * WORST_CASE_NANOS
    assert wishes(gate, now_ms=0.0)


def test_the_largest_request_fades_by_one_in_a_hundred() -> None:
    """A wish asks for what is usual of late, in whole nano-dollars."""
    gate = gate_of()
    large = 1_234_500
    gate.problem(sized(large), arm=ARM)
    for _ in range(2):
        gate.problem(facts(), arm=ARM)
    faded = large * 99 // 100 * 99 // 100
    assert repr(LeaseWish(0, faded, 0, 0, 0)) == repr(gate.wish(now_ms=0.0, boot_ms=0))


def test_a_lease_on_demand_is_open_for_four_requests_and_then_two_ahead() -> None:
    """However large they are: whoever comes before a sync goes without."""
    gate, large = on_demand(), 20 * WORST_CASE_NANOS
    gate.problem(sized(large), arm=ARM)
    lease = granted(amount=200 * WORST_CASE_NANOS)
    effects = gate.granted(lease, incarnation="inc-1", boot_ms=0)
    assert 4 * large == watermark_of(effects)
    gate.synced(effects)
    gate.reserve(sized(large), arm=ARM, boot_ms=0)
    assert [] == gate.raised_watermarks()
    gate.reserve(sized(large), arm=ARM, boot_ms=0)
    assert [] != gate.raised_watermarks()


def test_a_lease_that_is_not_on_demand_is_opened_step_by_step() -> None:
    """There half a step ahead is enough."""
    gate, _ = open_gate(amount=100 * WORST_CASE_NANOS)
    gate.reserve(sized(9 * WORST_CASE_NANOS), arm=ARM, boot_ms=0)
    assert [] == gate.raised_watermarks()


def test_a_first_lease_on_demand_is_open_to_its_end() -> None:
    """Nothing is known of requests yet."""
    gate = gate_of()
    gate.on_demand = True
    effects = gate.granted(granted(amount=1_000), incarnation="inc-1", boot_ms=0)
    assert 1_000 == watermark_of(effects)


def test_a_grant_ends_what_was_said_of_a_refusal() -> None:
    """Clients are told of the present only."""
    gate = gate_of()
    gate.refused("it is spent", now_ms=0.0, retry_after_ms=0.0)
    lend(gate, 1, amount=WORST_CASE_NANOS)
    assert "" == gate.refused_because


def test_refusals_of_requests_are_counted() -> None:
    """Those of a store are not: nobody waited."""
    gate = on_demand()
    counts = [gate.refusals]
    gate.refused("nothing to spare", now_ms=0.0, retry_after_ms=0.0)
    counts.append(gate.refusals)
    for name in ("r1", "r2"):
        gate.need(name, amount_nanos=WORST_CASE_NANOS)
        assert wishes(gate, now_ms=1_000.0)
        gate.refused("it is spent", now_ms=0.0, retry_after_ms=0.0)
        counts.append(gate.refusals)
    assert [0, 0, 1, 2] == counts


@pytest.mark.parametrize(("retry_after_ms", "again_ms"), [(100.0, 10_000.0), (60_000.0, 60_000.0)])
def test_a_refused_store_is_asked_for_again_after_a_while(
    retry_after_ms: float, again_ms: float
) -> None:
    """Not before ten seconds, nor before the coordinator wants to be asked."""
    gate = on_demand()
    assert wishes(gate, now_ms=0.0)
    gate.refused("nothing to spare", now_ms=1_000.0, retry_after_ms=retry_after_ms)
    assert not wishes(gate, now_ms=999.0 + again_ms)
    assert wishes(gate, now_ms=1_000.0 + again_ms)


def test_one_large_request_does_not_keep_the_store_empty() -> None:
    """If so much cannot be lent, the next store is one for the smallest request again."""
    gate = on_demand()
    gate.problem(sized(50 * WORST_CASE_NANOS), arm=ARM)
    wish = gate.wish(now_ms=0.0, boot_ms=0)
    assert wish is not None
    assert 50 * WORST_CASE_NANOS == wish.worst_case_nanos
    gate.refused("nothing to spare", now_ms=0.0, retry_after_ms=0.0)
    again = gate.wish(now_ms=10_000.0, boot_ms=0)
    assert again is not None
    assert WORST_CASE_NANOS <= again.worst_case_nanos <= WORST_CASE_NANOS * 101 // 100


def test_a_device_whose_requests_cannot_wait_keeps_its_store() -> None:
    """Neither a refusal nor a small lease keeps it from asking ahead."""
    gate = gate_of()
    gate.problem(facts(), arm=ARM)
    gate.refused("nothing to spare", now_ms=0.0, retry_after_ms=0.0)
    lend(gate, 1, amount=WORST_CASE_NANOS)
    gate.expire(boot_ms=HOARD_MS_MAX, unix_ms=0)
    assert [False] == closing(gate)
    assert wishes(gate, now_ms=0.0)


@pytest.mark.parametrize(("missing", "stores"), [(0, True), (1, False)])
def test_a_lease_for_two_requests_is_a_store(missing: int, stores: bool) -> None:
    """With less, money is scarce: the lease goes back unused, and none is asked for ahead."""
    gate = on_demand()
    lend(gate, 1, amount=2 * WORST_CASE_NANOS - missing, boot_ms=500)
    gate.expire(boot_ms=499 + HOARD_MS_MAX, unix_ms=0)
    assert [False] == closing(gate)
    gate.expire(boot_ms=500 + HOARD_MS_MAX, unix_ms=0)
    assert [not stores] == closing(gate)
    assert stores is wishes(gate, now_ms=10**9)


def test_what_is_left_of_an_old_lease_goes_back_from_a_busy_device_too() -> None:
    """It never has a quiet moment: whatever it has borrowed since is no reason to keep the rest."""
    gate = on_demand()
    lend(gate, 1, amount=WORST_CASE_NANOS, boot_ms=0)
    lend(gate, 2, amount=WORST_CASE_NANOS, boot_ms=HOARD_MS_MAX - 1)
    gate.expire(boot_ms=HOARD_MS_MAX, unix_ms=0)
    assert [True, False] == closing(gate)


def test_a_lease_is_kept_as_long_as_somebody_waits() -> None:
    """It may be for that request."""
    gate = on_demand()
    lend(gate, 1, amount=WORST_CASE_NANOS)
    gate.need("r1", amount_nanos=WORST_CASE_NANOS)
    assert gate.anybody_waits
    gate.expire(boot_ms=HOARD_MS_MAX, unix_ms=0)
    assert [False] == closing(gate)
    gate.needs_no_more("r1")
    assert not gate.anybody_waits
    gate.expire(boot_ms=HOARD_MS_MAX, unix_ms=0)
    assert [True] == closing(gate)


def test_a_lease_whose_time_is_over_goes_back_at_the_next_house_keeping() -> None:
    """However much is left in it."""
    gate = on_demand()
    lend(gate, 1, amount=20 * WORST_CASE_NANOS)
    gate.expire(boot_ms=60_000, unix_ms=0)
    assert [True] == closing(gate)


def test_one_wish_is_under_way_at_a_time() -> None:
    """Who comes while a store is asked for waits for that answer first."""
    gate = on_demand()
    assert wishes(gate, now_ms=0.0)
    gate.need("r1", amount_nanos=WORST_CASE_NANOS)
    assert not wishes(gate, now_ms=100.0)
    gate.refused("nothing to spare", now_ms=100.0, retry_after_ms=0.0)
    assert wishes(gate, now_ms=100.0)


def test_a_request_whose_lease_has_come_asks_for_none() -> None:
    """It only has not been woken yet."""
    gate = on_demand()
    gate.need("r1", amount_nanos=WORST_CASE_NANOS)
    assert wishes(gate, now_ms=0.0)
    lend(gate, 1, amount=WORST_CASE_NANOS)
    assert not wishes(gate, now_ms=10_000.0)


def test_a_wish_asks_for_all_who_wait() -> None:
    """For the largest at once, and for what they need together."""
    gate = on_demand()
    gate.need("r1", amount_nanos=30)
    gate.need("r2", amount_nanos=50)
    assert LeaseWish(0, 50, 80, asked_boot_ms=7, lease_number_max=0) == gate.wish(
        now_ms=0.0, boot_ms=7
    )


def test_only_a_missing_lease_or_sync_is_worth_a_wait() -> None:
    """Not a closed arm, nor anything while the agent stops."""
    gate = on_demand()
    problems = ("no_lease", "lease_too_small", "watermark_not_synced", "overrun", "")
    found = [problem for problem in problems if gate.may_come(problem, now_ms=0.0)]
    assert ["no_lease", "lease_too_small", "watermark_not_synced"] == found
    gate.stopping = True
    assert not any(gate.may_come(problem, now_ms=0.0) for problem in problems)


def test_a_request_that_waits_for_a_sync_asks_the_coordinator_for_nothing() -> None:
    """Nor does it take it for silent when the disk is slow; its lease is not given back."""
    gate = on_demand()
    lend(gate, 1, amount=WORST_CASE_NANOS)
    gate.need_sync("r1", amount_nanos=WORST_CASE_NANOS)
    assert gate.anybody_waits
    assert gate.is_needed("r1")
    assert gate.needs_sync("r1")
    assert not wishes(gate, now_ms=10_000.0)
    gate.expire(boot_ms=HOARD_MS_MAX, unix_ms=0)
    assert [False] == closing(gate)
    gate.needs_no_more("r1", in_vain=True)
    assert gate.may_come("no_lease", now_ms=0.0)
    assert not gate.anybody_waits


def test_who_goes_on_to_wait_for_a_sync_asks_for_no_more() -> None:
    """A lease has come that has room for it."""
    gate = on_demand()
    lend(gate, 1, amount=WORST_CASE_NANOS)
    gate.need("r1", amount_nanos=2 * WORST_CASE_NANOS)
    assert wishes(gate, now_ms=10_000.0)
    gate.need_sync("r1", amount_nanos=WORST_CASE_NANOS)
    assert not wishes(gate, now_ms=20_000.0)


def test_a_sync_is_wanted_only_when_somebody_waits_for_one() -> None:
    """Else the house-keeping's next round is soon enough."""
    gate = on_demand()
    gate.granted(granted(1, amount=WORST_CASE_NANOS), incarnation="inc-1", boot_ms=0)
    assert gate.raised_watermarks()
    assert not gate.sync_would_help
    gate.need_sync("r1", amount_nanos=WORST_CASE_NANOS)
    assert gate.sync_would_help


def test_one_sync_lets_all_through_that_wait_for_one() -> None:
    """Not one after the other; and whoever has gone no longer has the watermark raised."""
    gate = on_demand()
    lend(gate, 1, amount=100 * WORST_CASE_NANOS)
    (before,) = gate.leases()
    for number in [*range(40), *range(40)]:  # each asks again when it is woken in vain
        gate.need_sync(f"r{number}", amount_nanos=WORST_CASE_NANOS)
    assert gate.sync_would_help
    (raised,) = gate.leases()
    assert before.watermark_nanos < raised.watermark_nanos == 40 * WORST_CASE_NANOS
    gate.synced(gate.raised_watermarks())
    assert not gate.sync_would_help
    for number in range(40):
        gate.needs_no_more(f"r{number}")
    gate.need_sync("r40", amount_nanos=WORST_CASE_NANOS)
    assert [raised.watermark_nanos] == [lease.watermark_nanos for lease in gate.leases()]


def test_one_sync_does_for_all_that_wait_with_the_same_key() -> None:
    """Its budget's watermark is raised for their sum, and no further than the budget."""
    gate = gate_of(key_budgets=[KeyBudget("shop", 50 * WORST_CASE_NANOS, 3_600_000)])
    gate.on_demand = True
    gate.expire(boot_ms=0, unix_ms=0)
    gate.synced(gate.raised_watermarks())
    lend(gate, 1, amount=100 * WORST_CASE_NANOS)
    for number in range(40):
        gate.need_sync(f"r{number}", amount_nanos=WORST_CASE_NANOS, key_tag="shop")
    gate.need_sync("other", amount_nanos=WORST_CASE_NANOS)
    gate.synced(gate.raised_watermarks())
    assert 40 * WORST_CASE_NANOS == gate.allowance("shop").room_nanos
    for number in range(40, 60):
        gate.need_sync(f"r{number}", amount_nanos=WORST_CASE_NANOS, key_tag="shop")
    gate.synced(gate.raised_watermarks())
    assert 50 * WORST_CASE_NANOS == gate.allowance("shop").room_nanos


def test_a_request_may_go_on_to_wait_for_another_thing() -> None:
    """The lease with the watermark was recalled, and another one has come without."""
    gate = on_demand()
    gate.need_sync("r1", amount_nanos=WORST_CASE_NANOS)
    gate.need("r1", amount_nanos=WORST_CASE_NANOS)
    assert not gate.needs_sync("r1")
    assert wishes(gate, now_ms=0.0)
    gate.need_sync("r1", amount_nanos=WORST_CASE_NANOS)
    gate.needs_no_more("r1", in_vain=True)
    assert gate.may_come("no_lease", now_ms=0.0), "the coordinator was not waited for"


@pytest.mark.parametrize(
    ("heard", "in_vain", "silent"),
    [(False, True, True), (True, True, False), (False, False, False)],
)
def test_the_coordinator_is_silent_if_a_request_has_heard_nothing_of_it(
    heard: bool, in_vain: bool, silent: bool
) -> None:
    """A lease that is too small is a sign of life; a request that stopped earlier is no proof."""
    gate = on_demand()
    gate.need("r1", amount_nanos=2 * WORST_CASE_NANOS)
    if heard:
        lend(gate, 1, amount=WORST_CASE_NANOS)
        gate.need("r1", amount_nanos=2 * WORST_CASE_NANOS)
    gate.needs_no_more("r1", in_vain=in_vain)
    assert silent is not gate.may_come("no_lease", now_ms=0.0)
    gate.needs_no_more("r1", in_vain=True)
    assert silent is not gate.may_come("no_lease", now_ms=0.0), "it no longer waited"


def test_a_refusal_ends_the_silence() -> None:
    """From then on requests wait again."""
    gate = on_demand()
    gate.need("r1", amount_nanos=WORST_CASE_NANOS)
    gate.needs_no_more("r1", in_vain=True)
    assert not gate.may_come("no_lease", now_ms=0.0)
    gate.refused("nothing to spare", now_ms=0.0, retry_after_ms=0.0)
    assert gate.may_come("no_lease", now_ms=0.0)


def test_while_the_coordinator_is_silent_a_store_is_asked_for_and_kept() -> None:
    """Nobody waits for a lease, so whatever comes has to come ahead."""
    gate = on_demand()
    lend(gate, 1, amount=WORST_CASE_NANOS)
    assert not wishes(gate, now_ms=10_000.0)
    gate.need("r1", amount_nanos=2 * WORST_CASE_NANOS)
    gate.needs_no_more("r1", in_vain=True)
    assert wishes(gate, now_ms=10_000.0)
    gate.expire(boot_ms=HOARD_MS_MAX, unix_ms=0)
    assert [False] == closing(gate)


def test_a_refusal_that_nobody_asked_for_is_one_of_a_store() -> None:
    """It may answer a wish of an earlier session."""
    gate = on_demand()
    gate.refused("nothing to spare", now_ms=0.0, retry_after_ms=60_000.0)
    assert gate.may_come("no_lease", now_ms=0.0)
