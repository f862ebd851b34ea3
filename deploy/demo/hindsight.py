"""Yardsticks on the same stream: what the best mixture and two simple rules would have earned.

Rewards and costs are those of the answers that every arm gives to every request (replayed with
the same models, greedily). Whether an arm meets the deadline comes from what was served, and is
estimated from the model's pace where an arm never served a context.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np

from coordinator.policy.fluid import solve_fluid_lp
from deploy.demo.answers import ArmAnswer
from deploy.demo.board import End, Record
from deploy.demo.settings import ARMS, CLOUD_ARM, DEVICES, DemoSettings
from deploy.demo.stream import Planned

SERVED_MIN: Final = 5
"""Fewer served requests than this say too little about an arm's latency."""

PROMPT_SPEEDUP: Final = 8.0
OVERHEAD_MS: Final = 15.0
CLOUD_MS_PER_TOKEN: Final = 3.0

Context = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Yardsticks:
    """What could have been earned on the stream; means over all requests that were waited for.

    Attributes
    ----------
    lp_reward_mean : float
        The best mixture per device class and task class under the budget and the SLA floor.
    lp_sla_share : float
        The share of requests that this mixture answers within their deadlines.
    lp_mixture : mapping
        By context, the share of each arm.
    always_local_reward_mean : float
        The strongest local model of each device for everything.
    always_cloud_reward_mean : float
        The cloud for everything in the order of arrival until the budget is gone, and from then
        on the strongest local model.
    agreement_share : float
        Share of the served answers that the replay reproduced letter by letter.
    """

    lp_reward_mean: float
    lp_sla_share: float
    lp_mixture: Mapping[str, Mapping[str, float]]
    always_local_reward_mean: float
    always_cloud_reward_mean: float
    agreement_share: float


class Replay:
    """Every arm's answer to every request, with its cost.

    Parameters
    ----------
    stream : sequence of Planned
    answers : sequence of ArmAnswer
        One for every request and arm.

    Raises
    ------
    ValueError
        When an answer is missing.
    """

    def __init__(
        self, stream: Sequence[Planned], answers: Sequence[ArmAnswer], *, settings: DemoSettings
    ) -> None:
        self.stream = stream
        self._answers = {(answer.index, answer.arm): answer for answer in answers}
        self._price = settings.prices.price
        missing = len(stream) * len(ARMS) - len(self._answers)
        if missing:
            raise ValueError(f"{missing} answers of the replay are missing: see hindsight.log")

    def answer(self, index: int, arm: str) -> ArmAnswer:
        """What an arm answers to a request."""
        return self._answers[index, arm]

    def cost_nanos(self, index: int, arm: str) -> int:
        """What a request costs on an arm."""
        if arm != CLOUD_ARM:
            return 0
        answer = self.answer(index, arm)
        return self._price.cost_nanos(
            prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens
        )


def measure(replay: Replay, records: Sequence[Record], *, settings: DemoSettings) -> Yardsticks:
    """Compute all yardsticks."""
    graded = {record.index for record in records if record.end is not End.ABORTED}
    items = [item for item in replay.stream if item.index in graded]
    if not items:
        raise ValueError("no request was waited for, so there is nothing to compare with")
    mixture = _best_mixture(replay, items, _hit_shares(replay, records, settings), settings)
    return Yardsticks(
        lp_reward_mean=mixture.reward_mean,
        lp_sla_share=mixture.sla_share,
        lp_mixture=mixture.weights,
        always_local_reward_mean=fmean(_local(replay, item) for item in items),
        always_cloud_reward_mean=fmean(_cloud_first(replay, items, settings.budget_nanos)),
        agreement_share=_agreement(replay, records),
    )


@dataclass(frozen=True, kw_only=True)
class _Mixture:
    reward_mean: float
    sla_share: float
    weights: Mapping[str, Mapping[str, float]]


def _best_mixture(
    replay: Replay,
    items: Sequence[Planned],
    hit_shares: Mapping[tuple[Context, str], float],
    settings: DemoSettings,
) -> _Mixture:
    """Solve the fluid programme with the stream's true demand, rewards and costs."""
    members: dict[Context, list[int]] = defaultdict(list)
    for item in items:
        members[item.device, item.task_class].append(item.index)
    contexts = sorted(members)
    shape = (len(contexts), len(ARMS))
    reward, cost, hits = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    feasible = np.zeros(shape, dtype=np.bool_)
    for row, context in enumerate(contexts):
        for column, arm in enumerate(ARMS):
            indices = members[context]
            reward[row, column] = fmean(replay.answer(i, arm).reward for i in indices)
            cost[row, column] = fmean(replay.cost_nanos(i, arm) for i in indices)
            hits[row, column] = hit_shares[context, arm]
            feasible[row, column] = arm in DEVICES[context[0]].arms
    demand = np.array([float(len(members[context])) for context in contexts])
    found = solve_fluid_lp(
        demand,
        reward=reward,
        packing=(cost,),
        budget=np.array([float(settings.budget_nanos)]),
        hits=(hits,),
        floor=np.array([settings.sla_floor]),
        rho=np.array([settings.sla_rho]),
        feasible=feasible,
    )
    total = float(demand.sum())
    return _Mixture(
        reward_mean=float(demand @ (found.weights * reward).sum(axis=1)) / total,
        sla_share=float(demand @ (found.weights * hits).sum(axis=1)) / total,
        weights={
            "/".join(context): {
                arm: round(float(found.weights[row, column]), 4) for column, arm in enumerate(ARMS)
            }
            for row, context in enumerate(contexts)
        },
    )


def _hit_shares(
    replay: Replay, records: Sequence[Record], settings: DemoSettings
) -> dict[tuple[Context, str], float]:
    """The share of requests within their deadline for each context and arm."""
    served: dict[tuple[Context, str], list[bool]] = defaultdict(list)
    for record in records:
        if record.end is End.ANSWERED:
            served[(record.device, record.task_class), record.arm].append(record.hit)
    members: dict[Context, list[Planned]] = defaultdict(list)
    for item in replay.stream:
        members[item.device, item.task_class].append(item)
    shares = {}
    for context, items in members.items():
        for arm in ARMS:
            hits = served[context, arm]
            if len(hits) < SERVED_MIN:
                limit_ms = settings.deadlines_ms[context[1]]
                hits = [_expected_ms(replay, item, arm, settings) <= limit_ms for item in items]
            shares[context, arm] = fmean(hits)
    return shares


def _expected_ms(replay: Replay, item: Planned, arm: str, settings: DemoSettings) -> float:
    """An answer's latency from the pace of its model, for contexts that an arm never served."""
    answer = replay.answer(item.index, arm)
    if arm == CLOUD_ARM:
        tokens = answer.prompt_tokens / PROMPT_SPEEDUP + answer.completion_tokens
        return settings.network_ms + OVERHEAD_MS + CLOUD_MS_PER_TOKEN * tokens
    pace = DEVICES[item.device].tokens_per_second.get(arm)
    if pace is None:
        return float("inf")
    seconds = (answer.prompt_tokens / PROMPT_SPEEDUP + answer.completion_tokens) / pace
    return OVERHEAD_MS + 1_000.0 * seconds


def _local(replay: Replay, item: Planned) -> float:
    return replay.answer(item.index, DEVICES[item.device].local_arms[-1]).reward


def _cloud_first(replay: Replay, items: Sequence[Planned], budget_nanos: int) -> list[float]:
    """Rewards of the cloud for everything, until a request no longer fits the budget."""
    left_nanos, rewards = budget_nanos, []
    for item in items:
        cost_nanos = replay.cost_nanos(item.index, CLOUD_ARM)
        if cost_nanos > left_nanos:
            left_nanos = 0
        if left_nanos:
            left_nanos -= cost_nanos
            rewards.append(replay.answer(item.index, CLOUD_ARM).reward)
        else:
            rewards.append(_local(replay, item))
    return rewards


def _agreement(replay: Replay, records: Sequence[Record]) -> float:
    same = [
        replay.answer(record.index, record.arm).text == record.text
        for record in records
        if record.end is End.ANSWERED and record.arm in ARMS
    ]
    return fmean(same) if same else 0.0
