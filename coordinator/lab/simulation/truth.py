"""What is true in the world: distributions with exactly known means, per arm and context.

Every distribution is a table of equally likely values. Its mean and its distribution function are
then known exactly, whatever was clipped or rounded, and a draw costs one index.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from random import Random

import numpy as np
import scipy

from coordinator.lab.simulation.schema import Scenario
from coordinator.policy.base import FloatArray
from shared.decision.money import TOKENS_PER_MTOK, Price

VALUES = 2_048
"""Values of a distribution."""


class Distribution:
    """Equally likely values, in rising order."""

    __slots__ = ("mean", "values")

    def __init__(self, values: FloatArray) -> None:
        self.values: list[float] = np.sort(values).tolist()
        self.mean = float(values.mean())

    def draw(self, rng: Random) -> float:
        """One value."""
        return self.values[int(rng.random() * VALUES)]

    def share_up_to(self, limit: float) -> float:
        """The probability of a value of at most ``limit``."""
        return bisect_right(self.values, limit) / VALUES


def lognormal(mean: float, *, sigma: float, low: float = 0.0, high: float = np.inf) -> Distribution:
    """A lognormal distribution around a mean (before clipping)."""
    z = scipy.special.ndtri((np.arange(VALUES) + 0.5) / VALUES)
    return Distribution(np.clip(mean * np.exp(sigma * z - sigma**2 / 2), low, high))


def whole(distribution: Distribution) -> Distribution:
    """The same in whole numbers, such as tokens."""
    return Distribution(np.round(np.asarray(distribution.values)))


def rewards(mean: float, *, kind: str, concentration: float) -> Distribution:
    """Rewards in [0, 1] with a mean: right or wrong, or a beta distribution between."""
    at = (np.arange(VALUES) + 0.5) / VALUES
    if kind == "bernoulli" or mean in (0.0, 1.0):
        return Distribution((at > 1.0 - mean).astype(np.float64))
    values = scipy.special.betaincinv(mean * concentration, (1.0 - mean) * concentration, at)
    return Distribution(np.asarray(values, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class ContextTruth:
    """What is true of one (device class, task class, arm).

    Attributes
    ----------
    latency : Distribution
        Service time in ms, without waiting.
    completion : Distribution
        Completion tokens.
    first_share : float
        The part of the service time before the first token.
    """

    latency: Distribution
    completion: Distribution
    first_share: float


class Truth:
    """The distributions of a scenario, and what events have made of them.

    Attributes
    ----------
    reward_mean : dict of (task class, arm) to float
        Now; an event changes it.
    dead : set of str
        Arms whose calls fail now.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self.prompt = {
            name: whole(lognormal(task.prompt_tokens, sigma=task.token_spread, low=1.0))
            for name, task in scenario.task_classes.items()
        }
        self.contexts: dict[tuple[str, str, str], ContextTruth] = {}
        for device, device_class in scenario.device_classes.items():
            for task in scenario.task_classes:
                for arm in device_class.arms:
                    self.contexts[device, task, arm] = self._context(device, task=task, arm=arm)
        self.reward_mean = {
            (task, name): mean
            for name, arm in scenario.arms.items()
            for task, mean in arm.reward.items()
        }
        self._rewards: dict[tuple[str, str], Distribution] = {}
        self.dead: set[str] = set()

    def _context(self, device: str, *, task: str, arm: str) -> ContextTruth:
        truth, kind = self._scenario.arms[arm], self._scenario.task_classes[task]
        tokens = kind.completion_tokens * truth.completion_factor
        speed = self._scenario.device_classes[device].speed if truth.kind == "local" else 1.0
        all_ms = truth.first_ms + 1_000.0 * tokens / truth.tokens_per_second
        return ContextTruth(
            latency=lognormal(all_ms / speed, sigma=truth.latency_spread, low=1.0),
            completion=whole(
                lognormal(tokens, sigma=kind.token_spread, low=1.0, high=float(truth.max_tokens))
            ),
            first_share=truth.first_ms / all_ms,
        )

    def set_reward(self, task: str, arm: str, mean: float) -> None:
        """An event: the arm is worth this much from now on."""
        self.reward_mean[task, arm] = mean
        self._rewards.pop((task, arm), None)

    def draw_reward(self, task: str, arm: str, rng: Random) -> float:
        """What an answer turns out to be worth."""
        found = self._rewards.get((task, arm))
        if found is None:
            grading = self._scenario.grading
            found = rewards(
                self.reward_mean[task, arm],
                kind=grading.spread,
                concentration=grading.concentration,
            )
            self._rewards[task, arm] = found
        return found.draw(rng)

    def cost_mean(self, device: str, *, task: str, arm: str, price: Price) -> float:
        """Expected nano-dollars of a request; exact but for rounding up, half a nano-dollar."""
        micro = (
            self.prompt[task].mean * price.input_nanos_per_mtok
            + self.contexts[device, task, arm].completion.mean * price.output_nanos_per_mtok
        )
        return micro / TOKENS_PER_MTOK + price.request_nanos
