"""The `paretobandit` package on the same stream of recorded answers, and how long it chooses.

It runs in an environment of its own, which needs nothing of this project:

    python3.11 -m venv /tmp/paretobandit && /tmp/paretobandit/bin/pip install paretobandit==0.1.1
    PARETOBANDIT_PYTHON=/tmp/paretobandit/bin/python make bench

`tests.bench.replaying` hands it the stream as an `.npz` file and reads JSON from standard output:

    python tests/bench/paretobandit_compare.py replay STREAM.npz
    python tests/bench/paretobandit_compare.py route --arms 8 --dimension 26 --calls 2000

Set up as its own documentation shows for own models and precomputed features: a registry of
input and output prices, no priors, a `BudgetPacer` with the budget per prompt as its target. The
features are the task class, one-hot, and a bias: the same context that the policies here get. The
pacer is told the true cost of every answer. Two defaults are changed in its
favour. The static `cost_penalty` is 0, so that the pacer alone prices money: with the default of
0.3 it never leaves the cheapest arm on this stream, whatever the budget. And `alpha` is 0.3,
the best of 0.01, 0.1, 0.3 and 1: with the default of 0.01, which is meant for warm priors, many
orders end the same way.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from typing import Any

import numpy as np
from pareto_bandit import BanditRouter  # type: ignore[import-not-found] # not in this venv
from pareto_bandit.budget_pacer import BudgetPacer  # type: ignore[import-not-found]
from pareto_bandit.feature_service import FeatureService  # type: ignore[import-not-found]


def main() -> int:
    """Run one of the two comparisons and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    replay = commands.add_parser("replay", help="play the orders of a stream")
    replay.add_argument("stream")
    route = commands.add_parser("route", help="time `route` with precomputed features")
    route.add_argument("--arms", type=int, default=8)
    route.add_argument("--dimension", type=int, default=26)
    route.add_argument("--calls", type=int, default=2_000)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.command == "replay":
        with np.load(options.stream) as stream:
            found: Any = [play(dict(stream), budget=float(b)) for b in stream["budget_usd"]]
    else:
        found = {"route_us_p50": time_route(options.arms, options.dimension, options.calls)}
    json.dump(found, sys.stdout)
    return 0


def play(stream: dict[str, Any], *, budget: float) -> dict[str, float]:
    """Play every order once, as the package would run and as a hard budget would cut it off.

    Parameters
    ----------
    stream : dict
        ``reward`` and ``cost_usd``, shape (N, A); ``class_of``, shape (N,); ``orders``, shape
        (K, N); ``prices``, shape (A, 2), input and output dollars per million tokens.
    budget : float
        Dollars per prompt.

    Returns
    -------
    dict
        ``reward_mean`` and ``spent_share`` of the whole stream, whatever it costs;
        ``reward_within_budget`` and ``answered_within_budget``: what was earned, per prompt of
        the stream, until the next answer would have cost more than was left. Means over orders;
        ``reward_worst_order`` and ``spent_share_max`` are of the worst order.
    """
    runs = [
        _order(stream, order, budget=budget, seed=k) for k, order in enumerate(stream["orders"])
    ]
    reward, spent, within, answered = np.array(runs).T
    return {
        "budget_per_prompt": budget,
        "reward_mean": float(reward.mean()),
        "reward_worst_order": float(reward.min()),
        "spent_share": float(spent.mean()),
        "spent_share_max": float(spent.max()),
        "reward_within_budget": float(within.mean()),
        "answered_within_budget": float(answered.mean()),
    }


def _order(
    stream: dict[str, Any], order: Any, *, budget: float, seed: int
) -> tuple[float, float, float, float]:
    classes = int(stream["class_of"].max()) + 1
    names = [f"arm{a}" for a in range(stream["reward"].shape[1])]
    router = _router(stream["prices"], names, classes + 1, budget=budget, seed=seed)
    total, count = budget * len(order), len(order)
    earned = spent = within = 0.0
    answered, stopped = 0, False
    for prompt in order:
        features = np.zeros(classes + 1)
        features[[stream["class_of"][prompt], classes]] = 1.0
        name, log = router.route(features)
        arm = names.index(name)
        cost, reward = float(stream["cost_usd"][prompt, arm]), float(stream["reward"][prompt, arm])
        log.cost_usd = cost
        router.process_feedback(log.request_id, reward=reward)
        stopped = stopped or spent + cost > total
        earned += reward
        spent += cost
        if not stopped:
            within += reward
            answered += 1
    return earned / count, spent / total, within / count, answered / count


def time_route(arms: int, dimension: int, calls: int) -> float:
    """Median microseconds of one `route`, after some feedback."""
    rng = np.random.default_rng(1)
    prices = np.stack([np.geomspace(0.1, 2.0, arms), np.geomspace(0.1, 10.0, arms)], axis=1)
    names = [f"arm{a}" for a in range(arms)]
    router = _router(prices, names, dimension, budget=0.001, seed=1)
    features = rng.normal(size=(calls, dimension))
    took = []
    for row in features:
        begun = time.perf_counter()
        _, log = router.route(row)
        took.append(time.perf_counter() - begun)
        router.process_feedback(log.request_id, reward=float(rng.random()))
    return statistics.median(took[calls // 10 :]) * 1e6


def _router(prices: Any, names: list[str], dimension: int, *, budget: float, seed: int) -> Any:
    registry = {
        name: {"input_cost_per_m": float(pair[0]), "output_cost_per_m": float(pair[1])}
        for name, pair in zip(names, prices, strict=True)
    }
    return BanditRouter.create(
        model_registry=registry,
        feature_service=FeatureService.for_precomputed(dimension=dimension),
        priors="none",
        bandit_seed=seed,
        alpha=0.3,
        cost_penalty=0.0,
        budget_pacer=BudgetPacer(target_avg_spend_usd=budget),
    )


if __name__ == "__main__":
    sys.exit(main())
