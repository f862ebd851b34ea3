"""Which arms may answer a request: the filters, in the order of the design."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property

from edge_agent.requests import NO_ORIGIN, TaskOrigin
from shared.decision.money import PPM, Price, WorstCase, worst_case_nanos
from shared.decision.table import RankedRow, SelectionTable, TableArm, TableRow
from shared.decision.types import Arm, ArmKind, Candidate, DeviceConfig, Fallout
from shared.rows import quick_dataclass

OTHER_CLASS = "other"


@quick_dataclass(frozen=True)
class RequestFacts:
    """What is known of a request before an arm is chosen.

    Attributes
    ----------
    pinned_arm : str
        Empty unless the client named an arm.
    fields : frozenset of str
        Request fields that a paid arm must list to receive them (rule A_2).
    body_bytes, messages, n : int
        For the worst case.
    prompt_bytes : int
        UTF-8 bytes of the messages' text.
    media_parts : int
        Pictures, sounds and files. What they cost does not follow from their bytes, so there is
        no true worst case and a paid arm may not have them (I3).
    max_tokens : int or None
        The client's own limit.
    origin : TaskOrigin
        How the task class was found.
    max_cost_nanos : int or None
        What the client lets this request cost, all its attempts together; None for no cap.
    turn, goes_on_from : str
        Ids of this turn of a conversation and of the one before it; empty where there is none.
    tag : str
        Whose request it is, for the outcome.
    expected : str or None
        The answer that a grader is to find, as the client said; never leaves the device.
    key_tag : str
        The API key's own tag, by which its budget is known; empty without a key.
    """

    request_id: str
    task_class: str
    arrived_unix_ms: int
    deadline_ms: int
    body_bytes: int
    messages: int
    prompt_bytes: int = 0
    media_parts: int = 0
    pinned_arm: str = ""
    privacy_local: bool = False
    capabilities: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    max_tokens: int | None = None
    n: int = 1
    tag: str = ""
    max_cost_nanos: int | None = None
    origin: TaskOrigin = NO_ORIGIN
    turn: str = ""
    goes_on_from: str = ""
    key_tag: str = ""
    expected: str | None = None

    def max_tokens_on(self, arm: Arm) -> int:
        """The limit that is sent to an arm."""
        return self.max_tokens if self.max_tokens is not None else arm.max_tokens_default

    def worst_case_nanos(self, arm: Arm) -> int:
        """The most that this request can cost on a paid arm, in nano-dollars (rule A_2)."""
        if arm.cloud is None:
            return 0
        return worst_case_nanos(
            arm.cloud.price,
            bound=arm.cloud.worst_case,
            body_bytes=self.body_bytes,
            messages=self.messages,
            n=self.n,
            max_tokens=self.max_tokens_on(arm),
        )


@quick_dataclass(frozen=True)
class ArmCondition:
    """What the device knows of an arm now.

    Attributes
    ----------
    problem : str
        Why it cannot answer; empty when it can.
    queue_ms : float
        Expected wait before it starts.
    limit : str
        The limit of the device that closes it (`hot`, `battery`, ...); empty if none does.
    """

    problem: str = ""
    queue_ms: float = 0.0
    limit: str = ""


@quick_dataclass(frozen=True)
class Candidates:
    """The row to draw from, the arms that may answer, and why the others may not.

    Attributes
    ----------
    late : tuple of str
        The arms that fell out for their time alone: late is better than never, so they answer if
        no other can after all.
    """

    row: TableRow
    arms: tuple[str, ...]
    fallouts: tuple[Fallout, ...] = field(default=())
    late: tuple[str, ...] = ()

    @cached_property
    def weights(self) -> tuple[Candidate, ...]:
        """Between what the draw is made, for the log (promise P6)."""
        arms = self.arms
        return tuple([Candidate(e.arm, e.weight_ppm) for e in self.row.arms if e.arm in arms])

    def played(self, *, share_ppm_min: int) -> frozenset[str]:
        """The candidates that at least this share of the draws between them would fall on."""
        weights = self.weights
        total = sum(each.weight_ppm for each in weights)
        return frozenset(
            each.arm for each in weights if total and each.weight_ppm * PPM >= share_ppm_min * total
        )


CONTEXT_REASON = "context_length_exceeded"
MAX_COST_REASON = "max_cost"
KINDS_MAX = 256
DISABLED = "disabled"
CHAT = "chat"
EMBEDDINGS = "embeddings"
COMPLETIONS = "completions"
LOCAL_FIELDS = frozenset(
    {
        "frequency_penalty",
        "grammar",
        "logit_bias",
        "logprobs",
        "metadata",
        "min_p",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "repeat_penalty",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
    }
)
"""What a local arm takes: what llama.cpp honours, and what only means something to a provider (who
asks, how the provider should cache, bill or file it). Tools and log probabilities also need the
arm's capability."""
CONTEXT_DOUBT = 2  # a prompt may take this many times fewer tokens than is typical
KEY_BUDGET_REASON = "key_budget"
BUDGET_REASONS = frozenset({"no_lease", "lease_too_small", "spend_paused", KEY_BUDGET_REASON})
"""No money; where only the watermark is behind, there is some after the disk's next sync."""


def row_for(facts: RequestFacts, *, config: DeviceConfig, table: SelectionTable | None) -> TableRow:
    """The table's row for a request.

    A pinned arm is a row of its own; an unknown class uses the row of `other`; without any table
    the local arms stand side by side (promise P2).
    """
    if facts.pinned_arm:
        return TableRow(facts.task_class, (TableArm(facts.pinned_arm, PPM),))
    row = None
    if table is not None:
        row = table.row(facts.task_class) or table.row(OTHER_CLASS)
    if row is not None:
        return row
    local = [arm.id for arm in config.arms if arm.kind is ArmKind.LOCAL]
    return TableRow(facts.task_class, tuple(TableArm(arm, PPM // len(local)) for arm in local))


@quick_dataclass(frozen=True)
class Allowance:
    """What the gate says before it is asked arm by arm.

    Attributes
    ----------
    problem : str
        Why no paid arm may be called now; empty if any may.
    room_nanos : int
        A worst case up to this much can be reserved at once.
    """

    problem: str = ""
    room_nanos: int = 0


class _PreparedArm:
    """An entry of a row with what the configuration says of its arm, looked up once."""

    __slots__ = ("bytes_max", "id", "known", "latency_ms", "paid")

    def __init__(self, entry: TableArm, *, arm: Arm | None) -> None:
        self.id = entry.arm
        self.known = arm
        self.latency_ms = entry.latency_p50_ms
        self.paid = arm if arm is not None and arm.cloud is not None else None
        self.bytes_max = 0
        if arm is not None:
            tokens_max = CONTEXT_DOUBT * arm.context_tokens_max + 1
            self.bytes_max = -(-tokens_max * arm.bytes_per_token_ppm // PPM)


class _Dearest:
    """An upper bound of what a request can cost on any of some arms.

    As long as even that fits, no arm's own worst case has to be computed to choose one.
    """

    def __init__(self, arms: Sequence[Arm]) -> None:
        clouds = [arm.cloud for arm in arms if arm.cloud is not None]
        prices, bounds = [c.price for c in clouds], [c.worst_case for c in clouds]
        self._price = Price(
            max((price.input_nanos_per_mtok for price in prices), default=0),
            max((price.output_nanos_per_mtok for price in prices), default=0),
            max((price.request_nanos for price in prices), default=0),
        )
        self._bound = WorstCase(
            max((bound.bytes_factor_ppm for bound in bounds), default=0),
            max((bound.message_overhead_tokens for bound in bounds), default=0),
            max((bound.request_overhead_tokens for bound in bounds), default=0),
        )
        self._max_tokens = max((arm.max_tokens_default for arm in arms), default=0)

    def worst_case_nanos(self, facts: RequestFacts) -> int:
        limit = facts.max_tokens if facts.max_tokens is not None else self._max_tokens
        return worst_case_nanos(
            self._price,
            bound=self._bound,
            body_bytes=facts.body_bytes,
            messages=facts.messages,
            n=facts.n,
            max_tokens=limit,
        )


class PreparedRow:
    """A row of the table, ready to be filtered for one request after the other.

    What a configuration and a row say does not change between requests, so it is looked up and
    compared once; what a kind of request can never have is remembered too.
    """

    def __init__(self, row: TableRow, *, config: DeviceConfig) -> None:
        self.row = row
        self.ranked = RankedRow(row)
        self._arms = tuple(_PreparedArm(entry, arm=config.arm(entry.arm)) for entry in row.arms)
        self._dearest = _Dearest([p.paid for p in self._arms if p.paid is not None])
        self._never: dict[object, tuple[str, ...]] = {}
        self._all = Candidates(row, tuple(prepared.id for prepared in self._arms))

    def candidates(
        self,
        facts: RequestFacts,
        *,
        conditions: Mapping[str, ArmCondition],
        allowance: Allowance,
        money: Callable[[Arm], str],
    ) -> Candidates:
        """Filter the row's arms, in the order of the design.

        Parameters
        ----------
        conditions : mapping
            Arm to its condition; an arm without one cannot answer.
        allowance : Allowance
            What the gate says of all paid arms together.
        money : callable
            Why the gate would refuse this paid arm; empty if it would not. Not asked while the
            dearest arm's worst case is within the allowance.
        """
        fallouts: list[Fallout] = []
        left: list[str] = []
        late: list[str] = []
        prompt_bytes, deadline_ms = facts.prompt_bytes, facts.deadline_ms or math.inf
        dearest, cap = self._dearest.worst_case_nanos(facts), facts.max_cost_nanos
        capped = cap is not None and dearest > cap
        doubtful = capped or bool(allowance.problem) or dearest > allowance.room_nanos
        for prepared, never in zip(self._arms, self._never_for(facts), strict=True):
            problem, condition = never, conditions.get(prepared.id)
            if not problem or problem == DISABLED:
                if prompt_bytes >= prepared.bytes_max:
                    problem = CONTEXT_REASON
                elif problem:
                    pass
                elif condition is None:
                    problem = "not_on_this_device"
                elif condition.problem:
                    problem = condition.problem
                elif doubtful and prepared.paid is not None:
                    problem = _cap_problem(facts, arm=prepared.paid) if capped else ""
                    problem = problem or allowance.problem or money(prepared.paid)
                if not problem and condition is not None:
                    problem = condition.limit
            if problem or condition is None:
                fallouts.append(Fallout(prepared.id, problem))
            elif prepared.latency_ms + condition.queue_ms > deadline_ms:
                late.append(prepared.id)
            else:
                left.append(prepared.id)
        if len(left) == len(self._arms):
            return self._all
        if not late:
            return Candidates(self.row, tuple(left), tuple(fallouts))
        if not left:
            return Candidates(self.row, tuple(late), tuple(fallouts))
        fallouts.extend([Fallout(arm, "deadline") for arm in sorted(late)])
        last = self.ranked.fallbacks(late)
        return Candidates(self.row, tuple(left), tuple(fallouts), last)

    def _never_for(self, facts: RequestFacts) -> tuple[str, ...]:
        """Why each arm can never answer a request of this kind; empty if it can."""
        kind = (facts.privacy_local, facts.capabilities, facts.fields, facts.media_parts > 0)
        found = self._never.get(kind)
        if found is None:
            if len(self._never) >= KINDS_MAX:
                self._never.clear()
            found = tuple(next(_never(facts, arm=prepared.known), "") for prepared in self._arms)
            self._never[kind] = found
        return found


def _never(facts: RequestFacts, *, arm: Arm | None) -> Iterator[str]:
    """Why an arm can never answer such a request, in the order of the design."""
    if arm is None:
        yield "unknown_arm"
        return
    if facts.privacy_local and arm.kind is ArmKind.CLOUD:
        yield "privacy"
    missing = sorted(facts.capabilities - capabilities_of(arm))
    if missing:
        yield f"capability:{missing[0]}"
    unlisted = sorted(facts.fields - (LOCAL_FIELDS if arm.cloud is None else arm.cloud.fields))
    if unlisted:
        yield f"field:{unlisted[0]}"
    if facts.media_parts and arm.cloud is not None:
        yield "media_has_no_worst_case"
    if not arm.enabled:
        yield DISABLED


def capabilities_of(arm: Arm) -> frozenset[str]:
    """What an arm can do, with `chat`, which goes without saying for most."""
    return arm.capabilities | {CHAT} if arm.chats else arm.capabilities


def _cap_problem(facts: RequestFacts, *, arm: Arm) -> str:
    """Whether this request could cost more on an arm than its client allows."""
    cap = facts.max_cost_nanos
    return MAX_COST_REASON if cap is not None and facts.worst_case_nanos(arm) > cap else ""
