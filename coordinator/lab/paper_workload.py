"""The paper's workloads (arXiv 2606.17489): arms, demand, and every draw that a run can meet."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import scipy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coordinator.forecast import make_forecaster
from coordinator.policy import FluidSolution, solve_fluid_lp
from coordinator.policy.base import FloatArray, IntArray
from shared.errors import ConfigError
from shared.settings import ConfigProblems, problems_of

COST_UNIT_NANOS: Final = 1_000_000
"""Nano-dollars of one cost unit, the dearest arm's mean cost: money stays a whole number."""

_RENEWED_EARLY: Final = 256
_RENEWED_LATE: Final = 64
_RENEWED_EVERY: Final = 16

Positive = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IidDemand(_Table):
    """Independent normal demand."""

    kind: Literal["iid"]
    mean: Positive
    variance: Positive
    max: Annotated[int, Field(ge=1)]


class Ar1Demand(_Table):
    """Demand with memory: ``q_t = constant + memory q_(t-1) + noise``."""

    kind: Literal["ar1"]
    constant: float
    memory: Annotated[float, Field(gt=-1.0, lt=1.0)]
    noise_sd: Positive
    start: float
    max: Annotated[int, Field(ge=1)]


class PaperArm(_Table):
    """One row of the paper's Table 1."""

    name: str
    accuracy: Share
    delay_s: Positive
    usd_per_1k_tokens: Positive
    response_tokens: Positive

    @property
    def usd_per_task(self) -> float:
        """Price times mean response length."""
        return self.usd_per_1k_tokens * self.response_tokens / 1000.0


class PaperScenario(_Table):
    """A scenario file; see the comments in ``scenarios/paper-iid.toml``."""

    name: str
    slots: Annotated[int, Field(ge=1)]
    budget_units: Positive
    floor: Share
    deadline_s: Positive
    latency_shape: Positive
    cost_variation: Positive
    rho: Positive
    slack_max: Share
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    demand_prior: Positive
    demand: Annotated[IidDemand | Ar1Demand, Field(discriminator="kind")]
    arms: Annotated[tuple[PaperArm, ...], Field(min_length=2)]

    @property
    def arm_names(self) -> list[str]:
        """The arms in the order of all arrays."""
        return [arm.name for arm in self.arms]

    @property
    def reward(self) -> FloatArray:
        """True mean reward, shape (A,)."""
        return np.array([arm.accuracy for arm in self.arms])

    @property
    def hit(self) -> FloatArray:
        """True probability of an answer within the deadline, shape (A,)."""
        delay = np.array([arm.delay_s for arm in self.arms])
        centre = np.log(delay) - 0.5 * self.latency_shape**2
        return np.asarray(
            scipy.special.ndtr((math.log(self.deadline_s) - centre) / self.latency_shape)
        )

    @property
    def list_cost(self) -> FloatArray:
        """Price times mean tokens in cost units, shape (A,): what is known in advance."""
        dollars = np.array([arm.usd_per_task for arm in self.arms])
        return np.asarray(dollars / dollars.max())

    @property
    def cost(self) -> FloatArray:
        """True mean cost of a task, the normal clipped to [0, 1], in cost units, shape (A,)."""
        centre = self.list_cost
        sd = self.cost_variation * centre
        low, high = (0.0 - centre) / sd, (1.0 - centre) / sd
        inside = centre * (scipy.special.ndtr(high) - scipy.special.ndtr(low)) + sd * (
            _density(low) - _density(high)
        )
        return np.asarray(inside + (1.0 - scipy.special.ndtr(high)))

    def resized(self, slots: int) -> PaperScenario:
        """The same scenario over another horizon, with the same budget per slot."""
        return self.model_copy(
            update={"slots": slots, "budget_units": self.budget_units * slots / self.slots}
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Workload:
    """One seed's demand and outcomes, drawn before anybody plays: runs on it are paired.

    Attributes
    ----------
    scenario : PaperScenario
    seed : int
    demand : ndarray of int, shape (T,)
        Tasks per slot.
    success, hit : ndarray of bool, shape (T, A, N)
        Outcome of the slot's n-th task if the arm serves it; ``N`` is the largest demand.
    cost_nanos : ndarray of int, shape (T, A, N)
    arm_draw : ndarray, shape (T,)
        Uniform in [0, 1): which arm a mixture plays.
    best : FluidSolution
        The optimum with the true means and the true demand.
    """

    scenario: PaperScenario
    seed: int
    demand: IntArray
    success: np.ndarray[Any, np.dtype[np.bool_]]
    hit: np.ndarray[Any, np.dtype[np.bool_]]
    cost_nanos: IntArray
    arm_draw: FloatArray
    best: FluidSolution

    @property
    def budget_nanos(self) -> int:
        """The hard budget of the window."""
        return round(self.scenario.budget_units * COST_UNIT_NANOS)

    @property
    def optimum_rate(self) -> float:
        """Reward per task of the fluid optimum."""
        return float(self.best.weights[0] @ self.scenario.reward)


@dataclass(frozen=True, eq=False, kw_only=True)
class DemandForecast:
    """What a forecaster said before each slot, from the slots before it alone; shape (T,) each.

    Attributes
    ----------
    rest, rest_lower, rest_upper : ndarray
        Demand until the horizon, that slot included, and its quantiles.
    coming : ndarray
        Demand of that slot.
    total : ndarray
        Past demand plus ``rest``: the paper's ``Qhat_t``.
    """

    rest: FloatArray
    rest_lower: FloatArray
    rest_upper: FloatArray
    coming: FloatArray
    total: FloatArray


def load_scenario(name: str) -> PaperScenario:
    """Read a shipped scenario by its name, or a scenario file by its path.

    Raises
    ------
    ConfigError
        When there is none, or it cannot be used; names the key at fault.
    """
    folder = resources.files("coordinator.lab") / "scenarios"
    shipped = folder / f"{name}.toml"
    source = shipped if shipped.is_file() else Path(name)
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError:
        raise ConfigError(
            "scenario", f"{name} is neither paper-iid, paper-ar1 nor a file that can be read"
        ) from None
    try:
        return PaperScenario.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(name, f"is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ConfigProblems(problems_of(error, model=PaperScenario), source=name) from None


@lru_cache(maxsize=2)
def draw_workload(scenario: PaperScenario, *, seed: int) -> Workload:
    """Draw one seed's workload; equal arguments give equal workloads."""
    demand = draw_demand(scenario, seed=seed)
    outcome_rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[1])
    shape = (scenario.slots, len(scenario.arms), int(demand.max(initial=1)))
    centre = scenario.list_cost[None, :, None]
    cost = np.clip(centre * outcome_rng.normal(1.0, scenario.cost_variation, shape), 0.0, 1.0)
    delay = np.log([arm.delay_s for arm in scenario.arms]) - 0.5 * scenario.latency_shape**2
    latency = outcome_rng.normal(delay[None, :, None], scenario.latency_shape, shape)
    return Workload(
        scenario=scenario,
        seed=seed,
        demand=demand,
        success=outcome_rng.random(shape) < scenario.reward[None, :, None],
        hit=latency <= math.log(scenario.deadline_s),
        cost_nanos=np.rint(cost * COST_UNIT_NANOS).astype(np.int64),
        arm_draw=outcome_rng.random(scenario.slots),
        best=solve_fluid_lp(
            np.array([float(demand.sum())]),
            reward=scenario.reward[None],
            packing=(scenario.cost[None],),
            budget=np.array([scenario.budget_units]),
            hits=(scenario.hit[None],),
            floor=np.array([scenario.floor]),
            rho=np.array([scenario.rho]),
            feasible=np.ones((1, len(scenario.arms)), dtype=np.bool_),
        ),
    )


def forecast_demand(
    scenario: PaperScenario,
    *,
    seeds: Sequence[int],
    advance: Callable[[int], None] = lambda slots: None,
) -> list[DemandForecast]:
    """Run the default forecaster over the demand of each seed.

    Demand does not depend on what is played, so all policies of a seed share its forecast; and
    the forecaster keeps its series apart, so that all seeds are forecast in one pass. Between two
    renewals the forecast total stays, and what is left of it shrinks by what came.

    Parameters
    ----------
    seeds : sequence of int
    advance : callable
        Told how many slots are done, for a progress bar.

    Returns
    -------
    list of DemandForecast
        One per seed.
    """
    demand = np.stack([draw_demand(scenario, seed=seed) for seed in seeds]).astype(np.float64)
    series, slots = demand.shape
    forecaster = make_forecaster("chooser", prior=np.full(series, scenario.demand_prior))
    found = np.zeros((5, series, slots))
    past = np.zeros(series)
    totals, coming = np.zeros((3, series)), np.zeros(series)
    for slot in range(slots):
        if _renews(slot, slots=slots):
            rest = forecaster.remaining(slots - slot)
            totals = past + np.stack([rest.mean, rest.lower, rest.upper])
            coming = forecaster.remaining(1).mean
        found[:3, :, slot] = np.maximum(totals - past, 0.0)
        found[3:, :, slot] = coming, totals[0]
        past += demand[:, slot]
        forecaster.update(slot, counts=demand[:, slot].copy())
        advance(1)
    return [
        DemandForecast(rest=of[0], rest_lower=of[1], rest_upper=of[2], coming=of[3], total=of[4])
        for of in np.ascontiguousarray(found.transpose(1, 0, 2))
    ]


def _renews(slot: int, *, slots: int) -> bool:
    """Whether the forecast is made anew: in every slot early and late, else in every sixteenth.

    Asking takes longer than playing a slot, and sixteen slots of thousands change little.
    """
    return slot < _RENEWED_EARLY or slot >= slots - _RENEWED_LATE or slot % _RENEWED_EVERY == 0


def draw_demand(scenario: PaperScenario, *, seed: int) -> IntArray:
    """Tasks per slot of one seed, shape (T,)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[0])
    given, slots = scenario.demand, scenario.slots
    if isinstance(given, IidDemand):
        series = rng.normal(given.mean, math.sqrt(given.variance), slots)
    else:
        noise = rng.normal(0.0, given.noise_sd, slots)
        series = np.zeros(slots)
        level = given.start
        for slot in range(slots):
            level = given.constant + given.memory * level + float(noise[slot])
            series[slot] = level
    return np.asarray(np.clip(np.rint(series), 0, given.max).astype(np.int64))


def _density(z: FloatArray) -> FloatArray:
    """The standard normal density."""
    return np.asarray(np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi))
