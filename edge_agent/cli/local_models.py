"""The models of a configuration as the worker takes them."""

from __future__ import annotations

from edge_agent.config import AgentConfig
from edge_agent.ports import LocalModel


def local_models(settings: AgentConfig) -> list[LocalModel]:
    """Every configured model with the place of its file."""
    fields = [model.model_dump(exclude={"source", "sha256"}) for model in settings.placed_models]
    return [LocalModel(**given) for given in fields]
