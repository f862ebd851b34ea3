"""What each table of the file means to a running agent when it changes."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.adapters.coordinator_link import CoordinatorLink
from edge_agent.adapters.http_api import ApiKeys
from edge_agent.adapters.metrics import AgentMetrics
from edge_agent.adapters.reloadable_models import ReloadableModels
from edge_agent.adapters.reloader import Apply, Reloader
from edge_agent.cli.parts import (
    api_keys_of,
    fallback_config,
    key_budgets_of,
    new_worker,
    tried_classifier,
)
from edge_agent.config import AgentConfig
from edge_agent.engine import AgentEngine
from edge_agent.service import AgentService
from shared import logs
from shared.clock import Clock


def make_reloader(
    settings: AgentConfig,
    *,
    read: Callable[[], AgentConfig],
    engine: AgentEngine,
    service: AgentService,
    local: ReloadableModels,
    api_keys: ApiKeys,
    metrics: AgentMetrics,
    link: CoordinatorLink | None,
    clock: Clock,
) -> Reloader:
    """Tie the parts of an agent to the tables of its file."""

    def log_part(wanted: AgentConfig) -> Apply:
        async def apply() -> None:
            logs.configure(format_=wanted.log.format, level=wanted.log.level)

        return apply

    def keys_part(wanted: AgentConfig) -> Apply:
        keys, budgets = api_keys_of(wanted), key_budgets_of(wanted)

        async def apply() -> None:
            engine.gate.limit_keys(budgets)
            metrics.set_tags(key.tag for key in keys)
            await service.tidy_if_possible()  # new budgets open before they are asked for
            api_keys.replace(keys)

        return apply

    def limits_part(wanted: AgentConfig) -> Apply:
        async def apply() -> None:
            service.watch.set_limits(wanted.limits.to_limits())

        return apply

    def classifier_part(wanted: AgentConfig) -> Apply:
        classifier = tried_classifier(wanted)

        async def apply() -> None:
            await service.use_classifier(classifier)

        return apply

    def models_part(wanted: AgentConfig) -> Apply:
        worker = new_worker(wanted, clock=clock)

        async def apply() -> None:
            await local.exchange(worker, grace_s=wanted.drain.total_seconds())
            engine.alone_with(fallback_config(wanted))
            await service.follow_table()
            if link is not None:
                link.reconnect()  # its hello names the local arms and their speeds

        return apply

    return Reloader(
        settings,
        read=read,
        parts={
            "log": log_part,
            "keys": keys_part,
            "limits": limits_part,
            "classifier": classifier_part,
            "library models": models_part,
        },
        anew=["keys", "classifier"],
    )
