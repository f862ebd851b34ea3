"""Which arms may answer a request: the filters, in the order of the design."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from shared.decision.money import PPM, worst_case_nanos
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.decision.types import Arm, ArmKind, Candidate, DeviceConfig, Fallout

OTHER_CLASS = "other"


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ArmCondition:
    """What the device knows of an arm now.

    Attributes
    ----------
    problem : str
        Why it cannot answer; empty when it can.
    queue_ms : float
        Expected wait before it starts.
    """

    problem: str = ""
    queue_ms: float = 0.0


@dataclass(frozen=True)
class Candidates:
    """The row to draw from, the arms that may answer, and why the others may not."""

    row: TableRow
    arms: tuple[str, ...]
    fallouts: tuple[Fallout, ...] = field(default=())
    refused_by_budget: bool = False

    @property
    def weights(self) -> tuple[Candidate, ...]:
        """Between what the draw is made, for the log (promise P6)."""
        return tuple(
            Candidate(entry.arm, entry.weight_ppm)
            for entry in self.row.arms
            if entry.arm in self.arms
        )


CONTEXT_REASON = "context_length_exceeded"
CONTEXT_DOUBT = 2  # a prompt may take this many times fewer tokens than is typical
BUDGET_REASONS = frozenset({"no_lease", "lease_too_small", "watermark_not_synced", "spend_paused"})


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


def find_candidates(
    facts: RequestFacts,
    *,
    config: DeviceConfig,
    table: SelectionTable | None,
    conditions: Mapping[str, ArmCondition],
    money: Mapping[str, str],
) -> Candidates:
    """Filter a row's arms.

    Parameters
    ----------
    conditions : mapping
        Arm to its condition; an arm without one cannot answer.
    money : mapping
        Paid arm to why the gate would refuse it now; arms that may be paid are absent.
    """
    row = row_for(facts, config=config, table=table)
    fallouts: list[Fallout] = []
    left: list[TableArm] = []
    for entry in row.arms:
        arm = config.arm(entry.arm)
        problem = next(_problems(facts, arm=arm, conditions=conditions, money=money), "")
        if problem:
            fallouts.append(Fallout(entry.arm, problem))
        else:
            left.append(entry)
    in_time = [
        entry
        for entry in left
        if _latency_ms(entry, conditions=conditions) <= facts.deadline_ms or not facts.deadline_ms
    ]
    if in_time and len(in_time) < len(left):
        late = {entry.arm for entry in left} - {entry.arm for entry in in_time}
        fallouts.extend(Fallout(arm, "deadline") for arm in sorted(late))
        left = in_time
    return Candidates(
        row=row,
        arms=tuple(entry.arm for entry in left),
        fallouts=tuple(fallouts),
        refused_by_budget=bool(fallouts)
        and all(fallout.reason in BUDGET_REASONS for fallout in fallouts),
    )


def _latency_ms(entry: TableArm, *, conditions: Mapping[str, ArmCondition]) -> float:
    return entry.latency_p50_ms + conditions[entry.arm].queue_ms


def _problems(
    facts: RequestFacts,
    *,
    arm: Arm | None,
    conditions: Mapping[str, ArmCondition],
    money: Mapping[str, str],
) -> Iterator[str]:
    """Why an arm cannot answer, in the order of the design; the first one counts."""
    if arm is None:
        yield "unknown_arm"
        return
    if facts.privacy_local and arm.kind is ArmKind.CLOUD:
        yield "privacy"
    missing = sorted(facts.capabilities - arm.capabilities)
    if missing:
        yield f"capability:{missing[0]}"
    if arm.cloud is not None:
        unlisted = sorted(facts.fields - arm.cloud.fields)
        if unlisted:
            yield f"field:{unlisted[0]}"
        if facts.media_parts:
            yield "media_has_no_worst_case"
    tokens_typical = facts.prompt_bytes * PPM // arm.bytes_per_token_ppm
    if tokens_typical > CONTEXT_DOUBT * arm.context_tokens_max:
        yield CONTEXT_REASON
    if not arm.enabled:
        yield "disabled"
    condition = conditions.get(arm.id)
    if condition is None:
        yield "not_on_this_device"
    elif condition.problem:
        yield condition.problem
    if arm.id in money:
        yield money[arm.id]
