"""Errors as OpenAI clients know them: one envelope for everything that can go wrong."""

from __future__ import annotations

from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from edge_agent.adapters.sse import as_json
from edge_agent.requests import RequestRefused
from shared.errors import ConflictError, NotFoundError, StoreError, TidegateError

BUDGET_EXCEEDED: Final = "budget_exceeded"
RETRY_AFTER_DEFAULT_S: Final = 1

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_type(status: int, code: str) -> str:
    """The `type` of an OpenAI error with that status."""
    if code == BUDGET_EXCEEDED:
        return "insufficient_quota"
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_object(refused: RequestRefused) -> dict[str, Any]:
    """OpenAI's error envelope, with each arm that was no candidate under `tidegate`."""
    error: dict[str, Any] = {
        "message": str(refused),
        "type": error_type(refused.status, refused.code),
        "param": refused.param,
        "code": refused.code,
    }
    if refused.fallouts:
        arms = [{"arm": each.arm, "reason": each.reason} for each in refused.fallouts]
        error["tidegate"] = {"arms": arms}
    return {"error": error}


def error_response(refused: RequestRefused) -> Response:
    """The reply to a refused request."""
    headers = {}
    retry_after_s = refused.retry_after_s
    if retry_after_s is None and refused.status == 503:
        retry_after_s = RETRY_AFTER_DEFAULT_S
    if retry_after_s is not None:
        headers["retry-after"] = str(max(0, retry_after_s))
    if refused.code == BUDGET_EXCEEDED:
        # OpenAI's clients repeat every 429 at once unless they are told that it is no use.
        headers["x-should-retry"] = "false"
    if refused.reason:
        headers["x-tidegate-reason"] = header_safe(refused.reason)
    return json_response(error_object(refused), status=refused.status, headers=headers)


def json_response(
    content: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON reply."""
    body = as_json(content)
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def header_safe(value: str) -> str:
    """Text as it may stand in a header's value."""
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in value)


def refused_from(error: TidegateError) -> RequestRefused:
    """An error on purpose, as the client gets to see it."""
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, NotFoundError):
        return RequestRefused(404, error.code, str(error))
    if isinstance(error, ConflictError):
        return RequestRefused(409, error.code, str(error))
    if isinstance(error, StoreError):
        return RequestRefused(503, error.code, str(error))
    raise error


def refused_from_http(error: HTTPException, *, method: str, path: str) -> RequestRefused:
    """What the router refuses: an unknown address or method."""
    if error.status_code == 404:
        message = (
            f"there is nothing at {method} {path}: the API is at /v1/chat/completions, "
            "/v1/completions, /v1/embeddings, /v1/models, /v1/feedback and /v1/route"
        )
        return RequestRefused(404, "unknown_url", message)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{method} is not allowed at {path}: use {allowed}"
        return RequestRefused(405, "method_not_allowed", message)
    return RequestRefused(error.status_code, "http_error", error.detail)
