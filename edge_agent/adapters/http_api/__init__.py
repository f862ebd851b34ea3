"""The agent's HTTP face: an OpenAI-compatible API, feedback, health and metrics."""

from edge_agent.adapters.http_api.app import build_app

__all__ = ["build_app"]
