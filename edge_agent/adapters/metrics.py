"""What Prometheus can read of the agent: numbers with bounded labels, no prompts, no ids."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from shared.decision.key_budget import KeyBudgetStatus
from shared.decision.money import NANOS_PER_DOLLAR
from shared.decision.types import Attempt, Feedback, JudgeCall, Outcome, SpoolBody
from shared.limits import ARMS_MAX, TASK_CLASSES_MAX

OTHER: Final = "other"
NONE: Final = "none"
REASONS_MAX: Final = 64
_GRADERS: Final = ("grader", "judge", "signal")
_LATENCY_MS: Final = (
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
    60_000,
    120_000,
    300_000,
)
_TTFT_MS: Final = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)


@dataclass(frozen=True)
class AgentGauges:
    """The agent's condition at one moment. Amounts in nano-dollars."""

    requests_in_flight: int
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


class _Counts(Collector):
    """A counter: plain numbers by their labels, made into samples when somebody reads them.

    The library's own take a lock and a dozen calls for each number, and every request has eight.

    Parameters
    ----------
    per_unit : int
        How many of what is counted make one of the metric's unit.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str], *, per_unit: int = 1) -> None:
        self._about = (name, text)
        self._labels = labels
        self._per_unit = per_unit
        self.of: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The samples."""
        family = CounterMetricFamily(*self._about, labels=self._labels)
        for labels, number in self.of.items():
            family.add_metric(labels, number / self._per_unit)
        yield family


class _Times(Collector):
    """A histogram of times, in seconds; counted like `_Counts`, in milliseconds."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, bounds_ms: Sequence[int]
    ) -> None:
        self._about = (name, text)
        self._labels = labels
        self._bounds_ms = bounds_ms
        self._buckets: dict[tuple[str, ...], list[int]] = {}
        self._sum_ms: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def observe(self, labels: tuple[str, ...], ms: int) -> None:
        """Count one time in the first bucket whose bound it does not exceed."""
        buckets = self._buckets.get(labels)
        if buckets is None:
            buckets = self._buckets[labels] = [0] * (len(self._bounds_ms) + 1)
        buckets[bisect_left(self._bounds_ms, ms)] += 1
        self._sum_ms[labels] += ms

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The samples."""
        bounds = [*(str(ms / 1_000) for ms in self._bounds_ms), "+Inf"]
        family = HistogramMetricFamily(*self._about, labels=self._labels)
        for labels, buckets in self._buckets.items():
            filled = list(zip(bounds, accumulate(buckets), strict=True))
            family.add_metric(labels, filled, self._sum_ms[labels] / 1_000)
        yield family


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
        self._arms = _Label(ARMS_MAX)
        self._task_classes = _Label(TASK_CLASSES_MAX)
        self._reasons = _Label(REASONS_MAX)
        self._requests = _Counts(
            "tidegate_requests_total",
            "Requests that came to an end.",
            ["task_class", "arm", "status"],
        )
        self._attempts = _Counts(
            "tidegate_attempts_total",
            "Tries of an arm, by result: ok, or why it failed.",
            ["arm", "result"],
        )
        self._fallouts = _Counts(
            "tidegate_fallouts_total",
            "Arms that were no candidate for a request, by reason.",
            ["arm", "reason"],
        )
        self._deadline_hits = _Counts(
            "tidegate_deadline_hits_total",
            "Requests answered within their deadline.",
            ["task_class"],
        )
        self._latency = _Times(
            "tidegate_request_latency_seconds",
            "From a request's arrival to the end of its answer.",
            ["task_class", "arm"],
            bounds_ms=_LATENCY_MS,
        )
        self._ttft = _Times(
            "tidegate_request_ttft_seconds",
            "From a request's arrival to its first token.",
            ["task_class", "arm"],
            bounds_ms=_TTFT_MS,
        )
        self._spend = _Counts(
            "tidegate_spend_dollars_total",
            "Settled cost of paid attempts, by the key's tag; the books hold the exact amounts.",
            ["arm", "tag"],
            per_unit=NANOS_PER_DOLLAR,
        )
        self._tokens = _Counts(
            "tidegate_tokens_total",
            "Tokens as the backends counted them.",
            ["arm", "direction"],
        )
        self._grades = _Counts(
            "tidegate_grades_total",
            "Grades of answers: by clients, graders, judges, or weak signals.",
            ["source"],
        )
        counts = (self._requests, self._attempts, self._fallouts, self._deadline_hits)
        for each in (*counts, self._latency, self._ttft, self._spend, self._tokens, self._grades):
            registry.register(each)
        self._register_gauges(registry)

    def _register_gauges(self, registry: CollectorRegistry) -> None:
        """Register what rises and falls."""
        self._in_flight = Gauge(
            "tidegate_requests_in_flight",
            "Requests being answered, and judges being asked.",
            registry=registry,
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
                self._grades.of[grader,] += 1

    def _observe_outcome(self, outcome: Outcome) -> None:
        arm = self._arms.value(outcome.arm)
        task_class = self._task_classes.value(outcome.task_class)
        self._requests.of[task_class, arm, outcome.status.value] += 1
        self._latency.observe((task_class, arm), outcome.latency_ms)
        if outcome.ttft_ms > 0:
            self._ttft.observe((task_class, arm), outcome.ttft_ms)
        if outcome.hit:
            self._deadline_hits.of[task_class,] += 1
        self._tokens.of[arm, "prompt"] += outcome.prompt_tokens
        self._tokens.of[arm, "completion"] += outcome.completion_tokens
        tag = self._tag_of(outcome)
        for attempt in outcome.attempts:
            self._observe_attempt(attempt, tag=tag)
        for fallout in outcome.fallouts:
            reason = self._reasons.value(fallout.reason)
            self._fallouts.of[self._arms.value(fallout.arm), reason] += 1

    def _tag_of(self, outcome: Outcome) -> str:
        """The key's tag, without what a client has added to it."""
        tag = outcome.tag.partition("/")[0]
        return tag if tag in self._tags else OTHER if tag else NONE

    def _observe_attempt(self, attempt: Attempt, *, tag: str) -> None:
        """Count one try of one arm."""
        arm = self._arms.value(attempt.arm)
        result = self._reasons.value(attempt.error) if attempt.error else "ok"
        self._attempts.of[arm, result] += 1
        if attempt.lease_number:
            # An overrun's correction may lower a cost; a counter can only rise.
            self._spend.of[arm, tag] += max(0, attempt.cost_nanos)

    def set_gauges(self, gauges: AgentGauges) -> None:
        """Show the agent's condition."""
        self._in_flight.set(gauges.requests_in_flight)
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
