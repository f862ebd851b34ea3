"""Protobuf messages to and from Tidegate's own values: the only place that translates.

What `*_from_pb` and `*_from_bytes` return is complete and within the limits. An unknown enum
number, a missing part or an amount out of range raises `ProtocolError` naming field and value;
unknown fields are ignored, so that peers one minor version apart work together.

What `*_to_pb` and `*_to_bytes` are given is checked alike and raises `LimitError`: nothing is
written that could not be read back.
"""

from __future__ import annotations

from shared.wire.device import (
    device_state_from_pb,
    device_state_to_pb,
    grant_from_pb,
    grant_to_pb,
    lease_status_from_pb,
    lease_status_to_pb,
)
from shared.wire.fleet import (
    arm_from_pb,
    arm_kind_to_pb,
    arm_to_pb,
    config_from_pb,
    config_to_pb,
    decode_config,
    decode_table,
    encode_config,
    encode_table,
    price_from_pb,
    price_to_pb,
    table_from_pb,
    table_to_pb,
    task_class_from_pb,
    task_class_to_pb,
    version_from_pb,
    version_to_pb,
)
from shared.wire.spool import (
    adjustment_from_pb,
    adjustment_to_pb,
    attempt_from_pb,
    attempt_to_pb,
    decode_outcome,
    encode_outcome,
    fallout_from_pb,
    fallout_to_pb,
    feedback_from_pb,
    feedback_to_pb,
    lease_close_from_pb,
    lease_close_to_pb,
    outcome_from_pb,
    outcome_to_pb,
    record_from_bytes,
    record_from_pb,
    record_to_bytes,
    record_to_pb,
    summary_from_pb,
    summary_to_pb,
)

__all__ = [
    "adjustment_from_pb",
    "adjustment_to_pb",
    "arm_from_pb",
    "arm_kind_to_pb",
    "arm_to_pb",
    "attempt_from_pb",
    "attempt_to_pb",
    "config_from_pb",
    "config_to_pb",
    "decode_config",
    "decode_outcome",
    "decode_table",
    "device_state_from_pb",
    "device_state_to_pb",
    "encode_config",
    "encode_outcome",
    "encode_table",
    "fallout_from_pb",
    "fallout_to_pb",
    "feedback_from_pb",
    "feedback_to_pb",
    "grant_from_pb",
    "grant_to_pb",
    "lease_close_from_pb",
    "lease_close_to_pb",
    "lease_status_from_pb",
    "lease_status_to_pb",
    "outcome_from_pb",
    "outcome_to_pb",
    "price_from_pb",
    "price_to_pb",
    "record_from_bytes",
    "record_from_pb",
    "record_to_bytes",
    "record_to_pb",
    "summary_from_pb",
    "summary_to_pb",
    "table_from_pb",
    "table_to_pb",
    "task_class_from_pb",
    "task_class_to_pb",
    "version_from_pb",
    "version_to_pb",
]
