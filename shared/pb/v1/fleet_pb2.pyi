from shared.pb.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GreetRequest(_message.Message):
    __slots__ = ("protocol",)
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    protocol: _types_pb2.ProtocolVersion
    def __init__(self, protocol: _Optional[_Union[_types_pb2.ProtocolVersion, _Mapping]] = ...) -> None: ...

class GreetReply(_message.Message):
    __slots__ = ("protocol", "software_version", "now_unix_ms", "standing")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    protocol: _types_pb2.ProtocolVersion
    software_version: str
    now_unix_ms: int
    standing: str
    def __init__(self, protocol: _Optional[_Union[_types_pb2.ProtocolVersion, _Mapping]] = ..., software_version: _Optional[str] = ..., now_unix_ms: _Optional[int] = ..., standing: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("protocol", "join_token", "device_name", "device_class")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    protocol: _types_pb2.ProtocolVersion
    join_token: str
    device_name: str
    device_class: str
    def __init__(self, protocol: _Optional[_Union[_types_pb2.ProtocolVersion, _Mapping]] = ..., join_token: _Optional[str] = ..., device_name: _Optional[str] = ..., device_class: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("device_id", "credential")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    credential: str
    def __init__(self, device_id: _Optional[str] = ..., credential: _Optional[str] = ...) -> None: ...

class DeviceMessage(_message.Message):
    __slots__ = ("hello", "batch", "heartbeat", "lease_request", "resume_token_synced")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    LEASE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_SYNCED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    batch: OutcomeBatch
    heartbeat: Heartbeat
    lease_request: LeaseRequest
    resume_token_synced: ResumeTokenSynced
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., batch: _Optional[_Union[OutcomeBatch, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., lease_request: _Optional[_Union[LeaseRequest, _Mapping]] = ..., resume_token_synced: _Optional[_Union[ResumeTokenSynced, _Mapping]] = ...) -> None: ...

class CoordinatorMessage(_message.Message):
    __slots__ = ("welcome", "ack", "config", "table", "grant", "recall", "command", "heartbeat_reply", "refusal", "provider_keys")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_REPLY_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_KEYS_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    ack: Ack
    config: DeviceConfig
    table: _types_pb2.SelectionTable
    grant: LeaseGrant
    recall: LeaseRecall
    command: Command
    heartbeat_reply: HeartbeatReply
    refusal: LeaseRefusal
    provider_keys: ProviderKeys
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., config: _Optional[_Union[DeviceConfig, _Mapping]] = ..., table: _Optional[_Union[_types_pb2.SelectionTable, _Mapping]] = ..., grant: _Optional[_Union[LeaseGrant, _Mapping]] = ..., recall: _Optional[_Union[LeaseRecall, _Mapping]] = ..., command: _Optional[_Union[Command, _Mapping]] = ..., heartbeat_reply: _Optional[_Union[HeartbeatReply, _Mapping]] = ..., refusal: _Optional[_Union[LeaseRefusal, _Mapping]] = ..., provider_keys: _Optional[_Union[ProviderKeys, _Mapping]] = ...) -> None: ...

class ProviderKeys(_message.Message):
    __slots__ = ("keys",)
    class KeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.ScalarMap[str, str]
    def __init__(self, keys: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "software_version", "incarnation", "resume_token", "acked_sequence", "lease_number_max", "leases", "local_arms", "capabilities", "table_version", "config_version", "incarnations", "copied", "speeds")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_MAX_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ARMS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATIONS_FIELD_NUMBER: _ClassVar[int]
    COPIED_FIELD_NUMBER: _ClassVar[int]
    SPEEDS_FIELD_NUMBER: _ClassVar[int]
    protocol: _types_pb2.ProtocolVersion
    software_version: str
    incarnation: str
    resume_token: str
    acked_sequence: int
    lease_number_max: int
    leases: _containers.RepeatedCompositeFieldContainer[_types_pb2.LeaseStatus]
    local_arms: _containers.RepeatedScalarFieldContainer[str]
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    table_version: int
    config_version: int
    incarnations: _containers.RepeatedCompositeFieldContainer[IncarnationRange]
    copied: bool
    speeds: _containers.RepeatedCompositeFieldContainer[ArmSpeed]
    def __init__(self, protocol: _Optional[_Union[_types_pb2.ProtocolVersion, _Mapping]] = ..., software_version: _Optional[str] = ..., incarnation: _Optional[str] = ..., resume_token: _Optional[str] = ..., acked_sequence: _Optional[int] = ..., lease_number_max: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[_types_pb2.LeaseStatus, _Mapping]]] = ..., local_arms: _Optional[_Iterable[str]] = ..., capabilities: _Optional[_Iterable[str]] = ..., table_version: _Optional[int] = ..., config_version: _Optional[int] = ..., incarnations: _Optional[_Iterable[_Union[IncarnationRange, _Mapping]]] = ..., copied: _Optional[bool] = ..., speeds: _Optional[_Iterable[_Union[ArmSpeed, _Mapping]]] = ...) -> None: ...

class ArmSpeed(_message.Message):
    __slots__ = ("arm", "prompt_tokens_per_s", "completion_tokens_per_s")
    ARM_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    arm: str
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    def __init__(self, arm: _Optional[str] = ..., prompt_tokens_per_s: _Optional[float] = ..., completion_tokens_per_s: _Optional[float] = ...) -> None: ...

class IncarnationRange(_message.Message):
    __slots__ = ("incarnation", "after_sequence", "last_sequence")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    after_sequence: int
    last_sequence: int
    def __init__(self, incarnation: _Optional[str] = ..., after_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "software_version", "resume_token", "acked_sequence", "heartbeat_ms", "spend_paused", "now_unix_ms", "quarantined")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    SPEND_PAUSED_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    protocol: _types_pb2.ProtocolVersion
    software_version: str
    resume_token: str
    acked_sequence: int
    heartbeat_ms: int
    spend_paused: bool
    now_unix_ms: int
    quarantined: bool
    def __init__(self, protocol: _Optional[_Union[_types_pb2.ProtocolVersion, _Mapping]] = ..., software_version: _Optional[str] = ..., resume_token: _Optional[str] = ..., acked_sequence: _Optional[int] = ..., heartbeat_ms: _Optional[int] = ..., spend_paused: _Optional[bool] = ..., now_unix_ms: _Optional[int] = ..., quarantined: _Optional[bool] = ...) -> None: ...

class ResumeTokenSynced(_message.Message):
    __slots__ = ("resume_token",)
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    def __init__(self, resume_token: _Optional[str] = ...) -> None: ...

class OutcomeBatch(_message.Message):
    __slots__ = ("records", "runs")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[_types_pb2.SpoolRecord]
    runs: _containers.RepeatedCompositeFieldContainer[_types_pb2.OutcomeRun]
    def __init__(self, records: _Optional[_Iterable[_Union[_types_pb2.SpoolRecord, _Mapping]]] = ..., runs: _Optional[_Iterable[_Union[_types_pb2.OutcomeRun, _Mapping]]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("state", "leases", "spooled_records", "table_version")
    STATE_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    SPOOLED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    state: _types_pb2.DeviceState
    leases: _containers.RepeatedCompositeFieldContainer[_types_pb2.LeaseStatus]
    spooled_records: int
    table_version: int
    def __init__(self, state: _Optional[_Union[_types_pb2.DeviceState, _Mapping]] = ..., leases: _Optional[_Iterable[_Union[_types_pb2.LeaseStatus, _Mapping]]] = ..., spooled_records: _Optional[int] = ..., table_version: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("spend_paused", "now_unix_ms")
    SPEND_PAUSED_FIELD_NUMBER: _ClassVar[int]
    NOW_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    spend_paused: bool
    now_unix_ms: int
    def __init__(self, spend_paused: _Optional[bool] = ..., now_unix_ms: _Optional[int] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("available_nanos", "worst_case_nanos", "asked_boot_ms", "needed_nanos", "lease_number_max")
    AVAILABLE_NANOS_FIELD_NUMBER: _ClassVar[int]
    WORST_CASE_NANOS_FIELD_NUMBER: _ClassVar[int]
    ASKED_BOOT_MS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_NANOS_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_MAX_FIELD_NUMBER: _ClassVar[int]
    available_nanos: int
    worst_case_nanos: int
    asked_boot_ms: int
    needed_nanos: int
    lease_number_max: int
    def __init__(self, available_nanos: _Optional[int] = ..., worst_case_nanos: _Optional[int] = ..., asked_boot_ms: _Optional[int] = ..., needed_nanos: _Optional[int] = ..., lease_number_max: _Optional[int] = ...) -> None: ...

class LeaseGrant(_message.Message):
    __slots__ = ("incarnation", "lease_number", "window_id", "amount_nanos", "duration_ms", "price_version", "asked_boot_ms")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANOS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ASKED_BOOT_MS_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    lease_number: int
    window_id: int
    amount_nanos: int
    duration_ms: int
    price_version: int
    asked_boot_ms: int
    def __init__(self, incarnation: _Optional[str] = ..., lease_number: _Optional[int] = ..., window_id: _Optional[int] = ..., amount_nanos: _Optional[int] = ..., duration_ms: _Optional[int] = ..., price_version: _Optional[int] = ..., asked_boot_ms: _Optional[int] = ...) -> None: ...

class LeaseRefusal(_message.Message):
    __slots__ = ("budget", "reason", "retry_after_ms")
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    budget: str
    reason: str
    retry_after_ms: int
    def __init__(self, budget: _Optional[str] = ..., reason: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class LeaseRecall(_message.Message):
    __slots__ = ("lease_number", "reason")
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease_number: int
    reason: str
    def __init__(self, lease_number: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("pause_spend", "resume_spend", "quarantine")
    PAUSE_SPEND_FIELD_NUMBER: _ClassVar[int]
    RESUME_SPEND_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_FIELD_NUMBER: _ClassVar[int]
    pause_spend: PauseSpend
    resume_spend: ResumeSpend
    quarantine: Quarantine
    def __init__(self, pause_spend: _Optional[_Union[PauseSpend, _Mapping]] = ..., resume_spend: _Optional[_Union[ResumeSpend, _Mapping]] = ..., quarantine: _Optional[_Union[Quarantine, _Mapping]] = ...) -> None: ...

class PauseSpend(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeSpend(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Quarantine(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class DeviceConfig(_message.Message):
    __slots__ = ("version", "device_class", "arms", "task_classes", "price_version", "budget_name", "close_wait_ms", "revision", "judge", "signals")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASSES_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BUDGET_NAME_FIELD_NUMBER: _ClassVar[int]
    CLOSE_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    version: int
    device_class: str
    arms: _containers.RepeatedCompositeFieldContainer[_types_pb2.Arm]
    task_classes: _containers.RepeatedCompositeFieldContainer[_types_pb2.TaskClass]
    price_version: int
    budget_name: str
    close_wait_ms: int
    revision: int
    judge: Judge
    signals: Signals
    def __init__(self, version: _Optional[int] = ..., device_class: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[_types_pb2.Arm, _Mapping]]] = ..., task_classes: _Optional[_Iterable[_Union[_types_pb2.TaskClass, _Mapping]]] = ..., price_version: _Optional[int] = ..., budget_name: _Optional[str] = ..., close_wait_ms: _Optional[int] = ..., revision: _Optional[int] = ..., judge: _Optional[_Union[Judge, _Mapping]] = ..., signals: _Optional[_Union[Signals, _Mapping]] = ...) -> None: ...

class Judge(_message.Message):
    __slots__ = ("arm", "max_tokens")
    ARM_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    arm: _types_pb2.Arm
    max_tokens: int
    def __init__(self, arm: _Optional[_Union[_types_pb2.Arm, _Mapping]] = ..., max_tokens: _Optional[int] = ...) -> None: ...

class Signals(_message.Message):
    __slots__ = ("retry", "abandon", "retry_within_ms")
    RETRY_FIELD_NUMBER: _ClassVar[int]
    ABANDON_FIELD_NUMBER: _ClassVar[int]
    RETRY_WITHIN_MS_FIELD_NUMBER: _ClassVar[int]
    retry: WeakSignal
    abandon: WeakSignal
    retry_within_ms: int
    def __init__(self, retry: _Optional[_Union[WeakSignal, _Mapping]] = ..., abandon: _Optional[_Union[WeakSignal, _Mapping]] = ..., retry_within_ms: _Optional[int] = ...) -> None: ...

class WeakSignal(_message.Message):
    __slots__ = ("reward_ppm", "weight_ppm")
    REWARD_PPM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PPM_FIELD_NUMBER: _ClassVar[int]
    reward_ppm: int
    weight_ppm: int
    def __init__(self, reward_ppm: _Optional[int] = ..., weight_ppm: _Optional[int] = ...) -> None: ...
