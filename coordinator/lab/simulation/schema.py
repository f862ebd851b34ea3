"""Scenario files: what the operator configures, and what is true in the simulated world.

`[window]`, `[budget]`, `[sla]`, `[policy]` and `[link]` are handed to the coordinator as they are
written, in the form of a fleet file; the other tables describe the world.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from coordinator.fleet_schema import (
    BudgetTable,
    LinkTable,
    PriceTable,
    SlaTable,
    Table,
    WindowTable,
)
from coordinator.fleet_values import Amount, DeadlineMs, DurationMs, Name, Names, Share, Tokens
from shared.errors import ConfigError
from shared.settings import ConfigProblems, Problem, problems_of

SHIPPED: Final = Path(__file__).resolve().parent.parent / "scenarios"
DEVICES_MAX: Final = 100_000
Rate = Annotated[float, Field(ge=0.0, le=1e6)]
Spread = Annotated[float, Field(ge=0.0, le=3.0)]
Slot = Annotated[int, Field(ge=0)]


class ScenarioTable(Table):
    """`[scenario]`"""

    name: Name = Field(description='the name of the scenario, such as "binding-budget"')
    description: str = ""
    binding: list[Literal["budget", "sla", "capacity"]] = Field(
        default_factory=list,
        description="rows that must have a price at the optimum",
    )
    local_share_min: Share = 0.3
    arms_min: Annotated[int, Field(ge=1)] = 3
    arm_share_min: Share = 0.1


class GradingTable(Table):
    """`[grading]`: which answers are graded, and how long that takes."""

    share: Share = 1.0
    delay: DurationMs = 30_000
    spread: Annotated[Literal["bernoulli", "beta"], Field(description="of rewards")] = "beta"
    concentration: Annotated[float, Field(gt=0.0, le=1_000.0)] = 3.0


class NetworkTable(Table):
    """`[network]`: one-way delays, and how often a device without money asks again."""

    delay: DurationMs = 40
    jitter: Spread = 0.5
    poll: DurationMs = 10_000


class WorldDeviceClass(Table):
    """`[device_classes.NAME]`

    Attributes
    ----------
    speed : float
        Divides the service time of local arms.
    parallel : int
        Requests that one device answers at a time.
    utilisation : float
        Share of its time that is planned with, also by the clairvoyant.
    memory_gb : float
        For loaded models; 0 where all local arms fit together.
    """

    devices: Annotated[int, Field(ge=1, le=DEVICES_MAX)] = Field(description="how many there are")
    arms: Names = Field(description="the arms that its devices may use")
    speed: Annotated[float, Field(gt=0.0, le=1_000.0)] = 1.0
    parallel: Annotated[int, Field(ge=1, le=64)] = 1
    utilisation: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    memory_gb: Annotated[float, Field(ge=0.0, le=100_000.0)] = 0.0


class WorldTaskClass(Table):
    """`[task_classes.NAME]`

    Attributes
    ----------
    requests : mapping of str to float
        Mean requests per slot of each device class.
    prompt_tokens, completion_tokens : int
        Means; an arm may have another mean completion.
    prior_factor : float
        The operator's declared demand over the true mean: how wrong a cold start is.
    """

    deadline: DeadlineMs
    privacy: Literal["any", "local"] = "any"
    prompt_tokens: Tokens = 300
    completion_tokens: Tokens = 150
    token_spread: Spread = 0.4
    requests: dict[str, Rate] = Field(description="mean requests per slot of each device class")
    prior_factor: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0


class DemandTable(Table):
    """`[demand]`: how counts vary around their means.

    Attributes
    ----------
    kind : str
        `iid` (Poisson), `ar1` (a common autoregressive factor), `seasonal` (a sine), or `trace`
        (a factor per slot from a CSV file).
    phi, spread : float
        Of `ar1`: the factor's coefficient and the standard deviation of its noise.
    amplitude, period_slots, phase : float
        Of `seasonal`: factor `1 + amplitude sin(2 pi (slot / period + phase))`.
    file, column : str
        Of `trace`: beside the scenario file, one number a slot; used again from its beginning.
    """

    kind: Literal["iid", "ar1", "seasonal", "trace"] = "iid"
    phi: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.7
    spread: Spread = 0.15
    amplitude: Share = 0.5
    period_slots: Annotated[float, Field(gt=0.0)] = 120.0
    phase: float = 0.0
    file: str = ""
    column: str = "requests"


class PriorOfArm(Table):
    """`[arms.NAME.prior]`: what the operator believes of an arm before its first outcome."""

    reward: Share = 0.5
    reward_weight: Annotated[float, Field(gt=0.0, le=1e6)] = 2.0
    latency: DurationMs = 5_000
    prompt_tokens: Tokens = 300
    completion_tokens: Tokens = 150


class WorldArm(Table):
    """`[arms.NAME]`

    Attributes
    ----------
    absent : bool
        Not in the fleet before an event of kind `new_arm`.
    reward : mapping of str to float
        True mean reward per task class.
    first_ms : float
        Fixed part of the latency: prefill, or the network and the provider's queue.
    tokens_per_second : float
        Of the completion; the rest of the latency.
    latency_spread : float
        Sigma of the lognormal factor on the whole latency.
    completion_factor : float
        The arm's mean completion over the task class's.
    load_time : duration
        What loading the model takes (local arms).
    memory_gb : float
        What a loaded model takes (local arms).
    price : table
        As in a fleet file (cloud arms).
    """

    kind: Literal["local", "cloud"]
    absent: bool = False
    reward: dict[str, Share] = Field(description="true mean reward of each task class")
    first_ms: Annotated[float, Field(ge=0.0, le=1e6)] = 300.0
    tokens_per_second: Annotated[float, Field(gt=0.0, le=1e5)] = 50.0
    latency_spread: Spread = 0.3
    completion_factor: Annotated[float, Field(gt=0.0, le=10.0)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 1_024
    load_time: DurationMs = 5_000
    memory_gb: Annotated[float, Field(ge=0.0, le=100_000.0)] = 0.0
    price: PriceTable | None = None
    prior: PriorOfArm = Field(default_factory=PriorOfArm)


class EventTable(Table):
    """`[[events]]`: what changes in the judged window.

    Attributes
    ----------
    at_slot, until_slot : int
        Slots of the judged window; without `until_slot` it stays.
    kind : str
        `price`, `quality`, `new_arm`, `dead_arm`, `demand`, `budget`, `link_down`,
        `coordinator_down`, `cloud_down`.
    arm, task_class, device_class : str
        What it concerns; empty for all where that makes sense.
    factor : float
        Of `price` and `demand`.
    reward : float
        Of `quality`: the new true mean.
    """

    at_slot: Slot
    until_slot: Slot | None = None
    kind: Literal[
        "price",
        "quality",
        "new_arm",
        "dead_arm",
        "demand",
        "budget",
        "link_down",
        "coordinator_down",
        "cloud_down",
    ]
    arm: str = ""
    task_class: str = ""
    device_class: str = ""
    factor: Annotated[float, Field(ge=0.0, le=1_000.0)] = 1.0
    reward: Share | None = None
    amount_usd: Amount | None = None


class Scenario(Table):
    """A scenario file."""

    scenario: ScenarioTable
    window: WindowTable
    budget: BudgetTable
    sla: SlaTable = Field(default_factory=SlaTable)
    policy: dict[str, Any] = Field(default_factory=dict)
    link: LinkTable = Field(default_factory=LinkTable)
    grading: GradingTable = Field(default_factory=GradingTable)
    network: NetworkTable = Field(default_factory=NetworkTable)
    demand: DemandTable = Field(default_factory=DemandTable)
    device_classes: dict[str, WorldDeviceClass]
    task_classes: dict[str, WorldTaskClass]
    arms: dict[str, WorldArm]
    events: list[EventTable] = Field(default_factory=list)

    @property
    def slots(self) -> int:
        """Slots in a window."""
        return self.window.length // self.window.slot


def scenario_path(name: str) -> Path:
    """The file of a scenario: a path, or the name of a shipped one.

    Raises
    ------
    ConfigError
        When there is no such file; names the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name.removesuffix('.toml')}.toml"
    if shipped.is_file():
        return shipped
    known = ", ".join(shipped_scenarios())
    raise ConfigError(name, f"is no file and no shipped scenario; shipped are {known}")


def shipped_scenarios() -> list[str]:
    """Names of the fleet scenarios that come with the package."""
    found = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    return [name for name in found if not name.startswith("paper-")]


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises
    ------
    ConfigProblems
        Naming the file and every key at fault.
    ConfigError
        When the file cannot be read.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not valid TOML: {error}") from error
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        raise ConfigProblems(problems_of(error, model=Scenario), source=str(path)) from None
    problems = [*_arm_problems(scenario), *_class_problems(scenario), *_event_problems(scenario)]
    if problems:
        raise ConfigProblems(problems, source=str(path))
    return scenario


def _arm_problems(scenario: Scenario) -> list[Problem]:
    found = []
    for name, arm in scenario.arms.items():
        if (arm.kind == "cloud") != (arm.price is not None):
            found.append(Problem(f"arms.{name}.price", "a cloud arm has one, a local arm has none"))
        missing = sorted(set(scenario.task_classes) - set(arm.reward))
        if missing:
            found.append(Problem(f"arms.{name}.reward", f"lacks the task class {missing[0]!r}"))
        found += [
            Problem(f"arms.{name}.reward.{task}", "is no task class of this scenario")
            for task in sorted(set(arm.reward) - set(scenario.task_classes))
        ]
    return found


def _class_problems(scenario: Scenario) -> list[Problem]:
    found = []
    for name, device_class in scenario.device_classes.items():
        unknown = sorted(set(device_class.arms) - set(scenario.arms))
        if unknown:
            problem = f"{unknown[0]!r} is no arm of this scenario"
            found.append(Problem(f"device_classes.{name}.arms", problem))
    for name, task in scenario.task_classes.items():
        found += [
            Problem(f"task_classes.{name}.requests.{key}", "is no device class of this scenario")
            for key in sorted(set(task.requests) - set(scenario.device_classes))
        ]
    if not any(sum(task.requests.values()) > 0 for task in scenario.task_classes.values()):
        found.append(Problem("task_classes", "no task class has any requests"))
    if scenario.demand.kind == "trace" and not scenario.demand.file:
        found.append(Problem("demand.file", 'missing; kind "trace" needs a CSV file'))
    return found


def _event_problems(scenario: Scenario) -> list[Problem]:
    found = []
    for index, event in enumerate(scenario.events):
        key = f"events[{index}]"
        if event.at_slot >= scenario.slots:
            found.append(Problem(f"{key}.at_slot", f"the window has {scenario.slots} slots"))
        if event.until_slot is not None and event.until_slot <= event.at_slot:
            found.append(Problem(f"{key}.until_slot", "should be after at_slot"))
        if event.kind in ("price", "quality", "new_arm", "dead_arm") and (
            event.arm not in scenario.arms
        ):
            found.append(Problem(f"{key}.arm", f"{event.arm!r} is no arm of this scenario"))
        elif event.kind == "new_arm" and not scenario.arms[event.arm].absent:
            found.append(Problem(f"arms.{event.arm}.absent", "should be true: it comes later"))
        elif event.kind == "price" and scenario.arms[event.arm].price is None:
            found.append(Problem(f"{key}.arm", f"{event.arm!r} is local and has no price"))
        if event.kind == "quality" and event.reward is None:
            found.append(Problem(f"{key}.reward", "missing; the new true mean reward"))
        if event.kind == "budget" and event.amount_usd is None:
            found.append(Problem(f"{key}.amount_usd", "missing; dollars for the window"))
        for field, known in (
            ("task_class", scenario.task_classes),
            ("device_class", scenario.device_classes),
        ):
            value = getattr(event, field)
            if value and value not in known:
                found.append(Problem(f"{key}.{field}", f"{value!r} is none of this scenario"))
    return found
