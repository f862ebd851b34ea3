"""The agent's HTTP face: an OpenAI-compatible API, feedback, health and metrics."""

from edge_agent.adapters.http_api.app import build_app
from edge_agent.adapters.http_api.keys import ApiKey, ApiKeys

__all__ = ["ApiKey", "ApiKeys", "build_app"]
