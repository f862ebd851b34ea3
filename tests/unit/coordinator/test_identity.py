"""A device and its clone, our books and restored ones, leases that got lost (C_5, D_1, D_2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.account import BudgetAccount
from coordinator.identity import (
    ANY_TOKEN,
    close_lost,
    close_unseen,
    lost_leases,
    quarantine_reason,
    restored_books,
    unheld_leases,
)
from coordinator.messages import HelloReceived
from coordinator.records import DeviceRow, LeaseEnd, LeaseRecord, LedgerRow
from coordinator.registry import digest
from shared.decision.types import IncarnationRange, LeaseStatus

DEVICE = DeviceRow(
    "d1", "pi", "edge", "", 0,
    incarnation="b", resume_digest=digest("confirmed"), resume_digest_next=digest("issued"),
    lease_number_max=3,
)  # fmt: skip
NOW = 50_000


def hello(
    *spool: tuple[str, int, int],
    token: str = "confirmed",
    acked: int = 0,
    number_max: int = 3,
    holds: tuple[int, ...] = (),
    copied: bool = False,
) -> HelloReceived:
    """A hello of the last of these incarnations, each with its sequences."""
    ranges = tuple(IncarnationRange(*each) for each in spool or (("b", 0, 0),))
    leases = tuple(LeaseStatus(number, 7, 100, 0, 0, 100, closing=False) for number in holds)
    return HelloReceived(
        ranges[-1].incarnation, token, acked, ranges, number_max, leases, (), 0, 0, "1", copied
    )


@pytest.fixture
def account() -> BudgetAccount:
    """Leases 1, 2 and 3 of 100 nanos each are lent to the device, and one to another."""
    made = BudgetAccount()
    made.open_window(7, start_unix_ms=0, end_unix_ms=10, target_nanos=1_000)
    for owner, number in (("d1", 1), ("d1", 2), ("d1", 3), ("d2", 1)):
        made.grant(LeaseRecord(owner, number, "b", 7, 100, 1, 0))
    made.take_changes()
    return made


def ended(account: BudgetAccount) -> dict[int, int]:
    """Leases of the device that were closed, with what counts as spent without explanation."""
    leases = [account.lease("d1", number) for number in (1, 2, 3)]
    return {
        lease.number: lease.unconfirmed_nanos
        for lease in leases
        if lease is not None and lease.end is LeaseEnd.CLOSED
    }


def times(account: BudgetAccount) -> set[int]:
    """When the ledger rows were booked that were made since."""
    return {row.at_unix_ms for row in account.take_changes() if isinstance(row, LedgerRow)}


def test_the_last_token_or_the_one_issued_after_it_is_the_device() -> None:
    """Any other is a clone's or an old disk's, and none is too; a readmitted one is not asked."""
    for token in ("confirmed", "issued"):
        assert "" == quarantine_reason(DEVICE, hello(token=token), marks={})
    for token, why in (("older", "old resume token"), ("", "its books were lost")):
        assert why in quarantine_reason(DEVICE, hello(token=token), marks={})
    synced = replace(DEVICE, resume_digest_next="")
    assert "its books were lost" in quarantine_reason(synced, hello(token=""), marks={})
    assert "" == quarantine_reason(replace(synced, resume_digest=""), hello(token=""), marks={})
    readmitted = replace(DEVICE, resume_digest=ANY_TOKEN)
    assert "" == quarantine_reason(readmitted, hello(token="older"), marks={})


def test_restored_books_that_have_not_met_a_device_may_have_forgotten_its_token() -> None:
    """Any later one is taken; none at all, from books that took the place of lost ones, is not."""
    for known in ("confirmed", ANY_TOKEN, ""):
        device = replace(DEVICE, resume_digest=known)
        assert "" == quarantine_reason(device, hello(token="later"), marks={}, forgotten=True)
        lost = quarantine_reason(device, hello(token="", copied=True), marks={}, forgotten=True)
        assert "its books were lost" in lost
    never = replace(DEVICE, resume_digest="")
    assert "" == quarantine_reason(never, hello(token="", copied=True), marks={})
    assert "" == quarantine_reason(never, hello(token=""), marks={}, forgotten=True)
    fewer = hello(("b", 0, 4), ("c", 4, 4), token="later")
    assert "fewer" in quarantine_reason(DEVICE, fewer, marks={"b": 5}, forgotten=True)


@pytest.mark.parametrize(
    ("spool", "is_clone"),
    [
        pytest.param((("b", 0, 5), ("c", 5, 5)), False, id="it has all that was sent"),
        pytest.param((("b", 0, 4), ("c", 4, 4)), True, id="it lacks one record"),
        pytest.param((("a", 0, 2), ("b", 2, 4), ("c", 4, 4)), True, id="and has a longer past"),
        pytest.param((("a", 0, 2), ("b", 2, 5), ("c", 5, 5)), False, id="the past went on apart"),
        pytest.param((("a", 0, 2), ("b", 2, 4)), False, id="the process was heard before"),
        pytest.param((("c", 0, 0),), False, id="it has no past"),
    ],
)
def test_a_process_must_have_what_the_one_before_it_has_sent(
    spool: tuple[tuple[str, int, int], ...], is_clone: bool
) -> None:
    """Asked once, when it starts: the past before that, another disk may have gone on with."""
    reason = quarantine_reason(DEVICE, hello(*spool), marks={"a": 9, "b": 5, "c": 9})
    assert is_clone is ("fewer records than it had" in reason)
    assert is_clone or reason == ""


@pytest.mark.parametrize(
    ("said", "marks", "unknown"),
    [
        pytest.param(hello(), {}, "", id="nothing was acked"),
        pytest.param(hello(number_max=4), {}, "lease 4", id="a lease that was never granted"),
        pytest.param(hello(("a", 0, 9), acked=5), {"a": 5}, "", id="all that was acked"),
        pytest.param(hello(("a", 0, 9), acked=5), {"a": 4}, "sequence 5", id="one less"),
        pytest.param(hello(("a", 0, 9), acked=1), {}, "sequence 1", id="nothing of it"),
        pytest.param(hello(("a", 5, 9), acked=5), {}, "", id="what was acked is trimmed"),
        pytest.param(
            hello(("a", 0, 5), ("b", 5, 9), acked=7), {"a": 5, "b": 7}, "", id="two incarnations"
        ),
        pytest.param(
            hello(("a", 0, 5), ("b", 5, 9), acked=7), {"a": 4, "b": 7}, "sequence 5", id="the first"
        ),
        pytest.param(
            hello(("a", 0, 5), ("b", 5, 9), acked=7), {"a": 5}, "sequence 7", id="the second"
        ),
    ],
)
def test_books_that_lack_what_they_acked_or_granted_were_restored(
    said: HelloReceived, marks: dict[str, int], unknown: str
) -> None:
    """Acks and grants follow the commit, so a device never knows of more than the books."""
    reason = restored_books(DEVICE, said, marks=marks)
    assert unknown in reason
    assert bool(unknown) is ("device pi knows of" in reason and "restored from a backup" in reason)
    assert unknown or reason == ""


def test_a_grant_that_never_arrived_comes_back(account: BudgetAccount) -> None:
    """The device has seen lease 2; nothing was or will be spent on lease 3."""
    close_unseen(DEVICE, hello(number_max=2), account=account, unix_ms=NOW)
    assert ({3: 0}, 300) == (ended(account), account.window(7).outstanding_nanos)
    assert {NOW} == times(account)


def test_a_copy_tells_nothing_of_what_its_original_spends(account: BudgetAccount) -> None:
    """Every lease of the device counts as spent, also those that the copy has not seen."""
    close_unseen(DEVICE, hello(number_max=2, copied=True), account=account, unix_ms=NOW)
    assert {1: 100, 2: 100, 3: 100} == ended(account)
    assert 100 == account.window(7).outstanding_nanos, "that of the other device"
    assert {NOW} == times(account)


def test_a_lease_that_was_seen_and_is_no_longer_held_has_lost_its_close(
    account: BudgetAccount,
) -> None:
    """A device forgets a lease only together with its close; a lost grant is another matter."""
    assert (1,) == unheld_leases(DEVICE, hello(number_max=2, holds=(2,)), account=account)


def test_only_the_leases_that_lost_their_close_are_booked_in_full(account: BudgetAccount) -> None:
    """Those that were closed meanwhile are left alone, and the device goes on with the others."""
    account.close("d1", 2, final=0, at=1, note="came late")
    account.take_changes()
    alarm = close_lost(DEVICE, [1, 2], account=account, unix_ms=NOW)
    assert ({1: 100, 2: 0}, {NOW}) == (ended(account), times(account))
    assert "device pi no longer knows of its leases [1]" in alarm
    assert "" == close_lost(DEVICE, [1, 2], account=account, unix_ms=NOW)


def test_a_lease_is_lost_if_the_books_do_not_know_it_of_this_device(account: BudgetAccount) -> None:
    """That another device has one of that number does not matter."""
    other = replace(DEVICE, id="d2")
    assert [4] == [
        s.lease_number for s in lost_leases(DEVICE, hello(holds=(2, 4)), account=account)
    ]
    assert [2] == [s.lease_number for s in lost_leases(other, hello(holds=(1, 2)), account=account)]
