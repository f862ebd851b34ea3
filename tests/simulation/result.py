"""What one run came to, and whether it counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.facts import Violated

PAID_SHARE_MIN = 0.5
FAULTS_PER_REQUEST_MIN = 0.2
SERVED_SHARE_MIN = 0.95
SPENT_SHARE_MIN = 0.9


@dataclass
class Result:
    """What a run came to.

    Attributes
    ----------
    requests, paid : int
        All of them, and those that a provider has billed.
    noted : Counter of str
        What is worth knowing and no fault.
    played : int
        Operations of the trace that were begun.
    candidates, served : int
        Paid requests in the healthy window with budget left for them, and those that a paid arm
        answered.
    refused_for_lease : int
        Candidates that fell back, or were refused, for want of a lease.
    spendable_nanos, spent_nanos : int
        What the healthy window's demand and budget allow, and what was billed in it.
    records_left, leases_left : int
        What no spool has got rid of at the end, and what no device has closed.
    """

    seed: int
    requests: int = 0
    paid: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    played: int = 0
    candidates: int = 0
    served: int = 0
    refused_for_lease: int = 0
    spendable_nanos: int = 0
    spent_nanos: int = 0
    records_left: int = 0
    leases_left: int = 0
    violation: Violated | None = None

    @property
    def paid_share(self) -> float:
        """Of all requests."""
        return self.paid / max(1, self.requests)

    @property
    def faults_per_request(self) -> float:
        """Of all kinds together."""
        return sum(self.faults.values()) / max(1, self.requests)

    @property
    def served_share(self) -> float:
        """Of the candidates."""
        return self.served / max(1, self.candidates)

    @property
    def spent_share(self) -> float:
        """Of what demand and budget allow."""
        return self.spent_nanos / max(1, self.spendable_nanos)

    @property
    def short_of(self) -> tuple[str, ...]:
        """Why it does not count; empty if it does."""
        found = {
            "paid_share": self.paid_share < PAID_SHARE_MIN,
            "faults_per_request": self.faults_per_request < FAULTS_PER_REQUEST_MIN,
            "served_share": self.served_share < SERVED_SHARE_MIN,
            "spent_share": self.spent_share < SPENT_SHARE_MIN,
            "violation": self.violation is not None,
        }
        return tuple(name for name, short in found.items() if short)
