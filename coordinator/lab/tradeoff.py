"""`tidegate-lab plan`: reward, spend and SLA against the budget, and what the next dollar earns."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from coordinator.lab.output import (
    BUDGET_USD_MAX,
    RHO_MAX,
    Format,
    FormatOption,
    OutOption,
    make_folder,
    make_table,
    percent,
    show,
    write_csv,
)
from coordinator.lab.plan_remote import admin_token, from_coordinator
from coordinator.lab.plan_sources import from_fleet, from_log, from_matrix
from coordinator.lab.plots import Panel, Series, save_panels
from coordinator.lab.tradeoff_curve import Curve, PlanInputs, Point, tradeoff
from shared.clock import SystemClock
from shared.decision.money import NANOS_PER_DOLLAR
from shared.errors import ConfigError

MATRIX_COLUMNS = "prompt_id,task_class,arm,reward,cost_usd"


def command(
    trace: Annotated[
        Path | None,
        typer.Argument(
            help="A decision log (.jsonl, .jsonl.gz), a reward matrix (.csv, .csv.gz), or a fleet "
            "file (.toml, with --demand)."
        ),
    ] = None,
    from_: Annotated[
        str, typer.Option("--from", help="host:port of a running coordinator, instead of a trace.")
    ] = "",
    demand: Annotated[
        Path | None,
        typer.Option(help="CSV with device_class,task_class,requests of one window."),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Dollars, separated by commas; default: from 0 to no limit.")
    ] = "",
    budget_usd: Annotated[
        float | None,
        typer.Option(min=0.0, max=BUDGET_USD_MAX, help="The present budget, to be marked."),
    ] = None,
    sla_floor: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share to answer in time; default: the source's."),
    ] = None,
    rho: Annotated[
        float | None,
        typer.Option(min=0.0, max=RHO_MAX, help="Reward given up per request below the floor."),
    ] = None,
    columns: Annotated[
        str, typer.Option(help="A reward matrix's own column names, as in `replay`.")
    ] = MATRIX_COLUMNS,
    class_size_min: Annotated[
        int, typer.Option(min=1, help="Smaller task classes of a matrix are merged.")
    ] = 60,
    deadline_ms: Annotated[
        float | None, typer.Option(min=0.0, help="Latest answer in time, for a reward matrix.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the admin token; else TIDEGATE_ADMIN_TOKEN.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="PEM file of the coordinator's authority.")
    ] = None,
    format_: FormatOption = Format.TABLE,
    out: OutOption = None,
) -> None:
    """Show how reward, spend and SLA move with the budget, and what the next dollar earns.

    The curve is that of a plan that knows the means and the demand: what a fleet can reach once
    it has learned, not what it will do while it learns.
    """
    folder = make_folder(out)
    if (trace is None) == (not from_):
        raise ConfigError("plan", "name either a trace or a running coordinator with --from")
    if from_:
        inputs = from_coordinator(from_, token=admin_token(token_file), ca_file=ca_file)
    else:
        inputs = _from_file(
            trace,
            demand=demand,
            columns=columns,
            class_size_min=class_size_min,
            deadline_ms=deadline_ms,
            sla_floor=sla_floor or 0.0,
        )
    if sla_floor is not None:
        inputs = replace(inputs, sla_floor=sla_floor)
    if rho is not None:
        inputs = replace(inputs, rho=rho)
    if budget_usd is not None:
        inputs = replace(inputs, budget_nanos=budget_usd * NANOS_PER_DOLLAR)
    curve = tradeoff(inputs, budgets_usd=parse_budgets(budgets))
    if folder is not None:
        _write_files(folder, curve=curve)
    show(report_of(curve, inputs=inputs), format_=format_, table=_table(curve, inputs=inputs))
    if format_ is Format.TABLE:
        for line in _marks(curve, inputs=inputs):
            typer.echo(line)


def parse_budgets(text: str) -> tuple[float, ...]:
    """Dollars from a list separated by commas; empty for none.

    Raises
    ------
    ConfigError
        Naming what is no amount.
    """
    found = []
    for part in text.split(",") if text.strip() else ():
        try:
            amount = float(part)
        except ValueError:
            raise ConfigError("--budgets", f"{part.strip()!r} is no amount of dollars") from None
        if not 0.0 <= amount <= BUDGET_USD_MAX:
            raise ConfigError(
                "--budgets", f"{part.strip()!r} is not 0 to {BUDGET_USD_MAX:.0e} dollars"
            )
        found.append(amount)
    return tuple(found)


def report_of(curve: Curve, *, inputs: PlanInputs) -> dict[str, Any]:
    """The result as plain data."""
    return {
        "source": inputs.source,
        "requests": inputs.requests,
        "contexts": len(inputs.contexts),
        "arms": list(inputs.arms),
        "sla_floor": inputs.sla_floor,
        "rho": inputs.rho,
        "present_usd": curve.present_usd,
        "knee_usd": curve.knee_usd,
        "sla_minimum_usd": curve.sla_minimum_usd,
        "unconstrained_usd": curve.unconstrained_usd,
        "points": [asdict(point) for point in curve.points],
    }


def _from_file(
    trace: Path | None,
    *,
    demand: Path | None,
    columns: str,
    class_size_min: int,
    deadline_ms: float | None,
    sla_floor: float,
) -> PlanInputs:
    if trace is None:
        raise ConfigError("plan", "name a trace")
    kind = trace.with_suffix("").suffix if trace.suffix == ".gz" else trace.suffix
    if demand is not None and kind != ".toml":
        raise ConfigError("--demand", f"goes with a fleet file (.toml), not with {trace.name}")
    match kind:
        case ".jsonl" | ".ndjson" | ".json":
            return from_log(trace, sla_floor=sla_floor, rho=1.0)
        case ".csv":
            return from_matrix(
                trace,
                columns=[name.strip() for name in columns.split(",")],
                class_size_min=class_size_min,
                deadline_ms=deadline_ms,
                sla_floor=sla_floor,
                rho=1.0,
            )
        case ".toml":
            if demand is None:
                raise ConfigError("--demand", "is needed with a fleet file: requests per class")
            return from_fleet(trace, demand=demand, now_unix_ms=SystemClock().unix_ms())
        case _:
            raise ConfigError(
                str(trace), "is none of .jsonl (decision log), .csv (reward matrix), .toml (fleet)"
            )


def _table(curve: Curve, *, inputs: PlanInputs) -> Table:
    return make_table(
        f"{inputs.requests:.0f} requests of {inputs.source}, SLA floor {inputs.sla_floor:.0%}",
        columns=("budget $", "reward", "spend $", "in time", "cloud", "reward per next $", ""),
        rows=[
            (
                f"{point.budget_usd:.6g}",
                f"{point.reward_mean:.4f}",
                f"{point.spend_usd:.6g}",
                percent(point.sla_share, digits=1) + ("" if point.sla_met else " !"),
                percent(point.cloud_share, digits=1),
                f"{point.reward_per_dollar:.4g}",
                _mark(point, curve=curve, floor=inputs.sla_floor),
            )
            for point in curve.points
        ],
    )


def _mark(point: Point, *, curve: Curve, floor: float) -> str:
    marks = {"present": curve.present_usd, "knee": curve.knee_usd}
    if floor > 0.0:
        marks["SLA can be met"] = curve.sla_minimum_usd
    nano = 1.0 / NANOS_PER_DOLLAR
    return ", ".join(
        name
        for name, budget in marks.items()
        if budget is not None and abs(point.budget_usd - budget) <= nano
    )


def _marks(curve: Curve, *, inputs: PlanInputs) -> list[str]:
    """The marked budgets in words."""
    lines = [
        f"knee: ${curve.knee_usd:.6g}; beyond it a dollar earns less than the average one",
        f"more than ${curve.unconstrained_usd:.6g} is never spent",
    ]
    if inputs.sla_floor > 0.0 and curve.sla_minimum_usd is None:
        lines.append(f"no budget reaches {inputs.sla_floor:.0%} of the answers in time")
    elif inputs.sla_floor > 0.0:
        lines.append(f"the SLA floor needs at least ${curve.sla_minimum_usd:.6g}")
    if not all(point.sla_met for point in curve.points):
        lines.append("!: the floor is missed: out of reach, or dearer than `rho` allows")
    return lines


def _write_files(folder: Path, *, curve: Curve) -> None:
    rows = [tuple(asdict(point).values()) for point in curve.points]
    write_csv(folder / "tradeoff.csv", columns=tuple(asdict(curve.points[0])), rows=rows)
    budgets = np.array([point.budget_usd for point in curve.points])
    marks = {
        "present": curve.present_usd,
        "knee": curve.knee_usd,
        "SLA minimum": curve.sla_minimum_usd,
    }
    panels = []
    for name, label in (
        ("reward_mean", "reward per request"),
        ("spend_usd", "spend, $"),
        ("sla_share", "share in time"),
        ("reward_per_dollar", "reward per next dollar"),
    ):
        y = np.array([getattr(point, name) for point in curve.points])
        series = [Series(name="optimum", x=budgets, y=y, marker="." if len(y) < 40 else "")]
        span = np.array([float(y.min()), float(y.max())])
        series += [
            Series(name=mark, x=np.array([at, at]), y=span)
            for mark, at in marks.items()
            if at is not None
        ]
        panels.append(Panel(title=label, x_label="budget, $", y_label=label, series=series))
    save_panels(folder / "tradeoff.png", panels=panels)
