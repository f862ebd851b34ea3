"""Circuit breakers: an arm that keeps failing rests for a while, then gets one trial."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Breaker:
    failures: int = 0
    open_until_ms: float = 0.0


class ArmHealth:
    """One breaker per arm.

    Parameters
    ----------
    threshold : int
        Failures in a row that open a breaker.
    rest_ms, rest_ms_max : float
        The first rest; it doubles with every further failure up to the maximum.
    """

    def __init__(
        self, *, threshold: int = 3, rest_ms: float = 2_000.0, rest_ms_max: float = 60_000.0
    ) -> None:
        self._threshold = threshold
        self._rest_ms = rest_ms
        self._rest_ms_max = rest_ms_max
        self._breakers: dict[str, _Breaker] = {}

    @property
    def any_failed(self) -> bool:
        """Whether any arm has failed since it last answered."""
        return bool(self._breakers)

    def failed(self, arm: str, *, now_ms: float) -> None:
        """Count a failure; at the threshold the arm rests."""
        breaker = self._breakers.setdefault(arm, _Breaker())
        breaker.failures += 1
        excess = breaker.failures - self._threshold
        if excess >= 0:
            rest = min(self._rest_ms * 2.0 ** min(excess, 16), self._rest_ms_max)
            breaker.open_until_ms = now_ms + rest

    def answered(self, arm: str) -> None:
        """The arm works: its breaker closes."""
        self._breakers.pop(arm, None)

    def resting_ms(self, arm: str, *, now_ms: float) -> float:
        """How long the arm still rests; 0 when it may be tried."""
        breaker = self._breakers.get(arm)
        return max(0.0, breaker.open_until_ms - now_ms) if breaker else 0.0
