"""Graders and weak signals: how devices are told to grade."""

from __future__ import annotations

import math
from typing import Final

from shared.decision.grading import Grader, GraderKind, Signals, WeakSignal
from shared.errors import LimitError, ProtocolError
from shared.pb.v1 import fleet_pb2, types_pb2
from shared.wire.checks import known, read_id, read_ppm, write_id, write_ppm

_KIND_TO_PB: Final = {
    GraderKind.EXACT: types_pb2.GRADER_KIND_EXACT,
    GraderKind.CONTAINS: types_pb2.GRADER_KIND_CONTAINS,
    GraderKind.REGEX: types_pb2.GRADER_KIND_REGEX,
    GraderKind.JSON_SCHEMA: types_pb2.GRADER_KIND_JSON_SCHEMA,
    GraderKind.NUMERIC: types_pb2.GRADER_KIND_NUMERIC,
}
_KIND_FROM_PB: Final = {int(number): kind for kind, number in _KIND_TO_PB.items()}


def grader_to_pb(grader: Grader) -> types_pb2.Grader:
    """How a device grades an answer's text."""
    for name in ("tolerance", "relative_tolerance"):
        if not _is_tolerance(getattr(grader, name)):
            raise LimitError(f"grader.{name} must be 0 or more, not {getattr(grader, name)}")
    return types_pb2.Grader(
        name=write_id(grader.name, field="grader.name"),
        kind=_KIND_TO_PB[grader.kind],
        pattern=grader.pattern,
        schema=grader.schema,
        ignore_case=grader.ignore_case,
        tolerance=grader.tolerance,
        relative_tolerance=grader.relative_tolerance,
    )


def grader_from_pb(message: types_pb2.Grader) -> Grader:
    """How a device grades an answer's text."""
    for name in ("tolerance", "relative_tolerance"):
        if not _is_tolerance(getattr(message, name)):
            raise ProtocolError(f"grader.{name} must be 0 or more, not {getattr(message, name)}")
    return Grader(
        name=read_id(message.name, field="grader.name"),
        kind=known(_KIND_FROM_PB, message.kind, field="grader.kind"),
        pattern=message.pattern,
        schema=message.schema,
        ignore_case=message.ignore_case,
        tolerance=message.tolerance,
        relative_tolerance=message.relative_tolerance,
    )


def _is_tolerance(value: float) -> bool:
    return math.isfinite(value) and value >= 0.0


def signals_to_pb(signals: Signals) -> fleet_pb2.Signals:
    """What clients do that counts as a weak grade."""
    return fleet_pb2.Signals(
        retry=_signal_to_pb(signals.retry),
        abandon=_signal_to_pb(signals.abandon),
        retry_within_ms=signals.retry_within_ms,
    )


def signals_from_pb(message: fleet_pb2.Signals) -> Signals:
    """What clients do that counts as a weak grade."""
    return Signals(
        retry=_signal_from_pb(message.retry) if message.HasField("retry") else None,
        abandon=_signal_from_pb(message.abandon) if message.HasField("abandon") else None,
        retry_within_ms=message.retry_within_ms,
    )


def _signal_to_pb(signal: WeakSignal | None) -> fleet_pb2.WeakSignal | None:
    if signal is None:
        return None
    return fleet_pb2.WeakSignal(
        reward_ppm=write_ppm(signal.reward_ppm, field="signal.reward_ppm"),
        weight_ppm=write_ppm(signal.weight_ppm, field="signal.weight_ppm"),
    )


def _signal_from_pb(message: fleet_pb2.WeakSignal) -> WeakSignal:
    return WeakSignal(
        reward_ppm=read_ppm(message.reward_ppm, field="signal.reward_ppm"),
        weight_ppm=read_ppm(message.weight_ppm, field="signal.weight_ppm"),
    )
