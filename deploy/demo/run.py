"""The demo: `python -m deploy.demo.run`, or with `--up` the same set left running."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from deploy.demo.answers import read_answers
from deploy.demo.board import Board
from deploy.demo.books import Books, read_books
from deploy.demo.cloud import Cloud, start_cloud, wait_cloud
from deploy.demo.drive import Drive
from deploy.demo.fleet import Fleet, start_fleet
from deploy.demo.hindsight import Replay, Yardsticks, measure
from deploy.demo.hints import hints
from deploy.demo.live import LiveView
from deploy.demo.plot import plot_run
from deploy.demo.processes import Child, Children, Command, DemoError
from deploy.demo.report import Report, build_report, write_report
from deploy.demo.settings import ROOT, DemoSettings, cloud_python
from deploy.demo.show import show_report
from deploy.demo.stream import Planned, draw_stream, write_stream
from deploy.demo.watch import Watch

ANSWERS_S_MAX: Final = 60.0
IDLE_NICE: Final = 19
PIPE_COLUMNS: Final = 120
UP_WINDOW_S: Final = 3_600
MARKER: Final = ".tidegate-demo"


@dataclass(frozen=True, kw_only=True)
class RunningSet:
    """Everything that runs: the paid cloud and the fleet."""

    cloud: Cloud
    fleet: Fleet


def start_set(settings: DemoSettings, *, children: Children, console: Console) -> RunningSet:
    """Start the cloud, the coordinator and the agents; returns when all are ready."""
    api_key = secrets.token_urlsafe(24)
    console.print("starting the paid cloud, the coordinator and three agents ...")
    cloud = start_cloud(settings, children=children, api_key=api_key)
    fleet = start_fleet(settings, children=children, cloud_url=cloud.base_url, api_key=api_key)
    wait_cloud(cloud, children=children, api_key=api_key)
    return RunningSet(cloud=cloud, fleet=fleet)


async def drive_set(
    running: RunningSet,
    stream: Sequence[Planned],
    *,
    settings: DemoSettings,
    children: Children,
    console: Console,
) -> Board:
    """Drive the set with the stream, watch it, and play the outage."""
    board = Board()
    drive = Drive(running.fleet.agent_urls, deadlines_ms=settings.deadlines_ms, board=board)
    watch = Watch(
        fleet=running.fleet,
        cloud=running.cloud,
        children=children,
        board=board,
        now_s=drive.now_s,
    )
    view = LiveView(board, settings=settings, console=console, now_s=drive.now_s)
    drive.begin()
    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(watch.sample()), tasks.create_task(view.show())]
        outage = tasks.create_task(
            watch.outage(from_s=settings.outage_from_s, length_s=settings.outage_s)
        )
        await drive.run(stream)
        await outage
        for task in beside:
            task.cancel()
    return board


def judge(
    *,
    settings: DemoSettings,
    stream: Sequence[Planned],
    answers: Path,
    board: Board,
    books: Books,
    duration_s: float,
) -> Report:
    """Compute the yardsticks and the report."""
    yardsticks: Yardsticks = measure(
        Replay(stream, read_answers(answers), settings=settings), board.records, settings=settings
    )
    return build_report(
        settings=settings, board=board, books=books, yardsticks=yardsticks, duration_s=duration_s
    )


def run_demo(settings: DemoSettings, *, console: Console) -> Report:
    """Run the whole demo; the report is written and returned.

    Raises
    ------
    DemoError
        When a process fails or is not ready in time. Every process has ended then.
    """
    began_s = time.monotonic()
    empty_state(settings.state)
    stream = draw_stream(settings)
    children = Children(logs=settings.logs)
    try:
        stream_path, answers = settings.state / "stream.jsonl", settings.state / "answers.jsonl"
        write_stream(stream_path, stream)
        running = start_set(settings, children=children, console=console)
        replay = _start_replay(stream_path, answers, children=children)
        console.print(f"driving {len(stream)} requests in {settings.drive_s} s ...")
        board = _run(
            drive_set(running, stream, settings=settings, children=children, console=console)
        )
        console.print("reading the books ...")
        books = read_books(running.fleet, running.cloud)
        replay.wait(within_s=ANSWERS_S_MAX)
        children.check()
    finally:
        children.stop_all()
    board.write(settings.state)
    report = judge(
        settings=settings,
        stream=stream,
        answers=answers,
        board=board,
        books=books,
        duration_s=time.monotonic() - began_s,
    )
    write_report(settings.report, report)
    plot_run(settings.picture, board=board, settings=settings)
    return report


def run_up(settings: DemoSettings, *, console: Console) -> None:
    """Start the set and leave it running until Ctrl-C."""
    empty_state(settings.state)
    children = Children(logs=settings.logs)
    try:
        running = start_set(settings, children=children, console=console)
        console.print(
            hints(running.fleet, logs=settings.logs), highlight=False, markup=False, soft_wrap=True
        )
        while True:
            children.check()
            time.sleep(1.0)
    finally:
        console.print("ending all processes ...")
        children.stop_all()


def empty_state(folder: Path) -> None:
    """Make the folder new; one that the demo did not make is left alone.

    Raises
    ------
    DemoError
        When the folder holds something else.
    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise DemoError(
                f"{folder} was not made by the demo: name another folder with --out, "
                "since the demo empties it"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()


def _start_replay(stream: Path, answers: Path, *, children: Children) -> Child:
    """Compute in the background what every arm answers to every request."""
    return children.start(
        Command(
            name="hindsight",
            argv=[
                *(sys.executable, "-m", "deploy.demo.answers"),
                *("--stream", str(stream), "--out", str(answers)),
            ],
            cwd=ROOT,
            nice=IDLE_NICE,
            finite=True,
        )
    )


def _run(work: Coroutine[Any, Any, Board]) -> Board:
    """Run a coroutine; of several errors the first one that says something is raised."""
    try:
        return asyncio.run(work)
    except* DemoError as group:
        errors: BaseExceptionGroup[DemoError] = group
    raise _first(errors)


def _first(group: BaseExceptionGroup[DemoError]) -> DemoError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _settings(options: argparse.Namespace) -> DemoSettings:
    state: Path = options.out.resolve()
    settings = DemoSettings(
        state=state,
        report=Path("demo-report.json").resolve(),
        picture=Path("demo-run.png").resolve(),
        cloud_python=cloud_python(options.cloud_python),
        seed=options.seed,
    )
    return replace(settings, tail_s=UP_WINDOW_S) if options.up else settings


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.run",
        description="Run Tidegate on real models, disturb it, and judge it. Writes "
        "demo-report.json and demo-run.png; ends with 0 only if every condition holds.",
    )
    parser.add_argument("--up", action="store_true", help="start the set and leave it running")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="folder for logs and state; emptied"
    )
    parser.add_argument("--seed", type=int, default=7, help="draws the stream of requests")
    parser.add_argument(
        "--format", choices=["table", "json"], default="table", help="how the report is printed"
    )
    parser.add_argument(
        "--cloud-python", type=Path, help="interpreter with llama-cpp-python[server]"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = _options(arguments)
    as_json = options.format == "json"
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=PIPE_COLUMNS)
    # A service manager's or a CI's way to end must clean up like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = _settings(options)
        if options.up:
            run_up(settings, console=console)
        report = run_demo(settings, console=console)
    except DemoError as error:
        console.print(
            f"demo: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True
        )
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            console.print("interrupted; all processes have ended")
        return 0 if options.up else 130
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show_report(report, console=console)
        console.print(f"report {settings.report}\npicture {settings.picture}", highlight=False)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
