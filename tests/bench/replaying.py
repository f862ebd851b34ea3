"""Recorded answers replayed under a hard budget, and the time of one choice on the device.

The recorded answers are public data beside the repository (see the README). The `paretobandit`
package lives in an environment of its own, named by `PARETOBANDIT_PYTHON`; how to make one is in
`tests/bench/paretobandit_compare.py`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from coordinator.lab.arm_prices import read_prices
from coordinator.lab.replay import replay, summarise
from coordinator.lab.replay_run import ReplaySettings, order_of
from coordinator.lab.reward_matrix import RewardMatrix, best_in_hindsight, read_matrix
from edge_agent.books import BooksSnapshot
from edge_agent.candidates import ArmCondition
from edge_agent.engine import AgentEngine
from shared.decision.money import NANOS_PER_DOLLAR, TOKENS_PER_MTOK
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.errors import ConfigError
from tests.bench.figures import Figure
from tests.fakes.samples import cloud_arm, device_config, facts, granted, local_arm

DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "paretobandit_rewards"
COLUMNS: Final = ("prompt_id", "source", "model", "reward", "cost_usd")
CLASS_SIZE_MIN: Final = 60
TOKENS_PRIOR: Final = 400
ORDERS: Final = 10
WORST_BELOW: Final = 0.02
TARGETS: Final = {100_000: 0.820, 200_000: 0.865, 500_000: 0.918, 1_000_000: 0.925}
"""Nano-dollars per prompt to the mean reward to reach."""

COMPARE: Final = Path(__file__).parent / "paretobandit_compare.py"
ROUNDS: Final = 5
CALLS: Final = 2_000
FASTER_MIN: Final = 5.0


def replay_figure(nanos_per_prompt: int) -> Figure:
    """The mean reward over ten orders at a budget, beside the best that was possible."""
    matrix, prices = recorded()
    settings = ReplaySettings(
        budget_nanos=nanos_per_prompt * len(matrix.prompts),
        prior_nanos=tuple(-(-price * TOKENS_PRIOR // TOKENS_PER_MTOK) for price in prices),
    )
    best = best_in_hindsight(matrix, budget_nanos=settings.budget_nanos)
    results = replay(matrix, settings=settings, orders=ORDERS)
    report: dict[str, Any] = summarise(results, matrix=matrix, settings=settings, best=best)
    target = TARGETS[nanos_per_prompt]
    holds = (
        report["reward_mean"] >= target
        and report["reward_worst_order"] >= target - WORST_BELOW
        and report["answered_share"] == 1.0
        and all(result.spent_nanos <= settings.budget_nanos for result in results)
    )
    against = f"best per class in hindsight {best.per_class:.3f}"
    peer = paretobandit_rewards().get(nanos_per_prompt)
    if peer is not None:
        against += (
            f"; paretobandit {peer['reward_mean']:.3f} for {peer['spent_share']:.2f} of the "
            f"budget, {peer['reward_within_budget']:.3f} if stopped at the budget"
        )
    return Figure(
        name=f"replay_{nanos_per_prompt / NANOS_PER_DOLLAR:g}",
        figure=round(report["reward_mean"], 4),
        unit="reward",
        against=against,
        target=f">= {target}, no order {WORST_BELOW} below, all answered, within the budget",
        holds=holds,
    )


REPLAYS: Final[dict[str, Callable[[], Figure]]] = {
    f"replay_{nanos / NANOS_PER_DOLLAR:g}": partial(replay_figure, nanos) for nanos in TARGETS
}
"""Name of a benchmark to what measures it."""


def choice_figure() -> Figure:
    """How many times faster a device chooses than `paretobandit` routes, round by round.

    Raises
    ------
    ConfigError
        Without an interpreter that has the package.
    """
    if not _peer_python():
        raise ConfigError("PARETOBANDIT_PYTHON", f"is not set; {COMPARE.name} says how to make one")
    ratios = []
    for _ in range(ROUNDS):
        theirs = _peer("route", "--arms", "8", "--calls", str(CALLS))["route_us_p50"]
        ratios.append(theirs / choice_us())
    ratio = statistics.median(ratios)
    return Figure(
        name="choice",
        figure=round(ratio, 2),
        unit="x faster",
        against="paretobandit's route with precomputed features, p50",
        target=f">= {FASTER_MIN:g}",
        holds=ratio >= FASTER_MIN,
    )


@cache
def recorded() -> tuple[RewardMatrix, tuple[int, ...]]:
    """The recorded answers, and the arms' nano-dollars per million tokens.

    Raises
    ------
    ConfigError
        When the data are absent.
    """
    matrix = read_matrix(
        DATA / "rewards_long.csv.gz", columns=COLUMNS, class_size_min=CLASS_SIZE_MIN
    )
    return matrix, read_prices(DATA / "models_k4.json", arms=matrix.arms)


@cache
def paretobandit_rewards() -> dict[int, dict[str, float]]:
    """What the package earns on the same orders, by nano-dollars per prompt; empty without it."""
    if not _peer_python():
        return {}
    matrix, _ = recorded()
    models = json.loads((DATA / "models_k4.json").read_text())["models"]
    price = {m["model_id"]: (m["input_cost_per_m"], m["output_cost_per_m"]) for m in models}
    with tempfile.TemporaryDirectory() as folder:
        stream = Path(folder) / "stream.npz"
        np.savez(
            stream,
            reward=matrix.reward,
            cost_usd=matrix.cost_nanos / NANOS_PER_DOLLAR,
            class_of=matrix.class_of,
            prices=np.array([price[arm] for arm in matrix.arms]),
            orders=np.array(
                [order_of(len(matrix.prompts), order=order, seed=0) for order in range(ORDERS)]
            ),
            budget_usd=np.array(list(TARGETS)) / NANOS_PER_DOLLAR,
        )
        found = _peer("replay", str(stream))
    return dict(zip(TARGETS, found, strict=True))


def choice_us() -> float:
    """Median microseconds of the agent's decision: a table of 8 arms, every filter, a lease.

    Two local and six paid arms; the request has a deadline, a capability and a field, so that no
    filter is skipped, and every paid arm's worst case is held against the lease.
    """
    arms = [
        *(local_arm(f"local{n}", capabilities=frozenset({"tools"})) for n in range(2)),
        *(cloud_arm(f"cloud{n}", capabilities=frozenset({"tools"})) for n in range(6)),
    ]
    config = device_config(*arms)
    engine = AgentEngine(
        incarnation="inc-1", boot_id="boot-1", snapshot=BooksSnapshot(), fallback=config, unix_ms=0
    )
    engine.recover()
    row = TableRow("other", tuple(TableArm(a.id, 125_000, 500_000, 1_000, 300) for a in arms))
    engine.table_pushed(SelectionTable(1, "edge", 1, 0, (row,)))
    effects = engine.gate.granted(granted(), incarnation="inc-1", boot_ms=0)
    engine.gate.synced(effects)
    conditions = {arm.id: ArmCondition(queue_ms=5.0) for arm in arms}
    asked = facts(
        deadline_ms=5_000,
        capabilities=frozenset({"tools"}),
        fields=frozenset({"temperature"}),
        prompt_bytes=100,
    )
    took = []
    for call in range(CALLS):
        begun = time.perf_counter()
        decision = engine.route(
            asked, conditions=conditions, now_ms=1.0, uniform=(call % 1_000) / 1_000
        )
        took.append(time.perf_counter() - begun)
        if not decision.arm or decision.fallouts:
            raise AssertionError(f"every arm may answer, but {decision.fallouts}")
    return statistics.median(took[CALLS // 10 :]) * 1e6


def _peer_python() -> str:
    """The interpreter that has the package; empty if none is named."""
    return os.environ.get("PARETOBANDIT_PYTHON", "")


def _peer(*arguments: str) -> Any:
    """Run the comparison in the package's own environment."""
    command = [_peer_python(), str(COMPARE), *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
