"""Random fluid programmes, an independent reference, and what holds of every solution."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import linprog

from coordinator.policy.base import BoolArray, FloatArray, IntArray
from coordinator.policy.fluid import CapacityRows, FluidSolution, solve_fluid_lp

Solver = Callable[..., FluidSolution]

# Objectives are compared per request; the reference's tolerances are 1e-10 of each row.
OBJECTIVE_MAX = 1e-6
# A solution's own proof: value and bound, and each row.
PROOF_MAX = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """The arguments of ``solve_fluid_lp``."""

    demand: FloatArray
    reward: FloatArray
    packing: tuple[FloatArray, ...]
    budget: FloatArray
    hits: tuple[FloatArray, ...]
    floor: FloatArray
    rho: FloatArray
    feasible: BoolArray
    capacity: CapacityRows | None

    def solved(self, solver: Solver = solve_fluid_lp) -> FluidSolution:
        """Solve it."""
        return solver(self.demand, **{k: v for k, v in vars(self).items() if k != "demand"})

    @property
    def counted(self) -> FloatArray:
        """The demand that is planned: a demand of nothing counts as one request each."""
        return self.demand if self.demand.sum() > 0.0 else np.ones_like(self.demand)


def random_case(seed: int, *, contexts_max: int = 40, arms_max: int = 8) -> Case:
    """A programme with the awkward features that real ones have, chosen by the seed."""
    rng = np.random.default_rng(seed)

    def sometimes(share: float) -> bool:
        return bool(rng.random() < share)

    shape = (int(rng.integers(1, contexts_max + 1)), int(rng.integers(1, arms_max + 1)))
    if sometimes(0.2):
        shape = (1, shape[1])
    reward = rng.uniform(0.0, 1.0, shape)
    if sometimes(0.3):
        reward = np.round(reward * 4.0) / 4.0
    demand = rng.uniform(0.1, 50.0, shape[0]) * 10.0 ** rng.uniform(-3.0, 4.0)
    if sometimes(0.3):
        demand[rng.random(shape[0]) < 0.4] = 0.0
    if sometimes(0.2):
        demand *= 10.0 ** rng.uniform(-6.0, 0.0, shape[0])
    if sometimes(0.3):
        demand = np.ceil(demand)
    total = demand.sum() if demand.sum() > 0.0 else float(shape[0])
    packing = tuple(_costs(rng, shape) for _ in range(int(rng.integers(1, 3))))
    budget = np.array([_limit(rng, float(total * cost.mean())) for cost in packing])
    covering = int(rng.integers(0, 3))
    hits = tuple(
        rng.uniform(0.0, 1.0, shape).round(int(rng.integers(0, 5))) for _ in range(covering)
    )
    feasible = rng.random(shape) < (1.0 if sometimes(0.5) else 0.7)
    if sometimes(0.2):
        twin = rng.integers(0, shape[0], shape[0])
        reward, feasible = reward[twin], feasible[twin]
        packing, hits = tuple(c[twin] for c in packing), tuple(h[twin] for h in hits)
    return Case(
        demand=demand,
        reward=reward,
        packing=packing,
        budget=budget,
        hits=hits,
        floor=rng.uniform(-0.2, 1.4, covering),
        rho=rng.uniform(0.0, 3.0, covering) * (rng.random(covering) < 0.9),
        feasible=feasible,
        capacity=_capacity(rng, shape, float(total)) if sometimes(0.5) else None,
    )


def _costs(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Costs of one kind: free, alike, whole nano-dollars, or spread over twelve decades."""
    match int(rng.integers(0, 4)):
        case 0:
            cost = rng.uniform(0.0, 1e6, shape)
        case 1:
            cost = 10.0 ** rng.uniform(0.0, 12.0, shape)
        case 2:
            cost = np.broadcast_to(np.floor(10.0 ** rng.uniform(0.0, 7.0, shape[1])), shape)
        case _:
            cost = np.ones(shape)
    return np.where(rng.random(shape[1]) < 0.4, 0.0, cost)


def _limit(rng: np.random.Generator, typical: float) -> float:
    """A limit that is nothing, tiny, binding or ample."""
    return float(rng.choice([0.0, -1.0, 1e-9, 1e-3, 0.1, 0.4, 1.0, 10.0]) * typical)


def _capacity(rng: np.random.Generator, shape: tuple[int, int], total: float) -> CapacityRows:
    """Rows of up to four device classes; some contexts may belong to none."""
    blocks = int(rng.integers(1, 5))
    cost = np.where(rng.random(shape[1]) < 0.6, rng.uniform(0.5, 20.0, shape), 0.0)
    limit = np.array([_limit(rng, total * 10.0 / blocks) for _ in range(blocks)])
    block: IntArray = rng.integers(-1 if rng.random() < 0.3 else 0, blocks, shape[0])
    return CapacityRows(block=block, cost=cost, limit=limit)


def reference(case: Case) -> float:
    """The optimum per request by SciPy: dense rows, each divided by its limit."""
    demand = case.counted
    share = demand / demand.sum()
    contexts, arms = np.nonzero(case.feasible)
    rows, right = [], []
    limits = [
        (c[contexts, arms], max(b, 0.0)) for c, b in zip(case.packing, case.budget, strict=True)
    ]
    if case.capacity is not None:
        for index, limit in enumerate(case.capacity.limit):
            inside = case.capacity.block[contexts] == index
            limits.append((case.capacity.cost[contexts, arms] * inside, max(limit, 0.0)))
    usable = np.ones(contexts.size)
    for used, limit in limits:
        # What costs more than the limit allows to a share of 1e-12 is not worth its rounding.
        usable[used * demand.sum() * 1e-12 > limit] = 0.0
    for used, limit in limits:
        scale = min(limit / demand.sum(), float((used * usable).max(initial=0.0))) or 1.0
        rows.append(np.append(used * usable * share[contexts] / scale, np.zeros(len(case.hits))))
        right.append(min(limit / demand.sum() / scale, 1e3))
    for index, (credit, floor) in enumerate(zip(case.hits, case.floor, strict=True)):
        short = np.eye(len(case.hits))[index]
        rows.append(-np.append(credit[contexts, arms] * share[contexts], short))
        right.append(-max(floor, 0.0))
    for context in np.unique(contexts):
        rows.append(np.append(contexts == context, np.zeros(len(case.hits))).astype(np.float64))
        right.append(1.0)
    if contexts.size == 0:
        return -float(case.rho @ np.maximum(case.floor, 0.0))
    found: Any = linprog(
        np.concatenate([-case.reward[contexts, arms] * share[contexts], case.rho]),
        A_ub=np.array(rows),
        b_ub=np.array(right),
        bounds=[(0.0, top) for top in usable] + [(0.0, None)] * len(case.hits),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert found.status == 0, found.message
    return -float(found.fun)


def check_feasible(case: Case, found: FluidSolution) -> None:
    """Weights are a sub-distribution on feasible arms within every limit; the slack is right."""
    demand, weights = case.counted, found.weights
    assert weights.min(initial=0.0) >= 0.0
    assert weights.sum(axis=1).max(initial=0.0) <= 1.0 + 1e-12
    assert not weights[~case.feasible].any()
    for cost, budget in zip(case.packing, case.budget, strict=True):
        assert float(demand @ (weights * cost).sum(axis=1)) <= max(budget, 0.0) * (1.0 + 1e-12)
    if case.capacity is not None:
        used = case.capacity.total(weights, demand=demand)
        assert np.all(used <= np.maximum(case.capacity.limit, 0.0) * (1.0 + 1e-12))
    earned = np.array([demand @ (weights * credit).sum(axis=1) for credit in case.hits])
    missing = np.maximum(np.maximum(case.floor, 0.0) * demand.sum() - earned, 0.0)
    np.testing.assert_allclose(found.slack, missing, atol=1e-9 * demand.sum())
    gain = float(demand @ (weights * case.reward).sum(axis=1))
    assert abs(found.objective - (gain - float(case.rho @ missing))) <= 1e-9 * demand.sum()


def check_optimal(case: Case, found: FluidSolution) -> None:
    """The objective is that of the reference."""
    per_request = found.objective / case.counted.sum()
    assert abs(per_request - reference(case)) <= OBJECTIVE_MAX


def check_priced(case: Case, found: FluidSolution) -> None:
    """The prices prove the optimum: they are in range, and their bound is the objective.

    Equal values imply complementary slackness: what is chosen is best at the prices, and a row
    that does not bind has no price.
    """
    assert np.all(found.packing_dual >= 0.0)
    assert np.all(found.capacity_dual >= 0.0)
    assert np.all((found.covering_dual >= 0.0) & (found.covering_dual <= case.rho))
    demand = case.counted
    score = case.reward.copy()
    for cost, price in zip(case.packing, found.packing_dual, strict=True):
        score -= price * cost
    for credit, price in zip(case.hits, found.covering_dual, strict=True):
        score += price * credit
    bound = float(found.packing_dual @ np.maximum(case.budget, 0.0))
    bound -= float(found.covering_dual @ np.maximum(case.floor, 0.0)) * demand.sum()
    if case.capacity is not None:
        assert found.capacity_dual.shape == case.capacity.limit.shape
        for index, price in enumerate(found.capacity_dual):
            score -= price * case.capacity.cost * (case.capacity.block == index)[:, None]
        bound += float(found.capacity_dual @ np.maximum(case.capacity.limit, 0.0))
    bound += float(demand @ np.where(case.feasible, score, 0.0).max(axis=1, initial=0.0))
    assert abs(bound - found.objective) <= 2.0 * PROOF_MAX * max(demand.sum(), abs(bound))


def check_equivariant(case: Case, solver: Solver = solve_fluid_lp, *, seed: int) -> None:
    """Another order of the arms gives the same objective, and the same weights up to ties."""
    order = np.random.default_rng(seed).permutation(case.reward.shape[1])
    capacity = case.capacity and replace(case.capacity, cost=case.capacity.cost[:, order])
    other = replace(
        case,
        reward=case.reward[:, order],
        packing=tuple(cost[:, order] for cost in case.packing),
        hits=tuple(credit[:, order] for credit in case.hits),
        feasible=case.feasible[:, order],
        capacity=capacity,
    )
    here, there = case.solved(solver), other.solved(solver)
    total = case.counted.sum()
    assert abs(here.objective - there.objective) <= OBJECTIVE_MAX * total
    if _unique(case):
        share = (case.counted / total)[:, None]
        np.testing.assert_allclose(share * here.weights[:, order], share * there.weights, atol=1e-6)


def check_twins(case: Case, solver: Solver = solve_fluid_lp) -> None:
    """Contexts that are alike in everything but their demand get the same weights."""
    doubled = replace(
        case,
        demand=np.concatenate([case.demand, case.demand[::-1]]),
        reward=np.concatenate([case.reward, case.reward[::-1]]),
        feasible=np.concatenate([case.feasible, case.feasible[::-1]]),
        packing=tuple(np.concatenate([cost, cost[::-1]]) for cost in case.packing),
        hits=tuple(np.concatenate([credit, credit[::-1]]) for credit in case.hits),
        capacity=case.capacity
        and replace(
            case.capacity,
            block=np.concatenate([case.capacity.block, case.capacity.block[::-1]]),
            cost=np.concatenate([case.capacity.cost, case.capacity.cost[::-1]]),
        ),
    )
    weights = doubled.solved(solver).weights
    count = case.demand.size
    np.testing.assert_array_equal(weights[:count], weights[count:][::-1])


def _unique(case: Case) -> bool:
    """Whether the case has no ties by construction: its rewards were not rounded or repeated."""
    values = np.unique(case.reward[case.feasible])
    return bool(values.size == case.feasible.sum() and not np.all(values * 4.0 % 1.0 == 0.0))
