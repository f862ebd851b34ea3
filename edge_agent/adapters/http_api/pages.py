"""Everything that is answered at once."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge_agent.adapters.http_api.bodies import read_chat, read_json
from edge_agent.adapters.http_api.errors import json_response
from edge_agent.adapters.http_api.gate import api_key
from edge_agent.adapters.metrics import AgentMetrics
from edge_agent.openai_request import parse_grade
from edge_agent.requests import (
    MODEL_AUTO,
    AgentFacade,
    ListedModel,
    RequestRefused,
    RouteDecision,
    TaskOrigin,
    TaskSource,
)
from shared.decision.money import dollars
from shared.version import SOFTWARE_VERSION


class Pages:
    """Models, grades, decisions, health and metrics."""

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
        key = api_key(request.scope)
        new = await self._facade.feedback(
            request_id=grade.request_id,
            score=grade.score,
            source=grade.source,
            key_tag=key.tag if key is not None else "",
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
        decision = self._facade.route(await read_chat(request.scope, request.receive))
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
        "tidegate": {
            "kind": model.kind,
            "available": model.available,
            "capabilities": sorted(model.capabilities),
        },
    }


def _origin_object(origin: TaskOrigin) -> dict[str, Any]:
    """How a class was found."""
    if origin.source is not TaskSource.CLASSIFIER:
        return {"source": origin.source}
    return {
        "source": origin.source,
        "likeliest": origin.likeliest,
        "confidence": round(origin.confidence, 4),
    }


def _decision_object(decision: RouteDecision) -> dict[str, Any]:
    """A decision as JSON; money as an exact decimal string."""
    return {
        "object": "tidegate.route",
        "task_class": decision.task_class,
        "task": _origin_object(decision.origin),
        "arm": decision.arm,
        "propensity_ppm": decision.propensity_ppm,
        "fallbacks": list(decision.fallbacks),
        "fallouts": [{"arm": each.arm, "reason": each.reason} for each in decision.fallouts],
        "reason": decision.reason,
        "table_version": decision.table_version,
        "worst_case_usd": dollars(decision.worst_case_nanos),
    }
