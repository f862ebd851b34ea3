"""What is measured. Each figure is the median of several rounds, both sides in every round."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.lab.backtest import backtest
from coordinator.policy import Bounds, Constraints, Estimates, Forecast, Remaining, make_policy
from coordinator.policy.fluid import solve_fluid_lp
from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.books import DropReservation, PutReservation
from shared.decision.lease import ReservationRow

ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes
    ----------
    against : str
        What it is compared with, measured in the same run.
    target : str
        What it should be, in words; `holds` says whether it is.
    """

    name: str
    figure: float
    unit: str
    against: str
    target: str
    holds: bool


def plan_of_a_fleet() -> Figure:
    """One plan of 200 contexts and 8 arms, over the bare solution of its LP."""
    rng = np.random.default_rng(1)
    shape = (200, 8)
    reward = rng.uniform(0.2, 0.9, shape)
    cost = np.where(np.arange(8) < 4, 0.0, rng.uniform(1e3, 1e6, shape))
    hits = rng.uniform(0.6, 1.0, shape)
    demand = rng.uniform(1.0, 50.0, shape[0])
    budget = float((demand[:, None] * cost).mean() * shape[0])
    feasible = np.ones(shape, dtype=np.bool_)
    counts = np.full(shape, 1_000)
    inputs = {
        "constraints": Constraints(
            budget=np.array([budget]),
            floor=np.array([0.8]),
            rho=np.array([1.0]),
            slack_max=np.array([0.5]),
        ),
        "forecast": Forecast(
            mean=demand, lower=demand, upper=demand, next_slot=demand / 10, total_window=demand
        ),
        "remaining": Remaining(
            packing=np.array([budget]),
            covering_hits=np.zeros(1),
            demand_so_far=np.zeros(shape[0]),
            slot=0,
            slots_left=10,
            slots_total=10,
            last=None,
            last_demand=np.zeros(shape[0]),
        ),
    }
    estimates = Estimates(
        feasible=feasible,
        reward=Bounds(mean=reward, lower=reward, upper=reward),
        packing=(Bounds(mean=cost, lower=cost, upper=cost),),
        covering=(Bounds(mean=hits, lower=hits, upper=hits),),
        sent=counts,
        graded=counts,
    )
    policy = make_policy("lp_ucb")

    def planned() -> object:
        return policy.plan(estimates, **inputs, rng=rng)  # type: ignore[arg-type]

    def solved() -> object:
        return solve_fluid_lp(
            demand,
            reward=reward,
            packing=(cost,),
            budget=np.array([budget]),
            hits=(hits,),
            floor=np.array([0.8]),
            rho=np.array([1.0]),
            feasible=feasible,
        )

    ratio = _ratio(planned, solved)
    return Figure("plan", ratio, "x", "the bare LP", "<= 1.5", ratio <= 1.5)


def reserve_and_settle() -> Figure:
    """Durable reserve-and-settle pairs a second at 64 clients, over one client at a time."""
    with tempfile.TemporaryDirectory() as folder:
        together, alone = asyncio.run(_pairs(Path(folder)))
    ratio = together / alone
    return Figure("gate", round(ratio, 2), "x", "one client at a time", ">= 2", ratio >= 2.0)


def backtests() -> Figure:
    """The chooser's error on a level that jumps, over the best single forecaster's."""
    rng = np.random.default_rng(3)
    counts = np.concatenate([rng.poisson(5.0, 300), rng.poisson(25.0, 300)]).astype(np.float64)
    wape = {result.forecaster: result.wape for result in backtest(counts)}
    chooser = wape.pop("chooser")
    ratio = round(float(chooser / min(wape.values())), 3)
    return Figure("forecast", ratio, "x", "the best forecaster", "<= 1.1", bool(ratio <= 1.1))


async def _pairs(folder: Path) -> tuple[float, float]:
    """Pairs a second: at 64 clients, and at one."""
    books = SqliteBooks(folder / "books.db")

    async def pair(number: int) -> None:
        row = ReservationRow(f"r{number}", "req", "arm", 1, 10, "other", 0)
        await books.commit([PutReservation(row)])
        await books.commit([DropReservation(row.id)])

    async def client(start: int, pairs: int) -> None:
        for number in range(start, start + pairs):
            await pair(number)

    try:
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            await asyncio.gather(*(client(index * 100, 50) for index in range(64)))
            rates[0].append(64 * 50 / (time.perf_counter() - begun))
            begun = time.perf_counter()
            await client(0, 400)
            rates[1].append(400 / (time.perf_counter() - begun))
    finally:
        await books.close()
    return statistics.median(rates[0]), statistics.median(rates[1])


def _ratio(ours: Callable[[], object], against: Callable[[], object]) -> float:
    """The median of how many times longer ours takes, pairwise."""
    ratios = []
    for _ in range(ROUNDS):
        times = []
        for call in (ours, against):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
        ratios.append(times[0] / times[1])
    return round(statistics.median(ratios), 2)
