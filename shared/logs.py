"""Logs: structured events, as JSON lines or for the eye. Never prompts, never secrets."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog

REDACTED: Final = "[redacted]"
SECRET_WORDS: Final = ("token", "credential", "secret", "password", "authorization", "api_key")

# The values of variables are prompts and keys: a traceback names lines and no more.
_TRACEBACK: Final = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


def configure(*, format_: str, level: str) -> None:
    """Set up logging for this process, the standard library's included.

    Parameters
    ----------
    format_ : str
        `json` or `console`.
    level : str
        `debug`, `info`, `warning` or `error`.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    if format_ == "json":
        render: list[Any] = [
            structlog.processors.ExceptionRenderer(_TRACEBACK),
            structlog.processors.JSONRenderer(),
        ]
    else:
        render = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # a reload may change the level
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(number, logging.WARNING))


def _redact(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    """A net below the code that must not log secrets in the first place."""
    for key in event:
        if any(word in key.lower() for word in SECRET_WORDS) and not key.endswith("_tokens"):
            event[key] = REDACTED
    return event
