"""`python -m tests.mutants`."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TARGETS = ROOT / "tests" / "mutants" / "targets.toml"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "tests.mutants", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_survivors_without_a_reason_fail_and_entries_that_are_killed_are_named(
    tmp_path: Path,
) -> None:
    """On real code and its real tests; everything else is killed by some test."""
    killed = "- return sum(attempt.cost_nanos for attempt in self.attempts)\n+ return None"
    path = tmp_path / "survivors.toml"
    path.write_text(
        '[[survivor]]\nmodule = "shared/decision/types.py"\nfunction = "Outcome.cost_nanos"\n'
        f"diff = '''\n{killed}\n'''\nreason = \"none\"\n"
    )
    functions = ("RankedRow.draw", "Outcome.cost_nanos")
    done = run(
        "table", "types", "--function", *functions, "--survivors", str(path), "--format", "json"
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert 1 == done.returncode
    assert {"RankedRow.draw"} == {each["function"] for each in found["unexplained"]}
    assert {"- if len(candidates) < len(weights):"} == {
        each["diff"].splitlines()[0] for each in found["unexplained"]
    }
    assert [killed] == [each["diff"] for each in found["outdated"]]
    counts = found["modules"]["shared/decision/table.py"]
    assert counts["mutants"] == counts["killed"] + counts["survived"] + counts["timeout"]
    assert counts["killed"] > 50


def test_an_unknown_module_or_function_is_a_usage_error() -> None:
    """With the modules that there are."""
    done = run("nothing")
    assert 2 == done.returncode
    assert "'nothing' is none of the modules: shared/decision/lease.py" in done.stderr
    done = run("reward", "--function", "nothing")
    assert (2, "no mutants of nothing\n") == (done.returncode, done.stderr)


def test_every_target_and_its_tests_exist() -> None:
    """A file that was moved must not silently answer for nothing."""
    groups = tomllib.loads(TARGETS.read_text())["group"]
    paths = [path for group in groups for path in (*group["modules"], *group["tests"])]
    assert [] == [path for path in paths if not (ROOT / path).is_file()]
