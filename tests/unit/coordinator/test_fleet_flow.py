"""One device and its operator before the coordinator's engine: who may join, talk and spend."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.fleet_config import FleetConfigError
from coordinator.messages import (
    Acked,
    ConfigSent,
    HelloReceived,
    LeaseRecalled,
    LeaseRefused,
    LeaseSent,
    Message,
    ProviderKeysSent,
    SpendCommanded,
    TableSent,
    Welcomed,
)
from coordinator.records import (
    BookedOutcome,
    DeviceRow,
    DeviceStanding,
    JoinTokenRow,
    LeaseEnd,
    LeaseRecord,
    StoreSnapshot,
    WindowRow,
)
from coordinator.registry import digest
from coordinator.sessions import Reaction
from shared.decision.lease import LeaseWish
from shared.decision.types import (
    ArmSpeed,
    Attempt,
    CostAdjustment,
    IncarnationRange,
    LeaseClose,
    LeaseStatus,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolBody,
    SpoolRecord,
)
from shared.errors import AuthenticationError, ProtocolError
from tests.fakes.memory_store import MemoryStore, book_batch, say_hello

M = TypeVar("M")
NOW = 1_000_000_000
WORST = 1_000_000
BUDGET = 50_000_000
FLEET = """
[fleet]
name = "test"
[window]
length = "100s"
slot = "10s"
anchor = 0
[budget]
name = "cloud"
amount_usd = "0.05"
[arms.tiny]
kind = "local"
context_tokens_max = 512
max_tokens_default = 32
[arms.large]
kind = "cloud"
model = "large"
base_url = "http://127.0.0.1:9000/v1/"
fields = ["max_tokens"]
[arms.large.price]
input_usd_per_mtok = "2.50"
output_usd_per_mtok = "10"
request_usd = "0"
[device_classes.pi]
arms = ["tiny", "large"]
"""


class Fleet:
    """An engine with its store and one device, `dev`, that has joined."""

    def __init__(self, *, configured: bool = True) -> None:
        self.store = MemoryStore()
        self.store.open()
        self.now = NOW
        self.engine = CoordinatorEngine(StoreSnapshot())
        self.tokens = 0
        self.sequence = 0
        self.began: list[tuple[str, int]] = []
        self.held = ""
        row = DeviceRow("dev", "pi-1", "pi", digest("secret"), NOW)
        self.does(Reaction(effects=[self.engine.registry.put(row)]))
        if configured:
            self.apply(FLEET)

    @property
    def device(self) -> DeviceRow:
        return self.engine.registry.device("dev")

    @property
    def window(self) -> WindowRow:
        window = self.engine.window
        assert window is not None
        return window

    def does(self, reaction: Reaction) -> list[Message]:
        """Commit a reaction; what is sent to the device."""
        self.store.commit(reaction.effects)
        return [message for device_id, message in reaction.sends if device_id == "dev"]

    def apply(self, toml: str) -> list[Message]:
        _, reaction = self.engine.apply_config(toml, actor="op", unix_ms=self.now, dry_run=False)
        return self.does(reaction)

    def tick(self, *, later_ms: int = 0) -> list[Message]:
        self.now += later_ms
        return self.does(self.engine.tick(unix_ms=self.now))

    def restart(self) -> None:
        """Another process goes on from the store."""
        self.engine = CoordinatorEngine(self.store.load())

    def hello(self, *, token: str | None = None, number_max: int | None = None,
              acked: int = 0, last: int | None = None, copied: bool = False,
              leases: tuple[LeaseStatus, ...] | None = None,
              speeds: tuple[ArmSpeed, ...] = ()) -> list[Message]:  # fmt: skip
        """A new process connects with what an honest one would say, unless told otherwise."""
        self.tokens += 1
        number_max = self.device.lease_number_max if number_max is None else number_max
        lent = self.engine.account.open_leases("dev")
        held = (status(lease) for lease in lent if lease.number <= number_max)
        self.began.append((f"inc-{self.tokens}", self.sequence))
        hello = HelloReceived(
            incarnation=f"inc-{self.tokens}",
            resume_token=self.held if token is None else token,
            acked_sequence=acked,
            incarnations=self.incarnations(last=self.sequence if last is None else last),
            lease_number_max=number_max, leases=tuple(held) if leases is None else leases,
            local_arms=(), table_version=0, config_version=0, software_version="1", copied=copied,
            speeds=speeds,
        )  # fmt: skip
        issued = f"token-{self.tokens}"
        said = say_hello(
            self.engine, self.store, "dev", hello, resume_token=issued, unix_ms=self.now
        )
        return self.does(said)

    def incarnations(self, *, last: int) -> tuple[IncarnationRange, ...]:
        """What the spool holds of each process so far."""
        ends = [*(after for _, after in self.began[1:]), self.sequence]
        return tuple(
            IncarnationRange(name, min(after, last), min(end, last))
            for (name, after), end in zip(self.began, ends, strict=True)
        )

    def sync(self) -> None:
        """The device has synced the token of its session."""
        self.held = f"token-{self.tokens}"
        self.does(self.engine.token_synced("dev", self.held))

    def ask(self, *, worst: int = WORST) -> LeaseSent | LeaseRefused:
        """Ask for a lease; the answer."""
        reaction = self.engine.lease_requested("dev", LeaseWish(0, worst), unix_ms=self.now)
        (answer,) = self.does(reaction)
        assert isinstance(answer, LeaseSent | LeaseRefused)
        return answer

    def lease(self) -> LeaseSent:
        answer = self.ask()
        assert isinstance(answer, LeaseSent), answer
        return answer

    def refusal(self, *, worst: int = WORST) -> LeaseRefused:
        answer = self.ask(worst=worst)
        assert isinstance(answer, LeaseRefused), answer
        return answer

    def report(self, *bodies: SpoolBody) -> list[Message]:
        """The device sends its next records."""
        return self.send(self.records(*bodies))

    def records(self, *bodies: SpoolBody) -> list[SpoolRecord]:
        records = []
        for body in bodies:
            self.sequence += 1
            records.append(SpoolRecord(self.sequence, self.began[-1][0], body))
        return records

    def send(self, records: list[SpoolRecord]) -> list[Message]:
        booked = book_batch(
            self.engine, self.store, "dev", records,
            incarnation=self.began[-1][0], unix_ms=self.now,
        )  # fmt: skip
        return self.does(booked)


def status(lease: LeaseRecord) -> LeaseStatus:
    """A lease as its device tells of it."""
    amount = lease.amount_nanos
    return LeaseStatus(lease.number, lease.window_id, amount, 0, 0, amount, closing=False)


@pytest.fixture
def fleet() -> Fleet:
    """A configured fleet whose device may spend."""
    fleet = Fleet()
    fleet.hello()
    fleet.sync()
    return fleet


def only(kind: type[M], messages: list[Message]) -> list[M]:
    """The messages of one kind."""
    return [message for message in messages if isinstance(message, kind)]


def paid(request_id: str, *, lease: int, cost: int, reserved: int = WORST,
         settle: SettleKind = SettleKind.REPORTED) -> Outcome:  # fmt: skip
    """The outcome of one paid request."""
    attempt = Attempt("large", 10, "", lease, reserved, cost, settle)
    return Outcome(request_id, "other", NOW, RequestStatus.OK, "large", "large", 500_000, 1,
                   "table", forced=False, attempts=(attempt,))  # fmt: skip


def joined(fleet: Fleet, *, token: str = "tdj", device_class: str = "pi", device_id: str = "new",
           unix_ms: int = NOW) -> DeviceRow:  # fmt: skip
    """A device joins with a token."""
    device, _ = fleet.engine.registry.join(
        device_id=device_id, name=device_id, device_class=device_class, token=token,
        credential=f"credential of {device_id}", unix_ms=unix_ms,
    )  # fmt: skip
    return device


class TestJoin:
    """Exchanging a join token for a credential."""

    @pytest.fixture
    def inviting(self) -> Fleet:
        """A fleet with one open join token for a Pi."""
        fleet = Fleet()
        fleet.engine.registry.add_join_token(JoinTokenRow(digest("tdj"), "pi", NOW, NOW + 1_000))
        return fleet

    def test_a_token_gives_a_credential(self, inviting: Fleet) -> None:
        """Who joined is known by its credential from then on."""
        device = joined(inviting)

        assert device == inviting.engine.registry.authenticate("credential of new")

    def test_a_token_is_good_for_one_join(self, inviting: Fleet) -> None:
        """The second device with the same token is turned away."""
        joined(inviting)

        with pytest.raises(AuthenticationError, match="used already"):
            joined(inviting, device_id="second")

    def test_an_expired_token_is_refused(self, inviting: Fleet) -> None:
        """At its last millisecond a token is no longer good, and is not used up by the try."""
        with pytest.raises(AuthenticationError, match="expired"):
            joined(inviting, unix_ms=NOW + 1_000)

        assert "new" == joined(inviting, unix_ms=NOW + 999).id

    def test_a_token_for_another_class_is_refused(self, inviting: Fleet) -> None:
        """A token names the class that it admits."""
        with pytest.raises(AuthenticationError, match="for device class 'pi'"):
            joined(inviting, device_class="jetson")

    def test_an_unknown_token_is_refused(self, inviting: Fleet) -> None:
        """Neither a guess nor nothing opens the door."""
        for token in ("guess", ""):
            with pytest.raises(AuthenticationError, match="not known"):
                joined(inviting, token=token)


class TestHello:
    """Telling a device from its clone, and what a session begins with."""

    def test_the_welcome_comes_first(self) -> None:
        """A device is welcomed before it is configured and given its table."""
        messages = Fleet().hello()

        assert [Welcomed, ConfigSent, TableSent] == [type(message) for message in messages]

    def test_an_old_resume_token_means_a_clone(self, fleet: Fleet) -> None:
        """Its leases are booked in full, it is quarantined, and no lease is granted."""
        old, lease = fleet.held, fleet.lease()
        fleet.hello()
        fleet.sync()
        messages = fleet.hello(token=old)

        assert [True] == [welcome.quarantined for welcome in only(Welcomed, messages)]
        assert DeviceStanding.QUARANTINED is fleet.device.standing
        assert (lease.amount_nanos, 0) == (
            fleet.window.unconfirmed_nanos,
            fleet.window.outstanding_nanos,
        )
        fleet.engine.token_synced("dev", f"token-{fleet.tokens}")
        assert "not synced" in fleet.refusal().reason

    def test_lost_books_leave_the_device_no_money(self, fleet: Fleet) -> None:
        """It comes as itself, knows nothing, and says so: all its leases count as spent (O_3)."""
        lent = fleet.lease().amount_nanos + fleet.lease().amount_nanos
        fleet.report(paid("a", lease=1, cost=5))
        fleet.began.clear()
        fleet.sequence = 0
        fleet.hello(token="", number_max=0, leases=(), copied=True)

        assert (5, lent - 5, 0) == (
            fleet.window.settled_nanos,
            fleet.window.unconfirmed_nanos,
            fleet.window.outstanding_nanos,
        )
        assert DeviceStanding.QUARANTINED is fleet.device.standing
        assert "its books were lost" in fleet.device.standing_reason
        fleet.does(fleet.engine.readmit("dev", actor="op", unix_ms=NOW))
        fleet.hello(token="")
        fleet.sync()
        assert 3 == fleet.lease().lease_number, "above every number that the lost books had seen"

    def test_a_sequence_below_the_acked_one_means_a_clone(self, fleet: Fleet) -> None:
        """A disk that forgot what was acked was restored."""
        fleet.report(paid("a", lease=fleet.lease().lease_number, cost=5))
        fleet.hello(last=0)

        assert DeviceStanding.QUARANTINED is fleet.device.standing

    def test_fewer_records_are_only_noticed_once(self, fleet: Fleet) -> None:
        """A readmitted device goes on from the disk that it has."""
        fleet.report(paid("a", lease=fleet.lease().lease_number, cost=5))
        fleet.hello(last=0)
        fleet.does(fleet.engine.readmit("dev", actor="op", unix_ms=NOW))
        fleet.hello(last=0)
        fleet.sync()
        fleet.hello()

        assert DeviceStanding.ACTIVE is fleet.device.standing

    def test_a_copy_leaves_its_original_no_money(self, fleet: Fleet) -> None:
        """It has seen fewer leases; what the original may be spending counts as spent."""
        seen, unseen = fleet.lease(), fleet.lease()
        fleet.hello(copied=True, leases=(), number_max=seen.lease_number)

        lent = seen.amount_nanos + unseen.amount_nanos
        assert (lent, 0) == (fleet.window.unconfirmed_nanos, fleet.window.outstanding_nanos)
        assert DeviceStanding.ACTIVE is fleet.device.standing

    def test_a_lease_whose_close_was_lost_is_booked_in_full(self, fleet: Fleet) -> None:
        """Its device no longer knows of it, and has told all that it had to tell."""
        lease = fleet.lease()
        waiting = fleet.records(paid("a", lease=lease.lease_number, cost=5))
        fleet.hello(leases=())
        assert lease.amount_nanos == fleet.window.outstanding_nanos, "its close may be on the way"
        fleet.send(waiting)

        assert (5, lease.amount_nanos - 5, 0) == (
            fleet.window.settled_nanos,
            fleet.window.unconfirmed_nanos,
            fleet.window.outstanding_nanos,
        )
        assert ["close:dev"] == list(fleet.engine.alarms)

    def test_a_batch_of_a_session_that_is_over_is_refused(self, fleet: Fleet) -> None:
        """Its sequences are those of another disk, perhaps."""
        batch = fleet.records(paid("a", lease=fleet.lease().lease_number, cost=5))
        over = fleet.began[-1][0]
        fleet.hello()
        with pytest.raises(ProtocolError, match="is over"):
            fleet.engine.batch("dev", batch, incarnation=over, unix_ms=NOW)

    def test_a_lost_welcome_makes_no_clone(self, fleet: Fleet) -> None:
        """A device that never saw its new token comes with the one before."""
        for _ in range(3):
            fleet.hello()

        assert DeviceStanding.ACTIVE is fleet.device.standing

    def test_a_lost_confirmation_makes_no_clone(self, fleet: Fleet) -> None:
        """A device may come with a token whose confirmation was lost on the way."""
        fleet.hello()
        fleet.hello(token=f"token-{fleet.tokens}")

        assert DeviceStanding.ACTIVE is fleet.device.standing

    def test_a_readmitted_device_spends_again(self, fleet: Fleet) -> None:
        """Readmission takes the next token as it comes, and later ones strictly again."""
        fleet.hello(token="stolen")
        fleet.does(fleet.engine.readmit("dev", actor="op", unix_ms=NOW))
        messages = fleet.hello(token="anything")
        fleet.sync()

        assert [False] == [welcome.quarantined for welcome in only(Welcomed, messages)]
        assert isinstance(fleet.ask(), LeaseSent)
        assert {} == fleet.engine.alarms
        fleet.hello(token="anything")
        assert DeviceStanding.QUARANTINED is fleet.device.standing

    def test_a_lost_grant_is_taken_back(self, fleet: Fleet) -> None:
        """A lease that the device has never seen returns whole at its next hello."""
        seen, lost = fleet.lease(), fleet.lease()
        fleet.hello(number_max=seen.lease_number)

        record = fleet.engine.account.lease("dev", lost.lease_number)
        assert record is not None
        assert LeaseEnd.CLOSED is record.end
        assert seen.amount_nanos == fleet.window.committed_nanos
        assert lost.lease_number + 1 == self.next_number(fleet)

    def next_number(self, fleet: Fleet) -> int:
        """The number of the next lease: a number is never given twice (rule L_1)."""
        fleet.sync()
        return fleet.lease().lease_number

    def test_a_lease_that_the_books_do_not_know_freezes_grants(self, fleet: Fleet) -> None:
        """These books were restored from a backup: nobody gets a lease (rule C_5)."""
        foreign = LeaseStatus(9, 1, WORST, 0, 0, WORST, closing=False)
        fleet.hello(leases=(foreign,), number_max=9)
        fleet.sync()

        assert "restored from a backup" in fleet.refusal().reason

    def test_a_restart_does_not_end_the_freeze(self, fleet: Fleet) -> None:
        """The money on the lost lease is nowhere booked, so the freeze returns with the device."""
        foreign = LeaseStatus(9, 1, WORST, 0, 0, WORST, closing=False)
        fleet.hello(leases=(foreign,), number_max=9)
        fleet.restart()
        fleet.hello(leases=(foreign,), number_max=9)
        fleet.sync()

        assert "restored from a backup" in fleet.refusal().reason

    def test_a_cost_on_a_lost_lease_freezes_grants(self, fleet: Fleet) -> None:
        """Also when the lease is closed by now, and only the spool still tells of it."""
        fleet.report(paid("a", lease=9, cost=5))

        assert "restored from a backup" in fleet.refusal().reason


class TestLease:
    """Who gets a lease, and when it is called back."""

    def test_a_lease_waits_for_the_synced_token(self) -> None:
        """A device that could forget its session must not spend (rule D_2)."""
        fleet = Fleet()
        fleet.hello()

        assert "not synced" in fleet.refusal().reason

    def test_an_unconfigured_fleet_grants_nothing(self) -> None:
        """Without a budget there is nothing to lend."""
        fleet = Fleet(configured=False)
        fleet.hello()
        fleet.sync()

        assert "not configured" in fleet.refusal().reason

    def test_a_pause_refuses_until_it_ends(self, fleet: Fleet) -> None:
        """Devices are told at once, and a restart does not forget the pause."""
        told = fleet.does(fleet.engine.set_spend_paused(True, actor="op", unix_ms=NOW))
        assert [SpendCommanded(paused=True)] == told
        assert "paused" in fleet.refusal().reason

        fleet.restart()
        (welcome,) = only(Welcomed, fleet.hello())
        assert welcome.spend_paused
        fleet.sync()
        fleet.does(fleet.engine.set_spend_paused(False, actor="op", unix_ms=NOW))
        assert isinstance(fleet.ask(), LeaseSent)

    def test_what_is_free_bounds_the_leases(self, fleet: Fleet) -> None:
        """Leases go out until less than a worst case is free; then the refusal says so."""
        granted = 0
        while isinstance(answer := fleet.ask(), LeaseSent):
            granted += answer.amount_nanos

        assert "are free until the window ends" in answer.reason
        assert granted == fleet.window.outstanding_nanos
        assert BUDGET - WORST < granted <= BUDGET

    def test_a_worst_case_above_what_is_free_is_refused(self, fleet: Fleet) -> None:
        """Half a request is no use to anybody."""
        assert "are free" in fleet.refusal(worst=BUDGET + 1).reason

    def test_unclean_closes_back_off(self, fleet: Fleet) -> None:
        """A crash loop waits twice as long each time; one clean close forgives (rule L_4)."""
        waits = []
        for _ in range(3):
            lease = fleet.lease()
            fleet.hello()
            fleet.sync()
            fleet.report(LeaseClose(lease.lease_number, lease.amount_nanos, False, "rebooted"))
            waits.append(fleet.refusal().retry_after_ms)
            fleet.now += waits[-1]
        lease = fleet.lease()
        fleet.report(LeaseClose(lease.lease_number, 0, True, "used up"))

        assert [1_000, 2_000, 4_000] == waits
        assert 0 == fleet.device.unclean_closes
        assert isinstance(fleet.ask(), LeaseSent)

    def test_a_cut_budget_falls_as_leases_close(self, fleet: Fleet) -> None:
        """The enforced budget comes down to its target with the money that returns (C_3)."""
        first, second = fleet.lease(), fleet.lease()
        both = first.amount_nanos + second.amount_nanos
        told = fleet.does(fleet.engine.set_budget(WORST, actor="op", unix_ms=NOW))

        assert [LeaseRecalled(0, "the budget was cut")] == told
        assert (WORST, both) == (fleet.window.target_nanos, fleet.window.enforced_nanos)
        assert "are free" in fleet.refusal().reason
        fleet.report(LeaseClose(first.lease_number, 0, True, "recalled"))
        assert second.amount_nanos == fleet.window.enforced_nanos
        fleet.report(LeaseClose(second.lease_number, 0, True, "recalled"))
        assert WORST == fleet.window.enforced_nanos
        assert WORST == fleet.lease().amount_nanos

    def test_a_new_price_recalls_every_lease(self, fleet: Fleet) -> None:
        """Leases granted under an old price come back, and the next name the new one (A_3)."""
        before = fleet.lease()
        messages = fleet.apply(FLEET.replace('"2.50"', '"3"'))

        assert [LeaseRecalled(0, "prices have changed")] == only(LeaseRecalled, messages)
        assert before.price_version < fleet.lease().price_version

    def test_a_new_window_starts_afresh(self, fleet: Fleet) -> None:
        """Nothing rolls over; old leases are called back and cost their own window (C_4)."""
        lease, old = fleet.lease(), fleet.window
        messages = fleet.tick(later_ms=100_000)
        assert [lease.lease_number] == [m.lease_number for m in only(LeaseRecalled, messages)]
        assert (BUDGET, 0) == (fleet.window.free_nanos, fleet.window.committed_nanos)

        fleet.report(
            paid("a", lease=lease.lease_number, cost=70),
            LeaseClose(lease.lease_number, 70, True, "window over"),
        )
        assert (70, 0) == (
            fleet.engine.account.window(old.id).settled_nanos,
            fleet.window.committed_nanos,
        )

    def test_a_lease_ends_with_its_window(self, fleet: Fleet) -> None:
        """However long a lease may last, its window's end is its own."""
        fleet.now = fleet.window.end_unix_ms - 3_000
        fleet.tick()

        assert 3_000 == fleet.lease().duration_ms

    def test_a_grant_repeats_when_its_device_asked(self, fleet: Fleet) -> None:
        """On the device's clock, so that its time begins before the coordinator has counted it."""
        asked = fleet.engine.lease_requested(
            "dev", LeaseWish(0, WORST, asked_boot_ms=77), unix_ms=fleet.now
        )
        (sent,) = only(LeaseSent, fleet.does(asked))
        assert 77 == sent.asked_boot_ms


class TestBatch:
    """What a device's records do to the books."""

    def test_a_gap_is_refused(self, fleet: Fleet) -> None:
        """Records that went missing are asked for again; nothing after them is booked."""
        number = fleet.lease().lease_number
        missing, *rest = fleet.records(*(paid(x, lease=number, cost=5) for x in "abc"))

        with pytest.raises(ProtocolError, match="records are missing"):
            fleet.send(rest)

        assert (0, {}) == (fleet.window.settled_nanos, fleet.store.database.spool_marks)
        fleet.send([missing, *rest])
        assert 15 == fleet.window.settled_nanos

    def test_a_batch_that_comes_twice_is_booked_once(self, fleet: Fleet) -> None:
        """The second time is acked all the same, so that the device can go on."""
        batch = fleet.records(paid("a", lease=fleet.lease().lease_number, cost=5))

        assert [Acked(1)] == fleet.send(batch)
        assert [Acked(1)] == fleet.send(batch)
        assert 5 == fleet.window.settled_nanos
        learned = [row for row in fleet.store.database.learned if isinstance(row, BookedOutcome)]
        assert ["a"] == [row.outcome.request_id for row in learned]

    def test_an_overrun_is_booked_in_full_and_raises_an_alarm(self, fleet: Fleet) -> None:
        """A provider that bills above the worst case is found out (rule S_4)."""
        lease = fleet.lease()
        fleet.report(paid("a", lease=lease.lease_number, cost=lease.amount_nanos + 5))

        assert lease.amount_nanos + 5 == fleet.window.settled_nanos
        assert ["overrun:large"] == list(fleet.engine.alarms)

    def test_an_overrun_closes_the_arm_everywhere_until_an_operator_opens_it(
        self, fleet: Fleet
    ) -> None:
        """The arm is disabled in what devices are sent, also after a restart (rule S_4)."""
        lease = fleet.lease()
        fleet.report(paid("a", lease=lease.lease_number, cost=lease.amount_nanos + 5))
        fleet.restart()
        assert frozenset({"large"}) == fleet.engine.disabled_arms

        fleet.engine.set_arm_enabled("large", True, actor="ann", unix_ms=fleet.now)
        assert frozenset() == fleet.engine.disabled_arms

    def test_a_released_attempt_costs_nothing(self, fleet: Fleet) -> None:
        """What was never executed is not booked (rule S_2)."""
        number = fleet.lease().lease_number
        fleet.report(paid("a", lease=number, cost=0, settle=SettleKind.RELEASED))

        assert 0 == fleet.window.settled_nanos

    def test_late_usage_after_a_restart_freezes_nothing(self, fleet: Fleet) -> None:
        """A call that outlives its lease, its window and the coordinator is booked as it was."""
        lease, old = fleet.lease(), fleet.window
        fleet.tick(later_ms=100_000)
        fleet.report(LeaseClose(lease.lease_number, WORST, True, "expired"))
        fleet.restart()
        fleet.hello()
        fleet.report(
            paid("a", lease=lease.lease_number, cost=WORST, settle=SettleKind.UNKNOWN),
            CostAdjustment("a", lease.lease_number, 70 - WORST, "usage came late"),
        )

        assert {} == fleet.engine.alarms
        window = fleet.store.database.windows[old.id]
        assert (70, 0) == (window.settled_nanos, window.unconfirmed_nanos)
        fleet.sync()
        assert isinstance(fleet.ask(), LeaseSent)


class TestTables:
    """When devices are told to decide otherwise."""

    def test_a_disabled_arm_leaves_the_tables(self, fleet: Fleet) -> None:
        """Devices get a table and a configuration without it; enabling brings it back."""
        messages = fleet.does(fleet.engine.set_arm_enabled("large", False, actor="op", unix_ms=NOW))
        (table,), (config,) = only(TableSent, messages), only(ConfigSent, messages)
        large = config.config.arm("large")
        assert large is not None
        assert not large.enabled
        assert {"tiny"} == {arm.arm for row in table.table.rows for arm in row.arms}

        fleet.restart()
        fleet.hello()
        messages = fleet.does(fleet.engine.set_arm_enabled("large", True, actor="op", unix_ms=NOW))
        (table,) = only(TableSent, messages)
        assert {"tiny", "large"} == {arm.arm for row in table.table.rows for arm in row.arms}

    def test_a_table_is_pushed_only_when_it_changed(self, fleet: Fleet) -> None:
        """A plan that decides alike is not sent again; one that differs is."""
        before = fleet.engine.tables["pi"]
        quiet = [message for _ in range(5) for message in fleet.tick(later_ms=100)]
        assert [] == only(TableSent, quiet)

        fleet.does(fleet.engine.set_arm_enabled("large", False, actor="op", unix_ms=fleet.now))
        after = fleet.engine.tables["pi"]
        assert after.version > before.version
        assert not replace(after, version=before.version).same_choices(before)
        repeated = fleet.engine.set_arm_enabled("large", False, actor="op", unix_ms=fleet.now)
        assert [] == only(TableSent, fleet.does(repeated))


def test_what_a_device_has_measured_becomes_a_prior() -> None:
    """From its hello on; also if the fleet was configured only after that."""
    speeds = (ArmSpeed("local", 100.0, 10.0),)
    for fleet in (Fleet(), Fleet(configured=False)):
        fleet.hello(speeds=speeds)
        fleet.apply(FLEET)
        assert fleet.engine.planner is not None
        known = fleet.engine.planner.load.speeds.to_state()
        assert [["pi", "dev", [["local", 100.0, 10.0]]]] == known
        fleet.tick(later_ms=60_000)  # a slot later it is part of the snapshot
        fleet.restart()
        assert fleet.engine.planner is not None
        assert known == fleet.engine.planner.load.speeds.to_state()


KEYED = FLEET.replace('model = "large"', 'model = "large"\napi_key = "coordinator:big"')
OTHER_BUDGET = KEYED.replace('"0.05"', '"0.06"')


def with_keys(*names: str, configured: bool = True) -> Fleet:
    """A fleet whose coordinator has these provider keys."""
    fleet = Fleet(configured=False)
    fleet.engine = CoordinatorEngine(fleet.store.load(), provider_keys=frozenset(names))
    if configured:
        fleet.apply(KEYED)
    return fleet


def keys_in(messages: list[Message]) -> list[frozenset[str]]:
    """The names of the keys that are sent."""
    return [message.names for message in messages if isinstance(message, ProviderKeysSent)]


def test_a_device_gets_the_keys_that_its_arms_name() -> None:
    """After each configuration, and when the keys may have changed."""
    fleet = with_keys("big", "other")
    said = fleet.hello()
    kinds = [type(message) for message in said]
    assert kinds.index(ConfigSent) < kinds.index(ProviderKeysSent)
    assert [{"big"}] == keys_in(said)
    assert [{"big"}] == keys_in(fleet.apply(OTHER_BUDGET))
    assert [{"big"}] == keys_in(fleet.does(fleet.engine.renewed_keys()))
    assert [] == keys_in(fleet.apply(FLEET))
    assert [] == keys_in(fleet.does(fleet.engine.renewed_keys()))


def test_a_key_that_the_coordinator_lacks_is_refused_at_apply() -> None:
    """By its name; what was applied before goes on, also without the key."""
    fleet = with_keys("other", configured=False)
    with pytest.raises(FleetConfigError, match=r"no provider key 'big'; known are other"):
        fleet.apply(KEYED)
    fleet = with_keys("big")
    fleet.engine = CoordinatorEngine(fleet.store.load())
    assert fleet.engine.config is not None
    with pytest.raises(FleetConfigError):
        fleet.apply(OTHER_BUDGET)


def test_a_clone_gets_no_keys() -> None:
    """Only a device in good standing may spend."""
    fleet = with_keys("big")
    fleet.hello()
    fleet.sync()
    assert [] == keys_in(fleet.hello(token="an older one"))
    assert DeviceStanding.QUARANTINED is fleet.device.standing
    assert [] == keys_in(fleet.does(fleet.engine.renewed_keys()))
