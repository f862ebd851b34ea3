"""The fleet file as it is written: one strict model per table. Private to `fleet_config`."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from shared.decision.money import PPM, dollars, nanos_from_dollars
from shared.decision.types import COORDINATOR_KEY
from shared.limits import (
    AMOUNT_NANOS_MAX,
    DEADLINE_MS_MAX,
    MAX_TOKENS_MAX,
    NAME_CHARS_MAX,
    PRICE_NANOS_PER_MTOK_MAX,
)
from shared.settings import check_secret_ref
from shared.units import duration_ms, duration_text

NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")
FIELDS_DEFAULT: Final = (
    "frequency_penalty",
    "max_tokens",
    "presence_penalty",
    "seed",
    "stop",
    "temperature",
    "top_p",
)
# What a provider bills for these is beyond the bound of rule A_2: prompt and completion tokens
# at the listed price.
FIELDS_UNBOUNDED: Final = {
    "audio": "is billed at prices of its own",
    "best_of": "multiplies the completion tokens",
    "modalities": "is billed at prices of its own",
    "prediction": "bills rejected tokens beyond max_tokens",
    "prompt_cache_options": "may bill the keeping of prompts",
    "prompt_cache_retention": "may bill the keeping of prompts",
    "service_tier": "changes the price",
    "web_search_options": "bills searches beside the tokens",
}
UNBILLED_DEFAULT: Final = (401, 403, 404, 429)
ALERT_PERCENTS_DEFAULT: Final = (50, 80, 100)
_TOKENS_MAX: Final = 10_000_000


def _money(value: object) -> int:
    """An exact amount of dollars in nano-dollars."""
    if type(value) not in (str, int):
        because = ": a float cannot hold most amounts exactly" if type(value) is float else ""
        raise ValueError(f'should be an amount of dollars in quotes, such as "2.50"{because}')
    nanos = nanos_from_dollars(str(value))
    if nanos < 0:
        raise ValueError("should not be negative")
    return nanos


def _money_text(nanos: int) -> str:
    text = dollars(nanos).rstrip("0").rstrip(".")
    return text or "0"


def _at_most(limit: int, *, text: str) -> AfterValidator:
    def check(value: int) -> int:
        if value > limit:
            raise ValueError(f"is beyond the largest possible, {text}")
        return value

    return AfterValidator(check)


def _positive_duration(ms: int) -> int:
    if ms <= 0:
        raise ValueError("should be longer than 0")
    return ms


def _parts_per_million(value: object) -> int:
    """A factor as parts per million, rounded up: a bound must not shrink."""
    factor = Decimal(str(value)) if type(value) in (int, float) else Decimal("nan")
    if not factor.is_finite() or not Decimal("0.001") <= factor <= 1_000:
        raise ValueError("should be a number from 0.001 to 1000")
    return int((factor * PPM).to_integral_value(rounding=ROUND_CEILING))


def _instant(value: object) -> int:
    """An ISO-8601 time with its offset, as text or as TOML's own type, in Unix milliseconds."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError('should be a time with its offset, such as "2027-06-30T00:00:00Z"')
    return round(value.timestamp() * 1_000)


def _instant_text(unix_ms: int) -> str:
    if not unix_ms:
        return ""
    text = datetime.fromtimestamp(unix_ms / 1_000, tz=UTC).isoformat()
    return text.replace("+00:00", "Z")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(name_problem(value))
    return value


def name_problem(value: str) -> str:
    """What is wrong with a name."""
    return (
        f"{value[:NAME_CHARS_MAX]!r} is no name: up to {NAME_CHARS_MAX} of a-z, 0-9, '.', '_' "
        "and '-', beginning with a letter or a digit"
    )


def is_loopback_host(host: str) -> bool:
    """Whether a URL's host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _base_url(value: str) -> str:
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port
    except ValueError:
        host, url = None, urlsplit("")
    if url.scheme not in ("http", "https") or not host:
        raise ValueError('should be an http or https URL, such as "https://api.example.com/v1"')
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ValueError("should have no credentials, query or fragment; use api_key for the key")
    return value.rstrip("/")


def _closed_list(values: list[str]) -> list[str]:
    for value in values:
        if value in FIELDS_UNBOUNDED:
            raise ValueError(
                f"{value!r} must not reach a paid arm: it {FIELDS_UNBOUNDED[value]}, so that no "
                "reservation could bound its cost"
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", value):
            raise ValueError(f"{value[:64]!r} is not the name of a request field")
    return sorted(set(values))


def _key_ref(value: str) -> str:
    kind, _, name = value.partition(":")
    if kind == COORDINATOR_KEY:
        return f"{COORDINATOR_KEY}:{_name(name)}"
    try:
        return check_secret_ref(value)
    except ValueError:
        raise ValueError(
            'should be a reference, "env:NAME" or "file:PATH" on the device, or '
            '"coordinator:NAME"; never the secret'
        ) from None


def _statuses(values: list[int]) -> list[int]:
    for value in values:
        if not 400 <= value <= 599:
            raise ValueError(f"{value} is no error status (400 to 599), so it could be billed")
    return sorted(set(values))


def _names(values: list[str]) -> list[str]:
    for value in values:
        _name(value)
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"names {', '.join(map(repr, twice))} more than once")
    return values


Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[list[str], AfterValidator(_names)]
DurationMs = Annotated[
    int,
    BeforeValidator(duration_ms),
    AfterValidator(_positive_duration),
    PlainSerializer(duration_text),
]
DeadlineMs = Annotated[DurationMs, _at_most(DEADLINE_MS_MAX, text=duration_text(DEADLINE_MS_MAX))]
Amount = Annotated[
    int,
    BeforeValidator(_money),
    _at_most(AMOUNT_NANOS_MAX, text=f"{_money_text(AMOUNT_NANOS_MAX)} dollars"),
    PlainSerializer(_money_text),
]
PricePerMtok = Annotated[
    int,
    BeforeValidator(_money),
    _at_most(PRICE_NANOS_PER_MTOK_MAX, text=f"{_money_text(PRICE_NANOS_PER_MTOK_MAX)} dollars"),
    PlainSerializer(_money_text),
]
Factor = Annotated[
    int, BeforeValidator(_parts_per_million), PlainSerializer(lambda ppm: f"{Decimal(ppm) / PPM:f}")
]
Instant = Annotated[int, BeforeValidator(_instant), PlainSerializer(_instant_text)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
KeyReference = Annotated[str, AfterValidator(lambda value: _key_ref(value) if value else value)]
Percent = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Tokens = Annotated[int, Field(ge=1, le=_TOKENS_MAX)]
Gigabytes = Annotated[float, Field(ge=0.0, le=100_000.0)]
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
    capabilities: Names = Field(default_factory=list)
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
    fields: Annotated[list[str], AfterValidator(_closed_list)] = Field(
        default_factory=lambda: list(FIELDS_DEFAULT)
    )
    unbilled_statuses: Annotated[list[int], AfterValidator(_statuses)] = Field(
        default_factory=lambda: list(UNBILLED_DEFAULT)
    )
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


class TaskClassTable(Table):
    """`[task_classes.NAME]`"""

    deadline: DeadlineMs = 30_000
    privacy: Literal["any", "local"] = "any"
    demand_prior: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0


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
