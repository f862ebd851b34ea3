"""Grades, closes, adjustments: what devices report, and the records of their spool."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, pairwise
from operator import attrgetter, itemgetter
from typing import Final

from shared.decision.types import (
    ContextCount,
    CostAdjustment,
    Feedback,
    JudgeCall,
    LeaseClose,
    Outcome,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
)
from shared.errors import LimitError, ProtocolError
from shared.limits import AMOUNT_NANOS_MAX, BATCH_RECORDS_MAX, NUMBER_MAX
from shared.pb.v1 import fleet_pb2
from shared.pb.v1 import types_pb2 as pb
from shared.wire.checks import (
    encoding,
    parse,
    read_chance,
    read_id,
    read_nanos,
    read_number,
    read_ppm,
    write_chance,
    write_id,
    write_nanos,
    write_number,
    write_ppm,
)
from shared.wire.outcome import attempt_from_pb, fill_attempt, fill_outcome, outcome_from_pb
from shared.wire.outcome_run import run_from_pb, run_to_pb

_RECORD_FIELDS: Final = attrgetter("sequence", "incarnation", "outcome")


def feedback_to_pb(feedback: Feedback) -> pb.Feedback:
    """A grade for an answer."""
    return pb.Feedback(
        request_id=write_id(feedback.request_id, field="feedback.request_id"),
        reward_ppm=write_ppm(feedback.reward_ppm, field="feedback.reward_ppm"),
        source=feedback.source,
        at_unix_ms=feedback.at_unix_ms,
        task_class=feedback.task_class,
        arm=feedback.arm,
        weight_ppm=write_chance(feedback.weight_ppm, field="feedback.weight_ppm"),
        grading_ppm=write_chance(feedback.grading_ppm, field="feedback.grading_ppm"),
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
        weight_ppm=read_chance(message.weight_ppm, field="feedback.weight_ppm"),
        grading_ppm=read_chance(message.grading_ppm, field="feedback.grading_ppm"),
    )


def judge_call_to_pb(call: JudgeCall) -> pb.JudgeCall:
    """What it cost to have an answer graded."""
    message = pb.JudgeCall(request_id=write_id(call.request_id, field="judge_call.request_id"))
    fill_attempt(message.attempt, call.attempt)
    return message


def judge_call_from_pb(message: pb.JudgeCall) -> JudgeCall:
    """What it cost to have an answer graded."""
    return JudgeCall(
        request_id=read_id(message.request_id, field="judge_call.request_id"),
        attempt=attempt_from_pb(message.attempt),
    )


def lease_close_to_pb(close: LeaseClose) -> pb.LeaseClose:
    """A device's last word on a lease."""
    return pb.LeaseClose(
        lease_number=write_number(close.lease_number, field="lease_close.lease_number"),
        final_nanos=write_nanos(close.final_nanos, field="lease_close.final_nanos"),
        clean=close.clean,
        reason=close.reason,
    )


def lease_close_from_pb(message: pb.LeaseClose) -> LeaseClose:
    """A device's last word on a lease."""
    return LeaseClose(
        lease_number=read_number(message.lease_number, field="lease_close.lease_number"),
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
        lease_number=write_number(adjustment.lease_number, field="adjustment.lease_number"),
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
        lease_number=read_number(message.lease_number, field="adjustment.lease_number"),
        delta_nanos=message.delta_nanos,
        reason=message.reason,
    )


def summary_to_pb(summary: SpoolSummary) -> pb.SpoolSummary:
    """What is left of compacted outcomes."""
    if not 1 <= summary.first_sequence <= summary.last_sequence <= NUMBER_MAX:
        raise LimitError(
            f"summary sequences must rise from 1 to {NUMBER_MAX}, not from "
            f"{summary.first_sequence} to {summary.last_sequence}"
        )
    return pb.SpoolSummary(
        first_sequence=summary.first_sequence,
        last_sequence=summary.last_sequence,
        costs=[
            pb.LeaseCost(
                lease_number=write_number(number, field="summary.costs.lease_number"),
                cost_nanos=write_nanos(cost, field="summary.costs.cost_nanos"),
            )
            for number, cost in summary.costs
        ],
        counts=[
            pb.ContextCount(
                task_class=count.task_class,
                arm=count.arm,
                requests=write_number(count.requests, field="summary.counts.requests", least=0),
            )
            for count in summary.counts
        ],
        unreadable=summary.unreadable,
    )


def summary_from_pb(message: pb.SpoolSummary) -> SpoolSummary:
    """What is left of compacted outcomes."""
    if not 1 <= message.first_sequence <= message.last_sequence <= NUMBER_MAX:
        raise ProtocolError(
            f"summary sequences must rise from 1 to {NUMBER_MAX}, not from "
            f"{message.first_sequence} to {message.last_sequence}"
        )
    return SpoolSummary(
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        costs=tuple(
            (
                read_number(cost.lease_number, field="summary.costs.lease_number"),
                read_nanos(cost.cost_nanos, field="summary.costs.cost_nanos"),
            )
            for cost in message.costs
        ),
        counts=tuple(
            ContextCount(
                task_class=count.task_class,
                arm=count.arm,
                requests=read_number(count.requests, field="summary.counts.requests", least=0),
            )
            for count in message.counts
        ),
        unreadable=message.unreadable,
    )


def record_to_pb(record: SpoolRecord) -> pb.SpoolRecord:
    """One record of the spool."""
    message = pb.SpoolRecord(
        sequence=write_number(record.sequence, field="record.sequence"),
        incarnation=record.incarnation,
    )
    body = record.body
    match body:
        case Outcome():
            fill_outcome(message.outcome, body)
        case Feedback():
            message.feedback.CopyFrom(feedback_to_pb(body))
        case LeaseClose():
            message.lease_close.CopyFrom(lease_close_to_pb(body))
        case CostAdjustment():
            message.adjustment.CopyFrom(adjustment_to_pb(body))
        case SpoolSummary():
            message.summary.CopyFrom(summary_to_pb(body))
        case JudgeCall():
            message.judge_call.CopyFrom(judge_call_to_pb(body))
    return message


def record_from_pb(message: pb.SpoolRecord) -> SpoolRecord:
    """One record of the spool; its body must be of a known kind."""
    sequence, incarnation, outcome = _RECORD_FIELDS(message)
    read_number(sequence, field="record.sequence")
    if message.HasField("outcome"):  # nearly all of them have
        return SpoolRecord(sequence, incarnation, outcome_from_pb(outcome))
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
        case "judge_call":
            return judge_call_from_pb(message.judge_call)
        case _:
            raise ProtocolError(
                f"record.body of sequence {message.sequence} is missing or of an unknown kind; "
                "is the peer of a newer version?"
            )


def batch_to_pb(records: Iterable[SpoolRecord]) -> fleet_pb2.OutcomeBatch:
    """Records that follow each other: outcomes by the run, all else one by one."""
    batch = fleet_pb2.OutcomeBatch()
    runs: dict[str, list[SpoolRecord]] = {}
    for record in records:
        if isinstance(record.body, Outcome):
            runs.setdefault(record.incarnation, []).append(record)
        else:
            batch.records.append(record_to_pb(record))
    batch.runs.extend(map(run_to_pb, runs.values()))
    return batch


def batch_from_pb(batch: fleet_pb2.OutcomeBatch) -> list[SpoolRecord]:
    """The records of a batch, in the order of their sequences.

    Raises
    ------
    LimitError
        If there are more than a batch may have.
    ProtocolError
        If one of them cannot be read, or runs are out of order.
    """
    size = len(batch.records) + sum(len(run.request_id) for run in batch.runs)
    if size > BATCH_RECORDS_MAX:
        raise LimitError(f"a batch has at most {BATCH_RECORDS_MAX} records, not {size}")
    runs = [run_from_pb(run) for run in batch.runs]
    for before, after in pairwise(filter(None, runs)):
        if before[-1].sequence >= after[0].sequence:
            raise ProtocolError(
                f"a run that begins with sequence {after[0].sequence} comes after one that ends "
                f"with {before[-1].sequence}"
            )
    outcomes = list(chain.from_iterable(runs))
    if not batch.records:
        return outcomes
    return sorted([*outcomes, *map(record_from_pb, batch.records)], key=itemgetter(0))


def record_to_bytes(record: SpoolRecord) -> bytes:
    """A spool record as bytes, for the books."""
    with encoding("spool record"):
        return record_to_pb(record).SerializeToString()


def record_from_bytes(data: bytes) -> SpoolRecord:
    """A spool record from `record_to_bytes`."""
    return record_from_pb(parse(pb.SpoolRecord(), data))
