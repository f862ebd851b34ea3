"""The routes of the agent's HTTP face."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_agent.adapters.http_api.bodies import read_json
from edge_agent.adapters.http_api.delivery import client_watch, head_headers, send_stream
from edge_agent.adapters.http_api.errors import error_response, json_response, refused_from_http
from edge_agent.adapters.http_api.gate import Gate, api_key, arrival
from edge_agent.adapters.http_api.keys import ApiKey, ApiKeys
from edge_agent.adapters.metrics import AgentMetrics
from edge_agent.openai_request import parse_grade, parse_request
from edge_agent.requests import (
    MODEL_AUTO,
    AgentFacade,
    ClientRequest,
    ListedModel,
    RequestRefused,
    RouteDecision,
)
from shared.clock import Clock, IdSource
from shared.decision.money import dollars
from shared.limits import REQUESTS_IN_FLIGHT_MAX
from shared.version import SOFTWARE_VERSION

_GET: Final = ["GET"]
_POST: Final = ["POST"]


def build_app(
    facade: AgentFacade,
    *,
    clock: Clock,
    ids: IdSource,
    metrics: AgentMetrics,
    api_keys: Iterable[ApiKey] = (),
) -> ASGIApp:
    """The agent's HTTP face as an ASGI application.

    Parameters
    ----------
    facade : AgentFacade
        Answers; the application itself decides nothing.
    api_keys : iterable of ApiKey
        Keys of which a client of `/v1` has to show one; none means that everybody may ask.
        Health and metrics, which hold no prompts, need no key.
    """
    pages = _Pages(facade, metrics)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", _Chat(facade, metrics), methods=_POST),
            Route("/v1/models", pages.models, methods=_GET),
            Route("/v1/models/{model_id:path}", pages.model, methods=_GET),
            Route("/v1/feedback", pages.feedback, methods=_POST),
            Route("/v1/route", pages.route, methods=_POST),
            Route("/health", pages.health, methods=_GET),
            Route("/livez", pages.livez, methods=_GET),
            Route("/readyz", pages.readyz, methods=_GET),
            Route("/metrics", pages.metrics, methods=_GET),
        ],
        middleware=[Middleware(Gate, clock=clock, ids=ids, api_keys=ApiKeys(api_keys))],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """An unknown address or method, in the envelope."""
    if not isinstance(error, HTTPException):
        raise error
    refused = refused_from_http(error, method=request.method, path=request.url.path)
    response = error_response(refused)
    response.headers.update(error.headers or {})
    return response


async def _client_request(scope: Scope, receive: Receive) -> ClientRequest:
    """Read and check a chat request."""
    noted, key = arrival(scope), api_key(scope)
    request = parse_request(
        await read_json(scope, receive),
        headers=Headers(scope=scope),
        request_id=noted.request_id,
        arrived_unix_ms=noted.unix_ms,
        arrived_monotonic_ms=noted.monotonic_ms,
    )
    return request if key is None else key.asked(request)


class _Chat:
    """`POST /v1/chat/completions`, as an ASGI application for the sake of its streams."""

    def __init__(self, facade: AgentFacade, metrics: AgentMetrics) -> None:
        self._facade = facade
        self._metrics = metrics
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._in_flight >= REQUESTS_IN_FLIGHT_MAX:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "overloaded",
                f"{REQUESTS_IN_FLIGHT_MAX} requests are in flight, the most that an agent takes",
                retry_after_s=1,
            )
        self._in_flight += 1
        self._metrics.set_requests_in_flight(self._in_flight)
        try:
            await self._answer(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._metrics.set_requests_in_flight(self._in_flight)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whole or in chunks."""
        request = await _client_request(scope, receive)
        async with client_watch(receive) as gone:
            answer = await self._facade.chat(request, gone)
            if request.stream:
                await send_stream(answer, send=send, gone=gone)
                return
            headers = head_headers(answer.head)
            headers["x-tidegate-cost-usd"] = dollars(answer.cost_nanos)
            await json_response(answer.response, headers=headers)(scope, receive, send)


class _Pages:
    """Everything that is answered at once."""

    def __init__(self, facade: AgentFacade, metrics: AgentMetrics) -> None:
        self._facade = facade
        self._metrics = metrics

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: `auto` and the real arms."""
        del request
        data = [_model_object(model) for model in self._listed()]
        return json_response({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        model_id = request.path_params["model_id"]
        for model in self._listed():
            if model.id == model_id:
                return json_response(_model_object(model))
        known = ", ".join(model.id for model in self._listed())
        raise RequestRefused(
            404,
            "model_not_found",
            f"there is no model {model_id!r}; there are {known}",
            param="model",
        )

    def _listed(self) -> list[ListedModel]:
        """`auto`, which is available as long as any arm is, and the arms."""
        arms = list(self._facade.models())
        available = any(model.available for model in arms)
        return [ListedModel(id=MODEL_AUTO, kind=MODEL_AUTO, available=available), *arms]

    async def feedback(self, request: Request) -> Response:
        """`POST /v1/feedback`: a grade for an earlier answer."""
        grade = parse_grade(await read_json(request.scope, request.receive))
        new = await self._facade.feedback(
            request_id=grade.request_id, score=grade.score, source=grade.source
        )
        return json_response(
            {
                "object": "tidegate.feedback",
                "request_id": grade.request_id,
                "score": grade.score,
                "recorded": "now" if new else "before",
            }
        )

    async def route(self, request: Request) -> Response:
        """`POST /v1/route`: the decision without the call."""
        decision = self._facade.route(await _client_request(request.scope, request.receive))
        return json_response(_decision_object(decision))

    async def health(self, request: Request) -> Response:
        """`GET /health`: a summary for people, 200 also when something is wrong."""
        del request
        readiness = self._facade.readiness()
        able = "degraded" if readiness.problems else "ok"
        return json_response(
            {
                "status": able if readiness.ready else "unavailable",
                "ready": readiness.ready,
                "problems": list(readiness.problems),
                "version": SOFTWARE_VERSION,
                "details": dict(readiness.details),
            }
        )

    async def livez(self, request: Request) -> Response:
        """`GET /livez`: the process answers."""
        del request
        return json_response({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: 503 while no request could be answered."""
        del request
        readiness = self._facade.readiness()
        return json_response(
            {"ready": readiness.ready, "problems": list(readiness.problems)},
            status=200 if readiness.ready else 503,
        )

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`, for Prometheus."""
        del request
        content, content_type = self._metrics.render()
        return Response(content, headers={"content-type": content_type})


def _model_object(model: ListedModel) -> dict[str, Any]:
    """A model as OpenAI lists it."""
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "tidegate",
        "tidegate": {"kind": model.kind, "available": model.available},
    }


def _decision_object(decision: RouteDecision) -> dict[str, Any]:
    """A decision as JSON; money as an exact decimal string."""
    return {
        "object": "tidegate.route",
        "task_class": decision.task_class,
        "arm": decision.arm,
        "propensity_ppm": decision.propensity_ppm,
        "fallbacks": list(decision.fallbacks),
        "fallouts": [{"arm": each.arm, "reason": each.reason} for each in decision.fallouts],
        "reason": decision.reason,
        "table_version": decision.table_version,
        "worst_case_usd": dollars(decision.worst_case_nanos),
    }
