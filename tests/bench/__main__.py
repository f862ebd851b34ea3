"""`python -m tests.bench`: measures, prints a table, writes `bench-report.json`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, backtests, plan_of_a_fleet, reserve_and_settle

BENCHMARKS: dict[str, Callable[[], Figure]] = {
    "plan": plan_of_a_fleet,
    "gate": reserve_and_settle,
    "forecast": backtests,
}


def main() -> int:
    """Run the benchmarks; 0 if every one that has a target meets it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-report.json"))
    parser.add_argument("--only", nargs="*", choices=sorted(BENCHMARKS), default=list(BENCHMARKS))
    options = parser.parse_args()
    console = Console()
    figures = []
    for name in options.only:
        console.print(f"measuring {name} ...")
        figures.append(BENCHMARKS[name]())
    table = Table()
    for heading in ("name", "figure", "unit", "against", "target", "holds"):
        table.add_column(heading)
    for figure in figures:
        table.add_row(*(str(value) for value in asdict(figure).values()))
    console.print(table)
    options.out.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
