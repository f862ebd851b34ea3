"""Outcomes, grades, closes: what devices report, and the records of their spool."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from shared.decision.types import (
    Attempt,
    Candidate,
    ContextCount,
    CostAdjustment,
    Fallout,
    Feedback,
    LeaseClose,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
)
from shared.errors import LimitError, ProtocolError
from shared.limits import AMOUNT_NANOS_MAX
from shared.pb.v1 import types_pb2 as pb
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

_STATUS_TO_PB: Final = {
    RequestStatus.OK: pb.REQUEST_STATUS_OK,
    RequestStatus.ERROR: pb.REQUEST_STATUS_ERROR,
    RequestStatus.REFUSED: pb.REQUEST_STATUS_REFUSED,
    RequestStatus.ABORTED: pb.REQUEST_STATUS_ABORTED,
    RequestStatus.INTERRUPTED: pb.REQUEST_STATUS_INTERRUPTED,
}
_STATUS_FROM_PB: Final = {int(number): status for status, number in _STATUS_TO_PB.items()}
_SETTLE_TO_PB: Final = {
    None: pb.SETTLE_KIND_UNSPECIFIED,
    SettleKind.RELEASED: pb.SETTLE_KIND_RELEASED,
    SettleKind.REPORTED: pb.SETTLE_KIND_REPORTED,
    SettleKind.UNKNOWN: pb.SETTLE_KIND_UNKNOWN,
}
_SETTLE_FROM_PB: Final = {int(number): kind for kind, number in _SETTLE_TO_PB.items()}

# Every request of the fleet goes through these: reading all fields in one call takes a third of the
# time that one after the other takes. The names are those of the message and of the value alike.
_ATTEMPT_FIELDS: Final = attrgetter(*Attempt._fields)
_OUTCOME_FIELDS: Final = attrgetter(*Outcome._fields)
_RECORD_FIELDS: Final = attrgetter("sequence", "incarnation", "outcome")


def attempt_to_pb(attempt: Attempt) -> pb.Attempt:
    """One try of one arm."""
    message = pb.Attempt()
    _fill_attempt(message, attempt)
    return message


def _fill_attempt(message: pb.Attempt, attempt: Attempt) -> None:
    """Set field by field, and only what differs from the default: half the time of keywords."""
    message.arm = attempt.arm
    message.latency_ms = attempt.latency_ms
    if attempt.lease_number:
        message.lease_number = attempt.lease_number
    if attempt.reserved_nanos:
        message.reserved_nanos = write_nanos(attempt.reserved_nanos, field="attempt.reserved_nanos")
    if attempt.cost_nanos:
        message.cost_nanos = write_nanos(attempt.cost_nanos, field="attempt.cost_nanos")
    if attempt.settle is not None:
        message.settle = _SETTLE_TO_PB[attempt.settle]
    if attempt.error:
        message.error = attempt.error


def attempt_from_pb(message: pb.Attempt) -> Attempt:
    """One try of one arm; a local one has no settle kind."""
    arm, latency_ms, error, lease_number, reserved, cost, settle = _ATTEMPT_FIELDS(message)
    if not (reserved or cost or settle):
        return Attempt(arm, latency_ms, error, lease_number)
    return Attempt(
        arm,
        latency_ms,
        error,
        lease_number,
        read_nanos(reserved, field="attempt.reserved_nanos"),
        read_nanos(cost, field="attempt.cost_nanos"),
        known(_SETTLE_FROM_PB, settle, field="attempt.settle"),
    )


def fallout_to_pb(fallout: Fallout) -> pb.Fallout:
    """An arm that was no candidate."""
    return pb.Fallout(arm=fallout.arm, reason=fallout.reason)


def fallout_from_pb(message: pb.Fallout) -> Fallout:
    """An arm that was no candidate."""
    return Fallout(arm=message.arm, reason=message.reason)


def outcome_to_pb(outcome: Outcome) -> pb.Outcome:
    """What came of a request."""
    message = pb.Outcome()
    _fill_outcome(message, outcome)
    return message


def _fill_outcome(message: pb.Outcome, outcome: Outcome) -> None:
    """Like `_fill_attempt`: every request of a device goes through here."""
    message.request_id = write_id(outcome.request_id, field="outcome.request_id")
    message.task_class = outcome.task_class
    message.arrived_unix_ms = outcome.arrived_unix_ms
    message.status = _STATUS_TO_PB[outcome.status]
    message.arm = outcome.arm
    message.drawn_arm = outcome.drawn_arm
    message.propensity_ppm = write_ppm(outcome.propensity_ppm, field="outcome.propensity_ppm")
    message.table_version = outcome.table_version
    message.reason = outcome.reason
    message.prompt_tokens = outcome.prompt_tokens
    message.completion_tokens = outcome.completion_tokens
    message.ttft_ms = outcome.ttft_ms
    message.latency_ms = outcome.latency_ms
    message.deadline_ms = outcome.deadline_ms
    if outcome.forced:
        message.forced = True
    if outcome.hit:
        message.hit = True
    if outcome.tag:
        message.tag = outcome.tag
    for attempt in outcome.attempts:
        _fill_attempt(message.attempts.add(), attempt)
    for fallout in outcome.fallouts:
        message.fallouts.add(arm=fallout.arm, reason=fallout.reason)
    for candidate in outcome.candidates:
        message.candidates.add(arm=candidate.arm, weight_ppm=candidate.weight_ppm)


def outcome_from_pb(message: pb.Outcome) -> Outcome:
    """What came of a request."""
    (
        request_id,
        task_class,
        arrived_unix_ms,
        status,
        arm,
        drawn_arm,
        propensity_ppm,
        table_version,
        reason,
        forced,
        attempts,
        fallouts,
        prompt_tokens,
        completion_tokens,
        ttft_ms,
        latency_ms,
        deadline_ms,
        hit,
        tag,
        candidates,
    ) = _OUTCOME_FIELDS(message)
    return Outcome(
        request_id or read_id(request_id, field="outcome.request_id"),
        task_class,
        arrived_unix_ms,
        _STATUS_FROM_PB.get(status) or known(_STATUS_FROM_PB, status, field="outcome.status"),
        arm,
        drawn_arm,
        read_ppm(propensity_ppm, field="outcome.propensity_ppm"),
        table_version,
        reason,
        forced,
        tuple(map(attempt_from_pb, attempts[:])),
        tuple(map(fallout_from_pb, fallouts[:])) if fallouts else (),
        prompt_tokens,
        completion_tokens,
        ttft_ms,
        latency_ms,
        deadline_ms,
        hit,
        tag,
        tuple(map(_candidate_from_pb, candidates[:])) if candidates else (),
    )


def _candidate_from_pb(message: pb.Candidate) -> Candidate:
    return Candidate(message.arm, read_ppm(message.weight_ppm, field="candidates.weight_ppm"))


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome as bytes, for a column."""
    with encoding("outcome"):
        return outcome_to_pb(outcome).SerializeToString()


def decode_outcome(data: bytes) -> Outcome:
    """An outcome from `encode_outcome`."""
    return outcome_from_pb(parse(pb.Outcome(), data))


def feedback_to_pb(feedback: Feedback) -> pb.Feedback:
    """A grade for an answer."""
    return pb.Feedback(
        request_id=write_id(feedback.request_id, field="feedback.request_id"),
        reward_ppm=write_ppm(feedback.reward_ppm, field="feedback.reward_ppm"),
        source=feedback.source,
        at_unix_ms=feedback.at_unix_ms,
        task_class=feedback.task_class,
        arm=feedback.arm,
    )


def feedback_from_pb(message: pb.Feedback) -> Feedback:
    """A grade for an answer."""
    return Feedback(
        request_id=read_id(message.request_id, field="feedback.request_id"),
        task_class=message.task_class,
        arm=message.arm,
        reward_ppm=read_ppm(message.reward_ppm, field="feedback.reward_ppm"),
        source=message.source,
        at_unix_ms=message.at_unix_ms,
    )


def lease_close_to_pb(close: LeaseClose) -> pb.LeaseClose:
    """A device's last word on a lease."""
    return pb.LeaseClose(
        lease_number=close.lease_number,
        final_nanos=write_nanos(close.final_nanos, field="lease_close.final_nanos"),
        clean=close.clean,
        reason=close.reason,
    )


def lease_close_from_pb(message: pb.LeaseClose) -> LeaseClose:
    """A device's last word on a lease."""
    return LeaseClose(
        lease_number=message.lease_number,
        final_nanos=read_nanos(message.final_nanos, field="lease_close.final_nanos"),
        clean=message.clean,
        reason=message.reason,
    )


def adjustment_to_pb(adjustment: CostAdjustment) -> pb.CostAdjustment:
    """Late usage; the only amount that may be below 0."""
    if abs(adjustment.delta_nanos) > AMOUNT_NANOS_MAX:
        raise LimitError(
            f"adjustment.delta_nanos must be at most {AMOUNT_NANOS_MAX} either way, "
            f"not {adjustment.delta_nanos}"
        )
    return pb.CostAdjustment(
        request_id=write_id(adjustment.request_id, field="adjustment.request_id"),
        lease_number=adjustment.lease_number,
        delta_nanos=adjustment.delta_nanos,
        reason=adjustment.reason,
    )


def adjustment_from_pb(message: pb.CostAdjustment) -> CostAdjustment:
    """Late usage; the only amount that may be below 0."""
    if abs(message.delta_nanos) > AMOUNT_NANOS_MAX:
        raise ProtocolError(
            f"adjustment.delta_nanos must be at most {AMOUNT_NANOS_MAX} either way, "
            f"not {message.delta_nanos}"
        )
    return CostAdjustment(
        request_id=read_id(message.request_id, field="adjustment.request_id"),
        lease_number=message.lease_number,
        delta_nanos=message.delta_nanos,
        reason=message.reason,
    )


def summary_to_pb(summary: SpoolSummary) -> pb.SpoolSummary:
    """What is left of compacted outcomes."""
    if not 1 <= summary.first_sequence <= summary.last_sequence:
        raise LimitError(
            f"summary sequences must rise from at least 1, not from {summary.first_sequence} "
            f"to {summary.last_sequence}"
        )
    return pb.SpoolSummary(
        first_sequence=summary.first_sequence,
        last_sequence=summary.last_sequence,
        costs=[
            pb.LeaseCost(
                lease_number=number,
                cost_nanos=write_nanos(cost, field="summary.costs.cost_nanos"),
            )
            for number, cost in summary.costs
        ],
        counts=[
            pb.ContextCount(task_class=count.task_class, arm=count.arm, requests=count.requests)
            for count in summary.counts
        ],
    )


def summary_from_pb(message: pb.SpoolSummary) -> SpoolSummary:
    """What is left of compacted outcomes."""
    if not 1 <= message.first_sequence <= message.last_sequence:
        raise ProtocolError(
            f"summary sequences must rise from at least 1, not from {message.first_sequence} "
            f"to {message.last_sequence}"
        )
    return SpoolSummary(
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        costs=tuple(
            (cost.lease_number, read_nanos(cost.cost_nanos, field="summary.costs.cost_nanos"))
            for cost in message.costs
        ),
        counts=tuple(
            ContextCount(task_class=count.task_class, arm=count.arm, requests=count.requests)
            for count in message.counts
        ),
    )


def record_to_pb(record: SpoolRecord) -> pb.SpoolRecord:
    """One record of the spool."""
    if record.sequence < 1:
        raise LimitError(f"record.sequence must be at least 1, not {record.sequence}")
    message = pb.SpoolRecord(sequence=record.sequence, incarnation=record.incarnation)
    body = record.body
    match body:
        case Outcome():
            _fill_outcome(message.outcome, body)
        case Feedback():
            message.feedback.CopyFrom(feedback_to_pb(body))
        case LeaseClose():
            message.lease_close.CopyFrom(lease_close_to_pb(body))
        case CostAdjustment():
            message.adjustment.CopyFrom(adjustment_to_pb(body))
        case SpoolSummary():
            message.summary.CopyFrom(summary_to_pb(body))
    return message


def record_from_pb(message: pb.SpoolRecord) -> SpoolRecord:
    """One record of the spool; its body must be of a known kind."""
    sequence, incarnation, outcome = _RECORD_FIELDS(message)
    if sequence < 1:
        raise ProtocolError(f"record.sequence must be at least 1, not {sequence}")
    if message.HasField("outcome"):  # nearly all of them have
        return SpoolRecord(
            sequence, incarnation, outcome_from_pb(outcome), outcome.SerializeToString()
        )
    return SpoolRecord(sequence, incarnation, _body_from_pb(message))


def _body_from_pb(message: pb.SpoolRecord) -> SpoolBody:
    match message.WhichOneof("body"):
        case "feedback":
            return feedback_from_pb(message.feedback)
        case "lease_close":
            return lease_close_from_pb(message.lease_close)
        case "adjustment":
            return adjustment_from_pb(message.adjustment)
        case "summary":
            return summary_from_pb(message.summary)
        case _:
            raise ProtocolError(
                f"record.body of sequence {message.sequence} is missing or of an unknown kind; "
                "is the peer of a newer version?"
            )


def record_to_bytes(record: SpoolRecord) -> bytes:
    """A spool record as bytes, for the books."""
    with encoding("spool record"):
        return record_to_pb(record).SerializeToString()


def record_from_bytes(data: bytes) -> SpoolRecord:
    """A spool record from `record_to_bytes`."""
    return record_from_pb(parse(pb.SpoolRecord(), data))
