"""A configuration as the parts of the agent take it."""

from __future__ import annotations

from pathlib import Path

from edge_agent.adapters.coordinator_link import LinkTarget
from edge_agent.config import AgentConfig
from edge_agent.ports import LocalModel
from shared.settings import read_secret


def local_models(settings: AgentConfig) -> list[LocalModel]:
    """Every configured model with the place of its file."""
    fields = [model.model_dump(exclude={"source", "sha256"}) for model in settings.placed_models]
    return [LocalModel(**given) for given in fields]


def link_target(settings: AgentConfig) -> LinkTarget:
    """Where the coordinator is, and how this device joins."""
    link = settings.coordinator
    return LinkTarget(
        address=str(link.address),
        plaintext=link.plaintext,
        ca_file=Path(link.ca_file) if link.ca_file else None,
        device_name=settings.name,
        device_class=link.device_class,
        join_token=lambda: read_secret(link.join_token, key="coordinator.join_token"),
    )
