"""`tidegate-lab replay`: what a policy earns on recorded answers under a hard budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from coordinator.lab.arm_prices import read_prices
from coordinator.lab.output import (
    Format,
    FormatOption,
    JobsOption,
    OutOption,
    SeedOption,
    make_folder,
    make_table,
    percent,
    run_jobs,
    show,
    write_csv,
)
from coordinator.lab.plots import Panel, Series, save_panels
from coordinator.lab.replay_run import OrderResult, ReplaySettings, run_order
from coordinator.lab.reward_matrix import Hindsight, RewardMatrix, best_in_hindsight, read_matrix
from coordinator.policy import policy_names
from shared.decision.money import NANOS_PER_DOLLAR, TOKENS_PER_MTOK, dollars
from shared.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplayTask:
    """One order to play; it travels to another process."""

    matrix: RewardMatrix
    settings: ReplaySettings
    order: int
    seed: int


def command(
    rewards: Annotated[
        Path, typer.Argument(help="CSV file, gzipped or not, a row per prompt and arm.")
    ],
    prices: Annotated[
        Path,
        typer.Option(help="Dollars per million tokens by arm: JSON, TOML or CSV."),
    ],
    budget_per_prompt: Annotated[
        str, typer.Option(help="Dollars per prompt; times the prompts it is the hard budget.")
    ],
    columns: Annotated[
        str,
        typer.Option(
            help="The file's own names for prompt_id,task_class,arm,reward,cost_usd "
            "and, if it has one, latency_ms."
        ),
    ] = "prompt_id,task_class,arm,reward,cost_usd",
    class_size_min: Annotated[
        int, typer.Option(min=1, help="Smaller task classes are merged into `other`.")
    ] = 60,
    tokens_prior: Annotated[
        int, typer.Option(min=1, help="Tokens that one answer is taken to need beforehand.")
    ] = 400,
    orders: Annotated[int, typer.Option(min=1, help="Random orders of the prompts.")] = 10,
    policy: Annotated[str, typer.Option(help="The policy to play.")] = "lp_ucb",
    slot_prompts: Annotated[int, typer.Option(min=1, help="Most prompts between two plans.")] = 10,
    deadline_ms: Annotated[
        float | None, typer.Option(min=0.0, help="Latest answer in time; needs a latency column.")
    ] = None,
    sla_floor: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the prompts to answer in time.")
    ] = 0.0,
    seed: SeedOption = 0,
    jobs: JobsOption = 1,
    format_: FormatOption = Format.TABLE,
    out: OutOption = None,
) -> None:
    """Stream recorded answers in random orders under a hard budget.

    Before a row is played only the arms' prices, one token prior and the number of prompts are
    known; its cost and reward are revealed for the arm that was played.
    """
    if policy not in policy_names():
        raise ConfigError("--policy", f"is {policy!r}, expected one of {', '.join(policy_names())}")
    if sla_floor > 0.0 and deadline_ms is None:
        raise ConfigError("--sla-floor", "needs --deadline-ms, which says what is in time")
    folder = make_folder(out)
    matrix = read_matrix(
        rewards,
        columns=[name.strip() for name in columns.split(",")],
        class_size_min=class_size_min,
        deadline_ms=deadline_ms,
    )
    settings = ReplaySettings(
        budget_nanos=_budget_nanos(budget_per_prompt, prompts=len(matrix.prompts)),
        prior_nanos=tuple(
            -(-price * tokens_prior // TOKENS_PER_MTOK)
            for price in read_prices(prices, arms=matrix.arms)
        ),
        policy=policy,
        slot_prompts=slot_prompts,
        sla_floor=sla_floor,
    )
    results = replay(matrix, settings=settings, orders=orders, seed=seed, jobs=jobs)
    best = best_in_hindsight(
        matrix,
        budget_nanos=settings.budget_nanos,
        sla_floor=sla_floor,
        sla_rho=settings.sla_rho,
    )
    report = summarise(results, matrix=matrix, settings=settings, best=best)
    if folder is not None:
        _write_files(folder, results=results, matrix=matrix, settings=settings, best=best)
    show(report, format_=format_, table=_table(report))


def replay(
    matrix: RewardMatrix, *, settings: ReplaySettings, orders: int, seed: int = 0, jobs: int = 1
) -> list[OrderResult]:
    """Play several orders of a matrix, each with a policy that starts from nothing."""
    return run_jobs(
        play_task,
        tasks=[
            ReplayTask(matrix=matrix, settings=settings, order=order, seed=seed)
            for order in range(orders)
        ],
        jobs=jobs,
        description="orders",
    )


def play_task(task: ReplayTask) -> OrderResult:
    """Play one order."""
    return run_order(task.matrix, settings=task.settings, order=task.order, seed=task.seed)


def summarise(
    results: Sequence[OrderResult],
    *,
    matrix: RewardMatrix,
    settings: ReplaySettings,
    best: Hindsight,
) -> dict[str, object]:
    """Return the report as plain data: dollars, and means per prompt over all orders.

    ``spent_usd_max`` and ``reward_worst_order`` are of the worst order; the ``best_*`` are what
    the same money could have earned at most, had every cost and reward been known.
    """
    prompts = len(matrix.prompts) * len(results)
    reward = [result.reward_mean for result in results]
    return {
        "policy": settings.policy,
        "orders": len(results),
        "prompts": len(matrix.prompts),
        "classes": len(matrix.classes),
        "budget_usd": settings.budget_nanos / NANOS_PER_DOLLAR,
        "spent_usd_max": max(result.spent_nanos for result in results) / NANOS_PER_DOLLAR,
        "reward_mean": float(np.mean(reward)),
        "reward_worst_order": min(reward),
        "answered_share": sum(result.answered for result in results) / prompts,
        "sla_share": None if matrix.hit is None else sum(r.hits for r in results) / prompts,
        "best_mixture": best.mixture,
        "best_per_class": best.per_class,
        "best_per_prompt": best.per_prompt,
    }


def _budget_nanos(text: str, *, prompts: int) -> int:
    """The whole budget, rounded down to a nano-dollar."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 < amount < 1_000_000:
        raise ConfigError("--budget-per-prompt", f"is {text!r}, expected dollars, more than 0")
    return int(amount * prompts * NANOS_PER_DOLLAR)


def _table(report: Mapping[str, object]) -> Table:
    """What was earned beside what could have been, a figure per line."""
    lines: list[tuple[str, str]] = [
        ("mean reward", f"{report['reward_mean']:.4f}"),
        ("  of the worst order", f"{report['reward_worst_order']:.4f}"),
        ("best, one mixture for all", f"{report['best_mixture']:.4f}"),
        ("best, one per task class", f"{report['best_per_class']:.4f}"),
        ("best, one per prompt", f"{report['best_per_prompt']:.4f}"),
        ("budget, $", f"{report['budget_usd']:.6f}"),
        ("most spent, $", f"{report['spent_usd_max']:.6f}"),
        ("answered", percent(float(str(report["answered_share"])))),
    ]
    if report["sla_share"] is not None:
        lines.append(("answered in time", percent(float(str(report["sla_share"])))))
    title = f"{report['policy']}: {report['prompts']} prompts, {report['orders']} orders"
    return make_table(title, columns=("figure", "value"), rows=lines)


def _write_files(
    folder: Path,
    *,
    results: Sequence[OrderResult],
    matrix: RewardMatrix,
    settings: ReplaySettings,
    best: Hindsight,
) -> None:
    """Orders, choices and curves as CSV; the curves also as a picture."""
    write_csv(
        folder / "orders.csv",
        columns=("order", "reward_mean", "spent_usd", "answered", "hits", "refused", "cut"),
        rows=[
            (r.order, r.reward_mean, dollars(r.spent_nanos), r.answered, r.hits, r.refused, r.cut)
            for r in results
        ],
    )
    chosen = np.sum([result.chosen for result in results], axis=0)
    write_csv(
        folder / "choices.csv",
        columns=("task_class", "arm", "prompts_share", "reward_mean", "cost_usd_mean"),
        rows=[
            (
                name,
                arm,
                chosen[row, column] / max(1, chosen[row].sum()),
                matrix.reward[matrix.class_of == row, column].mean(),
                matrix.cost_nanos[matrix.class_of == row, column].mean() / NANOS_PER_DOLLAR,
            )
            for row, name in enumerate(matrix.classes)
            for column, arm in enumerate(matrix.arms)
        ],
    )
    write_csv(
        folder / "curves.csv",
        columns=("order", "prompts", "reward_mean", "spent_usd"),
        rows=[(result.order, *point) for result in results for point in result.curve.tolist()],
    )
    save_panels(folder / "replay.png", panels=_panels(results, settings=settings, best=best))


def _panels(
    results: Sequence[OrderResult], *, settings: ReplaySettings, best: Hindsight
) -> list[Panel]:
    curves = np.stack([result.curve for result in results])
    x, ends = curves[0, :, 0], curves[0, [0, -1], 0]

    def line(name: str, value: float) -> Series:
        return Series(name=name, x=ends, y=np.full(2, value))

    def band(column: int) -> Series:
        values = curves[:, :, column]
        return Series(
            name=settings.policy,
            x=x,
            y=values.mean(axis=0),
            low=values.min(axis=0),
            high=values.max(axis=0),
        )

    return [
        Panel(
            title="Mean reward so far",
            x_label="prompts",
            y_label="reward per prompt",
            series=[
                band(1),
                line("best mixture", best.mixture),
                line("best per class", best.per_class),
                line("best per prompt", best.per_prompt),
            ],
        ),
        Panel(
            title="Money spent",
            x_label="prompts",
            y_label="dollars",
            series=[band(2), line("budget", settings.budget_nanos / NANOS_PER_DOLLAR)],
        ),
    ]
