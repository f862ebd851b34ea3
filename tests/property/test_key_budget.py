"""API keys' budgets under any order of events: no window of a key is ever overspent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.books import BookEffect
from edge_agent.candidates import RequestFacts
from edge_agent.gate import Gate
from edge_agent.outbox import Outbox
from shared.decision.key_budget import KeyBudget
from shared.decision.lease import ReservationRow
from shared.decision.types import SettleKind
from tests.fakes.memory_books import MemoryBooks, MemoryDisk
from tests.fakes.samples import cloud_arm, facts, granted

ARM = cloud_arm()
DAY_MS = 1_000
BUDGETS = {"shop": 100_000, "lab": 1_000_000}
Window = tuple[str, int]
"""A key's tag, and when its window began."""


class Keys(RuleBasedStateMachine):
    """One device with two keys; `billed` is what the provider billed in each of their windows.

    Overruns apart, which are the provider's doing, no window may ever be billed more than its
    key's budget, whatever becomes of the process, the power and the clock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.boots = self.starts = self.requests = self.leases = 0
        self.unix_ms = 5 * DAY_MS + 300
        self.billed: Counter[Window] = Counter()
        self.overran: Counter[Window] = Counter()
        self.began: dict[str, int] = {}
        self.open: dict[str, tuple[ReservationRow, int]] = {}
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.disk.held = False
        snapshot = MemoryBooks(self.disk).load()
        incarnation = f"inc-{self.starts}"
        outbox = Outbox(incarnation=incarnation, snapshot=snapshot)
        self.gate = Gate(
            incarnation=incarnation,
            boot_id=f"boot-{self.boots}",
            snapshot=snapshot,
            outbox=outbox,
            key_budgets=[KeyBudget(tag, amount, DAY_MS) for tag, amount in BUDGETS.items()],
            unix_ms=self.unix_ms,
        )
        self.open = {}
        self.commit(self.gate.recover(), sync=True)
        self.lend()
        self.keep_house(0, sync=True)

    def lend(self) -> None:
        """A lease that is never what is short here."""
        number = self.gate.number_max + 1
        effects = self.gate.granted(
            granted(number, amount=10**12, duration_ms=10**9),
            incarnation=f"inc-{self.starts}",
            boot_ms=0,
        )
        self.commit(effects, sync=True)
        self.gate.synced(effects)

    def commit(self, effects: Sequence[BookEffect], *, sync: bool = False) -> None:
        if effects:
            self.disk.state.check(effects)
            self.disk.commit(effects, sync=sync)

    @rule(
        tag=st.sampled_from(["shop"] * 6 + ["lab", "guest"]),
        size=st.sampled_from([0, 0, 400]),
        in_full=st.booleans(),
        times=st.integers(1, 6),
    )
    def call(self, tag: str, size: int, in_full: bool, times: int) -> None:
        """Reserve, commit, and send at once; what is billed is known later, or never."""
        for _ in range(times):
            self.call_once(tag, size, in_full=in_full)

    def call_once(self, tag: str, size: int, *, in_full: bool) -> None:
        self.requests += 1
        asked: RequestFacts = facts(f"r{self.requests}", key_tag=tag, body_bytes=size)
        row, _, effects = self.gate.reserve(asked, arm=ARM, boot_ms=0)
        self.commit(effects)
        if row is None:
            return
        billed = row.amount_nanos // (1 if in_full else 2)
        self.billed[tag, row.key_window] += billed
        self.open[row.id] = row, billed

    @rule(tag=st.sampled_from(["shop", "lab", "guest"]), times=st.integers(1, 6))
    def wait_for_a_sync(self, tag: str, times: int) -> None:
        """So many requests wait at once; those that came before have gone."""
        for number in range(6):
            self.gate.needs_no_more(f"w{number}")
        for number in range(times):
            self.gate.need_sync(f"w{number}", amount_nanos=20_000, key_tag=tag)

    @precondition(lambda self: self.open)
    @rule(end=st.sampled_from(["reported", "unknown", "released", "overrun"]))
    def settle(self, end: str) -> None:
        row, billed = self.open.pop(min(self.open))
        window = (row.key_tag, row.key_window)
        kind, cost = SettleKind.REPORTED, billed
        if end == "unknown":
            kind = SettleKind.UNKNOWN
        elif end == "released":
            kind = SettleKind.RELEASED
            self.billed[window] -= billed
        elif end == "overrun":
            cost = row.amount_nanos + 1_000
            self.billed[window] += cost - billed
            self.overran[window] += 1_000
        settled, effects = self.gate.settle(row.id, arm="another", kind=kind, cost_nanos=cost)
        if end == "unknown":  # the usage comes late, and is what it was
            effects += self.gate.correct(settled, request_id=row.request_id, cost_nanos=billed)
        self.gate._overrun_arms.clear()
        self.commit(effects)

    @rule(
        ms=st.sampled_from([0, 0, 0, 0, 100, DAY_MS, -100, -DAY_MS, -2 * DAY_MS]),
        sync=st.sampled_from([True, True, False]),
        busy=st.booleans(),
    )
    def keep_house(self, ms: int, sync: bool, busy: bool = False) -> None:
        """Time passes, or the clock is set, also back; then the house-keeping runs.

        When `busy`, a call ends and another one begins while the disk is synced.
        """
        self.unix_ms = max(0, self.unix_ms + ms)
        self.commit(self.gate.expire(boot_ms=0, unix_ms=self.unix_ms))
        raised = self.gate.raised_watermarks()
        self.commit(raised, sync=sync)
        if busy and self.open:
            self.settle("reported")
            self.call_once("shop", 0, in_full=True)
        if sync:
            self.gate.synced(raised)

    @rule(power=st.booleans(), survivors=st.sampled_from([0, 0, 0, 1, 3]))
    def end(self, power: bool, survivors: int) -> None:
        """`kill -9` leaves what was committed, a loss of power what was synced or little more."""
        if power:
            self.disk.lose_power(survivors=survivors)
            self.boots += 1
        self.start()

    @invariant()
    def every_committed_state_is_within_the_budgets(self) -> None:
        state = self.disk.state
        for row in state.key_budgets.values():
            reserved = sum(
                held.amount_nanos
                for held in state.reservations.values()
                if (held.key_tag, held.key_window) == (row.tag, row.start_unix_ms)
            )
            allowed = BUDGETS[row.tag] + self.overran[row.tag, row.start_unix_ms]
            assert row.settled_nanos + reserved <= allowed

    @invariant()
    def no_window_was_billed_beyond_its_budget(self) -> None:
        for (tag, window), billed in self.billed.items():
            if tag in BUDGETS:
                assert billed <= BUDGETS[tag] + self.overran[tag, window]

    @invariant()
    def windows_never_go_back(self) -> None:
        for row in self.gate._keys._rows.values():
            assert self.began.get(row.tag, 0) <= row.start_unix_ms < row.end_unix_ms
            self.began[row.tag] = row.start_unix_ms


TestKeys = Keys.TestCase
TestKeys.__doc__ = "Settled and reserved stay within every key's budget, and so does the bill."
