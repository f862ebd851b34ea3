"""The agent's decisions: one request from arrival to outcome, one session with the coordinator.

No I/O, no clock, no ambient randomness. Every method takes what happened and returns what is to
be committed to the books (`books.BookEffect`), in order; the service does the rest.

One request: `begin` filters and draws, `next_attempt` passes the gate, `attempt_failed` makes room
for the next candidate, `finish` settles and spools. `choosing.py` has the filters and the draw,
`gate.py` the money, `outbox.py` the sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edge_agent.attempts import AttemptEnd, AttemptPlan, RunningRequest
from edge_agent.books import (
    BOOKS_BROKEN,
    BOOKS_FULL,
    BookEffect,
    BooksSnapshot,
    MetaKey,
    PutConfig,
    PutMeta,
    PutTable,
)
from edge_agent.candidates import (
    CONTEXT_REASON,
    EMBEDDINGS,
    MAX_COST_REASON,
    OTHER_CLASS,
    ArmCondition,
    Candidates,
    RequestFacts,
)
from edge_agent.choosing import Choice, Chooser
from edge_agent.gate import LACKS_A_LEASE, Gate
from edge_agent.grading import Grading
from edge_agent.health import ArmHealth
from edge_agent.outbox import Outbox
from edge_agent.refusals import (
    UNSUPPORTED,
    embedder_refusal,
    expectation_refusal,
    refusal_for,
)
from edge_agent.requests import RequestRefused, RouteDecision
from shared.decision.key_budget import KeyBudget
from shared.decision.lease import NO_LEASE, NOT_SYNCED
from shared.decision.money import PPM
from shared.decision.table import SelectionTable, TableRow
from shared.decision.types import (
    Arm,
    Attempt,
    DeviceConfig,
    Fallout,
    Feedback,
    IncarnationRange,
    Judge,
    JudgeCall,
    LeaseStatus,
    Outcome,
    RequestStatus,
    SettleKind,
    TaskClass,
)
from shared.errors import ConflictError, InvariantError, invariant
from shared.limits import ATTEMPTS_MAX, ERROR_CHARS_MAX

Effects = list[BookEffect]


@dataclass(frozen=True)
class HelloFacts:
    """What a device says first in a session."""

    incarnation: str
    resume_token: str
    acked_sequence: int
    incarnations: tuple[IncarnationRange, ...]
    lease_number_max: int
    leases: tuple[LeaseStatus, ...]
    table_version: int
    config_version: int
    copied: bool


class AgentEngine:
    """Everything the agent decides.

    Parameters
    ----------
    incarnation : str
        A fresh random id of this start (rule D_1).
    boot_id : str
        The present boot; empty where the system has none.
    snapshot : BooksSnapshot
        What the books held at the start. `recover` must be called before anything else.
    fallback : DeviceConfig
        The device's own models, for as long as no coordinator has configured it (promise P2).
    key_budgets : iterable of KeyBudget
        What the calls of an API key may cost beside the fleet's budget.
    observe_arm : str
        Answers every request that pins no arm, while what would have been drawn is only logged;
        empty to act on the decisions.
    """

    def __init__(
        self,
        *,
        incarnation: str,
        boot_id: str,
        snapshot: BooksSnapshot,
        fallback: DeviceConfig,
        unix_ms: int,
        key_budgets: Iterable[KeyBudget] = (),
        observe_arm: str = "",
    ) -> None:
        self._incarnation = incarnation
        self._models_can: Mapping[str, frozenset[str]] = {}
        self._fleet_config = self.config = snapshot.config or fallback
        self.table = snapshot.table
        self.outbox = Outbox(incarnation=incarnation, snapshot=snapshot)
        self.gate = Gate(
            incarnation=incarnation,
            boot_id=boot_id,
            snapshot=snapshot,
            outbox=self.outbox,
            key_budgets=key_budgets,
            unix_ms=unix_ms,
        )
        self.health = ArmHealth()
        self.grading = Grading(self.config)
        self._chooser = Chooser(
            self.config,
            table=self.table,
            gate=self.gate,
            health=self.health,
            observe_arm=observe_arm,
        )
        self._resume_token = snapshot.meta.get(MetaKey.RESUME_TOKEN, "")
        self._requests: dict[str, RunningRequest] = {}

    def recover(self) -> Effects:
        """Close what an earlier process left open (rule L_4); to be synced before all else."""
        return self.gate.recover()

    def task_class(self, name: str | None) -> TaskClass:
        """The configured class of that name, else `other`."""
        classes = {task.id: task for task in self.config.task_classes}
        known = classes.get(name or OTHER_CLASS) or classes.get(OTHER_CLASS)
        return known or TaskClass(OTHER_CLASS, deadline_ms=0)

    def embedder(self) -> str:
        """The one arm that offers embeddings.

        Raises
        ------
        RequestRefused
            400 if none does, or several do: vectors of different models must not be mixed.
        """
        found = [arm.id for arm in self.config.arms if EMBEDDINGS in arm.capabilities]
        if len(found) == 1:
            return found[0]
        raise embedder_refusal(found)

    def route(
        self,
        facts: RequestFacts,
        *,
        conditions: Mapping[str, ArmCondition],
        now_ms: float,
        uniform: float,
    ) -> RouteDecision:
        """The decision for a request, without beginning it."""
        choice = self._chooser.choose(facts, conditions=conditions, now_ms=now_ms, uniform=uniform)
        draw = choice.draw
        arm = self.config.arm(draw.arm if draw else facts.pinned_arm)
        version = self.table.version if self.table else 0
        return RouteDecision(
            task_class=facts.task_class,
            origin=facts.origin,
            arm=draw.arm if draw else "",
            propensity_ppm=draw.propensity_ppm if draw else 0,
            fallbacks=choice.queue[1:],
            fallouts=choice.candidates.fallouts,
            reason=choice.reason(facts, table_version=version),
            table_version=version,
            worst_case_nanos=facts.worst_case_nanos(arm) if arm else 0,
        )

    def begin(
        self,
        facts: RequestFacts,
        *,
        conditions: Mapping[str, ArmCondition],
        now_ms: float,
        uniform: float,
        sample: float = 1.0,
    ) -> None:
        """Admit a request: filter its arms and draw one.

        Parameters
        ----------
        uniform, sample : float
            Random numbers in [0, 1): for the draw of the arm, and for whether a judge is asked.

        Raises
        ------
        RequestRefused
            400 if the answer that it expects is none that its class's grader could look for,
            404 if it pins an arm that the fleet does not have, 503 if the observed mode's fixed
            arm is none. Such a request is not admitted.
        """
        if facts.request_id in self._requests:
            raise InvariantError(f"{facts.request_id} began twice")
        expected = self.grading.problem(facts)
        if expected:
            raise expectation_refusal(facts.task_class, expected=expected)
        choice = self._chooser.choose(facts, conditions=conditions, now_ms=now_ms, uniform=uniform)
        alone = len(choice.decided.candidates.arms) < 2
        judge_ppm = self.grading.judge_ppm(facts)
        self._requests[facts.request_id] = RunningRequest(
            facts=facts,
            choice=choice,
            begun_ms=now_ms,
            table_version=self.table.version if self.table else 0,
            queue=list(choice.queue),
            forced=bool(facts.pinned_arm) or facts.privacy_local or alone,
            may_wait=self.gate.may_come(NOT_SYNCED, now_ms=now_ms),
            patient=self.gate.may_come(NO_LEASE, now_ms=now_ms),
            refusals_before=self.gate.refusals,
            judge_ppm=judge_ppm,
            judged=sample * PPM < judge_ppm,
            asked_again=self.grading.asked_again(facts, now_ms=now_ms),
        )

    def next_attempt(self, request_id: str, *, boot_ms: int) -> tuple[AttemptPlan | None, Effects]:
        """Pass the gate with the next candidate (rules S_1, I6).

        A paid attempt may be sent once the effects are committed. None: no candidate is left, or
        the request waits for a lease (`waits_for_lease`); then this is to be called again as soon
        as one has come, and after `give_up_waiting` if none has.
        """
        request = self._requests[request_id]
        effects: Effects = []
        while request.queue and len(request.attempts) < ATTEMPTS_MAX:
            name = request.queue.pop(0)
            arm = request.judge.arm if request.judge else self.config.arm(name)
            if arm is None:
                continue
            max_tokens = request.facts.max_tokens_on(arm)
            if arm.cloud is None:
                request.plan = AttemptPlan(arm, max_tokens)
                return request.plan, effects
            if self._beyond_cap(request, arm=arm):
                request.gate_fallouts += (Fallout(arm.id, MAX_COST_REASON),)
                continue
            row, problem, reserved = self.gate.reserve(
                request.facts, arm=arm, boot_ms=boot_ms, judge=request.judge is not None
            )
            effects += reserved
            if row is None and self._waits(request, arm=arm, problem=problem):
                request.queue.insert(0, arm.id)
                return None, effects
            self._stop_waiting(request)
            if row is not None:
                request.plan = AttemptPlan(
                    arm=arm,
                    max_tokens=max_tokens,
                    reservation_id=row.id,
                    lease_number=row.lease_number,
                    reserved_nanos=row.amount_nanos,
                    price=arm.cloud.price,
                )
                return request.plan, effects
            request.gate_fallouts += (Fallout(arm.id, problem),)
        return None, effects

    def _waits(self, request: RunningRequest, *, arm: Arm, problem: str) -> bool:
        """Whether a request waits, once, for what it lacks: a lease (rule L_6), or a sync (L_2)."""
        if not request.may_wait:
            return False
        facts = request.facts
        if problem == NOT_SYNCED:
            worst_case = facts.worst_case_nanos(arm)
            self.gate.need_sync(facts.request_id, amount_nanos=worst_case, key_tag=facts.key_tag)
            return True
        hopeful = request.patient and request.refusals_before == self.gate.refusals
        if not hopeful or problem not in LACKS_A_LEASE:
            return False
        self.gate.need(facts.request_id, amount_nanos=facts.worst_case_nanos(arm))
        return True

    def _beyond_cap(self, request: RunningRequest, *, arm: Arm) -> bool:
        """Whether one more attempt could take a request above what its client allows."""
        cap = request.facts.max_cost_nanos
        if cap is None:
            return False
        return request.spent_nanos + request.facts.worst_case_nanos(arm) > cap

    def waits_for_lease(self, request_id: str) -> bool:
        """Whether the arm that was drawn only lacks a lease, or its sync, that may come (L_6)."""
        return self.gate.is_needed(request_id)

    def can_fall_back(self, request_id: str) -> bool:
        """Whether another arm may answer a request that waits, without being late for sure."""
        request = self._requests[request_id]
        return any(arm in request.choice.candidates.arms for arm in request.queue[1:])

    def give_up_waiting(self, request_id: str) -> None:
        """Neither came in time: the next candidate answers."""
        self._stop_waiting(self._requests[request_id], in_vain=True)

    def _stop_waiting(self, request: RunningRequest, *, in_vain: bool = False) -> None:
        if self.gate.is_needed(request.facts.request_id):
            request.may_wait = False  # it has had its wait
            self.gate.needs_no_more(request.facts.request_id, in_vain=in_vain)

    def attempt_failed(self, request_id: str, end: AttemptEnd, *, now_ms: float) -> Effects:
        """Settle a failed attempt; `next_attempt` may follow."""
        request = self._requests[request_id]
        plan = request.under_way
        if end.error not in (CONTEXT_REASON, UNSUPPORTED, BOOKS_FULL, BOOKS_BROKEN):
            self.health.failed(plan.arm.id, now_ms=now_ms)
        request.retry_after_s = max(request.retry_after_s, end.retry_after_s)
        request.problem, request.param = end.problem, end.param
        return self._end_attempt(request, end)

    def knows(self, request_id: str) -> bool:
        """Whether a request has begun and not finished."""
        return request_id in self._requests

    def facts(self, request_id: str) -> RequestFacts:
        """What was known of a request before its arm was chosen."""
        return self._requests[request_id].facts

    def reason(self, request_id: str) -> str:
        """Why the present arm answers; becomes `x-tidegate-reason`."""
        return self._requests[request_id].reason

    def refusal(self, request_id: str, *, unix_ms: int) -> RequestRefused:
        """What a client is told when no candidate is left."""
        request = self._requests[request_id]
        key_tag = request.facts.key_tag
        failed = [Fallout(tried.arm, tried.error) for tried in request.attempts if tried.error]
        # A late arm was asked after all: what counts is what came of that.
        last_words = {each.arm: each for each in (*request.fallouts, *failed)}
        return refusal_for(
            tuple(last_words.values()),
            budget=self.config.budget_name,
            why=self.gate.refused_because,
            worst_case_nanos=self._cheapest_nanos(request),
            retry_after_s=request.retry_after_s,
            problem=request.problem,
            param=request.param,
            key_tag=key_tag,
            key_ends_s=-(-(self.gate.key_budget_ends_unix_ms(key_tag) - unix_ms) // 1_000),
        )

    def _cheapest_nanos(self, request: RunningRequest) -> int:
        """The least worst case of the arms that the client's cap closes; 0 if it closes none."""
        capped = [each.arm for each in request.fallouts if each.reason == MAX_COST_REASON]
        arms = [arm for arm in map(self.config.arm, capped) if arm is not None]
        return min((request.facts.worst_case_nanos(arm) for arm in arms), default=0)

    def finish(
        self,
        request_id: str,
        *,
        status: RequestStatus,
        end: AttemptEnd | None,
        ttft_ms: int,
        latency_ms: int,
        text: str | None = None,
    ) -> tuple[Outcome, Effects]:
        """Settle the last attempt and spool the outcome, in one transaction (rule O_1).

        With it go the grades that follow at once: of the class's grader, which looks at `text`,
        and what the client's doing says.
        """
        request = self._requests.pop(request_id)
        facts, choice, draw = request.facts, request.choice, request.choice.draw
        at_work = request.plan.arm.id if request.plan else ""
        self._stop_waiting(request)
        effects: Effects = []
        answered = status is RequestStatus.OK
        arm = at_work if answered else ""
        reason = request.reason
        if request.plan is not None and end is not None:
            if answered:
                self.health.answered(at_work)
            effects += self._end_attempt(request, end)
        in_time = not facts.deadline_ms or latency_ms <= facts.deadline_ms
        outcome = Outcome(
            request_id=request_id,
            task_class=facts.task_class,
            arrived_unix_ms=facts.arrived_unix_ms,
            status=status,
            arm=arm,
            drawn_arm=draw.arm if draw else "",
            propensity_ppm=draw.propensity_ppm if draw else 0,
            table_version=request.table_version,
            reason=reason[:ERROR_CHARS_MAX],
            forced=request.forced,
            attempts=request.attempts,
            fallouts=(*request.fallouts, *choice.observed_fallouts),
            prompt_tokens=end.prompt_tokens if end else 0,
            completion_tokens=end.completion_tokens if end else 0,
            ttft_ms=ttft_ms,
            latency_ms=latency_ms,
            deadline_ms=facts.deadline_ms,
            hit=answered and in_time,
            tag=facts.tag,
            candidates=choice.between,
            observed=choice.observation,
            grading_ppm=request.judge_ppm or PPM,
        )
        ended_ms = request.begun_ms + latency_ms
        if draw is not None and arm == draw.arm and choice.observed is None:
            self._chooser.answered(facts, choice, now_ms=ended_ms)
        effects += self.outbox.spool(outcome)
        effects += self._corrected(request)
        grades = [
            request.asked_again,
            self.grading.grade(facts, outcome, text=text if answered else None),
            self.grading.ended(facts, outcome, arm=at_work, now_ms=ended_ms),
        ]
        for grade in grades:
            if grade is not None:
                effects += self.outbox.spool(grade)
        return outcome, effects

    def _corrected(self, request: RunningRequest) -> Effects:
        """What is to be said of costs after the record that told of them first."""
        effects: Effects = []
        for settled, known in request.corrections:
            effects += self.gate.correct(
                settled, request_id=request.facts.request_id, cost_nanos=known
            )
        for arm in sorted(request.overrun_arms):
            effects += self.gate.overran(arm, told=self.outbox.last)
        return effects

    def wants_text(self, request_id: str) -> bool:
        """Whether somebody will look at the answer's text."""
        request = self._requests[request_id]
        return request.judged or self.grading.by_grader(request.facts)

    def judge_of(self, request_id: str) -> Judge | None:
        """Who is to be asked about the answer of a request; None if nobody is."""
        request = self._requests[request_id]
        return self.config.judge if request.judged else None

    def begin_judging(self, facts: RequestFacts, judge: Judge, *, now_ms: float) -> None:
        """Admit a judge's call: one attempt, through the gate like every paid one (rule S_1)."""
        invariant(facts.request_id not in self._requests, f"{facts.request_id} began twice")
        nothing = Candidates(TableRow(facts.task_class, ()), ())
        self._requests[facts.request_id] = RunningRequest(
            facts=facts,
            choice=Choice(nothing, None),
            begun_ms=now_ms,
            table_version=0,
            queue=[judge.arm.id],
            forced=True,
            judge=judge,
        )

    def finish_judging(
        self, call_id: str, *, end: AttemptEnd | None, grade: Feedback | None
    ) -> Effects:
        """Settle a judge's call, and spool what it cost and what it said; None: it was refused."""
        request = self._requests.pop(call_id)
        effects = self._end_attempt(request, end) if request.plan and end else []
        for attempt in request.attempts:
            effects += self.outbox.spool(JudgeCall(call_id, attempt))
        effects += self._corrected(request)
        return effects + (self.outbox.spool(grade) if grade is not None else [])

    def graded(self, feedback: Feedback, *, earlier: Feedback | None) -> tuple[bool, Effects]:
        """Spool a grade; False if the same one is already there.

        Raises
        ------
        ConflictError
            If the request already has another grade: the first one counts.
        """
        if earlier is None:
            return True, self.outbox.spool(feedback)
        if earlier.reward_ppm != feedback.reward_ppm:
            raise ConflictError(
                f"request {feedback.request_id} was already graded {earlier.reward_ppm / PPM:g} "
                f"by {earlier.source!r}; the first grade counts"
            )
        return False, []

    def tick(self, *, boot_ms: int, unix_ms: int) -> Effects:
        """Let leases expire and close; the effects must be synced if any lease closes."""
        effects = self.gate.expire(boot_ms=boot_ms, unix_ms=unix_ms)
        late = self.gate.overdue(boot_ms=boot_ms, close_wait_ms=self.config.close_wait_ms)
        for request in self._requests.values() if late else ():
            if request.plan and request.plan.reservation_id in late:
                request.settled_early, settled = self.gate.settle(
                    request.plan.reservation_id,
                    arm=request.plan.arm.id,
                    kind=SettleKind.UNKNOWN,
                    cost_nanos=0,
                )
                effects += settled
        return effects + self.gate.close_idle() + self.outbox.trim(boot_ms=boot_ms)

    def hello(self) -> HelloFacts:
        """How the device introduces itself."""
        return HelloFacts(
            incarnation=self._incarnation,
            resume_token=self._resume_token,
            acked_sequence=self.outbox.acked,
            incarnations=self.outbox.incarnations(),
            lease_number_max=self.gate.number_max,
            leases=self.gate.leases(),
            table_version=self.table.version if self.table else 0,
            config_version=self.config.version,
            copied=self.gate.copied,
        )

    def welcomed(self, *, resume_token: str, spend_paused: bool, quarantined: str) -> Effects:
        """A session has begun; to be synced before `token_synced` (rule D_2)."""
        return [
            PutMeta(MetaKey.RESUME_TOKEN, resume_token),
            *self.gate.pause(spend_paused),
            *self.gate.quarantine(quarantined),
            *self.gate.copy_known(),
        ]

    def token_synced(self, resume_token: str) -> None:
        """This token survives a loss of power: from now on the device names it."""
        self._resume_token = resume_token

    def configured(self, config: DeviceConfig) -> Effects:
        """The fleet's configuration: a new one, or the same again with a new session."""
        if config == self._fleet_config:
            return self.gate.configured()
        self._fleet_config = config
        self.grading.configure(config)
        self._arms_changed()
        return [PutConfig(config), *self.gate.configured()]

    def models_can(self, capabilities: Mapping[str, frozenset[str]]) -> None:
        """What the model files say that local arms can do, beside what the fleet says of them."""
        if capabilities != self._models_can:
            self._models_can = capabilities
            self._arms_changed()

    def _arms_changed(self) -> None:
        arms = tuple(
            replace(arm, capabilities=arm.capabilities | self._models_can.get(arm.id, frozenset()))
            if arm.cloud is None
            else arm
            for arm in self._fleet_config.arms
        )
        self.config = replace(self._fleet_config, arms=arms)
        self._chooser.follow(self.config, table=self.table)

    def alone_with(self, fallback: DeviceConfig) -> None:
        """Other models of the device's own; they count until a coordinator has configured it."""
        if not self._fleet_config.version:
            self._fleet_config = fallback
            self._arms_changed()

    def table_pushed(self, table: SelectionTable) -> Effects:
        """A selection table: a new one, or the same again with a new session."""
        if table == self.table:
            return []
        self.table = table
        self._chooser.follow(self.config, table=table)
        return [PutTable(table)]

    @property
    def requests_in_flight(self) -> int:
        """Requests begun and not finished."""
        return len(self._requests)

    def _end_attempt(self, request: RunningRequest, end: AttemptEnd) -> Effects:
        plan = request.under_way
        request.plan = None
        if plan.price is None:
            request.attempts += (Attempt(plan.arm.id, end.latency_ms, error=end.error),)
            return []
        cost = plan.price.cost_nanos(
            prompt_tokens=end.prompt_tokens, completion_tokens=end.completion_tokens
        )
        effects: Effects = []
        settled, request.settled_early = request.settled_early, None
        if settled is None:
            settled, effects = self.gate.settle(
                plan.reservation_id, arm=plan.arm.id, kind=end.settle, cost_nanos=cost
            )
        elif end.settle is not SettleKind.UNKNOWN:
            known = cost if end.settle is SettleKind.REPORTED else 0
            request.corrections += ((settled, known),)
            if known > settled.reserved_nanos:
                request.overrun_arms |= {plan.arm.id}
        if settled.overrun_nanos:
            request.overrun_arms |= {plan.arm.id}
        attempt = Attempt(
            arm=plan.arm.id,
            latency_ms=end.latency_ms,
            error=end.error,
            lease_number=settled.lease_number,
            reserved_nanos=settled.reserved_nanos,
            cost_nanos=settled.cost_nanos,
            settle=settled.kind,
        )
        request.attempts += (attempt,)
        return effects
