from shared.pb.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TokenKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOKEN_KIND_UNSPECIFIED: _ClassVar[TokenKind]
    TOKEN_KIND_JOIN: _ClassVar[TokenKind]
    TOKEN_KIND_ADMIN: _ClassVar[TokenKind]
TOKEN_KIND_UNSPECIFIED: TokenKind
TOKEN_KIND_JOIN: TokenKind
TOKEN_KIND_ADMIN: TokenKind

class GetVersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VersionReply(_message.Message):
    __slots__ = ("software_version", "protocol")
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    software_version: str
    protocol: _types_pb2.ProtocolVersion
    def __init__(self, software_version: _Optional[str] = ..., protocol: _Optional[_Union[_types_pb2.ProtocolVersion, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FleetStatus(_message.Message):
    __slots__ = ("config_version", "policy", "budget", "slot", "slots_total", "devices_known", "devices_connected", "requests_window", "answered_window", "reward_mean_window", "graded_window", "sla_share_window", "sla_floor", "arm_shares", "alarms", "money_dual_per_dollar", "slot_s", "now_unix_ms", "forecast_remaining", "demand_last_slot", "pinned_tables")
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DEVICES_KNOWN_FIELD_NUMBER: _ClassVar[int]
    DEVICES_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_WINDOW_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_WINDOW_FIELD_NUMBER: _ClassVar[int]
    REWARD_MEAN_WINDOW_FIELD_NUMBER: _ClassVar[int]
    GRADED_WINDOW_FIELD_NUMBER: _ClassVar[int]
    SLA_SHARE_WINDOW_FIELD_NUMBER: _ClassVar[int]
    SLA_FLOOR_FIELD_NUMBER: _ClassVar[int]
    ARM_SHARES_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    MONEY_DUAL_PER_DOLLAR_FIELD_NUMBER: _ClassVar[int]
    SLOT_S_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    FORECAST_REMAINING_FIELD_NUMBER: _ClassVar[int]
    DEMAND_LAST_SLOT_FIELD_NUMBER: _ClassVar[int]
    PINNED_TABLES_FIELD_NUMBER: _ClassVar[int]
    config_version: int
    policy: str
    budget: Budget
    slot: int
    slots_total: int
    devices_known: int
    devices_connected: int
    requests_window: int
    answered_window: int
    reward_mean_window: float
    graded_window: int
    sla_share_window: float
    sla_floor: float
    arm_shares: _containers.RepeatedCompositeFieldContainer[ArmShare]
    alarms: _containers.RepeatedScalarFieldContainer[str]
    money_dual_per_dollar: float
    slot_s: float
    now_unix_ms: int
    forecast_remaining: float
    demand_last_slot: int
    pinned_tables: _containers.RepeatedCompositeFieldContainer[PinnedTable]
    def __init__(self, config_version: _Optional[int] = ..., policy: _Optional[str] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., slot: _Optional[int] = ..., slots_total: _Optional[int] = ..., devices_known: _Optional[int] = ..., devices_connected: _Optional[int] = ..., requests_window: _Optional[int] = ..., answered_window: _Optional[int] = ..., reward_mean_window: _Optional[float] = ..., graded_window: _Optional[int] = ..., sla_share_window: _Optional[float] = ..., sla_floor: _Optional[float] = ..., arm_shares: _Optional[_Iterable[_Union[ArmShare, _Mapping]]] = ..., alarms: _Optional[_Iterable[str]] = ..., money_dual_per_dollar: _Optional[float] = ..., slot_s: _Optional[float] = ..., now_unix_ms: _Optional[int] = ..., forecast_remaining: _Optional[float] = ..., demand_last_slot: _Optional[int] = ..., pinned_tables: _Optional[_Iterable[_Union[PinnedTable, _Mapping]]] = ...) -> None: ...

class PinnedTable(_message.Message):
    __slots__ = ("device_class", "version", "since_unix_ms", "actor")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    version: int
    since_unix_ms: int
    actor: str
    def __init__(self, device_class: _Optional[str] = ..., version: _Optional[int] = ..., since_unix_ms: _Optional[int] = ..., actor: _Optional[str] = ...) -> None: ...

class ArmShare(_message.Message):
    __slots__ = ("arm", "requests", "reward_mean", "cost_nanos")
    ARM_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    REWARD_MEAN_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    arm: str
    requests: int
    reward_mean: float
    cost_nanos: int
    def __init__(self, arm: _Optional[str] = ..., requests: _Optional[int] = ..., reward_mean: _Optional[float] = ..., cost_nanos: _Optional[int] = ...) -> None: ...

class ApplyConfigRequest(_message.Message):
    __slots__ = ("toml", "dry_run", "actor")
    TOML_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    toml: str
    dry_run: bool
    actor: str
    def __init__(self, toml: _Optional[str] = ..., dry_run: _Optional[bool] = ..., actor: _Optional[str] = ...) -> None: ...

class ApplyConfigReply(_message.Message):
    __slots__ = ("version", "changes", "warnings")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    version: int
    changes: _containers.RepeatedCompositeFieldContainer[ConfigChange]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[int] = ..., changes: _Optional[_Iterable[_Union[ConfigChange, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ConfigChange(_message.Message):
    __slots__ = ("key", "before", "after")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    key: str
    before: str
    after: str
    def __init__(self, key: _Optional[str] = ..., before: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDevicesReply(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class GetDeviceRequest(_message.Message):
    __slots__ = ("device",)
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    device: str
    def __init__(self, device: _Optional[str] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("id", "name", "device_class", "state", "connected", "joined_unix_ms", "seen_unix_ms", "incarnation", "software_version", "acked_sequence", "spooled_records", "table_version", "leases", "local_arms", "device_state", "spend_paused_confirmed", "state_reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    JOINED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SEEN_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SPOOLED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ARMS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_STATE_FIELD_NUMBER: _ClassVar[int]
    SPEND_PAUSED_CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    device_class: str
    state: str
    connected: bool
    joined_unix_ms: int
    seen_unix_ms: int
    incarnation: str
    software_version: str
    acked_sequence: int
    spooled_records: int
    table_version: int
    leases: _containers.RepeatedCompositeFieldContainer[_types_pb2.LeaseStatus]
    local_arms: _containers.RepeatedScalarFieldContainer[str]
    device_state: _types_pb2.DeviceState
    spend_paused_confirmed: bool
    state_reason: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., device_class: _Optional[str] = ..., state: _Optional[str] = ..., connected: _Optional[bool] = ..., joined_unix_ms: _Optional[int] = ..., seen_unix_ms: _Optional[int] = ..., incarnation: _Optional[str] = ..., software_version: _Optional[str] = ..., acked_sequence: _Optional[int] = ..., spooled_records: _Optional[int] = ..., table_version: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[_types_pb2.LeaseStatus, _Mapping]]] = ..., local_arms: _Optional[_Iterable[str]] = ..., device_state: _Optional[_Union[_types_pb2.DeviceState, _Mapping]] = ..., spend_paused_confirmed: _Optional[bool] = ..., state_reason: _Optional[str] = ...) -> None: ...

class RevokeDeviceRequest(_message.Message):
    __slots__ = ("device", "actor")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    device: str
    actor: str
    def __init__(self, device: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ReadmitDeviceRequest(_message.Message):
    __slots__ = ("device", "actor")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    device: str
    actor: str
    def __init__(self, device: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ListArmsRequest(_message.Message):
    __slots__ = ("arm",)
    ARM_FIELD_NUMBER: _ClassVar[int]
    arm: str
    def __init__(self, arm: _Optional[str] = ...) -> None: ...

class ListArmsReply(_message.Message):
    __slots__ = ("arms",)
    ARMS_FIELD_NUMBER: _ClassVar[int]
    arms: _containers.RepeatedCompositeFieldContainer[ArmSummary]
    def __init__(self, arms: _Optional[_Iterable[_Union[ArmSummary, _Mapping]]] = ...) -> None: ...

class ArmSummary(_message.Message):
    __slots__ = ("id", "kind", "enabled", "price", "requests", "contexts")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: _types_pb2.ArmKind
    enabled: bool
    price: _types_pb2.Price
    requests: int
    contexts: _containers.RepeatedCompositeFieldContainer[ContextEstimate]
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[_types_pb2.ArmKind, str]] = ..., enabled: _Optional[bool] = ..., price: _Optional[_Union[_types_pb2.Price, _Mapping]] = ..., requests: _Optional[int] = ..., contexts: _Optional[_Iterable[_Union[ContextEstimate, _Mapping]]] = ...) -> None: ...

class ContextEstimate(_message.Message):
    __slots__ = ("device_class", "task_class", "sent", "graded", "reward", "cost_nanos", "hit", "latency_p50_ms", "latency_p90_ms")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    GRADED_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    HIT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P90_MS_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    task_class: str
    sent: int
    graded: int
    reward: Interval
    cost_nanos: Interval
    hit: Interval
    latency_p50_ms: int
    latency_p90_ms: int
    def __init__(self, device_class: _Optional[str] = ..., task_class: _Optional[str] = ..., sent: _Optional[int] = ..., graded: _Optional[int] = ..., reward: _Optional[_Union[Interval, _Mapping]] = ..., cost_nanos: _Optional[_Union[Interval, _Mapping]] = ..., hit: _Optional[_Union[Interval, _Mapping]] = ..., latency_p50_ms: _Optional[int] = ..., latency_p90_ms: _Optional[int] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("mean", "lower", "upper")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    mean: float
    lower: float
    upper: float
    def __init__(self, mean: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ...) -> None: ...

class SetArmEnabledRequest(_message.Message):
    __slots__ = ("arm", "enabled", "actor")
    ARM_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    arm: str
    enabled: bool
    actor: str
    def __init__(self, arm: _Optional[str] = ..., enabled: _Optional[bool] = ..., actor: _Optional[str] = ...) -> None: ...

class GetBudgetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Budget(_message.Message):
    __slots__ = ("name", "window_id", "window_start_unix_ms", "window_end_unix_ms", "target_nanos", "enforced_nanos", "settled_nanos", "unconfirmed_nanos", "outstanding_nanos", "free_nanos", "spend_paused", "holdings", "refusals", "passed_percents", "unspent_note", "unreported_nanos", "now_unix_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    WINDOW_START_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_END_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TARGET_NANOS_FIELD_NUMBER: _ClassVar[int]
    ENFORCED_NANOS_FIELD_NUMBER: _ClassVar[int]
    SETTLED_NANOS_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_NANOS_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_NANOS_FIELD_NUMBER: _ClassVar[int]
    FREE_NANOS_FIELD_NUMBER: _ClassVar[int]
    SPEND_PAUSED_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    PASSED_PERCENTS_FIELD_NUMBER: _ClassVar[int]
    UNSPENT_NOTE_FIELD_NUMBER: _ClassVar[int]
    UNREPORTED_NANOS_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    window_id: int
    window_start_unix_ms: int
    window_end_unix_ms: int
    target_nanos: int
    enforced_nanos: int
    settled_nanos: int
    unconfirmed_nanos: int
    outstanding_nanos: int
    free_nanos: int
    spend_paused: bool
    holdings: _containers.RepeatedCompositeFieldContainer[LeaseHolding]
    refusals: BudgetRefusals
    passed_percents: _containers.RepeatedScalarFieldContainer[int]
    unspent_note: str
    unreported_nanos: int
    now_unix_ms: int
    def __init__(self, name: _Optional[str] = ..., window_id: _Optional[int] = ..., window_start_unix_ms: _Optional[int] = ..., window_end_unix_ms: _Optional[int] = ..., target_nanos: _Optional[int] = ..., enforced_nanos: _Optional[int] = ..., settled_nanos: _Optional[int] = ..., unconfirmed_nanos: _Optional[int] = ..., outstanding_nanos: _Optional[int] = ..., free_nanos: _Optional[int] = ..., spend_paused: _Optional[bool] = ..., holdings: _Optional[_Iterable[_Union[LeaseHolding, _Mapping]]] = ..., refusals: _Optional[_Union[BudgetRefusals, _Mapping]] = ..., passed_percents: _Optional[_Iterable[int]] = ..., unspent_note: _Optional[str] = ..., unreported_nanos: _Optional[int] = ..., now_unix_ms: _Optional[int] = ...) -> None: ...

class LeaseHolding(_message.Message):
    __slots__ = ("device_id", "device_name", "window_id", "lease_number", "end", "amount_nanos", "booked_nanos", "outstanding_nanos", "unconfirmed_nanos", "connected", "silent_ms", "told", "told_unix_ms", "closing")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANOS_FIELD_NUMBER: _ClassVar[int]
    BOOKED_NANOS_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_NANOS_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_NANOS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    TOLD_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    device_name: str
    window_id: int
    lease_number: int
    end: str
    amount_nanos: int
    booked_nanos: int
    outstanding_nanos: int
    unconfirmed_nanos: int
    connected: bool
    silent_ms: int
    told: _types_pb2.LeaseStatus
    told_unix_ms: int
    closing: bool
    def __init__(self, device_id: _Optional[str] = ..., device_name: _Optional[str] = ..., window_id: _Optional[int] = ..., lease_number: _Optional[int] = ..., end: _Optional[str] = ..., amount_nanos: _Optional[int] = ..., booked_nanos: _Optional[int] = ..., outstanding_nanos: _Optional[int] = ..., unconfirmed_nanos: _Optional[int] = ..., connected: _Optional[bool] = ..., silent_ms: _Optional[int] = ..., told: _Optional[_Union[_types_pb2.LeaseStatus, _Mapping]] = ..., told_unix_ms: _Optional[int] = ..., closing: _Optional[bool] = ...) -> None: ...

class BudgetRefusals(_message.Message):
    __slots__ = ("count", "exhausted", "budget", "reason", "device_id", "at_unix_ms")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    count: int
    exhausted: int
    budget: str
    reason: str
    device_id: str
    at_unix_ms: int
    def __init__(self, count: _Optional[int] = ..., exhausted: _Optional[int] = ..., budget: _Optional[str] = ..., reason: _Optional[str] = ..., device_id: _Optional[str] = ..., at_unix_ms: _Optional[int] = ...) -> None: ...

class SetBudgetRequest(_message.Message):
    __slots__ = ("amount_nanos", "actor")
    AMOUNT_NANOS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    amount_nanos: int
    actor: str
    def __init__(self, amount_nanos: _Optional[int] = ..., actor: _Optional[str] = ...) -> None: ...

class RewindBudgetRequest(_message.Message):
    __slots__ = ("reason", "actor")
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    reason: str
    actor: str
    def __init__(self, reason: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class PauseSpendRequest(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: str
    def __init__(self, actor: _Optional[str] = ...) -> None: ...

class ResumeSpendRequest(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: str
    def __init__(self, actor: _Optional[str] = ...) -> None: ...

class SpendState(_message.Message):
    __slots__ = ("paused", "devices_told", "devices_unreached")
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    DEVICES_TOLD_FIELD_NUMBER: _ClassVar[int]
    DEVICES_UNREACHED_FIELD_NUMBER: _ClassVar[int]
    paused: bool
    devices_told: int
    devices_unreached: int
    def __init__(self, paused: _Optional[bool] = ..., devices_told: _Optional[int] = ..., devices_unreached: _Optional[int] = ...) -> None: ...

class ListLedgerRequest(_message.Message):
    __slots__ = ("after_id", "limit", "device")
    AFTER_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    after_id: int
    limit: int
    device: str
    def __init__(self, after_id: _Optional[int] = ..., limit: _Optional[int] = ..., device: _Optional[str] = ...) -> None: ...

class ListLedgerReply(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[LedgerRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[LedgerRow, _Mapping]]] = ...) -> None: ...

class LedgerRow(_message.Message):
    __slots__ = ("id", "at_unix_ms", "window_id", "kind", "device_id", "lease_number", "amount_nanos", "request_id", "note")
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANOS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    id: int
    at_unix_ms: int
    window_id: int
    kind: str
    device_id: str
    lease_number: int
    amount_nanos: int
    request_id: str
    note: str
    def __init__(self, id: _Optional[int] = ..., at_unix_ms: _Optional[int] = ..., window_id: _Optional[int] = ..., kind: _Optional[str] = ..., device_id: _Optional[str] = ..., lease_number: _Optional[int] = ..., amount_nanos: _Optional[int] = ..., request_id: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class VerifyLedgerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LedgerVerification(_message.Message):
    __slots__ = ("rows_read", "rows_total", "done", "differences")
    ROWS_READ_FIELD_NUMBER: _ClassVar[int]
    ROWS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    rows_read: int
    rows_total: int
    done: bool
    differences: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rows_read: _Optional[int] = ..., rows_total: _Optional[int] = ..., done: _Optional[bool] = ..., differences: _Optional[_Iterable[str]] = ...) -> None: ...

class GetRecoveryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RecoverLedgerRequest(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: str
    def __init__(self, actor: _Optional[str] = ...) -> None: ...

class LedgerRecovery(_message.Message):
    __slots__ = ("active", "reason", "confirmed_by", "heard", "missing")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_BY_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    active: bool
    reason: str
    confirmed_by: str
    heard: _containers.RepeatedCompositeFieldContainer[RecoveringDevice]
    missing: _containers.RepeatedCompositeFieldContainer[RecoveringDevice]
    def __init__(self, active: _Optional[bool] = ..., reason: _Optional[str] = ..., confirmed_by: _Optional[str] = ..., heard: _Optional[_Iterable[_Union[RecoveringDevice, _Mapping]]] = ..., missing: _Optional[_Iterable[_Union[RecoveringDevice, _Mapping]]] = ...) -> None: ...

class RecoveringDevice(_message.Message):
    __slots__ = ("id", "name", "silent_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    silent_ms: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., silent_ms: _Optional[int] = ...) -> None: ...

class WriteOffRequest(_message.Message):
    __slots__ = ("device", "assume_unspent", "reason", "actor")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ASSUME_UNSPENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    device: str
    assume_unspent: bool
    reason: str
    actor: str
    def __init__(self, device: _Optional[str] = ..., assume_unspent: _Optional[bool] = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class WriteOffReply(_message.Message):
    __slots__ = ("amount_nanos", "assumed_unspent", "budget")
    AMOUNT_NANOS_FIELD_NUMBER: _ClassVar[int]
    ASSUMED_UNSPENT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    amount_nanos: int
    assumed_unspent: bool
    budget: Budget
    def __init__(self, amount_nanos: _Optional[int] = ..., assumed_unspent: _Optional[bool] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class ListAuditRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListAuditReply(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditEntry, _Mapping]]] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("at_unix_ms", "actor", "action", "detail")
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    at_unix_ms: int
    actor: str
    action: str
    detail: str
    def __init__(self, at_unix_ms: _Optional[int] = ..., actor: _Optional[str] = ..., action: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ListAlarmsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAlarmsReply(_message.Message):
    __slots__ = ("alarms",)
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    alarms: _containers.RepeatedCompositeFieldContainer[Alarm]
    def __init__(self, alarms: _Optional[_Iterable[_Union[Alarm, _Mapping]]] = ...) -> None: ...

class Alarm(_message.Message):
    __slots__ = ("key", "kind", "text", "since_unix_ms", "resolved_by")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_BY_FIELD_NUMBER: _ClassVar[int]
    key: str
    kind: str
    text: str
    since_unix_ms: int
    resolved_by: str
    def __init__(self, key: _Optional[str] = ..., kind: _Optional[str] = ..., text: _Optional[str] = ..., since_unix_ms: _Optional[int] = ..., resolved_by: _Optional[str] = ...) -> None: ...

class ClearAlarmRequest(_message.Message):
    __slots__ = ("key", "reason", "actor")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    key: str
    reason: str
    actor: str
    def __init__(self, key: _Optional[str] = ..., reason: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class GetTableRequest(_message.Message):
    __slots__ = ("device", "device_class", "version")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    device: str
    device_class: str
    version: int
    def __init__(self, device: _Optional[str] = ..., device_class: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ListTablesRequest(_message.Message):
    __slots__ = ("device_class",)
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    def __init__(self, device_class: _Optional[str] = ...) -> None: ...

class ListTablesReply(_message.Message):
    __slots__ = ("classes",)
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[TablesOfClass]
    def __init__(self, classes: _Optional[_Iterable[_Union[TablesOfClass, _Mapping]]] = ...) -> None: ...

class TablesOfClass(_message.Message):
    __slots__ = ("device_class", "version", "pinned", "earlier", "created_unix_ms")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    EARLIER_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    version: int
    pinned: PinnedTable
    earlier: _containers.RepeatedCompositeFieldContainer[TableVersion]
    created_unix_ms: int
    def __init__(self, device_class: _Optional[str] = ..., version: _Optional[int] = ..., pinned: _Optional[_Union[PinnedTable, _Mapping]] = ..., earlier: _Optional[_Iterable[_Union[TableVersion, _Mapping]]] = ..., created_unix_ms: _Optional[int] = ...) -> None: ...

class TableVersion(_message.Message):
    __slots__ = ("version", "created_unix_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    created_unix_ms: int
    def __init__(self, version: _Optional[int] = ..., created_unix_ms: _Optional[int] = ...) -> None: ...

class PinTableRequest(_message.Message):
    __slots__ = ("device_class", "version", "actor")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    version: int
    actor: str
    def __init__(self, device_class: _Optional[str] = ..., version: _Optional[int] = ..., actor: _Optional[str] = ...) -> None: ...

class UnpinTableRequest(_message.Message):
    __slots__ = ("device_class", "actor")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    actor: str
    def __init__(self, device_class: _Optional[str] = ..., actor: _Optional[str] = ...) -> None: ...

class ExportSpendRequest(_message.Message):
    __slots__ = ("from_unix_ms", "until_unix_ms")
    FROM_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    from_unix_ms: int
    until_unix_ms: int
    def __init__(self, from_unix_ms: _Optional[int] = ..., until_unix_ms: _Optional[int] = ...) -> None: ...

class SpendPage(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[SpendLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[SpendLine, _Mapping]]] = ...) -> None: ...

class SpendLine(_message.Message):
    __slots__ = ("day_unix_ms", "arm", "tag", "settled_nanos", "unconfirmed_nanos")
    DAY_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    SETTLED_NANOS_FIELD_NUMBER: _ClassVar[int]
    UNCONFIRMED_NANOS_FIELD_NUMBER: _ClassVar[int]
    day_unix_ms: int
    arm: str
    tag: str
    settled_nanos: int
    unconfirmed_nanos: int
    def __init__(self, day_unix_ms: _Optional[int] = ..., arm: _Optional[str] = ..., tag: _Optional[str] = ..., settled_nanos: _Optional[int] = ..., unconfirmed_nanos: _Optional[int] = ...) -> None: ...

class GetForecastRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ForecastReply(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[ForecastRow]
    def __init__(self, rows: _Optional[_Iterable[_Union[ForecastRow, _Mapping]]] = ...) -> None: ...

class ForecastRow(_message.Message):
    __slots__ = ("device_class", "task_class", "forecaster", "demand_so_far", "next_slot", "remaining")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    FORECASTER_FIELD_NUMBER: _ClassVar[int]
    DEMAND_SO_FAR_FIELD_NUMBER: _ClassVar[int]
    NEXT_SLOT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    task_class: str
    forecaster: str
    demand_so_far: int
    next_slot: float
    remaining: Interval
    def __init__(self, device_class: _Optional[str] = ..., task_class: _Optional[str] = ..., forecaster: _Optional[str] = ..., demand_so_far: _Optional[int] = ..., next_slot: _Optional[float] = ..., remaining: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class GetPlanInputsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PlanInputs(_message.Message):
    __slots__ = ("policy", "sla_floor", "rho", "budget_nanos", "left_nanos", "slot", "slots_total", "rows")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SLA_FLOOR_FIELD_NUMBER: _ClassVar[int]
    RHO_FIELD_NUMBER: _ClassVar[int]
    BUDGET_NANOS_FIELD_NUMBER: _ClassVar[int]
    LEFT_NANOS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    sla_floor: float
    rho: float
    budget_nanos: int
    left_nanos: int
    slot: int
    slots_total: int
    rows: _containers.RepeatedCompositeFieldContainer[PlanInputRow]
    def __init__(self, policy: _Optional[str] = ..., sla_floor: _Optional[float] = ..., rho: _Optional[float] = ..., budget_nanos: _Optional[int] = ..., left_nanos: _Optional[int] = ..., slot: _Optional[int] = ..., slots_total: _Optional[int] = ..., rows: _Optional[_Iterable[_Union[PlanInputRow, _Mapping]]] = ...) -> None: ...

class PlanInputRow(_message.Message):
    __slots__ = ("device_class", "task_class", "demand_so_far", "demand_remaining", "arms")
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    DEMAND_SO_FAR_FIELD_NUMBER: _ClassVar[int]
    DEMAND_REMAINING_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    device_class: str
    task_class: str
    demand_so_far: int
    demand_remaining: float
    arms: _containers.RepeatedCompositeFieldContainer[PlanInputArm]
    def __init__(self, device_class: _Optional[str] = ..., task_class: _Optional[str] = ..., demand_so_far: _Optional[int] = ..., demand_remaining: _Optional[float] = ..., arms: _Optional[_Iterable[_Union[PlanInputArm, _Mapping]]] = ...) -> None: ...

class PlanInputArm(_message.Message):
    __slots__ = ("arm", "reward", "cost_nanos", "hit", "booked", "graded")
    ARM_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    HIT_FIELD_NUMBER: _ClassVar[int]
    BOOKED_FIELD_NUMBER: _ClassVar[int]
    GRADED_FIELD_NUMBER: _ClassVar[int]
    arm: str
    reward: float
    cost_nanos: float
    hit: float
    booked: int
    graded: int
    def __init__(self, arm: _Optional[str] = ..., reward: _Optional[float] = ..., cost_nanos: _Optional[float] = ..., hit: _Optional[float] = ..., booked: _Optional[int] = ..., graded: _Optional[int] = ...) -> None: ...

class ListDecisionsRequest(_message.Message):
    __slots__ = ("limit", "device", "request_id", "after_position")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    limit: int
    device: str
    request_id: str
    after_position: int
    def __init__(self, limit: _Optional[int] = ..., device: _Optional[str] = ..., request_id: _Optional[str] = ..., after_position: _Optional[int] = ...) -> None: ...

class ListDecisionsReply(_message.Message):
    __slots__ = ("decisions",)
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    def __init__(self, decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("device_id", "device_class", "sequence", "outcome", "graded", "reward_ppm", "position", "slot", "graded_by")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    GRADED_FIELD_NUMBER: _ClassVar[int]
    REWARD_PPM_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    GRADED_BY_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    device_class: str
    sequence: int
    outcome: _types_pb2.Outcome
    graded: bool
    reward_ppm: int
    position: int
    slot: int
    graded_by: str
    def __init__(self, device_id: _Optional[str] = ..., device_class: _Optional[str] = ..., sequence: _Optional[int] = ..., outcome: _Optional[_Union[_types_pb2.Outcome, _Mapping]] = ..., graded: _Optional[bool] = ..., reward_ppm: _Optional[int] = ..., position: _Optional[int] = ..., slot: _Optional[int] = ..., graded_by: _Optional[str] = ...) -> None: ...

class CreateTokenRequest(_message.Message):
    __slots__ = ("kind", "device_class", "valid_for_s", "actor", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_S_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: TokenKind
    device_class: str
    valid_for_s: int
    actor: str
    name: str
    def __init__(self, kind: _Optional[_Union[TokenKind, str]] = ..., device_class: _Optional[str] = ..., valid_for_s: _Optional[int] = ..., actor: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class CreateTokenReply(_message.Message):
    __slots__ = ("token", "expires_unix_ms")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_unix_ms: int
    def __init__(self, token: _Optional[str] = ..., expires_unix_ms: _Optional[int] = ...) -> None: ...
