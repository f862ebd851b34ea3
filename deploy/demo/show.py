"""A report as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.demo.report import Report, checks_of
from shared.decision.money import NANOS_PER_DOLLAR


def dollars(nanos: float) -> str:
    """Nano-dollars for a reader."""
    return f"${nanos / NANOS_PER_DOLLAR:.6f}"


def show_report(report: Report, *, console: Console) -> None:
    """Print the tables of a report."""
    console.print()
    console.print(_summary(report), highlight=False)
    console.print(_arms(report))
    console.print(_groups("task class", report["by_class"]))
    console.print(_groups("device", report["by_device"]))
    console.print(_rewards(report))
    console.print(_checks(report))


def _summary(report: Report) -> str:
    return (
        f"{report['requests_total']} requests in {report['duration_s']:.0f} s: "
        f"{report['answered_total']} answered, {report['aborted_total']} aborted by their "
        f"clients, {report['failed_total']} failed; {report['sla_share']:.1%} within their "
        f"deadlines (floor {report['sla_floor']:.0%})\n"
        f"budget {dollars(report['budget_nanos'])}, billed {dollars(report['billed_nanos'])}, "
        f"booked {dollars(report['booked_spend_nanos'])}"
    )


def _arms(report: Report) -> Table:
    table = _table("arm", "requests", "share", "mean reward", "spend")
    total = max(report["answered_total"], 1)
    for arm, numbers in report["by_arm"].items():
        table.add_row(
            arm,
            f"{numbers['requests']}",
            f"{numbers['requests'] / total:.1%}",
            f"{numbers['mean_reward']:.3f}",
            dollars(numbers["spend_nanos"]),
        )
    return table


def _groups(title: str, groups: Mapping[str, Mapping[str, Any]]) -> Table:
    arms = list(next(iter(groups.values()), {}).get("arms", {}))
    table = _table(title, "requests", "mean reward", "within deadline", *arms)
    for name, numbers in groups.items():
        table.add_row(
            name,
            f"{numbers['requests']}",
            f"{numbers['mean_reward']:.3f}",
            f"{numbers['sla_share']:.1%}",
            *(f"{numbers['arms'][arm]}" for arm in arms),
        )
    return table


def _rewards(report: Report) -> Table:
    table = _table("mean reward on this stream", "")
    rows = {
        "best mixture in hindsight": "lp_reward_mean",
        "Tidegate": "reward_mean",
        "always cloud until the budget is gone": "always_cloud_reward_mean",
        "always the best local model": "always_local_reward_mean",
    }
    for name, key in rows.items():
        table.add_row(name, f"{report[key]:.4f}")
    return table


def _checks(report: Report) -> Table:
    table = Table("condition", "measured", "")
    for check in checks_of(report):
        mark = "[green]holds[/]" if check.holds else "[bold red]FAILS[/]"
        table.add_row(check.name, check.figure, mark)
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
