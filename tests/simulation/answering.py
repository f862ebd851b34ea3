"""Requests under way in one process of a device: as `edge_agent.answering` runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from edge_agent.attempts import AttemptEnd, AttemptPlan
from edge_agent.books import BookEffect
from edge_agent.candidates import ArmCondition, RequestFacts
from shared.decision.types import Feedback, OnAbort, RequestStatus, SettleKind
from shared.errors import BooksFullError
from tests.fakes.samples import run_at_once
from tests.simulation.dice import Dice
from tests.simulation.facts import Violated
from tests.simulation.provider import Bill, Fate

if TYPE_CHECKING:
    from tests.simulation.device import Device

LEASE_WAIT_MS = 400
"""As `edge_agent.answering.LEASE_WAIT_S`."""
SEND_GAP_MS = 700
"""Longer than the link's own, so that batches carry several outcomes, as those of busy devices."""
LOOKS_MAX = 8
OK, REPORTED, SLOW = RequestStatus.OK, SettleKind.REPORTED, Fate.SLOW
CONDITIONS = {"tiny": ArmCondition(), "large": ArmCondition(), "small": ArmCondition()}
GRADED_SHARE = 0.05


@dataclass
class Wanted:
    """What a client asks for, and the dice of whatever becomes of it."""

    request_id: str
    pinned: str
    max_tokens: int | None
    body_bytes: int
    judged: bool = False
    dice: Dice = field(default_factory=lambda: Dice(0), compare=False)


@dataclass
class Call:
    """A paid call under way."""

    request_id: str
    plan: AttemptPlan
    bill: Bill
    gone: bool = False


class Answering:
    """What ends with the process: its requests, its calls, who waits for a lease.

    Attributes
    ----------
    waiting : dict of str to float
        Requests that wait for a lease, with the monotonic time at which they began to.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._world = device, device.world
        self._engine, self._keeper = device.engine, device.keeper
        self.clients = device.world.clients
        self.wanted: dict[str, Wanted] = {}
        self.calls: dict[str, Call] = {}
        self.waiting: dict[str, float] = {}

    def ask(self, wanted: Wanted) -> None:
        """A client's request arrives."""
        device, request_id = self._device, wanted.request_id
        self.wanted[request_id] = wanted
        known = not wanted.pinned or self._engine.config.arm(wanted.pinned) is not None
        facts = RequestFacts(
            request_id=request_id,
            task_class="other",
            arrived_unix_ms=device.unix_ms(),
            deadline_ms=0,
            body_bytes=wanted.body_bytes,
            messages=1,
            pinned_arm=wanted.pinned if known else "",
            max_tokens=wanted.max_tokens,
        )
        self.clients.asked(device.name, request_id)
        device.soon(within_ms=SEND_GAP_MS)
        self._engine.begin(
            facts,
            conditions=CONDITIONS,
            now_ms=device.monotonic_ms(),
            uniform=wanted.dice.random(),
        )
        self._attempt(wanted)

    # A lease that may come (rule L_6).

    def heard_of_lease(self) -> None:
        """A lease has come, was refused, or has room again: whoever waits for one looks again."""
        for request_id in list(self.waiting) if self.waiting else ():
            self._world.at(self._world.now, self._device, partial(self._look_again, request_id))

    def _wait(self, request_id: str) -> None:
        """Until there is news, or the time is over; the link soon asks for a lease."""
        world, device = self._world, self._device
        if request_id not in self.waiting:
            self.waiting[request_id] = device.monotonic_ms()
            if not self._engine.gate.needs_sync(request_id):
                self.clients.waits(device.name, request_id)
            world.at(world.now + LEASE_WAIT_MS, device, partial(self._time_is_over, request_id))
        device.soon()

    def _time_is_over(self, request_id: str) -> None:
        """It has waited for so long that it goes on without; a sleeping machine's clock stands."""
        if request_id not in self.waiting:
            return
        world, device = self._world, self._device
        left_ms = int(self.waiting[request_id] + LEASE_WAIT_MS - device.monotonic_ms())
        if left_ms > 0:
            world.at(world.now + left_ms, device, partial(self._time_is_over, request_id))
            return
        if not self._engine.gate.needs_sync(request_id):
            self.clients.waited_in_vain(device.name, request_id)
        self._engine.give_up_waiting(request_id)
        del self.waiting[request_id]
        self._attempt(self.wanted[request_id])

    def _look_again(self, request_id: str) -> None:
        if request_id in self.waiting:
            self._attempt(self.wanted[request_id])

    def _next_attempt(self, request_id: str) -> tuple[AttemptPlan | None, Sequence[BookEffect]]:
        """Pass the gate; what a refusal changed is committed before anybody waits."""
        plan, effects = self._engine.next_attempt(request_id, boot_ms=self._device.boot_ms())
        for _ in range(LOOKS_MAX):
            if plan or not effects or not self._engine.waits_for_lease(request_id):
                return plan, effects
            self.keep(effects)
            plan, effects = self._engine.next_attempt(request_id, boot_ms=self._device.boot_ms())
        raise Violated(
            "L_6", f"{request_id} finds something to write whenever it looks for a lease"
        )

    # Attempts.

    def _attempt(self, wanted: Wanted) -> None:
        """The next arm that may answer: a paid one once its reservation is committed."""
        request_id = wanted.request_id
        while True:
            plan, effects = self._next_attempt(request_id)
            if plan is None and self._engine.waits_for_lease(request_id):
                self._wait(request_id)
                return
            self.waiting.pop(request_id, None)
            if plan is None:
                self.keep(effects)
                refused = self._engine.refusal(request_id, unix_ms=0)
                status = RequestStatus.ERROR if refused.status >= 500 else RequestStatus.REFUSED
                self._finish(request_id, status=status, end=None)
                return
            try:
                run_at_once(self._keeper.commit(effects))
            except BooksFullError:
                if plan.arm.cloud is not None:
                    end = AttemptEnd(latency_ms=1, settle=SettleKind.RELEASED, error="books_full")
                    self._failed(request_id, end)
                    continue
            if plan.arm.cloud is None:
                self._finish(request_id, status=RequestStatus.OK, end=AttemptEnd(latency_ms=1))
                return
            if len(effects) > 1:
                self._device.soon()  # the reservation has raised a watermark
            self.call(wanted, plan)
            return

    def call(self, wanted: Wanted, plan: AttemptPlan) -> None:
        """Send it to the provider, which bills at once whatever comes back."""
        world = self._world
        bill = world.buy(self._device, wanted, plan)
        call = Call(wanted.request_id, plan, bill)
        self.calls[wanted.request_id] = call
        if bill.fate is SLOW:
            lasts_ms = wanted.dice.between(1_500, 7_000)
        else:
            lasts_ms = wanted.dice.between(10, 400)
        world.at(world.now + lasts_ms, self._device, partial(self._ended, call))

    def _ended(self, call: Call) -> None:
        """The provider's answer is over, in whichever way."""
        if self.calls.get(call.request_id) is not call:
            return
        del self.calls[call.request_id]
        bill, settle = call.bill, call.bill.settle
        reported = settle is REPORTED
        end = AttemptEnd(
            latency_ms=10,
            settle=settle,
            prompt_tokens=bill.prompt_tokens if reported else 0,
            completion_tokens=bill.completion_tokens if reported else 0,
            error="" if reported or bill.fate is Fate.SILENT else "failed",
        )
        self._world.checker.learned(bill, settle)
        first = bill.prompt_tokens % 2 == 0  # whether the client has seen a part of the answer
        if end.error and not call.gone and (settle is SettleKind.RELEASED or not first):
            self._failed(call.request_id, end)
            self._attempt(self.wanted[call.request_id])
            return
        status = RequestStatus.ERROR if end.error else OK
        status = RequestStatus.ABORTED if call.gone else status
        self._finish(call.request_id, status=status, end=end)

    def client_gone(self, request_id: str) -> None:
        """A client goes away: the arm decides what becomes of its call (rule S_5)."""
        call = self.calls.get(request_id)
        if call is None:  # it waits for a lease
            self.waiting.pop(request_id, None)
            self._finish(request_id, status=RequestStatus.ABORTED, end=None)
            return
        call.gone = True
        cloud = call.plan.arm.cloud
        if cloud is not None and cloud.on_abort is OnAbort.CANCEL:
            del self.calls[request_id]
            # A call that has not even found a connection was not sent, and that is certain.
            unsent = call.bill.fate is Fate.DEAD
            settle = SettleKind.RELEASED if unsent else SettleKind.UNKNOWN
            self._world.checker.learned(call.bill, settle)
            end = AttemptEnd(latency_ms=5, settle=settle, error="client_gone")
            self._finish(request_id, status=RequestStatus.ABORTED, end=end)

    def _failed(self, request_id: str, end: AttemptEnd) -> None:
        """An attempt failed before the client saw any of it."""
        now_ms = self._device.monotonic_ms()
        effects = self._engine.attempt_failed(request_id, end, now_ms=now_ms)
        self.heard_of_lease()
        self.keep(effects)

    def _finish(self, request_id: str, *, status: RequestStatus, end: AttemptEnd | None) -> None:
        """Settle and spool."""
        outcome, effects = self._engine.finish(
            request_id, status=status, end=end, ttft_ms=1, latency_ms=10
        )
        self.heard_of_lease()
        self.keep(effects)
        self._device.soon(within_ms=SEND_GAP_MS)
        wanted = self.wanted.pop(request_id)
        self.clients.ended(request_id)
        if outcome.arm and wanted.dice.random() < GRADED_SHARE:
            at_unix_ms = self._device.unix_ms()
            grade = Feedback(request_id, "other", outcome.arm, 500_000, "user", at_unix_ms)
            self.keep(self._engine.graded(grade, earlier=None)[1])
        self._world.finished(self._device, wanted, outcome, refused=end is None)

    def keep(self, effects: Sequence[BookEffect]) -> None:
        """Commit, or keep for when the disk has room."""
        if effects:
            run_at_once(self._keeper.commit_or_keep(effects))
