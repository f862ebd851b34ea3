"""The coordinator's small HTTP face: metrics, liveness and readiness."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

READY = "ready"


def build_web(registry: CollectorRegistry, *, phase: Callable[[], str]) -> Starlette:
    """The application behind `web_listen`.

    Parameters
    ----------
    phase : callable
        What the coordinator is doing, in a word; it is ready only in the phase `READY`.
    """

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def alive(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def ready(request: Request) -> Response:
        now = phase()
        return PlainTextResponse(now, status_code=200 if now == READY else 503)

    routes = [Route("/metrics", metrics), Route("/livez", alive), Route("/readyz", ready)]
    return Starlette(routes=routes)
