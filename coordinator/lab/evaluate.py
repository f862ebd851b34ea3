"""`tidegate-lab evaluate`: what another budget, SLA or policy would have earned."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from coordinator.lab.decision_log import read_log
from coordinator.lab.evaluation import Evaluation, Measure, evaluate
from coordinator.lab.log_arrays import LogArrays, arrays_of, clusters_of, folds_of
from coordinator.lab.off_policy import Estimate
from coordinator.lab.output import (
    BUDGET_USD_MAX,
    RHO_MAX,
    Format,
    FormatOption,
    OutOption,
    SeedOption,
    make_folder,
    make_table,
    show,
    write_csv,
)
from coordinator.lab.plots import Panel, Series, save_panels
from coordinator.lab.target_policy import (
    OBSERVED,
    PLANNED,
    Question,
    Target,
    observed_target,
    planned_target,
    saved_target,
)
from shared.decision.money import NANOS_PER_DOLLAR

MEASURES = ("reward_mean", "spend_usd", "sla_share")
LABELS = {
    "dr": "(doubly robust)",
    "snips": "(SNIPS)",
    "ips": "(IPS)",
    "logged": "as logged",
    "difference": "less logged",
}
POLICY_HELP = (
    f"{', '.join(PLANNED)}, a JSON file with selection tables, or {OBSERVED}: what agents with "
    "mode = 'observe' would have drawn."
)
ESTIMATORS = ("dr", "snips", "ips", "logged", "difference")


class Cluster(StrEnum):
    """Which requests may depend on each other."""

    AUTO = "auto"
    SLOT = "slot"
    REQUEST = "request"


def command(
    log: Annotated[
        Path,
        typer.Argument(
            help="Decision log: JSON lines, gzipped or not (`tidectl decision export`)."
        ),
    ],
    policy: Annotated[
        str,
        typer.Option(help=POLICY_HELP),
    ] = "lp_ucb",
    budget_usd: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=BUDGET_USD_MAX,
            help="Dollars for all requests of the log; default: what was spent.",
        ),
    ] = None,
    sla_floor: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the requests to answer in time.")
    ] = 0.0,
    rho: Annotated[
        float,
        typer.Option(min=0.0, max=RHO_MAX, help="Reward given up per request below the floor."),
    ] = 1.0,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, help="Another deadline than each request's own.")
    ] = None,
    folds: Annotated[
        int, typer.Option(min=2, help="Parts of the log that are planned for from the others.")
    ] = 5,
    cluster: Annotated[
        Cluster, typer.Option(help="Units that are independent; auto: slots, if there are 20.")
    ] = Cluster.AUTO,
    seed: SeedOption = 0,
    format_: FormatOption = Format.TABLE,
    out: OutOption = None,
) -> None:
    """Estimate from logged decisions what another budget, SLA or policy would have earned.

    Every choice must have been possible in the log: a policy that shares less than 1 % of its
    choices with it is refused.
    """
    folder = make_folder(out)
    arrays = arrays_of(read_log(log))
    if deadline_ms is not None:
        arrays = with_deadline(arrays, deadline_ms=deadline_ms)
    spent = float(arrays.cost_nanos.sum())
    question = Question(
        budget_nanos=spent if budget_usd is None else budget_usd * NANOS_PER_DOLLAR,
        sla_floor=sla_floor,
        rho=rho,
    )
    units = clusters_of(arrays, by=cluster)
    fold = folds_of(units, folds=folds, rng=np.random.default_rng(seed))
    path = Path(policy)
    target: Target
    if policy == OBSERVED:
        target = observed_target(arrays)
    elif policy not in PLANNED and (path.suffix == ".json" or path.is_file()):
        target = saved_target(path, log=arrays)
    else:
        target = planned_target(arrays, policy=policy, question=question, fold=fold, seed=seed)
    found = evaluate(arrays, target=target, fold=fold, cluster=units)
    by_slot = units is arrays.slot
    report = report_of(found, policy=policy, question=question, folds=folds, by_slot=by_slot)
    if folder is not None:
        _write_files(folder, found=found, target=target, log=arrays)
    show(report, format_=format_, table=_table(found, policy=policy, question=question))
    if format_ is Format.TABLE:
        typer.echo(
            f"{found.requests} requests, {found.graded} rewards known, {found.clusters} "
            f"independent {'slots' if by_slot else 'requests'}; overlap {found.overlap:.1%}, "
            f"effective sample {found.reward_mean.effective_sample_size:.0f}"
        )
        for warning in report["warnings"]:
            typer.echo(f"note: {warning}")


def with_deadline(log: LogArrays, *, deadline_ms: int) -> LogArrays:
    """The same log as if every request had this deadline.

    Choices that a device made because of the deadline then stay as they were.
    """
    return replace(log, hit=(log.answered & (log.latency_ms <= deadline_ms)).astype(np.float64))


def report_of(
    found: Evaluation, *, policy: str, question: Question, folds: int, by_slot: bool
) -> dict[str, Any]:
    """The result as plain data."""
    warnings = list(found.warnings)
    if found.spend_usd.dr.low * NANOS_PER_DOLLAR > question.budget_nanos:
        warnings.append(
            f"the policy would spend more than the budget of "
            f"${question.budget_nanos / NANOS_PER_DOLLAR:.6g}; leases would stop it on the way"
        )
    return {
        "policy": policy,
        "budget_usd": question.budget_nanos / NANOS_PER_DOLLAR,
        "sla_floor": question.sla_floor,
        "rho": question.rho,
        "requests": found.requests,
        "admitted": found.admitted,
        "rewards_known": found.graded,
        "grades_missing_share": found.grades_missing,
        "folds": folds,
        "clusters": {"by": "slot" if by_slot else "request", "count": found.clusters},
        "overlap": found.overlap,
        "support": found.support,
        "weight_max": found.weight_max,
        **{name: _measure(getattr(found, name)) for name in MEASURES},
        "warnings": warnings,
    }


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        **{name: _interval(getattr(measure, name)) for name in ESTIMATORS},
        "effective_sample_size": measure.effective_sample_size,
        "weight_mean": measure.weight_mean,
    }


def _interval(estimate: Estimate) -> dict[str, float | None]:
    """An end that is not finite (a single cluster) is null: JSON has no infinity."""
    return {
        "value": estimate.value,
        "ci95_low": estimate.low if np.isfinite(estimate.low) else None,
        "ci95_high": estimate.high if np.isfinite(estimate.high) else None,
    }


def _table(found: Evaluation, *, policy: str, question: Question) -> Table:
    budget = question.budget_nanos / NANOS_PER_DOLLAR
    return make_table(
        f"{Path(policy).name}, ${budget:.6g}, SLA floor {question.sla_floor:.0%}; 95 % intervals",
        columns=("", "value", "from", "to"),
        rows=[
            (f"{name} {LABELS[estimator]}", *_cells(getattr(getattr(found, name), estimator)))
            for name in MEASURES
            for estimator in ESTIMATORS
        ],
    )


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    return f"{estimate.value:.4g}", f"{estimate.low:.4g}", f"{estimate.high:.4g}"


def _write_files(folder: Path, *, found: Evaluation, target: Target, log: LogArrays) -> None:
    rows = [
        (name, estimator, each.value, each.low, each.high)
        for name in MEASURES
        for estimator in ESTIMATORS
        for each in [getattr(getattr(found, name), estimator)]
    ]
    columns = ("measure", "estimator", "value", "ci95_low", "ci95_high")
    write_csv(folder / "evaluation.csv", columns=columns, rows=rows)
    plan = [
        (fold, *context, arm, weight)
        for fold, weights in enumerate(target.weights)
        for context, row in zip(log.contexts, weights, strict=True)
        for arm, weight in zip(log.arms, row, strict=True)
    ]
    columns = ("fold", "device_class", "task_class", "arm", "weight")
    write_csv(folder / "policy.csv", columns=columns, rows=plan)
    panels = []
    for name in MEASURES:
        series = []
        for place, estimator in enumerate(ESTIMATORS[:4]):
            each: Estimate = getattr(getattr(found, name), estimator)
            x = np.array([place - 0.3, place + 0.3])
            flat = np.ones(2)
            series.append(
                Series(
                    name=estimator,
                    x=x,
                    y=each.value * flat,
                    low=each.low * flat,
                    high=each.high * flat,
                )
            )
        panels.append(Panel(title=name, x_label="estimator", y_label=name, series=series))
    save_panels(folder / "evaluation.png", panels=panels)
