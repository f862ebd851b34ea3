"""Requests, arms and outcomes: what devices decide about and report.

Outcomes and their parts, which come by the ten thousand a second, are named tuples: as frozen as
the other values, and made in a seventh of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple

from shared.decision.grading import NO_SIGNALS, Grader, Signals
from shared.decision.money import PPM, Price, WorstCase

COORDINATOR_KEY: Final = "coordinator"
"""`coordinator:NAME`: a key that is not on the device but comes over its link."""


CAPABILITIES: Final = frozenset(
    {
        "audio",
        "chat",
        "completions",
        "embeddings",
        "file",
        "json_schema",
        "logprobs",
        "token_input",
        "tools",
        "vision",
    }
)
"""What an arm can be said to do beyond a plain answer; requests ask for no other."""

REQUEST_FIELDS: Final = frozenset(
    {
        "dimensions",
        "frequency_penalty",
        "grammar",
        "input",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "min_p",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "repeat_penalty",
        "response_format",
        "safety_identifier",
        "seed",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
"""What a paid arm's closed list may name: all that an agent passes on and rule A_2 can bound."""


class ArmKind(StrEnum):
    """Where an arm runs."""

    LOCAL = "local"
    CLOUD = "cloud"


class OnAbort(StrEnum):
    """What becomes of a paid call when its client goes away (rule S_5)."""

    DRAIN = "drain"
    CANCEL = "cancel"


class SettleKind(StrEnum):
    """The three ways to settle a paid attempt (rule S_2)."""

    RELEASED = "released"
    REPORTED = "reported"
    UNKNOWN = "unknown"


_RELEASED = SettleKind.RELEASED


class RequestStatus(StrEnum):
    """How a request ended."""

    OK = "ok"
    ERROR = "error"
    REFUSED = "refused"
    ABORTED = "aborted"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class CloudSettings:
    """How a cloud arm is called and what it costs.

    Attributes
    ----------
    base_url : str
        OpenAI-compatible endpoint, without `/chat/completions`.
    api_key_ref : str
        `env:NAME` or `file:PATH` on the device, or `coordinator:NAME`; empty for none. Never the
        key itself.
    fields : frozenset of str
        The closed list of request fields that may reach the arm (rule A_2).
    unbilled_statuses : frozenset of int
        HTTP statuses for which the provider bills nothing (rule S_2).
    """

    base_url: str
    api_key_ref: str
    price: Price
    worst_case: WorstCase
    fields: frozenset[str]
    unbilled_statuses: frozenset[int]
    on_abort: OnAbort
    connect_timeout_ms: int
    first_byte_timeout_ms: int
    drain_timeout_ms: int

    @property
    def provider_key(self) -> str:
        """The name of the key that the coordinator delivers; empty if the device has its own."""
        kind, _, name = self.api_key_ref.partition(":")
        return name if kind == COORDINATOR_KEY else ""


@dataclass(frozen=True)
class Arm:
    """One way to answer: a model with its quantisation and settings, local or cloud.

    Attributes
    ----------
    model : str
        The model's name at the cloud endpoint; for a local arm a label only.
    context_tokens_max : int
        Prompt and completion together.
    max_tokens_default : int
        Sent when the client names no limit (rule A_2).
    bytes_per_token_ppm : int
        Typical bytes a token in parts per million, to tell early what cannot fit.
    cloud : CloudSettings or None
        None exactly for local arms.
    """

    id: str
    kind: ArmKind
    model: str
    context_tokens_max: int
    max_tokens_default: int
    bytes_per_token_ppm: int = 3 * PPM
    capabilities: frozenset[str] = frozenset()
    enabled: bool = True
    cloud: CloudSettings | None = None

    @property
    def chats(self) -> bool:
        """Whether it answers chats: a model for embeddings does not, unless it says so."""
        return "embeddings" not in self.capabilities or "chat" in self.capabilities


@dataclass(frozen=True)
class TaskClass:
    """What kind of request it is, and what is promised for it.

    Attributes
    ----------
    grader : Grader or None
        Grades its answers on the device.
    judge_ppm : int
        Share of its answers that the fleet's judge is asked about.
    """

    id: str
    deadline_ms: int
    privacy_local: bool = False
    grader: Grader | None = None
    judge_ppm: int = 0


@dataclass(frozen=True)
class Judge:
    """The paid arm that grades answers, and how long its reply may be."""

    arm: Arm
    max_tokens: int


@dataclass(frozen=True)
class DeviceConfig:
    """The part of the fleet's configuration that a device needs."""

    version: int
    device_class: str
    arms: tuple[Arm, ...]
    task_classes: tuple[TaskClass, ...]
    price_version: int
    budget_name: str
    close_wait_ms: int
    judge: Judge | None = None
    signals: Signals = NO_SIGNALS

    def arm(self, arm_id: str) -> Arm | None:
        """The arm of that id, if the fleet has it."""
        return self._by_id.get(arm_id)

    @property
    def provider_keys(self) -> frozenset[str]:
        """The names of the keys that the coordinator delivers for these arms and the judge."""
        arms = (*self.arms, self.judge.arm) if self.judge else self.arms
        named = (arm.cloud.provider_key for arm in arms if arm.cloud is not None)
        return frozenset(name for name in named if name)

    @cached_property
    def _by_id(self) -> dict[str, Arm]:
        return {arm.id: arm for arm in self.arms}


class Attempt(NamedTuple):
    """One try of one arm. A local attempt has lease 0, no cost and no settle kind."""

    arm: str
    latency_ms: int
    error: str = ""
    lease_number: int = 0
    reserved_nanos: int = 0
    cost_nanos: int = 0
    settle: SettleKind | None = None

    @property
    def is_booked(self) -> bool:
        """Whether its cost counts on a lease: not for local tries, nor for released ones."""
        settle = self.settle
        return self.lease_number != 0 and settle is not None and settle is not _RELEASED

    @property
    def is_overrun(self) -> bool:
        """Whether the provider billed more than the worst case (rule S_4)."""
        return self.cost_nanos > self.reserved_nanos


class Fallout(NamedTuple):
    """An arm that was no candidate, and why."""

    arm: str
    reason: str


class Candidate(NamedTuple):
    """An arm that was left after filtering, with its weight in the table."""

    arm: str
    weight_ppm: int


class Observation(NamedTuple):
    """The decision that an agent in the mode `observe` has taken and not acted upon."""

    arm: str
    propensity_ppm: int
    candidates: tuple[Candidate, ...] = ()


class Outcome(NamedTuple):
    """What came of one request: everything needed to book, learn from and explain it (P6).

    Attributes
    ----------
    observed : Observation or None
        What would have been drawn, had a fixed arm not been told to answer. Then `drawn_arm` is
        the fixed arm, certain among the candidates.
    grading_ppm : int
        The probability that the answer is graded, where that is sampled.
    """

    request_id: str
    task_class: str
    arrived_unix_ms: int
    status: RequestStatus
    arm: str
    drawn_arm: str
    propensity_ppm: int
    table_version: int
    reason: str
    forced: bool
    attempts: tuple[Attempt, ...] = ()
    fallouts: tuple[Fallout, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: int = 0
    latency_ms: int = 0
    deadline_ms: int = 0
    hit: bool = False
    tag: str = ""
    candidates: tuple[Candidate, ...] = ()
    observed: Observation | None = None
    grading_ppm: int = PPM

    @property
    def cost_nanos(self) -> int:
        """What all its paid attempts cost, in nano-dollars."""
        total = 0
        for attempt in self.attempts:
            total += attempt.cost_nanos
        return total


@dataclass(frozen=True)
class Feedback:
    """A grade for an answer, perhaps late; the first full one for a request counts.

    Attributes
    ----------
    weight_ppm : int
        What it counts in the estimates beside a full grade, which has a million.
    grading_ppm : int
        The probability with which it was asked for, where grading is sampled.
    """

    request_id: str
    task_class: str
    arm: str
    reward_ppm: int
    source: str
    at_unix_ms: int
    weight_ppm: int = PPM
    grading_ppm: int = PPM

    @property
    def is_weak(self) -> bool:
        """Whether it is a hint beside which a full grade may still come."""
        return self.weight_ppm < PPM


@dataclass(frozen=True)
class JudgeCall:
    """A paid call that graded an answer: its cost is booked, and it is no request of anybody's."""

    request_id: str
    attempt: Attempt


@dataclass(frozen=True)
class LeaseClose:
    """A device's last word on a lease."""

    lease_number: int
    final_nanos: int
    clean: bool
    reason: str


@dataclass(frozen=True)
class CostAdjustment:
    """Usage that became known after its request was settled (rule S_3)."""

    request_id: str
    lease_number: int
    delta_nanos: int
    reason: str


@dataclass(frozen=True)
class ContextCount:
    """How many requests of a task class an arm answered."""

    task_class: str
    arm: str
    requests: int


@dataclass(frozen=True)
class SpoolSummary:
    """What is left of compacted outcomes (rule O_2): costs are never dropped.

    Attributes
    ----------
    unreadable : int
        Records in it that its device can no longer read. It cannot say what they cost, so that
        stays unconfirmed, by the final figures of their leases.
    """

    first_sequence: int
    last_sequence: int
    costs: tuple[tuple[int, int], ...]
    counts: tuple[ContextCount, ...]
    unreadable: int = 0


SpoolBody = Outcome | Feedback | LeaseClose | CostAdjustment | SpoolSummary | JudgeCall


class SpoolRecord(NamedTuple):
    """One durable fact at its position in a device's outbox.

    Attributes
    ----------
    run, place : bytes and int
        The outcomes that an outcome came with over the wire, and which of them it is, so that it
        need not be encoded again to be stored. They say the same again, so they do not count where
        two records are compared.
    """

    sequence: int
    incarnation: str
    body: SpoolBody
    run: bytes = b""
    place: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SpoolRecord) and self[:3] == other[:3]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:3])


@dataclass(frozen=True)
class IncarnationRange:
    """What a spool holds of one incarnation: the sequences above `after`, up to `last`."""

    incarnation: str
    after: int
    last: int


@dataclass(frozen=True)
class LeaseStatus:
    """A device's own account of a lease that it still holds. Amounts in nano-dollars."""

    lease_number: int
    window_id: int
    amount_nanos: int
    settled_nanos: int
    reserved_nanos: int
    watermark_nanos: int
    closing: bool


@dataclass(frozen=True)
class ArmSpeed:
    """How fast a device runs a local arm, as it has measured: one request at a time."""

    arm: str
    prompt_tokens_per_s: float
    completion_tokens_per_s: float

    def latency_ms(self, *, prompt_tokens: int, completion_tokens: int) -> float:
        """How long a request of so many tokens takes."""
        seconds = (
            prompt_tokens / self.prompt_tokens_per_s
            + completion_tokens / self.completion_tokens_per_s
        )
        return 1_000.0 * seconds


@dataclass(frozen=True)
class Battery:
    """What a device runs on without mains; `charge_ratio` is from 0 to 1."""

    charge_ratio: float
    on_mains: bool


@dataclass(frozen=True)
class DeviceState:
    """How a device is: sent with every heartbeat.

    Attributes
    ----------
    temperature_celsius, power_watts : float
        0 where the machine does not tell.
    memory_pressure_ratio : float
        Share of the last seconds in which some work waited for memory.
    throttle_reasons : tuple of str
        Why the processor is held back, such as `under_voltage`.
    limited : tuple of Fallout
        Kinds of arms (`local`, `cloud`) that a limit of the device closes, and which limit.
    """

    cpu_percent: float = 0.0
    memory_available_bytes: int = 0
    disk_available_bytes: int = 0
    temperature_celsius: float = 0.0
    throttled: bool = False
    requests_in_flight: int = 0
    loaded_arms: tuple[str, ...] = ()
    broken_arms: tuple[Fallout, ...] = field(default=())
    books_state: str = "ok"
    power_watts: float = 0.0
    battery: Battery | None = None
    memory_total_bytes: int = 0
    memory_pressure_ratio: float = 0.0
    throttle_reasons: tuple[str, ...] = ()
    limited: tuple[Fallout, ...] = ()
