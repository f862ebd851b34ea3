from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ArmKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARM_KIND_UNSPECIFIED: _ClassVar[ArmKind]
    ARM_KIND_LOCAL: _ClassVar[ArmKind]
    ARM_KIND_CLOUD: _ClassVar[ArmKind]

class OnAbort(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_ABORT_UNSPECIFIED: _ClassVar[OnAbort]
    ON_ABORT_DRAIN: _ClassVar[OnAbort]
    ON_ABORT_CANCEL: _ClassVar[OnAbort]

class GraderKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRADER_KIND_UNSPECIFIED: _ClassVar[GraderKind]
    GRADER_KIND_EXACT: _ClassVar[GraderKind]
    GRADER_KIND_CONTAINS: _ClassVar[GraderKind]
    GRADER_KIND_REGEX: _ClassVar[GraderKind]
    GRADER_KIND_JSON_SCHEMA: _ClassVar[GraderKind]
    GRADER_KIND_NUMERIC: _ClassVar[GraderKind]

class SettleKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SETTLE_KIND_UNSPECIFIED: _ClassVar[SettleKind]
    SETTLE_KIND_RELEASED: _ClassVar[SettleKind]
    SETTLE_KIND_REPORTED: _ClassVar[SettleKind]
    SETTLE_KIND_UNKNOWN: _ClassVar[SettleKind]

class RequestStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REQUEST_STATUS_UNSPECIFIED: _ClassVar[RequestStatus]
    REQUEST_STATUS_OK: _ClassVar[RequestStatus]
    REQUEST_STATUS_ERROR: _ClassVar[RequestStatus]
    REQUEST_STATUS_REFUSED: _ClassVar[RequestStatus]
    REQUEST_STATUS_ABORTED: _ClassVar[RequestStatus]
    REQUEST_STATUS_INTERRUPTED: _ClassVar[RequestStatus]
ARM_KIND_UNSPECIFIED: ArmKind
ARM_KIND_LOCAL: ArmKind
ARM_KIND_CLOUD: ArmKind
ON_ABORT_UNSPECIFIED: OnAbort
ON_ABORT_DRAIN: OnAbort
ON_ABORT_CANCEL: OnAbort
GRADER_KIND_UNSPECIFIED: GraderKind
GRADER_KIND_EXACT: GraderKind
GRADER_KIND_CONTAINS: GraderKind
GRADER_KIND_REGEX: GraderKind
GRADER_KIND_JSON_SCHEMA: GraderKind
GRADER_KIND_NUMERIC: GraderKind
SETTLE_KIND_UNSPECIFIED: SettleKind
SETTLE_KIND_RELEASED: SettleKind
SETTLE_KIND_REPORTED: SettleKind
SETTLE_KIND_UNKNOWN: SettleKind
REQUEST_STATUS_UNSPECIFIED: RequestStatus
REQUEST_STATUS_OK: RequestStatus
REQUEST_STATUS_ERROR: RequestStatus
REQUEST_STATUS_REFUSED: RequestStatus
REQUEST_STATUS_ABORTED: RequestStatus
REQUEST_STATUS_INTERRUPTED: RequestStatus

class ProtocolVersion(_message.Message):
    __slots__ = ("major", "minor")
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    major: int
    minor: int
    def __init__(self, major: _Optional[int] = ..., minor: _Optional[int] = ...) -> None: ...

class Price(_message.Message):
    __slots__ = ("input_nanos_per_mtok", "output_nanos_per_mtok", "request_nanos", "version", "valid_until_unix_ms")
    INPUT_NANOS_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NANOS_PER_MTOK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_NANOS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    input_nanos_per_mtok: int
    output_nanos_per_mtok: int
    request_nanos: int
    version: int
    valid_until_unix_ms: int
    def __init__(self, input_nanos_per_mtok: _Optional[int] = ..., output_nanos_per_mtok: _Optional[int] = ..., request_nanos: _Optional[int] = ..., version: _Optional[int] = ..., valid_until_unix_ms: _Optional[int] = ...) -> None: ...

class WorstCase(_message.Message):
    __slots__ = ("bytes_factor_ppm", "message_overhead_tokens", "request_overhead_tokens")
    BYTES_FACTOR_PPM_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_OVERHEAD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_OVERHEAD_TOKENS_FIELD_NUMBER: _ClassVar[int]
    bytes_factor_ppm: int
    message_overhead_tokens: int
    request_overhead_tokens: int
    def __init__(self, bytes_factor_ppm: _Optional[int] = ..., message_overhead_tokens: _Optional[int] = ..., request_overhead_tokens: _Optional[int] = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("id", "kind", "model", "context_tokens_max", "max_tokens_default", "bytes_per_token_ppm", "capabilities", "enabled", "cloud")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_TOKEN_PPM_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    CLOUD_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: ArmKind
    model: str
    context_tokens_max: int
    max_tokens_default: int
    bytes_per_token_ppm: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    enabled: bool
    cloud: CloudArm
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[_Union[ArmKind, str]] = ..., model: _Optional[str] = ..., context_tokens_max: _Optional[int] = ..., max_tokens_default: _Optional[int] = ..., bytes_per_token_ppm: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., enabled: _Optional[bool] = ..., cloud: _Optional[_Union[CloudArm, _Mapping]] = ...) -> None: ...

class CloudArm(_message.Message):
    __slots__ = ("base_url", "api_key_ref", "price", "worst_case", "fields", "unbilled_statuses", "on_abort", "connect_timeout_ms", "first_byte_timeout_ms", "drain_timeout_ms")
    BASE_URL_FIELD_NUMBER: _ClassVar[int]
    API_KEY_REF_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    WORST_CASE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    UNBILLED_STATUSES_FIELD_NUMBER: _ClassVar[int]
    ON_ABORT_FIELD_NUMBER: _ClassVar[int]
    CONNECT_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_BYTE_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    base_url: str
    api_key_ref: str
    price: Price
    worst_case: WorstCase
    fields: _containers.RepeatedScalarFieldContainer[str]
    unbilled_statuses: _containers.RepeatedScalarFieldContainer[int]
    on_abort: OnAbort
    connect_timeout_ms: int
    first_byte_timeout_ms: int
    drain_timeout_ms: int
    def __init__(self, base_url: _Optional[str] = ..., api_key_ref: _Optional[str] = ..., price: _Optional[_Union[Price, _Mapping]] = ..., worst_case: _Optional[_Union[WorstCase, _Mapping]] = ..., fields: _Optional[_Iterable[str]] = ..., unbilled_statuses: _Optional[_Iterable[int]] = ..., on_abort: _Optional[_Union[OnAbort, str]] = ..., connect_timeout_ms: _Optional[int] = ..., first_byte_timeout_ms: _Optional[int] = ..., drain_timeout_ms: _Optional[int] = ...) -> None: ...

class TaskClass(_message.Message):
    __slots__ = ("id", "deadline_ms", "privacy_local", "grader", "judge_ppm")
    ID_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_LOCAL_FIELD_NUMBER: _ClassVar[int]
    GRADER_FIELD_NUMBER: _ClassVar[int]
    JUDGE_PPM_FIELD_NUMBER: _ClassVar[int]
    id: str
    deadline_ms: int
    privacy_local: bool
    grader: Grader
    judge_ppm: int
    def __init__(self, id: _Optional[str] = ..., deadline_ms: _Optional[int] = ..., privacy_local: _Optional[bool] = ..., grader: _Optional[_Union[Grader, _Mapping]] = ..., judge_ppm: _Optional[int] = ...) -> None: ...

class Grader(_message.Message):
    __slots__ = ("name", "kind", "pattern", "schema", "ignore_case", "tolerance", "relative_tolerance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    IGNORE_CASE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: GraderKind
    pattern: str
    schema: str
    ignore_case: bool
    tolerance: float
    relative_tolerance: float
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[GraderKind, str]] = ..., pattern: _Optional[str] = ..., schema: _Optional[str] = ..., ignore_case: _Optional[bool] = ..., tolerance: _Optional[float] = ..., relative_tolerance: _Optional[float] = ...) -> None: ...

class TableArm(_message.Message):
    __slots__ = ("arm", "weight_ppm", "expected_reward_ppm", "expected_cost_nanos", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms")
    ARM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PPM_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REWARD_PPM_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P50_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P90_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_P99_MS_FIELD_NUMBER: _ClassVar[int]
    arm: str
    weight_ppm: int
    expected_reward_ppm: int
    expected_cost_nanos: int
    latency_p50_ms: int
    latency_p90_ms: int
    latency_p99_ms: int
    def __init__(self, arm: _Optional[str] = ..., weight_ppm: _Optional[int] = ..., expected_reward_ppm: _Optional[int] = ..., expected_cost_nanos: _Optional[int] = ..., latency_p50_ms: _Optional[int] = ..., latency_p90_ms: _Optional[int] = ..., latency_p99_ms: _Optional[int] = ...) -> None: ...

class TableRow(_message.Message):
    __slots__ = ("task_class", "arms")
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    task_class: str
    arms: _containers.RepeatedCompositeFieldContainer[TableArm]
    def __init__(self, task_class: _Optional[str] = ..., arms: _Optional[_Iterable[_Union[TableArm, _Mapping]]] = ...) -> None: ...

class SelectionTable(_message.Message):
    __slots__ = ("version", "device_class", "config_version", "created_unix_ms", "rows", "resident_arms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_CLASS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_ARMS_FIELD_NUMBER: _ClassVar[int]
    version: int
    device_class: str
    config_version: int
    created_unix_ms: int
    rows: _containers.RepeatedCompositeFieldContainer[TableRow]
    resident_arms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[int] = ..., device_class: _Optional[str] = ..., config_version: _Optional[int] = ..., created_unix_ms: _Optional[int] = ..., rows: _Optional[_Iterable[_Union[TableRow, _Mapping]]] = ..., resident_arms: _Optional[_Iterable[str]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("arm", "lease_number", "reserved_nanos", "cost_nanos", "settle", "error", "latency_ms")
    ARM_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESERVED_NANOS_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    arm: str
    lease_number: int
    reserved_nanos: int
    cost_nanos: int
    settle: SettleKind
    error: str
    latency_ms: int
    def __init__(self, arm: _Optional[str] = ..., lease_number: _Optional[int] = ..., reserved_nanos: _Optional[int] = ..., cost_nanos: _Optional[int] = ..., settle: _Optional[_Union[SettleKind, str]] = ..., error: _Optional[str] = ..., latency_ms: _Optional[int] = ...) -> None: ...

class Fallout(_message.Message):
    __slots__ = ("arm", "reason")
    ARM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    arm: str
    reason: str
    def __init__(self, arm: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("arm", "weight_ppm")
    ARM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PPM_FIELD_NUMBER: _ClassVar[int]
    arm: str
    weight_ppm: int
    def __init__(self, arm: _Optional[str] = ..., weight_ppm: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("request_id", "task_class", "arrived_unix_ms", "status", "arm", "drawn_arm", "propensity_ppm", "table_version", "reason", "forced", "attempts", "fallouts", "prompt_tokens", "completion_tokens", "ttft_ms", "latency_ms", "deadline_ms", "hit", "tag", "candidates", "observed", "grading_ppm")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    DRAWN_ARM_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_PPM_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FALLOUTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    HIT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    GRADING_PPM_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task_class: str
    arrived_unix_ms: int
    status: RequestStatus
    arm: str
    drawn_arm: str
    propensity_ppm: int
    table_version: int
    reason: str
    forced: bool
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    fallouts: _containers.RepeatedCompositeFieldContainer[Fallout]
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: int
    latency_ms: int
    deadline_ms: int
    hit: bool
    tag: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    observed: Observation
    grading_ppm: int
    def __init__(self, request_id: _Optional[str] = ..., task_class: _Optional[str] = ..., arrived_unix_ms: _Optional[int] = ..., status: _Optional[_Union[RequestStatus, str]] = ..., arm: _Optional[str] = ..., drawn_arm: _Optional[str] = ..., propensity_ppm: _Optional[int] = ..., table_version: _Optional[int] = ..., reason: _Optional[str] = ..., forced: _Optional[bool] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., fallouts: _Optional[_Iterable[_Union[Fallout, _Mapping]]] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., ttft_ms: _Optional[int] = ..., latency_ms: _Optional[int] = ..., deadline_ms: _Optional[int] = ..., hit: _Optional[bool] = ..., tag: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., observed: _Optional[_Union[Observation, _Mapping]] = ..., grading_ppm: _Optional[int] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("arm", "propensity_ppm", "candidates")
    ARM_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_PPM_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    arm: str
    propensity_ppm: int
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    def __init__(self, arm: _Optional[str] = ..., propensity_ppm: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ...) -> None: ...

class Feedback(_message.Message):
    __slots__ = ("request_id", "reward_ppm", "source", "at_unix_ms", "task_class", "arm", "weight_ppm", "grading_ppm")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REWARD_PPM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PPM_FIELD_NUMBER: _ClassVar[int]
    GRADING_PPM_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    reward_ppm: int
    source: str
    at_unix_ms: int
    task_class: str
    arm: str
    weight_ppm: int
    grading_ppm: int
    def __init__(self, request_id: _Optional[str] = ..., reward_ppm: _Optional[int] = ..., source: _Optional[str] = ..., at_unix_ms: _Optional[int] = ..., task_class: _Optional[str] = ..., arm: _Optional[str] = ..., weight_ppm: _Optional[int] = ..., grading_ppm: _Optional[int] = ...) -> None: ...

class JudgeCall(_message.Message):
    __slots__ = ("request_id", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: Attempt
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[_Union[Attempt, _Mapping]] = ...) -> None: ...

class LeaseClose(_message.Message):
    __slots__ = ("lease_number", "final_nanos", "clean", "reason")
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    FINAL_NANOS_FIELD_NUMBER: _ClassVar[int]
    CLEAN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease_number: int
    final_nanos: int
    clean: bool
    reason: str
    def __init__(self, lease_number: _Optional[int] = ..., final_nanos: _Optional[int] = ..., clean: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class CostAdjustment(_message.Message):
    __slots__ = ("request_id", "lease_number", "delta_nanos", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    DELTA_NANOS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    lease_number: int
    delta_nanos: int
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., lease_number: _Optional[int] = ..., delta_nanos: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class SpoolSummary(_message.Message):
    __slots__ = ("first_sequence", "last_sequence", "costs", "counts", "unreadable")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    last_sequence: int
    costs: _containers.RepeatedCompositeFieldContainer[LeaseCost]
    counts: _containers.RepeatedCompositeFieldContainer[ContextCount]
    unreadable: int
    def __init__(self, first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., costs: _Optional[_Iterable[_Union[LeaseCost, _Mapping]]] = ..., counts: _Optional[_Iterable[_Union[ContextCount, _Mapping]]] = ..., unreadable: _Optional[int] = ...) -> None: ...

class LeaseCost(_message.Message):
    __slots__ = ("lease_number", "cost_nanos")
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    lease_number: int
    cost_nanos: int
    def __init__(self, lease_number: _Optional[int] = ..., cost_nanos: _Optional[int] = ...) -> None: ...

class ContextCount(_message.Message):
    __slots__ = ("task_class", "arm", "requests")
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    task_class: str
    arm: str
    requests: int
    def __init__(self, task_class: _Optional[str] = ..., arm: _Optional[str] = ..., requests: _Optional[int] = ...) -> None: ...

class SpoolRecord(_message.Message):
    __slots__ = ("sequence", "incarnation", "outcome", "feedback", "lease_close", "adjustment", "summary", "judge_call")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    LEASE_CLOSE_FIELD_NUMBER: _ClassVar[int]
    ADJUSTMENT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    JUDGE_CALL_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    incarnation: str
    outcome: Outcome
    feedback: Feedback
    lease_close: LeaseClose
    adjustment: CostAdjustment
    summary: SpoolSummary
    judge_call: JudgeCall
    def __init__(self, sequence: _Optional[int] = ..., incarnation: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., feedback: _Optional[_Union[Feedback, _Mapping]] = ..., lease_close: _Optional[_Union[LeaseClose, _Mapping]] = ..., adjustment: _Optional[_Union[CostAdjustment, _Mapping]] = ..., summary: _Optional[_Union[SpoolSummary, _Mapping]] = ..., judge_call: _Optional[_Union[JudgeCall, _Mapping]] = ...) -> None: ...

class OutcomeRun(_message.Message):
    __slots__ = ("incarnation", "texts", "sequence", "request_id", "task_class", "arrived_unix_ms", "status", "arm", "drawn_arm", "propensity_ppm", "table_version", "reason", "forced", "attempts", "fallouts", "prompt_tokens", "completion_tokens", "ttft_ms", "latency_ms", "deadline_ms", "hit", "tag", "candidates", "observed_at", "observed", "grading_ppm")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_CLASS_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    DRAWN_ARM_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_PPM_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FALLOUTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    HIT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_AT_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    GRADING_PPM_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    sequence: _containers.RepeatedScalarFieldContainer[int]
    request_id: _containers.RepeatedScalarFieldContainer[str]
    task_class: _containers.RepeatedScalarFieldContainer[int]
    arrived_unix_ms: _containers.RepeatedScalarFieldContainer[int]
    status: _containers.RepeatedScalarFieldContainer[RequestStatus]
    arm: _containers.RepeatedScalarFieldContainer[int]
    drawn_arm: _containers.RepeatedScalarFieldContainer[int]
    propensity_ppm: _containers.RepeatedScalarFieldContainer[int]
    table_version: _containers.RepeatedScalarFieldContainer[int]
    reason: _containers.RepeatedScalarFieldContainer[int]
    forced: _containers.RepeatedScalarFieldContainer[bool]
    attempts: AttemptColumns
    fallouts: FalloutColumns
    prompt_tokens: _containers.RepeatedScalarFieldContainer[int]
    completion_tokens: _containers.RepeatedScalarFieldContainer[int]
    ttft_ms: _containers.RepeatedScalarFieldContainer[int]
    latency_ms: _containers.RepeatedScalarFieldContainer[int]
    deadline_ms: _containers.RepeatedScalarFieldContainer[int]
    hit: _containers.RepeatedScalarFieldContainer[bool]
    tag: _containers.RepeatedScalarFieldContainer[int]
    candidates: CandidateColumns
    observed_at: _containers.RepeatedScalarFieldContainer[int]
    observed: _containers.RepeatedCompositeFieldContainer[Observation]
    grading_ppm: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, incarnation: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., sequence: _Optional[_Iterable[int]] = ..., request_id: _Optional[_Iterable[str]] = ..., task_class: _Optional[_Iterable[int]] = ..., arrived_unix_ms: _Optional[_Iterable[int]] = ..., status: _Optional[_Iterable[_Union[RequestStatus, str]]] = ..., arm: _Optional[_Iterable[int]] = ..., drawn_arm: _Optional[_Iterable[int]] = ..., propensity_ppm: _Optional[_Iterable[int]] = ..., table_version: _Optional[_Iterable[int]] = ..., reason: _Optional[_Iterable[int]] = ..., forced: _Optional[_Iterable[bool]] = ..., attempts: _Optional[_Union[AttemptColumns, _Mapping]] = ..., fallouts: _Optional[_Union[FalloutColumns, _Mapping]] = ..., prompt_tokens: _Optional[_Iterable[int]] = ..., completion_tokens: _Optional[_Iterable[int]] = ..., ttft_ms: _Optional[_Iterable[int]] = ..., latency_ms: _Optional[_Iterable[int]] = ..., deadline_ms: _Optional[_Iterable[int]] = ..., hit: _Optional[_Iterable[bool]] = ..., tag: _Optional[_Iterable[int]] = ..., candidates: _Optional[_Union[CandidateColumns, _Mapping]] = ..., observed_at: _Optional[_Iterable[int]] = ..., observed: _Optional[_Iterable[_Union[Observation, _Mapping]]] = ..., grading_ppm: _Optional[_Iterable[int]] = ...) -> None: ...

class AttemptColumns(_message.Message):
    __slots__ = ("count", "arm", "latency_ms", "error", "lease_number", "reserved_nanos", "cost_nanos", "settle")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESERVED_NANOS_FIELD_NUMBER: _ClassVar[int]
    COST_NANOS_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    count: _containers.RepeatedScalarFieldContainer[int]
    arm: _containers.RepeatedScalarFieldContainer[int]
    latency_ms: _containers.RepeatedScalarFieldContainer[int]
    error: _containers.RepeatedScalarFieldContainer[int]
    lease_number: _containers.RepeatedScalarFieldContainer[int]
    reserved_nanos: _containers.RepeatedScalarFieldContainer[int]
    cost_nanos: _containers.RepeatedScalarFieldContainer[int]
    settle: _containers.RepeatedScalarFieldContainer[SettleKind]
    def __init__(self, count: _Optional[_Iterable[int]] = ..., arm: _Optional[_Iterable[int]] = ..., latency_ms: _Optional[_Iterable[int]] = ..., error: _Optional[_Iterable[int]] = ..., lease_number: _Optional[_Iterable[int]] = ..., reserved_nanos: _Optional[_Iterable[int]] = ..., cost_nanos: _Optional[_Iterable[int]] = ..., settle: _Optional[_Iterable[_Union[SettleKind, str]]] = ...) -> None: ...

class FalloutColumns(_message.Message):
    __slots__ = ("count", "arm", "reason")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    count: _containers.RepeatedScalarFieldContainer[int]
    arm: _containers.RepeatedScalarFieldContainer[int]
    reason: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, count: _Optional[_Iterable[int]] = ..., arm: _Optional[_Iterable[int]] = ..., reason: _Optional[_Iterable[int]] = ...) -> None: ...

class CandidateColumns(_message.Message):
    __slots__ = ("count", "arm", "weight_ppm")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PPM_FIELD_NUMBER: _ClassVar[int]
    count: _containers.RepeatedScalarFieldContainer[int]
    arm: _containers.RepeatedScalarFieldContainer[int]
    weight_ppm: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, count: _Optional[_Iterable[int]] = ..., arm: _Optional[_Iterable[int]] = ..., weight_ppm: _Optional[_Iterable[int]] = ...) -> None: ...

class LeaseStatus(_message.Message):
    __slots__ = ("lease_number", "window_id", "amount_nanos", "settled_nanos", "reserved_nanos", "watermark_nanos", "closing")
    LEASE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANOS_FIELD_NUMBER: _ClassVar[int]
    SETTLED_NANOS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_NANOS_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_NANOS_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    lease_number: int
    window_id: int
    amount_nanos: int
    settled_nanos: int
    reserved_nanos: int
    watermark_nanos: int
    closing: bool
    def __init__(self, lease_number: _Optional[int] = ..., window_id: _Optional[int] = ..., amount_nanos: _Optional[int] = ..., settled_nanos: _Optional[int] = ..., reserved_nanos: _Optional[int] = ..., watermark_nanos: _Optional[int] = ..., closing: _Optional[bool] = ...) -> None: ...

class DeviceState(_message.Message):
    __slots__ = ("cpu_percent", "memory_available_bytes", "disk_available_bytes", "temperature_celsius", "throttled", "requests_in_flight", "loaded_arms", "broken_arms", "books_state", "power_watts", "battery", "memory_total_bytes", "memory_pressure_ratio", "throttle_reasons", "limited")
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_CELSIUS_FIELD_NUMBER: _ClassVar[int]
    THROTTLED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    LOADED_ARMS_FIELD_NUMBER: _ClassVar[int]
    BROKEN_ARMS_FIELD_NUMBER: _ClassVar[int]
    BOOKS_STATE_FIELD_NUMBER: _ClassVar[int]
    POWER_WATTS_FIELD_NUMBER: _ClassVar[int]
    BATTERY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PRESSURE_RATIO_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_REASONS_FIELD_NUMBER: _ClassVar[int]
    LIMITED_FIELD_NUMBER: _ClassVar[int]
    cpu_percent: float
    memory_available_bytes: int
    disk_available_bytes: int
    temperature_celsius: float
    throttled: bool
    requests_in_flight: int
    loaded_arms: _containers.RepeatedScalarFieldContainer[str]
    broken_arms: _containers.RepeatedCompositeFieldContainer[Fallout]
    books_state: str
    power_watts: float
    battery: Battery
    memory_total_bytes: int
    memory_pressure_ratio: float
    throttle_reasons: _containers.RepeatedScalarFieldContainer[str]
    limited: _containers.RepeatedCompositeFieldContainer[Fallout]
    def __init__(self, cpu_percent: _Optional[float] = ..., memory_available_bytes: _Optional[int] = ..., disk_available_bytes: _Optional[int] = ..., temperature_celsius: _Optional[float] = ..., throttled: _Optional[bool] = ..., requests_in_flight: _Optional[int] = ..., loaded_arms: _Optional[_Iterable[str]] = ..., broken_arms: _Optional[_Iterable[_Union[Fallout, _Mapping]]] = ..., books_state: _Optional[str] = ..., power_watts: _Optional[float] = ..., battery: _Optional[_Union[Battery, _Mapping]] = ..., memory_total_bytes: _Optional[int] = ..., memory_pressure_ratio: _Optional[float] = ..., throttle_reasons: _Optional[_Iterable[str]] = ..., limited: _Optional[_Iterable[_Union[Fallout, _Mapping]]] = ...) -> None: ...

class Battery(_message.Message):
    __slots__ = ("charge_ratio", "on_mains")
    CHARGE_RATIO_FIELD_NUMBER: _ClassVar[int]
    ON_MAINS_FIELD_NUMBER: _ClassVar[int]
    charge_ratio: float
    on_mains: bool
    def __init__(self, charge_ratio: _Optional[float] = ..., on_mains: _Optional[bool] = ...) -> None: ...
