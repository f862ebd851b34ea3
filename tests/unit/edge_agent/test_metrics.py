"""What the agent shows to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from edge_agent.adapters.metrics import AgentGauges, AgentMetrics
from shared.decision.key_budget import KeyBudgetStatus
from shared.decision.types import (
    Attempt,
    Fallout,
    Feedback,
    JudgeCall,
    Outcome,
    RequestStatus,
    SettleKind,
)
from shared.limits import ARMS_MAX, TASK_CLASSES_MAX


def outcome(*, task_class: str = "code", arm: str = "gpt") -> Outcome:
    """A request that a paid arm answered after a local one had failed."""
    return Outcome(
        request_id="req-1",
        task_class=task_class,
        arrived_unix_ms=0,
        status=RequestStatus.OK,
        arm=arm,
        drawn_arm="llama",
        propensity_ppm=500_000,
        table_version=7,
        reason="fallback",
        forced=False,
        attempts=(
            Attempt("llama", 10, error="worker_crashed"),
            Attempt(arm, 90, "", 3, 2_000_000, 1_500_000, SettleKind.REPORTED),
        ),
        fallouts=(Fallout("tiny", "not_loaded"),),
        prompt_tokens=20,
        completion_tokens=5,
        ttft_ms=40,
        latency_ms=100,
        deadline_ms=500,
        hit=True,
    )


def test_an_outcome_is_counted_everywhere_it_belongs() -> None:
    """Requests, attempts, fallouts, times, tokens and money, in base units."""
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    for _ in range(2):
        metrics.observe(outcome())
    labels = {"task_class": "code", "arm": "gpt"}
    value = registry.get_sample_value
    assert value("tidegate_requests_total", {**labels, "status": "ok"}) == 2
    assert value("tidegate_attempts_total", {"arm": "llama", "result": "worker_crashed"}) == 2
    assert value("tidegate_attempts_total", {"arm": "gpt", "result": "ok"}) == 2
    assert value("tidegate_fallouts_total", {"arm": "tiny", "reason": "not_loaded"}) == 2
    assert value("tidegate_deadline_hits_total", {"task_class": "code"}) == 2
    assert value("tidegate_request_latency_seconds_sum", labels) == 0.2
    assert value("tidegate_request_ttft_seconds_sum", labels) == 0.08
    assert value("tidegate_spend_dollars_total", {"arm": "gpt", "tag": "none"}) == 0.003
    assert value("tidegate_spend_dollars_total", {"arm": "llama", "tag": "none"}) is None
    assert value("tidegate_tokens_total", {"arm": "gpt", "direction": "prompt"}) == 40
    assert value("tidegate_tokens_total", {"arm": "gpt", "direction": "completion"}) == 10


def test_a_time_falls_into_every_bucket_that_holds_it() -> None:
    """Buckets are cumulative, a bound belongs to its bucket, and `+Inf` holds all."""
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    for latency_ms in (50, 51, 100, 400_000):
        metrics.observe(outcome()._replace(latency_ms=latency_ms))

    def held(le: str) -> float | None:
        labels = {"task_class": "code", "arm": "gpt", "le": le}
        return registry.get_sample_value("tidegate_request_latency_seconds_bucket", labels)

    assert [1, 3, 3, 3, 4] == [held(le) for le in ("0.05", "0.1", "1.0", "300.0", "+Inf")]
    labels = {"task_class": "code", "arm": "gpt"}
    assert 4 == registry.get_sample_value("tidegate_request_latency_seconds_count", labels)


def test_labels_stay_bounded() -> None:
    """Values beyond the fleet's limits are counted together, so nobody can blow up the series."""
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    beyond = 5
    names = [("code", f"arm-{number}") for number in range(ARMS_MAX + beyond)]
    names += [(f"class-{number}", "arm-0") for number in range(TASK_CLASSES_MAX + beyond)]
    for task_class, arm in names:
        ended = outcome(task_class=task_class, arm=arm)
        metrics.observe(ended._replace(attempts=(), fallouts=()))
    text = metrics.render()[0].decode()
    requests = [line for line in text.splitlines() if line.startswith("tidegate_requests_total{")]
    arms = {line.split('arm="')[1].split('"')[0] for line in requests}
    classes = {line.split('task_class="')[1].split('"')[0] for line in requests}
    assert (len(arms), len(classes)) == (ARMS_MAX + 1, TASK_CLASSES_MAX + 1)
    assert {"other"} == arms & classes


def test_a_refused_request_has_no_arm() -> None:
    """An empty label reads `none`."""
    registry = CollectorRegistry()
    AgentMetrics(registry).observe(outcome(arm=""))
    labels = {"task_class": "code", "arm": "none", "status": "ok"}
    assert registry.get_sample_value("tidegate_requests_total", labels) == 1


def test_gauges_show_the_condition_in_base_units() -> None:
    """Money in dollars, the link as 1 or 0."""
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    metrics.set_gauges(
        AgentGauges(
            requests_in_flight=2,
            spool_records=3,
            link_connected=True,
            table_version=7,
            lease_available_nanos=2_500_000_000,
            lease_reserved_nanos=500_000_000,
        )
    )
    value = registry.get_sample_value
    assert value("tidegate_requests_in_flight") == 2
    assert value("tidegate_spool_records") == 3
    assert value("tidegate_link_connected") == 1
    assert value("tidegate_table_version") == 7
    assert value("tidegate_lease_available_dollars") == 2.5
    assert value("tidegate_lease_reserved_dollars") == 0.5


def test_two_instances_do_not_share_anything() -> None:
    """Each has its own registry; there is no global one."""
    first, second = AgentMetrics(CollectorRegistry()), AgentMetrics(CollectorRegistry())
    first.observe(outcome())
    assert b"tidegate_requests_total{" in first.render()[0]
    assert b"tidegate_requests_total{" not in second.render()[0]


def test_money_is_counted_by_the_tags_of_the_keys_alone() -> None:
    """What a client adds to a tag, or makes up without a key, is no label of its own."""
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry, tags=["shop"])
    for tag in ("shop", "shop/checkout", "made-up", ""):
        metrics.observe(outcome()._replace(tag=tag))
    value = registry.get_sample_value
    spent = {
        tag: value("tidegate_spend_dollars_total", {"arm": "gpt", "tag": tag})
        for tag in ("shop", "other", "none", "shop/checkout", "made-up")
    }
    expected = {"shop": 0.003, "other": 0.0015, "none": 0.0015}
    assert {**expected, "shop/checkout": None, "made-up": None} == spent


def test_what_judges_cost_and_who_graded_is_counted() -> None:
    """A judge's call is no request of anybody's; what clients call themselves is no label."""
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry)
    attempt = Attempt("judge", 5, "", 1, 2_000_000, 1_500_000, SettleKind.REPORTED)
    metrics.observe(JudgeCall("r1.judge", attempt))
    for source in ("client", "judge:judge", "grader:sums", "signal:retry", "me:myself", "judge"):
        metrics.observe(Feedback("r1", "other", "gpt", 0, source, 0))
    value = registry.get_sample_value
    assert 0.0015 == value("tidegate_spend_dollars_total", {"arm": "judge", "tag": "none"})
    assert value("tidegate_requests_total", {"arm": "judge", "task_class": "other"}) is None
    counted = {
        name: value("tidegate_grades_total", {"source": name})
        for name in ("client", "judge", "grader", "signal", "me")
    }
    assert {"client": 3, "judge": 1, "grader": 1, "signal": 1, "me": None} == counted


def test_a_keys_budget_is_shown_in_parts() -> None:
    """Its limit, and what of it is settled or reserved."""
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry, tags=["shop"])
    budget = KeyBudgetStatus("shop", 4 * 10**9, 10**9, 5 * 10**8, 0)
    metrics.set_gauges(AgentGauges(0, 0, True, 0, 0, 0, key_budgets=(budget,)))
    for part, dollars in (("limit", 4.0), ("settled", 1.0), ("reserved", 0.5)):
        labels = {"tag": "shop", "part": part}
        assert dollars == registry.get_sample_value("tidegate_key_budget_dollars", labels)
    metrics.set_gauges(AgentGauges(0, 0, True, 0, 0, 0))
    labels = {"tag": "shop", "part": "limit"}
    assert registry.get_sample_value("tidegate_key_budget_dollars", labels) is None, "it has gone"
