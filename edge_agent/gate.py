"""The one gate before every paid call (rules S_1, I6), and the leases behind it.

Pure: every method returns the effects that the books must commit, in order.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

from edge_agent.books import (
    BookEffect,
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
from edge_agent.outbox import Outbox
from shared.decision.key_budget import (
    KeyBudget,
    KeyBudgetBook,
    KeyBudgetRefusal,
    KeyBudgetStatus,
)
from shared.decision.lease import (
    NOT_SYNCED,
    LeaseBook,
    LeaseGranted,
    LeaseRefusal,
    LeaseWish,
    ReservationRow,
    Settlement,
)
from shared.decision.types import (
    Arm,
    Attempt,
    CostAdjustment,
    JudgeCall,
    LeaseStatus,
    Outcome,
    RequestStatus,
    SettleKind,
)

Effects = list[BookEffect]
LACKS_A_LEASE = frozenset({LeaseRefusal.NO_LEASE, LeaseRefusal.TOO_SMALL})
LEASE_REQUEST_GAP_MS = 500
LEASE_LOW_WORST_CASES = 4
SCARCE_WORST_CASES = 2
HOARD_MS_MAX = 2_000
STORE_AGAIN_MS = 10_000
UNTOLD = 2**63 - 1


class Gate:
    """What a device may spend, and what stands in the way.

    Parameters
    ----------
    incarnation, boot_id : str
        The present start of the process and of the machine (rules D_1, L_3).
    key_budgets : iterable of KeyBudget
        What the calls of an API key may cost beside.

    Attributes
    ----------
    on_demand : bool
        Requests can wait for a lease. Where money is scarce the device then holds none in store:
        it asks when a request needs one, and gives back at once what that leaves over (L_6).
    refusals : int
        How often the coordinator has granted nothing to a request that waited.
    books_lost : str
        What became of the books before these, in words, until the coordinator has made up for it.
    """

    def __init__(
        self,
        *,
        incarnation: str,
        boot_id: str,
        snapshot: BooksSnapshot,
        outbox: Outbox,
        key_budgets: Iterable[KeyBudget] = (),
        unix_ms: int,
    ) -> None:
        self._incarnation = incarnation
        self._boot_id = boot_id
        self._outbox = outbox
        self._leases = LeaseBook(incarnation=incarnation, boot_id=boot_id)
        self._leases.restore(
            leases=snapshot.leases,
            reservations=snapshot.reservations,
            number_max=int(snapshot.meta.get(MetaKey.LEASE_NUMBER_MAX, "0")),
        )
        self._began_unix_ms = unix_ms
        self._keys = KeyBudgetBook(key_budgets)
        self._keys.restore(rows=snapshot.key_budgets, reservations=snapshot.reservations)
        self._same_boot = bool(boot_id) and snapshot.meta.get(MetaKey.BOOT_ID) == boot_id
        self._place = snapshot.place
        was = snapshot.meta.get(MetaKey.PLACE, "")
        self.copied = snapshot.meta.get(MetaKey.COPIED) == "1" or was not in ("", snapshot.place)
        self.spend_paused = snapshot.meta.get(MetaKey.SPEND_PAUSED) == "1"
        self.quarantined = snapshot.meta.get(MetaKey.QUARANTINED, "")
        self.books_lost = snapshot.meta.get(MetaKey.BOOKS_LOST, "")
        self.books_problem = ""
        self.refused_because = ""
        self.stopping = False
        overrun = json.loads(snapshot.meta.get(MetaKey.OVERRUN_ARMS, "{}"))
        self._overrun_arms: dict[str, int] = {  # and the sequence of the record that tells of it
            arm: min(told, snapshot.spool_last) for arm, told in overrun.items()
        }
        self._worst_case_nanos = 0
        self._least_case_nanos = 0
        self.on_demand = False
        self._store_again_ms = -math.inf  # not while money is scarce; -inf: it is not
        self.refusals = 0
        self._silent = False
        self._needs: dict[str, int] = {}
        self._syncs: dict[str, tuple[str, int]] = {}
        self._syncs_nanos: Counter[str] = Counter()  # by the API key, which may have a budget
        self._unheard: set[str] = set()
        self._asked_for_need = self._asking = False
        self._asked_ms = -float(LEASE_REQUEST_GAP_MS)
        self._wait_until_ms = 0.0
        self._reservations = itertools.count()

    def recover(self) -> Effects:
        """Close what an earlier process left open (rule L_4); to be synced before all else.

        In the same boot each open reservation is settled at its amount and reported as an
        interrupted request; in another boot the watermark speaks for all of them. A copy of the
        books speaks for none of the original's requests, and leaves neither its leases nor the
        present windows of the keys any money.
        """
        effects: Effects = [
            *self._outbox.begin(),
            PutMeta(MetaKey.BOOT_ID, self._boot_id),
            PutMeta(MetaKey.PLACE, self._place),
            PutMeta(MetaKey.COPIED, "1" if self.copied else ""),
        ]
        if self._same_boot and not self.copied:
            for row in self._leases.earlier_reservations():
                settled = self._leases.settle(row.id, kind=SettleKind.UNKNOWN)
                self._keys.settle(settled)
                effects += self._outbox.spool(_interrupted(row, settled=settled))
        else:
            self._keys.close_earlier()
        if self.copied:
            self._keys.spend_windows(unix_ms=self._began_unix_ms)
        for close in self._leases.close_earlier(in_full=self.copied):
            effects += self._outbox.spool(close)
        effects += self._changes()
        return effects + [DropLease(number) for number in self._leases.forget_closed()]

    def limit_keys(self, budgets: Iterable[KeyBudget]) -> None:
        """From now on these are the budgets of the API keys; what is spent stays spent."""
        self._keys.configure(budgets)

    def allowance(self, key_tag: str) -> Allowance:
        """What holds for all paid arms at this moment, for a request with this key."""
        room = -1 if self._overrun_arms else self._leases.room_nanos
        of_key = self._keys.room_nanos(key_tag)
        return Allowance(self._standing_problem(), room if of_key is None else min(room, of_key))

    def _standing_problem(self) -> str:
        if self.quarantined:
            return "quarantined"
        if self.spend_paused:
            return "spend_paused"
        return self.books_problem

    def problem(self, facts: RequestFacts, *, arm: Arm) -> str:
        """Why a paid arm may not be called for this request now; empty if it may."""
        return self._problem(facts, arm=arm, worst_case=facts.worst_case_nanos(arm))

    def _problem(self, facts: RequestFacts, *, arm: Arm, worst_case: int) -> str:
        problem = self._standing_problem()
        if problem:
            return problem
        if arm.id in self._overrun_arms:
            return "overrun"
        of_key = self._keys.refusal(facts.key_tag, worst_case)
        if of_key is not None:
            if of_key is KeyBudgetRefusal.NOT_SYNCED:
                self._keys.make_room(facts.key_tag, worst_case)
            return str(of_key)
        self._worst_case_nanos = max(worst_case, self._worst_case_nanos * 99 // 100)
        risen = self._least_case_nanos * 101 // 100 or worst_case
        self._least_case_nanos = min(worst_case, risen)
        refusal = self._leases.refusal(worst_case)
        if refusal is NOT_SYNCED:
            # The next sync lets this request through, if it waits, and the following ones.
            self._leases.make_room(worst_case)
        return str(refusal or "")

    def reserve(
        self, facts: RequestFacts, *, arm: Arm, boot_ms: int, judge: bool = False
    ) -> tuple[ReservationRow | None, str, Effects]:
        """Hold the worst case of one attempt, on a lease whose time is not over (rule L_3).

        Returns
        -------
        row, problem, effects
            Either a reservation, which may be acted on once the effects are committed, or the
            reason why there is none.
        """
        self._leases.expire(boot_ms=boot_ms)  # house-keeping has not run yet after a suspend
        worst_case = facts.worst_case_nanos(arm)
        problem = self._problem(facts, arm=arm, worst_case=worst_case)
        if problem and (problem != NOT_SYNCED or self._keys.refusal(facts.key_tag, worst_case)):
            return None, problem, self._changes()
        row = self._leases.reserve(
            f"{self._incarnation}.{next(self._reservations)}",
            request_id=facts.request_id,
            arm=arm.id,
            amount_nanos=worst_case,
            task_class=facts.task_class,
            arrived_unix_ms=facts.arrived_unix_ms,
            key_tag=facts.key_tag,
            key_window=self._keys.window_of(facts.key_tag),
            judge=judge,
        )
        if isinstance(row, ReservationRow):
            self._keys.hold(row)
        if self.on_demand:
            # Room for two more at once: whoever comes before the next sync goes without.
            self._leases.make_room(2 * self._worst_case_nanos)
        effects = self._changes()
        if isinstance(row, ReservationRow):
            return row, "", effects
        return None, str(row), effects

    def settle(
        self, reservation_id: str, *, arm: str, kind: SettleKind, cost_nanos: int
    ) -> tuple[Settlement, Effects]:
        """End a reservation (rule S_2). Usage above it closes the arm (rule S_4)."""
        settled = self._leases.settle(reservation_id, kind=kind, cost_nanos=cost_nanos)
        self._keys.settle(settled)
        effects = self.overran(arm) if settled.overrun_nanos else []
        return settled, effects + self._changes()

    def overran(self, arm: str, *, told: int = UNTOLD) -> Effects:
        """Usage above a reservation closes the arm, also after a restart (rule S_4).

        Parameters
        ----------
        told : int
            The sequence of the record that tells the coordinator.
        """
        self._overrun_arms[arm] = told
        return [PutMeta(MetaKey.OVERRUN_ARMS, json.dumps(self._overrun_arms))]

    def correct(self, settled: Settlement, *, request_id: str, cost_nanos: int) -> Effects:
        """Usage came after its reservation had been settled (rule S_3)."""
        delta = cost_nanos - settled.cost_nanos
        if not delta:
            return []
        self._keys.correct(settled, delta_nanos=delta)
        late = CostAdjustment(
            request_id=request_id,
            lease_number=settled.lease_number,
            delta_nanos=delta,
            reason="usage came late",
        )
        return [*self._outbox.spool(late), *self._changes()]

    def copy_known(self) -> Effects:
        """The coordinator knows that these books are a copy (rule D_2)."""
        if not self.copied:
            return []
        self.copied = False
        return [PutMeta(MetaKey.COPIED, "")]

    def overdue(self, *, boot_ms: int, close_wait_ms: int) -> tuple[str, ...]:
        """Reservations that their closing lease no longer waits for (rule L_5)."""
        return self._leases.overdue_reservations(boot_ms=boot_ms, close_wait_ms=close_wait_ms)

    def granted(self, granted: LeaseGranted, *, incarnation: str, boot_ms: int) -> Effects:
        """A lease arrived; once its effects are synced, call `synced` (rule L_1)."""
        worst_case = self._worst_case_nanos
        if self.on_demand:
            # Large requests, and the first one of all, must not lack a sync.
            worst_case = 2 * worst_case or granted.amount_nanos
        if incarnation != self._incarnation or not self._leases.grant(
            granted, boot_ms=boot_ms, worst_case_nanos=worst_case
        ):
            return []
        self.refused_because = ""
        self._heard()
        scarce = granted.amount_nanos < SCARCE_WORST_CASES * self._worst_case_nanos
        self._store_again_ms = math.inf if scarce else -math.inf
        number_max = PutMeta(MetaKey.LEASE_NUMBER_MAX, str(self._leases.number_max))
        return [number_max, *self._changes()]

    def refused(self, reason: str, *, now_ms: float, retry_after_ms: float) -> None:
        """The coordinator granted nothing."""
        self._heard()
        self.refused_because = reason
        if self.on_demand and not self._asked_for_need:
            # Nothing to keep in store for now; a request that needs it may still ask. Nor may one
            # large request, or the last one, keep the store empty for all the small ones.
            self._store_again_ms = now_ms + max(STORE_AGAIN_MS, retry_after_ms)
            self._worst_case_nanos = self._least_case_nanos
            return
        self.refusals += 1
        self._wait_until_ms = now_ms + retry_after_ms

    def recalled(self, number: int, *, boot_ms: int, reason: str) -> Effects:
        """Start giving a lease back; 0 means all of them (rule L_5)."""
        self._leases.recall(number, boot_ms=boot_ms, reason=reason)
        return self._changes()

    def expire(self, *, boot_ms: int, unix_ms: int) -> Effects:
        """Start giving back the leases whose time is over, or that are used up (L_3, L_6).

        The budgets of keys begin their next windows by the clock of the wall.
        """
        self._keys.open_windows(unix_ms=unix_ms, boot_ms=boot_ms)
        self._leases.expire(boot_ms=boot_ms)
        # Each lease by its own age: a device that is never idle would keep the rests of them all.
        scarce = self._asks_on_demand and not self.anybody_waits
        self._leases.retire(
            self._least_case_nanos,
            boot_ms=boot_ms,
            kept_ms_max=HOARD_MS_MAX if scarce else sys.maxsize,
        )
        return self._changes()

    def configured(self) -> Effects:
        """A configuration that was made with knowledge of an overrun decides from now on."""
        acked = self._outbox.acked
        kept = {arm: told for arm, told in self._overrun_arms.items() if told > acked}
        if kept == self._overrun_arms:
            return []
        self._overrun_arms = kept
        return [PutMeta(MetaKey.OVERRUN_ARMS, json.dumps(kept))]

    def close_idle(self) -> Effects:
        """Spool the close of each closing lease that has no reservation left.

        The effects must be synced: a close is sent only after that (rule L_5).
        """
        effects: Effects = []
        for close in self._leases.finish_closing():
            effects += self._outbox.spool(close)
        if effects:
            effects += self._changes()
            effects += [DropLease(number) for number in self._leases.forget_closed()]
        return effects

    def pause(self, paused: bool) -> Effects:
        """Stop or allow paid calls; kept across restarts."""
        if paused == self.spend_paused:
            return []
        self.spend_paused = paused
        return [PutMeta(MetaKey.SPEND_PAUSED, "1" if paused else "0")]

    def quarantine(self, reason: str) -> Effects:
        """Stop spending on a clone or a restored disk (rule D_2); an empty reason readmits."""
        effects: Effects = []
        if reason != self.quarantined:
            self.quarantined = reason
            effects.append(PutMeta(MetaKey.QUARANTINED, reason))
        if self.books_lost and not reason:
            self.books_lost = ""
            effects.append(PutMeta(MetaKey.BOOKS_LOST, ""))
        return effects

    def wish(self, *, now_ms: float, boot_ms: int) -> LeaseWish | None:
        """Ask for a lease when what is left is low (rule L_6)."""
        if self.spend_paused or self.quarantined or self.books_problem or self.stopping:
            return None
        recently = now_ms - self._asked_ms < LEASE_REQUEST_GAP_MS
        if now_ms < self._wait_until_ms or (recently and self._asking):
            return None
        largest = max(self._needs.values()) if self._needs else 0
        if largest and self._leases.refusal(largest) is not None:
            self._asked_ms, self._asking, self._asked_for_need = now_ms, True, True
            available, together = self._leases.available_nanos(), sum(self._needs.values())
            return LeaseWish(available, largest, together, boot_ms, self.number_max)
        if recently or (self._asks_on_demand and now_ms < self._store_again_ms):
            return None
        available = self._leases.available_nanos()
        low = max(
            LEASE_LOW_WORST_CASES * self._worst_case_nanos,
            self._leases.newest_amount_nanos() // 2,
        )
        fragmented = self._leases.refusal(self._worst_case_nanos) is LeaseRefusal.TOO_SMALL
        if available > low and not fragmented:
            return None
        self._asked_ms, self._asking, self._asked_for_need = now_ms, True, False
        return LeaseWish(available, self._worst_case_nanos, 0, boot_ms, self.number_max)

    def may_come(self, problem: str, *, now_ms: float) -> bool:
        """Whether what is missing may come soon, so that waiting is sound.

        A lease within a round trip; not after the coordinator has refused one, nor while it has
        left a wish unanswered. A watermark with the next sync of the disk.
        """
        if not self.on_demand or self.stopping:
            return False
        if problem == NOT_SYNCED:
            return True
        return problem in LACKS_A_LEASE and not self._silent and now_ms >= self._wait_until_ms

    def need(self, request_id: str, *, amount_nanos: int) -> None:
        """A request waits for this much; the next wish asks for it."""
        self._no_sync(request_id)
        if request_id not in self._needs:
            self._unheard.add(request_id)
        self._needs[request_id] = amount_nanos

    def need_sync(self, request_id: str, *, amount_nanos: int, key_tag: str = "") -> None:
        """A request waits for a watermark: there is money for it, and nobody has to be asked.

        The next sync lets all of them through that wait for one.
        """
        self._needs.pop(request_id, None)
        self._unheard.discard(request_id)
        self._no_sync(request_id)
        self._syncs[request_id] = key_tag, amount_nanos
        self._syncs_nanos[key_tag] += amount_nanos
        self._leases.make_room_together(self._syncs_nanos.total())
        self._keys.make_room_together(key_tag, self._syncs_nanos[key_tag])

    def _no_sync(self, request_id: str) -> None:
        key_tag, amount_nanos = self._syncs.pop(request_id, ("", 0))
        self._syncs_nanos[key_tag] -= amount_nanos

    def is_needed(self, request_id: str) -> bool:
        """Whether a request waits for a lease, or for a watermark on one."""
        return request_id in self._needs or request_id in self._syncs

    def needs_sync(self, request_id: str) -> bool:
        """Whether a request waits for a watermark."""
        return request_id in self._syncs

    @property
    def sync_would_help(self) -> bool:
        """Whether a request waits for a watermark that is raised and not yet synced."""
        return bool(self._syncs) and bool(self.raised_watermarks())

    @property
    def anybody_waits(self) -> bool:
        """Whether some request waits for a lease, or for a watermark on one."""
        return bool(self._needs or self._syncs)

    def needs_no_more(self, request_id: str, *, in_vain: bool = False) -> None:
        """A request no longer waits; in vain, if its time was over."""
        self._needs.pop(request_id, None)
        self._no_sync(request_id)
        if in_vain and request_id in self._unheard:
            self._silent = True  # until the coordinator is heard, nobody waits for it again
        self._unheard.discard(request_id)

    @property
    def _asks_on_demand(self) -> bool:
        scarce = self._store_again_ms > -math.inf
        return self.on_demand and scarce and not self._silent

    def _heard(self) -> None:
        self._asking = self._silent = False
        self._unheard.clear()

    def raised_watermarks(self) -> Effects:
        """Leases and budgets whose watermark a sync still has to cover (rule L_2)."""
        effects: Effects = [PutLease(row) for row in self._leases.unsynced()]
        return effects + [PutKeyBudget(row) for row in self._keys.unsynced()]

    def synced(self, effects: Sequence[BookEffect]) -> None:
        """These effects are safe from a loss of power: their watermarks may be used."""
        for effect in effects:
            if isinstance(effect, PutLease):
                self._leases.watermark_synced(effect.row.number, effect.row.watermark_nanos)
            elif isinstance(effect, PutKeyBudget):
                self._keys.synced(effect.row)

    @property
    def number_max(self) -> int:
        """The highest lease number ever seen."""
        return self._leases.number_max

    @property
    def available_nanos(self) -> int:
        """What active leases can still take."""
        return self._leases.available_nanos()

    def leases(self) -> tuple[LeaseStatus, ...]:
        """The leases that the device holds."""
        return self._leases.status()

    def key_budgets(self) -> tuple[KeyBudgetStatus, ...]:
        """How the budgets of the API keys stand."""
        return self._keys.status()

    def key_budget_ends_unix_ms(self, key_tag: str) -> int:
        """When the present window of a key's budget ends; 0 without one."""
        return self._keys.ends_unix_ms(key_tag)

    def _changes(self) -> Effects:
        leases, reservations, dropped = self._leases.take_changes()
        effects: Effects = []
        for lease in leases:
            effects.append(PutLease(lease))
        for reservation in reservations:
            effects.append(PutReservation(reservation))
        for reservation_id in dropped:
            effects.append(DropReservation(reservation_id))
        for key in self._keys.take_changes():
            effects.append(PutKeyBudget(key))
        return effects


def _interrupted(row: ReservationRow, *, settled: Settlement) -> Outcome | JudgeCall:
    attempt = Attempt(
        arm=row.arm,
        latency_ms=0,
        error="interrupted",
        lease_number=row.lease_number,
        reserved_nanos=row.amount_nanos,
        cost_nanos=settled.cost_nanos,
        settle=settled.kind,
    )
    if row.judge:
        return JudgeCall(row.request_id, attempt)
    return Outcome(
        request_id=row.request_id,
        task_class=row.task_class,
        arrived_unix_ms=row.arrived_unix_ms,
        status=RequestStatus.INTERRUPTED,
        arm="",
        drawn_arm=row.arm,
        propensity_ppm=0,
        table_version=0,
        reason="the agent stopped in the middle",
        forced=True,
        attempts=(attempt,),
        tag=row.key_tag,
    )
