"""Where the inputs of `tidegate-lab plan` come from: logs, reward matrices, fleet files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coordinator.estimates import ArmPrior, EstimateBook
from coordinator.fleet_config import parse_fleet
from coordinator.lab.decision_log import read_log
from coordinator.lab.log_arrays import arrays_of
from coordinator.lab.reward_matrix import read_matrix
from coordinator.lab.target_policy import estimates_of
from coordinator.lab.tradeoff_curve import PlanInputs
from coordinator.policy.base import FloatArray, IntArray
from shared.decision.types import ArmKind
from shared.errors import ConfigError

COUNT_COLUMNS = ("device_class", "task_class", "requests")


def from_log(path: Path, *, sla_floor: float, rho: float) -> PlanInputs:
    """Demand and means of a decision log; its present budget is what was spent.

    Means are of the draws: an arm's reward, cost and hits include what its fallbacks added.
    """
    log = arrays_of(read_log(path))
    estimates = estimates_of(log, use=np.ones(log.requests, dtype=np.bool_))
    return PlanInputs(
        contexts=tuple("/".join(context) for context in log.contexts),
        arms=log.arms,
        demand=np.bincount(log.context, minlength=len(log.contexts)).astype(np.float64),
        reward=estimates.reward.mean,
        cost_nanos=estimates.packing[0].mean,
        hit=estimates.covering[0].mean,
        feasible=estimates.feasible,
        sla_floor=sla_floor,
        rho=rho,
        budget_nanos=float(log.cost_nanos.sum()),
        source=str(path),
    )


def from_matrix(
    path: Path,
    *,
    columns: Sequence[str],
    class_size_min: int,
    deadline_ms: float | None,
    sla_floor: float,
    rho: float,
) -> PlanInputs:
    """Demand and means per task class of a recorded matrix of rewards.

    Raises
    ------
    ConfigError
        Also when a floor is asked for without a deadline.
    """
    if sla_floor > 0.0 and deadline_ms is None:
        raise ConfigError("--sla-floor", "needs --deadline-ms, which says what is in time")
    matrix = read_matrix(
        path, columns=columns, class_size_min=class_size_min, deadline_ms=deadline_ms
    )
    classes, group = len(matrix.classes), matrix.class_of
    reward = _means(matrix.reward, group=group, groups=classes)
    hit = None if matrix.hit is None else matrix.hit.astype(np.float64)
    return PlanInputs(
        contexts=matrix.classes,
        arms=matrix.arms,
        demand=np.bincount(group, minlength=classes).astype(np.float64),
        reward=reward,
        cost_nanos=_means(matrix.cost_nanos.astype(np.float64), group=group, groups=classes),
        hit=np.ones_like(reward) if hit is None else _means(hit, group=group, groups=classes),
        feasible=np.ones(reward.shape, dtype=np.bool_),
        sla_floor=sla_floor,
        rho=rho,
        budget_nanos=None,
        source=str(path),
    )


def from_fleet(path: Path, *, demand: Path, now_unix_ms: int) -> PlanInputs:
    """A fleet's configuration with its priors, and the demand of one window.

    Parameters
    ----------
    demand : Path
        A CSV file with the columns `device_class`, `task_class`, `requests`.
    now_unix_ms : int
        Prices must be valid beyond it.

    Raises
    ------
    ConfigError
        When a file cannot be read, or names a class that the fleet does not have.
    """
    fleet = parse_fleet(_text(path), now_unix_ms=now_unix_ms)
    contexts = [(d, t) for d in sorted(fleet.device_classes) for t in sorted(fleet.task_classes)]
    arms = tuple(sorted(fleet.arms))
    book = EstimateBook()
    for name, arm in fleet.arms.items():
        book.set_prior(
            name,
            prior=ArmPrior(
                cost_nanos=float(arm.cost_nanos),
                latency_ms=arm.latency_ms,
                reward=arm.reward,
                reward_count=arm.reward_weight,
            ),
        )
    feasible = np.array(
        [
            [
                name in fleet.device_classes[device_class].arms
                and fleet.arms[name].arm.enabled
                and not (
                    fleet.task_classes[task_class].task.privacy_local
                    and fleet.arms[name].arm.kind is ArmKind.CLOUD
                )
                for name in arms
            ]
            for device_class, task_class in contexts
        ]
    )
    estimates = book.estimates(contexts, arms=arms, feasible=feasible)
    return PlanInputs(
        contexts=tuple("/".join(context) for context in contexts),
        arms=arms,
        demand=_counts(demand, contexts=contexts),
        reward=estimates.reward.mean,
        cost_nanos=estimates.packing[0].mean,
        hit=estimates.covering[0].mean,
        feasible=feasible,
        sla_floor=fleet.sla.floor,
        rho=fleet.sla.rho,
        budget_nanos=float(fleet.budget.amount_nanos),
        source=f"{path} (priors), {demand}",
    )


def _means(values: FloatArray, *, group: IntArray, groups: int) -> FloatArray:
    """Mean of each column per group, shape (groups, A)."""
    count = np.maximum(np.bincount(group, minlength=groups), 1)
    sums = [np.bincount(group, weights=column, minlength=groups) for column in values.T]
    return np.asarray(np.stack(sums, axis=1) / count[:, None])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "is no text") from error


def _counts(path: Path, *, contexts: Sequence[tuple[str, str]]) -> FloatArray:
    found = np.zeros(len(contexts))
    place = {context: index for index, context in enumerate(contexts)}
    rows = csv.DictReader(_text(path).splitlines())
    missing = [name for name in COUNT_COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        have = ", ".join(rows.fieldnames or ()) or "none"
        raise ConfigError(str(path), f"has no column {missing[0]!r}; its columns are: {have}")
    for row in rows:
        at = f"{path}:{rows.line_num}"
        context = (row["device_class"], row["task_class"])
        if context not in place:
            raise ConfigError(at, f"the fleet has no task class {context[1]!r} on {context[0]!r}")
        try:
            requests = float(row["requests"])
        except (TypeError, ValueError):
            raise ConfigError(at, f"requests is {row['requests']!r}, not a number") from None
        if not 0.0 <= requests < np.inf:
            raise ConfigError(at, f"requests is {row['requests']!r}, expected 0 or more")
        found[place[context]] += requests
    return found
