"""`python -m tests.simulation`: play many seeds and report, or show that the checkers can fail."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

import structlog

from shared.garbage import collect_seldom
from tests.simulation.mutations import MUTATIONS, Caught, catch
from tests.simulation.report import Report
from tests.simulation.result import Result
from tests.simulation.shrink import shrunk
from tests.simulation.world import simulate

T = TypeVar("T")
R = TypeVar("R")
MUTANT_SEEDS = 200
MUTANT_STEPS = 200
PROGRESS_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if an invariant was violated, or a mutation was not caught."""
    options = _options(arguments)
    _prepare()
    try:
        return _mutations(options) if options.mutations else _seeds(options)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Play the production engines and books under every fault, seed by seed.",
        epilog="A run counts with 50 % paid requests, 0.2 faults a request, 95 % of the paid "
        "candidates of its healthy window served, and 90 % of what demand and budget allow spent.",
    )
    parser.add_argument("--seeds", type=int, default=20, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--steps", type=int, default=500, help="requests a run, before it heals")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--shrink", type=int, default=1, help="failures to find a short trace for")
    parser.add_argument("--mutations", action="store_true", help="catch every deliberate defect")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the deliberate defects")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    for name in options.only or ():
        if name not in MUTATIONS:
            parser.error(f"no defect {name!r}; there are {', '.join(MUTATIONS)}")
    return options


def _seeds(options: argparse.Namespace) -> int:
    first = options.seed if options.seed is not None else options.first
    seeds = range(first, first + (1 if options.seed is not None else options.seeds))
    report, began_s = Report(), _cpu_s()
    report.add(_told(_each(partial(simulate, steps=options.steps), seeds, options), len(seeds)))
    cpu_s = _cpu_s() - began_s
    for found in report.violations[: options.shrink]:
        trace = shrunk(found["seed"], steps=options.steps, rule=found["invariant"])
        found["trace"] = [str(op) for op in trace]
    _say(report, cpu_s=cpu_s, form=options.format)
    return 1 if report.failed else 0


def _cpu_s() -> float:
    """Seconds of processor time so far, of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _prepare() -> None:
    """What the engines log of each fault is not what this program is for."""
    collect_seldom()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _each(run: Callable[[T], R], items: Iterable[T], options: argparse.Namespace) -> Iterator[R]:
    jobs: int = options.jobs
    with ProcessPoolExecutor(jobs, initializer=_prepare) if jobs > 1 else nullcontext() as pool:
        yield from map(run, items) if pool is None else pool.map(run, items, chunksize=4)


def _told(results: Iterable[Result], count: int) -> Iterator[Result]:
    """Say from time to time how far it is, on a terminal's standard error."""
    shown_s, failed = time.monotonic(), 0
    for number, result in enumerate(results, 1):
        failed += result.violation is not None
        if sys.stderr.isatty() and time.monotonic() - shown_s >= PROGRESS_S:
            shown_s = time.monotonic()
            sys.stderr.write(f"{number} of {count} seeds, {failed} with a violation\n")
        yield result


def _caught(name: str) -> Caught:
    return catch(MUTATIONS[name], seeds=MUTANT_SEEDS, steps=MUTANT_STEPS)


def _mutations(options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    for caught in _each(_caught, options.only or list(MUTATIONS), options):
        rows.append(
            {
                "mutation": caught.mutation,
                "breaks": MUTATIONS[caught.mutation].rule,
                "caught": caught.seed >= 0,
                "seed": caught.seed,
                "violation": caught.violation,
            }
        )
        if options.format == "text":
            seed = f"seed {caught.seed:3}" if caught.seed >= 0 else "NOT CAUGHT"
            sys.stdout.write(f"{caught.mutation:44} {seed}  {caught.violation[:110]}\n")
            sys.stdout.flush()
    if options.format == "json":
        sys.stdout.write(json.dumps({"mutations": rows}, indent=1) + "\n")
    return 0 if all(row["caught"] for row in rows) else 1


def _say(report: Report, *, cpu_s: float, form: str) -> None:
    document = report.to_json(cpu_s=cpu_s)
    if form == "json":
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    for key, value in document.items():
        if key not in ("runs", "violations"):
            sys.stdout.write(f"{key:24} {value}\n")
    for run in report.not_counting:
        sys.stdout.write(f"DOES NOT COUNT           {run}\n")
    if report.refused_too_often:
        sys.stdout.write("VIOLATION L_6: healthy devices lacked a lease too often\n")
    for found in report.violations:
        sys.stdout.write(f"VIOLATION seed {found['seed']}: {found['what']}\n")
        sys.stdout.writelines(f"    {line}\n" for line in found.get("trace", ()))
    sys.stdout.write(f"violations               {len(report.violations)}\n")


if __name__ == "__main__":
    sys.exit(main())
