"""Small fleets, arms and requests that many tests share."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from edge_agent.candidates import ArmCondition, RequestFacts
from shared.decision.lease import LeaseGranted
from shared.decision.money import Price, WorstCase
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.decision.types import (
    Arm,
    ArmKind,
    CloudSettings,
    DeviceConfig,
    OnAbort,
    TaskClass,
)

T = TypeVar("T")

FLEET = """
[fleet]
name = "test"
[window]
length = "{window}"
slot = "10s"
[budget]
amount_usd = "{usd}"
[policy]
kind = "uniform"
[arms.tiny]
kind = "local"
[arms.cloud]
kind = "cloud"
model = "big"
base_url = "https://cloud.example/v1"
max_tokens_default = 100
price = {{ input_usd_per_mtok = "{price}", output_usd_per_mtok = "{price}", request_usd = "0" }}
[device_classes.edge]
arms = ["tiny", "cloud"]
[link]
lease_duration = "20s"
close_wait = "5s"
"""
WORST_CASE_NANOS = (200 + 16 + 64 + 100) * 100
"""Of `facts()` on `cloud_arm()`, and on the cloud arm of `FLEET` at its default price."""


def fleet_toml(*, window: str = "10m", usd: str = "0.002", price: str = "0.1") -> str:
    """A fleet of one local and one cloud arm."""
    return FLEET.format(window=window, usd=usd, price=price)


def cloud_arm(arm_id: str = "cloud", **changes: Any) -> Arm:
    """A paid arm: 100 nano-dollars per token, at most 100 tokens of answer."""
    values: dict[str, Any] = {
        "base_url": "https://cloud.example/v1",
        "api_key_ref": "",
        "price": Price(100_000_000, 100_000_000),
        "worst_case": WorstCase(),
        "fields": frozenset({"temperature", "max_tokens", "tools"}),
        "unbilled_statuses": frozenset({429}),
        "on_abort": OnAbort.DRAIN,
        "connect_timeout_ms": 1_000,
        "first_byte_timeout_ms": 1_000,
        "drain_timeout_ms": 1_000,
    }
    own = {name: changes.pop(name) for name in tuple(changes) if name in values}
    return Arm(
        id=arm_id,
        kind=ArmKind.CLOUD,
        model=f"big-{arm_id}",
        context_tokens_max=changes.pop("context_tokens_max", 8_192),
        max_tokens_default=100,
        cloud=CloudSettings(**{**values, **own}),
        **changes,
    )


def local_arm(arm_id: str = "tiny", **changes: Any) -> Arm:
    """A model on the device."""
    return Arm(
        id=arm_id,
        kind=ArmKind.LOCAL,
        model=arm_id,
        context_tokens_max=changes.pop("context_tokens_max", 2_048),
        max_tokens_default=64,
        **changes,
    )


def device_config(*arms: Arm, version: int = 1) -> DeviceConfig:
    """A configuration with these arms; `tiny` and `cloud` by default."""
    return DeviceConfig(
        version=version,
        device_class="edge",
        arms=arms or (local_arm(), cloud_arm()),
        task_classes=(
            TaskClass("code", deadline_ms=2_000),
            TaskClass("other", deadline_ms=5_000),
            TaskClass("secret", deadline_ms=0, privacy_local=True),
        ),
        price_version=1,
        budget_name="monthly",
        close_wait_ms=5_000,
    )


def table(*arms: TableArm, version: int = 7, task_class: str = "other") -> SelectionTable:
    """A table with one row; `cloud` before `tiny` by default."""
    row = arms or (TableArm("cloud", 900_000, 800_000), TableArm("tiny", 100_000, 400_000))
    return SelectionTable(version, "edge", 1, 0, (TableRow(task_class, row),))


def facts(request_id: str = "r1", **changes: Any) -> RequestFacts:
    """A request of 200 bytes and one message."""
    values: dict[str, Any] = {
        "request_id": request_id,
        "task_class": "other",
        "arrived_unix_ms": 1_000,
        "deadline_ms": 0,
        "body_bytes": 200,
        "messages": 1,
    }
    return RequestFacts(**{**values, **changes})


def granted(
    number: int = 1, *, amount: int = 20 * WORST_CASE_NANOS, **changes: Any
) -> LeaseGranted:
    """A lease of the window 0."""
    values: dict[str, Any] = {"window_id": 0, "duration_ms": 60_000, "price_version": 1}
    return LeaseGranted(number=number, amount_nanos=amount, **{**values, **changes})


READY = {"tiny": ArmCondition(), "cloud": ArmCondition()}
"""Both arms can answer."""


def run_at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """`at_once` for one without a result: no exception has to bring it, so it is twice as fast."""
    for _ in coroutine.__await__():
        coroutine.close()
        raise AssertionError("it waits for something")


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise AssertionError("it waits for something")
