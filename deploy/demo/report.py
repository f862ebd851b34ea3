"""The report of a run: its figures as JSON, the exit conditions, and tables for a reader."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.demo.board import Board, End, Record, hit_share, reward_mean
from deploy.demo.books import Booked, Books
from deploy.demo.checks import Check, run_checks
from deploy.demo.hindsight import Yardsticks
from deploy.demo.settings import ARMS, DemoSettings

Report = dict[str, Any]


def build_report(
    *,
    settings: DemoSettings,
    board: Board,
    books: Books,
    yardsticks: Yardsticks,
    duration_s: float,
) -> Report:
    """All figures of a run, with the exit conditions under `checks`.

    Means and shares are over the requests whose clients waited: a failure counts as reward 0
    and as a miss, a client's own abort counts as nothing.
    """
    waited = [record for record in board.records if record.end is not End.ABORTED]
    outage = board.outage
    figures: Report = {
        "seed": settings.seed,
        "requests_total": len(board.records),
        "answered_total": len(board.answered),
        "aborted_total": sum(record.end is End.ABORTED for record in board.records),
        "failed_total": sum(record.end is End.FAILED for record in board.records),
        "by_arm": _by_arm(board.answered, books.booked),
        "by_class": _by_class(waited),
        "by_device": _by(waited, lambda record: record.device),
        "reward_mean": reward_mean(waited),
        "always_local_reward_mean": yardsticks.always_local_reward_mean,
        "always_cloud_reward_mean": yardsticks.always_cloud_reward_mean,
        "lp_reward_mean": yardsticks.lp_reward_mean,
        "lp_sla_share": yardsticks.lp_sla_share,
        "lp_mixture": yardsticks.lp_mixture,
        "replay_agreement_share": yardsticks.agreement_share,
        "budget_nanos": books.budget_nanos,
        "booked_spend_nanos": books.booked_spend_nanos,
        "billed_nanos": books.billed_nanos,
        "provider_requests": books.provider_requests,
        "provider_aborted": books.provider_aborted,
        "sla_floor": settings.sla_floor,
        "sla_share": hit_share(waited),
        "sla_share_booked": _booked_hits(books.booked),
        "outcomes_spooled": books.outcomes_spooled,
        "outcomes_booked": len(books.booked),
        "spools_drained": books.drained,
        "coordinator_down_s": outage.until_s - outage.from_s if outage else 0.0,
        "answered_while_coordinator_down": board.answered_during(outage) if outage else 0,
        "duration_s": duration_s,
        "yardsticks": (
            "replayed: every arm's greedy answer to every request of the same stream; "
            "always_local = the strongest local model of each device; always_cloud = the cloud "
            "in order of arrival until the budget is gone, then always_local"
        ),
    }
    checks = run_checks(figures, answered=board.answered, booked=books.booked)
    figures["checks"] = [asdict(check) for check in checks]
    figures["ok"] = all(check.holds for check in checks)
    report: Report = rounded(figures)
    return report


def _booked_hits(booked: Sequence[Booked]) -> float:
    """The share of answers within their deadlines, as the devices measured it."""
    hits = [request.hit for request in booked if request.answered]
    return sum(hits) / len(hits) if hits else 1.0


def _by_arm(answered: Sequence[Record], booked: Sequence[Booked]) -> dict[str, dict[str, Any]]:
    spend: Counter[str] = Counter()
    for request in booked:
        spend.update(request.cost_nanos_by_arm)
    by_arm = {}
    for arm in ARMS:
        own = [record for record in answered if record.arm == arm]
        by_arm[arm] = {
            "requests": len(own),
            "mean_reward": reward_mean(own),
            "spend_nanos": spend[arm],
        }
    return by_arm


def _by_class(waited: Sequence[Record]) -> dict[str, dict[str, Any]]:
    by_class = _by(waited, lambda record: record.task_class)
    for name, figures in by_class.items():
        counts = Counter(
            record.arm for record in waited if record.task_class == name and record.arm
        )
        figures["arms"] = {arm: counts[arm] for arm in ARMS}
    return by_class


def _by(waited: Iterable[Record], key: Any) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in waited:
        groups[key(record)].append(record)
    return {
        name: {
            "requests": len(group),
            "mean_reward": reward_mean(group),
            "sla_share": hit_share(group),
        }
        for name, group in sorted(groups.items())
    }


def rounded(value: Any) -> Any:
    """Floats to six decimals, all the way down."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def write_report(path: Path, report: Report) -> None:
    """Write the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def checks_of(report: Report) -> list[Check]:
    """The exit conditions in a report."""
    return [Check(**check) for check in report["checks"]]
