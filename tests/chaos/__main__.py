"""`python -m tests.chaos`: break everything for a while, then see whether the books are right."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos.faults import KINDS
from tests.chaos.report import Report
from tests.chaos.run import Settings, run

REPORT = Path("chaos-report.json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the faults and the load")
    parser.add_argument("--seconds", type=float, default=300.0, help="of faults and load")
    parser.add_argument("--budget-usd", default="0.22", help="what all paid calls may cost")
    parser.add_argument("--agents", type=int, default=3, choices=(2, 3))
    parser.add_argument("--clients", type=int, default=4, help="concurrent clients at each agent")
    parser.add_argument(
        "--without", nargs="*", default=(), choices=list(KINDS), help="kinds of faults to leave out"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--out", type=Path, default=REPORT, help="where the report goes")
    parser.add_argument("--keep", action="store_true", help="keep books and logs, and say where")
    return parser.parse_args()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _text(value: object) -> str:
    """One figure for people."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
    if isinstance(value, list):
        return "".join(f"\n  {each}" for each in value) or "none"
    return str(value)


def _show(report: Report) -> str:
    lines = [f"{name:13} {_text(value)}" for name, value in report.json().items()]
    return "\n".join(lines)


def main() -> int:
    """Run, write the report, and say in the exit code whether every figure holds."""
    options = _arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-chaos-"))
    settings = Settings(
        folder=folder,
        seed=options.seed,
        seconds=options.seconds,
        budget_usd=options.budget_usd,
        agents=options.agents,
        clients=options.clients,
        without=tuple(options.without),
    )
    try:
        report = run(settings, say=lambda text: print(text, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("stopped; every process has ended", file=sys.stderr)
        return 130
    finally:
        if options.keep:
            print(f"books and logs are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    options.out.write_text(json.dumps(report.json(), indent=2) + "\n")
    print(json.dumps(report.json()) if options.format == "json" else _show(report))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
