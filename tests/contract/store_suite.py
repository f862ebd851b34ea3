"""What every `Store` must do, and what it MUST refuse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import pytest

from coordinator.ports import Store
from coordinator.records import (
    AdminTokenRow,
    AuditRow,
    BookedCounts,
    BookedFeedback,
    BookedOutcome,
    ConfigRow,
    DeviceRow,
    DeviceStanding,
    EarlierFacts,
    EarlierTable,
    JoinTokenRow,
    LeaseEnd,
    LeaseRecord,
    LedgerKind,
    LedgerRow,
    PutSetting,
    SettingKey,
    Snapshot,
    SpendRow,
    SpoolMark,
    StoreEffect,
    StoreSnapshot,
    TableRowStored,
    WindowRow,
)
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.decision.types import (
    Attempt,
    Candidate,
    Fallout,
    Feedback,
    Outcome,
    RequestStatus,
    SettleKind,
)
from shared.errors import LostLeadershipError, NotFoundError, StoreError

WINDOW = WindowRow(id=1, start_unix_ms=0, end_unix_ms=86_400_000, target_nanos=10**12)
DEVICE = DeviceRow(
    id="dev-1", name="pi", device_class="pi5", credential_digest="c" * 64, joined_unix_ms=5
)
LEASE = LeaseRecord(
    device_id="dev-1",
    number=1,
    incarnation="inc-1",
    window_id=1,
    amount_nanos=10**9,
    price_version=3,
    granted_unix_ms=7,
)
TABLE = SelectionTable(
    version=4,
    device_class="pi5",
    config_version=2,
    created_unix_ms=9,
    rows=(TableRow(task_class="code", arms=(TableArm(arm="gpt", weight_ppm=1_000_000),)),),
    resident_arms=("qwen",),
)
CONFIG = ConfigRow(version=1, toml="[fleet]\n", actor="ada", applied_unix_ms=3)


class StoreBench(ABC):
    """One database and the ways to reach it."""

    @abstractmethod
    def store(self) -> Store:
        """A store on the database, not yet open."""

    @abstractmethod
    def depose(self) -> None:
        """Make another process the writer behind the open store's back."""


def ledger_row(row_id: int, kind: LedgerKind = LedgerKind.GRANT, amount: int = 10) -> LedgerRow:
    """A ledger row of window 1."""
    return LedgerRow(
        id=row_id,
        at_unix_ms=row_id,
        window_id=1,
        kind=kind,
        device_id="dev-1",
        lease_number=1,
        amount_nanos=amount,
        request_id=f"req-{row_id}",
        note="test",
    )


def booked(position: int, *, device: str = "dev-1", sequence: int | None = None) -> BookedOutcome:
    """An outcome that uses every field."""
    return BookedOutcome(
        position=position,
        device_id=device,
        device_class="pi5",
        sequence=position if sequence is None else sequence,
        slot=2,
        outcome=Outcome(
            request_id=f"req-{position}",
            task_class="code",
            arrived_unix_ms=1_700_000_000_000 + position,
            status=RequestStatus.OK,
            arm="gpt",
            drawn_arm="qwen",
            propensity_ppm=250_000,
            table_version=4,
            reason="fallback",
            forced=True,
            attempts=(
                Attempt(arm="qwen", latency_ms=3, error="worker_crashed"),
                Attempt(
                    arm="gpt",
                    latency_ms=5,
                    lease_number=1,
                    reserved_nanos=90,
                    cost_nanos=40,
                    settle=SettleKind.REPORTED,
                ),
            ),
            fallouts=(Fallout(arm="big", reason="lease_too_small"),),
            candidates=(Candidate(arm="gpt", weight_ppm=1), Candidate(arm="tiny", weight_ppm=2)),
            prompt_tokens=11,
            completion_tokens=12,
            ttft_ms=13,
            latency_ms=14,
            deadline_ms=15,
            hit=True,
            tag="a tag",
        ),
    )


def graded(position: int, *, request: int, sequence: int | None = None) -> BookedFeedback:
    """A grade of `req-<request>`."""
    return BookedFeedback(
        position=position,
        device_id="dev-1",
        device_class="pi5",
        sequence=position if sequence is None else sequence,
        feedback=Feedback(
            request_id=f"req-{request}",
            task_class="code",
            arm="gpt",
            reward_ppm=700_000,
            source="user",
            at_unix_ms=99,
        ),
    )


def counted(position: int, requests: int = 5) -> BookedCounts:
    """Compacted outcomes."""
    return BookedCounts(
        position=position,
        device_id="dev-1",
        device_class="pi5",
        sequence=77,
        slot=2,
        task_class="code",
        arm="qwen",
        requests=requests,
    )


class StoreSuite:
    """Run by a subclass that gives the fixture `bench`."""

    @pytest.fixture
    def store(self, bench: StoreBench) -> Store:
        """An open store on an empty database."""
        store = bench.store()
        store.open()
        return store

    def reopened(self, bench: StoreBench, store: Store) -> Store:
        """The same database as a next process finds it."""
        store.close()
        again = bench.store()
        again.open()
        return again

    def test_an_empty_store_loads_an_empty_snapshot(self, store: Store) -> None:
        """Nothing is made up for a first start."""
        assert StoreSnapshot() == store.load()

    def test_everything_committed_is_loaded_by_the_next_process(
        self, bench: StoreBench, store: Store
    ) -> None:
        """Every kind of record comes back as it was, once the writer has changed."""
        join = JoinTokenRow("d" * 64, device_class="pi5", created_unix_ms=1, expires_unix_ms=2)
        admin = AdminTokenRow("e" * 64, name="ops", created_unix_ms=1, expires_unix_ms=0)
        learned = (booked(1), graded(2, request=1), counted(3), booked(4))
        effects: list[StoreEffect] = [
            CONFIG,
            DEVICE,
            join,
            admin,
            WINDOW,
            LEASE,
            SpendRow(3, "gpt", "shop", 4, 5),
            *learned,
            ledger_row(1),
            PutSetting(SettingKey.SPEND_PAUSED, "1"),
            TableRowStored(TABLE, 0),
            TableRowStored(replace(TABLE, version=1), 7),
            AuditRow(at_unix_ms=1, actor="ada", action="apply", detail="{}"),
        ]
        store.commit(effects)
        expected = StoreSnapshot(
            config=CONFIG,
            devices=(DEVICE,),
            join_tokens=(join,),
            admin_tokens=(admin,),
            windows=(WINDOW,),
            leases=(LEASE,),
            spend=(SpendRow(3, "gpt", "shop", 4, 5),),
            settings={SettingKey.SPEND_PAUSED: "1"},
            learned_since=learned,
            tables=(TABLE,),
            earlier_tables=(EarlierTable(TABLE.device_class, 7, 1, TABLE.created_unix_ms),),
            ledger_id_max=1,
            position_max=4,
        )
        assert expected == self.reopened(bench, store).load()

    def test_rows_with_a_key_replace_the_earlier_row(self, store: Store) -> None:
        """The last word on a key counts, also within one commit."""
        later = replace(DEVICE, standing=DeviceStanding.QUARANTINED, lease_number_max=2**62)
        window = replace(WINDOW, settled_nanos=2**62, alarms="overrun")
        lease = replace(LEASE, booked_nanos=4)
        store.commit([DEVICE, WINDOW, LEASE, TableRowStored(TABLE, 0)])
        store.commit([replace(DEVICE, name="other"), later, window, lease])
        newer = replace(TABLE, version=5)
        tables = [TableRowStored(newer, 0), TableRowStored(TABLE, 1)]
        store.commit([*tables, PutSetting(SettingKey.DISABLED_ARMS, "[]")])
        store.commit([PutSetting(SettingKey.DISABLED_ARMS, '["gpt"]')])
        loaded = store.load()
        assert (later,) == loaded.devices
        assert (window,) == loaded.windows
        assert (lease,) == loaded.leases
        assert (newer,) == loaded.tables
        assert {SettingKey.DISABLED_ARMS: '["gpt"]'} == loaded.settings

    @pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
    def test_a_commit_keeps_every_one_of_many_rows(self, store: Store, rows: int) -> None:
        """However many there are of them, and of those that replace each other, the last."""
        ledger = [ledger_row(number) for number in range(1, rows + 1)]
        learned = tuple(booked(number) for number in range(1, rows + 1))
        marks = [SpoolMark("dev-1", f"inc-{number}", 1) for number in range(rows)]
        later = [replace(mark, sequence=2) for mark in marks]
        store.commit([*marks, *ledger, *learned, *later])
        assert ledger == list(store.ledger(after_id=0, limit=rows + 1))
        assert learned == store.load().learned_since
        names = [mark.incarnation for mark in marks]
        assert dict.fromkeys(names, 2) == store.spool_marks("dev-1", names)

    def test_a_table_is_found_by_its_version_while_it_is_kept(self, store: Store) -> None:
        """In force or earlier, of its own class alone; what was replaced is gone."""
        first, second, third = (replace(TABLE, version=number) for number in (1, 2, 3))
        store.commit([TableRowStored(first, 0)])
        store.commit([TableRowStored(first, 1), TableRowStored(second, 0)])
        name = TABLE.device_class
        assert [first, second] == [store.table(name, version=number) for number in (1, 2)]
        assert store.table("other", version=1) is None
        store.commit([TableRowStored(second, 1), TableRowStored(third, 0)])
        found = [store.table(name, version=number) for number in (1, 2, 3)]
        assert [None, second, third] == found

    def test_spend_is_read_a_day_at_a_time(self, store: Store) -> None:
        """The last word on a day, an arm and a tag counts; a start goes on with the last day."""
        first = [SpendRow(10, "gpt", "", 1), SpendRow(10, "gpt", "a", 2**62, -5)]
        last = [SpendRow(20, "", "", 0, 4), SpendRow(20, "gpt", "a", 6)]
        store.commit([*last, replace(first[0], settled_nanos=9), first[1]])
        store.commit([first[0]])
        assert first == list(store.spend(from_unix_ms=0))
        assert last == list(store.spend(from_unix_ms=11))
        assert [] == list(store.spend(from_unix_ms=21))
        assert tuple(last) == store.load().spend

    def test_the_newest_configuration_is_loaded(self, store: Store) -> None:
        """Earlier versions stay in the books, the highest one holds."""
        newer = replace(CONFIG, version=2, toml="[fleet]\nname = 'x'\n")
        store.commit([newer, CONFIG])
        assert newer == store.load().config

    def test_windows_are_loaded_with_open_leases_and_the_latest(self, store: Store) -> None:
        """A window is left behind once its last lease has ended, unless it is the latest."""
        windows = [
            replace(WINDOW, id=number, start_unix_ms=number, end_unix_ms=number + 1)
            for number in (1, 2, 3, 4)
        ]
        ended = replace(LEASE, number=1, window_id=1, end=LeaseEnd.CLOSED)
        still_open = replace(LEASE, number=2, window_id=2)
        beside_it = replace(LEASE, number=3, window_id=2, end=LeaseEnd.WRITTEN_OFF)
        latest = replace(LEASE, number=4, window_id=4, end=LeaseEnd.CLOSED)
        store.commit([*windows, ended, still_open, beside_it, latest])
        loaded = store.load()
        assert (2, 4) == tuple(window.id for window in loaded.windows)
        assert (still_open, beside_it, latest) == loaded.leases

    def test_windows_that_the_clock_has_left_are_loaded(self, store: Store) -> None:
        """They end after the latest one has begun, and what they hold counts for a while yet."""
        spans = {1: (10, 20), 90: (90, 100), 91: (20, 30)}
        windows = [
            replace(WINDOW, id=number, start_unix_ms=start, end_unix_ms=end)
            for number, (start, end) in spans.items()
        ]
        store.commit(windows)
        assert (90, 91) == tuple(window.id for window in store.load().windows)
        assert windows[1:] == list(store.windows(ending_after_unix_ms=20))
        assert windows == list(store.windows(ending_after_unix_ms=19))
        assert [] == list(store.windows(ending_after_unix_ms=100))

    def test_only_what_came_after_the_snapshot_is_learned_again(self, store: Store) -> None:
        """The snapshot is one row; its position cuts what is replayed, in order."""
        store.commit([booked(1), graded(2, request=1), booked(3)])
        store.commit([Snapshot(position=1, slot=1, window_id=1, payload="{}")])
        snapshot = Snapshot(position=2, slot=2, window_id=1, payload='{"a": 1}')
        store.commit([snapshot, counted(4), booked(5)])
        loaded = store.load()
        assert snapshot == loaded.snapshot
        assert (booked(3), counted(4), booked(5)) == loaded.learned_since

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(ledger_row(1), id="ledger row again"),
            pytest.param(ledger_row(3), id="gap in the ledger"),
            pytest.param(booked(1, sequence=9), id="position again"),
            pytest.param(booked(5), id="gap in the positions"),
            pytest.param(graded(3, request=1), id="request graded again"),
            pytest.param(counted(2), id="counts at a position again"),
            pytest.param(replace(CONFIG, toml="other"), id="configuration again"),
        ],
    )
    def test_append_only_rows_must_not_be_repeated(self, store: Store, bad: StoreEffect) -> None:
        """A repeated or misplaced row fails, and nothing of its commit is applied."""
        store.commit([CONFIG, ledger_row(1), booked(1), graded(2, request=1), WINDOW])
        before = store.load()
        with pytest.raises(StoreError):
            store.commit([replace(WINDOW, settled_nanos=1), bad, DEVICE])
        assert before == store.load()
        store.commit([ledger_row(2), booked(3)])
        assert (2, 3) == (store.load().ledger_id_max, store.load().position_max)

    def test_one_row_too_many_undoes_the_whole_commit(self, store: Store) -> None:
        """Also when it comes late among many that are good."""
        store.commit([graded(1, request=1)])
        more = [ledger_row(number) for number in range(1, 201)]
        with pytest.raises(StoreError):
            store.commit(
                [*more, *(booked(number) for number in range(2, 202)), graded(202, request=1)]
            )
        assert (0, 1) == (store.load().ledger_id_max, store.load().position_max)
        store.commit([*more, booked(2)])
        assert (200, 2) == (store.load().ledger_id_max, store.load().position_max)

    def test_marks_are_kept_by_device_and_incarnation(self, store: Store) -> None:
        """The last word counts, and only what was asked for is found."""
        store.commit([SpoolMark("dev-1", "a", 4), SpoolMark("dev-2", "a", 9)])
        store.commit([SpoolMark("dev-1", "a", 5), SpoolMark("dev-1", "b", 7)])
        assert {"a": 5} == store.spool_marks("dev-1", ["a", "c"])
        many = [f"inc-{number}" for number in range(1_200)]
        assert {"b": 7} == store.spool_marks("dev-1", [*many, "b"])
        assert {} == store.spool_marks("dev-1", [])

    def test_two_disks_may_use_the_same_sequence(self, store: Store) -> None:
        """Sequences belong to an incarnation."""
        store.commit([booked(1, sequence=1), booked(2, sequence=1)])
        assert 2 == store.load().position_max

    def test_numbering_goes_on_in_the_next_process(self, bench: StoreBench, store: Store) -> None:
        """A gap after a restart fails as any other."""
        store.commit([ledger_row(1), booked(1)])
        again = self.reopened(bench, store)
        with pytest.raises(StoreError):
            again.commit([ledger_row(3)])
        with pytest.raises(StoreError):
            again.commit([booked(1, sequence=8)])
        again.commit([ledger_row(2), booked(2)])

    def test_the_ledger_is_read_by_id_and_device(self, store: Store) -> None:
        """Pages rise by id; a device's pages leave out the others."""
        other = ledger_row(2)._replace(device_id="dev-2")
        store.commit([ledger_row(1), other, ledger_row(3), ledger_row(4)])
        assert [other, ledger_row(3)] == list(store.ledger(after_id=1, limit=2))
        mine = store.ledger(after_id=1, limit=9, device_id="dev-1")
        assert [ledger_row(3), ledger_row(4)] == list(mine)

    def test_decisions_come_newest_first_with_their_grades(self, store: Store) -> None:
        """A grade is found by device and request; an ungraded decision has none."""
        elsewhere = booked(2, device="dev-2")
        store.commit([booked(1), elsewhere, graded(3, request=1, sequence=3), booked(4)])
        assert [4, 2, 1] == [record.outcome.position for record in store.decisions(limit=9)]
        (newest,) = store.decisions(limit=1)
        assert (booked(4), None) == (newest.outcome, newest.feedback)
        (found,) = store.decisions(limit=9, request_id="req-1")
        assert (booked(1), graded(3, request=1, sequence=3)) == (found.outcome, found.feedback)
        (other,) = store.decisions(limit=9, device_id="dev-2")
        assert elsewhere == other.outcome

    def test_weak_grades_stand_beside_the_full_one(self, store: Store) -> None:
        """They are learned again and are no decision's grade; of full ones there is one."""
        full = graded(4, request=1, sequence=4)
        hints = [
            replace(graded(n, request=1, sequence=n), feedback=replace(full.feedback, weight_ppm=9))
            for n in (2, 3)
        ]
        store.commit([booked(1), *hints])
        facts = store.earlier("dev-1", request_ids=["req-1"], lease_numbers=[])
        assert frozenset() == facts.graded
        assert [None] == [record.feedback for record in store.decisions(limit=9)]
        store.commit([full])
        assert [full] == [record.feedback for record in store.decisions(limit=9)]
        assert (booked(1), *hints, full) == store.load().learned_since
        with pytest.raises(StoreError):
            store.commit([graded(5, request=1, sequence=5)])

    def test_decisions_above_a_position_come_oldest_first(self, store: Store) -> None:
        """Page by page they are all; grades in between are passed over."""
        store.commit([booked(1), booked(2), graded(3, request=1, sequence=3), booked(4)])
        first = store.decisions(limit=2, after=0)
        assert [1, 2] == [record.outcome.position for record in first]
        assert [graded(3, request=1, sequence=3), None] == [record.feedback for record in first]
        rest = store.decisions(limit=2, after=2)
        assert [4] == [record.outcome.position for record in rest]
        assert [] == list(store.decisions(limit=2, after=4))

    def test_a_window_is_recomputed_from_its_ledger_rows(self, store: Store) -> None:
        """Each kind moves what rule C_2 says; rows of other windows do not count."""
        amounts = {
            LedgerKind.GRANT: 1_000_000,
            LedgerKind.SETTLE: 100_000,
            LedgerKind.UNSETTLE: -5_000,
            LedgerKind.CONFIRM: 20,
            LedgerKind.ADJUST: -20_000,
            LedgerKind.REFUND: 3_000,
            LedgerKind.RELEASE: 400,
            LedgerKind.UNCONFIRMED: 50,
            LedgerKind.OVERRUN: 7,
            LedgerKind.WRITEOFF: 600_000,
            LedgerKind.CLOSE: 0,
            LedgerKind.CARRY: 8_000_000,
        }
        assert set(LedgerKind) == set(amounts)
        kept = [
            ledger_row(number, kind, amount)
            for number, (kind, amount) in enumerate(amounts.items(), start=1)
        ]
        elsewhere = ledger_row(len(kept) + 1, amount=5)._replace(window_id=2)
        store.commit([replace(WINDOW, settled_nanos=1), *kept, elsewhere])
        expected = replace(
            WINDOW,
            settled_nanos=100_000 - 5_000 + 20 - 20_000 + 7,
            unconfirmed_nanos=50 - 20 - 3_000 + 600_000 + 8_000_000,
            outstanding_nanos=1_000_000 - 100_000 + 5_000 - 400 - 50 - 600_000,
        )
        assert expected == store.recomputed_window(1)

    def test_what_a_batch_speaks_of_is_looked_up(self, store: Store) -> None:
        """Grades and ended leases of earlier windows, those of the device that asks only."""
        closed = replace(LEASE, end=LeaseEnd.CLOSED, unconfirmed_nanos=4)
        other = replace(LEASE, device_id="dev-2", number=2)
        later = replace(WINDOW, id=2)
        store.commit([WINDOW, later, DEVICE, closed, other, booked(1), graded(2, request=1)])
        found = store.earlier("dev-1", request_ids=["req-1", "req-9"], lease_numbers=[1, 2, 9])
        assert EarlierFacts(frozenset({"req-1"}), (closed,), (WINDOW,)) == found
        other_device = store.earlier("dev-2", request_ids=["req-1"], lease_numbers=[])
        assert EarlierFacts() == other_device

    def test_an_unknown_window_is_not_recomputed(self, store: Store) -> None:
        """A window that is not in the books is an error, not zero."""
        with pytest.raises(NotFoundError, match="7"):
            store.recomputed_window(7)

    def test_a_window_without_rows_adds_up_to_nothing(self, store: Store) -> None:
        """A fresh window has spent nothing."""
        store.commit([replace(WINDOW, settled_nanos=9)])
        assert WINDOW == store.recomputed_window(1)

    def test_amounts_add_up_beyond_32_bits(self, store: Store) -> None:
        """Money needs 63 bits, in rows and in sums."""
        store.commit([WINDOW, ledger_row(1, amount=10**17), ledger_row(2, amount=10**17)])
        assert 2 * 10**17 == store.recomputed_window(1).outstanding_nanos

    def test_text_from_devices_cannot_stop_the_books(self, store: Store) -> None:
        """A NUL in what a device sent is booked; the decision keeps it as it was."""
        odd = booked(1)
        odd = odd._replace(outcome=odd.outcome._replace(tag="a\x00b", arm="gpt\x00"))
        store.commit([odd])
        (found,) = store.decisions(limit=1)
        assert odd == found.outcome

    def test_an_empty_commit_is_allowed(self, store: Store) -> None:
        """An event may have nothing to keep."""
        store.commit([])
        assert StoreSnapshot() == store.load()

    def test_the_whole_ledger_adds_up_or_the_difference_is_named(self, store: Store) -> None:
        """From the rows alone; progress is told, and may end the reading."""
        true = replace(WINDOW, outstanding_nanos=LEASE.amount_nanos)
        store.commit([true, LEASE, ledger_row(1, amount=LEASE.amount_nanos)])
        told: list[tuple[int, int]] = []
        assert [] == list(store.differences(progress=lambda *seen: told.append(seen)))
        assert (1, 1) == told[-1]
        store.commit([replace(true, settled_nanos=5)])
        (named,) = store.differences(progress=lambda done, total: None)
        assert named == "window 1: settled_nanos is 5, its rows add up to 0"

        def cancel(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.differences(progress=cancel)
        store.commit([true])

    def test_old_outcomes_go_with_their_grades_in_small_batches(self, store: Store) -> None:
        """The oldest first; grades and counts of their time too; the ledger stays."""
        learned = (booked(1), booked(2), counted(3), booked(4), graded(5, request=1), booked(6))
        store.commit([*learned, ledger_row(1), Snapshot(6, 1, 1, "{}")])
        assert 3 == store.prune(position=4, before_unix_ms=0, limit=1), (
            "an outcome, its later grade, a count"
        )
        assert [6, 4, 2] == [row.outcome.position for row in store.decisions(limit=9)]
        assert 2 == store.prune(position=4, before_unix_ms=0, limit=9)
        assert 0 == store.prune(position=4, before_unix_ms=0, limit=9)
        assert [6] == [row.outcome.position for row in store.decisions(limit=9)]
        assert [ledger_row(1)] == list(store.ledger(after_id=0, limit=9))

    def test_the_audit_is_read_newest_first(self, store: Store) -> None:
        """Who changed what, as many rows as were asked for."""
        audit = [AuditRow(at, "ann", "budget set", f"{at} nanos") for at in (10, 20, 20)]
        store.commit(audit[:2])
        store.commit(audit[2:])
        assert audit[:0:-1] == list(store.audit(limit=2))
        assert audit[::-1] == list(store.audit(limit=9))

    def test_old_audit_and_expired_join_tokens_go(self, bench: StoreBench, store: Store) -> None:
        """Used or not, the oldest first; what is as young as the limit stays."""
        audit = [AuditRow(at, "op", "did", "it") for at in (10, 20, 30, 40)]
        tokens = [JoinTokenRow(name, "pi", 0, at, used) for name, at, used in (
            ("a", 10, "dev-1"), ("b", 20, ""), ("c", 30, "dev-2"), ("d", 40, ""))]  # fmt: skip
        store.commit([*audit, *tokens, ledger_row(1)])
        assert 2 == store.prune(position=0, before_unix_ms=30, limit=1)
        assert tuple(tokens[1:]) == store.load().join_tokens
        assert 2 == store.prune(position=0, before_unix_ms=30, limit=9)
        assert audit[:1:-1] == list(store.audit(limit=9))
        assert 0 == store.prune(position=0, before_unix_ms=30, limit=9)
        assert tuple(tokens[2:]) == self.reopened(bench, store).load().join_tokens

    def test_what_no_snapshot_covers_must_not_be_pruned(self, store: Store) -> None:
        """It has still to be learned again after a restart, a grade of an older outcome too."""
        store.commit([booked(1), booked(2)])
        assert 0 == store.prune(position=2, before_unix_ms=0, limit=9)
        store.commit([Snapshot(1, 1, 1, "{}"), graded(3, request=1)])
        assert 1 == store.prune(position=3, before_unix_ms=0, limit=9)
        assert (booked(2), graded(3, request=1)) == store.load().learned_since

    def test_numbering_goes_on_after_everything_was_pruned(
        self, bench: StoreBench, store: Store
    ) -> None:
        """A position is never given twice."""
        store.commit([booked(1), booked(2), Snapshot(2, 1, 1, "{}")])
        assert 2 == store.prune(position=2, before_unix_ms=0, limit=9)
        again = self.reopened(bench, store)
        assert 2 == again.load().position_max
        again.commit([booked(3)])
        assert (booked(3),) == again.load().learned_since

    def test_a_deposed_writer_must_not_prune(self, bench: StoreBench, store: Store) -> None:
        """The next writer may need what this one takes for old."""
        store.commit([booked(1), Snapshot(1, 1, 1, "{}")])
        bench.depose()
        with pytest.raises(LostLeadershipError):
            store.prune(position=1, before_unix_ms=0, limit=9)

    def test_a_second_writer_must_wait_for_the_first(self, bench: StoreBench, store: Store) -> None:
        """While one process is the writer, another cannot open the store and does no harm."""
        second = bench.store()
        with pytest.raises(StoreError, match="stop"):
            second.open()
        store.commit([ledger_row(1)])
        store.close()
        second.open()
        assert 1 == second.load().ledger_id_max
        second.close()

    def test_a_deposed_writer_must_not_write(self, bench: StoreBench, store: Store) -> None:
        """Once another process has begun a new epoch, nothing of the old one's is written."""
        store.commit([ledger_row(1)])
        bench.depose()
        with pytest.raises(LostLeadershipError):
            store.commit([ledger_row(2)])
        assert [ledger_row(1)] == list(store.ledger(after_id=0, limit=9))

    def test_a_closed_store_refuses_work(self, store: Store) -> None:
        """After close nothing is read or written by accident; closing again is harmless."""
        store.close()
        store.close()
        with pytest.raises(StoreError):
            store.commit([ledger_row(1)])
        with pytest.raises(StoreError):
            store.load()
