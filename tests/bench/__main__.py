"""`python -m tests.bench`: measures, prints a table, writes `bench-report.json`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from shared import logs
from shared.errors import ConfigError
from tests.bench import classifying, reproduction, serving, simulating
from tests.bench.evaluating import off_policy_coverage
from tests.bench.figures import Figure
from tests.bench.footprint import footprint
from tests.bench.forecasting import chooser_on_traces
from tests.bench.gate import reserve_and_settle, wait_and_durability
from tests.bench.ingestion import ingestion, sharing
from tests.bench.passthrough.compare import passthrough
from tests.bench.planning import plan_of_a_large_fleet, programme_of_one_context
from tests.bench.recovery import recovery
from tests.bench.replaying import REPLAYS, choice_figure
from tests.bench.soak import SOAK_S, soak

Benchmark = Callable[[], Figure | Iterable[Figure]]
LOG_COLUMNS = 160  # of a file, which has no width of its own
BENCHMARKS: dict[str, tuple[Benchmark, ...]] = {
    "plan": (plan_of_a_large_fleet, programme_of_one_context),
    "choice": (choice_figure,),
    "gate": (reserve_and_settle, wait_and_durability),
    "passthrough": (passthrough,),
    "serving": (
        serving.one_stream,
        serving.many_streams,
        serving.beside_a_long_prompt,
        serving.second_turn,
    ),
    "classifier": (classifying.accuracy, classifying.duration),
    "footprint": (footprint,),
    "ingestion": (ingestion, sharing),
    "recovery": (recovery,),
    "forecast": (chooser_on_traces,),
    "replay": tuple(REPLAYS.values()),
    "off_policy": (off_policy_coverage,),
    "paper": (
        reproduction.one_seed,
        reproduction.regret_iid,
        reproduction.regret_ar1,
        reproduction.worst_run,
        reproduction.violation,
        reproduction.overrun,
        reproduction.over_copac,
        reproduction.copac_as_published,
        reproduction.falls_with_the_horizon,
    ),
    "fleets": (
        simulating.fleet_regret_warm,
        simulating.fleet_regret_cold,
        simulating.fleet_sla_gap,
        simulating.fleet_stranded,
        simulating.fleet_lease_refusals,
        simulating.fleet_overrun,
        simulating.fleet_returns,
    ),
    "soak": (soak,),
}


def main() -> int:
    """Run the benchmarks; 0 if every one that has a target meets it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-report.json"))
    parser.add_argument("--only", nargs="*", choices=sorted(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument(
        "--soak-s",
        type=float,
        default=SOAK_S,
        metavar="SECONDS",
        help="how long the soak takes, %(default)g by default; 120 for a first look",
    )
    options = parser.parse_args()
    # The benchmarks' own processes are ended on the way out.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    logs.configure(format_="console", level="warning")
    console = Console(width=None if sys.stdout.isatty() else LOG_COLUMNS)
    chosen = {name: BENCHMARKS[name] for name in options.only}
    if "soak" in chosen:
        chosen["soak"] = (partial(soak, options.soak_s),)
    figures = _measure(chosen, console=console)
    table = Table()
    for heading in ("name", "figure", "unit", "against", "target", "holds"):
        table.add_column(heading)
    for figure in figures:
        table.add_row(*(str(value) for value in asdict(figure).values()))
    console.print(table)
    options.out.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    return 0 if all(figure.holds for figure in figures) else 1


def _measure(chosen: Mapping[str, tuple[Benchmark, ...]], *, console: Console) -> list[Figure]:
    """Run benchmarks one after the other, and show each figure as soon as it is known."""
    figures: list[Figure] = []
    for name, benchmarks in chosen.items():
        for number, benchmark in enumerate(benchmarks, start=1):
            console.print(f"measuring {name}, {number} of {len(benchmarks)} ...", highlight=False)
            try:
                found = benchmark()
            except ConfigError as error:
                console.print(f"  not measured: {error}", highlight=False)
                continue
            for figure in [found] if isinstance(found, Figure) else found:
                figures.append(figure)
                console.print(f"  {figure.name}: {figure.figure} {figure.unit}", highlight=False)
    return figures


if __name__ == "__main__":
    sys.exit(main())
