"""The policies that `tidegate-lab evaluate` asks about: planned from a log, or a saved table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from coordinator.estimates import ArmPrior, EstimateBook
from coordinator.lab.log_arrays import LogArrays
from coordinator.lab.off_policy import shrunk_means
from coordinator.policy import Constraints, Estimates, Forecast, Policy, Remaining, make_policy
from coordinator.policy.base import BoolArray, FloatArray, IntArray
from shared.errors import ConfigError

PLANNED: Final = ("lp_ucb", "always_local", "always_cloud", "uniform", "greedy")
"""Policies whose plan follows from estimates alone. Others depend on their own past choices."""

OBSERVED: Final = "observed"
"""What the agents would have drawn themselves while a fixed arm answered."""

PACED: Final = ("lp_ucb",)
"""Of these, the ones that plan within the budget; others stop when it is gone."""
BUDGET_STEPS = 12
_PRIOR_REWARD_COUNT = 2.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """How a target policy draws.

    Parameters
    ----------
    weights : ndarray, shape (F, X, A)
        Per fold, context and arm; they are renormalised over a request's candidates.
    expected_reward : ndarray, shape (F, X, A)
        Decides where no candidate has any weight, as on a device.
    """

    weights: FloatArray
    expected_reward: FloatArray

    def probabilities(self, log: LogArrays, *, fold: IntArray) -> FloatArray:
        """Draw probabilities of each logged request, shape (n, A): `draw_arm`'s rule.

        Rows without candidates are 0.
        """
        weights = self.weights[fold, log.context] * log.candidate
        total = weights.sum(axis=1)
        chosen = weights / np.where(total > 0.0, total, 1.0)[:, None]
        unweighted = np.flatnonzero((total <= 0.0) & log.candidate.any(axis=1))
        if unweighted.size:
            hoped = np.where(log.candidate, self.expected_reward[fold, log.context], -np.inf)
            chosen[unweighted, np.argmax(hoped[unweighted], axis=1)] = 1.0
        return np.asarray(chosen)


@dataclass(frozen=True, eq=False, kw_only=True)
class Observed(Target):
    """The agent's own decisions, also those that it did not act upon.

    `weights` are their means per context, for people to read.
    """

    def probabilities(self, log: LogArrays, *, fold: IntArray) -> FloatArray:
        """What the agent has logged, request by request."""
        return log.decided


@dataclass(frozen=True, kw_only=True)
class Question:
    """Under which limits the target policy plans.

    Attributes
    ----------
    budget_nanos : float
        For all requests of the log together.
    sla_floor, rho : float
        As in the fleet's configuration.
    """

    budget_nanos: float
    sla_floor: float
    rho: float


def planned_target(
    log: LogArrays, *, policy: str, question: Question, fold: IntArray, seed: int
) -> Target:
    """Plan by a policy, for the requests of each fold from the outcomes of all other folds.

    The plan is for the demand of the whole log and explores as much as in production. What an arm
    does is what came of drawing it first, its fallbacks included.

    Raises
    ------
    ConfigError
        When the policy is unknown or cannot be planned from a log.
    """
    if policy not in PLANNED:
        raise ConfigError(
            "--policy",
            f"{policy!r} is none of {', '.join(PLANNED)}, and no file with a table; a policy that "
            "learns as it goes can only be tried in `tidegate-lab simulate` or `replay`",
        )
    chosen = make_policy(policy)
    count = int(fold.max()) + 1
    cost = shrunk_means(
        log.cost_nanos,
        known=np.ones(log.requests, dtype=np.bool_),
        context=log.context,
        arm=log.drawn,
        fold=fold,
        shape=(count, len(log.contexts), len(log.arms)),
    )
    parts = []
    for number in range(count):
        learner = _Learner(
            log=log,
            use=fold != number,
            policy=chosen,
            question=question,
            estimates=estimates_of(log, use=fold != number),
            draw_cost=cost[number],
            seed=(seed, number),
        )
        parts.append(learner.within_budget() if policy in PACED else learner.planned())
    return Target(
        weights=np.concatenate([part.weights for part in parts]),
        expected_reward=np.concatenate([part.expected_reward for part in parts]),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Learner:
    """A policy that has seen the requests in `use`, and plans for the demand of the whole log."""

    log: LogArrays
    use: BoolArray
    policy: Policy
    question: Question
    estimates: Estimates
    draw_cost: FloatArray
    seed: tuple[int, int]

    def planned(self, share: float = 1.0) -> Target:
        """The plan for this share of the budget."""
        budget_nanos = share * self.question.budget_nanos
        plan = self.policy.plan(
            self.estimates,
            constraints=Constraints(
                budget=np.array([budget_nanos]),
                floor=np.array([self.question.sla_floor]),
                rho=np.array([self.question.rho]),
                slack_max=np.array([1.0]),
            ),
            forecast=demand_of(self.log),
            remaining=_whole_window(self.log, budget_nanos=budget_nanos),
            rng=np.random.default_rng(self.seed),
        )
        return Target(weights=plan.weights[None], expected_reward=self.estimates.reward.mean[None])

    def within_budget(self) -> Target:
        """The plan whose draws are expected to spend the budget, or as near to it as can be.

        A plan is for arms that are always there and counts costs at their lower bounds. Where
        candidates fall out, draws move to dearer arms; in production planning anew on what is
        left makes good for both. Here the budget that is planned with is cut until the requests
        seen, with the candidates that they had, would have spent no more than the budget.
        """
        target = self.planned()
        if self._spend_nanos(target) <= self.question.budget_nanos:
            return target
        low, high = 0.0, 1.0
        for _ in range(BUDGET_STEPS):
            middle = (low + high) / 2
            fits = self._spend_nanos(self.planned(middle)) <= self.question.budget_nanos
            low, high = (middle, high) if fits else (low, middle)
        return self.planned(low)

    def _spend_nanos(self, target: Target) -> float:
        """Expected spend of the whole log, extrapolated from the requests seen."""
        log = self.log
        chances = target.probabilities(log, fold=np.zeros(log.requests, dtype=np.int64))
        per_request = (chances * self.draw_cost[log.context]).sum(axis=1)
        return float(per_request[self.use].mean()) * log.requests


def estimates_of(log: LogArrays, *, use: BoolArray) -> Estimates:
    """Estimates from part of a log, by the code that learns in production.

    An arm is charged with what its draws cost, a free one with nothing even where a paid arm had
    to stand in for it: as in production, where every attempt is booked to its own arm.

    Parameters
    ----------
    use : ndarray of bool, shape (n,)
        The requests to learn from.
    """
    # What is estimated is a mean over the whole log, so nothing of it is forgotten.
    book = EstimateBook(adaptive=False)
    cost_nanos = np.where(log.free[log.drawn], 0.0, log.cost_nanos)
    use = use & (log.drawn >= 0)
    # What is not known of an arm is taken from all arms: a log states no priors.
    graded = use & log.graded & log.admitted
    reward = float(log.reward[graded].mean()) if graded.any() else 0.5
    hit = float(log.hit[use].mean()) if use.any() else 0.5
    for column, arm in enumerate(log.arms):
        drawn = log.drawn == column
        # Prices are public: of an arm that these requests never drew, the others tell the cost.
        cost = cost_nanos[drawn & use] if (drawn & use).any() else cost_nanos[drawn]
        book.set_prior(
            arm,
            prior=ArmPrior(
                cost_nanos=float(cost.mean()) if cost.size else 0.0,
                reward=reward,
                reward_count=_PRIOR_REWARD_COUNT,
                hit=hit,
            ),
        )
    for at in np.flatnonzero(use):
        device_class, task_class = log.contexts[log.context[at]]
        arm = log.arms[log.drawn[at]]
        book.record_outcome(
            device_class,
            task_class,
            arm,
            cost_nanos=int(cost_nanos[at]),
            hit=bool(log.hit[at]) if log.admitted[at] else None,
            latency_ms=None,
        )
        if graded[at]:
            chance = float(log.grading[at])
            book.record_reward(
                device_class, task_class, arm, reward=float(log.reward[at]), chance=chance
            )
    return book.estimates(log.contexts, arms=log.arms, feasible=log.feasible)


def demand_of(log: LogArrays) -> Forecast:
    """The log's own demand as if it were the forecast of a window just about to start."""
    counts = np.bincount(log.context, minlength=len(log.contexts)).astype(np.float64)
    return Forecast(
        mean=counts,
        lower=counts,
        upper=counts,
        next_slot=counts / slots_of(log),
        total_window=counts,
    )


def slots_of(log: LogArrays) -> int:
    """How many slots the log spans."""
    return int(log.slot.max() - log.slot.min()) + 1


def observed_target(log: LogArrays) -> Observed:
    """What would have been drawn while a fixed arm was told to answer.

    Raises
    ------
    ConfigError
        When every decision of the log was acted upon.
    """
    if not log.observed.any():
        raise ConfigError(
            "--policy",
            f"{OBSERVED!r} asks for decisions that were only observed, and the log holds none; "
            'an agent with mode = "observe" logs them',
        )
    mean = np.zeros((1, len(log.contexts), len(log.arms)))
    for row in range(len(log.contexts)):
        mean[0, row] = log.decided[log.context == row].mean(axis=0)
    return Observed(weights=mean, expected_reward=np.zeros_like(mean))


def saved_target(path: Path, *, log: LogArrays) -> Target:
    """A target from saved selection tables, as `tidectl table show DEVICE --format json` prints.

    Parameters
    ----------
    path : Path
        One table, or a list of tables for several device classes.

    Raises
    ------
    ConfigError
        When the file cannot be read, is no table, or lacks a context of the log.
    """
    weights = np.zeros((1, len(log.contexts), len(log.arms)))
    hoped = np.zeros_like(weights)
    rows = _table_rows(path)
    column_of = {arm: column for column, arm in enumerate(log.arms)}
    for index, (device_class, task_class) in enumerate(log.contexts):
        row = rows.get((device_class, task_class)) or rows.get((device_class, "other"))
        if row is None:
            raise ConfigError(
                str(path), f"has no row for task class {task_class!r} on {device_class!r}"
            )
        for arm, weight, reward in row:
            if arm in column_of:
                weights[0, index, column_of[arm]] = weight
                hoped[0, index, column_of[arm]] = reward
            elif weight > 0:
                raise ConfigError(
                    str(path),
                    f"gives weight to {arm!r}, which was never a candidate in the log; "
                    f"its arms are {', '.join(log.arms)}",
                )
    return Target(weights=weights, expected_reward=hoped)


def _table_rows(path: Path) -> dict[tuple[str, str], list[tuple[str, float, float]]]:
    """(device class, task class) to (arm, weight, expected reward)."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(str(path), f"is no JSON: {error}") from error
    tables: Sequence[Any] = found if isinstance(found, list) else [found]
    try:
        return {
            (str(table["device_class"]), str(row["task_class"])): [
                (str(a["arm"]), float(a["weight_ppm"]), float(a.get("expected_reward_ppm", 0)))
                for a in row["arms"]
            ]
            for table in tables
            for row in table["rows"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            str(path), f"is no selection table ({error!r}); see `tidectl table show --format json`"
        ) from error


def _whole_window(log: LogArrays, *, budget_nanos: float) -> Remaining:
    nothing = np.zeros(len(log.contexts))
    return Remaining(
        packing=np.array([budget_nanos]),
        covering_hits=np.zeros(1),
        demand_so_far=nothing,
        slot=0,
        slots_left=slots_of(log),
        slots_total=slots_of(log),
        last=None,
        last_demand=nothing,
    )
