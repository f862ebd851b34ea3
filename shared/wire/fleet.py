"""Configurations, tables, grants and versions: what the coordinator tells its devices."""

from __future__ import annotations

from typing import Final

from shared.decision.money import Price, WorstCase
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.decision.types import (
    Arm,
    ArmKind,
    CloudSettings,
    DeviceConfig,
    Judge,
    OnAbort,
    TaskClass,
)
from shared.errors import InvariantError, LimitError, ProtocolError
from shared.pb.v1 import fleet_pb2, types_pb2
from shared.version import ProtocolVersion
from shared.wire.checks import (
    encoding,
    known,
    parse,
    read_id,
    read_nanos,
    read_ppm,
    write_id,
    write_nanos,
    write_ppm,
)
from shared.wire.grading import grader_from_pb, grader_to_pb, signals_from_pb, signals_to_pb

_KIND_TO_PB: Final = {
    ArmKind.LOCAL: types_pb2.ARM_KIND_LOCAL,
    ArmKind.CLOUD: types_pb2.ARM_KIND_CLOUD,
}
_KIND_FROM_PB: Final = {int(number): kind for kind, number in _KIND_TO_PB.items()}
_ABORT_TO_PB: Final = {
    OnAbort.DRAIN: types_pb2.ON_ABORT_DRAIN,
    OnAbort.CANCEL: types_pb2.ON_ABORT_CANCEL,
}
_ABORT_FROM_PB: Final = {int(number): choice for choice, number in _ABORT_TO_PB.items()}


def version_to_pb(version: ProtocolVersion) -> types_pb2.ProtocolVersion:
    """A protocol version."""
    return types_pb2.ProtocolVersion(major=version.major, minor=version.minor)


def version_from_pb(message: types_pb2.ProtocolVersion) -> ProtocolVersion:
    """A protocol version."""
    return ProtocolVersion(message.major, message.minor)


def arm_kind_to_pb(kind: ArmKind) -> types_pb2.ArmKind:
    """Where an arm runs."""
    return _KIND_TO_PB[kind]


def price_to_pb(price: Price) -> types_pb2.Price:
    """What a provider bills at most."""
    return types_pb2.Price(
        input_nanos_per_mtok=write_nanos(
            price.input_nanos_per_mtok, field="price.input_nanos_per_mtok"
        ),
        output_nanos_per_mtok=write_nanos(
            price.output_nanos_per_mtok, field="price.output_nanos_per_mtok"
        ),
        request_nanos=write_nanos(price.request_nanos, field="price.request_nanos"),
        version=price.version,
        valid_until_unix_ms=price.valid_until_unix_ms,
    )


def price_from_pb(message: types_pb2.Price) -> Price:
    """What a provider bills at most."""
    return Price(
        input_nanos_per_mtok=read_nanos(
            message.input_nanos_per_mtok, field="price.input_nanos_per_mtok"
        ),
        output_nanos_per_mtok=read_nanos(
            message.output_nanos_per_mtok, field="price.output_nanos_per_mtok"
        ),
        request_nanos=read_nanos(message.request_nanos, field="price.request_nanos"),
        version=message.version,
        valid_until_unix_ms=message.valid_until_unix_ms,
    )


def _cloud_to_pb(cloud: CloudSettings) -> types_pb2.CloudArm:
    return types_pb2.CloudArm(
        base_url=cloud.base_url,
        api_key_ref=cloud.api_key_ref,
        price=price_to_pb(cloud.price),
        worst_case=types_pb2.WorstCase(
            bytes_factor_ppm=cloud.worst_case.bytes_factor_ppm,
            message_overhead_tokens=cloud.worst_case.message_overhead_tokens,
            request_overhead_tokens=cloud.worst_case.request_overhead_tokens,
        ),
        fields=sorted(cloud.fields),
        unbilled_statuses=sorted(cloud.unbilled_statuses),
        on_abort=_ABORT_TO_PB[cloud.on_abort],
        connect_timeout_ms=cloud.connect_timeout_ms,
        first_byte_timeout_ms=cloud.first_byte_timeout_ms,
        drain_timeout_ms=cloud.drain_timeout_ms,
    )


def _cloud_from_pb(message: types_pb2.CloudArm, *, arm: str) -> CloudSettings:
    """Cloud settings; without its price or worst case an arm could not be reserved for (S_1)."""
    for part in ("price", "worst_case"):
        if not message.HasField(part):
            raise ProtocolError(f"arm.cloud.{part} of arm {arm} is missing")
    return CloudSettings(
        base_url=message.base_url,
        api_key_ref=message.api_key_ref,
        price=price_from_pb(message.price),
        worst_case=WorstCase(
            bytes_factor_ppm=message.worst_case.bytes_factor_ppm,
            message_overhead_tokens=message.worst_case.message_overhead_tokens,
            request_overhead_tokens=message.worst_case.request_overhead_tokens,
        ),
        fields=frozenset(message.fields),
        unbilled_statuses=frozenset(message.unbilled_statuses),
        on_abort=known(_ABORT_FROM_PB, message.on_abort, field="arm.cloud.on_abort"),
        connect_timeout_ms=message.connect_timeout_ms,
        first_byte_timeout_ms=message.first_byte_timeout_ms,
        drain_timeout_ms=message.drain_timeout_ms,
    )


def arm_to_pb(arm: Arm) -> types_pb2.Arm:
    """One way to answer. Cloud settings go with cloud arms and with no others."""
    if (arm.cloud is not None) != (arm.kind is ArmKind.CLOUD):
        raise LimitError(f"arm.cloud of the {arm.kind} arm {arm.id} contradicts its kind")
    return types_pb2.Arm(
        id=write_id(arm.id, field="arm.id"),
        kind=_KIND_TO_PB[arm.kind],
        model=arm.model,
        context_tokens_max=arm.context_tokens_max,
        max_tokens_default=arm.max_tokens_default,
        bytes_per_token_ppm=arm.bytes_per_token_ppm,
        capabilities=sorted(arm.capabilities),
        enabled=arm.enabled,
        cloud=_cloud_to_pb(arm.cloud) if arm.cloud is not None else None,
    )


def arm_from_pb(message: types_pb2.Arm) -> Arm:
    """One way to answer. Cloud settings go with cloud arms and with no others."""
    kind = known(_KIND_FROM_PB, message.kind, field="arm.kind")
    if message.HasField("cloud") != (kind is ArmKind.CLOUD):
        raise ProtocolError(f"arm.cloud of the {kind} arm {message.id} contradicts its kind")
    return Arm(
        id=read_id(message.id, field="arm.id"),
        kind=kind,
        model=message.model,
        context_tokens_max=message.context_tokens_max,
        max_tokens_default=message.max_tokens_default,
        bytes_per_token_ppm=message.bytes_per_token_ppm,
        capabilities=frozenset(message.capabilities),
        enabled=message.enabled,
        cloud=_cloud_from_pb(message.cloud, arm=message.id) if kind is ArmKind.CLOUD else None,
    )


def task_class_to_pb(task_class: TaskClass) -> types_pb2.TaskClass:
    """What kind of request it is."""
    return types_pb2.TaskClass(
        id=write_id(task_class.id, field="task_class.id"),
        deadline_ms=task_class.deadline_ms,
        privacy_local=task_class.privacy_local,
        grader=grader_to_pb(task_class.grader) if task_class.grader is not None else None,
        judge_ppm=write_ppm(task_class.judge_ppm, field="task_class.judge_ppm"),
    )


def task_class_from_pb(message: types_pb2.TaskClass) -> TaskClass:
    """What kind of request it is."""
    return TaskClass(
        id=read_id(message.id, field="task_class.id"),
        deadline_ms=message.deadline_ms,
        privacy_local=message.privacy_local,
        grader=grader_from_pb(message.grader) if message.HasField("grader") else None,
        judge_ppm=read_ppm(message.judge_ppm, field="task_class.judge_ppm"),
    )


def config_to_pb(config: DeviceConfig) -> fleet_pb2.DeviceConfig:
    """The part of the fleet's configuration that a device needs."""
    return fleet_pb2.DeviceConfig(
        version=config.version,
        device_class=config.device_class,
        arms=[arm_to_pb(arm) for arm in config.arms],
        task_classes=[task_class_to_pb(task_class) for task_class in config.task_classes],
        price_version=config.price_version,
        budget_name=config.budget_name,
        close_wait_ms=config.close_wait_ms,
        judge=_judge_to_pb(config.judge) if config.judge is not None else None,
        signals=signals_to_pb(config.signals),
    )


def _judge_to_pb(judge: Judge) -> fleet_pb2.Judge:
    return fleet_pb2.Judge(arm=arm_to_pb(judge.arm), max_tokens=judge.max_tokens)


def _judge_from_pb(message: fleet_pb2.Judge) -> Judge:
    if not message.HasField("arm"):
        raise ProtocolError("config.judge.arm is missing")
    return Judge(arm=arm_from_pb(message.arm), max_tokens=message.max_tokens)


def config_from_pb(message: fleet_pb2.DeviceConfig) -> DeviceConfig:
    """The part of the fleet's configuration that a device needs."""
    return DeviceConfig(
        version=message.version,
        device_class=message.device_class,
        arms=tuple(arm_from_pb(arm) for arm in message.arms),
        task_classes=tuple(task_class_from_pb(item) for item in message.task_classes),
        price_version=message.price_version,
        budget_name=message.budget_name,
        close_wait_ms=message.close_wait_ms,
        judge=_judge_from_pb(message.judge) if message.HasField("judge") else None,
        signals=signals_from_pb(message.signals),
    )


def encode_config(config: DeviceConfig) -> bytes:
    """A device's configuration as bytes, for the books."""
    with encoding("configuration"):
        return config_to_pb(config).SerializeToString()


def decode_config(data: bytes) -> DeviceConfig:
    """A device's configuration from `encode_config`."""
    return config_from_pb(parse(fleet_pb2.DeviceConfig(), data))


def _table_arm_to_pb(arm: TableArm) -> types_pb2.TableArm:
    return types_pb2.TableArm(
        arm=write_id(arm.arm, field="table.arm"),
        weight_ppm=write_ppm(arm.weight_ppm, field="table.weight_ppm"),
        expected_reward_ppm=write_ppm(arm.expected_reward_ppm, field="table.expected_reward_ppm"),
        expected_cost_nanos=write_nanos(arm.expected_cost_nanos, field="table.expected_cost_nanos"),
        latency_p50_ms=arm.latency_p50_ms,
        latency_p90_ms=arm.latency_p90_ms,
        latency_p99_ms=arm.latency_p99_ms,
    )


def _table_arm_from_pb(message: types_pb2.TableArm) -> TableArm:
    return TableArm(
        arm=read_id(message.arm, field="table.arm"),
        weight_ppm=read_ppm(message.weight_ppm, field="table.weight_ppm"),
        expected_reward_ppm=read_ppm(
            message.expected_reward_ppm, field="table.expected_reward_ppm"
        ),
        expected_cost_nanos=read_nanos(
            message.expected_cost_nanos, field="table.expected_cost_nanos"
        ),
        latency_p50_ms=message.latency_p50_ms,
        latency_p90_ms=message.latency_p90_ms,
        latency_p99_ms=message.latency_p99_ms,
    )


def _table_row_from_pb(message: types_pb2.TableRow) -> TableRow:
    try:
        return TableRow(
            task_class=read_id(message.task_class, field="table.task_class"),
            arms=tuple(_table_arm_from_pb(arm) for arm in message.arms),
        )
    except InvariantError as error:
        raise ProtocolError(f"table.rows: {error}") from error


def table_to_pb(table: SelectionTable) -> types_pb2.SelectionTable:
    """What a device decides by."""
    return types_pb2.SelectionTable(
        version=table.version,
        device_class=table.device_class,
        config_version=table.config_version,
        created_unix_ms=table.created_unix_ms,
        rows=[
            types_pb2.TableRow(
                task_class=write_id(row.task_class, field="table.task_class"),
                arms=[_table_arm_to_pb(arm) for arm in row.arms],
            )
            for row in table.rows
        ],
        resident_arms=table.resident_arms,
    )


def table_from_pb(message: types_pb2.SelectionTable) -> SelectionTable:
    """What a device decides by; its rows' weights add up to at most a million."""
    return SelectionTable(
        version=message.version,
        device_class=message.device_class,
        config_version=message.config_version,
        created_unix_ms=message.created_unix_ms,
        rows=tuple(_table_row_from_pb(row) for row in message.rows),
        resident_arms=tuple(message.resident_arms),
    )


def encode_table(table: SelectionTable) -> bytes:
    """A selection table as bytes, for the books and the store."""
    with encoding("selection table"):
        return table_to_pb(table).SerializeToString()


def decode_table(data: bytes) -> SelectionTable:
    """A selection table from `encode_table`."""
    return table_from_pb(parse(types_pb2.SelectionTable(), data))
