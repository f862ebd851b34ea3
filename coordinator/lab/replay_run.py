"""One pass over a reward matrix in one order, with the policies and estimates of production."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.estimates import ArmPrior, Confidence, Context, EstimateBook
from coordinator.lab.replay_purse import Purse
from coordinator.lab.reward_matrix import RewardMatrix
from coordinator.policy import (
    Constraints,
    Estimates,
    Forecast,
    Plan,
    Policy,
    Remaining,
    make_policy,
)
from coordinator.policy.base import FloatArray, IntArray

DEVICE_CLASS = "replay"
PAPER_DELTA = 0.01
CURVE_POINTS = 200
SHORT_STREAM = Confidence(level=0.1, growth=0.1, range_weight=0.5)
"""Narrow but for the term that guards against a small sample: grades of language models are
mostly good and now and then very bad, so three bad ones in a row must not close an arm for good."""
SLOT_GROWTH = 8
"""A slot is as long as this share of what was played, up to ``slot_prompts``."""


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """How a matrix is replayed.

    Parameters
    ----------
    budget_nanos : int
        For the whole stream.
    prior_nanos : tuple of int, length A
        Price times token prior of each arm: all that is known of a cost beforehand.
    policy : str
    slot_prompts : int
        Most prompts between two plans.
    sla_floor, sla_rho : float
        Share of the prompts to be answered in time, and the reward given up per prompt below it.
    epsilon_ppm, explore_share : int, float
        As in ``Constraints``. A recorded matrix does not drift, so no propensity floor has to pay
        for the dearest arm; and where every arm costs money there is no free one to explore
        beside, so what may be spent on exploration is bounded by the hold and the programme alone.
    confidence : Confidence
        Width of the bounds.
    reward, reward_count, cost_count : float
        As in ``ArmPrior``, the same for every arm.
    """

    budget_nanos: int
    prior_nanos: tuple[int, ...]
    policy: str = "lp_ucb"
    slot_prompts: int = 10
    sla_floor: float = 0.0
    sla_rho: float = 1.0
    epsilon_ppm: int = 0
    explore_share: float = 1.0
    confidence: Confidence = SHORT_STREAM
    reward: float = 0.5
    reward_count: float = 2.0
    cost_count: float = 8.0


@dataclass(frozen=True, eq=False, kw_only=True)
class OrderResult:
    """What one order came to.

    Parameters
    ----------
    order : int
    reward_mean : float
        Per prompt; a prompt without an answer earned 0.
    spent_nanos, answered, hits : int
    refused : int
        Prompts whose drawn arm did not fit the money and that another one answered.
    cut : int
        Calls that reached their limit; not answered.
    arms : ndarray of int, shape (N,)
        The arm that each prompt of the matrix was given to; -1 where no money was left.
    chosen : ndarray of int, shape (X, A)
        Prompts per class and arm.
    curve : ndarray, shape (points, 3)
        Prompts so far, their mean reward, dollars spent.
    """

    order: int
    reward_mean: float
    spent_nanos: int
    answered: int
    hits: int
    refused: int
    cut: int
    arms: IntArray
    chosen: IntArray
    curve: FloatArray


def order_of(prompts: int, *, order: int, seed: int) -> IntArray:
    """The prompts' places in the order drawn from ``(seed, order)``, shape (prompts,)."""
    return np.random.default_rng([seed, order]).permutation(prompts)


def run_order(
    matrix: RewardMatrix, *, settings: ReplaySettings, order: int, seed: int
) -> OrderResult:
    """Stream the prompts in the order drawn from ``(seed, order)``.

    Parameters
    ----------
    matrix : RewardMatrix
        Of a prompt, only the chosen arm's entries are read.
    settings : ReplaySettings
    order, seed : int
    """
    stream = order_of(len(matrix.prompts), order=order, seed=seed)
    replay = _Replay(matrix, settings=settings, rng=np.random.default_rng([seed, order, 1]))
    curve = []
    step = max(1, len(stream) // CURVE_POINTS)
    for at, prompt in enumerate(stream):
        replay.play(int(prompt))
        if (at + 1) % step == 0 or at + 1 == len(stream):
            spent = settings.budget_nanos - replay.purse.left_nanos
            curve.append((at + 1.0, replay.reward / (at + 1), spent / 1e9))
    return OrderResult(
        order=order,
        reward_mean=replay.reward / len(stream),
        spent_nanos=settings.budget_nanos - replay.purse.left_nanos,
        answered=replay.answered,
        hits=replay.hits,
        refused=replay.refused,
        cut=replay.cut,
        arms=replay.arms,
        chosen=replay.chosen,
        curve=np.array(curve),
    )


class _Replay:
    """The state of one pass. What it may know of the stream beforehand is its length."""

    def __init__(
        self, matrix: RewardMatrix, *, settings: ReplaySettings, rng: np.random.Generator
    ) -> None:
        self.purse = Purse(settings.budget_nanos, prior_nanos=settings.prior_nanos)
        self.reward, self.answered, self.hits, self.refused, self.cut = 0.0, 0, 0, 0, 0
        self.arms = np.full(len(matrix.prompts), -1, dtype=np.int64)
        self.chosen = np.zeros((len(matrix.classes), len(matrix.arms)), dtype=np.int64)
        self._matrix, self._settings, self._rng = matrix, settings, rng
        self._contexts: list[Context] = [(DEVICE_CLASS, name) for name in matrix.classes]
        self._policy: Policy = make_policy(settings.policy, **self._policy_options())
        # The order is drawn at random, so whatever looks like a change is chance.
        self._book = EstimateBook(confidence=settings.confidence, adaptive=False)
        for arm, cost in zip(matrix.arms, settings.prior_nanos, strict=True):
            self._book.set_prior(
                arm,
                prior=ArmPrior(
                    cost_nanos=float(cost),
                    cost_count=settings.cost_count,
                    reward=settings.reward,
                    reward_count=settings.reward_count,
                ),
            )
        self._played, self._plan_at, self._slot_prompts = 0, 0, 0
        self._seen = np.zeros(len(matrix.classes))
        self._last_seen = np.zeros(len(matrix.classes))
        self._slot = 0
        self._last: Plan | None = None

    def play(self, prompt: int) -> None:
        """Choose an arm, pay it, learn from it."""
        plan = self._last
        if plan is None or self._played == self._plan_at:
            self._slot_prompts = self._next_slot_prompts()
            self._plan_at += self._slot_prompts
            plan = self._last = self._plan()
        matrix, context = self._matrix, int(self._matrix.class_of[prompt])
        arm, limit = self._choose(plan.weights[context])
        self._played += 1
        self._seen[context] += 1.0
        if not limit and self._settings.prior_nanos[arm]:
            return  # No money is left: the call is not made.
        cost = int(matrix.cost_nanos[prompt, arm])
        paid = self.purse.pay(arm, cost_nanos=cost, limit_nanos=limit)
        self.arms[prompt] = arm
        self.chosen[context, arm] += 1
        answered = paid == cost
        hit = None if matrix.hit is None else bool(matrix.hit[prompt, arm]) and answered
        self.answered += answered
        self.cut += not answered
        self.hits += bool(hit)
        where = (*self._contexts[context], matrix.arms[arm])
        self._book.record_outcome(*where, cost_nanos=paid, hit=hit, answered=answered)
        if answered:
            reward = float(matrix.reward[prompt, arm])
            self.reward += reward
            self._book.record_reward(*where, reward=reward)

    def _next_slot_prompts(self) -> int:
        """Prompts of the slot about to start: few at first, when each one teaches much."""
        grown = self._played // SLOT_GROWTH
        return max(1, min(grown, self._settings.slot_prompts))

    def _choose(self, weights: FloatArray) -> tuple[int, int]:
        """Draw an arm that the purse can pay; without one, the cheapest. Returns its limit too."""
        after = len(self._matrix.prompts) - self._played - 1
        weights = weights.copy()
        first = True
        while (total := float(weights.sum())) > 0.0:
            reached = np.cumsum(weights) / total
            arm = int(np.searchsorted(reached, self._rng.random(), side="right"))
            arm = min(arm, weights.size - 1)
            limit = self.purse.limit_nanos(arm, prompts_after=after)
            if limit > 0:
                return arm, limit
            self.refused += first
            first = False
            weights[arm] = 0.0
        return self.purse.cheapest, self.purse.left_nanos

    def _plan(self) -> Plan:
        settings, matrix = self._settings, self._matrix
        total = len(matrix.prompts)
        left = total - self._played
        # One prompt of each class is assumed before any was seen.
        share = (self._seen + 1.0) / (self._seen + 1.0).sum()
        estimates = self._estimates(after=left - 1)
        covering = np.full(1, settings.sla_floor)
        slots_left = -(-left // self._slot_prompts)
        plan = self._policy.plan(
            estimates,
            constraints=Constraints(
                budget=np.array([float(settings.budget_nanos)]),
                floor=covering,
                rho=np.array([settings.sla_rho]),
                slack_max=np.array([0.5]),
                epsilon_ppm=settings.epsilon_ppm,
                explore_share=settings.explore_share,
            ),
            forecast=Forecast(
                mean=left * share,
                lower=left * share,
                upper=left * share,
                next_slot=min(left, self._slot_prompts) * share,
                total_window=self._seen + left * share,
            ),
            remaining=Remaining(
                packing=np.array([float(self.purse.left_nanos)]),
                covering_hits=np.array([float(self.hits)]),
                demand_so_far=self._seen.copy(),
                slot=self._slot,
                slots_left=slots_left,
                slots_total=self._slot + slots_left,
                last=self._last,
                last_demand=self._seen - self._last_seen,
            ),
            rng=self._rng,
        )
        self._last_seen = self._seen.copy()
        self._slot += 1
        return plan

    def _estimates(self, *, after: int) -> Estimates:
        arms = self._matrix.arms
        payable = [self.purse.limit_nanos(arm, prompts_after=after) > 0 for arm in range(len(arms))]
        feasible = np.tile(np.array(payable, dtype=np.bool_), (len(self._contexts), 1))
        if self._settings.policy != "copac_ucb":
            return self._book.estimates(self._contexts, arms=arms, feasible=feasible)
        return self._book.paper_estimates(
            self._contexts,
            arms=arms,
            delta=PAPER_DELTA,
            cost_scale=self._cost_scale(),
            feasible=feasible,
        )

    def _policy_options(self) -> dict[str, float]:
        return {"cost_scale": self._cost_scale()} if self._settings.policy == "copac_ucb" else {}

    def _cost_scale(self) -> float:
        """The dearest arm's stated cost: COPAC-UCB wants costs in [0, 1]."""
        return float(max([1, *self._settings.prior_nanos]))
