"""The fleet file as it is written: one strict model per table. Private to `fleet_config`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from coordinator.fleet_values import (
    Amount,
    BaseUrl,
    Capabilities,
    DeadlineMs,
    DurationMs,
    Factor,
    Gigabytes,
    Instant,
    KeyReference,
    Name,
    Names,
    Percent,
    PricePerMtok,
    RequestFields,
    Share,
    Statuses,
    Tokens,
    Tolerance,
)
from shared.decision.money import PPM
from shared.limits import MAX_TOKENS_MAX

FIELDS_DEFAULT: Final = (
    "frequency_penalty",
    "max_tokens",
    "presence_penalty",
    "seed",
    "stop",
    "temperature",
    "top_p",
)
UNBILLED_DEFAULT: Final = (401, 403, 404, 429)
ALERT_PERCENTS_DEFAULT: Final = (50, 80, 100)
_PRICE_MISSING: Final = 'write it out, "0" if the arm is free'


class Table(BaseModel):
    """A table of the file: no unknown keys, no conversions, no NaN."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        validate_default=False,
    )


class FleetTable(Table):
    """`[fleet]`"""

    name: Name = Field(description='the name of the fleet, such as "demo"')


class WindowTable(Table):
    """`[window]`"""

    length: DurationMs = Field(description='the period of the budget, such as "1d"')
    slot: DurationMs = Field(description='how often a plan is made, such as "10s"')
    anchor: int = Field(default=0, ge=0, description="Unix seconds that windows are aligned to")


class BudgetTable(Table):
    """`[budget]`"""

    name: Name = "cloud"
    amount_usd: Amount = Field(description='dollars for one window, such as "25"; "0" for none')
    alert_percents: Annotated[list[Percent], Field(max_length=20)] = Field(
        default_factory=lambda: list(ALERT_PERCENTS_DEFAULT)
    )


class SlaTable(Table):
    """`[sla]`"""

    floor: Share = 0.0
    rho: Annotated[float, Field(ge=0.0, le=1_000.0)] = 1.0
    slack_max: Share = 0.5


class PolicyTable(Table):
    """`[policy]`"""

    kind: str = "lp_ucb"
    options: dict[str, Any] = Field(default_factory=dict)
    forecaster: str = "chooser"
    forecaster_options: dict[str, Any] = Field(default_factory=dict)
    epsilon_ppm: Annotated[int, Field(ge=0, le=PPM)] = 5_000
    explore_share: Share = 0.02
    prompt_tokens_prior: Tokens = 256
    completion_tokens_prior: Tokens = 128


class PriorTable(Table):
    """`[arms.NAME.prior]`"""

    reward: Share = 0.5
    reward_weight: Annotated[float, Field(gt=0.0, le=1e6)] = 2.0
    latency: DurationMs = 1_000
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None


class PriceTable(Table):
    """`[arms.NAME.price]`"""

    input_usd_per_mtok: PricePerMtok = Field(description=_PRICE_MISSING)
    output_usd_per_mtok: PricePerMtok = Field(description=_PRICE_MISSING)
    request_usd: Amount = Field(description=_PRICE_MISSING)
    valid_until: Instant = 0


class WorstCaseTable(Table):
    """`[arms.NAME.worst_case]`"""

    bytes_factor: Factor = PPM
    message_overhead_tokens: Annotated[int, Field(ge=0, le=100_000)] = 16
    request_overhead_tokens: Annotated[int, Field(ge=0, le=100_000)] = 64


class ArmTable(Table):
    """What every `[arms.NAME]` may say."""

    enabled: bool = True
    max_tokens_default: Annotated[int, Field(ge=1, le=MAX_TOKENS_MAX)] = 256
    bytes_per_token: Factor = 3 * PPM
    capabilities: Capabilities = Field(default_factory=list)
    prior: PriorTable = Field(default_factory=PriorTable)


class LocalArmTable(ArmTable):
    """`[arms.NAME]` with `kind = "local"`."""

    kind: Literal["local"]
    model: str = ""
    memory_gb: Gigabytes = 0.0
    load_time: DurationMs = 10_000
    context_tokens_max: Tokens = 2_048


class CloudArmTable(ArmTable):
    """`[arms.NAME]` with `kind = "cloud"`."""

    kind: Literal["cloud"]
    model: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="the model's name at the endpoint"
    )
    context_tokens_max: Tokens = 8_192
    base_url: BaseUrl = Field(
        description='the OpenAI-compatible endpoint, such as "https://api.example.com/v1"'
    )
    insecure: bool = False
    api_key: KeyReference = ""
    price: PriceTable
    worst_case: WorstCaseTable = Field(default_factory=WorstCaseTable)
    fields: RequestFields = Field(default_factory=lambda: list(FIELDS_DEFAULT))
    unbilled_statuses: Statuses = Field(default_factory=lambda: list(UNBILLED_DEFAULT))
    on_abort: Literal["drain", "cancel"] = "drain"
    connect_timeout: DurationMs = 5_000
    first_byte_timeout: DurationMs = 30_000
    drain_timeout: DurationMs = 30_000


class DeviceClassTable(Table):
    """`[device_classes.NAME]`"""

    arms: Names = Field(description='the arms that its devices may use, such as ["tiny", "large"]')
    parallel: Annotated[int, Field(ge=1, le=1_024)] = 1
    utilisation: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    memory_gb: Gigabytes = 0.0


class GraderTable(Table):
    """`[task_classes.NAME.grader]`: which of its keys are needed is for `fleet_grading`."""

    kind: Literal["contains", "exact", "json_schema", "numeric", "regex"] = Field(
        description='"exact", "contains", "numeric", "regex" or "json_schema"'
    )
    name: Name | None = None
    pattern: str | None = None
    schema_: str | None = Field(default=None, alias="schema")
    ignore_case: bool | None = None
    tolerance: Tolerance | None = None
    relative_tolerance: Tolerance | None = None


class TaskClassTable(Table):
    """`[task_classes.NAME]`"""

    deadline: DeadlineMs = 30_000
    privacy: Literal["any", "local"] = "any"
    demand_prior: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    grader: GraderTable | None = None
    judge: bool = False
    judge_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05


class JudgeTable(Table):
    """`[judge]`"""

    arm: Name = Field(description="the cloud arm that grades answers")
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS_MAX)] = 16


class SignalTable(Table):
    """`[signals.abandon]`"""

    reward: Share = 0.0
    weight: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1


class RetrySignalTable(SignalTable):
    """`[signals.retry]`"""

    within: DurationMs = 120_000


class SignalsTable(Table):
    """`[signals]`: an absent table is a signal that nobody looks at."""

    retry: RetrySignalTable | None = None
    abandon: SignalTable | None = None


class LinkTable(Table):
    """`[link]`"""

    heartbeat: DurationMs = 5_000
    lease_duration: DurationMs = 60_000
    lease_slots: Annotated[int, Field(ge=1, le=1_000)] = 5
    close_wait: DurationMs = 30_000


class RetentionTable(Table):
    """`[retention]`"""

    outcomes_days: Annotated[int, Field(ge=1, le=36_500)] = 90


class FleetFile(Table):
    """The whole file. Arms are read one by one, since their kind decides what they may say."""

    fleet: FleetTable
    window: WindowTable
    budget: BudgetTable
    sla: SlaTable = Field(default_factory=SlaTable)
    policy: PolicyTable = Field(default_factory=PolicyTable)
    link: LinkTable = Field(default_factory=LinkTable)
    retention: RetentionTable = Field(default_factory=RetentionTable)
    arms: dict[str, dict[str, Any]] = Field(description="at least one [arms.NAME]")
    device_classes: dict[str, DeviceClassTable] = Field(
        description="at least one [device_classes.NAME]"
    )
    task_classes: dict[str, TaskClassTable] = Field(default_factory=dict)
    judge: JudgeTable | None = None
    signals: SignalsTable = Field(default_factory=SignalsTable)
