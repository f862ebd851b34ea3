"""The body of `/v1/feedback`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from edge_agent.openai_request.checks import fields, number, one_of, refusal, text
from edge_agent.openai_request.json_text import measured, parse_object
from shared.limits import REQUEST_ID_CHARS_MAX, TAG_CHARS_MAX

SOURCE_DEFAULT: Final = "client"
_NOT_CLIENTS: Final = ("grader:", "judge:", "signal:")

_GRADE: Final = fields(
    {
        "request_id": text(chars_min=1, chars_max=REQUEST_ID_CHARS_MAX),
        "score": number(0, 1),
        "thumbs": one_of("up", "down"),
        "source": text(chars_min=1, chars_max=TAG_CHARS_MAX),
    },
    required=["request_id"],
)


@dataclass(frozen=True)
class Grade:
    """How good an answer was, from 0 to 1, and who says so."""

    request_id: str
    score: float
    source: str


def parse_grade(raw: bytes) -> Grade:
    """Check a grade.

    Raises
    ------
    RequestRefused
        400 that names the field at fault.
    """
    checked: dict[str, Any] = _GRADE(parse_object(raw), "")
    measured(checked)  # texts that cannot be kept or sent are refused here
    if ("score" in checked) == ("thumbs" in checked):
        raise refusal(
            "invalid_value",
            "set either 'score' (a number from 0 to 1) or 'thumbs' ('up' or 'down')",
            param="score",
        )
    source = checked.get("source", SOURCE_DEFAULT)
    if source.startswith(_NOT_CLIENTS):
        raise refusal(
            "invalid_value",
            f"'source' must not begin with one of {', '.join(_NOT_CLIENTS)}: the agent itself "
            "names its grades so",
            param="source",
        )
    score = checked["score"] if "score" in checked else float(checked["thumbs"] == "up")
    return Grade(
        request_id=checked["request_id"],
        score=float(score),
        source=source,
    )
