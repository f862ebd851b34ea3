"""What Prometheus can read of the agent: numbers with bounded labels, no prompts, no ids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shared.decision.key_budget import KeyBudgetStatus
from shared.decision.money import NANOS_PER_DOLLAR
from shared.decision.types import Attempt, Feedback, JudgeCall, Outcome, SpoolBody
from shared.limits import ARMS_MAX, TASK_CLASSES_MAX

M = TypeVar("M", Counter, Histogram)
OTHER: Final = "other"
NONE: Final = "none"
REASONS_MAX: Final = 64
_GRADERS: Final = ("grader", "judge", "signal")
_LATENCY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TTFT_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class AgentGauges:
    """The agent's condition at one moment. Amounts in nano-dollars."""

    spool_records: int
    link_connected: bool
    table_version: int
    lease_available_nanos: int
    lease_reserved_nanos: int
    key_budgets: tuple[KeyBudgetStatus, ...] = ()


class _Label:
    """Values of a label, the first few as they are and every later one as `other`."""

    def __init__(self, values_max: int) -> None:
        self._values_max = values_max
        self._known: set[str] = set()

    def value(self, text: str) -> str:
        """The value to use for a text."""
        if not text:
            return NONE
        if text in self._known:
            return text
        if len(self._known) >= self._values_max:
            return OTHER
        self._known.add(text)
        return text


class AgentMetrics:
    """The agent's metrics on a registry of their own.

    Parameters
    ----------
    registry : CollectorRegistry
        Where the metrics are registered; a second instance needs another one.
    tags : iterable of str
        Of the configured API keys: what a client says beside them is no label.
    """

    def __init__(self, registry: CollectorRegistry, *, tags: Iterable[str] = ()) -> None:
        self._registry = registry
        self.set_tags(tags)
        self._children: dict[tuple[object, ...], object] = {}
        self._arms = _Label(ARMS_MAX)
        self._task_classes = _Label(TASK_CLASSES_MAX)
        self._reasons = _Label(REASONS_MAX)
        self._requests = Counter(
            "tidegate_requests_total",
            "Requests that came to an end.",
            ["task_class", "arm", "status"],
            registry=registry,
        )
        self._attempts = Counter(
            "tidegate_attempts_total",
            "Tries of an arm, by result: ok, or why it failed.",
            ["arm", "result"],
            registry=registry,
        )
        self._fallouts = Counter(
            "tidegate_fallouts_total",
            "Arms that were no candidate for a request, by reason.",
            ["arm", "reason"],
            registry=registry,
        )
        self._deadline_hits = Counter(
            "tidegate_deadline_hits_total",
            "Requests answered within their deadline.",
            ["task_class"],
            registry=registry,
        )
        self._latency = Histogram(
            "tidegate_request_latency_seconds",
            "From a request's arrival to the end of its answer.",
            ["task_class", "arm"],
            buckets=_LATENCY_S,
            registry=registry,
        )
        self._ttft = Histogram(
            "tidegate_request_ttft_seconds",
            "From a request's arrival to its first token.",
            ["task_class", "arm"],
            buckets=_TTFT_S,
            registry=registry,
        )
        self._spend = Counter(
            "tidegate_spend_dollars_total",
            "Settled cost of paid attempts, by the key's tag; the books hold the exact amounts.",
            ["arm", "tag"],
            registry=registry,
        )
        self._tokens = Counter(
            "tidegate_tokens_total",
            "Tokens as the backends counted them.",
            ["arm", "direction"],
            registry=registry,
        )
        self._register_gauges(registry)

    def _register_gauges(self, registry: CollectorRegistry) -> None:
        """Register what rises and falls."""
        self._in_flight = Gauge(
            "tidegate_requests_in_flight", "Chat requests being answered.", registry=registry
        )
        self._spool = Gauge(
            "tidegate_spool_records", "Records that wait to be acknowledged.", registry=registry
        )
        self._link = Gauge(
            "tidegate_link_connected", "1 while the coordinator can be reached.", registry=registry
        )
        self._table = Gauge(
            "tidegate_table_version", "Version of the selection table.", registry=registry
        )
        self._lease_available = Gauge(
            "tidegate_lease_available_dollars",
            "What may still be reserved on the lease.",
            registry=registry,
        )
        self._lease_reserved = Gauge(
            "tidegate_lease_reserved_dollars", "Held by paid calls under way.", registry=registry
        )
        self._grades = Counter(
            "tidegate_grades_total",
            "Grades of answers: by clients, graders, judges, or weak signals.",
            ["source"],
            registry=registry,
        )
        self._key_budget = Gauge(
            "tidegate_key_budget_dollars",
            "A key's budget in its present window: its limit, and what is settled or reserved.",
            ["tag", "part"],
            registry=registry,
        )

    def set_tags(self, tags: Iterable[str]) -> None:
        """From now on these are the configured keys' tags."""
        self._tags = frozenset(tags)

    def observe(self, body: SpoolBody) -> None:
        """Count what the coordinator is told: outcomes, grades, and what judges cost."""
        match body:
            case Outcome():
                self._observe_outcome(body)
            case JudgeCall(attempt=attempt):
                self._observe_attempt(attempt, tag=NONE)
            case Feedback(source=source):
                kind, named, _ = source.partition(":")
                grader = kind if named and kind in _GRADERS else "client"
                self._one_of(self._grades, grader).inc()

    def _observe_outcome(self, outcome: Outcome) -> None:
        arm = self._arms.value(outcome.arm)
        task_class = self._task_classes.value(outcome.task_class)
        self._one_of(self._requests, task_class, arm, outcome.status.value).inc()
        self._one_of(self._latency, task_class, arm).observe(outcome.latency_ms / 1000)
        if outcome.ttft_ms > 0:
            self._one_of(self._ttft, task_class, arm).observe(outcome.ttft_ms / 1000)
        if outcome.hit:
            self._one_of(self._deadline_hits, task_class).inc()
        self._one_of(self._tokens, arm, "prompt").inc(outcome.prompt_tokens)
        self._one_of(self._tokens, arm, "completion").inc(outcome.completion_tokens)
        tag = self._tag_of(outcome)
        for attempt in outcome.attempts:
            self._observe_attempt(attempt, tag=tag)
        for fallout in outcome.fallouts:
            reason = self._reasons.value(fallout.reason)
            self._one_of(self._fallouts, self._arms.value(fallout.arm), reason).inc()

    def _one_of(self, metric: M, *labels: str) -> M:
        """A metric's child with these labels; the library's own search takes longer."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return cast("M", child)

    def _tag_of(self, outcome: Outcome) -> str:
        """The key's tag, without what a client has added to it."""
        tag = outcome.tag.partition("/")[0]
        return tag if tag in self._tags else OTHER if tag else NONE

    def _observe_attempt(self, attempt: Attempt, *, tag: str) -> None:
        """Count one try of one arm."""
        arm = self._arms.value(attempt.arm)
        result = self._reasons.value(attempt.error) if attempt.error else "ok"
        self._one_of(self._attempts, arm, result).inc()
        if attempt.lease_number:
            # An overrun's correction may lower a cost; a counter can only rise.
            dollars = max(0, attempt.cost_nanos) / NANOS_PER_DOLLAR
            self._one_of(self._spend, arm, tag).inc(dollars)

    def set_requests_in_flight(self, requests: int) -> None:
        """Show how many chat requests are being answered."""
        self._in_flight.set(requests)

    def set_gauges(self, gauges: AgentGauges) -> None:
        """Show the agent's condition."""
        self._spool.set(gauges.spool_records)
        self._link.set(gauges.link_connected)
        self._table.set(gauges.table_version)
        self._lease_available.set(gauges.lease_available_nanos / NANOS_PER_DOLLAR)
        self._lease_reserved.set(gauges.lease_reserved_nanos / NANOS_PER_DOLLAR)
        self._key_budget.clear()  # keys may have gone
        for each in gauges.key_budgets:
            parts = (
                ("limit", each.amount_nanos),
                ("settled", each.settled_nanos),
                ("reserved", each.reserved_nanos),
            )
            for part, nanos in parts:
                self._key_budget.labels(each.tag, part).set(nanos / NANOS_PER_DOLLAR)

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
