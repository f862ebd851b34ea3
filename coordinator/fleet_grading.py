"""How answers are graded, as a fleet file says it: graders, the judge, weak signals. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from coordinator.fleet_schema import (
    ArmTable,
    CloudArmTable,
    FleetFile,
    GraderTable,
    SignalsTable,
    SignalTable,
    TaskClassTable,
)
from shared.decision.graders import AnswerGrader
from shared.decision.grading import Grader, GraderKind, Signals, WeakSignal
from shared.decision.money import PPM
from shared.settings import Problem, did_you_mean, dotted_key

_KEYS: Final = {
    GraderKind.EXACT: ("ignore_case",),
    GraderKind.CONTAINS: ("ignore_case",),
    GraderKind.REGEX: ("pattern", "ignore_case"),
    GraderKind.JSON_SCHEMA: ("schema",),
    GraderKind.NUMERIC: ("tolerance", "relative_tolerance"),
}
"""What each kind may say beside its name."""
_NEEDED: Final = {GraderKind.REGEX: "pattern", GraderKind.JSON_SCHEMA: "schema"}


def grader_of(table: GraderTable) -> Grader:
    """The grader that a table describes; its kind is its name if it has none."""
    return Grader(
        name=table.name or table.kind,
        kind=GraderKind(table.kind),
        pattern=table.pattern or "",
        schema=table.schema_ or "",
        ignore_case=table.ignore_case or False,
        tolerance=table.tolerance or 0.0,
        relative_tolerance=table.relative_tolerance or 0.0,
    )


def judge_ppm_of(table: TaskClassTable) -> int:
    """The share of a class's answers that the judge is asked about."""
    return max(1, round(table.judge_share * PPM)) if table.judge else 0


def signals_of(table: SignalsTable) -> Signals:
    """What clients do that counts as a weak grade."""
    return Signals(
        retry=_signal_of(table.retry),
        abandon=_signal_of(table.abandon),
        retry_within_ms=table.retry.within if table.retry else 0,
    )


def _signal_of(table: SignalTable | None) -> WeakSignal | None:
    if table is None:
        return None
    return WeakSignal(round(table.reward * PPM), max(1, round(table.weight * PPM)))


def grading_problems(file: FleetFile, *, arms: Mapping[str, ArmTable]) -> list[Problem]:
    """Graders that cannot work, judges that cannot be paid, prompts that must not be sent."""
    problems = _judge_problems(file, arms=arms)
    for name, task in file.task_classes.items():
        prefix = dotted_key(["task_classes", name])
        if task.grader is not None:
            problems += _grader_problems(f"{prefix}.grader", task.grader)
        if task.judge and task.privacy == "local":
            problem = 'its prompts never leave the device (privacy = "local"); leave judge out'
            problems.append(Problem(f"{prefix}.judge", problem))
        if task.judge and file.judge is None:
            problems.append(Problem(f"{prefix}.judge", "needs a [judge] table that names its arm"))
        if not task.judge and "judge_share" in task.model_fields_set:
            problems.append(Problem(f"{prefix}.judge_share", "does nothing without judge = true"))
    return problems


def _judge_problems(file: FleetFile, *, arms: Mapping[str, ArmTable]) -> list[Problem]:
    if file.judge is None:
        return []
    name = file.judge.arm
    if name not in file.arms:
        problem = f"{name!r} is no arm of this file{did_you_mean(name, file.arms)}"
        return [Problem("judge.arm", problem)]
    arm = arms.get(name)  # None: what is wrong with it is said where it stands
    if arm is None:
        return []
    if not isinstance(arm, CloudArmTable):
        problem = f"{name!r} is a local arm; devices need not have its model, so name a cloud arm"
        return [Problem("judge.arm", problem)]
    if "embeddings" in arm.capabilities and "chat" not in arm.capabilities:
        return [Problem("judge.arm", f"{name!r} answers no chats")]
    return []


def _grader_problems(prefix: str, table: GraderTable) -> list[Problem]:
    kind = GraderKind(table.kind)
    said = {
        "pattern": table.pattern,
        "schema": table.schema_,
        "ignore_case": table.ignore_case,
        "tolerance": table.tolerance,
        "relative_tolerance": table.relative_tolerance,
    }
    allowed = ", ".join(("name", *_KEYS[kind]))
    problems = [
        Problem(f"{prefix}.{key}", f"means nothing to the kind {kind}; it may have: {allowed}")
        for key, value in said.items()
        if value is not None and key not in _KEYS[kind]
    ]
    needed = _NEEDED.get(kind)
    if needed is None:
        return problems
    if not said[needed]:
        return [*problems, Problem(f"{prefix}.{needed}", f"missing; the kind {kind} needs it")]
    try:
        AnswerGrader(grader_of(table))
    except ValueError as error:
        problems.append(Problem(f"{prefix}.{needed}", str(error)))
    return problems
