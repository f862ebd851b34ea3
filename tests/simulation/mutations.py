"""Deliberate defects, each of which a checker must catch: the proof that the checkers can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import coordinator.booking
import coordinator.engine
import coordinator.lending
from coordinator.account import BudgetAccount
from coordinator.engine import CoordinatorEngine
from coordinator.granting import lease_amount_nanos
from coordinator.group_commit import Asked, GroupCommit, _is_refusal
from coordinator.messages import Acked
from coordinator.records import LedgerKind
from coordinator.recovery import Recovery
from coordinator.sessions import Reaction
from coordinator.spool_progress import SpoolProgress
from edge_agent.attempts import AttemptPlan
from edge_agent.books import DropLease, MetaKey, PutMeta
from edge_agent.engine import AgentEngine
from edge_agent.gate import Gate
from edge_agent.outbox import Outbox
from shared.decision.lease import LeaseBook
from shared.decision.money import Price
from shared.decision.types import SettleKind
from shared.errors import StoreError, TidegateError
from tests.fakes.memory_store import MemoryStore
from tests.simulation.device import Device
from tests.simulation.disk import SimBooks
from tests.simulation.provider import Bill, Fate
from tests.simulation.transactions import Transactions
from tests.simulation.world import World, simulate

LEASE_DURATION_MS = 8_000
MORE_NANOS = 3_000_000
Patches = Sequence[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Mutation:
    """One defect.

    Attributes
    ----------
    rule : str
        Of `budget.md`, that it breaks.
    patches : callable
        Makes what to put in the place of what: object, name, replacement.
    """

    name: str
    rule: str
    patches: Callable[[], Patches]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The defect, for as long as the context lasts."""
        with ExitStack() as stack:
            for owner, name, wrong in self.patches():
                stack.enter_context(patch.object(owner, name, wrong))
            yield


@dataclass(frozen=True)
class Caught:
    """How a mutation was found; seed -1 if it was not."""

    mutation: str
    seed: int
    violation: str


MUTATIONS: dict[str, Mutation] = {}


def _defect(rule: str) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    def register(make: Callable[[], Patches]) -> Callable[[], Patches]:
        name = make.__name__.strip("_")
        MUTATIONS[name] = Mutation(name, rule, make)
        return make

    return register


def catch(mutation: Mutation, *, seeds: int, steps: int, first: int = 0) -> Caught:
    """Run seeds until a checker fails."""
    for seed in range(first, first + seeds):
        with mutation.applied():
            result = simulate(seed, steps=steps, until_well=True)
        if result.violation is not None:
            return Caught(mutation.name, seed, str(result.violation))
    return Caught(mutation.name, -1, "")


# What a call costs.


@_defect("S_2, I5")
def _settle_unknown_at_zero() -> Patches:
    settle = LeaseBook.settle

    def wrong(self: LeaseBook, key: str, *, kind: SettleKind, cost_nanos: int | None = None) -> Any:
        if kind is not SettleKind.UNKNOWN:
            return settle(self, key, kind=kind, cost_nanos=cost_nanos)
        return replace(settle(self, key, kind=SettleKind.REPORTED, cost_nanos=0), kind=kind)

    return [(LeaseBook, "settle", wrong)]


@_defect("S_2")
def _bill_dead_endpoint() -> Patches:
    settle = LeaseBook.settle

    def wrong(self: LeaseBook, key: str, *, kind: SettleKind, cost_nanos: int | None = None) -> Any:
        kind = SettleKind.UNKNOWN if kind is SettleKind.RELEASED else kind
        return settle(self, key, kind=kind, cost_nanos=cost_nanos)

    return [(LeaseBook, "settle", wrong)]


@_defect("S_4")
def _overrun_cut_off() -> Patches:
    settle = LeaseBook.settle

    def wrong(self: LeaseBook, key: str, *, kind: SettleKind, cost_nanos: int | None = None) -> Any:
        most = self._reservations[key].amount_nanos
        return settle(self, key, kind=kind, cost_nanos=min(cost_nanos or 0, most))

    return [(LeaseBook, "settle", wrong)]


@_defect("S_3")
def _late_usage_dropped() -> Patches:
    return [(Gate, "correct", lambda self, settled, *, request_id, cost_nanos: [])]


@_defect("A_1")
def _unknown_price_is_zero() -> Patches:
    config_for = CoordinatorEngine.device_config

    def wrong(self: CoordinatorEngine, device_class: str) -> Any:
        config = config_for(self, device_class)
        if config is None:
            return None
        small = config.arm("small")
        assert small is not None
        assert small.cloud is not None
        free = replace(small, cloud=replace(small.cloud, price=Price(0, 0)))
        arms = tuple(free if arm.id == "small" else arm for arm in config.arms)
        return replace(config, arms=arms)

    return [(CoordinatorEngine, "device_config", wrong)]


@_defect("A_1")
def _money_as_float() -> Patches:
    cost = Price.cost_nanos

    def wrong(self: Price, *, prompt_tokens: int, completion_tokens: int) -> float:
        nanos = cost(self, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        return nanos / 1e9 * 1e9

    return [(Price, "cost_nanos", wrong)]


@_defect("S_2")
def _settle_a_nano_too_much() -> Patches:
    settle_all = BudgetAccount.settle_all

    def wrong(self: BudgetAccount, device_id: str, costs: Any, *, at: int) -> int:
        more = [(number, cost + 1, request_id, label) for number, cost, request_id, label in costs]
        return settle_all(self, device_id, more, at=at)

    return [(BudgetAccount, "settle_all", wrong)]


@_defect("I2")
def _close_books_more_than_was_lent() -> Patches:
    close = BudgetAccount.close

    def wrong(self: BudgetAccount, device_id: str, number: int, **more: Any) -> str:
        alarm = close(self, device_id, number, **more)
        lease = self._known(device_id, number)
        for kind in (LedgerKind.GRANT, LedgerKind.UNCONFIRMED):
            self._book(lease, kind, MORE_NANOS, unix_ms=more["at"])
        self._put_lease(replace(lease, unconfirmed_nanos=lease.unconfirmed_nanos + MORE_NANOS))
        return alarm

    return [(BudgetAccount, "close", wrong)]


# The gate.


def _without_gate(skips: Callable[[Any], bool]) -> Patches:
    next_attempt = AgentEngine.next_attempt

    def wrong(self: AgentEngine, request_id: str, *, boot_ms: int) -> Any:
        request = self._requests[request_id]
        paid = [a for name in request.queue if (a := self.config.arm(name)) and a.cloud]
        if not paid or not skips(request):
            return next_attempt(self, request_id, boot_ms=boot_ms)
        request.queue.remove(paid[0].id)
        cloud = paid[0].cloud
        assert cloud is not None
        tokens = request.facts.max_tokens_on(paid[0])
        request.plan = AttemptPlan(arm=paid[0], max_tokens=tokens, price=cloud.price)
        return request.plan, []

    return [(AgentEngine, "next_attempt", wrong)]


@_defect("S_1, I6")
def _pinned_arms_skip_the_gate() -> Patches:
    return _without_gate(lambda request: bool(request.facts.pinned_arm))


@_defect("S_1, I6")
def _fallbacks_skip_the_gate() -> Patches:
    return _without_gate(lambda request: bool(request.attempts))


@_defect("S_1, I6")
def _judges_skip_the_gate() -> Patches:
    return _without_gate(lambda request: request.facts.request_id.startswith("j-"))


@_defect("S_1")
def _sdk_retries() -> Patches:
    buy = World.buy

    def wrong(self: World, device: Device, wanted: Any, plan: AttemptPlan) -> Bill:
        bill = buy(self, device, wanted, plan)
        if bill.fate in (Fate.DEAD, Fate.REFUSED, Fate.ABORTED):
            buy(self, device, wanted, plan)
        return bill

    return [(World, "buy", wrong)]


@_defect("L_2")
def _call_before_commit() -> Patches:
    next_attempt = AgentEngine.next_attempt

    def wrong(self: AgentEngine, request_id: str, *, boot_ms: int) -> Any:
        plan, effects = next_attempt(self, request_id, boot_ms=boot_ms)
        return plan, ([] if plan is not None and plan.price is not None else effects)

    return [(AgentEngine, "next_attempt", wrong)]


# Leases on the device.


@_defect("L_1, L_5")
def _duplicated_grant_reopens_a_lease() -> Patches:
    grant = LeaseBook.grant

    def wrong(self: LeaseBook, granted: Any, **more: Any) -> bool:
        most = self._number_max
        if granted.number not in self._leases:
            self._number_max = 0
        taken = grant(self, granted, **more)
        self._number_max = max(most, self._number_max)
        return taken

    return [(LeaseBook, "grant", wrong)]


@_defect("L_5")
def _close_is_sent_before_it_is_synced() -> Patches:
    commit = SimBooks.commit

    async def wrong(self: SimBooks, effects: Any, *, sync: bool = False, **more: Any) -> None:
        loose = any(
            isinstance(e, DropLease)
            or (isinstance(e, PutMeta) and e.key is MetaKey.SEQUENCE_SENT_MAX)
            for e in effects
        )
        await commit(self, effects, sync=sync and not loose, **more)

    return [(SimBooks, "commit", wrong)]


@_defect("L_4, D_1")
def _lease_survives_a_reboot() -> Patches:
    def wrong(self: LeaseBook, *, in_full: bool = False) -> list[Any]:
        for held in self._leases.values():
            held.row = replace(held.row, incarnation=self._incarnation)
        return []

    return [(LeaseBook, "close_earlier", wrong)]


@_defect("L_3")
def _suspend_counts_as_no_time() -> Patches:
    def wrong(self: Device) -> int:
        return int(self.monotonic_ms()) - self.boot.began_ms

    return [(Device, "boot_ms", wrong)]


@_defect("L_2, L_4")
def _watermark_forgotten() -> Patches:
    close_earlier = LeaseBook.close_earlier

    def wrong(self: LeaseBook, **more: Any) -> Any:
        for held in self._leases.values():
            held.row = replace(held.row, watermark_nanos=0)
        return close_earlier(self, **more)

    return [(LeaseBook, "close_earlier", wrong)]


@_defect("L_1, L_2")
def _spend_before_the_watermark_is_synced() -> Patches:
    grant = LeaseBook.grant

    def wrong(self: LeaseBook, granted: Any, **more: Any) -> bool:
        taken = grant(self, granted, **more)
        if taken:
            self._leases[granted.number].synced_nanos = granted.amount_nanos
        return taken

    return [(LeaseBook, "grant", wrong)]


@_defect("D_2, L_4")
def _copy_closes_leases_at_its_own_figure() -> Patches:
    close_earlier = LeaseBook.close_earlier

    def wrong(self: LeaseBook, *, in_full: bool = False) -> list[Any]:
        return close_earlier(self)

    return [(LeaseBook, "close_earlier", wrong)]


# The outbox.


@_defect("O_2")
def _compact_sent_rows() -> Patches:
    compact = Outbox.compact

    def after(self: Outbox) -> int | None:
        return self.acked if self.last - self.acked > 25 else None

    def wrong(self: Outbox, records: Any) -> Any:
        sent, self.sent_max = self.sent_max, 0
        effects = compact(self, records)
        self.sent_max = sent
        return effects

    return [(Outbox, "overfull_after", after), (Outbox, "compact", wrong)]


# The coordinator.


@_defect("O_1")
def _batch_applied_twice() -> Patches:
    after = SpoolProgress.after

    def wrong(self: SpoolProgress, records: Any, **more: Any) -> tuple[SpoolProgress, list[Any]]:
        return after(self, records, **more)[0], list(records)

    return [(SpoolProgress, "after", wrong)]


@_defect("D_1, O_1")
def _records_told_by_sequence_alone() -> Patches:
    after = SpoolProgress.after

    def wrong(self: SpoolProgress, records: Any, **more: Any) -> tuple[SpoolProgress, list[Any]]:
        booked = max(self.marks.values(), default=0)
        progress, fresh = after(self, records, **more)
        return progress, [record for record in fresh if record.sequence > booked]

    return [(SpoolProgress, "after", wrong)]


@_defect("O_1")
def _ack_before_commit() -> Patches:
    commit = Transactions._commit

    async def wrong(self: Transactions, rows: Any) -> None:
        for each in self.decided:
            acks = [sent for sent in each.reaction.sends if isinstance(sent[1], Acked)]
            self._centre.send(Reaction(sends=acks))
        await commit(self, rows)

    return [(Transactions, "_commit", wrong)]


@_defect("O_1")
def _lost_transaction_is_told() -> Patches:
    commit = Transactions._commit

    async def wrong(self: Transactions, rows: Any) -> None:
        with suppress(StoreError):
            await commit(self, rows)

    return [(Transactions, "_commit", wrong)]


@_defect("C_2")
def _engine_goes_on_after_a_lost_transaction() -> Patches:
    async def wrong(self: GroupCommit) -> None:
        self.stale = False

    return [(GroupCommit, "_renew", wrong)]


@_defect("O_1")
def _hello_is_read_before_its_transaction() -> Patches:
    async def wrong(self: GroupCommit) -> list[Asked]:
        group: list[Asked] = []
        while self._line and not self.stale:
            group.append(self._line.popleft())
            try:
                made = group[-1].change(self._engine())
                group[-1].reaction = made if isinstance(made, Reaction) else await made
            except TidegateError as error:
                group[-1].fail(error)
                self.stale = not _is_refusal(error)
        return group

    return [(GroupCommit, "_decide", wrong)]


@_defect("C_6")
def _expired_lease_is_reclaimed() -> Patches:
    tick = CoordinatorEngine.tick

    def wrong(self: CoordinatorEngine, *, unix_ms: int) -> Reaction:
        reaction = tick(self, unix_ms=unix_ms)
        for lease in self.account.open_leases():
            if unix_ms > lease.granted_unix_ms + LEASE_DURATION_MS:
                self.account.close(
                    lease.device_id, lease.number, final=lease.booked_nanos, at=unix_ms, note="old"
                )
        reaction.effects += self.account.take_changes()
        return reaction

    return [(CoordinatorEngine, "tick", wrong)]


@_defect("C_6")
def _hello_frees_open_leases() -> Patches:
    def wrong(device: Any, hello: Any, *, account: BudgetAccount, unix_ms: int) -> None:
        for lease in account.open_leases(device.id):
            account.close(
                device.id, lease.number, final=lease.booked_nanos, at=unix_ms, note="back again"
            )

    return [(coordinator.engine, "close_unseen", wrong)]


@_defect("C_7")
def _write_off_frees() -> Patches:
    write_off = BudgetAccount.write_off

    def wrong(self: BudgetAccount, device_id: str, **more: Any) -> int:
        return write_off(self, device_id, **{**more, "assume_unspent": True})

    return [(BudgetAccount, "write_off", wrong)]


@_defect("C_4")
def _budget_rolls_over() -> Patches:
    open_window = BudgetAccount.open_window

    def wrong(self: BudgetAccount, window_id: int, *, target_nanos: int, **more: Any) -> None:
        left = [w.free_nanos for w in self._windows.values() if w.id < window_id]
        open_window(self, window_id, target_nanos=target_nanos + sum(left[-1:]), **more)

    return [(BudgetAccount, "open_window", wrong)]


@_defect("C_1, I1")
def _lend_twice_what_is_free() -> Patches:
    amount = lease_amount_nanos

    def wrong(*, free_nanos: int, **more: Any) -> int:
        return amount(free_nanos=2 * free_nanos + 10_000_000, **more)

    def grant(self: BudgetAccount, lease: Any) -> None:
        self._put_lease(lease)
        self._book(lease, LedgerKind.GRANT, lease.amount_nanos, unix_ms=lease.granted_unix_ms)

    return [(coordinator.lending, "lease_amount_nanos", wrong), (BudgetAccount, "grant", grant)]


@_defect("C_5")
def _grant_from_a_restored_database() -> Patches:
    return [
        (Recovery, "from_json", classmethod(lambda cls, text, *, everybody: None)),
        (coordinator.engine, "restored_books", lambda device, hello, **more: ""),
    ]


@_defect("C_5")
def _device_is_heard_at_its_hello() -> Patches:
    heard = CoordinatorEngine._heard

    def wrong(self: CoordinatorEngine, reaction: Reaction, *, unix_ms: int) -> None:
        with patch.object(SpoolProgress, "is_caught_up", True):
            heard(self, reaction, unix_ms=unix_ms)

    return [(CoordinatorEngine, "_heard", wrong)]


@_defect("C_5")
def _two_writers() -> Patches:
    return [(MemoryStore, "_check_epoch", lambda self: None)]


@_defect("D_2")
def _clone_not_noticed() -> Patches:
    return [(coordinator.engine, "quarantine_reason", lambda device, hello, **more: "")]
