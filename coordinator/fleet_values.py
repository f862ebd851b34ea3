"""The values of a fleet file: names, money, durations, shares, references. Private to it."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from shared.decision.money import PPM, dollars, nanos_from_dollars
from shared.decision.types import CAPABILITIES, COORDINATOR_KEY
from shared.limits import (
    AMOUNT_NANOS_MAX,
    DEADLINE_MS_MAX,
    NAME_CHARS_MAX,
    PRICE_NANOS_PER_MTOK_MAX,
)
from shared.settings import check_secret_ref, did_you_mean
from shared.units import duration_ms, duration_text

NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")
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


def _capabilities(values: list[str]) -> list[str]:
    for value in values:
        if value not in CAPABILITIES:
            hint = did_you_mean(value, CAPABILITIES)
            raise ValueError(f"{value[:64]!r} is nothing that a request asks for{hint}")
    return _names(values)


Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[list[str], AfterValidator(_names)]
Capabilities = Annotated[list[str], AfterValidator(_capabilities)]
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
RequestFields = Annotated[list[str], AfterValidator(_closed_list)]
Statuses = Annotated[list[int], AfterValidator(_statuses)]
Percent = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Tolerance = Annotated[float, Field(ge=0.0, le=1e12)]
Tokens = Annotated[int, Field(ge=1, le=_TOKENS_MAX)]
Gigabytes = Annotated[float, Field(ge=0.0, le=100_000.0)]
