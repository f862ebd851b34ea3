"""The request headers that steer one request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from edge_agent.openai_request.checks import refusal
from edge_agent.refusals import EXPECTED_HEADER, MAX_COST_HEADER, PRIVACY_HEADER
from shared.decision.money import nanos_from_dollars
from shared.limits import (
    AMOUNT_NANOS_MAX,
    DEADLINE_MS_MAX,
    EXPECTED_CHARS_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    NAME_CHARS_MAX,
    TAG_CHARS_MAX,
)
from shared.rows import quick_dataclass

TASK: Final = "x-tidegate-task"
DEADLINE: Final = "x-tidegate-deadline-ms"
TAG: Final = "x-tidegate-tag"
IDEMPOTENCY_KEY: Final = "idempotency-key"

_OURS: Final = "x-tidegate-"
_STEERING: Final = (TASK, PRIVACY_HEADER, DEADLINE, MAX_COST_HEADER, TAG, EXPECTED_HEADER)

_SHOWN_CHARS: Final = 64
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")
_TAG: Final = re.compile(rf"[\x21-\x7e]{{1,{TAG_CHARS_MAX}}}")
_KEY: Final = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}")
_NAME_FORM: Final = f"a name of up to {NAME_CHARS_MAX} letters, digits, '.', '_' and '-'"
_TAG_FORM: Final = f"1 to {TAG_CHARS_MAX} printable ASCII characters without spaces"
_KEY_FORM: Final = f"1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters without spaces"
_DIGITS: Final = re.compile(r"[0-9]{1,12}")
_DEADLINE_FORM: Final = f"a whole number of milliseconds from 1 to {DEADLINE_MS_MAX}"
_AMOUNT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@quick_dataclass(frozen=True)
class SteeringHeaders:
    """What the client's headers say; a header that is not there leaves its default."""

    task_class: str | None = None
    privacy_local: bool = False
    deadline_ms: int | None = None
    max_cost_nanos: int | None = None
    tag: str = ""
    idempotency_key: str = ""
    expected: str | None = None


def parse_headers(headers: Mapping[str, str]) -> SteeringHeaders:
    """Check the steering headers.

    Parameters
    ----------
    headers : mapping
        Looked up by lower-case names.

    Raises
    ------
    RequestRefused
        400 whose `param` is the header's name. One of ours that is not known is refused too: a
        slip in its name must not send a private prompt away.
    """
    for name in headers:
        if name.startswith(_OURS) and name not in _STEERING:
            known = ", ".join(_STEERING)
            raise refusal(
                "unknown_header",
                f"{name[:_SHOWN_CHARS]!r} is no header that steers a request: remove it; known "
                f"here are {known}",
                param=name[:_SHOWN_CHARS],
            )
    privacy = headers.get(PRIVACY_HEADER)
    if privacy is not None and privacy.strip().lower() != "local":
        raise refusal(
            "invalid_value",
            f"'{PRIVACY_HEADER}' can only be 'local'; leave it out otherwise",
            param=PRIVACY_HEADER,
        )
    return SteeringHeaders(
        task_class=_matching(headers, TASK, _NAME, _NAME_FORM),
        privacy_local=privacy is not None,
        deadline_ms=_deadline_ms(headers),
        max_cost_nanos=_max_cost_nanos(headers),
        tag=_matching(headers, TAG, _TAG, _TAG_FORM) or "",
        idempotency_key=_matching(headers, IDEMPOTENCY_KEY, _KEY, _KEY_FORM) or "",
        expected=_expected(headers),
    )


def _matching(
    headers: Mapping[str, str], name: str, pattern: re.Pattern[str], expected: str
) -> str | None:
    """A header's value if it is there and of the form that it must have."""
    value = headers.get(name)
    if value is None:
        return None
    if pattern.fullmatch(value.strip()) is None:
        raise refusal("invalid_value", f"'{name}' must be {expected}", param=name)
    return value.strip()


def _expected(headers: Mapping[str, str]) -> str | None:
    """The answer that is expected, percent-encoded as in a URL where it is more than ASCII."""
    text = headers.get(EXPECTED_HEADER)
    if text is None:
        return None
    decoded = unquote(text)
    if len(decoded) > EXPECTED_CHARS_MAX or "\ufffd" in decoded:
        raise refusal(
            "invalid_value",
            f"'{EXPECTED_HEADER}' must be up to {EXPECTED_CHARS_MAX} characters, percent-encoded "
            "as UTF-8",
            param=EXPECTED_HEADER,
        )
    return decoded


def _deadline_ms(headers: Mapping[str, str]) -> int | None:
    """The deadline, a whole number of milliseconds within the limit."""
    text = _matching(headers, DEADLINE, _DIGITS, _DEADLINE_FORM)
    if text is None:
        return None
    if not 1 <= int(text) <= DEADLINE_MS_MAX:
        raise refusal("invalid_value", f"'{DEADLINE}' must be {_DEADLINE_FORM}", param=DEADLINE)
    return int(text)


def _max_cost_nanos(headers: Mapping[str, str]) -> int | None:
    """The most that the request may cost, an exact amount."""
    expected = "an amount of dollars with up to nine decimals, such as '0.0025'"
    text = _matching(headers, MAX_COST_HEADER, _AMOUNT, expected)
    if text is None:
        return None
    nanos = nanos_from_dollars(text)
    if nanos > AMOUNT_NANOS_MAX:
        raise refusal(
            "invalid_value", f"'{MAX_COST_HEADER}' must be {expected}", param=MAX_COST_HEADER
        )
    return nanos
