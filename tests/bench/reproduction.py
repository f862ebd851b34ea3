"""The paper's experiment as figures: what `tidegate-lab reproduce` finds, against its targets.

Several figures come from one experiment; it is run once per process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from coordinator.lab.paper import CLAIRVOYANT
from coordinator.lab.paper_workload import load_scenario
from coordinator.lab.reproduce import PolicySummary, reproduce, summarise
from tests.bench.figures import Figure

IID, AR1 = "paper-iid", "paper-ar1"
SEEDS = 20
HORIZONS = (2_500, 10_000, 40_000)
HORIZON_SEEDS = 10
PAPER_AR1_REGRET = 8_600.0
"""COPAC-UCB's regret at T in the paper's figure of the AR(1) workload."""


def regret_iid() -> Figure:
    """Upper 95 % bound of the default policy's regret on independent demand."""
    return _regret("regret, i.i.d.", scenario=IID, percent_max=0.2)


def regret_ar1() -> Figure:
    """Upper 95 % bound of the default policy's regret on demand with memory."""
    return _regret("regret, AR(1)", scenario=AR1, percent_max=0.4)


def worst_run() -> Figure:
    """The default policy's worst run of both workloads."""
    found = [_experiment(scenario)["lp_ucb"] for scenario in (IID, AR1)]
    holds = all(one.regret_share_worst <= max(3.0 * one.regret_share, 0.005) for one in found)
    worst = 100.0 * max(one.regret_share_worst for one in found)
    return Figure(
        "worst regret",
        round(worst, 3),
        "%",
        "the clairvoyant programme",
        "<= 3 x the mean or <= 0.5 %",
        holds,
    )


def violation() -> Figure:
    """How far the default policy misses the latency floor, the worse of both workloads."""
    worst = 100.0 * max(_experiment(name)["lp_ucb"].violation_mean for name in (IID, AR1))
    return Figure(
        "violation", round(worst, 3), "% of demand", "the floor", "<= 0.2 %", worst <= 0.2
    )


def overrun() -> Figure:
    """The most that any policy spent beyond the budget in any run, in cost units."""
    most = max(one.overrun_max for name in (IID, AR1) for one in _experiment(name).values())
    return Figure("overrun", most, "cost units", "the budget", "= 0", most == 0.0)


def over_copac() -> Figure:
    """COPAC-UCB's regret over the default policy's, the smaller of both workloads."""
    ratio = min(
        found["copac_ucb"].regret_share / max(found["lp_ucb"].regret_share, 1e-9)
        for found in map(_experiment, (IID, AR1))
    )
    return Figure("copac_ucb regret", round(ratio, 1), "x", "lp_ucb", ">= 60", ratio >= 60.0)


def copac_as_published() -> Figure:
    """COPAC-UCB's AR(1) regret over what the paper's figure shows."""
    ratio = _experiment(AR1)["copac_ucb"].regret_mean / PAPER_AR1_REGRET
    return Figure(
        "copac_ucb AR(1) regret",
        round(ratio, 3),
        "x",
        f"the paper's {PAPER_AR1_REGRET:.0f}",
        "0.75 to 1.25",
        0.75 <= ratio <= 1.25,
    )


def falls_with_the_horizon() -> Figure:
    """The largest ratio of mean or worst regret shares from one horizon to the next."""
    ratios = []
    for name in (IID, AR1):
        found = [
            _experiment(name, horizon=horizon, seeds=HORIZON_SEEDS, policies=("lp_ucb",))["lp_ucb"]
            for horizon in HORIZONS
        ]
        for short, long in pairwise(found):
            ratios.append(long.regret_share / short.regret_share)
            ratios.append(long.regret_share_worst / short.regret_share_worst)
    largest = max(ratios)
    return Figure(
        "regret share over T",
        round(largest, 2),
        "x",
        f"the next shorter horizon ({', '.join(f'{h:,}' for h in HORIZONS)})",
        "< 1",
        largest < 1.0,
    )


def one_seed() -> Figure:
    """Seconds for one seed of both workloads side by side: lp_ucb, copac_ucb, the clairvoyant."""
    command = [sys.executable, "-m", "coordinator.lab.app", "reproduce", "--seeds", "1"]
    command += ["--policies", "lp_ucb,copac_ucb", "--format", "json"]
    begun = time.perf_counter()
    running = [
        subprocess.Popen([*command, name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in (IID, AR1)
    ]
    codes = [one.wait() for one in running]
    seconds = time.perf_counter() - begun
    holds = codes == [0, 0] and seconds <= 60.0
    return Figure("reproduce, one seed", round(seconds, 1), "s", "a minute", "<= 60", holds)


def _regret(name: str, *, scenario: str, percent_max: float) -> Figure:
    high = 100.0 * _experiment(scenario)["lp_ucb"].regret_share_ci95_high
    return Figure(
        name,
        round(high, 3),
        "%",
        "the clairvoyant programme",
        f"95 % bound <= {percent_max} %",
        high <= percent_max,
    )


@lru_cache(maxsize=16)
def _experiment(
    name: str,
    *,
    horizon: int = 10_000,
    seeds: int = SEEDS,
    policies: Sequence[str] = ("lp_ucb", "copac_ucb", "ad_ucb", "pd_bwk", "sw_ucb"),
) -> dict[str, PolicySummary]:
    scores = reproduce(
        load_scenario(name).resized(horizon),
        policies=[policy for policy in policies if policy != CLAIRVOYANT],
        seeds=seeds,
        jobs=os.cpu_count() or 1,
    )
    return {policy: summarise(found) for policy, found in scores.items()}
