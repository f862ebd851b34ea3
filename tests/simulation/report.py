"""Many runs in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.world import Result


@dataclass
class Report:
    """What many runs came to.

    Attributes
    ----------
    counted : int
        Runs with enough paid requests and enough faults.
    """

    seeds: int = 0
    counted: int = 0
    requests: int = 0
    paid: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    candidates: int = 0
    served: int = 0
    spendable_nanos: int = 0
    spent_nanos: int = 0
    violations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, results: Iterable[Result]) -> None:
        """Take runs in."""
        for result in results:
            self.seeds += 1
            self.counted += result.counts
            self.requests += result.requests
            self.paid += result.paid
            self.faults += result.faults
            self.checked += result.checked
            self.candidates += result.candidates
            self.served += result.served
            self.spendable_nanos += result.spendable_nanos
            self.spent_nanos += result.spent_nanos
            if result.violation is not None:
                found = result.violation
                self.violations.append(
                    {"seed": result.seed, "invariant": found.rule, "what": str(found)}
                )

    def to_json(self, *, cpu_s: float) -> dict[str, Any]:
        """As it is printed; `cpu_s` is the processor time that it took."""
        requests = max(1, self.requests)
        return {
            "seeds": self.seeds,
            "seeds_that_count": self.counted,
            "requests": self.requests,
            "paid_share": round(self.paid / requests, 4),
            "faults_per_request": round(sum(self.faults.values()) / requests, 4),
            "faults": dict(sorted(self.faults.items())),
            "checked": dict(sorted(self.checked.items())),
            "liveness": {
                "candidates": self.candidates,
                "served": self.served,
                "served_share": round(self.served / max(1, self.candidates), 4),
                "spent_share": round(self.spent_nanos / max(1, self.spendable_nanos), 4),
            },
            "requests_per_s_per_core": round(self.requests / max(1e-9, cpu_s), 1),
            "violations": self.violations,
        }
