"""`tidegate-lab simulate`: a whole fleet through the engines that run in production."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from coordinator.lab.decision_log import write_log
from coordinator.lab.output import (
    Format,
    FormatOption,
    JobsOption,
    OutOption,
    SeedOption,
    make_folder,
    make_table,
    percent,
    progress,
    run_jobs,
    show,
    write_csv,
)
from coordinator.lab.plots import Panel, Series, save_panels
from coordinator.lab.simulation.admissible import Admissibility, admissibility
from coordinator.lab.simulation.logbook import Logbook
from coordinator.lab.simulation.report import Curves, Figures, judge, summary
from coordinator.lab.simulation.schema import Scenario, load_scenario, scenario_path
from coordinator.lab.simulation.world import World
from coordinator.policy import policy_names
from shared.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run: everything it depends on."""

    path: str
    seed: int
    warm_windows: int
    log_to: str
    policy: str = ""


def command(
    scenario: Annotated[str, typer.Argument(help="A TOML file, or a shipped scenario's name.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs, each with a seed of its own.")] = 1,
    seed: SeedOption = 0,
    warm_windows: Annotated[
        int, typer.Option(min=0, max=20, help="Windows played before the judged one.")
    ] = 0,
    policy: Annotated[str, typer.Option(help="Plan with this policy instead.")] = "",
    jobs: JobsOption = 1,
    check: Annotated[bool, typer.Option("--check", help="Only tell whether it can judge.")] = False,
    out: OutOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Simulate a fleet and compare it with a clairvoyant.

    Devices and the coordinator decide with the engines that run in production; only the clock, the
    network, the disks, the models and the provider are simulated.
    """
    if policy and policy not in policy_names():
        raise ConfigError("--policy", f"is {policy!r}, expected one of {', '.join(policy_names())}")
    path = scenario_path(scenario)
    loaded = load_scenario(path)
    found = admissibility(loaded, folder=path.parent)
    if check:
        _show_check(loaded, found, format_=format_)
    if found.problems:
        raise ConfigError(str(path), "is not admissible: " + "; ".join(found.problems))
    if check:
        return
    folder = make_folder(out)
    tasks = [
        Task(
            path=str(path),
            seed=seed + number,
            warm_windows=warm_windows,
            log_to=str(folder / "decisions.jsonl") if folder is not None and not number else "",
            policy=policy,
        )
        for number in range(seeds)
    ]
    if len(tasks) == 1:
        total = _expected_requests(loaded, windows=warm_windows + 1)
        with progress("requests", total=total) as advance:
            runs = [_run(tasks[0], advance=advance)]
    else:
        runs = run_jobs(_run, tasks=tasks, jobs=jobs, description="runs")
    result = {
        "scenario": loaded.scenario.name,
        "warm_windows": warm_windows,
        "policy": policy or str(loaded.policy.get("kind", "lp_ucb")),
        "optimum": asdict(found),
        **summary([figures for figures, _ in runs]),
    }
    if folder is not None:
        _write(folder, scenario=loaded, runs=runs)
    _show(result, format_=format_)


def _run(task: Task, *, advance: Any = None) -> tuple[Figures, Curves]:
    path = Path(task.path)
    scenario = load_scenario(path)
    if task.policy:
        own = scenario.policy if scenario.policy.get("kind") == task.policy else {}
        scenario = scenario.model_copy(update={"policy": {**own, "kind": task.policy}})
    logbook = Logbook(grading_share=scenario.grading.share) if task.log_to else None
    world = World(
        scenario,
        seed=task.seed,
        windows=task.warm_windows + 1,
        folder=path.parent,
        logbook=logbook,
    )
    tally = world.run(progress=advance)
    if logbook is not None:
        write_log(Path(task.log_to), decisions=logbook.decisions())
    return judge(scenario, tally=tally, seed=task.seed)


def _expected_requests(scenario: Scenario, *, windows: int) -> int:
    rate = sum(sum(task.requests.values()) for task in scenario.task_classes.values())
    return round(rate * scenario.slots * windows)


def _show_check(scenario: Scenario, found: Admissibility, *, format_: Format) -> None:
    rows = [(f"served by {arm}", percent(share)) for arm, share in found.arm_shares.items()]
    rows += [
        ("served by local arms", percent(found.local_share)),
        ("in time", percent(found.sla_share)),
        ("budget spent", percent(found.spend_share)),
        ("price of a dollar", f"{found.prices['budget'] * 1e9:.4f}"),
        ("price of a request in time", f"{found.prices['sla']:.4f}"),
        ("price of a worker-second", f"{found.prices['capacity'] * 1e3:.4f}"),
        ("admissible", "; ".join(found.problems) or "yes"),
    ]
    table = make_table(
        f"{scenario.scenario.name}: the optimum", columns=("what", "figure"), rows=rows
    )
    payload = {
        "scenario": scenario.scenario.name,
        **asdict(found),
        "admissible": not found.problems,
    }
    show(payload, format_=format_, table=table)


def _show(result: dict[str, Any], *, format_: Format) -> None:
    back = result["return_share_worst"]
    changes = len(result["runs"][0]["return_shares"])
    rows = [
        ("penalised regret", percent(result["penalised_regret_share"])),
        ("  95 % bound", percent(result["penalised_regret_share_ci95_high"])),
        ("  worst run", percent(result["penalised_regret_share_worst"])),
        ("regret of the reward alone", percent(result["regret_share"])),
        ("in time", percent(result["sla_share"])),
        ("in time, clairvoyant", percent(result["sla_share_clairvoyant"])),
        ("budget spent", percent(result["spend_share"])),
        ("overrun, nano-dollars", str(result["overrun_nanos_max"])),
        ("stranded in leases at the end", percent(result["stranded_share"])),
        ("requests that lacked a lease", percent(result["lease_lost_share"])),
        ("  while the budget lasted", percent(result["lease_refused_share"])),
        ("requests simulated a second", f"{result['requests_per_s']:.0f}"),
    ]
    if changes:
        told = "not before the window ended" if back is None else percent(back)
        rows.append(("back at the optimum after, of the window", told))
    first = result["runs"][0]
    rows += [
        (f"served by {arm} (clairvoyant)", f"{percent(share)} ({percent(theirs)})")
        for (arm, share), theirs in zip(
            first["arm_shares"].items(), first["arm_shares_clairvoyant"].values(), strict=True
        )
    ]
    title = f"{result['scenario']}, {result['seeds']} seeds, {result['warm_windows']} warm windows"
    show(result, format_=format_, table=make_table(title, columns=("what", "figure"), rows=rows))


def _write(folder: Path, *, scenario: Scenario, runs: list[tuple[Figures, Curves]]) -> None:
    """The figures of every run, and the first run's curves as CSV and picture."""
    figures = [asdict(found) for found, _ in runs]
    flat = [name for name, value in figures[0].items() if isinstance(value, int | float)]
    write_csv(
        folder / "runs.csv", columns=flat, rows=[[run[name] for name in flat] for run in figures]
    )
    curves = runs[0][1]
    slots = np.arange(len(curves.requests), dtype=np.float64)
    columns = ("requests", "reward", "reward_clairvoyant", "hits", "spend")
    write_csv(
        folder / "slots.csv",
        columns=("slot", *columns),
        rows=zip(slots.astype(int), *(getattr(curves, name) for name in columns), strict=True),
    )
    came = np.maximum(1.0, np.cumsum(curves.requests))
    save_panels(
        folder / "simulation.png",
        title=scenario.scenario.name,
        panels=[
            Panel(
                title="Reward per request",
                x_label="slot",
                y_label="expected reward, running mean",
                series=[
                    Series(name="tidegate", x=slots, y=np.cumsum(curves.reward) / came),
                    Series(
                        name="clairvoyant", x=slots, y=np.cumsum(curves.reward_clairvoyant) / came
                    ),
                ],
            ),
            Panel(
                title="Money",
                x_label="slot",
                y_label="dollars spent",
                series=[Series(name="tidegate", x=slots, y=np.cumsum(curves.spend) / 1e9)],
            ),
            Panel(
                title="Deadline",
                x_label="slot",
                y_label="share in time, running mean",
                series=[Series(name="tidegate", x=slots, y=np.cumsum(curves.hits) / came)],
            ),
        ],
    )
