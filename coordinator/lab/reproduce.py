"""`tidegate-lab reproduce`: the paper's experiment, every policy on paired seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import scipy
import typer
from rich.table import Table

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
from coordinator.lab.paper import (
    CLAIRVOYANT,
    NULL_ARM,
    WITH_FORECAST,
    PaperRun,
    check_policy,
    play,
)
from coordinator.lab.paper_workload import (
    COST_UNIT_NANOS,
    DemandForecast,
    PaperScenario,
    Workload,
    draw_workload,
    forecast_demand,
    load_scenario,
)
from coordinator.lab.plots import Panel, Series, save_panels
from coordinator.policy.base import FloatArray

DEFAULT_POLICIES: Final = ("lp_ucb", "copac_ucb", "ad_ucb", "pd_bwk", "sw_ucb", "greedy", "uniform")
CURVE_POINTS: Final = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class Score:
    """What one run is judged by.

    Attributes
    ----------
    policy : str
    seed : int
    regret_share, regret : float
        The fluid optimum less the *expected* reward of what was played, as a share and in reward.
    realised_regret : float
        The same with the rewards that came out: it measures luck as well.
    violation : float
        Answers in time that the floor asks for and that are missing, as a share of the demand.
    overrun : float
        Cost units beyond the budget.
    halted_at : int
        The slot from which on nothing was served; the horizon if that did not happen.
    slots : ndarray, shape (N,)
        Slots after which the curves are sampled.
    demand_error, regret_curve, violation_curve : ndarray, shape (N,)
        |Qhat - Q| / Q (NaN without an estimate); regret so far; violation of the demand so far.
    """

    policy: str
    seed: int
    regret_share: float
    regret: float
    realised_regret: float
    violation: float
    overrun: float
    halted_at: int
    slots: FloatArray
    demand_error: FloatArray
    regret_curve: FloatArray
    violation_curve: FloatArray


@dataclass(frozen=True, kw_only=True)
class PolicySummary:
    """One policy over all seeds: the command's JSON; see ``Score`` for the quantities.

    Attributes
    ----------
    regret_share_ci95_high : float
        Upper end of the 95 % interval of the mean (Student's t).
    regret_share_worst : float
        Of the worst seed.
    """

    regret_share: float
    regret_share_ci95_high: float
    regret_share_worst: float
    regret_mean: float
    realised_regret_mean: float
    violation_mean: float
    overrun_max: float
    halted_at_mean: float


def score(run: PaperRun, *, workload: Workload, seed: int) -> Score:
    """Judge one run against the fluid optimum of its workload."""
    scenario, demand = workload.scenario, workload.demand.astype(np.float64)
    total = max(float(demand.sum()), 1.0)
    best = workload.optimum_rate * demand
    per_task = np.where(run.arm == NULL_ARM, 0.0, scenario.reward[run.arm])
    lost = np.cumsum(best - per_task * run.served)
    so_far = np.cumsum(demand)
    missing = np.maximum(scenario.floor * so_far - np.cumsum(run.hits), 0.0)
    at = np.unique(np.linspace(0, demand.size - 1, CURVE_POINTS).round().astype(np.int64))
    optimum = max(float(best.sum()), 1e-9)
    return Score(
        policy=run.policy,
        seed=seed,
        regret_share=float(lost[-1]) / optimum,
        regret=float(lost[-1]),
        realised_regret=float(best.sum() - run.reward.sum()),
        violation=float(missing[-1]) / total,
        overrun=run.overrun_nanos / COST_UNIT_NANOS,
        halted_at=run.halted_at,
        slots=(at + 1).astype(np.float64),
        demand_error=np.abs(run.demand_estimate[at] - total) / total,
        regret_curve=lost[at],
        violation_curve=missing[at] / np.maximum(so_far[at], 1.0),
    )


def summarise(scores: Sequence[Score]) -> PolicySummary:
    """Summarise one policy's runs, at least one."""
    shares = np.array([one.regret_share for one in scores])
    mean, high = float(shares.mean()), float(shares.mean())
    if shares.size > 1:
        spread = float(shares.std(ddof=1)) / float(np.sqrt(shares.size))
        high = mean + float(scipy.special.stdtrit(shares.size - 1, 0.975)) * spread
    return PolicySummary(
        regret_share=mean,
        regret_share_ci95_high=high,
        regret_share_worst=float(shares.max()),
        regret_mean=float(np.mean([one.regret for one in scores])),
        realised_regret_mean=float(np.mean([one.realised_regret for one in scores])),
        violation_mean=float(np.mean([one.violation for one in scores])),
        overrun_max=float(max(one.overrun for one in scores)),
        halted_at_mean=float(np.mean([one.halted_at for one in scores])),
    )


def reproduce(
    scenario: PaperScenario,
    *,
    policies: Sequence[str],
    seeds: int,
    first_seed: int = 0,
    jobs: int = 1,
) -> dict[str, list[Score]]:
    """Play every policy and the clairvoyant on the same seeds.

    Parameters
    ----------
    policies : sequence of str
        Without the clairvoyant, which is always added.
    seeds, first_seed : int
        Seeds ``first_seed`` to ``first_seed + seeds - 1``.
    jobs : int
        Processes. The result does not depend on it.

    Returns
    -------
    dict
        One score per seed for each policy, the clairvoyant first.

    Raises
    ------
    ConfigError
        For an unknown policy.
    """
    names = list(dict.fromkeys([CLAIRVOYANT, *policies]))
    for name in names:
        check_policy(name)
    wanted = range(first_seed, first_seed + seeds)
    forecasts: list[DemandForecast] | None = None
    if WITH_FORECAST & set(names):
        with progress(f"{scenario.name}: forecasts", total=scenario.slots) as advance:
            forecasts = forecast_demand(scenario, seeds=wanted, advance=advance)
    # Seed by seed, so that a process meets the same workload again and need not draw it anew.
    tasks = [
        _Task(
            scenario=scenario,
            name=name,
            seed=seed,
            forecast=forecasts[at] if forecasts and name in WITH_FORECAST else None,
        )
        for at, seed in enumerate(wanted)
        for name in sorted(names, key=lambda name: name != "lp_ucb")
    ]
    done = run_jobs(_play_one, tasks=tasks, jobs=jobs, description=scenario.name)
    return {name: [one for one in done if one.policy == name] for name in names}


def command(
    scenario: Annotated[
        str, typer.Argument(help="paper-iid, paper-ar1, or the path of such a scenario file.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Paired seeds per policy.")] = 20,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            help="Policies, separated by commas or given repeatedly; the clairvoyant is added.",
            show_default=",".join(DEFAULT_POLICIES),
        ),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Slots; the budget per slot stays. Default: the scenario's."),
    ] = None,
    seed: SeedOption = 0,
    jobs: JobsOption = 1,
    format_: FormatOption = Format.TABLE,
    out: OutOption = None,
) -> None:
    """Replay the paper's experiment: regret, violation and demand error of every policy."""
    given = load_scenario(scenario)
    if horizon is not None:
        given = given.resized(horizon)
    names = [
        name.strip() for text in policies or DEFAULT_POLICIES for name in text.split(",") if name
    ]
    folder = make_folder(out)
    scores = reproduce(given, policies=names, seeds=seeds, first_seed=seed, jobs=jobs)
    summaries = {name: summarise(found) for name, found in scores.items()}
    if folder is not None:
        write_files(folder, scenario=given.name, scores=scores, summaries=summaries)
    payload = {
        "scenario": given.name,
        "seeds": seeds,
        "policies": {name: asdict(summary) for name, summary in summaries.items()},
    }
    title = f"{given.name}, {seeds} seeds, {given.slots} slots"
    show(payload, format_=format_, table=_table(title, summaries=summaries))


def write_files(
    folder: Path,
    *,
    scenario: str,
    scores: dict[str, list[Score]],
    summaries: dict[str, PolicySummary],
) -> None:
    """Write summary, runs and mean curves as CSV, and the three panels as PNG."""
    columns = list(PolicySummary.__dataclass_fields__)
    write_csv(
        folder / f"{scenario}-summary.csv",
        columns=["policy", *columns],
        rows=[[name, *asdict(summary).values()] for name, summary in summaries.items()],
    )
    columns = [name for name in Score.__dataclass_fields__ if name not in _CURVES]
    write_csv(
        folder / f"{scenario}-runs.csv",
        columns=columns,
        rows=[
            [getattr(one, name) for name in columns] for found in scores.values() for one in found
        ],
    )
    write_csv(
        folder / f"{scenario}-curves.csv",
        columns=["policy", "slot", *_CURVES[1:]],
        rows=[
            [name, int(slot), *("" if np.isnan(value) else value for value in values)]
            for name, found in scores.items()
            for slot, *values in zip(*(_mean(found, curve) for curve in _CURVES), strict=True)
        ],
    )
    save_panels(folder / f"{scenario}.png", panels=_panels(scores), title=scenario)


_CURVES: Final = ("slots", "demand_error", "regret_curve", "violation_curve")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Task:
    """One run, to be sent to another process."""

    scenario: PaperScenario
    name: str
    seed: int
    forecast: DemandForecast | None


def _play_one(task: _Task) -> Score:
    """One run, in whichever process."""
    run = play(task.name, scenario=task.scenario, seed=task.seed, forecast=task.forecast)
    workload = draw_workload(task.scenario, seed=task.seed)
    return score(run, workload=workload, seed=task.seed)


def _mean(scores: Sequence[Score], curve: str) -> FloatArray:
    """A curve's mean over the seeds, shape (N,)."""
    return np.asarray(np.mean([getattr(one, curve) for one in scores], axis=0))


def _panels(scores: dict[str, list[Score]]) -> list[Panel]:
    """The paper's three panels: means over the seeds, shaded from the best seed to the worst."""

    def lines(curve: str) -> list[Series]:
        found = []
        for name, runs in scores.items():
            values = np.stack([getattr(one, curve) for one in runs])
            if not np.isnan(values).all():
                found.append(
                    Series(
                        name=name,
                        x=runs[0].slots,
                        y=values.mean(axis=0),
                        low=values.min(axis=0),
                        high=values.max(axis=0),
                    )
                )
        return found

    # The regret comes first: its panel has every policy, and so the complete legend.
    return [
        Panel(
            title="Cumulative regret (expected reward)",
            x_label="slot",
            y_label="reward",
            series=lines("regret_curve"),
        ),
        Panel(
            title="Violation of the latency floor",
            x_label="slot",
            y_label="share of the demand so far",
            series=lines("violation_curve"),
        ),
        Panel(
            title="Error of the demand forecast",
            x_label="slot",
            y_label="|Qhat - Q| / Q",
            series=lines("demand_error"),
        ),
    ]


def _table(title: str, *, summaries: dict[str, PolicySummary]) -> Table:
    columns = ("policy", "regret", "95 % high", "worst", "reward lost", "violation", "halted at")
    return make_table(
        title,
        columns=columns,
        rows=[
            (
                name,
                percent(one.regret_share, digits=3),
                percent(one.regret_share_ci95_high, digits=3),
                percent(one.regret_share_worst, digits=3),
                f"{one.regret_mean:.0f}",
                percent(one.violation_mean, digits=3),
                f"{one.halted_at_mean:.0f}",
            )
            for name, one in summaries.items()
        ],
    )
