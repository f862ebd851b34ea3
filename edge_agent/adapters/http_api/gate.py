"""What every request passes: an id, the API key, and the end of every error."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_agent.adapters.http_api.errors import error_response, refused_from
from edge_agent.adapters.http_api.keys import ApiKey, ApiKeys
from edge_agent.refusals import internal_error
from edge_agent.requests import RequestRefused
from shared.clock import Clock, IdSource
from shared.errors import TidegateError
from shared.rows import quick_dataclass

_log = structlog.get_logger(__name__)
_STATE: Final = "tidegate"
_KEY: Final = "tidegate_key"
_GUARDED: Final = "/v1/"
_NAME_CHARS_SHOWN: Final = 100
_ID_HEADER: Final = b"x-tidegate-request-id"
_HOST: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")


@quick_dataclass(frozen=True)
class Arrival:
    """When a request came, its id, and its headers by their lower-case names."""

    request_id: str
    unix_ms: int
    monotonic_ms: float
    headers: Mapping[str, str]


def arrival(scope: Scope) -> Arrival:
    """What the gate noted of a request."""
    noted: Arrival = scope["state"][_STATE]
    return noted


def _headers_of(scope: Scope) -> dict[str, str]:
    """A request's headers; several with one name are one list (RFC 9110, 5.3).

    So a header that may say one thing only is refused when it comes twice, whatever it says.
    """
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def api_key(scope: Scope) -> ApiKey | None:
    """The key that a request has shown; None where none is asked for."""
    found: ApiKey | None = scope["state"].get(_KEY)
    return found


class Gate:
    """ASGI middleware: gives each request its id and turns what escapes into a reply."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        clock: Clock,
        ids: IdSource,
        api_keys: ApiKeys,
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._origins = origins
        self._clock = clock
        self._ids = ids
        self._api_keys = api_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        noted = Arrival(
            request_id=self._ids.new_id("req"),
            unix_ms=self._clock.unix_ms(),
            monotonic_ms=self._clock.monotonic_ms(),
            headers=_headers_of(scope),
        )
        scope.setdefault("state", {})[_STATE] = noted
        id_header = (_ID_HEADER, noted.request_id.encode())
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = message.get("headers", ())
                # An answer given again has the id under which it is in the books.
                if _ID_HEADER not in dict(headers):
                    message["headers"] = [*headers, id_header]
            await send(message)

        refused = await self._pass(scope, receive, send_with_id, noted=noted)
        if refused is not None and not started:
            await error_response(refused)(scope, receive, send_with_id)

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, *, noted: Arrival
    ) -> RequestRefused | None:
        """Let the request through; what it ends with if it is refused."""
        request_id = noted.request_id
        try:
            if not self._api_keys.required:
                _refuse_strange_host(noted.headers.get("host", ""), allowed=self._origins)
            if scope["path"].startswith(_GUARDED):
                key = scope["state"][_KEY] = self._api_keys.check(noted.headers)
                if key is None and scope["method"] == "POST":
                    _refuse_strange_page(noted.headers.get("origin", ""), allowed=self._origins)
            await self._app(scope, receive, send)
        except ClientDisconnect:
            _log.info("client_gone_while_sending", request_id=request_id)
        except TidegateError as error:
            return self._refused(error, request_id)
        except Exception as error:  # noqa: BLE001 - the last stop: the client gets a 500
            return self._defect(error, request_id)
        return None

    def _refused(self, error: TidegateError, request_id: str) -> RequestRefused:
        """The refusal that an error on purpose stands for."""
        try:
            return refused_from(error)
        except TidegateError as unexpected:
            return self._defect(unexpected, request_id)

    def _defect(self, error: Exception, request_id: str) -> RequestRefused:
        """The refusal for what should not have happened; the log gets the traceback."""
        log_defect(error, request_id)
        return internal_error(request_id)


def _refuse_strange_host(host: str, *, allowed: Collection[str]) -> None:
    """Where no key is asked for, answer to no name that somebody's DNS server may have given.

    The browser takes a page whose name is made to lead to this device for the agent's own: it
    needs no leave of CORS, and a GET does not even tell its origin.
    """
    if not host or _is_nobodys_name(host) or "*" in allowed:
        return
    name = host.lower()
    if f"http://{name}" not in allowed and f"https://{name}" not in allowed:
        shown = name[:_NAME_CHARS_SHOWN]
        raise RequestRefused(
            403,
            "host_not_allowed",
            f"an agent without API keys does not answer to {shown!r}, as any page may have that "
            f"name: say localhost or the address, or add 'http://{shown}' to cors_origins in the "
            "agent's configuration",
            param="host",
        )


@lru_cache(maxsize=64)
def _is_nobodys_name(host: str) -> bool:
    """Whether it is an address or localhost, which no DNS server has a say in."""
    parts = _HOST.fullmatch(host)
    if parts is None:
        return False
    name = parts[1].strip("[]").lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse_strange_page(origin: str, *, allowed: Collection[str]) -> None:
    """Where no key is asked for, keep out what a page of another origin sends.

    A second fence: a POST tells its origin whatever the page was made to take for its host.
    """
    of_a_page = origin.startswith(("http://", "https://")) or origin == "null"
    if of_a_page and origin not in allowed and "*" not in allowed:
        raise RequestRefused(
            403,
            "origin_not_allowed",
            f"pages of {origin[:_NAME_CHARS_SHOWN]!r} may not call this agent: add the origin to "
            "cors_origins in the agent's configuration",
            param="origin",
        )


def log_defect(error: Exception, request_id: str, **facts: Any) -> None:
    """Write a defect with its traceback into the log."""
    _log.error("request_failed", request_id=request_id, exc_info=error, **facts)
