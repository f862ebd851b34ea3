"""Many runs in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.result import Result

REFUSED_PER_CANDIDATE_MAX = 0.001


@dataclass
class Report:
    """What many runs came to.

    Attributes
    ----------
    runs : list of dict
        Each run's own figures: every seed has to count by itself.
    """

    faults: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    runs: list[dict[str, Any]] = field(default_factory=list)
    violations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, results: Iterable[Result]) -> None:
        """Take runs in."""
        for result in results:
            self.faults += result.faults
            self.noted += result.noted
            self.checked += result.checked
            for name in _SUMMED:
                self.sums[name] += getattr(result, name)
            self.runs.append(_one(result))
            if result.violation is not None:
                found = result.violation
                self.violations.append(
                    {"seed": result.seed, "invariant": found.rule, "what": str(found)}
                )

    @property
    def not_counting(self) -> list[dict[str, Any]]:
        """Runs without enough paid requests, faults, answers or spending."""
        return [run for run in self.runs if run["short_of"]]

    @property
    def refused_too_often(self) -> bool:
        """Whether healthy devices lacked a lease more than once in 1,000 requests (rule L_6)."""
        return self.sums["refused_for_lease"] > max(
            1.0, REFUSED_PER_CANDIDATE_MAX * self.sums["candidates"]
        )

    @property
    def failed(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.violations or self.refused_too_often)

    def to_json(self, *, cpu_s: float) -> dict[str, Any]:
        """As it is printed; `cpu_s` is the processor time that it took."""
        sums, requests = self.sums, max(1, self.sums["requests"])
        return {
            "seeds": len(self.runs),
            "seeds_that_count": len(self.runs) - len(self.not_counting),
            "requests": sums["requests"],
            "paid_share": round(sums["paid"] / requests, 4),
            "faults_per_request": round(self.faults.total() / requests, 4),
            "faults": dict(sorted(self.faults.items())),
            "noted": dict(sorted(self.noted.items())),
            "checked": dict(sorted(self.checked.items())),
            "liveness": {
                "candidates": sums["candidates"],
                "served": sums["served"],
                "served_share": round(sums["served"] / max(1, sums["candidates"]), 4),
                "refused_for_want_of_a_lease": sums["refused_for_lease"],
                "spent_share": round(sums["spent_nanos"] / max(1, sums["spendable_nanos"]), 4),
                "records_left_in_spools": sums["records_left"],
                "unresolved_leases": sums["leases_left"],
            },
            "requests_per_s_per_core": round(sums["requests"] / max(1e-9, cpu_s), 1),
            "runs": self.runs,
            "violations": self.violations,
        }


_SUMMED = (
    "requests",
    "paid",
    "candidates",
    "served",
    "refused_for_lease",
    "spendable_nanos",
    "spent_nanos",
    "records_left",
    "leases_left",
)


def _one(result: Result) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "requests": result.requests,
        "paid_share": round(result.paid_share, 4),
        "faults_per_request": round(result.faults_per_request, 4),
        "served_share": round(result.served_share, 4),
        "spent_share": round(result.spent_share, 4),
        "short_of": list(result.short_of),
    }
