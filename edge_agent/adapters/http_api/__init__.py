"""The agent's HTTP face: an OpenAI-compatible API, feedback, health and metrics."""

from edge_agent.adapters.http_api.app import build_app
from edge_agent.adapters.http_api.keys import ApiKey

__all__ = ["ApiKey", "build_app"]
