"""The yardstick: the fluid programme with true means and true demand, one regime after another.

The clairvoyant knows every mean, the demand of the window, and how long requests wait at the load
that it causes. It does not know of a change before it happens: when a regime begins it solves for
the rest of the window as if that regime stayed, and follows its optimum until the next one.

This is a programme of its own, not the planner's: the checker does not share code with what it
checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from coordinator.lab.simulation.demand import Context
from coordinator.lab.simulation.queueing import share_in_time, waits
from coordinator.lab.simulation.schema import Scenario
from coordinator.lab.simulation.tally import Regime
from coordinator.lab.simulation.truth import Truth
from coordinator.policy.base import FloatArray

ROUNDS = 6


@dataclass(frozen=True, eq=False, kw_only=True)
class Optimum:
    """An optimum of the programme over a demand.

    Attributes
    ----------
    weights : ndarray, shape (X, A)
    hits : ndarray, shape (X, A)
        Shares in time at the optimum's load.
    money_price, sla_price : float
        Reward per nano-dollar, and per request in time.
    capacity_price : ndarray, shape (D,)
        Reward per worker-millisecond of each device class.
    objective : float
        Reward less rho times what is missing.
    score : ndarray, shape (X, A)
        Reward net of what is taken from and given to the shared rows; -inf where infeasible.
    """

    weights: FloatArray
    hits: FloatArray
    money_price: float
    sla_price: float
    capacity_price: FloatArray
    objective: float
    score: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Clairvoyant:
    """What the clairvoyant gets in a window.

    Attributes
    ----------
    optima : list of Optimum
        One per regime.
    value : float
        Reward less rho times the requests missing below the floor.
    arm_shares : dict of str to float
    """

    optima: list[Optimum]
    value: float
    reward: float
    requests: float
    hits: float
    spent_nanos: float
    arm_shares: dict[str, float]

    @property
    def sla_share(self) -> float:
        """Share of requests in time."""
        return self.hits / max(1.0, self.requests)


class Yardstick:
    """Solves the true programme of a scenario."""

    def __init__(
        self, scenario: Scenario, *, contexts: tuple[Context, ...], arms: tuple[str, ...]
    ) -> None:
        self.scenario, self.contexts, self.arms = scenario, contexts, arms
        self._truth = Truth(scenario)
        self._classes = sorted(scenario.device_classes)
        shape = (len(contexts), len(arms))
        self._service_ms = np.zeros(shape)
        for row, (device, task) in enumerate(contexts):
            for column, arm in enumerate(arms):
                if scenario.arms[arm].kind == "local" and (device, task, arm) in (
                    self._truth.contexts
                ):
                    found = self._truth.contexts[device, task, arm]
                    self._service_ms[row, column] = found.latency.mean

    def over(self, regimes: list[Regime], *, counts: FloatArray) -> Clairvoyant:
        """Follow the optimum of each regime through a window.

        Parameters
        ----------
        counts : ndarray, shape (slots, X)
            What really came.
        """
        ends = [*(regime.slot for regime in regimes[1:]), len(counts)]
        reward = hits = spent = requests = 0.0
        served = np.zeros(len(self.arms))
        optima = []
        for at, (regime, end) in enumerate(zip(regimes, ends, strict=True)):
            optimum = self.optimum(
                regime,
                demand=self._foreseen(regimes, at=at, counts=counts),
                slots=len(counts) - regime.slot,
                money=regime.budget_nanos - spent,
                debt=self.scenario.sla.floor * requests - hits,
            )
            came = counts[regime.slot : end].sum(axis=0)
            mass = came[:, None] * optimum.weights
            reward += float((mass * regime.reward).sum())
            hits += float((mass * optimum.hits).sum())
            spent += float((mass * regime.cost).sum())
            requests += float(came.sum())
            served += mass.sum(axis=0)
            optima.append(optimum)
        sla = self.scenario.sla
        return Clairvoyant(
            optima=optima,
            value=reward - sla.rho * max(0.0, sla.floor * requests - hits),
            reward=reward,
            requests=requests,
            hits=hits,
            spent_nanos=spent,
            arm_shares={
                arm: float(share)
                for arm, share in zip(self.arms, served / max(1.0, requests), strict=True)
            },
        )

    def _foreseen(self, regimes: list[Regime], *, at: int, counts: FloatArray) -> FloatArray:
        """The rest of the window's demand as it would be if this regime stayed, shape (X,)."""
        total = np.zeros(counts.shape[1])
        ends = [*(regime.slot for regime in regimes[1:]), len(counts)]
        for later in range(at, len(regimes)):
            came = counts[regimes[later].slot : ends[later]].sum(axis=0)
            factor = regimes[later].factor
            total += came * np.where(factor > 0.0, regimes[at].factor / np.maximum(factor, 1e-9), 1)
        return total

    def optimum(
        self, regime: Regime, *, demand: FloatArray, slots: int, money: float, debt: float
    ) -> Optimum:
        """Solve, find how long requests wait at that load, and solve again.

        Parameters
        ----------
        demand : ndarray, shape (X,)
            Requests to come.
        slots : int
            Over how many slots they come.
        money : float
            Nano-dollars left.
        debt : float
            Hits that the past is short of the floor; negative for a credit.
        """
        loads = np.zeros((len(self.contexts), len(self.arms)))
        found: Optimum | None = None
        for step in range(ROUNDS):
            hits = self._hits(regime, loads=loads)
            found = self._solve(
                regime, demand=demand, slots=slots, money=money, debt=debt, hits=hits
            )
            # Damped: at a corner of the programme the mixture would else jump to and fro.
            target = demand[:, None] * found.weights / (slots * self.scenario.window.slot)
            loads += (target - loads) / (step + 1)
        if found is None:
            raise ArithmeticError("no round was run")
        return found

    def _hits(self, regime: Regime, *, loads: FloatArray) -> FloatArray:
        """Shares in time at given arrivals per ms, shape (X, A)."""
        hits = np.zeros(loads.shape)
        waited = {}
        for name, device_class in self.scenario.device_classes.items():
            mix = [
                (
                    float(loads[row, column]) / device_class.devices,
                    self._truth.contexts[name, task, arm].latency,
                )
                for row, (device, task) in enumerate(self.contexts)
                for column, arm in enumerate(self.arms)
                if device == name and self._service_ms[row, column] > 0.0
            ]
            waited[name] = waits(mix, workers=device_class.parallel)[0]
        nothing = np.zeros(1)
        for row, (device, task) in enumerate(self.contexts):
            for column, arm in enumerate(self.arms):
                if not regime.feasible[row, column]:
                    continue
                local = self._service_ms[row, column] > 0.0
                hits[row, column] = share_in_time(
                    self._truth.contexts[device, task, arm].latency,
                    waited=waited[device] if local else nothing,
                    deadline_ms=self.scenario.task_classes[task].deadline,
                )
        return hits

    def _solve(
        self,
        regime: Regime,
        *,
        demand: FloatArray,
        slots: int,
        money: float,
        debt: float,
        hits: FloatArray,
    ) -> Optimum:
        """One linear programme over shares of the demand, by HiGHS."""
        total = max(1.0, float(demand.sum()))
        rows, cols = np.nonzero(regime.feasible & (demand > 0.0)[:, None])
        size, classes = rows.size, len(self._classes)
        cost, service = regime.cost[rows, cols], self._service_ms[rows, cols]
        cost_scale, ms_scale = max(1.0, cost.max(initial=0.0)), max(1.0, service.max(initial=0.0))
        active = np.flatnonzero(demand > 0.0)
        matrix = np.zeros((len(active) + 2 + classes, size + 1))
        limit = np.zeros(len(matrix))
        for at, row in enumerate(active):
            matrix[at, :size] = rows == row
            limit[at] = demand[row] / total
        money_row, sla_row = len(active), len(active) + 1
        matrix[money_row, :size] = cost / cost_scale
        limit[money_row] = max(0.0, money) / (cost_scale * total)
        matrix[sla_row, :size] = -hits[rows, cols]
        matrix[sla_row, size] = -1.0
        limit[sla_row] = -max(0.0, self.scenario.sla.floor + debt / total)
        for at, name in enumerate(self._classes):
            mine = np.array([self.contexts[row][0] == name for row in rows])
            workers = self.scenario.device_classes[name]
            matrix[sla_row + 1 + at, :size] = np.where(mine, service / ms_scale, 0.0)
            worker_ms = workers.utilisation * workers.devices * workers.parallel
            worker_ms *= self.scenario.window.slot
            limit[sla_row + 1 + at] = worker_ms * slots / (ms_scale * total)
        solution = scipy.optimize.linprog(
            np.append(-regime.reward[rows, cols], self.scenario.sla.rho),
            A_ub=matrix,
            b_ub=limit,
            method="highs",
        )
        if solution.status != 0:
            raise ArithmeticError(f"the true programme was not solved: {solution.message}")
        objective: Any = solution.fun
        weights = np.zeros(regime.feasible.shape)
        found: Any = solution.x
        weights[rows, cols] = found[:size] * total / demand[rows]
        prices = np.maximum(0.0, -np.asarray(solution.ineqlin.marginals))
        capacity = prices[sla_row + 1 :] / ms_scale
        money_price, sla_price = float(prices[money_row] / cost_scale), float(prices[sla_row])
        of_class = np.array([self._classes.index(device) for device, _ in self.contexts])
        score = regime.reward - money_price * regime.cost + sla_price * hits
        score = score - capacity[of_class][:, None] * self._service_ms
        return Optimum(
            weights=weights,
            hits=hits,
            money_price=money_price,
            sla_price=sla_price,
            capacity_price=capacity,
            objective=-float(objective) * total,
            score=np.where(regime.feasible, score, -np.inf),
        )
