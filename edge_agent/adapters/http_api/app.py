"""The routes of the agent's HTTP face."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent.adapters.http_api.answers import Chat, Completions, Embeddings, InFlight
from edge_agent.adapters.http_api.delivery import HEADERS_OUT
from edge_agent.adapters.http_api.errors import error_response, refused_from_http
from edge_agent.adapters.http_api.gate import Gate
from edge_agent.adapters.http_api.keys import ApiKey, ApiKeys
from edge_agent.adapters.http_api.pages import Pages
from edge_agent.adapters.metrics import AgentMetrics
from edge_agent.requests import AgentFacade
from shared.clock import Clock, IdSource

_GET: Final = ["GET"]
_POST: Final = ["POST"]
CORS_MAX_AGE_S: Final = 600


def build_app(
    facade: AgentFacade,
    *,
    clock: Clock,
    ids: IdSource,
    metrics: AgentMetrics,
    api_keys: ApiKeys | Iterable[ApiKey] = (),
    cors_origins: Sequence[str] = (),
) -> ASGIApp:
    """The agent's HTTP face as an ASGI application.

    Parameters
    ----------
    facade : AgentFacade
        Answers; the application itself decides nothing.
    api_keys : ApiKeys or iterable of ApiKey
        Keys of which a client of `/v1` has to show one; none means that everybody may ask.
        Health and metrics, which hold no prompts, need no key.
    cors_origins : sequence of str
        Origins whose pages may call the agent from a browser, such as `https://app.example`;
        `*` stands for all of them. Without keys the agent answers to no other name.
    """
    keys = api_keys if isinstance(api_keys, ApiKeys) else ApiKeys(api_keys)
    in_flight, pages = InFlight(), Pages(facade, metrics)
    answers: dict[str, ASGIApp] = {
        "/v1/chat/completions": Chat(facade, in_flight),
        "/v1/completions": Completions(facade, in_flight),
        "/v1/embeddings": Embeddings(facade, in_flight),
    }
    router = Router(
        routes=[
            *(Route(path, endpoint, methods=_POST) for path, endpoint in answers.items()),
            Route("/v1/models", pages.models, methods=_GET),
            Route("/v1/models/{model_id:path}", pages.model, methods=_GET),
            Route("/v1/feedback", pages.feedback, methods=_POST),
            Route("/v1/route", pages.route, methods=_POST),
            Route("/health", pages.health, methods=_GET),
            Route("/livez", pages.livez, methods=_GET),
            Route("/readyz", pages.readyz, methods=_GET),
            Route("/metrics", pages.metrics, methods=_GET),
        ],
        redirect_slashes=False,
    )
    routes = _Routes(router, answers=answers)
    gate = Gate(routes, clock=clock, ids=ids, api_keys=keys, origins=cors_origins)
    return _with_cors(gate, origins=cors_origins) if cors_origins else gate


class _Routes:
    """Leads to an endpoint; to those that nearly all requests go to, past the search for a route.

    Stands for Starlette's application, whose layers each of these requests would pass twice.
    """

    def __init__(self, router: Router, *, answers: Mapping[str, ASGIApp]) -> None:
        self._router = ExceptionMiddleware(router, handlers={HTTPException: _http_error})
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._answers.get(scope.get("path", ""))
        if found is None or scope.get("method") != "POST":
            found = self._router
            scope["app"] = self  # so that the router raises what it refuses
        await found(scope, receive, send)


def _with_cors(app: ASGIApp, *, origins: Sequence[str]) -> ASGIApp:
    """Answers a browser's question whether a page of another origin may call the agent.

    It stands before the gate: a browser asks without a key, and refusals need its headers too.
    """
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=list(HEADERS_OUT),
        max_age=CORS_MAX_AGE_S,
    )


async def _http_error(request: Request, error: Exception) -> Response:
    """An unknown address or method, in the envelope."""
    if not isinstance(error, HTTPException):
        raise error
    refused = refused_from_http(error, method=request.method, path=request.url.path)
    response = error_response(refused)
    response.headers.update(error.headers or {})
    return response
