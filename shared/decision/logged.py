"""A logged decision as one line of JSON: what off-policy estimators read (promise P6).

The coordinator exports such lines, the simulator writes them, and the lab evaluates other policies
on them. One object a line, with exactly the keys of `LoggedDecision`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, NoReturn

from shared.decision.money import PPM
from shared.decision.types import RequestStatus


@dataclass(frozen=True, kw_only=True)
class LoggedDecision:
    """One request: between what it was decided, with which probability, and what came of it.

    Attributes
    ----------
    request_id : str
    arrived_unix_ms : int
        When it arrived.
    slot : int
        The planning interval it arrived in, counted without a break over windows.
    device_class, task_class : str
        The context.
    candidates : mapping of str to int
        The arms left after filtering, with the weights (parts per million) that the table gave
        them. Only their proportions count. Empty when no arm was drawn.
    drawn_arm : str
        The arm drawn first; empty when there was none to draw.
    propensity_ppm : int
        The probability of that draw, after filtering.
    attempts : tuple of str
        The arms that were tried, in their order.
    arm : str
        The arm that answered; empty when none did.
    status : RequestStatus
    reward : float or None
        The grade, in [0, 1]; None while there is none.
    grading_ppm : int
        The probability with which an answer to this request is graded, where grading is sampled.
    cost_nanos : int
        What all its attempts cost.
    latency_ms : int
        From arrival to the last token.
    hit : bool
        Answered within its deadline.
    table_version : int
        The selection table it was decided by; 0 without one.
    observed_arm : str
        The arm that would have been drawn, where a fixed arm was told to answer; else empty.
        `candidates`, `drawn_arm` and `propensity_ppm` then say that the fixed arm was certain.
    observed : mapping of str to int
        The candidates of that draw with their weights.

    Raises
    ------
    ValueError
        When a value is out of range or the values contradict each other; names the key.
    """

    request_id: str
    arrived_unix_ms: int
    slot: int
    device_class: str
    task_class: str
    candidates: Mapping[str, int]
    drawn_arm: str
    propensity_ppm: int
    arm: str
    status: RequestStatus
    reward: float | None
    cost_nanos: int
    latency_ms: int
    hit: bool
    attempts: tuple[str, ...] = ()
    grading_ppm: int = PPM
    table_version: int = field(default=0)
    observed_arm: str = ""
    observed: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("cost_nanos", "latency_ms"):
            _demand(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        _demand(0 < self.grading_ppm <= PPM, "grading_ppm", self.grading_ppm, f"1 to {PPM}")
        if self.reward is not None:
            _demand(0.0 <= self.reward <= 1.0, "reward", self.reward, "0 to 1, or null")
        for key in ("candidates", "observed"):
            for arm, weight in getattr(self, key).items():
                _demand(0 <= weight <= PPM, f"{key}.{arm}", weight, f"0 to {PPM}")
        if self.observed_arm:
            known = ", ".join(self.observed) or "none"
            _demand(self.observed_arm in self.observed, "observed_arm", self.observed_arm, known)
        if not self.drawn_arm:
            _demand(not self.candidates, "drawn_arm", "", "one of the candidates")
            return
        known = ", ".join(self.candidates) or "none"
        _demand(self.drawn_arm in self.candidates, "drawn_arm", self.drawn_arm, known)
        _demand(
            0 < self.propensity_ppm <= PPM, "propensity_ppm", self.propensity_ppm, f"1 to {PPM}"
        )

    def to_line(self) -> str:
        """One line of JSON, without its end."""
        return json.dumps(
            {
                "request_id": self.request_id,
                "arrived_unix_ms": self.arrived_unix_ms,
                "slot": self.slot,
                "device_class": self.device_class,
                "task_class": self.task_class,
                "candidates": dict(self.candidates),
                "drawn_arm": self.drawn_arm,
                "propensity_ppm": self.propensity_ppm,
                "attempts": list(self.attempts),
                "arm": self.arm,
                "status": self.status.value,
                "reward": self.reward,
                "grading_ppm": self.grading_ppm,
                "cost_nanos": self.cost_nanos,
                "latency_ms": self.latency_ms,
                "hit": self.hit,
                "table_version": self.table_version,
                **self._observed_keys(),
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )

    def _observed_keys(self) -> dict[str, Any]:
        """Left out where the draw was acted upon, as nearly everywhere."""
        if not self.observed:
            return {}
        return {"observed_arm": self.observed_arm, "observed": dict(self.observed)}

    @classmethod
    def from_line(cls, line: str) -> LoggedDecision:
        """Read one line.

        Raises
        ------
        ValueError
            When the line is no JSON object, a key is unknown, missing or of the wrong type, or a
            value is out of range.
        """
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"is no JSON: {error.msg} at character {error.pos + 1}") from error
        if not isinstance(found, dict):
            _refuse("is no JSON object; every line is one decision")
        unknown = [key for key in found if key not in _TYPES]
        if unknown:
            raise ValueError(f"has the unknown key {unknown[0]!r}; known are {', '.join(_TYPES)}")
        missing = [key for key in _REQUIRED if key not in found]
        if missing:
            raise ValueError(f"has no {missing[0]!r}")
        return cls(**{key: _read(key, value) for key, value in found.items()})


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "request_id": (str,),
    "arrived_unix_ms": (int,),
    "slot": (int,),
    "device_class": (str,),
    "task_class": (str,),
    "candidates": (dict,),
    "drawn_arm": (str,),
    "propensity_ppm": (int,),
    "attempts": (list,),
    "arm": (str,),
    "status": (str,),
    "reward": (int, float, type(None)),
    "grading_ppm": (int,),
    "cost_nanos": (int,),
    "latency_ms": (int,),
    "hit": (bool,),
    "table_version": (int,),
    "observed_arm": (str,),
    "observed": (dict,),
}
_REQUIRED: Final = tuple(
    each.name
    for each in fields(LoggedDecision)
    if each.default is MISSING and each.default_factory is MISSING
)
_WORDS: Final[Mapping[tuple[type, ...], str]] = {
    (str,): "text",
    (int,): "an integer",
    (dict,): "an object",
    (list,): "a list",
    (bool,): "a flag",
    (int, float, type(None)): "a number or null",
}


def _read(key: str, value: Any) -> Any:
    """A value of a line, checked and as its dataclass has it."""
    wanted = _TYPES[key]
    data: Any = value
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        _refuse(f"{key} is {value!r}, expected {_WORDS[wanted]}")
    match key:
        case "status":
            known = [status.value for status in RequestStatus]
            if value not in known:
                _refuse(f"status is {value!r}, expected one of {', '.join(known)}")
            return RequestStatus(data)
        case "candidates" | "observed":
            for arm, weight in data.items():
                if not isinstance(weight, int) or isinstance(weight, bool):
                    _refuse(f"{key}.{arm} is {weight!r}, expected an integer")
            return value
        case "attempts":
            return tuple(str(arm) for arm in data)
        case _:
            return value


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)


def _demand(holds: bool, key: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{key} is {value!r}, expected {expected}")
