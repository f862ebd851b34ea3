"""`python -m tests.simulation`: play many seeds and report, or show that the checkers can fail."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import structlog

from tests.simulation.mutations import MUTATIONS, Caught, catch
from tests.simulation.report import Report
from tests.simulation.shrink import shrunk
from tests.simulation.world import Result, simulate

MUTANT_SEEDS = 200
MUTANT_STEPS = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if an invariant was violated, or a mutation was not caught."""
    options = _options(arguments)
    _hush()
    if options.mutations:
        return _mutations(options)
    first = options.seed if options.seed is not None else options.first
    seeds = range(first, first + (1 if options.seed is not None else options.seeds))
    report, began_s = Report(), _cpu_s()
    report.add(_each(partial(simulate, steps=options.steps), seeds, jobs=options.jobs))
    cpu_s = _cpu_s() - began_s
    for found in report.violations[: options.shrink]:
        trace = shrunk(found["seed"], steps=options.steps, rule=found["invariant"])
        found["trace"] = [str(op) for op in trace]
    document = report.to_json(cpu_s=cpu_s)
    _say(document, options.format)
    return 1 if report.violations else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--steps", type=int, default=500, help="requests a run, before it heals")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--shrink", type=int, default=1, help="failures to find a short trace for")
    parser.add_argument("--mutations", action="store_true", help="catch every deliberate defect")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args(arguments)


def _cpu_s() -> float:
    """Seconds of processor time so far, of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _hush() -> None:
    """What the engines log of each fault is not what this program is for."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _each(run: Callable[[int], Result], seeds: Sequence[int], *, jobs: int) -> Iterator[Result]:
    if jobs == 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=_hush) as pool:
        yield from pool.map(run, seeds, chunksize=8)


def _caught(name: str, *, seeds: int, steps: int) -> Caught:
    return catch(MUTATIONS[name], seeds=seeds, steps=steps)


def _mutations(options: argparse.Namespace) -> int:
    seek = partial(_caught, seeds=MUTANT_SEEDS, steps=MUTANT_STEPS)
    rows: list[dict[str, Any]] = []
    for name in MUTATIONS:
        caught = seek(name)
        rows.append(
            {
                "mutation": name,
                "breaks": MUTATIONS[name].rule,
                "caught": caught.seed >= 0,
                "seed": caught.seed,
                "violation": caught.violation,
            }
        )
        if options.format == "text":
            seed = f"seed {caught.seed:3}" if caught.seed >= 0 else "NOT CAUGHT"
            sys.stdout.write(f"{name:38} {seed}  {caught.violation[:110]}\n")
            sys.stdout.flush()
    if options.format == "json":
        sys.stdout.write(json.dumps({"mutations": rows}, indent=1) + "\n")
    return 0 if all(row["caught"] for row in rows) else 1


def _say(document: dict[str, Any], form: str) -> None:
    if form == "json":
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    for key, value in document.items():
        if key == "violations":
            for found in value:
                sys.stdout.write(f"VIOLATION seed {found['seed']}: {found['what']}\n")
                sys.stdout.writelines(f"    {line}\n" for line in found.get("trace", ()))
        else:
            sys.stdout.write(f"{key:24} {value}\n")
    sys.stdout.write(f"violations               {len(document['violations'])}\n")


if __name__ == "__main__":
    sys.exit(main())
