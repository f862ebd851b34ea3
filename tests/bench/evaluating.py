"""Whether the intervals of `tidegate-lab evaluate` hold: simulated logs whose truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.lab.evaluation import Evaluation, evaluate
from coordinator.lab.log_arrays import LogArrays, arrays_of, clusters_of, folds_of
from coordinator.lab.off_policy import Estimate
from coordinator.lab.target_policy import Question, Target, planned_target
from coordinator.policy.base import BoolArray, FloatArray, IntArray
from shared.decision.logged import LoggedDecision
from shared.decision.money import PPM
from shared.decision.types import RequestStatus
from tests.bench.figures import Figure

ARMS = ("cloud_l", "cloud_s", "local_l", "local_s")
CONTEXTS = tuple((device, task) for device in ("jetson", "pi") for task in ("code", "sort"))
MEASURES = ("reward_mean", "spend_usd", "sla_share")
ESTIMATORS = ("dr", "snips", "ips")
TARGETS = ("near", "far", "planned")
CONTEXT_SHARES = np.array([0.4, 0.3, 0.2, 0.1])
AVAILABLE = np.array([0.95, 0.9, 0.85, 0.95])
"""How often each arm is a candidate; without any, the last one is."""
FAILURE = 0.06
"""How often a drawn arm fails; the next candidate in the order of `ARMS` answers."""
SLOT_SHOCK = 0.12
"""Largest common shift of a slot's probabilities; means keep this far from 0 and 1."""
LOGS = 200


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """True means, shape (X, A), and how often grades are taken, shape (X,)."""

    reward: FloatArray
    hit: FloatArray
    cost_nanos: FloatArray
    grading: FloatArray

    def mean_of(self, name: str, target: Target, *, fold_shares: FloatArray) -> float:
        """True mean per request of one of `MEASURES` under a target, by enumeration."""
        values = {"reward_mean": self.reward, "sla_share": self.hit}.get(name)
        total = 0.0
        for present in itertools.product((False, True), repeat=len(ARMS)):
            candidate = np.array(present)
            chance = float(np.prod(np.where(candidate, AVAILABLE, 1.0 - AVAILABLE)))
            if not candidate.any():
                candidate = np.array([False, False, False, True])
            stand_in = _stand_ins(candidate)
            for at, share in enumerate(CONTEXT_SHARES):
                weights = np.einsum("f,fa->a", fold_shares, _drawn(target, at, candidate))
                for arm in np.flatnonzero(candidate):
                    other = stand_in[arm]
                    if values is None:
                        # A failed attempt costs nothing; its stand-in does.
                        own, spare = self.cost_nanos[at, arm], self.cost_nanos[at, other]
                    else:
                        own, spare = values[at, arm], values[at, other]
                    found = own if other == arm else (1 - FAILURE) * own + FAILURE * spare
                    total += chance * share * weights[arm] * found
        return total


def make_world(seed: int) -> World:
    """A world in which dearer arms are better, by how much depends on the context."""
    rng = np.random.default_rng([seed, 1])
    shape, low = (len(CONTEXTS), len(ARMS)), SLOT_SHOCK
    level = np.array([0.85, 0.7, 0.55, 0.4])
    return World(
        reward=np.clip(level + rng.normal(0.0, 0.1, shape), low, 1.0 - low),
        hit=np.clip(np.array([0.85, 0.9, 0.6, 0.8]) + rng.normal(0.0, 0.07, shape), low, 1.0 - low),
        cost_nanos=np.broadcast_to(np.array([4e5, 5e4, 0.0, 0.0]), shape).copy(),
        grading=np.array([0.25, 1.0, 0.5, 0.3]),
    )


def simulate_log(
    world: World, *, seed: int, slots: int = 60, per_slot: float = 50.0
) -> list[LoggedDecision]:
    """Decisions of a logger whose weights change from slot to slot, as a learner's do.

    What slots share (a shock to every reward and every deadline) makes their requests dependent.
    """
    rng = np.random.default_rng([seed, 2])
    decisions: list[LoggedDecision] = []
    for slot in range(slots):
        table = logger_weights(rng)
        shock = rng.uniform(-SLOT_SHOCK, SLOT_SHOCK)
        for _ in range(int(rng.poisson(per_slot))):
            decisions.append(
                _decision(world, table=table, shock=shock, slot=slot, at=len(decisions), rng=rng)
            )
    return decisions


def logger_weights(rng: np.random.Generator) -> FloatArray:
    """A slot's table, shape (X, A): the dearest arm gets about 3 %, the local ones most."""
    base = rng.dirichlet([30.0, 120.0, 500.0, 350.0], size=len(CONTEXTS))
    kept = np.maximum(base, 0.01)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def fixed_target(kind: str) -> Target:
    """`near`: much like the logger; `far`: nine of ten requests to the arm it hardly ever draws."""
    row = {"near": [0.05, 0.25, 0.4, 0.3], "far": [0.9, 0.1, 0.0, 0.0]}[kind]
    weights = np.broadcast_to(np.array(row), (1, len(CONTEXTS), len(ARMS)))
    return Target(weights=weights, expected_reward=weights)


def evaluated(log: LogArrays, *, kind: str, seed: int) -> tuple[Evaluation, Target, FloatArray]:
    """The evaluation of one of `TARGETS`, the target, and the share of requests in each fold."""
    cluster = clusters_of(log, by="auto")
    fold = folds_of(cluster, folds=5, rng=np.random.default_rng([seed, 3]))
    if kind == "planned":
        question = Question(budget_nanos=5e4 * log.requests, sla_floor=0.7, rho=1.0)
        target = planned_target(log, policy="lp_ucb", question=question, fold=fold, seed=seed)
        shares = np.bincount(fold) / fold.size
    else:
        target, shares = fixed_target(kind), np.ones(1)
    return evaluate(log, target=target, fold=fold, cluster=cluster), target, shares


def coverage(seeds: Sequence[int], *, per_slot: float = 50.0) -> dict[tuple[str, str, str], float]:
    """Share of logs whose 95 % interval holds the truth, by (target, measure, estimator)."""
    held: dict[tuple[str, str, str], list[bool]] = {}
    for seed in seeds:
        world = make_world(seed)
        log = arrays_of(simulate_log(world, seed=seed, per_slot=per_slot))
        for kind in TARGETS:
            found, target, shares = evaluated(log, kind=kind, seed=seed)
            for name in MEASURES:
                truth = world.mean_of(name, target, fold_shares=shares)
                if name == "spend_usd":
                    truth *= found.requests / 1e9
                for estimator in ESTIMATORS:
                    estimate: Estimate = getattr(getattr(found, name), estimator)
                    inside = estimate.low <= truth <= estimate.high
                    held.setdefault((kind, name, estimator), []).append(inside)
    return {key: float(np.mean(flags)) for key, flags in held.items()}


def off_policy_coverage(logs: int = LOGS) -> Figure:
    """The worst coverage over targets, measures and estimators."""
    worst = min(coverage(range(1_000, 1_000 + logs)).values())
    return Figure.at_least(
        "off_policy_coverage",
        worst,
        0.90,
        unit="share",
        against=f"the truth of {logs} simulated logs",
        digits=3,
    )


def _decision(
    world: World,
    *,
    table: FloatArray,
    shock: float,
    slot: int,
    at: int,
    rng: np.random.Generator,
) -> LoggedDecision:
    context = _pick(CONTEXT_SHARES, rng=rng)
    candidate = rng.random(len(ARMS)) < AVAILABLE
    if not candidate.any():
        candidate[-1] = True
    weights = np.maximum((table[context] * PPM).astype(np.int64), 1)
    places = np.flatnonzero(candidate)
    chances = weights[places] / weights[places].sum()
    drawn = int(places[_pick(chances, rng=rng)])
    stand_in = _stand_ins(candidate)[drawn]
    failed = stand_in != drawn and rng.random() < FAILURE
    arm = int(stand_in) if failed else drawn
    grading = float(world.grading[context])
    mean = float(world.reward[context, arm] + shock)
    spent = world.cost_nanos[context, arm] * rng.lognormal(-0.125, 0.5)
    hit = rng.random() < world.hit[context, arm] + shock
    return LoggedDecision(
        request_id=f"r{at}",
        arrived_unix_ms=slot * 60_000,
        slot=slot,
        device_class=CONTEXTS[context][0],
        task_class=CONTEXTS[context][1],
        candidates={ARMS[place]: int(weights[place]) for place in places},
        drawn_arm=ARMS[drawn],
        propensity_ppm=max(1, int(chances[places == drawn][0] * PPM)),
        attempts=(ARMS[drawn], ARMS[arm]) if failed else (ARMS[arm],),
        arm=ARMS[arm],
        status=RequestStatus.OK,
        reward=float(rng.random() < mean) if rng.random() < grading else None,
        grading_ppm=round(grading * PPM),
        cost_nanos=round(spent),
        latency_ms=500 if hit else 5_000,
        hit=bool(hit),
        table_version=slot + 1,
    )


def _pick(chances: FloatArray, *, rng: np.random.Generator) -> int:
    """Draw an index."""
    return min(int(np.searchsorted(np.cumsum(chances), rng.random())), chances.size - 1)


def _stand_ins(candidate: BoolArray) -> IntArray:
    """For each arm the candidate that answers when it fails; itself if there is no other."""
    places = np.flatnonzero(candidate)
    return np.array([next((int(p) for p in places if p != arm), arm) for arm in range(len(ARMS))])


def _drawn(target: Target, context: int, candidate: BoolArray) -> FloatArray:
    """Draw probabilities per fold, shape (F, A)."""
    weights = target.weights[:, context] * candidate
    total = weights.sum(axis=1, keepdims=True)
    hoped = np.where(candidate, target.expected_reward[:, context], -np.inf)
    best = np.eye(len(ARMS))[np.argmax(hoped, axis=1)]
    return np.where(total > 0.0, weights / np.where(total > 0.0, total, 1.0), best)
