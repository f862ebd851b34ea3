"""What every `Books` must do, and what it MUST refuse."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial

import pytest

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    BooksSnapshot,
    CompactSpool,
    DropLease,
    DropReservation,
    MetaKey,
    PutConfig,
    PutKeyBudget,
    PutLease,
    PutMeta,
    PutReservation,
    PutTable,
    TrimSpool,
)
from edge_agent.ports import Books
from shared.decision.key_budget import KeyBudgetRow
from shared.decision.lease import LeaseRow, LeaseState, ReservationRow
from shared.decision.money import Price, WorstCase
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.decision.types import (
    Arm,
    ArmKind,
    CloudSettings,
    CostAdjustment,
    DeviceConfig,
    Feedback,
    LeaseClose,
    OnAbort,
    Outcome,
    RequestStatus,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
    TaskClass,
)
from shared.errors import LimitError, StoreError

LEASE = LeaseRow(
    number=3,
    incarnation="inc-1",
    boot_id="boot-1",
    window_id=7,
    amount_nanos=10**17,
    price_version=2,
    expires_boot_ms=86_400_000,
    settled_nanos=5,
    watermark_nanos=11,
    state=LeaseState.CLOSING,
    closing_since_boot_ms=42,
    close_reason="recalled",
)
RESERVATION = ReservationRow(
    id="req-1:0",
    request_id="req-1",
    arm="gpt",
    lease_number=3,
    amount_nanos=10**17,
    task_class="code",
    arrived_unix_ms=1_700_000_000_000,
    key_tag="shop",
    key_window=1_699_920_000_000,
    judge=True,
)
KEY_BUDGET = KeyBudgetRow(
    tag="shop",
    start_unix_ms=1_699_920_000_000,
    end_unix_ms=1_700_006_400_000,
    settled_nanos=7,
    watermark_nanos=10**17,
)
TABLE = SelectionTable(
    version=4,
    device_class="pi5",
    config_version=2,
    created_unix_ms=9,
    rows=(TableRow(task_class="code", arms=(TableArm(arm="gpt", weight_ppm=1_000_000),)),),
)
CONFIG = DeviceConfig(
    version=2,
    device_class="pi5",
    arms=(
        Arm(
            id="gpt",
            kind=ArmKind.CLOUD,
            model="gpt",
            context_tokens_max=8_192,
            max_tokens_default=256,
            cloud=CloudSettings(
                base_url="http://127.0.0.1:9/v1",
                api_key_ref="env:KEY",
                price=Price(input_nanos_per_mtok=10**9, output_nanos_per_mtok=2 * 10**9),
                worst_case=WorstCase(),
                fields=frozenset({"messages", "model"}),
                unbilled_statuses=frozenset({429, 503}),
                on_abort=OnAbort.DRAIN,
                connect_timeout_ms=1_000,
                first_byte_timeout_ms=2_000,
                drain_timeout_ms=3_000,
            ),
        ),
    ),
    task_classes=(TaskClass(id="code", deadline_ms=2_000),),
    price_version=2,
    budget_name="month",
    close_wait_ms=5_000,
)


def contents(books: Books) -> BooksSnapshot:
    """What is in the books, wherever they are."""
    return replace(books.load(), place="")


class BooksBench(ABC):
    """One disk and the ways to reach the books on it."""

    @abstractmethod
    def books(self) -> Books:
        """The books as a process opens them."""

    @abstractmethod
    async def lose_power(self) -> Books:
        """The books as they are after the power went and came back."""


def outcome_of(request_id: str) -> Outcome:
    """A small outcome."""
    return Outcome(
        request_id=request_id,
        task_class="code",
        arrived_unix_ms=1_700_000_000_000,
        status=RequestStatus.OK,
        arm="gpt",
        drawn_arm="gpt",
        propensity_ppm=500_000,
        table_version=4,
        reason="drawn",
        forced=False,
    )


def spooled_outcome(sequence: int) -> SpoolRecord:
    """The record of an outcome at a sequence."""
    return SpoolRecord(sequence, incarnation="inc-1", body=outcome_of(f"req-{sequence}"))


def append(sequence: int) -> AppendSpool:
    """Append an outcome."""
    return AppendSpool(spooled_outcome(sequence))


class BooksSuite:
    """Run by a subclass that gives the fixture `bench`."""

    @pytest.fixture
    def books(self, bench: BooksBench) -> Books:
        """Open, empty books."""
        return bench.books()

    async def reopened(self, bench: BooksBench, books: Books) -> Books:
        """The same books as the next process finds them."""
        await books.close()
        return bench.books()

    def test_new_books_are_empty(self, books: Books) -> None:
        """Nothing is made up for a first start."""
        assert BooksSnapshot() == contents(books)

    async def test_everything_committed_is_loaded_by_the_next_process(
        self, bench: BooksBench, books: Books
    ) -> None:
        """Every kind of effect comes back as it was."""
        effects: list[BookEffect] = [
            PutLease(LEASE),
            PutReservation(RESERVATION),
            PutKeyBudget(KEY_BUDGET),
            PutTable(TABLE),
            PutConfig(CONFIG),
            append(1),
            *(PutMeta(key, f"value of {key}") for key in MetaKey),
        ]
        await books.commit(effects)
        expected = BooksSnapshot(
            meta={key: f"value of {key}" for key in MetaKey},
            leases=(LEASE,),
            reservations=(RESERVATION,),
            key_budgets=(KEY_BUDGET,),
            table=TABLE,
            config=CONFIG,
            spool_first=1,
            spool_last=1,
        )
        assert expected == contents(books)
        assert expected == contents(await self.reopened(bench, books))

    async def test_the_last_word_on_a_row_counts(self, books: Books) -> None:
        """Leases, facts, tables and configurations are replaced by key, also in one commit."""
        await books.commit([PutLease(LEASE), PutMeta(MetaKey.BOOT_ID, "a"), PutTable(TABLE)])
        later = replace(LEASE, settled_nanos=6, state=LeaseState.CLOSED)
        other = replace(LEASE, number=4)
        table = replace(TABLE, version=5)
        await books.commit(
            [
                PutLease(replace(LEASE, settled_nanos=5)),
                PutLease(later),
                PutLease(other),
                PutMeta(MetaKey.BOOT_ID, "b"),
                PutTable(table),
                PutConfig(CONFIG),
                PutConfig(replace(CONFIG, version=3)),
                PutKeyBudget(KEY_BUDGET),
                PutKeyBudget(replace(KEY_BUDGET, settled_nanos=8)),
                PutKeyBudget(replace(KEY_BUDGET, tag="crawler")),
            ]
        )
        loaded = books.load()
        assert (later, other) == loaded.leases
        assert {MetaKey.BOOT_ID: "b"} == loaded.meta
        assert table == loaded.table
        assert replace(CONFIG, version=3) == loaded.config
        crawler, shop = replace(KEY_BUDGET, tag="crawler"), replace(KEY_BUDGET, settled_nanos=8)
        assert (crawler, shop) == loaded.key_budgets

    async def test_dropped_rows_are_gone(self, books: Books) -> None:
        """Leases and reservations are removed; what is not there is no error."""
        await books.commit([PutLease(LEASE), PutReservation(RESERVATION)])
        await books.commit([DropReservation(RESERVATION.id), DropLease(LEASE.number)])
        await books.commit([DropReservation("never made"), DropLease(99)])
        assert BooksSnapshot() == contents(books)

    async def test_effects_apply_in_their_order(self, books: Books) -> None:
        """Put, drop and put again in one commit leaves the last one."""
        again = replace(RESERVATION, amount_nanos=1)
        await books.commit([PutReservation(RESERVATION)])
        await books.commit(
            [
                DropReservation(RESERVATION.id),
                PutReservation(again),
                DropLease(LEASE.number),
                PutLease(LEASE),
            ]
        )
        loaded = books.load()
        assert ((again,), (LEASE,)) == (loaded.reservations, loaded.leases)

    async def test_a_trim_spares_what_is_appended_after_it(self, books: Books) -> None:
        """Within one commit a trim deletes what came before it, and nothing else."""
        await books.commit([append(1), append(2), TrimSpool(2), append(3)])
        assert [spooled_outcome(3)] == list(await books.spooled(after=0, limit=9))
        assert (3, 3) == (books.load().spool_first, books.load().spool_last)

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param([append(2)], id="sequence again"),
            pytest.param([append(4)], id="gap in the sequences"),
            pytest.param([append(3), append(3)], id="sequence twice in one commit"),
            pytest.param([PutReservation(RESERVATION)], id="reservation again"),
            pytest.param(
                [PutReservation(replace(RESERVATION, id="x")) for _ in range(2)],
                id="reservation twice in one commit",
            ),
        ],
    )
    async def test_misplaced_rows_must_not_be_committed(
        self, books: Books, bad: list[BookEffect]
    ) -> None:
        """A repeated or misplaced row fails, and nothing of its commit is applied."""
        await books.commit([PutReservation(RESERVATION), append(1), append(2)])
        before = books.load()
        with pytest.raises(StoreError):
            await books.commit([PutLease(LEASE), *bad])
        assert before == books.load()
        await books.commit([append(3)])
        assert 3 == books.load().spool_last

    async def test_a_record_that_could_not_be_read_back_must_not_be_spooled(
        self, books: Books
    ) -> None:
        """An amount beyond the limits fails before anything is written."""
        record = SpoolRecord(
            1, incarnation="i", body=LeaseClose(1, final_nanos=-1, clean=True, reason="")
        )
        with pytest.raises(LimitError, match="final_nanos"):
            await books.commit([PutLease(LEASE), AppendSpool(record)])
        assert BooksSnapshot() == contents(books)

    async def test_numbering_goes_on_when_all_was_trimmed(
        self, bench: BooksBench, books: Books
    ) -> None:
        """The last sequence is remembered without any record, also by the next process."""
        await books.commit([append(1), append(2)])
        await books.commit([TrimSpool(2)])
        again = await self.reopened(bench, books)
        assert (0, 2) == (again.load().spool_first, again.load().spool_last)
        with pytest.raises(StoreError):
            await again.commit([append(1)])
        await again.commit([append(3)])
        assert [spooled_outcome(3)] == list(await again.spooled(after=0, limit=9))

    async def test_spooled_pages_rise_by_sequence(self, books: Books) -> None:
        """A page starts above `after`, holds at most `limit` and leaves out what was trimmed."""
        await books.commit([append(number) for number in range(1, 9)])
        await books.commit([TrimSpool(2)])
        page = await books.spooled(after=0, limit=3)
        assert [3, 4, 5] == [record.sequence for record in page]
        page = await books.spooled(after=5, limit=99)
        assert [spooled_outcome(number) for number in (6, 7, 8)] == list(page)
        assert [] == list(await books.spooled(after=8, limit=1))

    async def test_every_kind_of_record_is_spooled(self, books: Books) -> None:
        """Closes, adjustments and summaries travel like outcomes and grades."""
        bodies: list[SpoolBody] = [
            outcome_of("req-1"),
            Feedback("req-1", "code", "gpt", reward_ppm=1, source="user", at_unix_ms=2),
            LeaseClose(3, final_nanos=5, clean=True, reason="expired"),
            CostAdjustment("req-1", lease_number=3, delta_nanos=-4, reason="late usage"),
            SpoolSummary(
                first_sequence=1, last_sequence=2, costs=((3, 4),), counts=(), unreadable=2
            ),
        ]
        records = [
            SpoolRecord(number, incarnation="inc-1", body=body)
            for number, body in enumerate(bodies, start=1)
        ]
        await books.commit([AppendSpool(record) for record in records])
        assert records == list(await books.spooled(after=0, limit=9))

    async def test_a_request_is_found_while_it_is_kept(self, books: Books) -> None:
        """Its outcome and its first grade are found, until they are trimmed."""
        first = Feedback("req-1", "code", "gpt", reward_ppm=1, source="user", at_unix_ms=2)
        grades = [SpoolRecord(2, "inc-1", first), SpoolRecord(3, "inc-1", replace(first, arm="x"))]
        await books.commit([append(1), *(AppendSpool(grade) for grade in grades)])
        assert (outcome_of("req-1"), first) == await books.find("req-1")
        assert (None, None) == await books.find("req-9")
        await books.commit([TrimSpool(1)])
        assert (None, first) == await books.find("req-1")

    async def test_records_are_compacted_into_one(self, bench: BooksBench, books: Books) -> None:
        """Also those of the same commit; what follows keeps its number, and a later trim works."""
        summary = SpoolSummary(2, 4, ((1, 30),), ())
        await books.commit([append(1), append(2), append(3)])
        await books.commit([append(4), CompactSpool(2, SpoolRecord(4, "i", summary)), append(5)])
        kept = await books.spooled(after=0, limit=9)
        assert [1, 4, 5] == [record.sequence for record in kept]
        assert summary == kept[1].body
        assert (None, None) == await books.find("req-2")
        with pytest.raises(StoreError, match=r"[78]"):
            await books.commit([CompactSpool(7, SpoolRecord(8, "i", summary))])
        await books.commit([TrimSpool(4)])
        assert [5] == [record.sequence for record in await books.spooled(after=0, limit=9)]

    async def test_a_summary_of_records_that_were_never_written_takes_their_place(
        self, bench: BooksBench, books: Books
    ) -> None:
        """The next record follows its last one, in the same commit and after a restart."""
        await books.commit([append(1), append(2)])
        summary = SpoolSummary(2, 5, ((1, 30),), ())
        await books.commit([CompactSpool(2, SpoolRecord(5, "i", summary)), append(6)])
        assert 6 == books.load().spool_last
        summary = SpoolSummary(7, 9, ((1, 30),), ())
        await books.commit([CompactSpool(7, SpoolRecord(9, "i", summary))])
        assert 9 == books.load().spool_last
        with pytest.raises(StoreError, match="follow"):
            await books.commit([append(9)])
        await books.commit([append(10)])
        kept = await books.spooled(after=0, limit=9)
        assert [1, 5, 6, 9, 10] == [record.sequence for record in kept]

    async def test_a_trim_beyond_the_last_record_moves_the_next_one(
        self, bench: BooksBench, books: Books
    ) -> None:
        """The sequence goes on above it, in the same commit and after a restart."""
        await books.commit([append(1), append(2)])
        await books.commit([TrimSpool(9), append(10)])
        with pytest.raises(StoreError, match="follow"):
            await books.commit([append(3)])
        await books.commit([TrimSpool(20)])
        assert 20 == books.load().spool_last
        await books.commit([append(21)])
        assert [21] == [record.sequence for record in await books.spooled(after=0, limit=9)]

    async def test_everybody_is_told_in_the_order_of_the_commits(self, books: Books) -> None:
        """Also of what failed, and whether or not the caller still waits."""
        told: list[tuple[int, str]] = []

        def note(number: int, error: Exception | None) -> None:
            told.append((number, type(error).__name__))

        tasks = [
            asyncio.create_task(books.commit([append(number)], told=partial(note, number)))
            for number in (1, 2, 9, 3)
        ]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        fine = type(None).__name__
        assert [(1, fine), (2, fine), (9, "StoreError"), (3, fine)] == told

    async def test_commits_keep_the_order_in_which_they_came(self, books: Books) -> None:
        """Commits that wait together are applied first come, first served."""
        puts: list[list[BookEffect]] = [
            [append(number), PutMeta(MetaKey.SEQUENCE_SENT_MAX, str(number))]
            for number in range(1, 201)
        ]
        await asyncio.gather(*(books.commit(effects) for effects in puts))
        loaded = books.load()
        assert (200, {MetaKey.SEQUENCE_SENT_MAX: "200"}) == (loaded.spool_last, loaded.meta)
        spooled = await books.spooled(after=0, limit=999)
        assert list(range(1, 201)) == [record.sequence for record in spooled]

    async def test_a_bad_commit_does_not_hurt_its_neighbours(self, books: Books) -> None:
        """Of commits that wait together only the misplaced ones fail."""
        results = await asyncio.gather(
            books.commit([append(1), PutReservation(RESERVATION)]),
            books.commit([PutReservation(RESERVATION), PutMeta(MetaKey.BOOT_ID, "bad")]),
            books.commit([append(3), PutMeta(MetaKey.BOOT_ID, "bad")]),
            books.commit([append(2), DropReservation(RESERVATION.id)]),
            books.commit([PutReservation(RESERVATION)]),
            return_exceptions=True,
        )
        failed = [isinstance(result, StoreError) for result in results]
        assert [False, True, True, False, False] == failed
        loaded = books.load()
        assert ((RESERVATION,), 2, {}) == (loaded.reservations, loaded.spool_last, loaded.meta)

    async def test_synced_commits_survive_a_loss_of_power(
        self, bench: BooksBench, books: Books
    ) -> None:
        """A sync covers its own commit and every earlier one; a later one may be lost."""
        await books.commit([append(1)])
        await books.commit([PutLease(LEASE)], sync=True)
        await books.commit([append(2), PutReservation(RESERVATION)])
        survived = (await bench.lose_power()).load()
        assert (LEASE,) == survived.leases
        assert survived.spool_last in (1, 2)
        # All or nothing of the last commit is there.
        assert (survived.spool_last == 2) == (survived.reservations == (RESERVATION,))

    async def test_an_empty_commit_can_sync_the_earlier_ones(
        self, bench: BooksBench, books: Books
    ) -> None:
        """A sync needs no effect of its own."""
        await books.commit([append(1)])
        await books.commit([], sync=True)
        assert 1 == (await bench.lose_power()).load().spool_last

    async def test_a_second_process_is_locked_out(self, bench: BooksBench, books: Books) -> None:
        """The books have one holder; after its end the next one may open them (rule D_1)."""
        with pytest.raises(StoreError, match="in use by another process"):
            bench.books()
        await books.commit([append(1)])
        assert 1 == (await self.reopened(bench, books)).load().spool_last

    async def test_close_finishes_what_is_pending(self, bench: BooksBench, books: Books) -> None:
        """Commits that were asked for before the close are in the books after it."""
        pending = [asyncio.ensure_future(books.commit([append(number)])) for number in (1, 2, 3)]
        await asyncio.wait(pending, timeout=0)
        again = await self.reopened(bench, books)
        await asyncio.gather(*pending)
        assert 3 == again.load().spool_last

    async def test_closed_books_refuse_work(self, books: Books) -> None:
        """After close nothing is committed by accident; closing again is harmless."""
        await books.close()
        await books.close()
        with pytest.raises(StoreError, match="closed"):
            await books.commit([append(1)])
        with pytest.raises(StoreError, match="closed"):
            await books.spooled(after=0, limit=1)

    async def test_the_size_grows_with_the_spool(self, books: Books) -> None:
        """The size is in bytes on the disk, more with every thousand records."""
        before = await books.size_bytes()
        await books.commit([append(number) for number in range(1, 2_001)])
        assert await books.size_bytes() > before
