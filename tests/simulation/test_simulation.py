"""Both production engines under every fault: within budget, nothing lost, nothing doubled."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.simulation.__main__ import main
from tests.simulation.facts import Violated
from tests.simulation.mutations import MUTATIONS
from tests.simulation.result import Result
from tests.simulation.shrink import fails, shrunk
from tests.simulation.trace import DATABASE_FAULTS, DISK_FAULTS, FAULTS, make_trace
from tests.simulation.world import simulate

SEEDS = range(24)
STEPS = 300


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Some runs with all faults, played once for all tests here."""
    return [simulate(seed, steps=STEPS) for seed in SEEDS]


def test_no_fault_overspends_loses_or_counts_twice(results: list[Result]) -> None:
    """Whatever breaks, every invariant holds at every commit, and at rest."""
    found = {result.seed: str(result.violation) for result in results if result.violation}
    assert {} == found, "python -m tests.simulation --seed N --steps 300 shows the trace"


def test_most_requests_are_paid_and_much_goes_wrong(results: list[Result]) -> None:
    """A run without paid calls or without faults would prove nothing."""
    requests = sum(result.requests for result in results)
    assert sum(result.paid for result in results) >= 0.5 * requests
    assert sum(sum(result.faults.values()) for result in results) >= 0.2 * requests


def test_every_kind_of_fault_is_played(results: list[Result]) -> None:
    """The rarest ones included."""
    seen: Counter[str] = Counter()
    for result in results:
        seen += result.faults
    kinds = {*FAULTS, *DISK_FAULTS, *DATABASE_FAULTS} - {
        "provider",
        "disk_copied",
        "database_backed_up",
    }
    kinds |= {"provider_slow", "provider_aborted", "provider_dead", "provider_no_usage"}
    assert set() == kinds - set(seen)


def test_every_invariant_is_looked_at(results: list[Result]) -> None:
    """A checker that never looks never fails."""
    checked: Counter[str] = Counter()
    for result in results:
        checked += result.checked
    wanted = "A_1 C_2 C_4 C_5 C_6 D_1 I1 I2 I3 I5 I6 L_1 L_2 L_3 L_4 L_5 O_1 O_2 P1 P2 P5 S_1 S_2"
    assert all(checked[name] > 0 for name in wanted.split())


def test_a_healed_fleet_serves_and_spends(results: list[Result]) -> None:
    """At least 95 % of paid candidates are served, and 90 % of what can be spent is."""
    assert sum(r.served for r in results) >= 0.95 * sum(r.candidates for r in results)
    assert sum(r.spent_nanos for r in results) >= 0.9 * sum(r.spendable_nanos for r in results)


def test_a_seed_plays_the_same_run_again() -> None:
    """Or a failure could not be looked into."""
    first, second = simulate(3, steps=120), simulate(3, steps=120)
    assert replace(first, violation=None) == replace(second, violation=None)


def test_a_failure_is_shrunk_to_the_operations_that_matter() -> None:
    """The shortest trace is part of what a failing run prints."""
    with MUTATIONS["settle_unknown_at_zero"].applied():
        found = simulate(0, steps=60).violation
        assert isinstance(found, Violated)
        trace = shrunk(0, steps=60, rule=found.rule, runs_max=60)
        assert fails(0, trace, rule=found.rule)
    assert len(trace) < len(make_trace(0, steps=60)) / 3
    assert not fails(0, trace, rule=found.rule), "it is the defect that fails"


def test_the_report_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With the keys that other programs read."""
    status = main(["--seeds", "1", "--steps", "60", "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    assert 0 == status
    assert [] == report["violations"]
    names = {"seeds", "requests", "paid_share", "faults", "checked", "liveness", "violations"}
    assert names <= set(report)
    assert report["requests"] >= 60
