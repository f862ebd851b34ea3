"""How a device grades answers by itself: what the fleet's configuration says of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class GraderKind(StrEnum):
    """What an answer's text is held against."""

    EXACT = "exact"
    CONTAINS = "contains"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"
    NUMERIC = "numeric"

    @property
    def needs_expected(self) -> bool:
        """Whether a request has to say what answer it expects."""
        return self in (GraderKind.EXACT, GraderKind.CONTAINS, GraderKind.NUMERIC)


@dataclass(frozen=True)
class Grader:
    """The grader of a task class.

    Attributes
    ----------
    pattern : str
        Of `regex`: found somewhere in the text.
    schema : str
        Of `json_schema`, as JSON.
    tolerance, relative_tolerance : float
        Of `numeric`: how far the number may be off, in itself and as a share of the expected one.
    """

    name: str
    kind: GraderKind
    pattern: str = ""
    schema: str = ""
    ignore_case: bool = False
    tolerance: float = 0.0
    relative_tolerance: float = 0.0


@dataclass(frozen=True)
class WeakSignal:
    """What a client's doing counts as a grade, and how much beside a full one."""

    reward_ppm: int
    weight_ppm: int


@dataclass(frozen=True)
class Signals:
    """Weak signs that an answer was not good; None is not looked at.

    Attributes
    ----------
    retry : WeakSignal or None
        The same prompt again within `retry_within_ms`.
    abandon : WeakSignal or None
        The client went away before the answer's end.
    """

    retry: WeakSignal | None = None
    abandon: WeakSignal | None = None
    retry_within_ms: int = 0


NO_SIGNALS = Signals()
