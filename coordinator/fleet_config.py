"""The fleet's configuration: text in, one frozen value out, every problem named by its key."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from coordinator.fleet_checks import (
    arm_problems,
    class_problems,
    field_problems,
    key_problems,
    name_problems,
    policy_problems,
    window_problems,
)
from coordinator.fleet_grading import grader_of, grading_problems, judge_ppm_of, signals_of
from coordinator.fleet_schema import (
    CloudArmTable,
    FleetFile,
    LocalArmTable,
    PolicyTable,
    TaskClassTable,
)
from coordinator.fleet_tables import arm_tables, effective_keys, validated
from coordinator.forecast import PathModel
from shared.decision.grading import NO_SIGNALS, Signals
from shared.decision.money import Price, WorstCase
from shared.decision.types import (
    Arm,
    ArmKind,
    CloudSettings,
    DeviceConfig,
    Judge,
    OnAbort,
    TaskClass,
)
from shared.errors import NotFoundError
from shared.limits import CONFIG_BYTES_MAX
from shared.settings import ConfigProblems, Problem, did_you_mean

OTHER_TASK_CLASS: Final = "other"
"""Requests of no other task class belong to it; it always exists."""


class FleetConfigError(ConfigProblems):
    """A fleet configuration cannot be used; `problems` has every reason as (key, problem)."""


@dataclass(frozen=True)
class WindowConfig:
    """The budget's period and its slots; windows are aligned to the anchor."""

    length_ms: int
    slot_ms: int
    anchor_unix_ms: int = 0

    @property
    def slots_per_window(self) -> int:
        """How many slots a window has."""
        return self.length_ms // self.slot_ms

    def window_of(self, unix_ms: int) -> tuple[int, int, int]:
        """The window that a time falls into.

        Returns
        -------
        id, start_unix_ms, end_unix_ms : int
            The id is the start in Unix milliseconds: it rises with time and stays unique when
            the length or the anchor is changed, so that no two windows share a balance.
        """
        start = unix_ms - (unix_ms - self.anchor_unix_ms) % self.length_ms
        return start, start, start + self.length_ms

    def slot_of(self, unix_ms: int) -> int:
        """The slot that a time falls into, counted from 0 in its window."""
        return (unix_ms - self.anchor_unix_ms) % self.length_ms // self.slot_ms


@dataclass(frozen=True)
class BudgetConfig:
    """What one window may cost at most, in nano-dollars.

    Attributes
    ----------
    alert_percents : tuple of int
        Shares of it that are announced once spent.
    """

    name: str
    amount_nanos: int
    alert_percents: tuple[int, ...] = (50, 80, 100)

    def differs(self, other: BudgetConfig) -> bool:
        """Whether the other is another budget, or another amount."""
        return (self.name, self.amount_nanos) != (other.name, other.amount_nanos)


@dataclass(frozen=True)
class RetentionConfig:
    """How long the books keep what they have learned from; the ledger is kept for good."""

    outcomes_days: int = 90


@dataclass(frozen=True)
class SlaConfig:
    """The share of requests to answer within their deadline.

    Attributes
    ----------
    floor : float
        Wanted share, in [0, 1].
    rho : float
        Reward given up per request that is missed.
    slack_max : float
        Largest share of the demand to come that may be spent on making good past misses.
    """

    floor: float = 0.0
    rho: float = 1.0
    slack_max: float = 0.5


@dataclass(frozen=True)
class PolicyConfig:
    """How plans are made. The options are keyword arguments of `make_policy` and so on."""

    kind: str = "lp_ucb"
    options: Mapping[str, Any] = field(default_factory=dict)
    forecaster: str = "chooser"
    forecaster_options: Mapping[str, Any] = field(default_factory=dict)
    epsilon_ppm: int = 5_000
    explore_share: float = 0.02
    prompt_tokens_prior: int = 256
    completion_tokens_prior: int = 128


@dataclass(frozen=True)
class ArmConfig:
    """An arm and what is believed of it before its first outcome.

    Attributes
    ----------
    reward, reward_weight : float
        Expected reward in [0, 1], and the number of grades that the statement is worth.
    latency_ms : float
        Expected time to the last token.
    prompt_tokens, completion_tokens : int
        Expected per request; with the price they give the expected cost.
    memory_gb : float
        What a local arm's model takes while it is loaded; 0 where that is not stated.
    load_ms : float
        How long loading it takes.
    """

    arm: Arm
    reward: float = 0.5
    reward_weight: float = 2.0
    latency_ms: float = 1_000.0
    prompt_tokens: int = 256
    completion_tokens: int = 128
    memory_gb: float = 0.0
    load_ms: float = 10_000.0

    @property
    def prices(self) -> tuple[int, int, int]:
        """Input and output per million tokens, and per request, in nano-dollars."""
        if self.arm.cloud is None:
            return (0, 0, 0)
        price = self.arm.cloud.price
        return (price.input_nanos_per_mtok, price.output_nanos_per_mtok, price.request_nanos)

    @property
    def cost_nanos(self) -> int:
        """Expected cost of a request in nano-dollars; 0 only for an arm that is free."""
        if self.arm.cloud is None:
            return 0
        return self.arm.cloud.price.cost_nanos(
            prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens
        )


@dataclass(frozen=True)
class DeviceClassConfig:
    """The arms that devices of a class may use, and what a device can do.

    Attributes
    ----------
    parallel : int
        Requests that a device answers at once without slowing down.
    utilisation : float
        Share of its time that is planned with; the rest keeps queues short.
    memory_gb : float
        For models that are loaded; 0 where all local arms fit together.
    """

    id: str
    arms: tuple[str, ...]
    parallel: int = 1
    utilisation: float = 0.8
    memory_gb: float = 0.0


@dataclass(frozen=True)
class TaskClassConfig:
    """A task class and its declared demand, in requests per slot and device class."""

    task: TaskClass
    demand_prior_per_slot: float = 1.0


@dataclass(frozen=True)
class JudgeConfig:
    """The cloud arm that grades answers, and how long its reply may be."""

    arm: str
    max_tokens: int


@dataclass(frozen=True)
class LinkConfig:
    """Heartbeats and leases.

    Attributes
    ----------
    lease_duration_ms : int
        A lease ends after it, or with its window if that is earlier.
    lease_slots : int
        How many slots of planned spend one lease covers (rule L_6).
    close_wait_ms : int
        How long a closing lease waits for open reservations (rule L_5).
    """

    heartbeat_ms: int = 5_000
    lease_duration_ms: int = 60_000
    lease_slots: int = 5
    close_wait_ms: int = 30_000


@dataclass(frozen=True)
class FleetConfig:
    """Everything that the operator decides about a fleet.

    Attributes
    ----------
    keys : mapping of str to str
        Every key with its effective value as text, defaults included; what `diff_fleet` compares.
    """

    name: str
    window: WindowConfig
    budget: BudgetConfig
    sla: SlaConfig
    policy: PolicyConfig
    arms: Mapping[str, ArmConfig]
    device_classes: Mapping[str, DeviceClassConfig]
    task_classes: Mapping[str, TaskClassConfig]
    link: LinkConfig
    retention: RetentionConfig = RetentionConfig()
    judge: JudgeConfig | None = None
    signals: Signals = NO_SIGNALS
    keys: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def prices(self) -> dict[str, Price]:
        """The price of every paid arm; equal for two configurations if no price changed."""
        return {
            name: config.arm.cloud.price
            for name, config in self.arms.items()
            if config.arm.cloud is not None
        }

    def device_config(
        self,
        device_class: str,
        *,
        version: int,
        disabled_arms: Collection[str] = (),
        price_version: int,
    ) -> DeviceConfig:
        """The part that a device of a class needs.

        Parameters
        ----------
        version : int
            Of this configuration.
        disabled_arms : collection of str
            Arms that are closed at present, whatever the configuration says.
        price_version : int
            Of all prices, named by every lease (rule A_3).

        Raises
        ------
        NotFoundError
            If there is no such device class.
        """
        found = self.device_classes.get(device_class)
        if found is None:
            known = did_you_mean(device_class, self.device_classes)
            raise NotFoundError(f"no device class {device_class!r}{known}")

        def arm_of(name: str) -> Arm:
            arm = self.arms[name].arm
            if arm.cloud is not None:
                price = replace(arm.cloud.price, version=price_version)
                arm = replace(arm, cloud=replace(arm.cloud, price=price))
            return replace(arm, enabled=arm.enabled and name not in disabled_arms)

        judge = self.judge
        return DeviceConfig(
            version=version,
            device_class=device_class,
            arms=tuple(map(arm_of, found.arms)),
            task_classes=tuple(config.task for config in self.task_classes.values()),
            price_version=price_version,
            budget_name=self.budget.name,
            close_wait_ms=self.link.close_wait_ms,
            judge=Judge(arm_of(judge.arm), judge.max_tokens) if judge is not None else None,
            signals=self.signals,
        )


@dataclass(frozen=True)
class ConfigChange:
    """One key that differs. An empty text means that the key is absent on that side."""

    key: str
    before: str
    after: str


def diff_fleet(before: FleetConfig | None, after: FleetConfig) -> tuple[ConfigChange, ...]:
    """What changes from one configuration to the next, by dotted key, sorted.

    Both must come from `parse_fleet`. `before` is None when there is none yet.
    """
    old = before.keys if before is not None else {}
    return tuple(
        ConfigChange(key, old.get(key, ""), after.keys.get(key, ""))
        for key in sorted(old.keys() | after.keys.keys())
        if old.get(key, "") != after.keys.get(key, "")
    )


def parse_fleet(
    toml: str,
    *,
    now_unix_ms: int,
    demand_model: PathModel | None = None,
    provider_keys: Collection[str] | None = None,
    stored: bool = False,
) -> FleetConfig:
    """Read a fleet configuration.

    Parameters
    ----------
    toml : str
        The file's text; `deploy/fleet.example.toml` explains every key.
    now_unix_ms : int
        Prices must be valid beyond it and windows must have begun. For a stored configuration
        that is read again, this is the time at which it was applied.
    demand_model : PathModel or None
        What the forecaster `onnx` would run.
    provider_keys : collection of str, optional
        What arms may refer to as `coordinator:NAME`; None does not check.
    stored : bool
        It was applied once, perhaps by an older version: what is harmless in it goes on.

    Raises
    ------
    FleetConfigError
        With every problem that was found, each naming its key.
    """
    data = _toml(toml)
    problems = name_problems(data)
    file = validated(FleetFile, data, problems=problems)
    arms = arm_tables(data.get("arms"), problems=problems)
    if file is not None:
        problems += window_problems(file, now_unix_ms=now_unix_ms)
        problems += policy_problems(file, demand_model=demand_model)
        problems += class_problems(file)
        problems += grading_problems(file, arms=arms)
    for name, arm in arms.items():
        problems += arm_problems(name, arm=arm, now_unix_ms=now_unix_ms)
    if provider_keys is not None:
        problems += key_problems(arms, known=provider_keys)
    if not stored:
        problems += field_problems(arms)
    if problems or file is None:
        raise FleetConfigError(problems)
    return _build(file, arms=arms)


def _toml(text: str) -> dict[str, Any]:
    if len(text.encode("utf-8", errors="replace")) > CONFIG_BYTES_MAX:
        raise FleetConfigError([Problem("", f"larger than {CONFIG_BYTES_MAX} bytes")])
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FleetConfigError([Problem("", f"not valid TOML: {error}")]) from None


def _build(file: FleetFile, *, arms: Mapping[str, LocalArmTable | CloudArmTable]) -> FleetConfig:
    task_classes = dict(file.task_classes)
    task_classes.setdefault(OTHER_TASK_CLASS, TaskClassTable())
    window, link, policy = file.window, file.link, file.policy
    return FleetConfig(
        name=file.fleet.name,
        window=WindowConfig(
            length_ms=window.length, slot_ms=window.slot, anchor_unix_ms=window.anchor * 1_000
        ),
        budget=BudgetConfig(
            name=file.budget.name,
            amount_nanos=file.budget.amount_usd,
            alert_percents=tuple(sorted(set(file.budget.alert_percents))),
        ),
        sla=SlaConfig(floor=file.sla.floor, rho=file.sla.rho, slack_max=file.sla.slack_max),
        policy=PolicyConfig(**{name: getattr(policy, name) for name in PolicyTable.model_fields}),
        arms={name: _arm(name, table=table, policy=policy) for name, table in arms.items()},
        device_classes={
            name: DeviceClassConfig(
                id=name,
                arms=tuple(table.arms),
                parallel=table.parallel,
                utilisation=table.utilisation,
                memory_gb=table.memory_gb,
            )
            for name, table in file.device_classes.items()
        },
        task_classes={name: _task_class(name, table) for name, table in task_classes.items()},
        link=LinkConfig(
            heartbeat_ms=link.heartbeat,
            lease_duration_ms=link.lease_duration,
            lease_slots=link.lease_slots,
            close_wait_ms=link.close_wait,
        ),
        retention=RetentionConfig(outcomes_days=file.retention.outcomes_days),
        judge=JudgeConfig(file.judge.arm, file.judge.max_tokens) if file.judge else None,
        signals=signals_of(file.signals),
        keys=effective_keys(file, arms=arms, task_classes=task_classes),
    )


def _task_class(name: str, table: TaskClassTable) -> TaskClassConfig:
    task = TaskClass(
        id=name,
        deadline_ms=table.deadline,
        privacy_local=table.privacy == "local",
        grader=grader_of(table.grader) if table.grader else None,
        judge_ppm=judge_ppm_of(table),
    )
    return TaskClassConfig(task=task, demand_prior_per_slot=table.demand_prior)


def _arm(name: str, *, table: LocalArmTable | CloudArmTable, policy: PolicyTable) -> ArmConfig:
    prior = table.prior
    return ArmConfig(
        arm=Arm(
            id=name,
            kind=ArmKind(table.kind),
            model=table.model or name,
            context_tokens_max=table.context_tokens_max,
            max_tokens_default=table.max_tokens_default,
            bytes_per_token_ppm=table.bytes_per_token,
            capabilities=frozenset(table.capabilities),
            enabled=table.enabled,
            cloud=_cloud(table) if isinstance(table, CloudArmTable) else None,
        ),
        reward=prior.reward,
        reward_weight=prior.reward_weight,
        latency_ms=float(prior.latency),
        prompt_tokens=prior.prompt_tokens or policy.prompt_tokens_prior,
        completion_tokens=prior.completion_tokens or policy.completion_tokens_prior,
        memory_gb=table.memory_gb if isinstance(table, LocalArmTable) else 0.0,
        load_ms=float(table.load_time) if isinstance(table, LocalArmTable) else 0.0,
    )


def _cloud(table: CloudArmTable) -> CloudSettings:
    return CloudSettings(
        base_url=table.base_url,
        api_key_ref=table.api_key,
        price=Price(
            input_nanos_per_mtok=table.price.input_usd_per_mtok,
            output_nanos_per_mtok=table.price.output_usd_per_mtok,
            request_nanos=table.price.request_usd,
            valid_until_unix_ms=table.price.valid_until,
        ),
        worst_case=WorstCase(
            bytes_factor_ppm=table.worst_case.bytes_factor,
            message_overhead_tokens=table.worst_case.message_overhead_tokens,
            request_overhead_tokens=table.worst_case.request_overhead_tokens,
        ),
        fields=frozenset(table.fields),
        unbilled_statuses=frozenset(table.unbilled_statuses),
        on_abort=OnAbort(table.on_abort),
        connect_timeout_ms=table.connect_timeout,
        first_byte_timeout_ms=table.first_byte_timeout,
        drain_timeout_ms=table.drain_timeout,
    )
