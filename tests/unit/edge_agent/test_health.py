"""Circuit breakers."""

from __future__ import annotations

from edge_agent.health import ArmHealth


def failing(times: int, *, now_ms: float = 0.0) -> ArmHealth:
    """An arm that failed so many times in a row, just now."""
    health = ArmHealth(threshold=3, rest_ms=100.0, rest_ms_max=350.0)
    for _ in range(times):
        health.failed("a", now_ms=now_ms)
    return health


def test_an_arm_rests_after_failures_in_a_row() -> None:
    """Two failures are bad luck; the third opens the breaker."""
    assert 0.0 == failing(2).resting_ms("a", now_ms=0.0)
    assert 100.0 == failing(3).resting_ms("a", now_ms=0.0)
    assert 0.0 == failing(3).resting_ms("b", now_ms=0.0)


def test_after_its_rest_an_arm_may_be_tried() -> None:
    """The rest runs down."""
    assert 40.0 == failing(3).resting_ms("a", now_ms=60.0)
    assert 0.0 == failing(3).resting_ms("a", now_ms=100.0)


def test_the_rest_doubles_up_to_its_maximum() -> None:
    """An arm that fails its trial rests longer."""
    rests = [failing(times).resting_ms("a", now_ms=0.0) for times in (4, 5, 100)]
    assert [200.0, 350.0, 350.0] == rests


def test_an_answer_closes_the_breaker() -> None:
    """Failures count in a row only."""
    health = failing(3)
    health.answered("a")
    health.failed("a", now_ms=0.0)
    assert 0.0 == health.resting_ms("a", now_ms=0.0)
